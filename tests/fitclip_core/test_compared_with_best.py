"""Hsu's comparisons with the best against the slow way, Dunnett's quantile and simulated truth."""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from fitclip_core.statistics import compared_with_best, crossed_interval


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
