from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.inference import simultaneous_band
from figures.rank_curves import curve_order, order_in_words, rank_curve_table, rank_curves
from fitclip_kit.store.results import Cell
from tests.figure_layout import texts_are_apart
from tests.figures.made import TRAINING, of, together


def outcomes_of(ranks, data_set="msrvtt", **training):
    """Outcomes with `ranks`: {(alpha, draw): [items]}; the teacher's draw is None."""
    return together(
        of(
            Cell(data_set, alpha=alpha, draw=draw, **(TRAINING | training if alpha else {})),
            column,
            "text_to_video",
        )
        for (alpha, draw), column in ranks.items()
    )


def example(n=60, draws=(1, 2, 3), seed=0):
    rng = np.random.default_rng(seed)

    def ranks(scale):
        return np.minimum(np.ceil(rng.exponential(scale, n) * 2) / 2 + 0.5, 2 * n)

    found: dict[Any, np.ndarray] = {(0, None): ranks(12)}
    for draw in draws:
        found |= {(0.4, draw): ranks(6), (1, draw): ranks(9)}
    return found


def test_table_by_hand():
    # Both draws of the fused model together: 1 1 1 2 2 2 3 9, of which every second one counts.
    ranks = {
        (0, None): [8, 2, 1, 4],
        (0.4, 0): [3, 1, 1, 2],
        (0.4, 1): [2, 9, 1, 2],
        (1, 0): [1.5, 1.5, 1.5, 1.5],
        (1, 1): [1.5, 1.5, 1.5, 4],
    }
    table = rank_curve_table(outcomes_of(ranks))
    assert table["model"].tolist() == ["teacher"] * 4 + ["student"] * 4 + ["fused"] * 4
    assert table["rank"].tolist() == [1, 2, 4, 8, 1.5, 1.5, 1.5, 4, 1, 2, 2, 9]
    assert table["position"].tolist() == [1, 2, 3, 4] * 3
    assert table["share"].tolist() == [0.25, 0.5, 0.75, 1] * 3
    assert table["draws"].tolist() == [1] * 4 + [2] * 8
    assert table["alpha"].tolist() == [0] * 4 + [1] * 4 + [0.4] * 4


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(2, 12), min_size=n, max_size=n), min_size=3, max_size=5
        )
    )
)
def test_curves_cross_each_rank_at_the_mean_recall(halves):
    teacher, *draws = np.array(halves) / 2
    ranks = {(0, None): teacher} | {
        (alpha, draw): column for draw, column in enumerate(draws) for alpha in (0.4, 1)
    }
    table = rank_curve_table(outcomes_of(ranks))
    n = len(teacher)
    for model, columns in (("teacher", [teacher]), ("fused", draws), ("student", draws)):
        curve = table.loc[table["model"] == model, "rank"].to_numpy()
        for k in np.unique(columns):
            recall = np.mean([np.mean(column <= k) for column in columns])
            assert np.sum(curve <= k) == int(n * recall + 1e-9)
        slow = [
            min(k for k in np.unique(columns) if np.mean(np.array(columns) <= k) > (i - 0.001) / n)
            for i in range(1, n + 1)
        ]
        assert curve.tolist() == slow


def disagreeing():
    """Two draws that differ at rank 8 alone: there the band is wider than it is after."""
    draws = [np.repeat([*range(1, 8), *[middle] * 6, *range(10, 16)], 3) for middle in (8, 9)]
    return {(0, None): draws[1]} | {
        (alpha, draw): draws[draw] for alpha in (0.4, 1) for draw in (0, 1)
    }


@pytest.mark.parametrize("ranks", [example(25), disagreeing()], ids=["random", "disagreeing"])
def test_the_band_is_that_of_the_recalls_read_the_other_way_round(ranks):
    table = rank_curve_table(outcomes_of(ranks))
    fused = table[table["model"] == "fused"]
    columns = np.array([column for (alpha, _), column in ranks.items() if alpha == 0.4])
    cutoffs = np.unique(columns)
    band = simultaneous_band(np.stack([columns <= k for k in cutoffs], axis=-1).astype(float))
    for row in fused.to_dict("records"):
        # A rank is possible at this share if R@k may reach it there and may not have before.
        wanted = row["share"] - 1e-9
        reached = [k for i, k in enumerate(cutoffs) if band.high[i:].min() >= wanted]
        surely = [k for i, k in enumerate(cutoffs) if band.low[: i + 1].max() >= wanted]
        assert row["ci_low"] == min(reached)
        assert row["ci_high"] == min(surely, default=cutoffs[-1])
        assert row["ci_low"] <= row["rank"] <= row["ci_high"]
    assert (fused["ci_high"] > fused["ci_low"]).mean() > 0.5


