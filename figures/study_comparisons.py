"""Whether students trained in one way beat those trained in another, on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from figures.alpha_curve import Measure
from figures.comparisons import decided, difference
from figures.label_share import MEASURES, share_hits
from figures.subset_size import IN_DOMAIN_R1, check_same_draws, study_hits

SIZE: Final = "labelled clips"
SHARE: Final = "pseudo-label share"
MEAN: Final = "mean"


def size_comparisons(
    outcomes: pd.DataFrame,
    reference: int,
    alpha: float = 0.4,
    *,
    measure: Measure = IN_DOMAIN_R1,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every subset size, 0 being the teacher, minus the reference size.

    reference: a size that was chosen without looking at these outcomes.

    At one size, nested and independent subsets are samples of the same kind, so the draws of both
    are taken together. Columns: scope (data set), measure, alpha, varied ("labelled clips"), value
    and versus (the two sizes), and from difference to verdict those of
    `comparisons.fusion_comparisons`.

    Raises: ValueError when the reference was not measured, is the only size, or as
    `subset_size.subset_table`.
    Source: supplement, section 7 and figure 4, without a test there.
    """

    teacher, found = study_hits(outcomes, alpha, measure, "labelled_clips")
    check_same_draws({one: hits.columns for one, hits in found.items()}, "students of size")
    values = {0: _array(teacher)} | {int(one): _array(hits) for one, hits in found.items()}
    if reference == 0 or reference not in values or len(found) < 2:
        there = ", ".join(f"{one:,}" for one in found)
        raise ValueError(
            f"sizes are compared with {reference:,}, and there are {there}; give one of them, and "
            "measure another"
        )
    rows = [
        {"scope": measure.data_set, "measure": f"{measure.data_set} {measure.name}"}
        | {"alpha": alpha, "varied": SIZE, "value": one, "versus": reference}
        | difference([values[reference]], [hits], level, n_resamples, seed)
        for one, hits in values.items()
        if one != reference
    ]
    return decided(rows)


def share_comparisons(
    outcomes: pd.DataFrame,
    share: float = 1e-4,
    alpha: float = 0.4,
    *,
    measures: Sequence[Measure] = MEASURES,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Students with this share of the pseudo-label loss minus those trained on labels alone.

    A row for each data set, and one for their mean with equal weights where there are several.
    Columns: as `size_comparisons`; varied is "pseudo-label share", value the share and versus 0.

    Raises: ValueError when one of the two was not measured on each data set with the same draws, or
    as `label_share.share_table`.
    Source: supplement, section 8, figure 5 and table 6, without a test there.
    """

    pairs = {}
    for measure in measures:
        found = share_hits(outcomes, alpha, measure)[1]
        lacking = [one for one in (0.0, round(share, 9)) if one not in found]
        if lacking or share == 0:
            raise ValueError(
                f"shares 0 and {share:g} are compared on {measure.data_set}, where there are "
                f"{', '.join(f'{one:g}' for one in found)}; give a share above 0 that was measured"
            )
        pairs[measure] = (found[0.0], found[round(share, 9)])
    draws = {one.data_set: pair[0].columns for one, pair in pairs.items()}
    check_same_draws(
        draws | {f"{one.data_set}, {share:g}": pair[1].columns for one, pair in pairs.items()},
        "students measured on",
    )
    scopes = [(one.data_set, f"{one.data_set} {one.name}", [pair]) for one, pair in pairs.items()]
    if len(pairs) > 1:
        names = " and ".join(sorted({one.name for one in measures}))
        title = f"mean of {names} over {len(pairs)} data sets"
        scopes.append((MEAN, title, list(pairs.values())))
    rows = [
        {"scope": scope, "measure": title}
        | {"alpha": alpha, "varied": SHARE, "value": share, "versus": 0.0}
        | difference(
            [_array(alone) for alone, _ in both],
            [_array(mixed) for _, mixed in both],
            level,
            n_resamples,
            seed,
        )
        for scope, title, both in scopes
    ]
    return decided(rows)


def _array(hits: pd.DataFrame) -> np.ndarray:
    """[draws, items] of a table of items by draws."""
    return hits.to_numpy().T
