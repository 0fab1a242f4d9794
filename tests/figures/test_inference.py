"""Bands, the best, the selection gap and classes, against slow ways, hand and trusted values."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from figures import inference
from figures.inference import (
    compared_with_best,
    gail_simon_p_value,
    heterogeneity_p_value,
    per_class_differences,
    qualitative_interaction_p_value,
    selection_gap,
    simultaneous_band,
)
from fitclip_core.metrics import per_class_accuracy
from fitclip_core.statistics import crossed_interval

normal = scipy.stats.norm


def slow_curve(sets: list[np.ndarray], draws: Any, rng: np.random.Generator) -> np.ndarray:
    """[points]: means of these draws and of resampled items, averaged over data sets."""
    means = []
    for data in sets:
        items = rng.integers(0, data.shape[1], data.shape[1])
        means.append(data[draws if len(data) > 1 else [0]][:, items].mean(axis=(0, 1)))
    return np.mean(means, axis=0)


def slow_deviations(sets: list[np.ndarray], seed: int) -> np.ndarray:
    """[resamples, points], of three draws of which one is left out."""
    rng = np.random.default_rng(seed)
    curves = [slow_curve(sets, rng.integers(0, 3, 2), rng) for _ in range(4000)]
    return np.array(curves) - np.mean([data.mean(axis=(0, 1)) for data in sets], axis=0)


def half_width(values: Any, level: float = 0.95) -> float:
    interval = crossed_interval(values, level=level)
    return interval.high - interval.estimate


# Bands


def test_band_equals_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    effect = 0.2 * rng.normal(size=(3, 1, 1)) * np.linspace(0, 1, 4)
    sets = [rng.normal(size=(3, 40, 4)).cumsum(axis=2) + effect, rng.normal(size=(1, 25, 4))]
    band = simultaneous_band([sets[0], sets[1][0]], n_resamples=20_000)
    off = slow_deviations(sets, 1)
    largest = np.abs(off / off.std(axis=0)).max(axis=1)
    factor = np.quantile(largest, 0.95) / normal.ppf(0.975)
    assert factor > 1.1
    assert band.n == 65
    expected = [factor * half_width([data[..., point] for data in sets]) for point in range(4)]
    assert band.estimate == pytest.approx(np.mean([data.mean(axis=(0, 1)) for data in sets], 0))
    assert band.high - band.estimate == pytest.approx(np.array(expected), rel=0.03)
    assert band.estimate - band.low == pytest.approx(np.array(expected), rel=0.03)


def test_band_is_as_wide_as_the_points_are_unlike() -> None:
    values = np.random.default_rng(0).normal(size=(400, 6))
    # Six points that move as one need no more than one point does.
    alike = simultaneous_band(np.repeat(values[:, :1], 6, axis=1), n_resamples=20_000)
    single = half_width(values[:, 0])
    assert alike.high - alike.estimate == pytest.approx(np.full(6, single), abs=0.002)
    # Six independent ones need the quantile of the sixth root.
    needed = normal.ppf((1 + 0.95 ** (1 / 6)) / 2) / normal.ppf(0.975)
    unlike = simultaneous_band(values, n_resamples=20_000)
    assert (unlike.high - unlike.estimate)[0] / single == pytest.approx(needed, rel=0.02)


def test_points_without_spread_do_not_change_the_band() -> None:
    values = (np.random.default_rng(0).random((3, 50, 3)) < 0.3).astype(float)
    constant = np.full((3, 50, 1), 1 / 3)  # its resamples differ by rounding
    band = simultaneous_band(values)
    wider = simultaneous_band(np.concatenate([constant, values], axis=2))
    assert wider.low[1:] == pytest.approx(band.low)
    assert (wider.low[0], wider.high[0]) == pytest.approx((1 / 3, 1 / 3), abs=1e-12)
    still = simultaneous_band(np.ones((9, 2)))
    assert still.low.tolist() == still.estimate.tolist() == still.high.tolist() == [1, 1]
    one_item = simultaneous_band(np.ones((1, 4)))
    assert np.isnan([one_item.low, one_item.high]).all() and one_item.estimate.tolist() == [1] * 4


def test_the_teacher_repeated_for_each_draw_is_the_teacher_once() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.random((40, 1)), rng.random((3, 40, 1))
    repeated = np.broadcast_to(teacher, (3, 40, 1))
    band = simultaneous_band(np.concatenate([repeated, student], axis=2))
    single = [half_width(teacher[:, 0]), half_width(student[..., 0])]
    factors = (band.high - band.estimate) / single
    assert factors[0] == pytest.approx(factors[1]) and factors[0] > 1
    # Draws alone differ: resamples are few and far, and their quantile is below that of one point.
    values = np.array([-1.0, 0, 1])[:, None, None] * np.ones((3, 20, 2))
    low = simultaneous_band(values).low.tolist()
    assert low == [crossed_interval(values[..., 0]).low] * 2


CURVE = np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simultaneous_band(np.ones(3)), r"must be a non-empty \[items, points\]"),
        (lambda: simultaneous_band(np.ones((2, 3, 4, 5))), r"\[draws, items, points\]"),
        (lambda: simultaneous_band([np.ones((3, 4)), np.ones((3, 5))]), r"have \[4, 5\] points"),
        (lambda: simultaneous_band([np.ones((2, 3, 4)), np.ones((3, 3, 4))]), "draws differ"),
        (lambda: simultaneous_band(CURVE * np.nan), "NaN"),
        (lambda: simultaneous_band(CURVE, n_resamples=0), "n_resamples is 0"),
        (lambda: compared_with_best(np.ones((9, 1))), "there is one point"),
        (lambda: compared_with_best(CURVE * np.nan), "NaN"),
        (lambda: selection_gap(CURVE, CURVE, [0, 1, 2], n_resamples=0), "n_resamples is 0"),
        (lambda: selection_gap(CURVE, CURVE, [0, 1]), "ascending alphas"),
        (lambda: selection_gap(CURVE, CURVE, [0, 0.5, 0.5]), "ascending alphas"),
        (lambda: selection_gap(CURVE, CURVE, [1, 0.5, 0]), "ascending alphas"),
        (lambda: selection_gap(CURVE, CURVE, [[0, 0.5, 1]]), "ascending alphas"),
        (lambda: selection_gap(CURVE, CURVE, [0, np.nan, 1]), "ascending alphas"),
        (lambda: selection_gap(CURVE, np.ones((4, 2)), [0, 0.5, 1]), "ascending alphas"),
    ],
)
def test_bad_curves_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# The best


def test_comparisons_equal_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_RESAMPLES", 20_000)
    rng = np.random.default_rng(0)
    effect = 0.1 * rng.normal(size=(3, 1, 1)) * np.linspace(0, 1, 5)
    sets = [rng.normal(size=(3, 60, 5)).cumsum(axis=2) + effect, rng.normal(size=(1, 40, 5))]
    sets[0] += [0.0, 0.5, 0.6, 0.3, -1.2]
    best = compared_with_best([sets[0], sets[1][0]])
    means = np.mean([data.mean(axis=(0, 1)) for data in sets], axis=0)
    off = slow_deviations(sets, 7)
    reach = np.zeros((5, 5))  # [point, other]: of the one-sided bound of other - point
    others = {i: [j for j in range(5) if j != i] for i in range(5)}
    for i in range(5):
        gaps = off[:, others[i]] - off[:, [i]]
        factor = np.quantile((gaps / gaps.std(axis=0)).max(axis=1), 0.95) / normal.ppf(0.95)
        for j in others[i]:
            single = half_width([data[..., j] - data[..., i] for data in sets], level=0.9)
            reach[i, j] = max(1, factor) * single
    left = [all(means[j] - means[i] - reach[i, j] <= 0 for j in others[i]) for i in range(5)]
    assert 1 < sum(left) < 5
    assert best.left.tolist() == left and best.n == 100
    for i in range(5):
        strongest = max(others[i], key=lambda j: means[j])
        low = -max([0.0, *(means[j] - means[i] + reach[j, i] for j in others[i] if left[j])])
        high = min(means[i] - means[j] + reach[i, j] for j in others[i])
        assert best.lead[i] == pytest.approx(means[i] - means[strongest])
        assert best.low[i] == pytest.approx(low, abs=0.02)
        assert best.high[i] == pytest.approx(high, abs=0.02)
        assert best.reach[i] == pytest.approx(reach[strongest, i], rel=0.04)


def test_gaps_that_move_as_one_have_the_bounds_of_a_single_pair() -> None:
    values = np.random.default_rng(0).normal(size=(500, 6))
    values = np.hstack([5 + 5 * values[:, :1], 0.01 * values[:, 1:]])
    best = compared_with_best(values)
    error = values[:, 0].std(ddof=1) / np.sqrt(500)
    assert best.reach[1:] == pytest.approx(np.full(5, normal.ppf(0.95) * error), rel=0.05)
    assert best.low[1:] == pytest.approx(best.lead[1:] - best.reach[1:], rel=1e-9)
    assert best.high[1:].max() < -4


def test_points_that_are_alike_are_left_together_and_one_above_all_alone() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random((3, 50, 1)) < 0.5, 4, axis=2)
    same = compared_with_best(values.astype(float))
    assert same.left.all()
    for ends in (same.lead, same.low, same.high, same.reach):
        assert ends.tolist() == [0] * 4
    # A fifth that never succeeds is out, and the others stay.
    both = compared_with_best(np.concatenate([values, values[..., :1] & False], 2))
    assert both.left.tolist() == [True] * 4 + [False]
    above = compared_with_best((rng.random((200, 3)) < [0.2, 0.9, 0.3]).astype(float))
    assert above.left.tolist() == [False, True, False]
    assert above.low[1] == 0 and above.high[1] > 0
    assert (above.high[[0, 2]] < 0).all() and (above.low <= above.lead).all()
    one_item = compared_with_best(np.array([[1.0, 0.0]]))
    assert one_item.left.all()
    assert np.isnan([one_item.low, one_item.high, one_item.reach]).all()


@pytest.mark.parametrize("lift", [0.0, 0.04])
def test_the_best_is_left_and_what_others_lose_is_bounded(
    lift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three students on 300 items: the best, of equal ones each, is left in 95% of studies."""
    monkeypatch.setattr(inference, "_RESAMPLES", 300)
    rng = np.random.default_rng(3)
    truth = np.array([0.4, 0.4 + lift, 0.4, 0.4])
    studies, left, held = 300, np.zeros(4), 0
    cut = np.sqrt(0.4**2 + 1 + 0.5**2 + 0.02**2) * normal.ppf(truth)
    for _ in range(studies):
        items = rng.normal(size=(300, 4)) * 0.4 + rng.normal(size=(300, 1))
        latent = items + 0.5 * rng.normal(size=(3, 300, 4)) + 0.02 * rng.normal(size=(3, 1, 4))
        best = compared_with_best((latent < cut).astype(float))
        left += best.left
        held += bool((truth - truth.max() >= best.low - 1e-12).all())
    highest = truth == truth.max()
    assert (left[highest] / studies > 0.91).all()
    assert held / studies > 0.91
    if lift:
        assert (left[~highest] < left[highest]).all()


