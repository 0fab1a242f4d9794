import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.rank_curves import (
    curve_order,
    model_ranks,
    order_in_words,
    rank_curve_table,
    rank_curves,
)
from fitclip_core.statistics import simultaneous_band
from fitclip_kit.store.results import Cell, typed
from tests.figure_layout import texts_are_apart


def outcomes_of(ranks, data_set="msrvtt", direction="text_to_video", **training):
    """Outcomes with `ranks`: {(alpha, draw): [items]}; the teacher's draw is -1."""
    training = {"labelled_share": 0.9, "labelled_clips": 9} | training
    tables = []
    for (alpha, draw), column in ranks.items():
        key = Cell(alpha=alpha, draw=draw, data_set=data_set, **training)
        table = pd.DataFrame({"item": [f"clip{i:03d}" for i in range(len(column))], "rank": column})
        tables.append(table.assign(direction=direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True)).astype({"rank": float})


def example(n=60, draws=(0, 1, 2), seed=0):
    rng = np.random.default_rng(seed)

    def ranks(scale):
        return np.minimum(np.ceil(rng.exponential(scale, n) * 2) / 2 + 0.5, 2 * n)

    found: dict[tuple[float, int], np.ndarray] = {(0, -1): ranks(12)}
    for draw in draws:
        found |= {(0.4, draw): ranks(6), (1, draw): ranks(9)}
    return found


def test_table_by_hand():
    # Both draws of the fused model together: 1 1 1 2 2 2 3 9, of which every second one counts.
    ranks = {
        (0, -1): [8, 2, 1, 4],
        (0.4, 0): [3, 1, 1, 2],
        (0.4, 1): [2, 9, 1, 2],
        (1, 0): [1.5, 1.5, 1.5, 1.5],
        (1, 1): [1.5, 1.5, 1.5, 4],
    }
    table = rank_curve_table(outcomes_of(ranks), n_resamples=50)
    assert table["model"].tolist() == ["teacher"] * 4 + ["student"] * 4 + ["fused"] * 4
    assert table["rank"].tolist() == [1, 2, 4, 8, 1.5, 1.5, 1.5, 4, 1, 2, 2, 9]
    assert table["position"].tolist() == [1, 2, 3, 4] * 3
    assert table["share"].tolist() == [0.25, 0.5, 0.75, 1] * 3
    assert table.groupby("model")["draws"].first().to_dict() == {
        "teacher": 1,
        "student": 2,
        "fused": 2,
    }


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
    ranks = {(0, -1): teacher} | {
        (alpha, draw): column for draw, column in enumerate(draws) for alpha in (0.4, 1)
    }
    table = rank_curve_table(outcomes_of(ranks), n_resamples=5)
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
    found: dict[tuple[float, int], np.ndarray] = {(0, -1): draws[1]}
    return found | {(alpha, draw): draws[draw] for alpha in (0.4, 1) for draw in (0, 1)}


@pytest.mark.parametrize("ranks", [example(25), disagreeing()], ids=["random", "disagreeing"])
def test_the_band_is_that_of_the_recalls_read_the_other_way_round(ranks):
    table = rank_curve_table(outcomes_of(ranks), n_resamples=100, seed=4)
    fused = table[table["model"] == "fused"]
    columns = np.array([column for (alpha, _), column in ranks.items() if alpha == 0.4])
    cutoffs = np.unique(columns)
    band = simultaneous_band(
        np.stack([columns <= k for k in cutoffs], axis=-1).astype(float), n_resamples=100, seed=4
    )
    for row in fused.to_dict("records"):
        # A rank is possible at this share if R@k may reach it there and may not have before.
        reached = [k for i, k in enumerate(cutoffs) if band.high[i:].min() >= row["share"] - 1e-9]
        surely = [
            k for i, k in enumerate(cutoffs) if band.low[: i + 1].max() >= row["share"] - 1e-9
        ]
        assert row["ci_low"] == min(reached)
        assert row["ci_high"] == min(surely, default=cutoffs[-1])
        assert row["ci_low"] <= row["rank"] <= row["ci_high"]
    assert (fused["ci_high"] > fused["ci_low"]).mean() > 0.5


def test_one_text_has_no_band():
    ranks = {(0, -1): [3], (0.4, 0): [1], (1, 0): [2]}
    table = rank_curve_table(outcomes_of(ranks), n_resamples=10)
    assert table["rank"].tolist() == [3, 2, 1]
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)
    rank_curves(table)


