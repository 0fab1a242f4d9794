"""Hits of what a figure shows: whether each item's right target has rank <= k, draw by draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from figures.measures import Measure
from figures.outcomes import Ranks, ranks_of, same_draws, sweep_rows
from fitclip_core.statistics import mean_interval


class PanelHits:
    """Per-item hits (0 or 1) of a panel's data sets, at every alpha and draw of a sweep.

    Attributes: alphas, ascending; draws; items, those of each data set in the arrays' order;
    n_items, their number.

    Raises: ValueError when the sweep lacks alpha 0 or 1, or when its data sets and alphas do not
    have the same draws.
    """

    def __init__(self, outcomes: pd.DataFrame, measures: Sequence[Measure]) -> None:
        rows = sweep_rows(outcomes)
        ranks = [ranks_of(rows, one.data_set, one.direction) for one in measures]
        teacher: list[int | None] = [None]
        cells = [
            {(alpha, draw) for alpha, draws in one.draws.items() for draw in draws or teacher}
            for one in ranks
        ]
        for measure, of_set in zip(measures, cells, strict=True):
            if differing := sorted(cells[0] ^ of_set, key=str):
                raise ValueError(
                    f"{measure.data_set} and {measures[0].data_set} do not have the same (alpha, "
                    f"draw) cells: {differing[:5]} in one only; finish the sweep or leave them out"
                )
        self.alphas: list[float] = list(ranks[0].points)
        if not {0.0, 1.0} <= set(self.alphas):
            raise ValueError(
                f"the sweep needs the teacher (alpha 0) and the student (alpha 1); alphas there "
                f"are: {self.alphas}"
            )
        self.draws = ranks[0].same_draws()
        self.items: list[pd.Index] = [one.items for one in ranks]
        self.n_items = sum(map(len, self.items))
        self._hits = [
            [as_hits(one.points[alpha], of) for of, one in zip(measures, ranks, strict=True)]
            for alpha in self.alphas
        ]

    def at(self, alpha: float) -> list[np.ndarray]:
        """Hits at one alpha, one array [draws, items] per data set; errors as `place`."""
        return self._hits[self.place(alpha)]

    def place(self, alpha: float) -> int:
        """Where alpha stands in `alphas`. Raises: ValueError naming those that there are."""
        if (near := np.isclose(self.alphas, alpha, rtol=0, atol=1e-9)).any():
            return int(near.argmax())
        there = ", ".join(f"{known:g}" for known in self.alphas)
        raise ValueError(f"alpha {alpha:g} is not in the sweep; alphas there are: {there}")

    def draw_means(self, alpha: float) -> np.ndarray:
        """The measures' mean per draw, a fraction: [draws]; the teacher's repeats for each draw."""
        return np.broadcast_to(means_by_draw(self.at(alpha)), len(self.draws))

    def curves(self) -> list[np.ndarray]:
        """Each data set's hits, [draws, items, alphas]; the teacher's repeat for each draw."""
        return stacked(self._hits)


def sweep_ranks(
    outcomes: pd.DataFrame, data_set: str, direction: str, alphas: Sequence[float]
) -> Ranks:
    """The ranks of a sweep at these alphas alone, in their order.

    Raises: ValueError when an alpha was not measured, alphas above 0 do not have the same draws, or
    as `outcomes.ranks_of`.
    """
    ranks = ranks_of(sweep_rows(outcomes), data_set, direction)
    known = [ranks.known(alpha) for alpha in alphas]
    draws = {alpha: ranks.draws[alpha] for alpha in known}
    same_draws(draws, f"outcomes of {data_set}, {direction} at alpha")
    return replace(ranks, points={alpha: ranks.points[alpha] for alpha in known}, draws=draws)


@dataclass(frozen=True)
class StudyHits:
    """Hits of the teacher, [1, items], and of the model at one alpha at each point of a study.

    hits: point -> [draws, items], the same items in all; points ascend. draws: point -> draws.
    """

    teacher: np.ndarray
    hits: Mapping[Any, np.ndarray]
    draws: Mapping[Any, list[int]]


def study_hits(
    outcomes: pd.DataFrame, alpha: float, measure: Measure, by: str | Sequence[str]
) -> StudyHits:
    """Hits at each value of `by`, the coordinates of the students' training that a study varies.

    Raises: ValueError when alpha is not in (0, 1] or was not measured, the teacher is missing, or
    students differ in what the study does not vary.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}; give one above 0 (the teacher), up to 1")
    rows = sweep_rows(outcomes)
    chosen = rows[(rows["alpha"] == 0) | np.isclose(rows["alpha"], alpha, atol=1e-9)]
    ranks = ranks_of(chosen, measure.data_set, measure.direction, by)
    of_teacher = [point for point, draws in ranks.draws.items() if not draws]
    if not of_teacher or len(ranks.points) == 1:
        there = sorted(set(rows.loc[rows["data_set"] == measure.data_set, "alpha"]))
        raise ValueError(
            f"alpha {alpha if of_teacher else 0:g} was not measured on {measure.data_set}, "
            f"{measure.direction}; alphas there are: {', '.join(f'{one:g}' for one in there)}"
        )
    found = {point: as_hits(array, measure) for point, array in ranks.points.items()}
    teacher = found.pop(of_teacher[0])
    return StudyHits(teacher, found, {point: ranks.draws[point] for point in found})


def as_hits(ranks: np.ndarray, measure: Measure) -> np.ndarray:
    """1.0 where a rank is a hit, else 0.0."""
    return (ranks <= measure.k).astype(np.float64)


def means_by_draw(data_sets: Sequence[np.ndarray]) -> np.ndarray:
    """Each draw's mean over data sets that count equally, [draws, items] each: [draws]."""
    return np.mean([of_set.mean(axis=1) for of_set in data_sets], axis=0)


def stacked(points: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Points' hits of each data set, [draws, items] each, as [draws, items, points] a data set.

    One draw goes with any number.
    """
    return [np.stack(np.broadcast_arrays(*of_set), axis=-1) for of_set in zip(*points, strict=True)]


def point_numbers(data_sets: Sequence[np.ndarray]) -> dict[str, Any]:
    """A curve's numbers at one point: hits [draws, items] of data sets that count equally.

    value (mean over draws), ci_low, ci_high (95%, over items and draws; over items with one draw),
    n (items of all data sets), draws, draw_low, draw_high (the extreme draws); all fractions.
    """
    means, interval = means_by_draw(data_sets), mean_interval(data_sets, within=(0, 1))
    numbers = {"value": means.mean(), "ci_low": interval.low, "ci_high": interval.high}
    extremes = {"draw_low": means.min(), "draw_high": means.max()}
    return numbers | {"n": interval.n, "draws": len(means)} | extremes


def with_best(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The table with `best`: the highest value of each group in hindsight, of equal ones the first.

    Rounded, so that equal shares do not differ by the order of a sum.
    """
    best = table["value"].round(12).groupby(table[by]).idxmax()
    return table.assign(best=table.index.isin(best))