# The selection gap


def test_selection_gap_by_hand() -> None:
    validation = np.array([[0, 1, 1], [1, 1, 1], [0, 1, 1.0]])  # 0.4 and 1 tie: the smaller one
    test = np.array([[0, 0, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0.0]])
    gap = selection_gap(validation, test, [0.0, 0.4, 1.0])
    assert list(vars(gap).values()) == [0.4, 1.0, 0.5, 0, 1, 4]
    same = selection_gap(test, test, [0.0, 0.4, 1.0])
    assert (same.chosen, same.hindsight, same.gap) == (1, 1, 0)
    rounded = np.array([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]])  # equal means, but for rounding
    assert rounded[:, 0].mean() < rounded[:, 1].mean()
    assert selection_gap(rounded, rounded, [0, 1]).chosen == 0
    # Each draw has its own best alpha, the same in both: chosen together, nothing is ever lost.
    curves = np.eye(3)[:, None, :] * np.ones((3, 20, 3))
    shared = selection_gap(curves, 2 * curves, [0, 0.5, 1])
    assert (shared.gap, shared.low, shared.high) == (0, 0, 0)


def test_selection_gap_equals_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    effect = 0.3 * rng.normal(size=(3, 1, 4))
    validation = [rng.normal(size=(3, 12, 4)) + effect, rng.normal(size=(1, 9, 4))]
    test = [rng.normal(size=(3, 20, 4)) + effect + [0, 0.1, 0.2, 0.5]]
    gaps = []
    for _ in range(6000):
        draws = rng.integers(0, 3, 2)
        chosen = slow_curve(validation, draws, rng).argmax()
        curve = slow_curve(test, draws, rng)
        gaps.append(curve.max() - curve[chosen])
    gap = selection_gap(validation, test, [0, 1, 2, 3], n_resamples=20_000)
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert gap.low == pytest.approx(low, abs=0.02 * np.std(gaps))
    assert gap.high == pytest.approx(high, rel=0.05)
    assert selection_gap(validation, test, [0, 1, 2, 3], n_resamples=20_000) == gap


