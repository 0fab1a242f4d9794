import itertools

import numpy as np
import pandas as pd
import pytest

from figures.beyond import (
    comparisons_in_words,
    difference_plot,
    direction_comparisons,
    variant_comparisons,
)
from figures.comparisons import holm
from figures.measures import Measure
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import AVERAGE, CLASSIFICATION, Cell
from tests.figures.made import DRAWS, TRAINING, hits, noisy, of, together

TEXTS = ("text_to_video", "video_to_text")
DIRECTIONS = {"webvid_val": TEXTS, "msrvtt": TEXTS, "mit": (CLASSIFICATION,)}
SCOPES = {
    "in_domain": [Measure("webvid_val", TEXTS[0], 5)],
    "zero_shot": [Measure("msrvtt", TEXTS[0], 5), Measure("mit", CLASSIFICATION, 1)],
    "msrvtt": [Measure("msrvtt", TEXTS[0], 5)],
    "mit": [Measure("mit", CLASSIFICATION, 1)],
}
NAMES = ["difference", "ci_low", "ci_high", "p_value"]


def place(merge, alpha, draw=None):
    """A cell's coordinates but for the data set; "renormalised" is told from a merge."""
    renormalise = merge == "renormalised"
    plain = {"merge": AVERAGE if renormalise or not alpha else merge, "renormalise": renormalise}
    return plain | {"alpha": alpha, "draw": draw} | (TRAINING if alpha else {})


def cells(ranks_of, places, items=40):
    return together(
        of(
            Cell(data_set, **where),
            np.broadcast_to(ranks_of(data_set, direction, where), items),
            direction,
        )
        for where, data_set in itertools.product(places, DIRECTIONS)
        for direction in DIRECTIONS[data_set]
    )


PLAIN = [place(AVERAGE, 0), *(place(AVERAGE, a, draw) for a in (0.4, 1.0) for draw in DRAWS)]


def test_directions_are_the_paired_tests_of_the_looked_up_hits():
    outcomes = cells(noisy(), PLAIN)
    table = direction_comparisons(outcomes.sample(frac=1, random_state=0))
    # MSR-VTT is the only retrieval set of its panel: listed once, under the panel's name.
    assert table["scope"].tolist() == ["in_domain"] * 3 + ["zero_shot_retrieval"] * 3
    for data_set, (_, rows) in zip(("webvid_val", "msrvtt"), table.groupby("scope"), strict=True):
        sides = []
        for direction, row in zip(TEXTS, rows.to_dict("records"), strict=False):
            measure = Measure(data_set, direction, 5)
            teacher = hits(outcomes, measure, [None], alpha=0)
            fused = hits(outcomes, measure, DRAWS, alpha=0.4)
            found = paired_difference(teacher, fused)
            expected = [found.estimate, found.low, found.high, found.p_value]
            assert [row[name] for name in NAMES] == pytest.approx(expected)
            assert (row["first"], row["second"]) == pytest.approx((teacher.mean(), fused.mean()))
            assert row["measure"] == f"{data_set} {direction.replace('_', '-')} R@5"
            assert direction.replace("_", "-") in row["comparison"]
            sides.append(fused - teacher)
        found = paired_difference(*sides)
        gain = rows.iloc[2]
        expected = [found.estimate, found.low, found.high, found.p_value]
        assert gain[NAMES].tolist() == pytest.approx(expected)
        assert gain["difference"] == pytest.approx(rows["difference"].iloc[:2].diff().iloc[1])
        assert gain["measure"] == f"{data_set} R@5"
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"].to_numpy()))


def test_where_clips_have_several_texts_the_directions_are_compared_on_first_texts():
    """Every video has its first text's name in video-to-text; there are 10 texts more."""
    outcomes = cells(noisy(), PLAIN)
    more = outcomes[(outcomes["direction"] == TEXTS[0]) & (outcomes["item"] < "clip0010")]
    more = more.assign(item=more["item"].astype(str) + "_again", rank=1.0)
    whole = direction_comparisons(outcomes)
    table = direction_comparisons(together([outcomes, more]))
    assert table["n"].tolist() == [50, 40, 40] * 2
    pd.testing.assert_frame_equal(table[NAMES].iloc[1:3], whole[NAMES].iloc[1:3])
    assert table["first"].iloc[0] > whole["first"].iloc[0]


