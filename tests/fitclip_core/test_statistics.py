"""Intervals and tests against scipy, slow loops, hand-computed cases and simulated truth."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import statistics_coverage
from fitclip_core.statistics import (
    bootstrap_interval,
    crossed_interval,
    mean_interval,
    paired_difference,
)

NAN = float("nan")


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


def test_draws_are_shared_by_data_sets_and_one_less_than_given_is_taken() -> None:
    # Opposite draw effects cancel only if each resample takes the same draws in both sets.
    effect = np.array([[-1.0], [0.0], [1.0]]) * np.ones((3, 10))
    cancelling = bootstrap_interval([effect, -effect])
    assert (cancelling.low, cancelling.high) == (0, 0)
    # Two of three draws are both the lowest one with a chance of 1/9; three of three, with 1/27.
    for level, end in ((0.85, 1), (0.7, 0.5)):
        interval = bootstrap_interval([effect, effect], level=level)
        assert (interval.low, interval.high) == (-end, end)


def test_chunks_do_not_change_the_result_and_the_seed_does(monkeypatch) -> None:
    values = [np.random.default_rng(0).normal(size=(3, 21)), np.arange(30.0)]
    whole = bootstrap_interval(values[1]), paired_difference(values[1], -values[1])
    monkeypatch.setattr("fitclip_core.statistics._CHUNK", 1000)
    assert (bootstrap_interval(values[1]), paired_difference(values[1], -values[1])) == whole
    assert bootstrap_interval(values[1], seed=1) != whole[0]
    assert bootstrap_interval(values, statistic="median").n == 51


@pytest.mark.parametrize("interval", [bootstrap_interval, crossed_interval, mean_interval])
def test_constant_values_have_no_width_and_one_item_has_none_to_tell(interval) -> None:
    constant = interval(np.full((3, 9), 0.25))
    assert (constant.low, constant.estimate, constant.high) == (0.25, 0.25, 0.25)
    single = interval([np.ones((3, 1)), np.ones((3, 5))])
    assert (single.estimate, single.n) == (1, 6)
    assert np.isnan([single.low, single.high]).all()


# paired tests


def test_exact_sign_flip_p_of_draws_and_data_sets_by_enumeration() -> None:
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
    assert ours.sign_flip_p == hits / 2**9


def test_sign_flip_p_by_hand() -> None:
    # Differences 1, 1, 1, -1, 0: the mean is 2/5; of 16 sign patterns 10 reach it.
    first, second = np.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 0, 1])
    assert paired_difference(first, second).sign_flip_p == 10 / 16
    # The same with thirds, whose sums round differently in different orders.
    assert paired_difference(first / 3, second / 3).sign_flip_p == 10 / 16
    few = np.isin(np.arange(1000), [3, 500, 999])  # of which only three count
    assert paired_difference(np.zeros(1000), few).sign_flip_p == 2 / 2**3
    values = np.random.default_rng(0).normal(size=(3, 50))
    same = paired_difference(values, values)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    assert (same.p_value, same.sign_flip_p) == (1, 1)
    assert paired_difference(values, values + 1, n_resamples=999).sign_flip_p == 1 / 1000
    one = values[0]  # of more items than can be enumerated
    theirs = scipy.stats.permutation_test((one,), np.mean, permutation_type="samples", rng=1).pvalue
    assert paired_difference(0 * one, one).sign_flip_p == pytest.approx(theirs, abs=0.03)


ONES, FIVE = np.ones(3), np.arange(5.0)


@pytest.mark.parametrize(
    ("function", "arguments", "settings", "message"),
    [
        *[
            (function, (values,), {}, message)
            for function in (bootstrap_interval, crossed_interval, mean_interval)
            for values, message in (
                ([], "non-empty"),
                (np.zeros((0, 3)), "non-empty"),
                (np.zeros((2, 2, 2)), r"\[draws, items\]"),
                (0.5, "non-empty"),
                ([1.0, NAN], "NaN"),
                ([ONES, np.array([np.inf])], r"values\[1\] holds NaN"),
                ([ONES, np.array([])], r"values\[1\] has shape"),
                ([np.ones((2, 3)), np.ones((3, 3))], "draws differ"),
            )
        ],
        *[
            (bootstrap_interval, (FIVE,), {"level": level}, f"level is {level}")
            for level in (0, 1, 95, NAN)
        ],
        (crossed_interval, (FIVE,), {"level": 1}, "level is 1"),
        (paired_difference, (FIVE, FIVE), {"n_resamples": 0}, "n_resamples is 0"),
        (bootstrap_interval, (FIVE,), {"statistic": "mode"}, "statistic is 'mode'"),
        (paired_difference, (ONES, np.ones(4)), {}, r"first has \[3\] items .* second \[4\]"),
        (paired_difference, ([ONES], [ONES, ONES]), {}, r"second \[3, 3\]"),
        (paired_difference, (np.ones((2, 3)), np.ones((3, 3))), {}, "draws differ"),
    ],
)
def test_bad_values_and_settings_are_refused(function, arguments, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments, **settings)


# crossed intervals


def slow_crossed(sets: list[np.ndarray], level: float) -> tuple[float, float]:
    """Half the width of crossed_interval and the draws' part, from the analysis of variance."""
    draws, items_part, interactions = max(map(len, sets)), 0.0, 0.0
    students = np.zeros(draws)
    for data in sets:
        (n_draws, items), grand = data.shape, data.mean()
        of_draws, of_items = data.mean(axis=1), data.mean(axis=0)
        students += of_draws / len(sets)
        items_part += sum(n_draws * (of_items - grand) ** 2) / (items - 1) / (n_draws * items)
        if n_draws > 1:
            rest = data - of_draws[:, None] - of_items + grand
            interactions += (rest**2).sum() / ((n_draws - 1) * (items - 1)) / (n_draws * items)
    draws_part = np.var(students, ddof=1) / draws if draws > 1 else 0.0
    variance = draws_part + (items_part - interactions) / len(sets) ** 2
    weight = draws_part / variance
    of_draws, of_items = (
        scipy.stats.t.ppf((1 + level) / 2, freedom)
        for freedom in (max(draws - 1, 1), min(data.shape[1] for data in sets) - 1)
    )
    half_width = (weight * of_draws + (1 - weight) * of_items) * np.sqrt(variance)
    return float(half_width), float(weight)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_crossed_interval_equals_sums_of_squares(level: float) -> None:
    rng = np.random.default_rng(0)
    effect = 0.3 * rng.normal(size=(3, 1))
    sets = [
        rng.normal(size=40) + 0.5 * rng.normal(size=(3, 40)) + effect,
        rng.normal(size=(1, 25)),  # the teacher: one draw
        rng.normal(size=15) + 0.5 * rng.normal(size=(3, 15)) + effect,
    ]
    for chosen in (sets[:1], sets):
        half_width, weight = slow_crossed(chosen, level)
        assert 0.05 < weight < 0.95
        ours = crossed_interval(chosen, level=level)
        assert ours.estimate == pytest.approx(np.mean([data.mean() for data in chosen]))
        assert ours.high - ours.estimate == pytest.approx(half_width)
        assert ours.estimate - ours.low == pytest.approx(half_width)
        assert (ours.level, ours.n) == (level, sum(data.shape[1] for data in chosen))


