"""Figure 3 of the paper: accuracy over alpha, the student's weight, with draws and intervals."""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from figures import style
from figures.hits import PanelHits, point_numbers, with_best
from figures.measures import measures_in_words, panels_in


def alpha_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the alpha curve: one row per panel and alpha, all fractions.

    The panels are those of the data sets in the outcomes (`measures.panels_in`).

    Columns: panel, alpha, value (mean over draws), ci_low, ci_high (over items and draws;
    over items only at alpha 0, where all draws share the teacher, and with one draw), n (items),
    draws, draw_low, draw_high (the extreme draws), best (highest value of its panel in hindsight;
    of equal ones the smallest alpha).

    Raises: ValueError when the outcomes do not hold the panels' sweep.
    Source: figure 3.
    """
    rows = []
    for panel in panels_in(outcomes):
        hits = PanelHits(outcomes, panel.measures)
        for alpha in hits.alphas:
            row = {"panel": panel.name, "alpha": alpha} | point_numbers(hits.at(alpha))
            rows.append(row | {"draws": len(hits.draws)})
    return with_best(pd.DataFrame(rows), "panel")


def alpha_curve(outcomes: pd.DataFrame, alpha: float = 0.4) -> Figure:
    """Draw figure 3: each panel's mean over draws, the draws, and the interval at each alpha.

    `alpha` is the value chosen beforehand (0.4 in the paper); it and the best one in hindsight are
    marked. The band is of 95% at each alpha; whether two alphas differ is answered by
    `comparisons`, where items are paired. One panel is one column wide, two are a page wide.

    Raises: ValueError when alpha is not in the sweep, or as `alpha_table`.
    Source: figure 3.
    """
    table, panels = alpha_table(outcomes), panels_in(outcomes)
    columns = 2 if len(panels) == 1 else 4
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.9, legend_rows=4 // columns)
        for letter, panel, ax in zip(ascii_lowercase, panels, axes, strict=False):
            hits = PanelHits(outcomes, panel.measures)
            points = table[table["panel"] == panel.name]
            handles = _draw_curve(ax, points, hits)
            ax.legend(
                handles=_draw_marks(ax, points, hits.place(alpha)),
                title=panel.title if len(panels) == 1 else f"({letter}) {panel.title}",
                alignment="left",
                loc="lower left",
                bbox_to_anchor=(0, 1),
                borderaxespad=0.2,
                borderpad=0,
                handletextpad=0.3,
                handlelength=1.4,
                frameon=False,
                title_fontproperties={"weight": "bold", "size": "medium"},
            )
            ax.set_ylabel(f"{measures_in_words(panel.measures)} (%)")
        style.shared_legend(figure, handles, columns)
    return figure


def _draw_curve(ax: Axes, points: pd.DataFrame, hits: PanelHits) -> list[Artist]:
    x = points["alpha"].to_numpy()
    percent = 100 * points[["value", "ci_low", "ci_high"]]
    several = len(hits.draws) > 1
    over = "items × draws" if several else "items"
    label = f"95% interval ({over})"
    ends = (percent["ci_low"], percent["ci_high"])
    band = ax.fill_between(x, *ends, color=style.BAND, linewidth=0, label=label)
    teacher = ax.axhline(percent["value"].iloc[0], **style.TEACHER, label="teacher's level")
    handles: list[Artist] = [band, teacher]
    if several:
        curves = 100 * np.stack([hits.draw_means(alpha) for alpha in hits.alphas])
        handles.append(ax.plot(x, curves, color=style.DRAW, linewidth=0.6, label="each draw")[0])
    label = f"mean of {len(hits.draws)} draws" if several else "the one draw"
    handles += ax.plot(x, percent["value"], color=style.LINE, marker=".", markersize=4, label=label)
    ax.margins(y=0.08)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0), min(high, 100 + 0.04 * (high - low)))  # room for a mark at 100%
    style.alpha_axis(ax)
    ax.xaxis.set_minor_locator(MultipleLocator(0.1))
    return handles[::-1]


def _draw_marks(ax: Axes, points: pd.DataFrame, chosen: int) -> list[Artist]:
    marks: list[Artist] = []
    for row, marker, size, name in (
        (points[points["best"]].iloc[0], "*", 8.5, "best in hindsight"),
        (points.iloc[chosen], "o", 4.5, "chosen beforehand"),
    ):
        marks += ax.plot(
            row["alpha"],
            100 * row["value"],
            marker=marker,
            markersize=size,
            linestyle="none",
            clip_on=False,
            zorder=3,
            markerfacecolor="white" if marker == "*" else style.INK,
            markeredgecolor=style.INK,
            markeredgewidth=0.7,
            label=f"{name}: α = {row['alpha']:g}, {100 * row['value']:.1f}%",
        )
    return marks[::-1]
