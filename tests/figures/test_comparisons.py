import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures.alpha_curve import PANELS
from figures.comparisons import fusion_comparisons, holm, verdict
from figures.headline import headline_table
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell, metric_table, typed

MEASURES = [measure for panel in PANELS for measure in panel.measures]


def sweep(hit_of, *, items=40, draws=(0, 1, 2), alphas=(0, 0.4, 1)):
    """Outcomes whose hits are hit_of(data_set, alpha, draw) -> bool [items]."""
    tables = []
    for measure in MEASURES:
        for alpha in alphas:
            for draw in (-1,) if alpha == 0 else draws:
                key = Cell(
                    alpha=alpha,
                    labelled_share=1,
                    labelled_clips=9,
                    draw=draw,
                    data_set=measure.data_set,
                )
                hits = np.broadcast_to(hit_of(measure.data_set, alpha, draw), items)
                table = pd.DataFrame(
                    {
                        "item": [f"clip{place:03d}" for place in range(items)],
                        "direction": measure.direction,
                        "rank": np.where(hits, float(measure.k), measure.k + 0.5),
                    }
                )
                tables.append(table.assign(**vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def first(count):
    return np.arange(40) < count


def row_of(table, scope, versus):
    found = table[(table["scope"] == scope) & (table["versus"] == versus)]
    assert len(found) == 1
    return found.iloc[0]


def test_each_panel_and_each_of_several_data_sets_is_compared_with_both_ends():
    table = fusion_comparisons(sweep(lambda *_: first(20)), n_resamples=50)
    scopes = ["in_domain", "zero_shot", "didemo", "msrvtt", "youcook2", "mit", "ucf101"]
    assert list(table["scope"].unique()) == scopes
    assert table["versus"].tolist() == ["teacher", "student"] * 7
    assert row_of(table, "zero_shot", "teacher")["n"] == 200
    assert row_of(table, "in_domain", "student")["measure"] == "webvid_val text-to-video R@5"
    assert row_of(table, "mit", "student")["measure"] == "mit top-1"


def test_differences_by_hand():
    hits = {(0, -1): 10, (0.4, 0): 20, (0.4, 1): 30, (1, 0): 24, (1, 1): 28}
    outcomes = sweep(lambda data_set, alpha, draw: first(hits[alpha, draw]), draws=(0, 1))
    table = fusion_comparisons(outcomes, n_resamples=200)
    for scope in ("in_domain", "zero_shot", "mit"):
        over_teacher = row_of(table, scope, "teacher")
        assert over_teacher["difference"] == pytest.approx((10 + 20) / 2 / 40)
        assert over_teacher["draws_same_sign"] == 2
        over_student = row_of(table, scope, "student")
        assert over_student["difference"] == pytest.approx((-4 + 2) / 2 / 40)
        assert over_student["draws_same_sign"] == 1
        assert over_student["draws"] == 2


def test_intervals_and_p_values_are_those_of_the_paired_test():
    rng = np.random.default_rng(1)
    chance: dict[tuple, np.ndarray] = {}

    def hit_of(data_set, alpha, draw):
        return chance.setdefault((data_set, alpha, draw), rng.random(40) < 0.4 + 0.3 * alpha)

    table = fusion_comparisons(sweep(hit_of), n_resamples=500, seed=7)
    names = [measure.data_set for measure in PANELS[1].measures]
    teacher = [chance[name, 0, -1] * 1.0 for name in names]
    fused = [np.stack([chance[name, 0.4, draw] * 1.0 for draw in range(3)]) for name in names]
    expected = paired_difference(teacher, fused, n_resamples=500, seed=7)
    found = row_of(table, "zero_shot", "teacher")
    assert found["difference"] == expected.estimate
    assert (found["ci_low"], found["ci_high"]) == (expected.low, expected.high)
    assert (found["p_value"], found["sign_flip_p"]) == (expected.p_value, expected.sign_flip_p)
    np.testing.assert_allclose(table["p_holm"], slow_holm(table["p_value"]))


def test_clear_differences_are_called_and_others_are_not():
    hits = {0: 10, 0.4: 25, 1: 25}
    table = fusion_comparisons(sweep(lambda data_set, alpha, draw: first(hits[alpha])))
    assert set(table.loc[table["versus"] == "teacher", "verdict"]) == {"higher"}
    students = table[table["versus"] == "student"]
    assert set(students["verdict"]) == {"undecided"}
    assert set(students["p_holm"]) == {1.0}
    lower = fusion_comparisons(sweep(lambda data_set, alpha, draw: first(40 - hits[alpha])))
    assert set(lower.loc[lower["versus"] == "teacher", "verdict"]) == {"lower"}


def test_draws_that_disagree_leave_it_undecided_whatever_these_draws_show():
    # Two draws gain much, one loses much: items agree within draws.
    hits = {0: 36, 1: 36, 2: 4}

    def hit_of(data_set, alpha, draw):
        return first(hits[draw] if alpha == 0.4 else 15)

    found = row_of(fusion_comparisons(sweep(hit_of)), "zero_shot", "teacher")
    assert found["sign_flip_p"] < 0.001
    assert found["p_value"] > 0.05 and found["ci_low"] < 0 < found["difference"]
    assert found["draws_same_sign"] == 2
    assert found["verdict"] == "undecided"


def test_an_interval_off_0_is_undecided_where_the_correction_of_its_own_p_value_says_so():
    # As on the default run: three students gain, and how much they differ allows for more.
    def hit_of(data_set, alpha, draw):
        return first(15 + 5 * draw if alpha == 0.4 and data_set == "mit" else 0)

    table = fusion_comparisons(sweep(hit_of))
    found = row_of(table, "mit", "teacher")
    assert found["sign_flip_p"] < 0.05 / 14
    assert found["ci_low"] > 0 and found["p_value"] < 0.05 < found["p_holm"]
    assert found["verdict"] == "undecided"
    for row in table.to_dict("records"):
        assert (row["p_value"] <= 0.05) == (row["ci_low"] > 0 or row["ci_high"] < 0)


def test_what_one_item_cannot_test_is_no_part_of_the_family():
    table = fusion_comparisons(sweep(lambda _, alpha, __: np.array([alpha > 0]), items=1))
    assert table[["ci_low", "p_value", "p_holm"]].isna().all(axis=None)
    assert set(table["verdict"]) == {"undecided"}
    assert "no test" in verdict(table) and "p = nan" not in verdict(table)


def test_an_end_or_an_unmeasured_alpha_is_refused():
    outcomes = sweep(lambda *_: first(20))
    for end in (0, 1):
        with pytest.raises(ValueError, match="is an end of the sweep"):
            fusion_comparisons(outcomes, alpha=end, n_resamples=10)
    with pytest.raises(ValueError, match=r"alpha 0\.3 was not measured.*: 0, 0\.4, 1"):
        fusion_comparisons(outcomes, alpha=0.3, n_resamples=10)


# Holm


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
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([])).tolist() == []
    np.testing.assert_array_equal(holm(np.array([np.nan, 0.02, 0.01])), [np.nan, 0.02, 0.02])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_the_definition_and_keeps_the_order(p_values):
    corrected = holm(np.array(p_values))
    np.testing.assert_allclose(corrected, slow_holm(p_values))
    assert (corrected >= p_values).all()
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(bad):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        holm(np.array([0.1, bad]))


# in words


def table_with(*verdicts, draws=3):
    rows = [
        {
            "scope": scope,
            "measure": "msrvtt R@5",
            "versus": versus,
            "alpha": 0.4,
            "difference": 0.0312,
            "ci_low": -0.01,
            "ci_high": 0.0724,
            "p_value": 0.01,
            "p_holm": p_holm,
            "n": 1000,
            "draws": draws,
            "draws_same_sign": 2,
            "level": 0.95,
            "verdict": word,
        }
        for scope, versus, word, p_holm in verdicts
    ]
    return pd.DataFrame(rows)


def test_words_follow_the_numbers():
    text = verdict(
        table_with(
            ("in_domain", "teacher", "higher", 0.0004),
            ("in_domain", "student", "higher", 0.0123),
            ("zero_shot", "teacher", "undecided", 0.3),
            ("zero_shot", "student", "lower", 0.01),
        )
    )
    in_domain, zero_shot, note = text.split("\n\n")
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


def test_words_own_up_to_a_single_draw():
    assert "one draw" in verdict(table_with(("mit", "teacher", "higher", 0.01), draws=1))


def test_no_words_without_numbers():
    with pytest.raises(ValueError, match="no comparisons"):
        verdict(table_with())


# the headline table


def test_headline_table_by_hand():
    hits = {(0, -1): 10, (0.4, 0): 20, (0.4, 1): 30, (1, 0): 8, (1, 1): 12}
    outcomes = sweep(lambda data_set, alpha, draw: first(hits[alpha, draw]), draws=(0, 1))
    table = headline_table(metric_table(outcomes, n_resamples=10))
    table = table.droplevel(["data_set", "direction"])[table.index.get_level_values(0) == "msrvtt"]
    rows = {str(metric): row for metric, row in table.iterrows()}
    found = rows["R@5"]
    assert found[["teacher", "student", "fused"]].tolist() == [25, 25, 62.5]
    assert found["improvement"] == 37.5
    assert found["error_rate_reduction"] == pytest.approx(100 * 37.5 / 75)
    assert found[["n", "draws"]].tolist() == [40, 2]
    # Medians: 5.5 for the teacher, 5.25 and 5 for the draws; a lower rank is an improvement.
    median = rows["MdR"]
    assert median["improvement"] == pytest.approx(5.5 - (5.25 + 5) / 2)
    assert median["error_rate_reduction"] == pytest.approx(100 * (5.5 - 5.125) / 5.5)
    # Every rank is below 10: no error is left to reduce.
    assert np.isnan(rows["R@10"]["error_rate_reduction"])


def test_headline_table_refuses_holes():
    metrics = metric_table(sweep(lambda *_: first(20)), n_resamples=10)
    with pytest.raises(ValueError, match=r"no metrics of the fused \(alpha 0\.3\)"):
        headline_table(metrics, alpha=0.3)
    hole = (metrics["draw"] == 1) & (metrics["alpha"] == 0.4) & (metrics["data_set"] == "mit")
    with pytest.raises(ValueError, match="do not cover the same data sets and draws"):
        headline_table(metrics[~hole])
    mixed = pd.concat([metrics, metrics[metrics["draw"] == 1].assign(labelled_clips=5)])
    with pytest.raises(ValueError, match="trained in different ways"):
        headline_table(mixed)
