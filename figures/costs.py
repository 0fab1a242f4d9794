"""How the costs of a run's steps grow with the data: fits, and a figure of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from figures import style

MEASURED: Final = ("step", "n", "times", "processor_seconds", "memory_bytes", "disk_bytes")
_EXPONENTS: Final = np.arange(0, 3.0001, 0.005)
_MARKERS: Final = "os^Dv<>"
_GREYED: Final = 0.35  # opacity of single measurements
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """A fit of ``cost = fixed + slope * n ** order``, and the exponent that fits best.

    Attributes:
        fixed: cost of no data at all, >= 0.
        slope: cost of each ``n ** order``, >= 0.
        order: the exponent that the method has: 1, or 2 where all are compared with all.
        exponent: the one that fits best, in [0, 3], with a fixed cost of its own.
        low: end of the exponent's 95% interval.
        high: its other end; an interval from 0 to 3 says that the data do not tell.
        worst: largest deviation of a size's median cost from the fit, as a share of the fit.
    """

    fixed: float
    slope: float
    order: int
    exponent: float
    low: float
    high: float
    worst: float

    def at(self, n: float | Array) -> float | Array:
        """The cost that the fit gives n."""
        return self.fixed + self.slope * n**self.order


def fit_growth(n: ArrayLike, cost: ArrayLike, order: int) -> Growth:
    """Fit how a cost grows.

    Both fits minimise relative deviations, with a fixed cost and a slope of at least 0. The
    exponent's interval holds those at which the sum of squares is not larger than by chance (F test
    against the best exponent).

    Args:
        n: amounts of data, at least 3 different ones, above 0; several measurements of one are
            given as often.
        cost: of each, above 0.
        order: the exponent that the method has.

    Raises: ValueError when there are fewer than 4 measurements or 3 amounts, or numbers are not
    above 0.

    Source: Bates and Watts 1988, 6.1 (profile of the sum of squares).
    """
    amounts, costs = (np.asarray(one, np.float64) for one in (n, cost))
    if amounts.shape != costs.shape or len(costs) < 4 or len(np.unique(amounts)) < 3:
        raise ValueError(
            f"{len(amounts)} amounts and {len(costs)} costs; give at least 4 of each, and 3 "
            "different amounts"
        )
    if not all(np.isfinite(one).all() and (one > 0).all() for one in (amounts, costs)):
        raise ValueError("amounts and costs must be numbers above 0")
    scale = float(amounts.max())
    (fixed, slope), _ = _fit(amounts / scale, costs, float(order))
    squares = np.array([_fit(amounts / scale, costs, float(one))[1] for one in _EXPONENTS])
    free = len(costs) - 3
    limit = squares.min() * (1 + stats.f.ppf(0.95, 1, free) / free)
    within = _EXPONENTS[squares <= limit]
    medians = pd.Series(costs).groupby(amounts).median()
    fitted = fixed + slope * (medians.index.to_numpy() / scale) ** order
    return Growth(
        fixed=fixed,
        slope=slope / scale**order,
        order=order,
        exponent=float(_EXPONENTS[squares.argmin()]),
        low=float(within.min()),
        high=float(within.max()),
        worst=float(np.abs(medians.to_numpy() / fitted - 1).max()),
    )


def cost_curves(measured: pd.DataFrame, growths: dict[str, Growth]) -> Figure:
    """Draw each step's processor time with its fit, the deviations from it, and memory and disk.

    Args:
        measured: a row a measurement, with the columns of `MEASURED`: `times` is n in multiples of
            the step's smallest amount.
        growths: step -> fit of its processor seconds over n; the steps' order is the legend's.

    Raises: ValueError when a column is missing or a step has no fit.
    """
    if missing := [name for name in MEASURED if name not in measured]:
        raise ValueError(f"the measurements have no column {', '.join(missing)}")
    if set(measured["step"]) != set(growths):
        raise ValueError(
            f"the measurements are of {sorted(set(measured['step']))}, the fits of "
            f"{sorted(growths)}; give a fit for each step"
        )
    palette = sns.color_palette("colorblind", len(growths)).as_hex()
    with style.theme():
        figure, (time, off, size) = style.new_figure(3, 2.9, legend_rows=3)
        off.axhline(0, color=style.INK, lw=0.6)
        for place, (step, growth) in enumerate(growths.items()):
            rows = measured[measured["step"] == step]
            look: dict[str, Any] = {
                "color": palette[place],
                "marker": _MARKERS[place % len(_MARKERS)],
            }
            _draw_time(time, off, rows, growth, look, label=step)
            largest = rows.groupby("times")[["memory_bytes", "disk_bytes"]].max() / 1e6
            for column, line in (("memory_bytes", "-"), ("disk_bytes", ":")):
                if (largest[column] > 0).any():
                    size.plot(largest[column], ls=line, lw=1, ms=3, **look)
        for axes in (time, off, size):
            axes.set_xscale("log", base=2)
            axes.set_xticks(times := sorted(measured["times"].unique()))
            axes.set_xticklabels([f"{one:g}" for one in times])
            axes.minorticks_off()
            axes.set_xlabel("Times the data")
        time.set(yscale="log", ylabel="Processor seconds", title="Time, and the fit")
        off.set(ylabel="Measured against the fit (%)", title="Each round, and the median")
        size.set(yscale="log", ylabel="MB", title="Peak memory; dotted: disk")
        style.shared_legend(figure, time.get_legend_handles_labels()[0], columns=3)
    return figure


def _fit(n: Array, cost: Array, exponent: float) -> tuple[tuple[float, float], float]:
    """Fixed cost and slope, at least 0, with the least squared relative deviations; their sum."""
    design = np.column_stack([np.ones_like(n), n**exponent]) / cost[:, None]
    (fixed, slope), norm = optimize.nnls(design, np.ones_like(n))
    return (float(fixed), float(slope)), float(norm**2)


def _draw_time(
    time: Axes, off: Axes, rows: pd.DataFrame, growth: Growth, look: dict[str, Any], label: str
) -> None:
    smallest = float((rows["n"] / rows["times"]).iloc[0])
    grid = np.geomspace(rows["times"].min(), rows["times"].max(), 50)
    time.plot(grid, growth.at(grid * smallest), color=look["color"], lw=1)
    seconds = rows["processor_seconds"]
    time.plot(rows["times"], seconds, ls="", ms=3, alpha=_GREYED, **look)
    time.plot(np.nan, np.nan, ls="-", ms=3.5, label=label, **look)
    share = 100 * (seconds / growth.at(rows["n"].to_numpy(np.float64)) - 1)
    off.plot(rows["times"], share, ls="", ms=2.5, alpha=_GREYED, **look)
    off.plot(share.groupby(rows["times"]).median(), lw=1, ms=3.5, **look)