def test_selection_gap_holds_its_estimate_and_one_item_has_no_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fine = np.linspace(0, 1, 60)
    validation = np.random.default_rng(0).normal(size=(5, 60))
    single = selection_gap(validation[:1], validation, fine)
    assert np.isnan([single.low, single.high]).all()
    monkeypatch.setattr(inference, "_LEVEL", 0.1)  # most resamples have a gap
    gap = selection_gap(validation, validation, fine)
    assert (gap.gap, gap.low) == (0, 0) and gap.high > 0


# Each class by itself


def test_class_differences_of_one_draw_by_hand() -> None:
    labels = ["b"] * 10 + ["a"] * 4
    first = [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    second = [1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0]
    table = per_class_differences(first, second, labels)
    assert table["class"].tolist() == ["a", "b"]
    assert table["n"].tolist() == [4, 10]
    assert table["difference"].tolist() == pytest.approx([0, 0.4])
    # Bonett and Price: of n + 2 pairs, 5 + 1 gained and 1 + 1 lost.
    gained, lost = 6 / 12, 2 / 12
    reach = normal.ppf(0.975) * np.sqrt((gained + lost - (gained - lost) ** 2) / 12)
    ends = [gained - lost - reach, gained - lost + reach]
    assert list(table.loc[1, ["low", "high"]]) == pytest.approx(ends)
    # Of 64 flips of 6 pairs, 1 + 6 are as far to one side.
    assert table["p_value"].tolist() == pytest.approx([1, 2 * 7 / 64])
    assert table["q_value"].tolist() == pytest.approx([1, 4 * 7 / 64])
    # Nothing differs in class a, and its interval is not empty: 1 pair of 6 each way.
    assert table["high"][0] == pytest.approx(normal.ppf(0.975) * np.sqrt(2 / 6 / 6))
    assert table["low"][0] == -table["high"][0]


@pytest.mark.parametrize(("items", "draws"), [(1, 1), (6, 1), (9, 3), (8, 2)])
def test_class_p_value_is_the_larger_of_all_sign_flips_and_the_intervals(
    items: int, draws: int
) -> None:
    rng = np.random.default_rng(items)
    for _ in range(5):
        first, second = rng.integers(0, 2, items), rng.integers(0, 2, (draws, items))
        sums = (second - first).sum(axis=0)
        flipped = [sums @ signs for signs in itertools.product((-1, 1), repeat=items)]
        row = per_class_differences(first, second, np.zeros(items)).iloc[0]
        assert row["sign_flip_p"] == pytest.approx(np.mean(np.abs(flipped) >= abs(sums.sum())))
        assert row["p_value"] >= row["sign_flip_p"]
        for candidate in np.geomspace(1e-4, 0.9999, 40):
            level = 1 - candidate
            other = per_class_differences(first, second, np.zeros(items), level=level).iloc[0]
            leaves_out = other["low"] > 0 or other["high"] < 0
            if candidate != pytest.approx(row["p_value"]):
                small = leaves_out and row["sign_flip_p"] <= candidate
                assert small == (row["p_value"] <= candidate)


def test_class_tests_of_draws_that_disagree_and_of_many_items() -> None:
    draws = np.array([[1.0], [1.0], [0.0]]) * np.ones(40)
    row = per_class_differences(np.zeros(40), draws, np.zeros(40)).iloc[0]
    assert row["sign_flip_p"] < 1e-9
    assert row["p_value"] == row["q_value"] > 0.05
    assert row["low"] < 0 < row["high"]
    first, second = (np.repeat(right, [900, 1100, 500]) for right in ([1, 0, 1], [0, 1, 1]))
    row = per_class_differences(first, second, np.zeros(2500)).iloc[0]
    assert row["sign_flip_p"] == pytest.approx(scipy.stats.binomtest(900, 2000).pvalue)  # McNemar


def test_class_differences_agree_with_the_accuracies_and_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    labels = pd.Series(rng.integers(0, 12, 400), index=range(1000, 1400))
    first, second = rng.integers(1, 4, 400), rng.integers(1, 3, 400)
    table = per_class_differences(first <= 1, second <= 1, labels)
    accuracies = [per_class_accuracy(ranks, labels)["accuracy"] for ranks in (first, second)]
    assert table["difference"].to_numpy() == pytest.approx(accuracies[1] - accuracies[0])
    p_values = np.sort(table["p_value"])
    stepped = [min(p_values[j] * 12 / (j + 1) for j in range(i, 12)) for i in range(12)]
    assert np.sort(table["q_value"]) == pytest.approx(stepped)


@given(seed=st.integers(0, 10**6), items=st.integers(1, 12), draws=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_class_interval_holds_the_difference_and_swaps_with_the_sides(
    seed: int, items: int, draws: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random((draws, items)) < accuracy for accuracy in rng.random(2))
    row = per_class_differences(first, second, ["x"] * items).iloc[0]
    swapped = per_class_differences(second, first, ["x"] * items).iloc[0]
    assert -1 <= row["low"] < row["high"] <= 1
    assert row["low"] <= row["difference"] <= row["high"]
    assert (row["low"], row["high"]) == pytest.approx((-swapped["high"], -swapped["low"]))
    assert row["p_value"] == pytest.approx(swapped["p_value"])


@pytest.mark.parametrize(
    ("first", "second", "labels", "message"),
    [
        ([0, 2], [0, 1], ["a", "a"], "first holds other values than 0 and 1"),
        ([0, 1], [0, 0.5], ["a", "a"], "second holds other values"),
        ([0, 1], [0, 1, 1], ["a", "a"], "2, 3 and 2 items"),
        ([0, 1], [0, 1], ["a"], "2, 2 and 1 items"),
        ([0, 1], [0, 1], ["a", None], "label 1 is missing"),
        (np.ones((2, 3)), np.ones((3, 3)), ["a"] * 3, "draws differ"),
        ([], [], [], "non-empty"),
    ],
)
def test_bad_classes_are_refused(first: Any, second: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_class_differences(first, second, labels)


# All classes together


def between(differences: Any, labels: Any) -> float:
    """The sum of squares between classes, class by class."""
    values, names = np.array(differences), np.array(list(labels))
    groups = [values[names == label] for label in set(labels)]
    return sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups)


@pytest.mark.parametrize(
    ("differences", "labels"),
    [
        ([1, 1, 1, 0, -1, 0, -1], "aaabbbc"),
        ([1, 0, 0, -1, 0, 0, 1], "abababa"),  # ties
        ([2 / 3, 1 / 3, 1 / 3, -1 / 3, 0, 0], "ccabab"),
    ],
)
def test_heterogeneity_equals_all_permutations(
    differences: list[float], labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = between(differences, labels)
    orders = list(itertools.permutations(labels))
    exact = np.mean([between(differences, order) >= observed - 1e-12 for order in orders])
    p_value = heterogeneity_p_value(differences, list(labels))
    assert p_value == pytest.approx(exact, abs=0.02)
    monkeypatch.setattr(inference, "_CHUNK", 1000)
    assert heterogeneity_p_value(differences, list(labels)) == p_value


def test_heterogeneity_of_clear_cases() -> None:
    halves = np.repeat(["a", "b"], 20)
    assert heterogeneity_p_value(np.ones(40), halves) == 1
    assert heterogeneity_p_value(np.random.default_rng(0).normal(size=9), ["a"] * 9) == 1
    assert heterogeneity_p_value(np.repeat([1.0, 0.0], 20), halves) == 1 / 10_001


def test_gail_simon_by_hand() -> None:
    # Chi-square tails: with 1 degree of freedom erfc(sqrt(q / 2)), with 2 exp(-q / 2).
    def tail(q: float) -> float:
        return math.erfc(math.sqrt(q / 2))

    assert gail_simon_p_value([2, -1.5], [1, 1]) == pytest.approx(0.5 * tail(2.25))
    # Q+ = 4 + 1 = 5, Q- = 2.25 + 1 = 3.25; of two other signs 0, 1 or 2 may oppose.
    of_three = 0.5 * tail(2.25) + 0.25 * math.exp(-2.25 / 2)
    assert gail_simon_p_value([2, 1, -3], [1, 1, 2]) == pytest.approx(of_three)
    three = tail(3.25) + math.sqrt(2 * 3.25 / math.pi) * math.exp(-3.25 / 2)
    of_four = 3 / 8 * tail(3.25) + 3 / 8 * math.exp(-3.25 / 2) + 1 / 8 * three
    assert gail_simon_p_value([2, 1, -3, -2], [1, 1, 2, 2]) == pytest.approx(of_four)
    for effects in ([], [1.0], [1.0, 2.0, 0.0], [-3.0, 0.0]):
        assert gail_simon_p_value(effects, np.ones(len(effects))) == 1
    # Their table's critical values at 5%, by number of classes.
    for classes, critical in ((2, 2.71), (3, 4.23), (4, 5.43), (5, 6.50)):
        effects = [9, -math.sqrt(critical), *[0] * (classes - 2)]
        assert gail_simon_p_value(effects, np.ones(classes)) == pytest.approx(0.05, abs=0.0005)


def test_a_qualitative_interaction_by_hand() -> None:
    # Sums 3 and -2, sums of squares 3 and 2: Q+ = 3, Q- = 2; the third class never differs.
    differences = [1, 1, 1, 0, -1, 0, 0, -1, 0, 0]
    labels = ["x"] * 4 + ["y"] * 4 + ["z"] * 2
    expected = pytest.approx(0.5 * math.erfc(1))
    assert qualitative_interaction_p_value(differences, labels) == expected
    assert qualitative_interaction_p_value(differences[::-1], labels[::-1]) == expected
    assert qualitative_interaction_p_value(differences[:4], labels[:4]) == 1
    assert qualitative_interaction_p_value([0, 0], ["x", "y"]) == 1


@pytest.mark.parametrize("test", [heterogeneity_p_value, qualitative_interaction_p_value])
def test_bad_items_are_refused(test: Any) -> None:
    for differences, labels in (([], []), ([1.0, 0.0], ["a"]), ([[1.0]], [["a"]])):
        with pytest.raises(ValueError, match="one of each for every item"):
            test(differences, labels)
    with pytest.raises(ValueError, match="NaN"):
        test([1.0, np.nan], ["a", "b"])
