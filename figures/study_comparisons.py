"""Whether students trained in one way beat those trained in another, on the same items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from figures.comparisons import decided, difference
from figures.hits import StudyHits
from figures.label_share import MEASURES, share_hits
from figures.measures import SIZE_MEASURE, Measure, measure_name
from figures.outcomes import same_draws
from figures.subset_size import subset_hits


def size_hits(study: StudyHits) -> dict[int, np.ndarray]:
    """Hits [draws, items] by number of labelled clips, 0 being the teacher.

    At one size, nested and independent subsets are samples of the same kind, so the draws of both
    are taken together.

    Raises: ValueError when the sizes do not have the same draws.
    """
    hits: dict[int, list[np.ndarray]] = defaultdict(list)
    draws: dict[int, list[Any]] = defaultdict(list)
    for (sampling, size), array in study.hits.items():
        hits[size].append(array)
        draws[size] += [(sampling, draw) for draw in study.draws[sampling, size]]
    same_draws(draws, "students of size")
    return {0: study.teacher} | {size: np.concatenate(hits[size]) for size in sorted(hits)}


def size_comparisons(
    outcomes: pd.DataFrame,
    reference: int,
    alpha: float = 0.4,
    *,
    measure: Measure = SIZE_MEASURE,
) -> pd.DataFrame:
    """Every subset size, 0 being the teacher, minus the reference size.

    reference: a size that was chosen without looking at these outcomes.

    Columns: scope (data set), measure, alpha, varied ("labelled clips"), value and versus (the two
    sizes), and those of `comparisons.difference` and `comparisons.decided`.

    Raises: ValueError when the reference was not measured, is the only size, or as `size_hits` and
    `subset_size.subset_hits`.
    Source: supplement, section 7 and figure 4, without a test there.
    """
    sizes = size_hits(subset_hits(outcomes, alpha, measure))
    if reference == 0 or reference not in sizes or len(sizes) < 3:
        there = ", ".join(f"{size:,}" for size in sizes if size)
        raise ValueError(
            f"sizes are compared with {reference:,}, and there are {there}; give one of them, and "
            "measure another"
        )
    where: dict[str, Any] = {"scope": measure.data_set, "measure": measure_name([measure])}
    where |= {"alpha": alpha, "varied": "labelled clips"}
    return decided(
        [
            where | {"value": size, "versus": reference} | difference([sizes[reference]], [hits])
            for size, hits in sizes.items()
            if size != reference
        ]
    )


def share_comparisons(
    outcomes: pd.DataFrame,
    share: float = 1e-4,
    alpha: float = 0.4,
    *,
    measures: Sequence[Measure] = MEASURES,
) -> pd.DataFrame:
    """Students with this share of the pseudo-label loss minus those trained on labels alone.

    A row for each data set, and one for their mean with equal weights where there are several.
    Columns: as `size_comparisons`; varied is "pseudo-label share", value the share and versus 0.

    Raises: ValueError when one of the two was not measured, or as `label_share.share_hits`.
    Source: supplement, section 8, figure 5 and table 6, without a test there.
    """
    scopes = share_hits(outcomes, alpha, measures)
    there = next(iter(scopes.values())).hits
    mixed = round(share, 9)
    if share == 0 or 0 not in there or mixed not in there:
        raise ValueError(
            f"shares 0 and {share:g} are compared, and there are "
            f"{', '.join(f'{one:g}' for one in there)}; give a share above 0 that was measured"
        )
    varied = {"alpha": alpha, "varied": "pseudo-label share", "value": share, "versus": 0.0}
    return decided(
        [
            {"scope": scope, "measure": measure_name(study.measures)}
            | varied
            | difference(study.hits[0], study.hits[mixed])
            for scope, study in scopes.items()
        ]
    )