def test_crossed_interval_has_the_t_intervals_as_its_ends() -> None:
    values = np.random.default_rng(0).normal(size=30)
    over_items = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    for same in (values, np.stack([values] * 4)):  # draws that are equal are one draw
        ours = crossed_interval(same)
        assert (ours.low, ours.high) == pytest.approx(tuple(over_items))
    over_draws = scipy.stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    ours = crossed_interval(values[:3, None] * np.ones(50))  # items that are equal
    assert (ours.low, ours.high) == pytest.approx(tuple(over_draws))


def test_crossed_interval_keeps_a_width_where_only_the_interaction_is_seen() -> None:
    ours = crossed_interval(np.eye(2))  # equal means of draws and of items
    # One square of 1/4 in each of 4 places, with 1 degree of freedom, over 4 values.
    assert ours.high == pytest.approx(0.5 + scipy.stats.t.ppf(0.975, 1) * np.sqrt(1 / 4))


def test_crossed_interval_never_takes_more_than_the_draws_quantile() -> None:
    values = np.array([[10.0, 9, 10, 9], [-1, 0, -1, 0]])  # equal means of items
    # 25 of draws, 0 of items, less the interaction: 8 squares of 1/4 over 3 degrees and 8 values.
    half_width = scipy.stats.t.ppf(0.975, 1) * np.sqrt(25 - 2 / 3 / 8)
    assert crossed_interval(values).high == pytest.approx(4.5 + half_width)


def test_a_means_interval_is_crossed_with_draws_and_bootstrapped_without() -> None:
    values = np.random.default_rng(0).random((3, 40))
    crossed = crossed_interval(values)
    assert mean_interval(values) == crossed
    assert mean_interval(values[:1]) == bootstrap_interval(values[0])
    cut = mean_interval(values, within=(crossed.estimate, 1))
    assert (cut.low, cut.high) == (crossed.estimate, crossed.high)


