"""An alpha for each tower: a heat map over both, and whether they beat the same alpha in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from seaborn.utils import relative_luminance

from figures import style
from figures.comparisons import difference, in_points, off_zero
from figures.hits import as_hits
from figures.measures import Measure
from figures.outcomes import ranks_of, same_draws, tower_rows
from figures.whole_curve import halves

_CELL: Final = ["vision_alpha", "text_alpha"]
_DIGIT: Final = 0.64  # width of a digit, in units of the font's size
_SMALLEST: Final = 5.0  # pt; smaller numbers are left out


def tower_values(outcomes: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """The values of a tower map: data_set, draw, vision_alpha, text_alpha, value (fraction).

    Cells of the outcomes without a text_alpha are left out. Raises: ValueError as
    `tower_comparison`.
    """
    arrays, cells, draws = _tower_hits(outcomes, measures)
    rows = [
        (measure.data_set, draw, *cell, value)
        for measure, hits in zip(measures, arrays, strict=True)
        for draw, means in zip(draws, hits.mean(axis=1), strict=True)
        for cell, value in zip(cells, means, strict=True)
    ]
    return pd.DataFrame(rows, columns=["data_set", "draw", *_CELL, "value"])


def tower_grid(values: pd.DataFrame) -> pd.DataFrame:
    """The map's numbers, of `tower_values`: a row per alpha of the vision tower, a column per one
    of the text tower. Data sets count equally, draws are averaged."""
    means = values.groupby(["data_set", *_CELL])["value"].mean()
    return means.groupby(level=_CELL).mean().unstack("text_alpha")


def tower_map(grid: pd.DataFrame, measure: str) -> Figure:
    """Draw `tower_grid` as a heat map in percent, one column wide; darker is higher.

    Cells where both towers have the same alpha, which are those of the plain sweep, have a thin
    outline; the best one in hindsight has a thick one. `measure` names the values, say "Mean of R@5
    and top-1". Numbers are left out where the cells are too small for them.
    """
    # Rounded, so that equal shares do not differ by the order of a sum.
    row, column = divmod(int(np.argmax(grid.to_numpy().round(12))), grid.shape[1])
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
            for place, vision in enumerate(grid.index)
            for other_place, text in enumerate(grid.columns)
            if vision == text
        ][:1]
        best = _outline(ax, row, column, 1.8)
        best.set_label(
            f"best: vision {grid.index[row]:g}, text {grid.columns[column]:g}, "
            f"{100 * grid.to_numpy()[row, column]:.1f}%"
        )
        for outline in same:
            outline.set_label("the same α in both towers")
        ax.legend(
            handles=[best, *same],
            borderpad=0,
            borderaxespad=0.3,
            handlelength=1,
            handleheight=0.8,
            **style.ABOVE,
        )
        ax.set_xlabel("α of the text tower")
        ax.set_ylabel("α of the vision tower")
        ax.tick_params(axis="both", length=0, rotation=0)
    return figure


def tower_comparison(outcomes: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """Whether two alphas, one for each tower, beat the same alpha in both.

    Compared are the best cell off the map's diagonal and the best one on it, by the mean of the
    measures with equal weights. Chosen and compared on the same items, both are the best of many,
    and the off-diagonal one of more: that row has no test. In the second row they are chosen on a
    random half of each set's items and compared on the other half. Both halves have the same
    draws, whom the choice may suit.

    Columns: chosen_on, vision_alpha, text_alpha (the best pair of unequal alphas), same_alpha (the
    best of the equal ones), difference (pair minus same), ci_low, ci_high (fractions), p_value
    (NaN without test), n (items compared), draws, level, verdict ("higher", "lower", "undecided",
    or "no test").

    Raises: ValueError when there is no measure, the map was not measured whole, holds no equal or
    no unequal alphas, or a data set has one item.
    """
    arrays, cells, _ = _tower_hits(outcomes, measures)
    same = np.isclose(cells.get_level_values(0), cells.get_level_values(1), atol=1e-9)
    if same.all() or not same.any():
        raise ValueError(f"the map's cells are {list(cells)}; it needs equal and unequal alphas")
    firsts, seconds = map(list, zip(*map(halves, arrays), strict=True))
    rows = []
    for chosen_on, chosen, test in (
        ("the same items", arrays, arrays),
        ("half of the items", firsts, seconds),
    ):
        # Rounded, so that equal shares do not differ by the order of a sum.
        means = np.mean([hits.mean(axis=(0, 1)) for hits in chosen], axis=0).round(12)
        equal, pair = (np.flatnonzero(group)[means[group].argmax()] for group in (same, ~same))
        row = {"chosen_on": chosen_on} | dict(zip(_CELL, cells[pair], strict=True))
        row |= {"same_alpha": cells[equal][0]}
        row |= difference(*([hits[:, :, place] for hits in test] for place in (equal, pair)))
        # The p-value is of the interval's own t: it is small where the interval leaves out 0.
        row["verdict"] = str(off_zero(row["ci_low"], row["ci_high"]))
        rows.append(row | ({"p_value": np.nan, "verdict": "no test"} if test is chosen else {}))
    return pd.DataFrame(rows).drop(columns=["sign_flip_p", "draws_same_sign"])


def towers_in_words(table: pd.DataFrame) -> str:
    """What `tower_comparison` found, in Markdown: a sentence a row, and what the draws tell."""
    lines = []
    for row in table.to_dict("records"):
        test = f"p = {row['p_value']:.3f}: {row['verdict']}"
        if row["verdict"] == "no test":
            test = "both are the best of many on these items, so this is no test"
        lines.append(
            f"Chosen on {row['chosen_on']}: vision {row['vision_alpha']:g} and text "
            f"{row['text_alpha']:g} against {row['same_alpha']:g} in both, {in_points(row)} points "
            f"on {row['n']:,} items; {test}."
        )
    if table["draws"].iloc[0] > 1:
        lines.append("Both halves are of the same students, whom the choice may suit.")
    else:
        lines.append("With one draw, nothing is known of other students.")
    return " ".join(lines)


def _tower_hits(
    outcomes: pd.DataFrame, measures: Sequence[Measure]
) -> tuple[list[np.ndarray], pd.MultiIndex, list[int]]:
    """Each measure's hits, [draws, items, cells], the cells' two alphas, and the draws."""
    if not measures:
        raise ValueError("there is no measure; give at least one")
    rows, by = tower_rows(outcomes), ("alpha", "text_alpha")
    maps = {one: ranks_of(rows, one.data_set, one.direction, by) for one in measures}
    draws = {one.data_set: ranks.same_draws() for one, ranks in maps.items()}
    found = {cell for ranks in maps.values() for cell in ranks.points}
    alphas = [sorted(set(of_tower)) for of_tower in zip(*found, strict=True)]
    cells = pd.MultiIndex.from_product(alphas, names=_CELL)
    for measure, ranks in maps.items():
        if set(ranks.points) != set(cells):
            raise ValueError(f"the map of {measure.data_set} is not whole; measure all its cells")
    arrays = [
        np.stack([as_hits(ranks.points[cell], one) for cell in cells], axis=-1)
        for one, ranks in maps.items()
    ]
    return arrays, cells, same_draws(draws, "the maps of")


def _number_size(ax: Axes, numbers: pd.DataFrame) -> float:
    """The largest font, up to 7 pt, at which each number fits its cell."""
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    rows, columns = numbers.shape
    longest = max(map(len, np.ravel(numbers)))
    # The names and the colour bar, not laid out yet, will take a seventh of the width.
    across = 0.86 * 72 * box.width / columns / (longest * _DIGIT)
    return min(7.0, 0.9 * across, 0.7 * 72 * box.height / rows)


def _outline(ax: Axes, row: int, column: int, width: float) -> Rectangle:
    look: dict[str, Any] = {
        "fill": False,
        "edgecolor": style.INK,
        "linewidth": width,
        "clip_on": False,
    }
    outline = Rectangle((column, row), 1, 1, **look)
    ax.add_patch(outline)
    return outline
