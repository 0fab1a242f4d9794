import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from figures import style
from figures.measures import Measure
from figures.tower_map import (
    tower_comparison,
    tower_grid,
    tower_map,
    tower_values,
    towers_in_words,
)
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell
from tests.figure_layout import texts_are_apart
from tests.figures.made import BY_NAME, TRAINING, hits, noisy, of, together

MEASURES = (BY_NAME["msrvtt"], BY_NAME["mit"])
ALPHAS = (0.0, 0.4, 1.0)


def towers(ranks_of, *, draws=(1,), items=30, vision=ALPHAS, text=ALPHAS):
    """Outcomes with ranks_of(data_set, vision, text, draw) -> [items]."""
    return together(
        of(
            Cell(measure.data_set, alpha=one, text_alpha=other, draw=draw, **TRAINING),
            np.broadcast_to(ranks_of(measure.data_set, one, other, draw), items),
            measure.direction,
        )
        for measure, one, other, draw in itertools.product(MEASURES, vision, text, draws)
    ).sample(frac=1, random_state=0)


def grid_of(vision, text):
    values = np.random.default_rng(0).random((len(vision), len(text)))
    return pd.DataFrame(values, pd.Index(vision), pd.Index(text))


@pytest.mark.parametrize("draws", [(1,), (3, 8)])
def test_values_and_grid_are_the_looked_up_shares(draws):
    outcomes = towers(noisy(30), draws=draws, text=(0.0, 0.2))
    values = tower_values(outcomes, MEASURES)
    assert len(values) == 2 * len(draws) * 6
    for row in values.to_dict("records"):
        where = {"alpha": row["vision_alpha"], "text_alpha": row["text_alpha"]}
        found = hits(outcomes, BY_NAME[row["data_set"]], [row["draw"]], **where)
        assert row["value"] == pytest.approx(found.mean())
    grid = tower_grid(values)
    assert (grid.index.name, grid.columns.name) == ("vision_alpha", "text_alpha")
    assert (list(grid.index), list(grid.columns)) == (list(ALPHAS), [0, 0.2])
    cell = values[(values["vision_alpha"] == 0.4) & (values["text_alpha"] == 0.2)]
    assert grid.to_numpy()[1, 1] == pytest.approx(cell["value"].mean())


@pytest.mark.parametrize("draws", [(1,), (3, 8)])
def test_the_comparison_is_the_slow_search(draws):
    outcomes = towers(noisy(30, 1), draws=draws, text=(0.0, 0.2, 1.0))
    table = tower_comparison(outcomes, MEASURES)
    order = np.random.default_rng(0).permutation(30)
    cells = {
        cell: [hits(outcomes, one, draws, alpha=cell[0], text_alpha=cell[1]) for one in MEASURES]
        for cell in itertools.product(ALPHAS, (0.0, 0.2, 1.0))
    }
    everything = np.arange(30)
    sides = ((everything, everything), (order[:15], order[15:]))
    for (chosen, test), row in zip(sides, table.to_dict("records"), strict=True):
        best: dict[bool, Any] = {}
        for cell, of_cell in cells.items():
            value = round(np.mean([one[:, chosen].mean() for one in of_cell]), 12)
            kind = cell[0] == cell[1]
            if kind not in best or value > best[kind][0]:
                best[kind] = (value, cell)
        pair, same = best[False][1], best[True][1]
        assert (row["vision_alpha"], row["text_alpha"], row["same_alpha"]) == (*pair, same[0])
        first, second = ([one[:, test] for one in cells[cell]] for cell in (same, pair))
        found = paired_difference(first, second)
        assert (row["difference"], row["ci_low"]) == pytest.approx((found.estimate, found.low))
        assert row["n"] == found.n and row["draws"] == len(draws)
    assert np.isnan(table["p_value"][0]) and table["verdict"][0] == "no test"
    assert table["p_value"][1] == pytest.approx(found.p_value)


