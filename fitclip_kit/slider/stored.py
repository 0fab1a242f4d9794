"""The finished sweep, in memory: what the page shows at once, at any alpha."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from figures.measures import Measure
from figures.outcomes import Ranks, ranks_of, sweep_rows
from fitclip_core.statistics import mean_interval
from fitclip_kit.store.results import (
    CLASSIFICATION,
    OUTCOME_COLUMNS,
    SHARES,
    Cell,
    metric_table,
)

if TYPE_CHECKING:
    from fitclip_kit.slider.material import Material

Status = Literal["stored", "exact", "interpolated"]
CURVE_COLUMNS = ("value", "ci_low", "ci_high")
Ends = tuple[float, float, float]  # a value, ci_low and ci_high


@dataclass(frozen=True)
class Point:
    """A measure's value at one alpha and its 95% interval, fractions in [0, 1].

    status: "stored" (in the sweep), "exact" (measured just now) or "interpolated" (linear between
    the two stored neighbours: no measurement). The ends are NaN for a data set of one item.
    """

    value: float
    ci_low: float
    ci_high: float
    status: Status


class StoredSweep:
    """All cells of one sweep and the curves through them; nothing is read after it is made.

    Every interval is analytic, none resamples. One draw's is the binomial one of `metric_table`,
    over its items; that of the mean over several draws is `statistics.crossed_interval`, over items
    and draws. At alpha 0 all draws share the teacher, and the two are one.

    Args:
        outcomes: of `ResultsStore.outcomes`; other rows than the sweep's (`sweep_rows`) and other
            data sets and directions than the measures' are left out.
        measures: what is measured on each data set; gives their order.
        clips: number of clips that each data set asked for, for the coverage of its outcomes.

    Raises:
        ValueError: there is no measure, a data set's outcomes are missing or incomplete, students
            trained in different ways are mixed, the data sets' alphas or draws differ, or k is not
            one that the kit reports.
    """

    def __init__(
        self,
        outcomes: pd.DataFrame,
        measures: Mapping[str, Measure],
        clips: Mapping[str, int] | None = None,
    ) -> None:
        if not measures:
            raise ValueError("there is no measure; give one for each data set of the sweep")
        self.measures: dict[str, Measure] = dict(measures)
        chosen = _of_measures(sweep_rows(outcomes), self.measures)
        tables = {
            name: ranks_of(chosen, name, measure.direction)
            for name, measure in self.measures.items()
        }
        self.alphas, self.draws = _alphas_and_draws(tables)
        self._cells = _cells(chosen, clips or {})
        metrics = metric_table(chosen, n_resamples=1)  # of the shares, which resample nothing
        self._curves: dict[tuple[str, int | None], pd.DataFrame] = {}
        for name, measure in self.measures.items():
            points = _measured(metrics, measure)
            for draw in self.draws:
                by_draw = [points[alpha, self._stored(draw, alpha)] for alpha in self.alphas]
                self._curves[name, draw] = _curve(self.alphas, by_draw)
            mean = _mean_points(tables[name], measure.k, points)
            self._curves[name, None] = _curve(self.alphas, mean)

    @classmethod
    def read(cls, material: Material) -> Self:
        """The sweep of the material's data sets and students.

        Raises:
            ValueError: naming the cells that are missing or damaged, or as the class.
        """
        measures = {
            name: Measure(
                name,
                "text_to_video" if clip_set.task == "retrieval" else CLASSIFICATION,
                clip_set.measure_k,
            )
            for name, clip_set in material.sets.items()
        }
        results = material.run.results
        clips = {name: one.trial.coverage["clips"] for name, one in material.sets.items()}
        return cls(results.outcomes(material.keys), measures, clips)

    def curve(self, data_set: str, draw: int | None = None) -> pd.DataFrame:
        """A data set's measure over alpha.

        Args:
            data_set: one of `measures`.
            draw: one student, with intervals over its items; None: the mean over all draws, with
                intervals over items and draws.

        Returns:
            A row for each alpha, ascending: alpha, value, ci_low, ci_high, all fractions.

        Raises:
            ValueError: the data set or draw is not in the sweep.

        Source:
            Figure 3, for one data set.
        """
        self._check(data_set, draw)
        return self._curves[data_set, draw].copy()

    def outcomes(self, data_set: str, draw: int, alpha: float) -> pd.DataFrame | None:
        """One cell's outcomes in the measure's direction; None when this alpha is not stored.

        Returns:
            item, direction, rank, label, predicted, as `zero_shot.rank`, by item;
            `attrs["coverage"]["clips"]` is the number of clips asked for, where it is known. At
            alpha 0 the teacher's. It is the sweep's own table: copy it before you change it.

        Raises:
            ValueError: the data set or draw is not in the sweep, or alpha is outside [0, 1].
        """
        self._check(data_set, draw)
        _check_alpha(alpha)
        alpha = round(float(alpha), 9)  # as Cell keeps it
        return self._cells.get((data_set, alpha, self._stored(draw, alpha)))

    def at(self, data_set: str, draw: int | None, alpha: float) -> Point:
        """A data set's measure at any alpha, stored or linear between the stored neighbours.

        The ends of an interpolated interval are those of the neighbours, interpolated too.

        Args:
            data_set: one of `measures`.
            draw: one student; None: the mean over all draws.
            alpha: share of the student, between the smallest and largest stored one.

        Raises:
            ValueError: the data set or draw is not in the sweep, or alpha is beyond its ends.
        """
        self._check(data_set, draw)
        alpha = round(float(alpha), 9)
        first, last = self.alphas[0], self.alphas[-1]
        if not first <= alpha <= last:
            raise ValueError(f"alpha is {alpha}; the stored sweep runs from {first:g} to {last:g}")
        curve = self._curves[data_set, draw]
        value, low, high = (
            float(np.interp(alpha, self.alphas, curve[name])) for name in CURVE_COLUMNS
        )
        return Point(value, low, high, "stored" if alpha in self.alphas else "interpolated")

    def points(self, draw: int | None, alpha: float) -> dict[str, Point]:
        """`at` on every data set, in the order of `measures`."""
        return {name: self.at(name, draw, alpha) for name in self.measures}

    def _stored(self, draw: int, alpha: float) -> int | None:
        return None if alpha == 0 else draw

    def _check(self, data_set: str, draw: int | None) -> None:
        if data_set not in self.measures:
            raise ValueError(f"no data set {data_set!r} in the sweep; there: {[*self.measures]}")
        if draw is not None and draw not in self.draws:
            raise ValueError(f"no draw {draw!r} in the sweep; there: {self.draws}")


def share_point(outcomes: pd.DataFrame, measure: Measure, status: Status = "exact") -> Point:
    """A measure's value and 95% interval of outcomes that were measured just now.

    Args:
        outcomes: of one model on one data set, as `zero_shot.rank`; of other directions than the
            measure's nothing is taken.
        measure: its direction and k.
        status: how the point is marked.

    Raises:
        ValueError: no row is of the measure's direction, a rank is not finite, or the k is not one
            that the kit reports.
    """
    rows = of_direction(outcomes, measure.direction)
    # Any cell does: the table only groups by it.
    metrics = metric_table(rows.assign(**asdict(Cell(measure.data_set))), n_resamples=1)
    (ends,) = _measured(metrics, measure).values()
    return Point(*ends, status)


def of_direction(outcomes: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The outcomes in one direction.

    Raises: ValueError naming the directions there are when there is none in this one.
    """
    chosen = outcomes[outcomes["direction"] == direction]
    if chosen.empty:
        there = sorted(outcomes["direction"].astype(str).unique())
        raise ValueError(f"no outcomes of direction {direction!r}; there: {there or 'none'}")
    return chosen


