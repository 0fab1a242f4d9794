"""What is known of a fused model on each data set: stored, measured just now, or interpolated."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
from scipy.stats import binom

from figures.explorer_state import Point
from figures.measures import Measure
from figures.outcomes import ranks_of, sweep_rows
from fitclip_core.statistics import mean_interval
from fitclip_kit.store.results import OUTCOME_COLUMNS

if TYPE_CHECKING:
    from fitclip_kit.slider.material import Material
    from fitclip_kit.slider.merges import Fusion

KEPT: Final = 120  # tables of outcomes, about 0.2 MB each for 1,000 clips


class Sweep:
    """All cells of one sweep, the curves through them, and what was measured since.

    Intervals are analytic: one draw's is the binomial one of `metric_table`, over its items; that
    of the mean over draws is `statistics.crossed_interval`, over items and draws. At alpha 0 all
    draws share the teacher, and the two are one. Other rows of the outcomes play no part.

    Methods take well below a millisecond, read no files and may be called from any thread.

    Args:
        outcomes: as `ResultsStore.outcomes`.
        measures: by data set.
        clips: how many each data set asked for.

    Raises: ValueError when a data set's outcomes are missing or incomplete, students trained in
        different ways are mixed, or the data sets' alphas or draws differ.
    """

    def __init__(
        self,
        outcomes: pd.DataFrame,
        measures: Mapping[str, Measure],
        clips: Mapping[str, int] | None = None,
    ) -> None:
        self.measures: dict[str, Measure] = dict(measures)
        chosen = _of_measures(sweep_rows(outcomes), self.measures)
        self._cells = _cells(chosen, clips or {})
        self._lock = threading.Lock()
        self._measured: OrderedDict[tuple[Fusion, str], tuple[Point, pd.DataFrame]] = OrderedDict()
        self._curves: dict[tuple[str, int | None], pd.DataFrame] = {}
        every: dict[str, dict[float, list[int]]] = {}
        for name, measure in self.measures.items():
            ranks = ranks_of(chosen, name, measure.direction)
            every[name] = ranks.draws
            self.alphas, self.draws = list(ranks.points), ranks.same_draws()
            hits = [(by_draw <= measure.k).astype(np.float64) for by_draw in ranks.points.values()]
            shares: dict[int | None, list[tuple[float, float, float]]]
            shares = {None: [_mean(by_draw) for by_draw in hits]}
            for place, draw in enumerate(self.draws):
                own = [by_draw[place if len(by_draw) > 1 else 0] for by_draw in hits]
                shares[draw] = [_share(one) for one in own]
            for which, ends in shares.items():
                curve = pd.DataFrame(ends, columns=["value", "ci_low", "ci_high"])
                curve.insert(0, "alpha", self.alphas)
                self._curves[name, which] = curve
        first, *others = every
        for name in others:
            if every[name] != every[first]:
                raise ValueError(
                    f"{name} and {first} do not have the same alphas and draws: {every[name]} and "
                    f"{every[first]}; finish the sweep or leave a data set out"
                )
        if not self.draws:
            raise ValueError("the sweep has only the teacher; run notebook 04 with draws")

    @classmethod
    def read(cls, material: Material) -> Self:
        """The material's sweep. Raises: ValueError naming unusable cells, or as the class."""
        measures = {name: clip_set.measure for name, clip_set in material.sets.items()}
        clips = {name: one.trial.coverage["clips"] for name, one in material.sets.items()}
        return cls(material.run.results.outcomes(material.cells), measures, clips)

    def curve(self, data_set: str, draw: int | None) -> pd.DataFrame:
        """A data set's measure over alpha, of one student or (None) the mean over all: alpha
        (ascending), value, ci_low, ci_high, all fractions.

        Raises: ValueError for another data set or draw. Source: figure 3, for one data set.
        """
        if data_set not in self.measures:
            raise ValueError(f"no data set {data_set!r} in the sweep; there: {[*self.measures]}")
        if (data_set, draw) not in self._curves:
            raise ValueError(f"no draw {draw!r} in the sweep; there: {self.draws}")
        return self._curves[data_set, draw]

    def outcomes(self, fusion: Fusion, data_set: str) -> pd.DataFrame:
        """The outcomes of a fusion on a data set: item, direction, rank, label, predicted, as
        `zero_shot.rank`; stored ones are in the measure's direction only.

        Raises: ValueError when they are neither stored nor measured.
        """
        if fusion.is_plain and fusion.vision in self.alphas:
            return self._cells[data_set, fusion.vision, fusion.draw if fusion.vision else None]
        with self._lock:
            if (fusion, data_set) not in self._measured:
                raise ValueError(
                    f"{data_set} is not stored at {fusion.title}; measure it, or finish notebook 04"
                )
            return self._measured[fusion, data_set][1]

    def point(self, fusion: Fusion, data_set: str) -> Point | None:
        """A data set's measure: stored, exact, or with its interval linear between the stored
        neighbours; None for fusions that lie on no stored curve, until they are measured.

        Raises: ValueError as `curve`, or when alpha is beyond the stored ones.
        """
        with self._lock:
            measured = self._measured.get((fusion, data_set))
        if measured is not None:
            return measured[0]
        if not fusion.is_plain:
            return None
        curve, alpha = self.curve(data_set, fusion.draw), fusion.vision
        first, last = self.alphas[0], self.alphas[-1]
        if not first <= alpha <= last:
            raise ValueError(
                f"alpha is {alpha:g}; the stored sweep runs from {first:g} to {last:g}"
            )
        value, low, high = (
            float(np.interp(alpha, self.alphas, curve[name]))
            for name in ("value", "ci_low", "ci_high")
        )
        return Point(value, low, high, "stored" if alpha in self.alphas else "interpolated")

    def points(self, fusion: Fusion) -> dict[str, Point]:
        """`point` on every data set that has one, in the order of `measures`."""
        points = {name: self.point(fusion, name) for name in self.measures}
        return {name: point for name, point in points.items() if point is not None}

    def missing(self, fusion: Fusion, first: str) -> list[str]:
        """The data sets that are not measured at this fusion, `first` at the front."""
        known = {name for name, point in self.points(fusion).items() if not point.is_estimate}
        lacking = [name for name in self.measures if name not in known]
        return sorted(lacking, key=lambda name: name != first)

    def keep(self, fusion: Fusion, data_set: str, outcomes: pd.DataFrame) -> None:
        """Answer with these measured outcomes from now on."""
        point = share_point(outcomes, self.measures[data_set])
        with self._lock:
            self._measured[fusion, data_set] = point, outcomes
            if len(self._measured) > KEPT:
                self._measured.popitem(last=False)


