"""Figure 3 of the paper: accuracy over alpha, the student's weight, with draws and intervals."""

from __future__ import annotations

from typing import Any

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
    """The numbers of the alpha curve: one row per panel of the outcomes' data sets and alpha.

    Columns: panel, alpha, those of `hits.point_numbers` (at alpha 0 all draws share the teacher),
    draws, best (highest value of its panel in hindsight; of equal ones the smallest alpha).

    Raises: ValueError when the outcomes do not hold the panels' sweep.
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
    `comparisons`, where items are paired.

    Raises: ValueError when alpha is not in the sweep, or as `alpha_table`.
    """
    table, panels = alpha_table(outcomes), panels_in(outcomes)
    titles = style.lettered([panel.title for panel in panels])
    columns = 2 if len(panels) == 1 else 4
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.9, legend_rows=4 // columns)
        for title, panel, ax in zip(titles, panels, axes, strict=True):
            hits = PanelHits(outcomes, panel.measures)
            points = table[table["panel"] == panel.name]
            handles = _draw_curve(ax, points, hits)
            ax.legend(
                handles=_draw_marks(ax, points, hits.place(alpha)),
                title=title,
                alignment="left",
                borderpad=0,
                borderaxespad=0.2,
                handletextpad=0.3,
                handlelength=1.4,
                title_fontproperties={"weight": "bold", "size": "medium"},
                **style.ABOVE,
            )
            ax.set_ylabel(f"{measures_in_words(panel.measures)} (%)")
        style.shared_legend(figure, handles, columns)
    return figure


def _draw_curve(ax: Axes, points: pd.DataFrame, hits: PanelHits) -> list[Artist]:
    x, draws = points["alpha"].to_numpy(), len(hits.draws)
    value, ci_low, ci_high = (100 * points[name] for name in ("value", "ci_low", "ci_high"))
    look: dict[str, Any] = {"color": style.BAND, "linewidth": 0}
    band = ax.fill_between(x, ci_low, ci_high, **look, label=style.interval_label(draws))
    teacher = ax.axhline(value.iloc[0], **style.TEACHER, label="teacher's level")
    handles: list[Artist] = [band, teacher]
    if draws > 1:
        curves = 100 * np.stack([hits.draw_means(alpha) for alpha in hits.alphas])
        handles.append(ax.plot(x, curves, color=style.DRAW, linewidth=0.6, label="each draw")[0])
    look = {"color": style.LINE, "marker": ".", "markersize": 4}
    handles += ax.plot(x, value, **look, label=style.mean_label(draws))
    ax.margins(y=0.08)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0), min(high, 100 + 0.04 * (high - low)))  # room for a mark at 100%
    style.alpha_axis(ax)
    ax.xaxis.set_minor_locator(MultipleLocator(0.1))
    return handles[::-1]


def _draw_marks(ax: Axes, points: pd.DataFrame, chosen: int) -> list[Artist]:
    marks: list[Artist] = []
    for row, marker, size, face, name in (
        (points[points["best"]].iloc[0], "*", 8.5, "white", "best in hindsight"),
        (points.iloc[chosen], "o", 4.5, style.INK, "chosen beforehand"),
    ):
        marks += ax.plot(
            row["alpha"],
            100 * row["value"],
            marker=marker,
            markersize=size,
            linestyle="none",
            clip_on=False,
            zorder=3,
            markerfacecolor=face,
            markeredgecolor=style.INK,
            markeredgewidth=0.7,
            label=f"{name}: α = {row['alpha']:g}, {100 * row['value']:.1f}%",
        )
    return marks[::-1]
