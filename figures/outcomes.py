"""The one way from stored outcomes to arrays: ranks of the same items, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
import pandas as pd

from fitclip_kit.store.results import AVERAGE, COORDINATES, MODELS, require_columns

# What says how a student was trained, and which it is.
_STUDENT: Final = ("draw", "sampling", "labelled_clips", "labelled_share")


@dataclass(frozen=True)
class Ranks:
    """Ranks of one data set's items in one direction, at each point of what was varied.

    items: their names, in the arrays' order. points: the value, or tuple of values, of what was
    varied (None first, then ascending) -> ranks `[draws, items]`, float64, 1-based mid-ranks.
    draws: the points -> their draws, ascending; the teacher has none, and one row of ranks.
    """

    items: pd.Index
    points: dict[Any, np.ndarray]
    draws: dict[Any, list[int]]
    varied: str
    where: str

    @property
    def arrays(self) -> list[np.ndarray]:
        return list(self.points.values())

    def at(self, point: Any) -> np.ndarray:
        """Ranks `[draws, items]` at a point; errors as `known`."""
        return self.points[self.known(point)]

    def known(self, point: Any) -> Any:
        """The key in `points` of a point that may differ by rounding, in the 9th decimal.

        Raises: ValueError naming the points there are when this one was not measured.
        """
        if found := [known for known in self.points if _same(known, point)]:
            return found[0]
        there = ", ".join(map(_point, self.points))
        raise ValueError(
            f"{self.varied} {_point(point)} was not measured on {self.where}; there are: {there}"
        )

    def same_draws(self) -> list[int]:
        """The draws of all points; errors as the function `same_draws`."""
        return same_draws(self.draws, f"{self.where}: {self.varied}")


def ranks_of(
    outcomes: pd.DataFrame, data_set: str, direction: str, by: str | Sequence[str] = "alpha"
) -> Ranks:
    """Outcomes of one data set and direction as arrays, the same items at all points of `by`.

    outcomes: of `ResultsStore.outcomes`, chosen so that the cells differ in `by`, the draw and,
    where they are the teacher's, in what follows from that; see `sweep_rows`. by: the coordinate,
    or coordinates, that the cells vary in.

    Raises: ValueError when there is no such outcome, cells differ in another coordinate, an item
    repeats, or the cells do not cover the same items.
    """
    names = [by] if isinstance(by, str) else list(by)
    require_columns(outcomes, (*COORDINATES, "item", "direction", "rank"), "outcomes")
    chosen = outcomes[(outcomes["data_set"] == data_set) & (outcomes["direction"] == direction)]
    where = f"outcomes of {data_set}, {direction}"
    if chosen.empty:
        present = outcomes[["data_set", "direction"]].drop_duplicates().astype(str)
        there = "; ".join(sorted(", ".join(row) for row in present.to_numpy())) or "nothing"
        raise ValueError(f"no {where}; there are: {there}")
    check_alike(chosen, {*names, "alpha"}, where)
    coordinates = chosen[[*names, "draw"]]
    codes = coordinates.groupby([*coordinates], observed=True, dropna=False, sort=False).ngroup()
    firsts = coordinates.iloc[np.unique(codes, return_index=True)[1]].astype(object)
    cells = list(firsts.where(firsts.notna(), None).itertuples(index=False, name=None))

    def told(cell: int) -> str:
        named = zip(coordinates, cells[cell], strict=True)
        return ", ".join(f"{name} {_point(value)}" for name, value in named if value is not None)

    wide = (
        pd.DataFrame({"item": chosen["item"].astype(str), "cell": codes, "rank": chosen["rank"]})
        .set_index(["item", "cell"])
        .sort_index()["rank"]
    )
    if (repeated := wide.index.duplicated()).any():
        item, cell = wide.index[repeated][0]
        raise ValueError(f"{where} have item {item!r} twice at {told(cell)}; give each cell once")
    table = wide.unstack("cell")
    if (missing := table.isna().to_numpy()).any():
        row, column = np.argwhere(missing)[0]
        raise ValueError(
            f"{where} do not cover the same items: {table.index[row]!r} has no rank at "
            f"{told(column)}; measure all cells on the same clips"
        )
    members: dict[Any, list[int]] = {}
    for cell in sorted(
        range(len(cells)), key=lambda cell: [(v is not None, v) for v in cells[cell]]
    ):
        *values, _ = cells[cell]
        members.setdefault(values[0] if isinstance(by, str) else tuple(values), []).append(cell)
    draws = {
        point: [cells[cell][-1] for cell in of_point if cells[cell][-1] is not None]
        for point, of_point in members.items()
    }
    ranks = table.to_numpy(np.float64)
    points = {point: np.ascontiguousarray(ranks[:, rows]).T for point, rows in members.items()}
    return Ranks(table.index, points, draws, ", ".join(names), f"{data_set}, {direction}")


def sweep_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the plain sweep, of outcomes or metrics: the teacher and its average with
    students, one alpha for both towers, features as the paper's. Errors as `variant_rows`."""
    return variant_rows(table)


def variant_rows(
    table: pd.DataFrame, merge: str = AVERAGE, *, renormalise: bool = False
) -> pd.DataFrame:
    """The rows of a kind of merge with one alpha for both towers, and features renormalised or not.

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
    """The rows with an alpha for each tower: `alpha` is the vision tower's."""
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
    (first, expected), *others = [place for place in draws.items() if place[1]] or [("", [])]
    for place, found in others:
        if found != expected:
            raise ValueError(
                f"{what} {_point(first)} have the draws {expected}, but {_point(place)} has "
                f"{found}; finish the sweep or study, or leave draws out".strip()
            )
    return expected


def _same(known: Any, point: Any) -> bool:
    if isinstance(known, tuple):
        return all(map(_same, known, point))
    if isinstance(known, Real) and isinstance(point, Real):
        return math.isclose(known, point, abs_tol=1e-9)
    return bool(known == point)


def _point(point: Any) -> str:
    if isinstance(point, tuple):
        return ", ".join(map(_point, point))
    return f"{point:g}" if isinstance(point, float) else str(point)