def share_point(outcomes: pd.DataFrame, measure: Measure) -> Point:
    """The point of outcomes that were measured just now, in the measure's direction."""
    rows = of_direction(outcomes, measure.direction)
    return Point(*_share((rows["rank"] <= measure.k).to_numpy(np.float64)), "exact")


def of_direction(outcomes: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The outcomes in one direction.

    Raises: ValueError naming the directions there are when there is none in this one.
    """
    chosen = outcomes[outcomes["direction"] == direction]
    if chosen.empty:
        there = sorted(outcomes["direction"].astype(str).unique())
        raise ValueError(f"no outcomes of direction {direction!r}; there: {there or 'none'}")
    return chosen


def _share(hits: np.ndarray) -> tuple[float, float, float]:
    """The share of hits [items] and its binomial interval, as `metric_table`; of one item NaN."""
    n, share = len(hits), float(np.mean(hits))
    if n == 1:
        return share, np.nan, np.nan
    low, high = binom.ppf([0.025, 0.975], n, share) / n
    return share, float(low), float(high)


def _mean(hits: np.ndarray) -> tuple[float, float, float]:
    """The mean over draws of hits [draws, items], and its interval; of one draw, that draw's."""
    if len(hits) == 1:
        return _share(hits[0])
    interval = mean_interval(hits, within=(0, 1))
    return interval.estimate, interval.low, interval.high


def _of_measures(outcomes: pd.DataFrame, measures: Mapping[str, Measure]) -> pd.DataFrame:
    """Rows in each data set's direction; names as strings, as live outcomes have them."""
    wanted = pd.Series(False, outcomes.index)
    for name, measure in measures.items():
        wanted |= (outcomes["data_set"] == name) & (outcomes["direction"] == measure.direction)
    names = ("item", "direction", "label", "predicted")
    return outcomes[wanted].astype({name: "str" for name in names if name in outcomes})


def _cells(
    outcomes: pd.DataFrame, clips: Mapping[str, int]
) -> dict[tuple[str, float, int | None], pd.DataFrame]:
    """(data set, alpha, draw) -> the cell's outcomes."""
    cells = {}
    by = ["data_set", "alpha", "draw"]
    groups: Any = outcomes.groupby(by, observed=True, dropna=False)
    for (name, alpha, draw), rows in groups:
        cell = rows.reindex(columns=list(OUTCOME_COLUMNS)).reset_index(drop=True)
        if name in clips:
            cell.attrs["coverage"] = {"clips": clips[name]}
        cells[name, alpha, None if pd.isna(draw) else int(draw)] = cell
    return cells