@given(
    chosen=st.lists(  # 1 or 2 data sets of hits or continuous values
        st.tuples(st.integers(0, 10**6), st.integers(2, 12), st.booleans()), min_size=1, max_size=2
    ),
    draws=st.integers(1, 4),
)
@settings(max_examples=60)
def test_p_value_is_that_of_a_scan_over_the_crossed_intervals_levels(chosen, draws) -> None:
    firsts, seconds = [], []
    for seed, items, continuous in chosen:
        rng = np.random.default_rng(seed)
        hits = rng.integers(0, 2, (2, draws, items)) + 0.0
        first, second = rng.normal(rng.normal(), 1, hits.shape) if continuous else hits
        firsts.append(first[:1])
        seconds.append(second)
    sets = [second - first for first, second in zip(firsts, seconds, strict=True)]
    found = paired_difference(firsts, seconds, level=0.9, n_resamples=1)
    crossed = crossed_interval(sets, level=0.9)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (crossed.estimate, crossed.low, crossed.high), abs=1e-15
    )
    for candidate in np.geomspace(1e-6, 1 - 1e-6, 60):
        interval = crossed_interval(sets, level=1 - candidate)
        leaves_out = interval.low > 1e-15 or interval.high < -1e-15
        if candidate != pytest.approx(found.p_value, rel=1e-6):
            assert leaves_out == (found.p_value < candidate)


def test_p_value_of_one_draw_is_the_paired_t_tests() -> None:
    rng = np.random.default_rng(0)
    for items, shift in ((2, 0.3), (40, 0.2), (40, 9.0), (500, 0.01)):
        first, second = rng.normal(size=items), rng.normal(shift, 1, items)
        expected = scipy.stats.ttest_rel(second, first).pvalue
        assert paired_difference(first, second).p_value == pytest.approx(expected)
        same = np.stack([second] * 3)  # draws that are equal are one draw
        assert paired_difference(first, same).p_value == pytest.approx(expected)


def test_p_values_at_the_edges() -> None:
    tiny = paired_difference(np.zeros(900), 1 + 1e-9 * np.arange(900))  # none is below 1e-300
    assert tiny.p_value == 0
    equal = paired_difference(np.zeros((3, 9)), np.full((3, 9), 0.25))
    assert (equal.low, equal.high, equal.p_value) == (0.25, 0.25, 0)
    assert np.mean([0.1, 0.2, -0.3]) != 0  # by rounding
    sets = [np.full(7, value) for value in (0.1, 0.2, -0.3)]
    cancelled = paired_difference([np.zeros(7)] * 3, sets)
    assert (cancelled.estimate, cancelled.p_value) == (0, 1)
    single = paired_difference([np.zeros(1), np.zeros(5)], [np.ones((3, 1)), np.ones((3, 5))])
    assert np.isnan([single.low, single.high, single.p_value]).all()
    assert single.sign_flip_p == 2 / 2**6


# what the levels hold


CASES = {case.name: case for case in statistics_coverage.cases()}


@pytest.mark.parametrize(
    ("name", "simulations"),
    [
        ("mean, bootstrap, n 300, 1 draw", 300),
        ("mean, crossed, n 300, 3 draws that are alike", 1000),
        ("mean, crossed, n 300, 3 draws that differ much", 1000),
        ("difference, crossed, n 300, 3 draws that differ much", 1000),
        ("difference, crossed, 5 sets of n 200, 3 draws that differ", 300),
        ("median rank 41, bootstrap, n 300, 1 draw", 200),
        ("simultaneous band, all points, n 300, 1 draw", 250),
        ("simultaneous band, all points, n 300, 3 draws", 250),
        ("class interval, n 14, 1 draw", 200),
        ("class interval, n 100, 3 draws", 200),
        ("selection gap, flat, n 300, 1 draw", 200),
        ("paired test errs, continuous, n 300, 1 draw", 300),
        ("paired test errs, n 300, 3 draws alike", 300),
        ("family: any of 14 errs, 3 draws that vary 1 times as clips", 150),
        ("family: any of 14 errs, 5 draws that vary 10 times as clips", 150),
        ("false discoveries, 40 classes of 100, 1 draw", 40),
        ("any class is marked of 40 of 100 that are equal, 3 draws that differ much", 40),
    ],
)
def test_levels_hold_on_simulated_data(name: str, simulations: int) -> None:
    rate, _ = statistics_coverage.measure(CASES[name], simulations, n_resamples=200)
    target = CASES[name].target
    assert target is not None
    # 3 binomial errors at the ends, and half a percent for the few resamples.
    low, high = (
        end + sign * (0.005 + 3 * np.sqrt(end * (1 - end) / simulations))
        for end, sign in zip(target, (-1, 1), strict=True)
    )
    assert low <= rate <= high


def test_coverage_table_says_what_holds(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["statistics_coverage", "--simulations", "3", "--only", "class interval, n 14"]
    monkeypatch.setattr("sys.argv", command)
    statistics_coverage.main()
    assert "| class interval, n 14, 1 draw | " in capsys.readouterr().out
    case = CASES["mean, bootstrap, n 300, 1 draw"]
    words = [statistics_coverage.verdict(case, rate, 2000) for rate in (0.91, 0.95, 0.99)]
    assert words == ["too low", "holds", "too high"]
