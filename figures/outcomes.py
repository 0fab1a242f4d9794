"""The one way from stored outcomes to arrays: ranks of the same items, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from fitclip_kit.store.results import AVERAGE, COORDINATES, MODELS, require_columns

# What says how a student was trained, and which it is.
_STUDENT: Final = ("draw", "sampling", "labelled_clips", "labelled_share")


@dataclass(frozen=True)
class Ranks:
    """Ranks of one data set's items in one direction, at each point of what was varied.

    Attributes:
        items: names of the items, in the arrays' order.
        points: the value, or tuple of values, of what was varied -> ranks `[draws, items]`,
            float64, 1-based mid-ranks. Points ascend.
        draws: the same points -> their draws, ascending. The teacher has none, and one row.
        varied: the names of what was varied.
        where: the data set and direction.
    """

    items: pd.Index
    points: dict[Any, np.ndarray]
    draws: dict[Any, list[int]]
    varied: str
    where: str

    def at(self, point: Any) -> np.ndarray:
        """Ranks `[draws, items]` at a point; shares are compared to 9 decimals.

        Raises: ValueError naming the points there are when this one was not measured.
        """
        return self.points[self.known(point)]

    def known(self, point: Any) -> Any:
        """The key in `points` of a point that may differ by rounding; errors as `at`."""
        for known in self.points:
            if _same(known, point):
                return known
        there = ", ".join(map(_point, self.points))
        raise ValueError(
            f"{self.varied} {_point(point)} was not measured on {self.where}; there are: {there}"
        )

    def same_draws(self) -> list[int]:
        """The draws that all points have, but for the teacher's.

        Raises: ValueError naming a point that differs from the first.
        """
        return same_draws(self.draws, f"{self.where}: {self.varied}")


def ranks_of(
    outcomes: pd.DataFrame, data_set: str, direction: str, by: str | Sequence[str] = "alpha"
) -> Ranks:
    """Outcomes as arrays: ranks `[draws, items]` of one data set and direction.

    Args:
        outcomes: of `ResultsStore.outcomes`, chosen so that the cells differ in `by`, the draw
            and, where they are the teacher's, in what follows from that; see `sweep_rows`.
        data_set: which data set.
        direction: which direction.
        by: the coordinate, or coordinates, that the cells vary in.

    Returns:
        The ranks at each point of `by`, with the same items in the same order at all of them.

    Raises:
        ValueError: there is no such outcome, cells differ in another coordinate, an item repeats,
            or the cells do not cover the same items.
    """
    names = [by] if isinstance(by, str) else list(by)
    require_columns(outcomes, (*COORDINATES, "item", "direction", "rank"), "outcomes")
    chosen = outcomes[(outcomes["data_set"] == data_set) & (outcomes["direction"] == direction)]
    where = f"outcomes of {data_set}, {direction}"
    if chosen.empty:
        present = outcomes[["data_set", "direction"]].drop_duplicates().astype(str)
        there = "; ".join(sorted(present.agg(", ".join, axis=1))) if len(present) else "nothing"
        raise ValueError(f"no {where}; there are: {there}")
    check_alike(chosen, [*names, "alpha"] if "alpha" not in names else names, where)
    by_cell = chosen.groupby([*names, "draw"], observed=True, dropna=False, sort=False)
    codes = by_cell.ngroup().to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    places = list(chosen[[*names, "draw"]].iloc[firsts].astype(object).itertuples(index=False))
    wide = (
        pd.DataFrame({"item": chosen["item"].astype(str), "place": codes, "rank": chosen["rank"]})
        .set_index(["item", "place"])
        .sort_index()["rank"]
    )
    if (repeated := wide.index.duplicated()).any():
        item, place = wide.index[repeated][0]
        raise ValueError(
            f"{where} have item {item!r} twice at {_told(names, places[place])}; give each cell "
            "once"
        )
    table = wide.unstack("place")
    if (missing := table.isna().to_numpy()).any():
        row, column = np.argwhere(missing)[0]
        raise ValueError(
            f"{where} do not cover the same items: {table.index[row]!r} has no rank at "
            f"{_told(names, places[column])}; measure all cells on the same clips"
        )
    order = sorted(range(len(places)), key=lambda place: tuple(map(_sortable, places[place])))
    draws: dict[Any, list[int]] = {}
    members: dict[Any, list[int]] = {}
    for place in order:
        *values, draw = places[place]
        point = _plain(values[0]) if isinstance(by, str) else tuple(map(_plain, values))
        members.setdefault(point, []).append(place)
        draws.setdefault(point, []).extend([] if pd.isna(draw) else [int(draw)])
    ranks = table.to_numpy(np.float64)
    points = {point: np.ascontiguousarray(ranks[:, rows]).T for point, rows in members.items()}
    return Ranks(table.index, points, draws, ", ".join(names), f"{data_set}, {direction}")


def sweep_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the plain sweep, of outcomes or metrics: the teacher and its average with
    students, one alpha for both towers, features as the paper's.

    Raises: ValueError when a coordinate is missing.
    """
    return variant_rows(table)