def _of_measures(outcomes: pd.DataFrame, measures: Mapping[str, Measure]) -> pd.DataFrame:
    """Rows in each data set's direction; names as strings, as live outcomes have them."""
    wanted = pd.Series(False, outcomes.index)
    for name, one in measures.items():
        wanted |= (outcomes["data_set"] == name) & (outcomes["direction"] == one.direction)
    names = ("item", "direction", "label", "predicted")
    return outcomes[wanted].astype({name: "str" for name in names if name in outcomes})


def _alphas_and_draws(tables: Mapping[str, Ranks]) -> tuple[list[float], list[int]]:
    """What the data sets have in common, which must be all."""
    first_name, first = next(iter(tables.items()))
    for name, ranks in tables.items():
        if ranks.draws != first.draws:
            raise ValueError(
                f"{name} and {first_name} do not have the same alphas and draws: {ranks.draws} and "
                f"{first.draws}; finish the sweep or leave a data set out"
            )
    draws = first.same_draws()
    if not draws:
        raise ValueError("the sweep has no student, only the teacher; run notebook 04 with draws")
    return list(first.points), draws


def _cells(
    outcomes: pd.DataFrame, clips: Mapping[str, int]
) -> dict[tuple[Hashable, ...], pd.DataFrame]:
    """(data set, alpha, draw) -> the cell's outcomes."""
    cells: dict[tuple[Hashable, ...], pd.DataFrame] = {}
    by = ["data_set", "alpha", "draw"]
    for (name, alpha, draw), rows in outcomes.groupby(by, observed=True, dropna=False):
        cell = rows.reindex(columns=list(OUTCOME_COLUMNS)).reset_index(drop=True)
        if str(name) in clips:
            cell.attrs["coverage"] = {"clips": clips[str(name)]}
        cells[name, alpha, _draw(draw)] = cell
    return cells


def _draw(draw: Any) -> int | None:
    return None if pd.isna(draw) else int(draw)


def _measured(metrics: pd.DataFrame, measure: Measure) -> dict[tuple[float, int | None], Ends]:
    """A measure's value and ends at each (alpha, draw) of the metrics."""
    kind = "classification" if measure.direction == CLASSIFICATION else "retrieval"
    names = [name for name, k in SHARES[kind].items() if k == measure.k]
    if not names:
        known = sorted(SHARES[kind].values())
        raise ValueError(f"{measure.data_set}: k is {measure.k} for {kind}; give one of {known}")
    rows = metrics[(metrics["data_set"] == measure.data_set) & (metrics["metric"] == names[0])]
    columns = (rows[name].tolist() for name in ("alpha", "draw", *CURVE_COLUMNS))
    return {(alpha, _draw(draw)): tuple(ends) for alpha, draw, *ends in zip(*columns, strict=True)}


def _mean_points(
    ranks: Ranks, k: int, single: Mapping[tuple[float, int | None], Ends]
) -> list[Ends]:
    """Each alpha's mean over draws and its interval; where one draw stands, that draw's."""
    points = []
    for alpha, by_draw in ranks.points.items():
        if len(by_draw) == 1:
            points.append(single[alpha, next(iter(ranks.draws[alpha]), None)])
        else:
            found = mean_interval((by_draw <= k).astype(np.float64), within=(0, 1))
            points.append((found.estimate, found.low, found.high))
    return points


def _curve(alphas: Sequence[float], points: Sequence[Ends]) -> pd.DataFrame:
    curve = pd.DataFrame(points, columns=CURVE_COLUMNS)
    curve.insert(0, "alpha", list(alphas))
    return curve


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; the share of the student lies in [0, 1]")
