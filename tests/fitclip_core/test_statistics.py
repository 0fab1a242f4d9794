import itertools
import time
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fitclip_core.statistics import bootstrap_interval, paired_difference


def slow_two_level_means(sets: list[np.ndarray], n_resamples: int, seed: int) -> np.ndarray:
    """Two-level resamples one index at a time: D - 1 of D draws shared by all sets, all items."""
    rng = np.random.default_rng(seed)
    draws = max(len(data) for data in sets)
    totals = []
    for _ in range(n_resamples):
        chosen = rng.integers(0, draws, max(draws - 1, 1))
        means = []
        for data in sets:
            items = rng.integers(0, data.shape[1], data.shape[1])
            rows = chosen if len(data) > 1 else [0]
            means.append(np.mean([data[row][items].mean() for row in rows]))
        totals.append(np.mean(means))
    return np.array(totals)


@pytest.mark.parametrize(("statistic", "function"), [("mean", np.mean), ("median", np.median)])
def test_one_draw_equals_scipy_bootstrap(statistic: Any, function) -> None:
    values = np.random.default_rng(0).exponential(size=121)
    ours = bootstrap_interval(values, statistic=statistic, n_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), function, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(function(values))
    assert (ours.level, ours.n) == (0.95, 121)
    slack = 0.05 * width if statistic == "mean" else 0.12 * width  # medians come in steps
    assert ours.low == pytest.approx(theirs.low, abs=slack)
    assert ours.high == pytest.approx(theirs.high, abs=slack)


def test_binary_mean_equals_the_binomial() -> None:
    # The bootstrap of k ones among n is exactly Binomial(n, k / n) / n.
    values = np.arange(200) < 60
    ours = bootstrap_interval(values, level=0.9, n_resamples=50_000)
    low, high = scipy.stats.binom.ppf([0.05, 0.95], 200, 0.3) / 200
    assert ours.low == pytest.approx(low, abs=0.0051)
    assert ours.high == pytest.approx(high, abs=0.0051)


def test_two_levels_and_data_sets_equal_the_slow_way() -> None:
    rng = np.random.default_rng(3)
    draw = rng.normal(size=(3, 1))
    sets = [
        rng.normal(size=(3, 40)) + draw,
        rng.normal(size=(3, 15)) + draw,
        rng.normal(size=(1, 25)),  # the teacher: one draw
    ]
    ours = bootstrap_interval(sets, n_resamples=20_000)
    slow = slow_two_level_means(sets, 4000, seed=1)
    low, high = np.quantile(slow, [0.025, 0.975])
    assert ours.estimate == pytest.approx(np.mean([data.mean() for data in sets]))
    assert ours.n == 80
    assert ours.low == pytest.approx(low, abs=0.07 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.07 * (high - low))


def test_draws_are_shared_by_data_sets() -> None:
    # Opposite draw effects cancel only if each resample takes the same draws in both sets.
    effect = np.array([[-1.0], [0.0], [1.0]]) * np.ones((3, 10))
    cancelling = bootstrap_interval([effect, -effect])
    assert (cancelling.low, cancelling.high) == (0, 0)
    adding = bootstrap_interval([effect, effect])
    assert adding.low < -0.4 < 0.4 < adding.high


def test_one_draw_less_than_given_is_taken() -> None:
    # Two of three draws are both the lowest one with a chance of 1/9; three of three, with 1/27.
    effect = np.array([[-1.0], [0.0], [1.0]]) * np.ones((3, 10))
    interval = bootstrap_interval(effect, level=0.85)
    assert (interval.low, interval.high) == (-1, 1)
    interval = bootstrap_interval(effect, level=0.7)
    assert (interval.low, interval.high) == (-0.5, 0.5)


def test_items_are_shared_by_draws() -> None:
    # Were items taken anew for each draw, six equal draws would narrow the interval by sqrt(6).
    values = np.random.default_rng(0).normal(size=50)
    one = bootstrap_interval(values)
    same = bootstrap_interval(np.stack([values] * 6))
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)


