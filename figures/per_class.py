"""Figure 1 of the supplement: the classes that fusion helps and hurts most."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator

from figures import style
from figures.comparisons import LEVEL, off_zero
from figures.hits import sweep_ranks
from figures.inference import per_class_differences
from fitclip_kit.store.results import CLASSIFICATION

_COUNT: Final = 25  # classes in a panel
_ROW: Final = 0.128  # in; a class
_FEWEST: Final = 8  # rows that there is room for
_NAME: Final = 24  # letters of a class name that are shown
_NARROWEST: Final = 0.4  # of the wider panel
_EDGE: Final[dict[str, Any]] = {"edgecolor": style.LINE, "linewidth": 0.4}  # of a bar


def per_class_table(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, data_set: str = "mit", level: float = LEVEL
) -> pd.DataFrame:
    """Top-1 of the model at `alpha` minus the teacher's, class by class, the largest first.

    Columns: data_set, alpha, class, n (clips), difference (fraction, mean over draws; positive is
    in favour of the model at alpha), ci_low, ci_high, p_value, sign_flip_p, q_value (of
    `inference.per_class_differences`, over all classes of the data set), draws, level, verdict.
    Equal differences are in order of name.

    The verdict is "higher" or "lower" when q_value <= 1 - level, else "undecided": for new clips
    and, where there are several draws, for new students. A class of n clips cannot have p below
    2 / 2**n, so small classes stay undecided.

    Raises: ValueError when the data set, alpha or teacher was not measured, a clip has no label or
    two, or students trained in different ways are mixed.
    Source: supplement, section 2 and figure 1.
    """
    if alpha == 0:
        raise ValueError("alpha 0 is the teacher itself; give the alpha to compare with it")
    ranks = sweep_ranks(outcomes, data_set, CLASSIFICATION, [0.0, alpha])
    teacher, other = ((array <= 1).astype(np.float64) for array in ranks.arrays)
    labels = item_labels(outcomes, data_set).reindex(ranks.items)
    table = per_class_differences(teacher, other, labels.to_numpy(str), level=level)
    table = table.rename(columns={"low": "ci_low", "high": "ci_high"})
    table.insert(0, "data_set", data_set)
    table.insert(1, "alpha", float(alpha))
    verdicts = off_zero(table["ci_low"], table["ci_high"])
    verdicts = np.where(table["q_value"] <= 1 - level, verdicts, "undecided")
    table = table.assign(draws=len(other), level=level, verdict=verdicts)
    # Rounded, so that equal shares do not differ by the order of a sum.
    order = table.assign(difference=-table["difference"].round(12))
    return table.loc[order.sort_values(["difference", "class"]).index].reset_index(drop=True)


def item_labels(outcomes: pd.DataFrame, data_set: str) -> pd.Series:
    """The one label of each item of a recognition data set, by item.

    Raises: ValueError when an item has none or two.
    """
    rows = outcomes[(outcomes["data_set"] == data_set) & (outcomes["direction"] == CLASSIFICATION)]
    pairs = rows[["item", "label"]].drop_duplicates().astype({"item": str})
    if (without := pairs["label"].isna()).any():
        raise ValueError(f"item {pairs.loc[without, 'item'].iloc[0]!r} of {data_set} has no label")
    repeated = pairs[pairs["item"].duplicated()]
    if not repeated.empty:
        item = repeated["item"].iloc[0]
        labels = sorted(pairs.loc[pairs["item"] == item, "label"].astype(str))
        raise ValueError(
            f"item {item!r} of {data_set} has several labels: {labels}; measure all models again "
            "with the same annotations"
        )
    return pairs.set_index("item")["label"].astype(str)


def per_class(table: pd.DataFrame) -> Figure:
    """Draw figure 1 from `per_class_table`: the 25 largest and the 25 smallest differences.

    Two panels in order of the difference, an inch of bar being as much in both. With at most 50
    classes all are shown, the upper half on the left, each class once. Dark bars are the classes
    with a verdict; of a name, 24 letters are shown.
    """
    shown = min(_COUNT, math.ceil(len(table) / 2))
    upper, lower = table.iloc[:shown], table.iloc[max(shown, len(table) - _COUNT) :]
    parts = [part for part in (upper, lower) if len(part)]
    first = table.iloc[0]
    with style.theme():
        height = 1.05 + _ROW * max(shown, _FEWEST)
        figure, axes = style.new_figure(len(parts), height, legend_rows=1 if len(parts) > 1 else 3)
        limits = _limits(parts)
        widths = np.ptp(limits, axis=1)
        if grid := axes[0].get_gridspec():
            grid.set_width_ratios(widths)
        step = np.diff(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, widths.max()))[0]
        names = ("(a)", "largest"), ("(b)", "smallest")
        for (letter, name), part, ends, ax in zip(names, parts, limits, axes, strict=False):
            _draw_bars(ax, part)
            ax.set_ylim(shown - 0.4, -0.6)
            ax.set_xlim(*ends)
            ax.xaxis.set_major_locator(MultipleLocator(step))
            title = f"{letter} {first['data_set']}: {len(part)} {name}"
            ax.set_title(title, loc="left", weight="bold")
            against = f"α = {first['alpha']:g} minus the teacher"
            ax.set_xlabel(f"Difference in top-1 (points):\n{against}")
        axes[0].set_ylabel("Class (clips)")
        _draw_legend(figure, table)
    return figure


def _limits(parts: list[pd.DataFrame]) -> np.ndarray:
    """The panels' x ranges in points, 0 and every interval included, none much the narrower."""
    ends = []
    for part in parts:
        values = 100 * part[["difference", "ci_low", "ci_high"]].to_numpy(np.float64)
        ends.append((min(np.nanmin(values), 0.0), max(np.nanmax(values), 0.0)))
    widths = np.ptp(ends, axis=1)
    widest = max(widths.max(), 1.0)
    more = np.maximum(_NARROWEST * widest - widths, 0) / 2 + 0.04 * widest
    return np.array(ends) + more[:, None] * [-1, 1]