def test_a_gain_in_one_direction_alone_is_told_apart():
    def ranks_of(data_set, direction, where):
        return 1.0 if where["alpha"] > 0 and direction == TEXTS[1] else 9.0

    outcomes = cells(ranks_of, PLAIN)
    table = direction_comparisons(outcomes[outcomes["data_set"] == "webvid_val"])
    assert table["verdict"].tolist() == ["undecided", "higher", "higher"]
    assert table["difference"].tolist() == [0, 1, 1]
    words = comparisons_in_words(table)
    assert "0 higher, 0 lower, 1 undecided (1 of them with equal outcomes throughout)." in words
    shown = "  - in_domain (webvid_val video-to-text R@5): +100.0 [+100.0, +100.0], p < 0.001, "
    assert f"{shown}3 of 3 draws of this sign: higher" in words
    assert "of the same t, Holm-corrected for 3 comparisons" in words and "items and draws" in words
    with pytest.raises(ValueError, match="no retrieval"):
        direction_comparisons(outcomes[outcomes["data_set"] == "mit"])


def test_variants_are_compared_with_the_plain_sweep_of_the_same_draws_and_alpha():
    near = [place("renormalised", 0), *(place("renormalised", alpha, 2) for alpha in (0.4, 1.0))]
    far = [place("far_off", 0.4, draw) for draw in (1, 3)]
    outcomes = cells(noisy(), [*PLAIN, *near, *far])
    names = ["renormalised", "far_off"]
    table = variant_comparisons(outcomes.sample(frac=1, random_state=1), names)
    expected = [f"renormalised − plain, α = {alpha}" for alpha in ("0", "0.4", "1")]
    assert list(dict.fromkeys(table["comparison"])) == [*expected, "far off − plain, α = 0.4"]
    assert table["scope"].tolist() == [*SCOPES] * 4
    for row in table.to_dict("records"):
        renormalised = row["comparison"].startswith("renormalised")
        draws = ([2] if row["alpha"] else [None]) if renormalised else [1, 3]
        variant = {"merge": AVERAGE if renormalised else "far_off", "renormalise": renormalised}
        plain, other = (
            [
                hits(outcomes, one, draws, alpha=row["alpha"], **where)
                for one in SCOPES[row["scope"]]
            ]
            for where in ({"merge": AVERAGE, "renormalise": False}, variant)
        )
        found = paired_difference(plain, other)
        assert row["difference"] == pytest.approx(found.estimate, abs=1e-12)
        assert (row["ci_low"], row["p_value"]) == pytest.approx((found.low, found.p_value))
        assert row["first"] == pytest.approx(np.mean([one.mean() for one in plain]))
        assert (row["draws"], row["n"]) == (len(draws), found.n)
    alone = variant_comparisons(outcomes, ["far_off"])
    assert set(alone["comparison"]) == {"far off − plain"}
    assert "one draw" in comparisons_in_words(table[table["draws"] == 1])


def test_variants_need_the_plain_sweeps_alphas_draws_and_items():
    near = [place("near", 0.4, 2), place("near", 0.4, 4)]
    outcomes = cells(noisy(), [*PLAIN, *near, place("far", 0.7, 2)])
    gone = (outcomes["merge"] == "near") & (outcomes["item"] == "clip0007")
    fewer = outcomes[~gone & outcomes["draw"].ne(4).fillna(True)]
    for table, name, match in (
        (outcomes, "near", r"lacks draws \[4\]"),
        (fewer, "near", "other items than the variant"),
        (outcomes, "far", r"alpha 0\.7 was not measured"),
        (outcomes, "fisher", "'fisher'"),
    ):
        with pytest.raises(ValueError, match=match):
            variant_comparisons(table, [name])


def test_the_plot_shows_each_row_once_and_fills_what_is_decided():
    table = direction_comparisons(cells(noisy(seed=1), PLAIN))
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
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["in-domain", "zero-shot retrieval"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == list(table["comparison"].unique())
    assert "R@5 (points)" in ax.get_xlabel() and "top-1" not in ax.get_xlabel()


def test_a_plot_has_one_to_three_comparisons():
    table = pd.DataFrame({"comparison": list("abcd"), "scope": "x", "measure": "R@5"})
    for wrong in (table, table.iloc[:0]):
        with pytest.raises(ValueError, match=f"has {len(wrong)} comparisons"):
            difference_plot(wrong)
    with pytest.raises(ValueError, match="no comparisons"):
        comparisons_in_words(table.iloc[:0])
