"""Bands, comparisons with the best, classes and the selection gap, against slow ways."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.inference import (
    compared_with_best,
    per_class_differences,
    selection_gap,
    simultaneous_band,
)
from fitclip_core.metrics import per_class_accuracy
from fitclip_core.statistics import crossed_interval


def slow_band_factor(sets: list[np.ndarray], level: float, n_resamples: int) -> float:
    """Quantile of the largest studentised deviation, in units of a single point's quantile."""
    rng = np.random.default_rng(1)
    draws = max(len(data) for data in sets)
    curves = []
    for _ in range(n_resamples):
        chosen = rng.integers(0, draws, max(draws - 1, 1))
        means = []
        for data in sets:
            rows = data[chosen if len(data) > 1 else [0]]
            items = rng.integers(0, data.shape[1], data.shape[1])
            means.append(rows[:, items].mean(axis=(0, 1)))
        curves.append(np.mean(means, axis=0))
    estimate = np.mean([data.mean(axis=(0, 1)) for data in sets], axis=0)
    deviations = np.abs(np.array(curves) - estimate) / np.std(curves, axis=0)
    return np.quantile(deviations.max(axis=1), level) / scipy.stats.norm.ppf((1 + level) / 2)


def test_band_equals_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    effect = 0.2 * rng.normal(size=(3, 1, 1)) * np.linspace(0, 1, 4)
    sets = [rng.normal(size=(3, 40, 4)).cumsum(axis=2) + effect, rng.normal(size=(25, 4))]
    band = simultaneous_band(sets, level=0.9, n_resamples=20_000)
    factor = slow_band_factor([sets[0], sets[1][None]], 0.9, 4000)
    assert factor > 1.1
    assert (band.level, band.n) == (0.9, 65)
    for point in range(4):
        single = crossed_interval([data[..., point] for data in sets], level=0.9)
        half_width = factor * (single.high - single.estimate)
        assert band.estimate[point] == pytest.approx(single.estimate)
        assert band.high[point] - band.estimate[point] == pytest.approx(half_width, rel=0.03)
        assert band.estimate[point] - band.low[point] == pytest.approx(half_width, rel=0.03)


def test_band_is_as_wide_as_the_points_are_unlike() -> None:
    values = np.random.default_rng(0).normal(size=(400, 6))
    single = crossed_interval(values[:, 0])
    # Six points that move as one need no more than one point does.
    alike = simultaneous_band(np.repeat(values[:, :1], 6, axis=1), n_resamples=20_000)
    assert alike.high == pytest.approx(np.full(6, single.high), abs=0.002)
    # Six independent ones need the quantile of the sixth root.
    needed = scipy.stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2) / scipy.stats.norm.ppf(0.975)
    unlike = simultaneous_band(values, n_resamples=20_000)
    factor = (unlike.high - unlike.estimate)[0] / (single.high - single.estimate)
    assert factor == pytest.approx(needed, rel=0.02)


def test_points_without_spread_do_not_change_the_band() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((3, 50, 3)) < 0.3).astype(float)
    constant = np.full((3, 50, 1), 1 / 3)  # its resamples differ by rounding
    band = simultaneous_band(values)
    wider = simultaneous_band(np.concatenate([constant, values], axis=2))
    assert wider.low[1:] == pytest.approx(band.low)
    assert (wider.low[0], wider.high[0]) == pytest.approx((1 / 3, 1 / 3), abs=1e-12)
    still = simultaneous_band(np.ones((9, 2)))
    assert still.low.tolist() == still.estimate.tolist() == still.high.tolist() == [1, 1]


def test_the_teacher_repeated_for_each_draw_is_the_teacher_once() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.random((40, 1)), rng.random((3, 40, 1))
    repeated = np.broadcast_to(teacher, (3, 40, 1))
    band = simultaneous_band(np.concatenate([repeated, student], axis=2))
    once, several = crossed_interval(teacher[:, 0]), crossed_interval(student[..., 0])
    widths = [once.high - once.low, several.high - several.low]
    assert (band.high - band.low) / widths == pytest.approx(
        np.full(2, (band.high[0] - band.low[0]) / widths[0])
    )


