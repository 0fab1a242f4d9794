import itertools

import numpy as np
import pandas as pd
import pytest

from figures.alpha_curve import Measure, Panel
from figures.beyond import (
    classes_in_words,
    comparisons_in_words,
    difference_plot,
    direction_comparisons,
    variant_comparisons,
)
from figures.comparisons import holm
from figures.per_class import per_class_table
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell, typed

ONE = Panel("in_domain", "One", "R@5", (Measure("one", "text_to_video", 5),))
TWO = Panel(
    "zero_shot",
    "Two",
    "Mean",
    (Measure("two", "text_to_video", 5), Measure("acts", "classification", 1)),
)
DIRECTIONS = {
    "one": ("text_to_video", "video_to_text"),
    "two": ("text_to_video", "video_to_text"),
    "acts": ("classification",),
}
TRAINING = {"labelled_share": 1, "labelled_clips": 9}


def cells(ranks_of, places, items=40):
    """Outcomes of (variant or None, alpha, draw) at `places`; the teacher's draw is -1."""
    tables = []
    for (name, alpha, draw), data_set in itertools.product(places, DIRECTIONS):
        if name is None:
            key = Cell(alpha=alpha, **TRAINING, draw=draw, data_set=data_set)
        elif name == "renormalised":
            key = Cell(alpha=alpha, **TRAINING, draw=draw, data_set=data_set, renormalise=True)
        else:
            key = Cell(merge=name, alpha=alpha, **TRAINING, draw=draw, data_set=data_set)
        for direction in DIRECTIONS[data_set]:
            ranks = np.broadcast_to(ranks_of(name, alpha, draw, data_set, direction), items)
            table = pd.DataFrame({"item": [f"clip{i:03d}" for i in range(items)], "rank": ranks})
            table["label"] = [f"class{i % 4}" for i in range(items)]
            tables.append(table.assign(direction=direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def sweep_places(draws=(1, 2, 3), alphas=(0.4, 1.0)):
    return [(None, 0.0, -1), *((None, alpha, draw) for alpha in alphas for draw in draws)]


def noisy(seed=0):
    rng = np.random.default_rng(seed)
    return lambda *_: rng.integers(1, 11, 40).astype(float)


def hits(outcomes, kind, alpha, data_set, direction, k, draws):
    """[draws, items], by looking each value up; kind: of merge, or "renormalised"."""
    kinds = outcomes["merge"].astype(str).where(~outcomes["renormalise"], "renormalised")
    rows = (
        outcomes[
            (kinds == kind)
            & (outcomes["alpha"] == alpha)
            & (outcomes["data_set"] == data_set)
            & (outcomes["direction"] == direction)
        ]
        .fillna({"draw": -1})
        .set_index(["draw", "item"])["rank"]
    )
    items = sorted(set(outcomes["item"]))
    return np.array([[rows[draw, item] <= k for item in items] for draw in draws]) * 1.0


def test_directions_are_the_paired_tests_of_the_looked_up_hits():
    outcomes = cells(noisy(), sweep_places())
    table = direction_comparisons(
        outcomes.sample(frac=1, random_state=0), panels=(ONE, TWO), n_resamples=500, seed=4
    )
    # "two" is the only retrieval set of the second panel: listed once, under the panel's name.
    assert table["scope"].tolist() == ["in_domain"] * 3 + ["zero_shot_retrieval"] * 3
    for data_set, (_, rows) in zip(("one", "two"), table.groupby("scope"), strict=True):
        sides = []
        for direction, (_, row) in zip(DIRECTIONS[data_set], rows.iloc[:2].iterrows(), strict=True):
            where = (data_set, direction, 5)
            teacher = hits(outcomes, "average", 0, *where, [-1])
            fused = hits(outcomes, "average", 0.4, *where, [1, 2, 3])
            found = paired_difference(teacher, fused, n_resamples=500, seed=4)
            numbers = ["difference", "ci_low", "ci_high", "p_value"]
            assert row[numbers].tolist() == pytest.approx(
                [found.estimate, found.low, found.high, found.p_value]
            )
            assert (row["first"], row["second"]) == pytest.approx((teacher.mean(), fused.mean()))
            assert row["measure"] == f"{data_set} {direction.replace('_', '-')} R@5"
            assert direction.replace("_", "-") in row["comparison"]
            sides.append(fused - teacher)
        found = paired_difference(*sides, n_resamples=500, seed=4)
        gain = rows.iloc[2]
        assert gain["difference"] == pytest.approx(found.estimate)
        assert gain["difference"] == pytest.approx(rows["difference"].iloc[:2].diff().iloc[1])
        assert (gain["ci_low"], gain["p_value"]) == pytest.approx((found.low, found.p_value))
        assert gain["measure"] == f"{data_set} R@5"
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"].to_numpy()))


def test_where_clips_have_several_texts_the_directions_are_compared_on_first_texts():
    """Every video has its first text's name in video-to-text; there are 10 texts more."""
    outcomes = cells(noisy(), sweep_places())
    texts = outcomes["direction"] == "text_to_video"
    more = outcomes[texts & (outcomes["item"].astype(str) < "clip010")]
    more = more.assign(item=more["item"].astype(str) + "_again", rank=1.0)
    whole = direction_comparisons(outcomes, panels=(ONE,), n_resamples=300)
    table = direction_comparisons(pd.concat([outcomes, more]), panels=(ONE,), n_resamples=300)
    assert table["n"].tolist() == [50, 40, 40]
    numbers = ["difference", "ci_low", "ci_high", "p_value"]
    pd.testing.assert_frame_equal(table[numbers].iloc[1:], whole[numbers].iloc[1:])
    assert table["first"].iloc[0] > whole["first"].iloc[0]


def test_a_gain_in_one_direction_alone_is_told_apart():
    def ranks_of(name, alpha, draw, data_set, direction):
        return 1.0 if alpha > 0 and direction == "video_to_text" else 9.0

    table = direction_comparisons(cells(ranks_of, sweep_places()), panels=(ONE,), n_resamples=300)
    assert table["verdict"].tolist() == ["undecided", "higher", "higher"]
    assert table["difference"].tolist() == [0, 1, 1]
    words = comparisons_in_words(table)
    assert "0 higher, 0 lower, 1 undecided (1 of them with equal outcomes throughout)." in words
    assert "  - in_domain (one video-to-text R@5): +100.0 [+100.0, +100.0], p < 0.001, " in words
    assert "3 of 3 draws of this sign: higher" in words
    assert "of the same t, Holm-corrected for 3 comparisons" in words and "items and draws" in words


def test_panels_without_retrieval_have_no_directions():
    acts = Panel("acts", "Acts", "top-1", TWO.measures[1:])
    with pytest.raises(ValueError, match="no retrieval"):
        direction_comparisons(cells(noisy(), sweep_places()), panels=(acts,))


def test_variants_are_compared_with_the_plain_sweep_of_the_same_draws_and_alpha():
    own = [("renormalised", 0.0, -1), ("renormalised", 0.4, 2), ("renormalised", 1.0, 2)]
    places = [*sweep_places(), *own]
    outcomes = cells(noisy(), [*places, ("far_off", 0.4, 1), ("far_off", 0.4, 3)])
    table = variant_comparisons(
        outcomes.sample(frac=1, random_state=1), ["renormalised", "far_off"], panels=(ONE, TWO)
    )
    expected = [f"renormalised − plain, α = {alpha}" for alpha in ("0", "0.4", "1")]
    assert list(dict.fromkeys(table["comparison"])) == [*expected, "far off − plain, α = 0.4"]
    assert table["scope"].tolist() == ["in_domain", "zero_shot", "two", "acts"] * 4
    for _, row in table.iterrows():
        name = "renormalised" if row["comparison"].startswith("renormalised") else "far_off"
        alpha = row["alpha"]
        draws = [-1] if alpha == 0 else {"renormalised": [2], "far_off": [1, 3]}[name]
        measures = {"in_domain": ONE.measures, "zero_shot": TWO.measures}.get(
            row["scope"], [one for one in TWO.measures if one.data_set == row["scope"]]
        )
        where = [(one.data_set, one.direction, one.k, draws) for one in measures]
        plain = [hits(outcomes, "average", alpha, *one) for one in where]
        other = [hits(outcomes, name, alpha, *one) for one in where]
        found = paired_difference(plain, other, n_resamples=10_000)
        assert row["difference"] == pytest.approx(found.estimate, abs=1e-12)
        assert (row["ci_low"], row["p_value"]) == pytest.approx((found.low, found.p_value))
        assert row["first"] == pytest.approx(np.mean([one.mean() for one in plain]))
        assert (row["draws"], row["n"]) == (len(draws), found.n)
    alone = variant_comparisons(outcomes, ["far_off"], panels=(ONE,), n_resamples=10)
    assert alone["comparison"].tolist() == ["far off − plain"]
    assert "one draw" in comparisons_in_words(table[table["draws"] == 1])


def test_variants_need_the_plain_sweeps_alphas_draws_and_items():
    outcomes = cells(noisy(), [*sweep_places(), ("near", 0.4, 2), ("near", 0.4, 4)])
    with pytest.raises(ValueError, match=r"lacks draws \[4\]"):
        variant_comparisons(outcomes, ["near"], panels=(ONE,))
    fewer = outcomes[
        (outcomes["draw"].fillna(-1) != 4)
        & ~((outcomes["merge"] == "near") & (outcomes["item"] == "clip007"))
    ]
    with pytest.raises(ValueError, match="other items than the variant"):
        variant_comparisons(fewer, ["near"], panels=(ONE,))
    with pytest.raises(ValueError, match=r"alpha 0\.7 was not measured"):
        variant_comparisons(
            cells(noisy(), [*sweep_places(), ("near", 0.7, 2)]), ["near"], panels=(ONE,)
        )
    with pytest.raises(ValueError, match="no rows of the merge 'fisher'"):
        variant_comparisons(outcomes, ["fisher"])


def test_the_plot_shows_each_row_once_and_fills_what_is_decided():
    table = direction_comparisons(cells(noisy(1), sweep_places()), panels=(ONE, TWO))
    table.loc[[1, 5], "verdict"] = ["higher", "lower"]
    figure = difference_plot(table)
    (ax,) = figure.axes
    points = [
        (x, y, line.get_markerfacecolor() != "white")
        for line in ax.lines
        if line.get_linestyle() == "None"
        for x, y in np.asarray(line.get_xydata()).tolist()
    ]
    assert sorted(x for x, _, _ in points) == pytest.approx(sorted(100 * table["difference"]))
    filled = sorted(x for x, _, full in points if full)
    assert filled == pytest.approx(sorted(100 * table.loc[[1, 5], "difference"]))
    assert len({y for _, y, _ in points}) == len(table)
    assert [one.get_text() for one in ax.get_yticklabels()] == ["in-domain", "zero-shot retrieval"]
    assert [one.get_text() for one in figure.legends[0].get_texts()] == list(
        table["comparison"].unique()
    )
    assert "R@5 (points)" in ax.get_xlabel() and "top-1" not in ax.get_xlabel()


def test_a_plot_has_one_to_three_comparisons():
    table = pd.DataFrame({"comparison": list("abcd"), "scope": "x", "measure": "R@5"})
    for wrong in (table, table.iloc[:0]):
        with pytest.raises(ValueError, match=f"has {len(wrong)} comparisons"):
            difference_plot(wrong)
    with pytest.raises(ValueError, match="no comparisons"):
        comparisons_in_words(table.iloc[:0])


def test_classes_in_words():
    def ranks_of(name, alpha, draw, data_set, direction):
        group = np.arange(40) % 4  # class 0 gains, class 1 loses, class 2 stays, class 3 gains once
        once = (group == 3) & (np.arange(40) == 3)
        better = (group == 0) | once if alpha > 0 else group == 1
        return np.where(better, 1.0, 2.0)

    table = per_class_table(cells(ranks_of, sweep_places()), data_set="acts")
    words = classes_in_words(table)
    assert "rises in 2 of 4 classes, falls in 1 and stays in 1" in words
    assert "clips in a class: 10)" in words
    assert "Shown to be higher: 1 — class0 (+100)." in words
    assert "Shown to be lower: 1 — class1 (-100)." in words
    assert "Shown to be higher: 0. " in classes_in_words(table.assign(verdict="undecided"))
    with pytest.raises(ValueError, match="no classes"):
        classes_in_words(table.iloc[:0])