def _draw_bars(ax: Axes, part: pd.DataFrame) -> None:
    places = np.arange(len(part))
    gain, low, high = (100 * part[name].to_numpy() for name in ("difference", "ci_low", "ci_high"))
    colours = np.where(part["verdict"] != "undecided", style.LINE, style.BAND)
    ax.barh(places, gain, height=0.72, color=colours, **_EDGE)
    ax.hlines(places, low, high, color=style.INK, linewidth=0.7)
    ax.axvline(0, color=style.INK, linewidth=0.6)
    names = [
        f"{name if len(name) <= _NAME else name[: _NAME - 1] + '…'} ({n})"
        for name, n in zip(part["class"].astype(str), part["n"], strict=True)
    ]
    ax.set_yticks(places, names, fontsize=7, parse_math=False)
    ax.tick_params(axis="y", length=0, pad=2)
    ax.grid(axis="x", color=style.GRID, linewidth=0.4)
    ax.set_axisbelow(True)
    sns.despine(ax=ax, left=True)


def _draw_legend(figure: Figure, table: pd.DataFrame) -> None:
    level, draws = table["level"].iloc[0], table["draws"].iloc[0]
    settled = int((table["verdict"] != "undecided").sum())
    decided = f"q ≤ {1 - level:.2g} ({settled} of {len(table)} classes)"
    interval = style.interval_label(draws, level, "clips")
    handles = [
        Patch(facecolor=style.LINE, **_EDGE, label=decided),
        Patch(facecolor=style.BAND, **_EDGE, label="undecided"),
        Line2D([], [], color=style.INK, linewidth=0.7, label=interval),
    ]
    style.shared_legend(figure, handles, columns=3 if len(figure.axes) > 1 else 1)
