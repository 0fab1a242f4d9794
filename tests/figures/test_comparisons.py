"""The tests of fusion, in numbers and words, and the headline table."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures.comparisons import decision, fusion_comparisons, holm, p_in_words, verdict
from figures.headline import headline_table
from figures.measures import ZERO_SHOT
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell, metric_table
from tests.figures.made import SWEPT, first, hits, of, sweep, swept_hits, together


def row_of(table, scope, versus):
    found = table[(table["scope"] == scope) & (table["versus"] == versus)]
    assert len(found) == 1
    return found.iloc[0]


def test_each_panel_and_each_of_several_data_sets_is_compared_with_both_ends():
    right = {(0, None): 10, (0.4, 1): 20, (0.4, 2): 30, (1, 1): 24, (1, 2): 28}
    outcomes = swept_hits(lambda _, alpha, draw: first(right[alpha, draw]), draws=(1, 2))
    table = fusion_comparisons(outcomes)
    scopes = ["in_domain", "zero_shot", "didemo", "msrvtt", "youcook2", "mit", "ucf101"]
    assert list(table["scope"].unique()) == scopes
    assert table["versus"].tolist() == ["teacher", "student"] * 7
    assert row_of(table, "zero_shot", "teacher")["n"] == 200
    assert row_of(table, "in_domain", "student")["measure"] == "webvid_val text-to-video R@5"
    for scope in ("in_domain", "zero_shot", "mit"):
        over_teacher, over_student = (row_of(table, scope, end) for end in ("teacher", "student"))
        assert over_teacher["difference"] == pytest.approx((10 + 20) / 2 / 40)
        assert over_student["difference"] == pytest.approx((-4 + 2) / 2 / 40)
        assert (over_teacher["draws_same_sign"], over_student["draws_same_sign"]) == (2, 1)
        assert over_student["draws"] == 2
    assert "2 draws of this sign" in verdict(table)


def test_intervals_and_p_values_are_those_of_the_paired_test():
    rng = np.random.default_rng(1)
    outcomes = swept_hits(lambda _, alpha, __: rng.random(40) < 0.4 + 0.3 * alpha)
    table = fusion_comparisons(outcomes)
    teacher = [hits(outcomes, one, [None], alpha=0) for one in ZERO_SHOT.measures]
    fused = [hits(outcomes, one, [1, 2, 3], alpha=0.4) for one in ZERO_SHOT.measures]
    expected = paired_difference(teacher, fused, n_resamples=10_000)
    found = row_of(table, "zero_shot", "teacher")
    names = ["difference", "ci_low", "ci_high", "p_value", "sign_flip_p"]
    assert found[names].tolist() == pytest.approx(
        [expected.estimate, expected.low, expected.high, expected.p_value, expected.sign_flip_p]
    )
    np.testing.assert_allclose(table["p_holm"], slow_holm(table["p_value"]))


@pytest.mark.parametrize("alpha", [0, 1, 0.5])
def test_only_a_fused_model_of_the_sweep_is_compared(alpha):
    with pytest.raises(ValueError, match=r"is an end of the sweep|is not in the sweep"):
        fusion_comparisons(swept_hits(lambda *_: first(20)), alpha)


@pytest.mark.parametrize(
    ("p_holm", "low", "high", "expected"),
    [
        (0.05, 0.1, 0.2, "higher"),
        (0.051, 0.1, 0.2, "undecided"),
        (0.01, -0.2, -0.1, "lower"),
        (0.01, -0.1, 0.1, "undecided"),
        (np.nan, np.nan, np.nan, "undecided"),
    ],
)
def test_decisions(p_holm, low, high, expected):
    row = {"p_holm": p_holm, "level": 0.95, "ci_low": low, "ci_high": high}
    assert decision(row) == expected


def slow_holm(p_values):
    """By definition: the largest (m - rank) * p over the tests that come no later in the order."""
    values = list(p_values)
    order = sorted(range(len(values)), key=lambda place: (values[place], place))
    corrected = [0.0] * len(values)
    for rank, place in enumerate(order):
        steps = [(len(values) - r) * values[order[r]] for r in range(rank + 1)]
        corrected[place] = min(1.0, max(steps))
    return corrected


def test_holm_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, then 1 * 0.04 lifted to 0.06.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_array_equal(holm(np.array([np.nan, 0.02, 0.01])), [np.nan, 0.02, 0.02])
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            holm(np.array([0.1, bad]))


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_the_definition_and_keeps_the_order(p_values):
    corrected = holm(np.array(p_values))
    np.testing.assert_allclose(corrected, slow_holm(p_values))
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()


# in words


def table_with(*verdicts, draws=3):
    numbers: dict[str, Any] = {
        "difference": 0.0312,
        "ci_low": -0.01,
        "ci_high": 0.0724,
        "n": 1000,
        "alpha": 0.4,
    }
    numbers |= {"draws": draws, "draws_same_sign": 2, "measure": "msrvtt R@5"}
    names = ("scope", "versus", "verdict", "p_holm")
    return pd.DataFrame([dict(zip(names, row, strict=True)) | numbers for row in verdicts])


def test_words_follow_the_numbers():
    table = table_with(
        ("in_domain", "teacher", "higher", 0.0004),
        ("in_domain", "student", "higher", 0.0123),
        ("zero_shot", "teacher", "undecided", 0.3),
        ("zero_shot", "student", "lower", 0.01),
    )
    in_domain, zero_shot, note = verdict(table).split("\n\n")
    assert in_domain.splitlines() == [
        "**in_domain** (msrvtt R@5, n = 1000): fusion is higher than both ends.",
        "- fused (α = 0.4) − teacher: +3.1 [-1.0, +7.2], p < 0.001, 2 of 3 draws of this sign: "
        "higher",
        "- fused (α = 0.4) − student: +3.1 [-1.0, +7.2], p = 0.012, 2 of 3 draws of this sign: "
        "higher",
    ]
    assert zero_shot.splitlines()[0].endswith(
        "fusion is undecided against the teacher, lower than the student; "
        "it is not shown to beat both ends."
    )
    assert "p-values are of the same t, Holm-corrected for 4 comparisons" in note
    assert "over items and draws" in note
    single = verdict(table_with(("mit", "teacher", "higher", 0.01), draws=1))
    assert "one draw" in single and "of this sign" not in single
    assert p_in_words(np.nan) == "no test"
    with pytest.raises(ValueError, match="no comparisons"):
        verdict(table_with())


# the headline table


def test_headline_table_by_hand():
    right = {(0, None): 10, (0.4, 1): 20, (0.4, 2): 30, (1, 1): 8, (1, 2): 12}
    outcomes = swept_hits(lambda _, alpha, draw: first(right[alpha, draw]), draws=(1, 2))
    reference = of(Cell("msrvtt", model="another"), np.ones(40), "text_to_video")
    table = headline_table(metric_table(together([outcomes, reference])))
    rows: Any = table.to_dict("index")
    found = rows["msrvtt", "text_to_video", "R@5"]
    assert [found[name] for name in ("teacher", "student", "fused")] == [25, 25, 62.5]
    assert found["improvement"] == 37.5
    assert found["error_rate_reduction"] == pytest.approx(100 * 37.5 / 75)
    assert (found["n"], found["draws"]) == (40, 2)
    # Medians: 5.5 for the teacher, 5.25 and 5 for the draws; a lower rank is an improvement.
    median = rows["msrvtt", "text_to_video", "MdR"]
    assert median["improvement"] == pytest.approx(5.5 - (5.25 + 5) / 2)
    assert median["error_rate_reduction"] == pytest.approx(100 * (5.5 - 5.125) / 5.5)
    # Every rank is below 10: no error is left to reduce.
    assert pd.isna(rows["msrvtt", "text_to_video", "R@10"]["error_rate_reduction"])


def test_headline_table_refuses_holes():
    metrics = metric_table(sweep(lambda *_: 1.0, measures=SWEPT[-2:]))
    assert headline_table(metrics.assign(clips=44))["of"].tolist() == [44] * 4
    with pytest.raises(ValueError, match=r"no metrics of the fused \(alpha 0\.3\)"):
        headline_table(metrics, alpha=0.3)
    hole = (metrics["draw"] == 1) & (metrics["alpha"] == 0.4) & (metrics["data_set"] == "mit")
    with pytest.raises(ValueError, match="do not cover the same data sets and draws"):
        headline_table(metrics[~hole.fillna(False)])
    other = metrics[metrics["draw"].notna()].assign(labelled_clips=5)
    with pytest.raises(ValueError, match="trained in different ways"):
        headline_table(pd.concat([metrics, other]))
    fewer = metrics.assign(n=metrics["n"].where(metrics["alpha"] != 0.4, 39))
    with pytest.raises(ValueError, match="not measured on equally many clips of mit"):
        headline_table(fewer)
