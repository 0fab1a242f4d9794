"""The studies of subset sizes and of label shares: tables, figures, and tests between trainings."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from figures import style
from figures.label_share import MEASURES, label_share, share_draws, share_table
from figures.log_axis import log_places
from figures.measures import SIZE_MEASURE
from figures.study_comparisons import share_comparisons, size_comparisons
from figures.subset_size import subset_draws, subset_size, subset_table
from fitclip_core.statistics import mean_interval, paired_difference
from tests.figure_layout import texts_are_apart
from tests.figures.made import BOTH, BY_NAME, TWO, as_ranks, first, hits, shares, sizes, together

PAPER = (563, 1125, 1688, 2250, 3375, 4500, 9000, 18000, 36000)


def noisy_hits(items=40, seed=0):
    rng = np.random.default_rng(seed)
    return lambda *_: rng.random(items) < 0.4


def noisy_ranks(items=40, seed=0):
    rng = np.random.default_rng(seed)
    return lambda *_: rng.integers(1, 9, items)


def words_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


# Subset sizes


def test_table_of_sizes_by_hand():
    right: dict[Any, int] = {
        (0, None, None): 1,
        **{(10, "independent", 3): 2, (10, "independent", 4): 3},
        **{(20, "independent", 3): 4, (20, "independent", 4): 0},
        **{(10, "nested", 3): 1, (20, "nested", 3): 0},
    }
    draws = {"independent": (3, 4), "nested": (3,)}
    outcomes = sizes(lambda *cell: first(right[cell[:3]], 4), (10, 20), draws, (0.4,), items=4)
    table = subset_table(outcomes.sample(frac=1, random_state=1).astype({"item": "category"}))
    table = table.set_index(["sampling", "labelled_clips"])
    independent, nested = table.loc["independent"], table.loc["nested"]
    assert independent.index.tolist() == nested.index.tolist() == [0, 10, 20]
    assert independent["value"].tolist() == [0.25, 0.625, 0.5]
    assert independent["draw_low"].tolist() == [0.25, 0.5, 0]
    assert independent["draw_high"].tolist() == [0.25, 0.75, 1]
    assert independent["draws"].tolist() == [1, 2, 2]
    assert independent["best"].tolist() == [False, True, False]
    assert nested["value"].tolist() == [0.25, 0.25, 0]
    assert nested["best"].tolist() == [True, False, False]  # of equal ones the smallest
    assert set(table["n"]) == {4}
    singles = subset_draws(outcomes).set_index(["labelled_clips", "sampling", "draw"])["value"]
    expected = {cell: count / 4 for cell, count in right.items() if cell[0]}
    assert singles.to_dict() == expected


def test_what_is_no_study_of_sizes_is_refused():
    outcomes = sizes(noisy_hits(4), items=4)
    mixed = together([outcomes, sizes(noisy_hits(4), items=4, share=0.9).iloc[4:]])
    hole = outcomes["draw"].eq(2) & (outcomes["labelled_clips"] == 20)
    hole &= (outcomes["sampling"] == "nested") & (outcomes["alpha"] == 0.4)
    for table, alpha, match in (
        (mixed, 0.4, r"labelled_share \[0\.9, 1\.0\]"),
        (outcomes.assign(data_set="msrvtt"), 0.4, "no outcomes of webvid_val, text_to_video"),
        (outcomes, 0.3, r"alpha 0\.3 was not measured .*: 0, 0\.4, 1"),
        (outcomes[outcomes["alpha"] > 0], 0.4, "alpha 0 was not measured"),
        (outcomes[outcomes["alpha"] == 0], 0.4, r"alpha 0\.4 was not measured"),
        (outcomes, 0, "alpha is 0"),
        (outcomes[~hole.fillna(False)], 0.4, r"nested subsets of size 10 .* but 20 has \[1, 3\]"),
        (outcomes.drop(outcomes.index[-1]), 1, "'clip0003' has no rank"),
    ):
        with pytest.raises(ValueError, match=match):
            subset_table(table, alpha)
    with pytest.raises(ValueError, match="no alpha to draw"):
        subset_size(outcomes, ())


@pytest.mark.parametrize(
    ("wanted", "draws", "alphas"),
    [
        (PAPER, BOTH, (0.4,)),
        (PAPER, BOTH, (0.4, 1)),
        ((7,), {"independent": (0,)}, (1,)),
        ((100, 101, 102, 36000), {"independent": (0,), "nested": (0,)}, (0.4,)),
    ],
)
def test_figure_4_draws_its_tables_and_covers_no_text(wanted, draws, alphas):
    outcomes = sizes(noisy_hits(5), wanted, draws, alphas, items=5)
    figure = subset_size(outcomes, alphas)
    texts_are_apart(figure)
    expected = {"Text-to-video R@1 (%)", "Labelled clips (0: the teacher)", "0"}
    expected |= {f"{size:,}" for size in PAPER} if wanted == PAPER else set()
    assert expected <= set(words_of(figure))
    for alpha, ax in zip(alphas, figure.axes, strict=True):
        table = subset_table(outcomes, alpha)
        lines = {line.get_label(): line for line in ax.lines}
        places = log_places([0, *wanted])
        for sampling, rows in table.groupby("sampling"):
            x, drawn = np.asarray(lines[str(sampling)].get_xydata()).T
            np.testing.assert_allclose(x, rows["labelled_clips"].map(places), atol=0.015)
            np.testing.assert_allclose(drawn, 100 * rows["value"])
        dots = [line.get_ydata() for line in ax.lines if line.get_markersize() == 2.2]
        single: Any = 100 * subset_draws(outcomes, alpha)["value"] if draws == BOTH else []
        np.testing.assert_allclose(np.sort(np.concatenate([[], *dots])), np.sort(single))
        paths = [path for part in ax.collections for path in part.get_paths()]
        ends = {tuple(np.round(np.asarray(path.vertices)[:, 1], 9)) for path in paths}
        intervals = 100 * table[["ci_low", "ci_high"]].to_numpy()
        assert ends == {tuple(np.round(pair, 9)) for pair in intervals}


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=12))
def test_places_on_a_log_axis_keep_order_and_ratios(values):
    places = log_places(list(values))
    assert list(places) == sorted(values)
    ordered = list(places.values())
    assert len(ordered) == 1 or all(
        0 <= place < following <= 1 for place, following in itertools.pairwise(ordered)
    )
    positive = [value for value in places if value > 0]
    if len(positive) > 2:
        low, middle, high = positive[0], positive[1], positive[-1]
        share = (places[middle] - places[low]) / (places[high] - places[low])
        assert share == pytest.approx(np.log(middle / low) / np.log(high / low))


def test_size_comparisons_by_hand():
    count = {0: 10, 10: 12, 20: 20, 40: 4}

    def hits_of(size, sampling, draw, alpha):
        return first(count[size] + ((sampling, draw) == ("nested", 2)))

    outcomes = sizes(hits_of, draws={"independent": (1, 2), "nested": (1, 2)})
    table = size_comparisons(outcomes, 20)
    assert table["value"].tolist() == [0, 10, 40]
    assert (table["versus"] == 20).all() and (table["varied"] == "labelled clips").all()
    # The last draw of each size has one hit more; the teacher has no draws.
    expected = [-(10 + 0.25) / 40, -8 / 40, -16 / 40]
    assert table["difference"].to_numpy() == pytest.approx(expected)
    assert table["draws"].tolist() == [4] * 3 and table["draws_same_sign"].tolist() == [4] * 3
    assert table["n"].tolist() == [40] * 3 and table["verdict"].iloc[-1] == "lower"


def test_sizes_have_intervals_over_items_and_draws_and_are_paired_by_both():
    outcomes = sizes(noisy_hits())
    table: Any = subset_table(outcomes).set_index(["sampling", "labelled_clips"])
    found: dict[int, list[np.ndarray]] = {0: [hits(outcomes, SIZE_MEASURE, [None], alpha=0)]}
    for size, sampling in itertools.product((10, 20, 40), ("independent", "nested")):
        where = {"labelled_clips": size, "alpha": 0.4, "sampling": sampling}
        found.setdefault(size, []).append(hits(outcomes, SIZE_MEASURE, [1, 2, 3], **where))
    for values, place in ((found[0][0], ("independent", 0)), (found[20][1], ("nested", 20))):
        interval = mean_interval(values, within=(0, 1))
        ends = table.loc[place, ["ci_low", "ci_high"]].tolist()
        assert ends == pytest.approx([interval.low, interval.high], rel=1e-12)
    tests = size_comparisons(outcomes, 20)
    for row in tests.to_dict("records"):
        sides = (np.concatenate(found[size]) for size in (20, row["value"]))
        pair = paired_difference(*sides, n_resamples=10_000)
        expected = [pair.estimate, pair.low, pair.high, pair.p_value, pair.sign_flip_p]
        columns = ["difference", "ci_low", "ci_high", "p_value", "sign_flip_p"]
        assert [row[name] for name in columns] == pytest.approx(expected)
    assert (tests["p_holm"] >= tests["p_value"]).all()


def test_sizes_that_cannot_be_compared_are_refused():
    outcomes = sizes(noisy_hits())
    for reference in (0, 30):
        match = f"compared with {reference}, and there are 10, 20, 40"
        with pytest.raises(ValueError, match=match):
            size_comparisons(outcomes, reference)
    with pytest.raises(ValueError, match="there are 10; give one of them, and measure another"):
        size_comparisons(sizes(noisy_hits(), (10,)), 10)
    gone = (outcomes["labelled_clips"] == 20) & (outcomes["sampling"] == "nested")
    with pytest.raises(ValueError, match="students of size 10 have the draws"):
        size_comparisons(outcomes[~gone.fillna(False)], 10)


# Label shares


def test_table_of_shares_by_hand():
    right: dict[Any, int] = {
        **{("msrvtt", None, None): 2, ("msrvtt", 0, 1): 4, ("msrvtt", 0, 2): 2},
        **{("msrvtt", 1e-4, 1): 1, ("msrvtt", 1e-4, 2): 1, ("mit", None, None): 1},
        **{("mit", 0, 1): 0, ("mit", 0, 2): 1, ("mit", 1e-4, 1): 4, ("mit", 1e-4, 2): 3},
    }

    def ranks_of(data_set, share, draw):
        return as_ranks(first(right[data_set, share, draw], 4), BY_NAME[data_set])

    outcomes = shares(ranks_of, items=4, wanted=(1e-4, 0))
    table = share_table(outcomes.sample(frac=1, random_state=1), measures=TWO)
    assert table["scope"].tolist() == ["msrvtt", "msrvtt", "mit", "mit", "mean", "mean"]
    assert table["pseudo_share"].tolist() == [0, 1e-4] * 3
    assert table["value"].tolist() == [0.75, 0.25, 0.125, 0.875, 0.4375, 0.5625]
    assert table["teacher"].tolist() == [0.5, 0.5, 0.25, 0.25, 0.375, 0.375]
    assert table["best"].tolist() == [True, False, False, True, False, True]
    assert table["draw_low"].tolist() == [0.5, 0.25, 0, 0.75, 0.375, 0.5]
    assert table["draw_high"].tolist() == [1, 0.25, 0.25, 1, 0.5, 0.625]
    assert table["n"].tolist() == [4, 4, 4, 4, 8, 8] and set(table["draws"]) == {2}
    draws = share_draws(outcomes, measures=TWO).query("scope == 'mean'")
    singles = draws[["pseudo_share", "draw", "value"]].to_numpy().tolist()
    assert singles == [[0, 1, 0.5], [0, 2, 0.375], [1e-4, 1, 0.625], [1e-4, 2, 0.5]]
    alone = share_table(shares(lambda *_: 1, measures=TWO[:1]), measures=TWO[:1])
    assert alone["scope"].tolist() == ["msrvtt"] * 2 and alone["best"].tolist() == [True, False]
    assert len(label_share(outcomes, measures=TWO[:1]).axes) == 1


def test_numbers_of_shares_are_those_of_items_and_draws_of_all_data_sets():
    outcomes = shares(noisy_ranks(), draws=(1, 2, 3))
    mixed, alone = (
        [hits(outcomes, one, [1, 2, 3], labelled_share=1 - share) for one in TWO]
        for share in (1e-4, 0)
    )
    table: Any = share_table(outcomes, measures=TWO).set_index(["scope", "pseudo_share"])
    tests: Any = share_comparisons(outcomes, measures=TWO).set_index("scope")
    for scope, place in (("mit", slice(1, 2)), ("mean", slice(0, 2))):
        interval = mean_interval(mixed[place], within=(0, 1))
        ends = table.loc[(scope, 1e-4), ["ci_low", "ci_high"]].tolist()
        assert ends == pytest.approx([interval.low, interval.high], rel=1e-12)
        pair = paired_difference(alone[place], mixed[place])
        found = tests.loc[scope, ["difference", "ci_low", "p_value"]].tolist()
        assert found == pytest.approx([pair.estimate, pair.low, pair.p_value])


def test_what_is_no_study_of_shares_is_refused():
    outcomes = shares(noisy_ranks())
    of_mit = outcomes["data_set"] == "mit"
    alone = (outcomes["labelled_share"] == 1) & of_mit
    other = shares(noisy_ranks(), clips=10)
    for table, measures, match in (
        (outcomes, MEASURES, "no outcomes of ucf101, classification"),
        (outcomes, (), "no measure"),
        (outcomes[outcomes["alpha"] > 0], TWO, "alpha 0 was not measured on msrvtt"),
        (together([outcomes, other[other["alpha"] > 0]]), TWO, r"labelled_clips \[9, 10\]"),
        (outcomes[~alone], TWO, "no outcomes of mit at pseudo-label share 0;"),
        (
            outcomes[~(alone & (outcomes["draw"] == 2).fillna(False))],
            TWO,
            r"msrvtt at pseudo-label share 0 have the draws \[1, 2\], but mit at .* share 0 has",
        ),
    ):
        for made in (share_table, share_comparisons):
            with pytest.raises(ValueError, match=match):
                made(table, measures=measures)
    for share in (0, 1e-3):
        with pytest.raises(ValueError, match=r"there are 0, 0\.0001; give a share above 0"):
            share_comparisons(outcomes, share, measures=TWO)


def test_share_comparisons_by_hand():
    def ranks_of(data_set, share, draw):
        better = {"mit": 20, "didemo": -8}.get(data_set, 0) if share == 1e-4 else 0
        return as_ranks(first(15 + better + (draw == 3)), BY_NAME[data_set])

    table = share_comparisons(shares(ranks_of, draws=(1, 2, 3), measures=MEASURES))
    table = table.set_index("scope")
    expected = {"mit": 0.5, "didemo": -0.2, "msrvtt": 0, "mean": 0.3 / 5}
    for scope, difference in expected.items():
        assert table.loc[scope, "difference"] == pytest.approx(difference, abs=1e-12)
    verdicts = {"mit": "higher", "didemo": "lower", "msrvtt": "undecided"}
    assert table["verdict"].to_dict().items() >= verdicts.items()
    assert table.loc["mean", "n"] == 200 and table.loc["msrvtt", "p_value"] == 1
    assert (table["value"] == 1e-4).all() and (table["versus"] == 0).all()


@pytest.mark.parametrize(
    ("wanted", "draws", "shown"),
    [
        ((0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2), (1, 2, 3), {"0", "10⁻⁵", "10⁻⁴", "10⁻³"}),
        ((0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5), (1,), {"10⁻⁴"}),
        ((1e-4,), (1,), {"10⁻⁴"}),
        ((0, 2.5e-4, 0.5), (1,), {"0", "2.5·10⁻⁴", "5·10⁻¹"}),
    ],
)
def test_figure_5_draws_its_table_and_covers_no_text(wanted, draws, shown):
    outcomes = shares(noisy_ranks(5), wanted, draws, MEASURES, items=5)
    figure = label_share(outcomes)
    texts_are_apart(figure)
    words = set(words_of(figure))
    expected = {"(a) mit", "(e) didemo", "Top-1 (%)", "R@5 (%)", "teacher's level"}
    assert expected | shown | {"(f) mean of 5 data sets"} <= words
    assert "3·10⁻⁵" not in words and ("each draw" in words) is (len(draws) > 1)
    table, singles = share_table(outcomes), share_draws(outcomes)
    panels = [ax for ax in figure.axes if ax.lines]
    for ax, (scope, rows) in zip(panels, table.groupby("scope", sort=False), strict=True):
        lines = [line.get_ydata() for line in ax.lines if line.get_color() == style.LINE]
        parts = rows.groupby(rows["pseudo_share"] > 0)["value"]  # labels alone are not joined
        for line, (_, values) in zip(lines, parts, strict=True):
            np.testing.assert_allclose(np.asarray(line), 100 * values)
        (teacher,) = (line.get_ydata() for line in ax.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(np.asarray(teacher), 100 * rows["teacher"].iloc[0])
        dots = [line.get_ydata() for line in ax.lines if line.get_markersize() == 2.2]
        single: Any = (
            100 * singles.loc[singles["scope"] == scope, "value"] if len(draws) > 1 else []
        )
        np.testing.assert_allclose(np.concatenate([[], *dots]), single)
        paths = [path.vertices for part in ax.collections for path in part.get_paths()]
        drawn = set(np.round(np.concatenate(paths)[:, 1], 6))
        assert set(np.round(100 * rows[["ci_low", "ci_high"]].to_numpy().ravel(), 6)) <= drawn