def test_band_contains_the_single_intervals_and_one_item_has_none() -> None:
    # Three draws and no items' noise: resamples are few and far, and the quantile is below 1.96.
    values = np.array([-1.0, 0, 1])[:, None, None] * np.ones((3, 20, 2))
    band, single = simultaneous_band(values), crossed_interval(values[..., 0])
    assert band.low.tolist() == [single.low] * 2
    narrow = simultaneous_band(np.ones((1, 4)))
    assert np.isnan([narrow.low, narrow.high]).all()
    assert narrow.estimate.tolist() == [1] * 4


def test_band_depends_on_its_seed_and_not_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 3))
    whole = simultaneous_band(values, seed=1)
    assert (simultaneous_band(values, seed=1).low == whole.low).all()
    assert (simultaneous_band(values, seed=2).low != whole.low).all()
    monkeypatch.setattr("fitclip_core.statistics._CHUNK", 1000)
    assert simultaneous_band(values, seed=1).low == pytest.approx(whole.low, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), r"must be a non-empty \[items, points\]"),
        (np.ones((2, 3, 4, 5)), r"\[draws, items, points\]"),
        ([np.ones((3, 4)), np.ones((3, 5))], r"have \[4, 5\] points"),
        ([np.ones((2, 3, 4)), np.ones((3, 3, 4))], "draws differ"),
        (np.full((3, 4), np.nan), "NaN"),
    ],
)
def test_bad_curves_are_refused(values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simultaneous_band(values)


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
    half_width = scipy.stats.norm.ppf(0.975) * np.sqrt((gained + lost - (gained - lost) ** 2) / 12)
    assert table["low"][1] == pytest.approx(gained - lost - half_width)
    assert table["high"][1] == pytest.approx(gained - lost + half_width)
    # Of 64 flips of 6 pairs, 1 + 6 are as far to one side.
    assert table["p_value"].tolist() == pytest.approx([1, 2 * 7 / 64])
    assert table["q_value"].tolist() == pytest.approx([1, 4 * 7 / 64])
    # Nothing differs in class a, and its interval is not empty: 1 pair of 6 each way.
    assert table["high"][0] == pytest.approx(scipy.stats.norm.ppf(0.975) * np.sqrt(2 / 6 / 6))
    assert table["low"][0] == -table["high"][0]


@pytest.mark.parametrize(("items", "draws"), [(1, 1), (6, 1), (9, 3), (8, 2)])
def test_class_p_value_is_the_larger_of_all_sign_flips_and_the_intervals(items, draws) -> None:
    rng = np.random.default_rng(items)
    for _ in range(5):
        first, second = rng.integers(0, 2, items), rng.integers(0, 2, (draws, items))
        sums = (second - first).sum(axis=0)
        flipped = [sums @ signs for signs in itertools.product((-1, 1), repeat=items)]
        expected = np.mean(np.abs(flipped) >= abs(sums.sum()))
        row = per_class_differences(first, second, np.zeros(items)).iloc[0]
        assert row["sign_flip_p"] == pytest.approx(expected)
        assert row["p_value"] >= row["sign_flip_p"]
        for candidate in np.geomspace(1e-4, 0.9999, 40):
            level = 1 - candidate
            found = per_class_differences(first, second, np.zeros(items), level=level).iloc[0]
            leaves_out = found["low"] > 0 or found["high"] < 0
            if candidate != pytest.approx(row["p_value"]):
                small = leaves_out and row["sign_flip_p"] <= candidate
                assert small == (row["p_value"] <= candidate)


def test_a_class_whose_draws_disagree_gains_nothing_whatever_these_draws_show() -> None:
    first, second = np.zeros(40), np.array([[1.0], [1.0], [0.0]]) * np.ones(40)
    row = per_class_differences(first, second, np.zeros(40)).iloc[0]
    assert row["sign_flip_p"] < 1e-9
    assert row["p_value"] == row["q_value"] > 0.05
    assert row["low"] < 0 < row["high"]


def test_class_sign_flip_p_of_many_items_is_mcnemars() -> None:
    first = np.repeat([1, 0, 1], [900, 1100, 500])
    second = np.repeat([0, 1, 1], [900, 1100, 500])
    row = per_class_differences(first, second, np.zeros(2500)).iloc[0]
    expected = scipy.stats.binomtest(900, 2000).pvalue
    assert expected < 1e-4
    assert row["sign_flip_p"] == pytest.approx(expected)


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
def test_class_interval_holds_the_difference_and_swaps_with_the_sides(seed, items, draws) -> None:
    rng = np.random.default_rng(seed)
    accuracy, gain = rng.random(2)
    first = rng.random((draws, items)) < accuracy
    second = rng.random((draws, items)) < gain
    one = per_class_differences(first, second, ["x"] * items).iloc[0]
    other = per_class_differences(second, first, ["x"] * items).iloc[0]
    assert -1 <= one["low"] < one["high"] <= 1
    assert one["low"] <= one["difference"] <= one["high"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
    assert one["p_value"] == pytest.approx(other["p_value"])


@pytest.mark.parametrize(
    ("first", "second", "labels", "message"),
    [
        ([0, 2], [0, 1], ["a", "a"], "first holds other values than 0 and 1"),
        ([0, 1], [0, 0.5], ["a", "a"], "second holds other values"),
        ([0, 1], [0, 1, 1], ["a", "a"], "2 items and second 3"),
        ([0, 1], [0, 1], ["a"], "2 items and 1 labels"),
        ([0, 1], [0, 1], ["a", None], "label 1 is missing"),
        (np.ones((2, 3)), np.ones((3, 3)), ["a"] * 3, "draws differ"),
        ([], [], [], "non-empty"),
    ],
)
def test_bad_classes_are_refused(first, second, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_class_differences(first, second, labels)


def test_selection_gap_by_hand() -> None:
    alphas = [0.0, 0.4, 1.0]
    validation = np.array([[0, 1, 1], [1, 1, 1], [0, 1, 1.0]])  # 0.4 and 1 tie: the smaller one
    test = np.array([[0, 0, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0.0]])
    found = selection_gap(validation, test, alphas)
    assert (found.chosen, found.hindsight, found.gap) == (0.4, 1.0, 0.5)
    assert (found.level, found.n) == (0.95, 4)
    assert found.low == 0
    assert found.high == 1
    same = selection_gap(test, test, alphas)
    assert (same.chosen, same.hindsight, same.gap) == (1, 1, 0)
    rounded = np.array([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]])  # equal means, but for rounding
    assert rounded[:, 0].mean() < rounded[:, 1].mean()
    assert selection_gap(rounded, rounded, [0, 1]).chosen == 0


def test_selection_gap_equals_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    effect = 0.3 * rng.normal(size=(3, 1, 4))
    validation = [rng.normal(size=(3, 12, 4)) + effect, rng.normal(size=(1, 9, 4))]
    test = [rng.normal(size=(3, 20, 4)) + effect + [0, 0.1, 0.2, 0.5]]
    gaps = []
    for _ in range(6000):
        draws = rng.integers(0, 3, 2)
        curves = []
        for sets in (validation, test):
            means = []
            for data in sets:
                items = rng.integers(0, data.shape[1], data.shape[1])
                means.append(data[draws if len(data) > 1 else [0]][:, items].mean(axis=(0, 1)))
            curves.append(np.mean(means, axis=0))
        gaps.append(curves[1].max() - curves[1][curves[0].argmax()])
    found = selection_gap(validation, test, [0, 1, 2, 3], n_resamples=20_000, level=0.8)
    low, high = np.quantile(gaps, [0.1, 0.9])
    assert found.low == pytest.approx(low, abs=0.02 * np.std(gaps))
    assert found.high == pytest.approx(high, rel=0.05)
    again = selection_gap(validation, test, [0, 1, 2, 3], n_resamples=20_000, level=0.8)
    assert again == found


def test_validation_and_test_share_their_draws() -> None:
    # Each draw has its own best alpha, the same in both: chosen together, nothing is ever lost.
    curves = np.eye(3)[:, None, :] * np.ones((3, 20, 3))
    found = selection_gap(curves, 2 * curves, [0, 0.5, 1])
    assert (found.gap, found.low, found.high) == (0, 0, 0)


def test_selection_gap_holds_its_estimate_and_one_item_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    fine = np.linspace(0, 1, 60)
    validation = rng.normal(size=(5, 60))
    found = selection_gap(validation, validation, fine, level=0.1)  # most resamples have a gap
    assert (found.gap, found.low) == (0, 0)
    single = selection_gap(validation[:1], validation, fine)
    assert np.isnan([single.low, single.high]).all()


@pytest.mark.parametrize(
    "alphas", [[0, 1], [0, 0.5, 0.5], [1, 0.5, 0], [[0, 0.5, 1]], [0, np.nan, 1]]
)
def test_bad_alphas_are_refused(alphas) -> None:
    with pytest.raises(ValueError, match="ascending alphas"):
        selection_gap(np.ones((4, 3)), np.ones((5, 3)), alphas)


def slow_reach(sets: list[np.ndarray], level: float, resamples: int) -> np.ndarray:
    """[point, other]: how far the one-sided bound of other - point lies below its estimate."""
    rng = np.random.default_rng(7)
    draws, points = max(len(data) for data in sets), sets[0].shape[-1]
    curves = []
    for _ in range(resamples):
        chosen = rng.integers(0, draws, max(draws - 1, 1))
        means = []
        for data in sets:
            items = rng.integers(0, data.shape[1], data.shape[1])
            rows = data[chosen if len(data) > 1 else [0]]
            means.append(rows[:, items].mean(axis=(0, 1)))
        curves.append(np.mean(means, axis=0))
    off = np.array(curves) - np.mean([data.mean(axis=(0, 1)) for data in sets], axis=0)
    reach = np.zeros((points, points))
    for point in range(points):
        others = [one for one in range(points) if one != point]
        gaps = np.array([off[:, one] - off[:, point] for one in others])
        largest = (gaps / gaps.std(axis=1, keepdims=True)).max(axis=0)
        factor = max(1, np.quantile(largest, level) / scipy.stats.norm.ppf(level))
        for other in others:
            gap = [data[..., other] - data[..., point] for data in sets]
            single = crossed_interval(gap, level=2 * level - 1)
            reach[point, other] = factor * (single.high - single.estimate)
    return reach


def test_comparisons_equal_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    effect = 0.1 * rng.normal(size=(3, 1, 1)) * np.linspace(0, 1, 5)
    sets = [rng.normal(size=(3, 60, 5)).cumsum(axis=2) + effect, rng.normal(size=(40, 5))]
    sets[0] += [0.0, 0.5, 0.6, 0.3, -1.2]
    found = compared_with_best(sets, level=0.9, n_resamples=20_000)
    means = np.mean([sets[0].mean(axis=(0, 1)), sets[1].mean(axis=0)], axis=0)
    reach = slow_reach([sets[0], sets[1][None]], 0.9, 4000)
    points = range(5)
    left = [all(means[j] - means[i] - reach[i, j] <= 0 for j in points if j != i) for i in points]
    assert 1 < sum(left) < 5
    assert found.left.tolist() == left
    assert (found.level, found.n) == (0.9, 100)
    for i in points:
        others = [j for j in points if j != i]
        strongest = max(others, key=lambda j: means[j])
        low = -max([0.0, *(means[j] - means[i] + reach[j, i] for j in others if left[j])])
        high = min(means[i] - means[j] + reach[i, j] for j in others)
        assert found.lead[i] == pytest.approx(means[i] - means[strongest])
        assert found.low[i] == pytest.approx(low, abs=0.02)
        assert found.high[i] == pytest.approx(high, abs=0.02)
        assert found.reach[i] == pytest.approx(reach[strongest, i], rel=0.04)


def test_bounds_of_unlike_points_are_dunnetts() -> None:
    """Independent points: one-sided Dunnett, whose correlation is 1/2, with many items."""

    def covered(quantile: float) -> float:
        def integrand(z: float) -> float:
            return scipy.stats.norm.cdf(np.sqrt(2) * quantile + z) ** 5 * scipy.stats.norm.pdf(z)

        return scipy.integrate.quad(integrand, -8, 8)[0]

    dunnett = scipy.optimize.brentq(lambda one: covered(one) - 0.95, 1, 4)
    values = np.random.default_rng(0).normal(size=(3000, 6))
    found = compared_with_best(values, n_resamples=20_000)
    strongest = values.mean(axis=0).argsort()[-1]
    weakest = values.mean(axis=0).argmin()
    error = (values[:, weakest] - values[:, strongest]).std(ddof=1) / np.sqrt(3000)
    assert found.reach[weakest] == pytest.approx(dunnett * error, rel=0.02)


def test_points_that_are_alike_are_left_together() -> None:
    values = np.random.default_rng(0).random((3, 50, 1)) < 0.5
    same = compared_with_best(np.repeat(values, 4, axis=2).astype(float))
    assert same.left.all()
    for ends in (same.lead, same.low, same.high, same.reach):
        assert ends.tolist() == [0] * 4
    # A fifth that never succeeds is out, and the others stay.
    both = compared_with_best(np.concatenate([np.repeat(values, 4, axis=2), values & False], 2))
    assert both.left.tolist() == [True] * 4 + [False]


def test_one_point_above_all_others_is_left_alone() -> None:
    values = (np.random.default_rng(0).random((200, 3)) < [0.2, 0.9, 0.3]).astype(float)
    found = compared_with_best(values)
    assert found.left.tolist() == [False, True, False]
    assert found.low[1] == 0 and found.high[1] > 0
    assert (found.high[[0, 2]] < 0).all() and (found.low <= found.lead).all()


def test_one_item_shows_nothing() -> None:
    found = compared_with_best(np.array([[1.0, 0.0]]))
    assert found.left.all()
    assert np.isnan([found.low, found.high, found.reach]).all()


@pytest.mark.parametrize("lift", [0.0, 0.04])
def test_the_best_is_left_and_what_others_lose_is_bounded(lift: float) -> None:
    """Three students on 300 items: the best, of equal ones each, is left in 95% of studies."""
    rng = np.random.default_rng(3)
    truth = np.array([0.4, 0.4 + lift, 0.4, 0.4])
    studies, left, held = 300, np.zeros(4), 0
    for study in range(studies):
        items = rng.normal(size=(300, 4)) * 0.4 + rng.normal(size=(300, 1))
        latent = items + 0.5 * rng.normal(size=(3, 300, 4)) + 0.02 * rng.normal(size=(3, 1, 4))
        spread = np.sqrt(0.4**2 + 1 + 0.5**2 + 0.02**2)
        hits = (latent < spread * scipy.stats.norm.ppf(truth)).astype(float)
        found = compared_with_best(hits, n_resamples=300, seed=study)
        left += found.left
        held += bool((truth - truth.max() >= found.low - 1e-12).all())
    best = truth == truth.max()
    assert (left[best] / studies > 0.91).all()
    assert held / studies > 0.91
    if lift:
        assert (left[~best] < left[best]).all()


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (np.ones((9, 1)), {}, "there is one point"),
        (np.ones((9, 2)), {"level": 0.5}, "level is 0.5"),
        (np.ones((9, 2)), {"n_resamples": 0}, "n_resamples is 0"),
        (np.array([[0, np.nan]]), {}, "NaN"),
        (np.ones(9), {}, "non-empty"),
    ],
)
def test_bad_input_is_refused(values: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared_with_best(values, **settings)