def test_order_by_hand():
    ranks = {
        (0, None): [1, 4, 4, 6, 2],  # sorted 1 2 4 4 6
        (0.4, 5): [1, 1, 4, 7, 3],  # sorted 1 1 3 4 7
        (1, 5): [1, 1, 1, 1, 1],
    }
    order = curve_order(outcomes_of(ranks))
    assert order[["positions", "below", "equal", "above"]].tolist() == [5, 0.4, 0.4, 0.2]
    assert order["cutoffs"] == 5  # 1 2 3 4 6, and 7 where all are hits
    assert (order["higher"], order["lower"]) == (0, 0)
    for teacher, fused, higher, lower in ((9, 1, 1, 0), (1, 9, 0, 1), (1, 1, 0, 0)):
        clear = {(0, None): np.full(40, teacher), (0.4, 0): np.full(40, fused), (1, 0): np.ones(40)}
        found = curve_order(outcomes_of(clear))
        assert found[["higher", "lower", "below", "above"]].tolist() == [higher, lower] * 2
    words = order_in_words(order)
    below = "below the teacher's at 40.0% of 5 positions, on it at 40.0% and above it at 20.0%"
    assert below in words and "Of 5 cutoffs k" in words


def test_what_was_not_measured_is_refused():
    outcomes = outcomes_of(example(5))
    with pytest.raises(ValueError, match="no outcomes of didemo, text_to_video"):
        rank_curve_table(outcomes, data_set="didemo")
    more = outcomes_of(example(5), labelled_clips=10)
    with pytest.raises(ValueError, match="trained in different ways"):
        rank_curve_table(together([outcomes, more[more["alpha"] > 0]]))
    for alpha in (0, 1, float("nan")):
        for table in (rank_curve_table, curve_order):
            with pytest.raises(ValueError, match="no fused model"):
                table(outcomes, alpha)


@pytest.mark.parametrize(
    ("ranks", "draws"),
    [
        (example(200), ", 3 draws"),
        (example(3, draws=(7,)), ""),
        ({(0, None): [1, 1], (0.4, 0): [1, 1], (1, 0): [1, 1]}, ""),
        ({(0, None): [20000, 1], (0.4, 0): [1.5, 1.5], (1, 0): [300, 1]}, ""),
        ({(0, None): [3], (0.4, 0): [1], (1, 0): [2]}, ""),
    ],
    ids=["many", "three", "all tied", "wide", "one text without band"],
)
def test_lines_are_the_tables_staircases_and_no_text_is_covered(ranks, draws):
    table = rank_curve_table(outcomes_of(ranks))
    figure = rank_curves(table)
    texts_are_apart(figure)
    (ax,) = figure.axes
    names = ["teacher", f"student{draws}", f"fused, α = 0.4{draws}"]
    assert [line.get_label() for line in ax.lines] == names
    for line, model in zip(ax.lines, ("teacher", "student", "fused"), strict=True):
        rows = table[table["model"] == model]
        drawn = np.asarray(line.get_xydata())
        assert line.get_drawstyle() == "steps-pre"
        np.testing.assert_allclose(drawn[1:], rows[["share", "rank"]])
        assert drawn[0].tolist() == [0, rows["rank"].iloc[0]]
    assert ax.get_xlabel() == f"Share of texts, sorted by rank (n = {len(rows)})"
    assert (ax.get_ylabel(), ax.get_yscale()) == ("Rank of the right video", "log")
    low, high = ax.get_ylim()
    assert low < 1 and high > table["rank"].max()
    assert table[["ci_low", "ci_high"]].isna().all(axis=None) == (len(rows) == 1)