def test_callable_statistics_equal_the_named_ones() -> None:
    values = np.random.default_rng(0).normal(size=(3, 31))
    pairs: list[Any] = [("mean", np.mean), ("median", np.median)]
    for name, function in pairs:
        named = bootstrap_interval([values, values[:1]], statistic=name, n_resamples=500)
        called = bootstrap_interval([values, values[:1]], statistic=function, n_resamples=500)
        assert called.estimate == pytest.approx(named.estimate)
        assert called.low == pytest.approx(named.low, abs=1e-12)
        assert called.high == pytest.approx(named.high, abs=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.random.default_rng(0).normal(size=(3, 21)), np.arange(30.0)]
    whole = bootstrap_interval(values[1]), paired_difference(values[1], -values[1])
    monkeypatch.setattr("fitclip_core.statistics._CHUNK", 1000)
    assert (bootstrap_interval(values[1]), paired_difference(values[1], -values[1])) == whole
    assert bootstrap_interval(values, statistic="median").n == 51


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    factor=st.floats(0.1, 10),
    shift=st.floats(-100, 100),
)
@settings(max_examples=40, deadline=None)
def test_interval_moves_and_scales_with_the_values(values, factor, shift) -> None:
    base = bootstrap_interval(np.array(values), n_resamples=50)
    moved = bootstrap_interval(factor * np.array(values) + shift, n_resamples=50)
    for end in ("estimate", "low", "high"):
        expected = factor * getattr(base, end) + shift
        assert getattr(moved, end) == pytest.approx(expected, rel=1e-9, abs=1e-8)
    assert min(values) - 1e-9 <= base.low <= base.high <= max(values) + 1e-9


def test_constant_values_have_no_width_and_one_item_has_none_to_tell() -> None:
    constant = bootstrap_interval(np.full((3, 9), 0.25))
    assert (constant.low, constant.estimate, constant.high) == (0.25, 0.25, 0.25)
    single = bootstrap_interval([0.5])
    assert single.estimate == 0.5
    assert np.isnan([single.low, single.high]).all()
    pair = paired_difference([np.arange(9.0), np.zeros(1)], [np.arange(9.0) + 1, np.ones(1)])
    assert (pair.estimate, pair.n) == (1, 10)
    assert np.isnan([pair.low, pair.high]).all()


def test_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=(3, 30))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert paired_difference(values, -values, seed=1) == paired_difference(values, -values, seed=1)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_exact_p_value_equals_scipy_permutation_test(n: int) -> None:
    rng = np.random.default_rng(n)
    first, second = rng.normal(size=n), rng.normal(size=n) + 0.5
    theirs = scipy.stats.permutation_test(
        (second, first),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    ours = paired_difference(first, second)
    assert ours.estimate == pytest.approx(theirs.statistic)
    # scipy doubles the smaller tail, which is the same thing for a symmetric distribution.
    assert ours.p_value == pytest.approx(min(1.0, theirs.pvalue))


def test_random_p_value_equals_scipy_permutation_test() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=60)
    second = first + rng.normal(0.12, 0.5, size=60)
    theirs = scipy.stats.permutation_test(
        (second, first),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    )
    assert 0.01 < theirs.pvalue < 0.5
    ours = paired_difference(first, second, n_resamples=20_000)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.004)


def test_exact_p_value_of_draws_and_data_sets_by_enumeration() -> None:
    rng = np.random.default_rng(5)
    first = [rng.random((3, 4)), rng.random(5)]
    second = [rng.random((3, 4)) + 0.2, rng.random((3, 5)) + 0.2]
    differences = [np.atleast_2d(b) - np.atleast_2d(a) for a, b in zip(first, second, strict=True)]
    observed = np.mean([data.mean() for data in differences])
    hits = 0
    for signs in itertools.product((-1, 1), repeat=9):
        flipped = [differences[0] * signs[:4], differences[1] * signs[4:]]
        hits += abs(np.mean([data.mean() for data in flipped])) >= abs(observed) - 1e-12
    ours = paired_difference(first, second)
    assert ours.estimate == pytest.approx(observed)
    assert ours.n == 9
    assert ours.p_value == hits / 2**9


def test_p_value_by_hand_with_ties() -> None:
    # Differences 1, 1, 1, -1, 0: the mean is 2/5; of 16 sign patterns 10 reach it.
    first, second = np.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 0, 1])
    assert paired_difference(first, second).p_value == 10 / 16
    # The same with thirds, whose sums round differently in different orders.
    assert paired_difference(first / 3, second / 3).p_value == 10 / 16


def test_p_value_of_one_item_is_one() -> None:
    assert paired_difference([1.0], [2.0]).p_value == 1