@pytest.mark.parametrize(
    ("better", "verdict"), [((0.0, 1.0), "higher"), ((0.4, 0.4), "lower"), (None, "undecided")]
)
def test_verdicts_are_of_the_other_half(better, verdict):
    def ranks_of(data_set, vision, text, draw):
        return 1.0 if (vision, text) == better else 9.0

    table = tower_comparison(towers(ranks_of), MEASURES)
    assert table["verdict"].tolist() == ["no test", verdict]
    assert table["n"].tolist() == [60, 30]
    words = towers_in_words(table)
    assert f": {verdict}." in words and "this is no test" in words
    assert words.endswith("nothing is known of other students.")
    if better == (0.0, 1.0):
        assert "vision 0 and text 1 against 0 in both, +100.0 [" in words
    both = tower_comparison(towers(ranks_of, draws=(1, 2)), MEASURES)
    assert "other students" not in towers_in_words(both)


def test_maps_must_be_whole_and_have_equal_and_unequal_alphas():
    outcomes = towers(noisy(30))
    cell = (outcomes["alpha"] == 1) & (outcomes["text_alpha"] == 0.4)
    fewer = outcomes[(outcomes["data_set"] == "msrvtt") | (outcomes["alpha"] < 1)]
    more = towers(noisy(30), draws=(1, 2))
    other = together([outcomes, more[(more["data_set"] == "mit") & (more["draw"] == 2)]])
    diagonal, aside = (towers(noisy(30), vision=(0.0,), text=(alpha,)) for alpha in (0.0, 1.0))
    for table, measures, match in (
        (outcomes, [Measure("other", "text_to_video", 5)], "no outcomes of other, text_to_video"),
        (outcomes[~cell], MEASURES, "map of msrvtt is not whole"),
        (fewer, MEASURES, "map of mit is not whole"),
        (other, MEASURES, r"maps of msrvtt have the draws \[1\], but mit has \[1, 2\]"),
        (diagonal, MEASURES, "equal and unequal"),
        (aside, MEASURES, "equal and unequal"),
        (outcomes, [], "no measure"),
        (towers(noisy(1), items=1), MEASURES, "one item"),
    ):
        with pytest.raises(ValueError, match=match):
            tower_comparison(table, measures)


def test_the_map_is_the_grid():
    grid = grid_of((0, 0.5, 1), (0, 0.25, 0.5, 1))
    ax, bar = tower_map(grid, "R@5").axes
    mesh = np.asarray(ax.collections[0].get_array())
    np.testing.assert_allclose(mesh.ravel(), 100 * grid.to_numpy().ravel())
    letters = [text.get_color() for text in ax.texts]
    lightest, darkest = (place(grid.to_numpy()) for place in (np.argmin, np.argmax))
    assert (letters[lightest], letters[darkest]) == (style.INK, "white")
    numbers = [text.get_text() for text in ax.texts]
    assert numbers == [f"{100 * value:.1f}" for value in grid.to_numpy().ravel()]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.25", "0.5", "1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.5", "1"]
    low, high = ax.get_ylim()
    assert low < high  # alphas grow upwards
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("α of the text tower", "α of the vision tower")
    assert bar.get_ylabel() == "R@5 (%)"
    patches: list[Any] = [*ax.patches]
    outlines = [(patch.get_xy(), patch.get_linewidth()) for patch in patches]
    assert [place for place, width in outlines if width < 1] == [(0, 0), (2, 1), (3, 2)]
    row, column = np.unravel_index(grid.to_numpy().argmax(), grid.shape)
    assert [place for place, width in outlines if width > 1] == [(column, row)]
    tied = grid * 0 + 0.5
    tied.iloc[2, 1] = 0.5 + 1e-15  # a sum in another order
    words = [text.get_text() for text in tower_map(tied, "R@5").findobj(Text)]
    assert "best: vision 0, text 0, 50.0%" in words


@pytest.mark.parametrize(
    ("vision", "text", "numbers"),
    [
        (np.linspace(0, 1, 11), np.linspace(0, 1, 11), True),
        ((0, 0.4, 1), (0.4,), True),
        ((0,), (1,), True),
        (np.linspace(0, 1, 21), np.linspace(0, 1, 21), False),
    ],
)
def test_no_text_is_clipped_or_covered(vision, text, numbers):
    grid = grid_of(vision, text)
    figure = tower_map(grid, "Mean of R@5 and top-1")
    assert len(figure.axes[0].texts) == (grid.size if numbers else 0)
    for number in figure.axes[0].texts:
        assert float(number.get_fontsize()) >= 5
    if numbers:
        texts_are_apart(figure)
