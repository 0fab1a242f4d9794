import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from figures.tower_map import best_cell, tower_grid, tower_map
from tests.figure_layout import texts_are_apart


def table_of(vision, text, data_sets=("x", "y"), draws=None, seed=0):
    rng = np.random.default_rng(seed)
    cells = itertools.product(vision, text, data_sets, draws or [None])
    names = ["vision_alpha", "text_alpha", "data_set", "draw"]
    table = pd.DataFrame(list(cells), columns=names).assign(value=lambda t: rng.random(len(t)))
    return table if draws else table.drop(columns="draw")


@pytest.mark.parametrize("draws", [None, (1, 2, 3)])
@pytest.mark.parametrize(("vision", "text"), [((0, 0.4, 1), (0, 0.5)), ((0.4,), (0.2,))])
def test_grid_is_the_mean_over_data_sets_and_draws(vision, text, draws):
    table = table_of(vision, text, draws=draws)
    grid = tower_grid(table.sample(frac=1, random_state=2))
    assert list(grid.index) == list(vision) and list(grid.columns) == list(text)
    assert (grid.index.name, grid.columns.name) == ("vision_alpha", "text_alpha")
    for (row, one), (column, other) in itertools.product(enumerate(vision), enumerate(text)):
        cell = table[(table["vision_alpha"] == one) & (table["text_alpha"] == other)]
        assert grid.to_numpy()[row, column] == pytest.approx(cell["value"].mean())
    alone = tower_grid(table.astype({"data_set": "category"}), "y")
    pd.testing.assert_frame_equal(alone, tower_grid(table[table["data_set"] == "y"]))


def test_data_sets_count_equally_whatever_their_draws():
    table = pd.concat([table_of([0], [0], "x", (1, 2, 3)), table_of([0], [0], "y", (1,), seed=1)])
    means = table.groupby("data_set")["value"].mean()
    assert tower_grid(table).iloc[0, 0] == pytest.approx(means.mean())


def test_alphas_that_differ_by_rounding_are_one():
    table = table_of([0.1 * 3], [0.3])
    pd.testing.assert_frame_equal(tower_grid(table), tower_grid(table.assign(vision_alpha=0.3)))


def test_incomplete_tables_are_refused():
    table = table_of((0, 1), (0, 0.5))
    with pytest.raises(ValueError, match=r"no values of z; there are: .*'x', 'y'"):
        tower_grid(table, "z")
    with pytest.raises(ValueError, match="no values of any data set"):
        tower_grid(table.iloc[:0])
    with pytest.raises(ValueError, match=r"no column \['data_set'\]"):
        tower_grid(table.drop(columns="data_set"))
    with pytest.raises(ValueError, match=r"'data_set': 'x', .* twice"):
        tower_grid(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(
        ValueError, match=r"y.* no value at vision alpha 1, text alpha 0\.5.*1 cells"
    ):
        tower_grid(table.iloc[:-1])
    for wrong in (44.0, np.nan, -0.1):
        with pytest.raises(ValueError, match="1 values are not in"):
            tower_grid(table.assign(value=[wrong, *table["value"][1:]]))


def test_best_cell():
    grid = tower_grid(table_of((0, 0.4, 1), (0, 0.5)))
    one, other = best_cell(grid)
    assert grid[other][one] == grid.to_numpy().max()
    tied = grid * 0 + 0.5
    tied.iloc[2, 1] = 0.5 + 1e-15  # a sum in another order
    assert best_cell(tied) == (0, 0)


def test_the_map_is_the_grid():
    grid = tower_grid(table_of((0, 0.5, 1), (0, 0.25, 0.5, 1)))
    figure = tower_map(grid, "R@5")
    ax, bar = figure.axes
    mesh = ax.collections[0]
    np.testing.assert_allclose(
        np.ravel(np.asarray(mesh.get_array())), 100 * grid.to_numpy().ravel()
    )
    numbers = [text.get_text() for text in ax.texts]
    assert numbers == [f"{100 * value:.1f}" for value in grid.to_numpy().ravel()]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.25", "0.5", "1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.5", "1"]
    low, high = ax.get_ylim()
    assert low < high  # alphas grow upwards
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("α of the text tower", "α of the vision tower")
    assert bar.get_ylabel() == "R@5 (%)"
    outlines = [
        (patch.get_xy(), patch.get_linewidth())
        for patch in ax.patches
        if isinstance(patch, Rectangle)
    ]
    assert [place for place, width in outlines if width < 1] == [(0, 0), (2, 1), (3, 2)]
    row, column = np.unravel_index(grid.to_numpy().argmax(), grid.shape)
    assert [place for place, width in outlines if width > 1] == [(column, row)]


def test_letters_stand_out_from_their_cell():
    figure = tower_map(tower_grid(table_of(np.linspace(0, 1, 6), np.linspace(0, 1, 6))), "R@5")
    ax = figure.axes[0]

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    for text, cell in zip(ax.texts, ax.collections[0].get_facecolor(), strict=True):
        dark, light = sorted([luminance(to_rgb(text.get_color())), luminance(cell)])
        assert (light + 0.05) / (dark + 0.05) > 3.9


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
    grid = tower_grid(table_of(vision, text))
    figure = tower_map(grid, "Mean of R@5 and top-1")
    assert len(figure.axes[0].texts) == (grid.size if numbers else 0)
    for number in figure.axes[0].texts:
        assert float(number.get_fontsize()) >= 5
    if numbers:
        texts_are_apart(figure)


def test_equal_values_and_an_empty_grid():
    grid = tower_grid(table_of((0, 1), (0, 1)).assign(value=0.5))
    words = [text.get_text() for text in tower_map(grid, "R@5").findobj(Text)]
    assert "best: vision 0, text 0, 50.0%" in words
    with pytest.raises(ValueError, match="grid is empty"):
        tower_map(grid.iloc[:0], "R@5")
