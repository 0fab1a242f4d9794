"""A heat map of accuracy over an alpha for each tower: the vision one's and the text one's."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from seaborn.utils import relative_luminance

from figures import style

_AXES: Final = ["vision_alpha", "text_alpha"]
_DIGIT: Final = 0.64  # width of a digit, in units of the font's size
_SMALLEST: Final = 5.0  # pt; smaller numbers are left out


def tower_grid(table: pd.DataFrame, data_set: str | None = None) -> pd.DataFrame:
    """The map's numbers: a row per alpha of the vision tower, a column per alpha of the text tower.

    `table` has a row per vision_alpha, text_alpha, data_set and, where there are several draws,
    draw, with the fraction `value`. Of one data set, or the mean of all with equal weights; draws
    are averaged. Alphas are kept to 9 decimals, ascending.

    Raises: ValueError when a column or the data set is missing, a value is not in [0, 1], a cell is
    given twice, or the data sets and draws do not all have every cell.
    """
    missing = {*_AXES, "data_set", "value"} - set(table.columns)
    if missing:
        raise ValueError(f"the table has no column {sorted(missing)}; it has {list(table.columns)}")
    there = sorted(set(table["data_set"].astype(str)))
    if data_set is not None:
        table = table[table["data_set"] == data_set]
    if table.empty:
        raise ValueError(f"no values of {data_set or 'any data set'}; there are: {there}")
    wrong = ~table["value"].between(0, 1)
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} values are not in [0, 1], the first is "
            f"{table.loc[wrong, 'value'].iloc[0]}; give fractions"
        )
    by = ["data_set", *(["draw"] if "draw" in table else [])]
    rows = table.assign(**{axis: table[axis].astype(float).round(9) for axis in _AXES})
    rows["data_set"] = rows["data_set"].astype(str)
    if (twice := rows.duplicated([*by, *_AXES])).any():
        cell = rows.loc[twice, [*by, *_AXES]].iloc[0].to_dict()
        raise ValueError(f"the table holds {cell} twice; give each cell once")
    wide = rows.pivot(index=by, columns=_AXES, values="value")
    cells = pd.MultiIndex.from_product([sorted(rows[axis].unique()) for axis in _AXES], names=_AXES)
    wide = wide.reindex(columns=cells)
    if (holes := wide.isna()).to_numpy().any():
        row, column = np.argwhere(holes.to_numpy())[0]
        vision, text = wide.columns[column]
        raise ValueError(
            f"{wide.index[row]} has no value at vision alpha {vision:g}, text alpha {text:g}; "
            f"measure the whole grid ({holes.to_numpy().sum()} cells are missing)"
        )
    return wide.groupby(level="data_set").mean().mean().unstack("text_alpha")


def best_cell(grid: pd.DataFrame) -> tuple[float, float]:
    """(vision_alpha, text_alpha) of the highest value; of equal ones the smallest alphas."""
    row, column = _best_place(grid)
    return float(grid.index[row]), float(grid.columns[column])


def tower_map(grid: pd.DataFrame, measure: str) -> Figure:
    """Draw `tower_grid` as a heat map in percent, one column wide; darker is higher.

    Cells where both towers have the same alpha, which are those of the plain sweep, have a thin
    outline; the best one in hindsight has a thick one. `measure` names the values, say "Mean of R@5
    and top-1". Numbers are left out where the cells are too small for them.

    Raises: ValueError when the grid is empty.
    """
    if grid.empty:
        raise ValueError("the grid is empty; tower_grid makes one")
    row, column = _best_place(grid)
    with style.theme():
        figure, (ax,) = style.new_figure(1, height=3.1)
        numbers = (100 * grid).map(lambda value: f"{value:.1f}")
        size = _number_size(ax, numbers)
        sns.heatmap(
            100 * grid,
            ax=ax,
            cmap=sns.light_palette(style.LINE, as_cmap=True),
            annot=numbers if size >= _SMALLEST else False,
            fmt="",
            annot_kws={"fontsize": size},
            linewidths=0.3,
            linecolor="white",
            cbar_kws={"label": f"{measure} (%)", "fraction": 0.05, "pad": 0.03},
            xticklabels=[f"{alpha:g}" for alpha in grid.columns],
            yticklabels=[f"{alpha:g}" for alpha in grid.index],
        )
        ax.invert_yaxis()
        mesh = ax.collections[0]
        for part in figure.axes[-1].collections:  # the colour bar, as vectors without white lines
            part.set(rasterized=False, edgecolor="face")
        for number, colour in zip(ax.texts, mesh.get_facecolor(), strict=False):
            # At 0.2, dark and white letters stand out equally (WCAG 2's contrast).
            number.set_color("white" if relative_luminance(colour) < 0.2 else style.INK)
        same = [
            _outline(ax, place, other_place, 0.7)
            for place, one in enumerate(grid.index)
            for other_place, other in enumerate(grid.columns)
            if one == other
        ]
        best = _outline(ax, row, column, 1.8)
        best.set_label(
            f"best: vision {grid.index[row]:g}, text {grid.columns[column]:g}, "
            f"{100 * grid.to_numpy()[row, column]:.1f}%"
        )
        for outline in same[:1]:
            outline.set_label("the same α in both towers")
        ax.legend(
            handles=[best, *same[:1]],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
            borderpad=0,
            borderaxespad=0.3,
            handlelength=1,
            handleheight=0.8,
        )
        ax.set_xlabel("α of the text tower")
        ax.set_ylabel("α of the vision tower")
        ax.tick_params(axis="both", length=0, rotation=0)
    return figure


def _number_size(ax: Axes, numbers: pd.DataFrame) -> float:
    """The largest font, up to 7 pt, at which each number fits its cell."""
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    rows, columns = numbers.shape
    longest = max(map(len, np.ravel(numbers)))
    # The names and the colour bar, not laid out yet, will take a seventh of the width.
    across = 0.86 * 72 * box.width / columns / (longest * _DIGIT)
    return min(7.0, 0.9 * across, 0.7 * 72 * box.height / rows)


def _best_place(grid: pd.DataFrame) -> tuple[int, int]:
    """Row and column of the highest value, rounded so that equal shares are equal."""
    return divmod(int(np.argmax(grid.to_numpy().round(12))), grid.shape[1])


def _outline(ax: Axes, row: int, column: int, width: float) -> Rectangle:
    outline = Rectangle(
        (column, row), 1, 1, fill=False, edgecolor=style.INK, linewidth=width, clip_on=False
    )
    ax.add_patch(outline)
    return outline
