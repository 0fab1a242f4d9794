"""Outcomes made so that the answer is known: the only maker of the figures' tests."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from figures.measures import PANELS, SIZE_MEASURE, Measure
from fitclip_kit.store.results import Cell

SWEPT = tuple(measure for panel in PANELS for measure in panel.measures)
BY_NAME = {measure.data_set: measure for measure in SWEPT}
DRAWS = (1, 2, 3)
BOTH = {"independent": DRAWS, "nested": DRAWS}  # of subsets
TWO = (BY_NAME["msrvtt"], BY_NAME["mit"])
TRAINING: dict[str, Any] = {"labelled_clips": 20, "labelled_share": 0.9999}
TYPES: dict[str, Any] = {
    "draw": "Int64",
    "labelled_clips": "Int64",
    "labelled_share": float,
    "text_alpha": float,
}


def of(cell: Cell, ranks: Any, direction: str, labels: Any = "a", first: int = 0) -> pd.DataFrame:
    """Outcomes of one cell with these ranks [items]; items are numbered from `first`."""
    numbers = range(first, first + len(ranks))
    table = pd.DataFrame({"item": [f"clip{number:04d}" for number in numbers]})
    return table.assign(
        direction=direction, rank=np.asarray(ranks, float), label=labels, **vars(cell)
    )


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table.astype(object) for table in tables], ignore_index=True).astype(
        TYPES | {"rank": float, "alpha": float, "renormalise": bool}
    )


def sweep(
    ranks_of: Callable[[str, float, int | None], Any],
    *,
    measures: Sequence[Measure] = SWEPT,
    alphas: Sequence[float] = (0, 0.4, 1),
    draws: Sequence[int] = DRAWS,
    items: int = 40,
    labels: Any = "a",
    **cell: Any,
) -> pd.DataFrame:
    """Outcomes with ranks_of(data set, alpha, draw) -> [items]; the teacher's draw is None."""
    return together(
        of(
            Cell(measure.data_set, alpha=alpha, draw=draw, **(TRAINING | cell if alpha else {})),
            np.broadcast_to(ranks_of(measure.data_set, alpha, draw), items),
            measure.direction,
            labels,
        )
        for measure in measures
        for alpha in alphas
        for draw in (draws if alpha else (None,))
    )


def sizes(
    hits_of: Callable[..., Any],
    wanted: Sequence[int] = (10, 20, 40),
    draws: Mapping[str, Sequence[int]] = BOTH,
    alphas: Sequence[float] = (0.4, 1),
    items: int = 40,
    share: float = 1,
) -> pd.DataFrame:
    """Outcomes with hits_of(size, sampling, draw, alpha) -> [items]; size 0 is the teacher."""
    cells: list[tuple[Cell, Any]] = [(Cell("webvid_val"), hits_of(0, None, None, 0))]
    for alpha, size, sampling in itertools.product(alphas, wanted, draws):
        for draw in draws[sampling]:
            trained: dict[str, Any] = {
                "labelled_clips": size,
                "labelled_share": share,
                "draw": draw,
                "sampling": sampling,
            }
            cell = Cell("webvid_val", alpha=alpha, **trained)
            cells.append((cell, hits_of(size, sampling, draw, alpha)))
    return together(
        of(cell, as_ranks(np.broadcast_to(right, items), SIZE_MEASURE), "text_to_video")
        for cell, right in cells
    )


def shares(
    ranks_of: Callable[..., Any],
    wanted: Sequence[float] = (0, 1e-4),
    draws: Sequence[int] = (1, 2),
    measures: Sequence[Measure] = TWO,
    items: int = 40,
    clips: int = 9,
) -> pd.DataFrame:
    """Outcomes with ranks_of(data set, pseudo-label share or None of the teacher, draw)."""
    tables = []
    for measure in measures:
        given: list[tuple[Any, Any]] = [(None, None), *itertools.product(wanted, draws)]
        for share, draw in given:
            trained: dict[str, Any] = {}
            if share is not None:
                trained = {"alpha": 0.4, "draw": draw, "labelled_clips": clips}
                trained["labelled_share"] = 1 - share
            cell = Cell(measure.data_set, **trained)
            ranks = np.broadcast_to(ranks_of(measure.data_set, share, draw), items)
            tables.append(of(cell, ranks, measure.direction))
    return together(tables)


def swept_hits(hits_of: Callable[[str, float, int | None], Any], **options: Any) -> pd.DataFrame:
    """`sweep` with hits_of(...) -> [items] of whether each is a hit of the data set's measure."""

    def ranks_of(data_set: str, alpha: float, draw: int | None) -> np.ndarray:
        return as_ranks(hits_of(data_set, alpha, draw), BY_NAME[data_set])

    return sweep(ranks_of, **options)


def as_ranks(hits: Any, measure: Measure) -> np.ndarray:
    return np.where(hits, float(measure.k), measure.k + 0.5)


def first(count: int, items: int = 40) -> np.ndarray:
    """The first `count` of the items are hits."""
    return np.arange(items) < count


def noisy(items: int = 40, seed: int = 0) -> Callable[..., np.ndarray]:
    """Ranks from 1 to 10, at random."""
    rng = np.random.default_rng(seed)
    return lambda *_: rng.integers(1, 11, items).astype(float)


def ranks(outcomes: pd.DataFrame, draws: Sequence[int | None], **where: Any) -> np.ndarray:
    """[draws, items] of the rows where columns have these values, looked up one by one."""
    for name, value in where.items():
        column = outcomes[name]
        missing = value is None
        outcomes = outcomes[column.isna() if missing else (column == value).fillna(False)]
    numbers = [None if pd.isna(draw) else int(draw) for draw in outcomes["draw"]]
    keys = zip(numbers, outcomes["item"], strict=True)
    table = dict(zip(keys, outcomes["rank"], strict=True))
    items = sorted(set(outcomes["item"]))
    return np.array([[table[draw, item] for item in items] for draw in draws])


def hits(
    outcomes: pd.DataFrame, measure: Measure, draws: Sequence[int | None], **where: Any
) -> np.ndarray:
    """[draws, items] of a measure, 1.0 where the rank is a hit."""
    found = ranks(outcomes, draws, data_set=measure.data_set, direction=measure.direction, **where)
    return (found <= measure.k) * 1.0