def test_equal_items_do_not_spoil_an_exact_p_value() -> None:
    first = np.zeros(1000)
    second = first.copy()
    second[[3, 500, 999]] = 1
    assert paired_difference(first, second).p_value == 2 / 2**3


def test_no_difference_and_the_smallest_p_value() -> None:
    values = np.random.default_rng(0).normal(size=(3, 50))
    same = paired_difference(values, values)
    assert (same.estimate, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    far = paired_difference(values, values + 1 + 0.1 * values, n_resamples=999)
    assert far.p_value == 1 / 1000
    assert 0 < far.low < far.estimate < far.high


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), draws=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_swapping_sides_changes_the_sign_alone(seed, n, draws) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, (draws, n)), rng.integers(0, 2, n)
    one = paired_difference(first, second, n_resamples=600)
    other = paired_difference(second, first, n_resamples=600)
    assert one.estimate == -other.estimate
    assert one.p_value == other.p_value
    assert 0 < one.p_value <= 1
    if n > 1:
        assert one.low == pytest.approx(-other.high, abs=1e-12)


def test_interval_of_the_difference_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(40), rng.random((3, 40))
    paired = paired_difference(first, second)
    plain = bootstrap_interval(second - first)
    assert (paired.low, paired.high) == (plain.low, plain.high)


def covered(draws: int, draw_spread: float, repeats: int) -> float:
    """Share of simulated experiments whose 95% interval holds the true mean 0."""
    rng = np.random.default_rng(7)
    hits = 0
    for seed in range(repeats):
        items, noise = rng.normal(size=100), rng.normal(size=(draws, 100))
        values = items + noise + draw_spread * rng.normal(size=(draws, 1))
        interval = bootstrap_interval(values, n_resamples=300, seed=seed)
        hits += interval.low <= 0 <= interval.high
    return hits / repeats


@pytest.mark.parametrize(("draws", "draw_spread"), [(1, 0.0), (3, 0.0), (3, 0.17), (8, 0.3)])
def test_coverage(draws: int, draw_spread: float) -> None:
    assert 0.91 <= covered(draws, draw_spread, 400) <= 0.995


def test_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p_values = [
        paired_difference(*rng.normal(size=(2, 30)), n_resamples=199, seed=seed).p_value
        for seed in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        rate = np.mean(np.array(p_values) <= level)
        assert abs(rate - level) <= 3.3 * np.sqrt(level * (1 - level) / 400)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "non-empty"),
        (np.zeros((0, 3)), "non-empty"),
        (np.zeros((2, 2, 2)), r"\[draws, items\]"),
        (0.5, "non-empty"),
        ([1.0, float("nan")], "NaN"),
        ([np.ones(3), np.array([np.inf])], r"values\[1\] holds NaN"),
        ([np.ones(3), np.array([])], r"values\[1\] has shape"),
        ([np.ones((2, 3)), np.ones((3, 3))], "draws differ"),
    ],
)
def test_bad_values_are_refused(values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


def test_bad_settings_are_refused() -> None:
    values = np.arange(5.0)
    for level in (0, 1, 95, float("nan")):
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval(values, level=level)
    with pytest.raises(ValueError, match="n_resamples"):
        paired_difference(values, values, n_resamples=0)
    cases: list[Any] = [
        ("mode", "statistic is 'mode'"),
        (lambda array, axis: array, "reduce that axis"),
        (lambda array, axis: array.mean(axis) * np.nan, "choose one"),
    ]
    for statistic, message in cases:
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(values, statistic=statistic)


def test_bad_pairs_are_refused() -> None:
    cases: list[Any] = [
        (np.ones(3), np.ones(4), "3 items in first and 4"),
        ([np.ones(3)], [np.ones(3), np.ones(3)], "data sets"),
        (np.ones((2, 3)), np.ones((3, 3)), "draws differ"),
    ]
    for first, second, message in cases:
        with pytest.raises(ValueError, match=message):
            paired_difference(first, second)


def test_five_data_sets_with_three_draws_are_quick() -> None:
    rng = np.random.default_rng(0)
    first, second = ([rng.random((3, 1000)) < 0.5 for _ in range(5)] for _ in range(2))
    start = time.process_time()
    paired_difference(first, second, n_resamples=2000)
    assert time.process_time() - start < 3  # about 0.2 s on a quiet core