def test_order_by_hand():
    ranks = {
        (0, -1): [1, 4, 4, 6, 2],  # sorted 1 2 4 4 6
        (0.4, 5): [1, 1, 4, 7, 3],  # sorted 1 1 3 4 7
        (1, 5): [1, 1, 1, 1, 1],
    }
    order = curve_order(outcomes_of(ranks), n_resamples=50)
    assert order[["positions", "below", "equal", "above"]].tolist() == [5, 0.4, 0.4, 0.2]
    assert order["cutoffs"] == 5  # 1 2 3 4 6, and 7 where all are hits
    assert (order["higher"], order["lower"]) == (0, 0)
    words = order_in_words(order)
    assert (
        "below the teacher's at 40.0% of 5 positions, on it at 40.0% and above it at 20.0%" in words
    )
    assert "Of 5 cutoffs k" in words


def test_order_of_clear_cases():
    n = 40
    better = {(0, -1): np.full(n, 9), (0.4, 0): np.ones(n), (1, 0): np.ones(n)}
    order = curve_order(outcomes_of(better), n_resamples=50)
    assert (order["below"], order["higher"], order["lower"], order["cutoffs"]) == (1, 1, 0, 1)
    worse = {(0, -1): np.ones(n), (0.4, 0): np.full(n, 9), (1, 0): np.ones(n)}
    order = curve_order(outcomes_of(worse), n_resamples=50)
    assert (order["above"], order["higher"], order["lower"]) == (1, 0, 1)
    same = {(0, -1): np.ones(n), (0.4, 0): np.ones(n), (1, 0): np.ones(n)}
    order = curve_order(outcomes_of(same), n_resamples=50)
    assert (order["equal"], order["higher"], order["lower"], order["cutoffs"]) == (1, 0, 0, 0)


def test_models_share_their_items_and_draws():
    ranks = example(10)
    teacher, fused = model_ranks(outcomes_of(ranks), "msrvtt", "text_to_video", [0, 0.4])
    assert list(teacher.columns) == [None] and list(fused.columns) == [0, 1, 2]
    assert teacher.index.equals(fused.index)
    assert fused.loc["clip007", 1] == ranks[0.4, 1][7]
    del ranks[1, 2]
    with pytest.raises(
        ValueError, match=r"alpha 1 have the draws \[0, 1\], but 0\.4 has \[0, 1, 2\]"
    ):
        rank_curve_table(outcomes_of(ranks))


def test_what_was_not_measured_is_refused():
    outcomes = outcomes_of(example(5))
    with pytest.raises(ValueError, match=r"alpha 0\.3 was not measured .*: 0, 0\.4, 1"):
        rank_curve_table(outcomes, 0.3)
    with pytest.raises(ValueError, match="alpha 0 was not measured"):
        curve_order(outcomes[outcomes["model"] != "teacher"])
    with pytest.raises(ValueError, match="no outcomes of didemo, text_to_video"):
        rank_curve_table(outcomes, data_set="didemo")
    with pytest.raises(ValueError, match="trained in different ways"):
        rank_curve_table(pd.concat([outcomes, outcomes_of(example(5), labelled_clips=10)]))
    for alpha in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="no fused model"):
            rank_curve_table(outcomes, alpha)
        with pytest.raises(ValueError, match="no fused model"):
            curve_order(outcomes, alpha)


def test_lines_are_the_tables_staircases():
    table = rank_curve_table(outcomes_of(example(15)), n_resamples=20)
    figure = rank_curves(table)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    names = ["teacher", "student, 3 draws", "fused, α = 0.4, 3 draws"]
    assert [line.get_label() for line in ax.lines] == names
    for line, model in zip(ax.lines, ("teacher", "student", "fused"), strict=True):
        rows = table[table["model"] == model]
        drawn = np.asarray(line.get_xydata())
        assert line.get_drawstyle() == "steps-pre"
        np.testing.assert_allclose(drawn[1:], rows[["share", "rank"]])
        assert drawn[0].tolist() == [0, rows["rank"].iloc[0]]
    assert ax.get_xlabel() == "Share of texts, sorted by rank (n = 15)"
    assert ax.get_ylabel() == "Rank of the right video"
    low, high = ax.get_ylim()
    assert low < 1 and high > table["rank"].max()


@pytest.mark.parametrize(
    "ranks",
    [
        example(200),
        example(3, draws=(7,)),
        {(0, -1): [1, 1], (0.4, 0): [1, 1], (1, 0): [1, 1]},
        {(0, -1): [20000, 1], (0.4, 0): [1.5, 1.5], (1, 0): [300, 1]},
    ],
    ids=["many", "three", "all tied", "wide"],
)
def test_no_text_is_clipped_or_covered(ranks):
    texts_are_apart(rank_curves(rank_curve_table(outcomes_of(ranks), n_resamples=10)))


def test_tables_of_two_data_sets_are_not_drawn_together():
    table = rank_curve_table(outcomes_of(example(4)), n_resamples=5)
    with pytest.raises(ValueError, match="2 data sets"):
        rank_curves(pd.concat([table, table.assign(data_set="didemo")]))
    with pytest.raises(ValueError, match="0 data sets"):
        rank_curves(table.iloc[:0])
