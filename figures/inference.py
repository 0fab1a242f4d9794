"""Tests that only figures need: of whole curves, of the best alpha, and of classes.

Values have the forms of `fitclip_core.statistics`, and one more axis at the end where they are
curves: [items, points] or [draws, items, points], or a list of such arrays, data sets that are
averaged with equal weight. Intervals, bands and bounds have a level of 95%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from fitclip_core.statistics import (
    Array,
    Values,
    check_settings,
    common_draws,
    count_items,
    crossed_spread,
    draw_weights,
    per_item_sets,
    resampled_totals,
)

_LEVEL: Final = 0.95
_RESAMPLES: Final = 2000
_PERMUTATIONS: Final = 10_000
_CHUNK: Final = 4_000_000  # numbers permuted at once


@dataclass(frozen=True, eq=False)
class Band:
    """A curve and its simultaneous band, arrays [points]; n counts the items."""

    estimate: Array
    low: Array
    high: Array
    n: int


@dataclass(frozen=True, eq=False)
class BestSet:
    """Each point's mean less the best of the others' (`lead`), arrays [points]; n counts the items.

    `left` are the points not shown worse than the best. From `low` (at most 0) to `high`, or to 0
    where `high` is below it, are Hsu's intervals for all points together; a `high` below 0 bounds
    what this point loses, for a point chosen beforehand. `reach` is the distance between `lead` and
    the bound of the strongest other.
    """

    lead: Array
    low: Array
    high: Array
    reach: Array
    left: NDArray[np.bool_]
    n: int


@dataclass(frozen=True)
class SelectionGap:
    """What the chosen alpha loses to the best one in hindsight, and its interval; n: test items."""

    chosen: float
    hindsight: float
    gap: float
    low: float
    high: float
    n: int


def simultaneous_band(values: Values, *, n_resamples: int = _RESAMPLES, seed: int = 0) -> Band:
    """A band that holds a whole curve of means, such as a sweep over alpha, at all its points.

    Each point's :func:`crossed_interval` is widened by one factor: the bootstrap's quantile of the
    largest deviation among the points, each in units of its standard deviation, over the quantile
    for a single point. Items and draws are resampled for all points together. A point without
    spread takes no part and has a band of no width; a data set of one item makes the ends NaN.

    values: curves (see above); a point that all draws share (the teacher) is repeated for each.

    Raises: ValueError when data sets' numbers of points differ, or as :func:`bootstrap_interval`.
    Source: Montiel Olea and Plagborg-Møller 2019 (the sup-t band and its bootstrap).
    """
    sets, estimate, deviations = _resampled_means(values, n_resamples, seed)
    factor = _joint_quantile(np.abs(deviations), deviations, sets)
    factor /= special.ndtri((1 + _LEVEL) / 2)
    half_widths = crossed_spread(sets).half_width(_LEVEL) * max(1.0, factor)
    return Band(estimate, estimate - half_widths, estimate + half_widths, count_items(sets))


def compared_with_best(values: Values) -> BestSet:
    """Which points of a curve of means, such as alphas, may be the best, and what each loses to it.

    For each point the differences of the others to it have one-sided bounds that hold for all of
    them together, widened as in :func:`simultaneous_band`. A point is shown worse than the best
    when one of its bounds lies above it. The best point is then among those that are left, and no
    point loses more to it than `low` says. With a data set of one item the bounds are NaN, and no
    point is shown worse.

    values: curves (see above); the largest mean is the best.

    Raises: ValueError when there is one point, or as :func:`simultaneous_band`.
    Source: Hsu 1984 (constrained intervals for comparisons with the best); Hsu 1981; Hsu 1996,
    chapter 4 (a critical value for each point, where their correlations differ).
    """
    sets, means, deviations = _resampled_means(values, _RESAMPLES, seed=0)
    if len(means) < 2:
        raise ValueError("there is one point: comparisons with the best need at least two")
    reach = np.empty((len(means), len(means)))  # [point, other]: of the bound of other - point
    for point in range(len(means)):
        gaps = [data - data[:, [point]] for data in sets]
        relative = deviations - deviations[point]
        factor = _joint_quantile(relative, relative, sets) / special.ndtri(_LEVEL)
        reach[point] = crossed_spread(gaps).half_width(2 * _LEVEL - 1) * max(1.0, factor)
    behind = np.subtract.outer(-means, -means)  # [point, other]: other - point
    np.fill_diagonal(behind, -np.inf)
    high = -(behind - reach).max(axis=1)
    left = ~(high < -1e-12)  # equal means may differ by the order of a sum
    # The best is one of those left, each of which has its own reach.
    low = 0 - np.where(left, behind + reach.T, -np.inf).max(axis=1).clip(min=0)
    strongest = reach[behind.argmax(axis=1), np.arange(len(means))]
    return BestSet(-behind.max(axis=1), low, high, strongest, left, count_items(sets))


def selection_gap(
    validation: Values,
    test: Values,
    alphas: ArrayLike,
    *,
    n_resamples: int = _RESAMPLES,
    seed: int = 0,
) -> SelectionGap:
    """What the alpha with the best validation mean loses, on the test, to the test's best alpha.

    Of equal means the smaller alpha is taken. Each resample chooses both alphas anew, from
    validation items, test items, and draws, which validation and test share.

    The best of several noisy means lies above the best true mean, so the gap, never negative, is
    biased upwards, the more so the flatter the curve; the percentile interval is so once more, and
    on the safe side: it covered the chosen alpha's true loss in 96-100% of simulations, where
    resampling the test alone covered 69% on flat curves. Its high end is what may be quoted.

    validation, test: curves (see above) with items and data sets of their own. alphas: [points],
    ascending. The ends are NaN when a data set has one item.

    Raises: ValueError when alphas do not ascend or are not one for each point, or as
    :func:`simultaneous_band`.
    Source: Efron and Gong 1983 (the selection repeated in each resample).
    """
    sides = [
        per_item_sets(name, values, points=True)
        for name, values in (("validation", validation), ("test", test))
    ]
    check_settings(_LEVEL, n_resamples)
    both = [*sides[0], *sides[1]]
    grid = np.asarray(alphas, dtype=np.float64)
    points = {data.shape[1] for data in both}
    if points != {grid.size} or grid.ndim != 1 or not (np.diff(grid) > 0).all():
        raise ValueError(
            f"alphas are {grid.tolist()} and the curves have {sorted(points)} points: pass "
            "ascending alphas, one for each point of validation and test"
        )
    rng = np.random.default_rng(seed)
    weights = draw_weights(common_draws(both), n_resamples, rng)
    resampled = [resampled_totals(sets, "mean", weights, rng) for sets in sides]
    chosen, hindsight, (gap,) = _selected(*(_means(sets)[:, None] for sets in sides))
    low = high = float("nan")
    if min(data.shape[-1] for data in both) > 1:
        tail = (1 - _LEVEL) / 2
        low, high = map(float, np.quantile(_selected(*resampled)[2], [tail, 1 - tail]))
        low = min(low, gap)  # on a fine grid every resample may have a gap, whatever there is here
    best = float(grid[chosen[0]]), float(grid[hindsight[0]])
    return SelectionGap(*best, float(gap), float(low), high, count_items(sides[1]))


def per_class_differences(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike | pd.Series,
    *,
    level: float = _LEVEL,
) -> pd.DataFrame:
    """Difference in accuracy (second - first) of each class, with intervals, p- and q-values.

    The interval is made for few items: one pair that only the first model has right and one that
    only the second has right are added, which for one draw is the interval of Bonett and Price, and
    for several draws the same on the variance of :func:`crossed_interval`. It covers new items and
    new draws, for each class by itself, and has a width where the models agree on all items.

    p_value is the larger of two tests'. One inverts the interval, so that p_value is never below
    1 - level where the interval holds 0; few items make it too liberal in the far tail, where the
    correction looks. The other, sign_flip_p, is the exact test of these draws, an item's
    differences in all draws flipped together (for one draw, McNemar's). A simulated p-value would
    not survive the correction for hundreds of classes.

    first, second: [items] or [draws, items] of the same items, 1 for right and 0 for wrong; a side
    with one draw goes with every draw of the other. labels: [items] names or numbers of classes.

    Returns: a row a class, in order: class, n (items), difference, low, high (fractions), p_value,
    sign_flip_p, q_value (of p_value): of the classes with q <= 0.05, at most 5% are expected to be
    marked wrongly, and each one's interval leaves out 0.
    Raises: ValueError for outcomes other than 0 and 1, items or draws that do not match, or labels
    that are missing or of another number.
    Source: Supplement, figure 1. Bonett and Price 2012 (the interval; recommended for small samples
    by Fagerland, Lydersen and Laake 2014); McNemar 1947; Benjamini and Hochberg 1995 (q-values).
    """
    check_settings(level)
    sides = []
    for name, outcomes in (("first", first), ("second", second)):
        (side,) = per_item_sets(name, np.asarray(outcomes))
        if not np.isin(side, (0, 1)).all():
            raise ValueError(f"{name} holds other values than 0 and 1: pass rank <= k of each item")
        sides.append(side)
    common_draws(sides)
    classes = pd.Series(np.asarray(labels))
    numbers = [sides[0].shape[1], sides[1].shape[1], len(classes)]
    if len(set(numbers)) > 1:
        raise ValueError(
            "first, second and labels have {}, {} and {} items: pass the same items in the same "
            "order".format(*numbers)
        )
    if classes.isna().any():
        raise ValueError(f"label {int(classes.isna().argmax())} is missing: give each item a class")
    differences = sides[1] - sides[0]
    rows = []
    for label, items in classes.groupby(classes, sort=True).indices.items():
        of_class = differences[:, items]
        added = np.tile([1.0, -1.0], (len(of_class), 1))
        adjusted = np.concatenate([of_class, added], axis=1)
        spread, mean = crossed_spread([adjusted], small_sample=False), float(adjusted.mean())
        half_width = float(spread.half_width(level))
        exact = _exact_sign_flip_p_value(of_class.sum(axis=0).astype(int))
        rows.append(
            {
                "class": label,
                "n": len(items),
                "difference": of_class.mean(),
                "low": max(mean - half_width, -1.0),
                "high": min(mean + half_width, 1.0),
                "p_value": max(exact, spread.p_value(mean)),
                "sign_flip_p": exact,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(q_value=stats.false_discovery_control(table["p_value"]))


def heterogeneity_p_value(differences: ArrayLike, labels: ArrayLike) -> float:
    """p-value of the test that a paired difference does not depend on the class.

    (1 + permutations of the labels that reach the statistic) / (1 + permutations), the statistic
    being the sum of squares between classes of the mean differences. All classes count together, so
    the test has power where no class by itself has enough items.

    differences: [items] of one pair each, second - first. Where they are means over draws, the test
    holds for new items and these draws. labels: [items] the items' classes.

    Raises: ValueError when there is no item, a difference is NaN or infinite, or there is not one
    label for each item.
    Source: Pitman 1938 (the analysis of variance by permutation); Phipson and Smyth 2010 (the added
    one).
    """
    values, codes = _classed(differences, labels)
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    ordered = values[np.argsort(codes, kind="stable")]

    def between(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        # Less the square of the grand mean, which permutations leave as it is.
        return (np.add.reduceat(rows, starts, axis=1) ** 2 / sizes).sum(axis=1)

    threshold = between(ordered[None])[0] - 1e-12 * np.square(values).sum()
    rng = np.random.default_rng(0)
    reached, step = 0, max(1, _CHUNK // len(values))
    for start in range(0, _PERMUTATIONS, step):
        rows = np.tile(ordered, (min(step, _PERMUTATIONS - start), 1))
        reached += int((between(rng.permuted(rows, axis=1)) >= threshold).sum())
    return (1 + reached) / (1 + _PERMUTATIONS)


def qualitative_interaction_p_value(differences: ArrayLike, labels: ArrayLike) -> float:
    """p-value of the test that a paired difference has the same sign, or is 0, in all classes.

    `gail_simon_p_value` of the classes' mean differences, each with the standard error that it has
    if the class's true difference is 0: the root of its sum of squares, over its items. Unlike the
    spread around its own mean it does not vanish in a class of a few items that agree. A class
    without any difference says nothing and is left out.

    Takes and raises as `heterogeneity_p_value`; 1 where fewer than two classes have a difference.
    """
    values, codes = _classed(differences, labels)
    sums, squares = np.bincount(codes, values), np.bincount(codes, np.square(values))
    known = squares > 0
    return gail_simon_p_value(sums[known], np.sqrt(squares[known]))


def gail_simon_p_value(effects: ArrayLike, errors: ArrayLike) -> float:
    """Gail and Simon's p-value that effects are not of both signs; 1 where they are of one sign.

    The statistic is the smaller of two sums of squared effects in units of their standard errors,
    over the positive and over the negative ones. Its distribution where the null hypothesis is
    hardest to keep, with one effect very large and the other K - 1 zero, is a mixture of chi-square
    distributions, whose degrees of freedom are binomial: of K - 1 signs, each as likely as not.

    effects: [classes] independent and about normal. errors: [classes] standard errors, above 0.

    Source: Gail and Simon 1985, Testing for qualitative interactions between treatment effects and
    patient subsets (Biometrics 41).
    """
    values = np.asarray(effects, np.float64)
    squares = np.square(values / np.asarray(errors, np.float64))
    statistic = min(squares[values > 0].sum(), squares[values < 0].sum())
    if statistic == 0:
        return 1.0
    freedoms = np.arange(1, len(values))
    weights = stats.binom.pmf(freedoms, len(values) - 1, 0.5)
    return float((weights * stats.chi2.sf(statistic, freedoms)).sum())


def _means(sets: list[Array]) -> Array:
    return np.asarray(np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0))


def _resampled_means(
    values: Values, n_resamples: int, seed: int
) -> tuple[list[Array], Array, Array]:
    """The data sets, their mean [points], and its resamples' deviations [points, resamples]."""
    sets = per_item_sets("values", values, points=True)
    check_settings(_LEVEL, n_resamples)
    rng = np.random.default_rng(seed)
    weights = draw_weights(common_draws(sets), n_resamples, rng)
    means = _means(sets)
    return sets, means, resampled_totals(sets, "mean", weights, rng) - means[:, None]


def _joint_quantile(deviations: Array, signed: Array, sets: list[Array]) -> float:
    """Quantile of the largest of the deviations [points, resamples], in their points' units.

    A point's unit is the standard deviation of its signed deviations; one without spread takes no
    part, and 0 is the quantile where none has any.
    """
    spreads = signed.std(axis=1)
    # Of a point without spread, rounding leaves some 1e-16 of the values.
    spreading = spreads > 1e-12 * max(np.abs(data).max() for data in sets)
    if not spreading.any():
        return 0.0
    largest = (deviations[spreading] / spreads[spreading, None]).max(axis=0)
    return float(np.quantile(largest, _LEVEL))


def _selected(
    validation: Array, test: Array
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Where curves [points, resamples] are best, and the gap: arrays [resamples]."""
    # Rounded, so that equal means do not differ by the order of a sum.
    chosen, hindsight = (curve.round(12).argmax(axis=0) for curve in (validation, test))
    columns = np.arange(test.shape[1])
    return chosen, hindsight, test[hindsight, columns] - test[chosen, columns]


def _exact_sign_flip_p_value(sums: NDArray[np.int_]) -> float:
    """Two-sided p-value over all sign flips of whole numbers: [items]."""
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    chances = np.ones(1)  # of the flipped sums from -reach to reach
    for size, count in zip(sizes, counts, strict=True):
        flips = np.zeros(2 * size * count + 1)
        flips[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, flips)
    reach = len(chances) // 2
    reached = np.abs(np.arange(-reach, reach + 1)) >= abs(sums.sum())
    return min(1.0, float(chances[reached].sum()))  # the sum may exceed 1 by rounding


def _classed(
    differences: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The differences, and the place of each item's class."""
    values, names = np.asarray(differences, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.size == 0 or names.shape != values.shape:
        raise ValueError(
            f"differences have shape {values.shape} and labels {names.shape}: pass one of each for "
            "every item"
        )
    if not np.isfinite(values).all():
        raise ValueError("differences hold NaN or infinite values: measure or leave out the item")
    return values, np.unique(names, return_inverse=True)[1]