def variant_rows(
    table: pd.DataFrame, merge: str = AVERAGE, *, renormalise: bool = False
) -> pd.DataFrame:
    """The rows of one kind of merge with one alpha for both towers, of outcomes or metrics.

    merge: its name. renormalise: whether features are.

    Raises: ValueError when a coordinate is missing, or the table has no such rows and another kind
    than the plain sweep is asked for.
    """
    require_columns(table, COORDINATES, "the table")
    merged = (table["merge"] == merge) & table["model"].isin(MODELS) & table["text_alpha"].isna()
    chosen = table[merged & (table["renormalise"] == renormalise)]
    if chosen.empty and (merge, renormalise) != (AVERAGE, False):
        there = sorted(set(table["merge"].astype(str)))
        name = "renormalised features" if renormalise else f"the merge {merge!r}"
        raise ValueError(f"no rows of {name}; merges there are: {there or 'none'}")
    return chosen


def tower_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with an alpha for each tower: `alpha` is the vision tower's.

    Raises: ValueError when a coordinate is missing.
    """
    require_columns(table, COORDINATES, "the table")
    return table[table["text_alpha"].notna()]


def check_alike(table: pd.DataFrame, varied: Iterable[str], where: str) -> None:
    """Refuse students' rows that differ in other coordinates than `varied`, draw and data set.

    Raises: ValueError naming the coordinate and its values.
    """
    ignored = {*varied, "draw", "data_set", "model"}
    students = table[table["draw"].notna()]
    for name in COORDINATES:
        values = sorted(set(students[name].dropna().tolist())) if name not in ignored else []
        if len(values) > 1:
            what = "students trained in different ways" if name in _STUDENT else "different cells"
            raise ValueError(f"{where} mix {what}: {name} {values}; keep one")


def same_draws(draws: dict[Any, list[int]], what: str = "") -> list[int]:
    """The draws that all places have; one without draws is the teacher's and goes with any.

    Raises: ValueError naming a place that differs from the first.
    """
    trained = {place: found for place, found in draws.items() if found}
    places = iter(trained.items())
    first, expected = next(places, ("", []))
    for place, found in places:
        if found != expected:
            raise ValueError(
                f"{what} {_point(first)} have the draws {expected}, but {_point(place)} has "
                f"{found}; finish the sweep or study, or leave draws out".strip()
            )
    return expected


def _same(known: Any, point: Any) -> bool:
    if isinstance(known, tuple) and isinstance(point, tuple):
        return len(known) == len(point) and all(map(_same, known, point))
    if isinstance(known, str) or isinstance(point, str) or known is None or point is None:
        return bool(known == point)
    return math.isclose(known, point, abs_tol=1e-9)


def _plain(value: Any) -> Any:
    """None for what is missing, else a Python value."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _sortable(value: Any) -> tuple[bool, Any]:
    value = _plain(value)
    return value is not None, 0 if value is None else value


def _told(names: Sequence[str], values: Sequence[Any]) -> str:
    told = zip((*names, "draw"), map(_plain, values), strict=True)
    return ", ".join(f"{name} {_point(value)}" for name, value in told if value is not None)


def _point(point: Any) -> str:
    if isinstance(point, tuple):
        return ", ".join(map(_point, point))
    return f"{point:g}" if isinstance(point, float) else str(point)
