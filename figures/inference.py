"""Bands over curves, the best of several alphas, classes that differ: tests that only figures need.

Values have the forms of `fitclip_core.statistics`, and one more axis at the end where they are
curves: [items, points] or [draws, items, points].
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Band:
    """A curve and its simultaneous band, arrays [points]; n counts the items."""

    estimate: Array
    low: Array
    high: Array
    level: float
    n: int


@dataclass(frozen=True, eq=False)
class BestSet:
    """Each point's mean less the best of the others', arrays [points]; n counts the items.

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
    level: float
    n: int


@dataclass(frozen=True)
class SelectionGap:
    """What the chosen alpha loses to the best one in hindsight, and its interval; n: test items."""

    chosen: float
    hindsight: float
    gap: float
    low: float
    high: float
    level: float
    n: int


def simultaneous_band(
    values: Values, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Band:
    """A band that holds a whole curve of means, such as a sweep over alpha, with the given level.

    Each point's :func:`crossed_interval` is widened by one factor: the bootstrap's quantile of the
    largest deviation among the points, each in units of its standard deviation, over the quantile
    for a single point. The resamples are those of :func:`bootstrap_interval`; all points share
    items and draws, and so the factor is small where the points move together. A point without
    spread (all outcomes equal) takes no part and has a band of no width.

    Args:
        values: [items, points], [draws, items, points], or a list of such arrays: data sets,
            averaged with equal weight. A point that all draws share (the teacher) is repeated for
            each draw.
        level: the chance that the band holds all points at once, in (0, 1).
        n_resamples: number of bootstrap resamples.
        seed: of the resamples.

    Returns:
        Estimates and ends, arrays [points]. The ends are NaN when a data set has one item.

    Raises:
        ValueError: the data sets' numbers of points differ, or as :func:`bootstrap_interval`.

    Source:
        Montiel Olea and Plagborg-Møller 2019 (the sup-t band and its bootstrap).
    """
    sets = per_item_sets("values", values, points=True)
    check_settings(level, n_resamples)
    estimate = np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)
    half_widths = crossed_spread(sets).half_width(level)
    rng = np.random.default_rng(seed)
    weights = draw_weights(common_draws(sets), n_resamples, rng)
    deviations = resampled_totals(sets, "mean", weights, rng) - estimate[:, None]
    single = special.ndtri((1 + level) / 2)
    half_widths *= max(1.0, _joint_quantile(np.abs(deviations), deviations, sets, level) / single)
    return Band(estimate, estimate - half_widths, estimate + half_widths, level, count_items(sets))


def compared_with_best(
    values: Values, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> BestSet:
    """Which points of a curve of means, such as alphas, may be the best, and what each loses to it.

    For each point the differences of the others to it have one-sided bounds that hold for all of
    them together: :func:`crossed_interval`'s, widened by one factor as in
    :func:`simultaneous_band`. A point is shown worse than the best when one of its bounds lies
    above it. With the given level the best point is among those that are left, and no point loses
    more to the best than `low` says. Neighbours that hardly differ are left together: one point
    alone is left only where the data tell it from all others.

    Args:
        values: [items, points] or [draws, items, points], or a list of such arrays: data sets,
            averaged with equal weight. The largest mean is the best.
        level: the chance that all of this holds at once, in (0.5, 1).
        n_resamples: number of bootstrap resamples.
        seed: of the resamples.

    Returns:
        The comparisons of each point with the best of the others, in the unit of the values. Bounds
        are NaN when a data set has one item; no point is then shown worse.

    Raises:
        ValueError: there is one point, level is not above 0.5, or as :func:`simultaneous_band`.

    Source:
        Hsu 1984 (constrained intervals for comparisons with the best); Hsu 1981; Hsu 1996, chapter
        4 (a critical value for each point, where their correlations differ).

    Example:
        >>> compared_with_best(np.eye(2)[[0, 0, 0, 0, 0, 1]]).lead.round(3)
        array([ 0.667, -0.667])
    """
    sets = per_item_sets("values", values, points=True)
    check_settings(level, n_resamples)
    means = np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)
    if level <= 0.5:
        raise ValueError(f"level is {level}: bounds of one side need more than 0.5, such as 0.95")
    if len(means) < 2:
        raise ValueError("there is one point: comparisons with the best need at least two")
    rng = np.random.default_rng(seed)
    weights = draw_weights(common_draws(sets), n_resamples, rng)
    deviations = resampled_totals(sets, "mean", weights, rng) - means[:, None]
    reach = np.empty((len(means), len(means)))  # [point, other]: of the bound of other - point
    for place in range(len(means)):
        gaps = [data - data[:, [place]] for data in sets]
        one = deviations - deviations[place]
        factor = _joint_quantile(one, one, sets, level) / special.ndtri(level)
        reach[place] = crossed_spread(gaps).half_width(2 * level - 1) * max(1.0, factor)
    behind = np.subtract.outer(-means, -means)  # [point, other]: other - point
    np.fill_diagonal(behind, -np.inf)
    strongest = behind.argmax(axis=1)
    points = np.arange(len(means))
    high = -(behind - reach).max(axis=1)
    left = ~(high < -1e-12)  # equal means may differ by the order of a sum
    # The best is one of those left, each of which has its own reach.
    low = 0 - np.where(left, behind + reach.T, -np.inf).max(axis=1).clip(min=0)
    return BestSet(
        lead=-behind.max(axis=1),
        low=low,
        high=high,
        reach=reach[strongest, points],
        left=left,
        level=level,
        n=count_items(sets),
    )


def per_class_differences(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike | pd.Series,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """Difference in accuracy (second - first) of each class, with intervals, p- and q-values.

    The interval is made for few items: one pair that only the first model has right and one that
    only the second has right are added, which for one draw gives the interval of Bonett and Price,
    and for several draws the same on the variance of :func:`crossed_interval`. It does not shrink
    to nothing where the models agree on all items, and it covers new items and new draws. It holds
    for each class by itself.

    A class must pass two tests, and the p-value is the larger of theirs. One is got by inverting
    the interval, so that the p-value never goes below 1 - level where the interval holds 0; few
    items make it too liberal in the far tail, where the correction looks. The other is the exact
    sign-flip test over the class's items, an item's differences in all draws flipped together (for
    one draw, McNemar's exact test); alone it would speak of the draws at hand only. Neither is
    simulated, because among hundreds of classes the smallest p-value that resampling can give would
    never survive the correction.

    Args:
        first: one model's outcomes, 1 for right and 0 for wrong: [items] or [draws, items].
        second: the other model's for the same items. A side with one draw is compared with every
            draw of the other.
        labels: [items] the items' classes, as names or numbers.
        level: confidence level of each interval, in (0, 1).

    Returns:
        One row a class, in order of class: ``class``, ``n`` (items), ``difference``, ``low``,
        ``high`` (fractions in [-1, 1]), ``p_value``, ``sign_flip_p`` (of the exact test, given
        these draws) and ``q_value`` (of p_value): at q <= 0.05, at most 5% of the classes so marked
        are expected to be marked wrongly, and each one's interval leaves out 0.

    Raises:
        ValueError: outcomes other than 0 and 1, items or draws that do not match, or labels that
            are missing or of another number.

    Source:
        Supplement, figure 1. Bonett and Price 2012 (the interval; recommended for small samples by
        Fagerland, Lydersen and Laake 2014); McNemar 1947; Benjamini and Hochberg 1995 (q-values).

    Example:
        >>> table = per_class_differences([0, 0, 0, 1], [1, 1, 1, 1], ["a", "a", "a", "b"])
        >>> table["p_value"].tolist()
        [0.25, 1.0]
    """
    check_settings(level)
    sides = []
    for name, outcomes in (("first", first), ("second", second)):
        (side,) = per_item_sets(name, np.asarray(outcomes))
        if not np.isin(side, (0, 1)).all():
            raise ValueError(f"{name} holds other values than 0 and 1: pass rank <= k of each item")
        sides.append(side)
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(
            f"first has {sides[0].shape[1]} items and second {sides[1].shape[1]}: pass the same "
            "items in the same order"
        )
    common_draws(sides)
    differences = sides[1] - sides[0]
    classes = pd.Series(np.asarray(labels))
    if len(classes) != differences.shape[1]:
        raise ValueError(
            f"there are {differences.shape[1]} items and {len(classes)} labels: pass one each"
        )
    if classes.isna().any():
        raise ValueError(f"label {int(classes.isna().argmax())} is missing: give each item a class")
    rows = []
    for label, places in classes.groupby(classes, sort=True).indices.items():
        found = differences[:, places]
        added = np.tile([1.0, -1.0], (len(found), 1))
        adjusted = np.concatenate([found, added], axis=1)
        spread = crossed_spread([adjusted], small_sample=False)
        half_width = float(spread.half_width(level))
        exact = _exact_sign_flip_p_value(found.sum(axis=0).astype(int))
        rows.append(
            {
                "class": label,
                "n": len(places),
                "difference": found.mean(),
                "low": max(adjusted.mean() - half_width, -1.0),
                "high": min(adjusted.mean() + half_width, 1.0),
                "p_value": max(exact, spread.p_value(float(adjusted.mean()))),
                "sign_flip_p": exact,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(q_value=stats.false_discovery_control(table["p_value"]))


def selection_gap(
    validation: Values,
    test: Values,
    alphas: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> SelectionGap:
    """What the alpha with the best validation mean loses, on the test, to the test's best alpha.

    The gap is the test mean at the hindsight alpha less that at the chosen one; of equal means the
    smaller alpha is taken. Each bootstrap resample chooses both alphas anew, from validation items,
    test items and draws as in :func:`bootstrap_interval`; validation and test share their students
    and so the resampled draws.

    The best of several noisy means lies above the best true mean, so the gap is biased upwards,
    and more so the flatter the curve; it cannot be negative. The percentile interval has the same
    bias once more and is on the safe side: it covered the chosen alpha's true loss in 96-100% of
    simulations, where resampling the test alone covered 69% on flat curves. Its high end is what
    may be quoted: the choice costs at most that much.

    Args:
        validation: [items, alphas] or [draws, items, alphas], or a list of such arrays: data sets,
            averaged with equal weight.
        test: the same of the test, with its own items and data sets.
        alphas: [alphas] the values of the last axis, ascending.
        level: confidence level in (0, 1).
        n_resamples: number of bootstrap resamples.
        seed: of the resamples.

    Returns:
        Both alphas, the gap and its interval, in the unit of the values. The ends are NaN when a
        data set has one item.

    Raises:
        ValueError: alphas do not ascend or are not one for each point, or as
            :func:`simultaneous_band`.

    Source:
        Efron and Gong 1983 (the selection repeated in each resample).
    """
    validations = per_item_sets("validation", validation, points=True)
    tests = per_item_sets("test", test, points=True)
    check_settings(level, n_resamples)
    grid = np.asarray(alphas, dtype=np.float64)
    numbers = {data.shape[1] for data in (*validations, *tests)}
    if numbers != {grid.size} or grid.ndim != 1 or not (np.diff(grid) > 0).all():
        raise ValueError(
            f"alphas are {grid.tolist()} and the curves have {sorted(numbers)} points: pass "
            "ascending alphas, one for each point of validation and test"
        )
    rng = np.random.default_rng(seed)
    draws = common_draws([*validations, *tests])
    weights = draw_weights(draws, n_resamples, rng)
    curves, resampled = [], []
    for sets in (validations, tests):
        curves.append(np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)[:, None])
        resampled.append(resampled_totals(sets, "mean", weights, rng))
    chosen, hindsight, (gap,) = _selected(*curves)
    low = high = float("nan")
    if min(data.shape[-1] for data in (*validations, *tests)) > 1:
        tail = (1 - level) / 2
        low, high = np.quantile(_selected(*resampled)[2], [tail, 1 - tail])
        low = min(low, gap)  # on a fine grid every resample may have a gap, whatever there is here
    return SelectionGap(
        chosen=float(grid[chosen[0]]),
        hindsight=float(grid[hindsight[0]]),
        gap=float(gap),
        low=float(low),
        high=float(high),
        level=level,
        n=count_items(tests),
    )


def _selected(
    validation: Array, test: Array
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Where curves [points, resamples] are best, and the gap: arrays [resamples]."""
    # Rounded, so that equal means do not differ by the order of a sum.
    chosen = validation.round(12).argmax(axis=0)
    hindsight = test.round(12).argmax(axis=0)
    columns = np.arange(test.shape[1])
    return chosen, hindsight, test[hindsight, columns] - test[chosen, columns]


def _joint_quantile(deviations: Array, signed: Array, sets: list[Array], level: float) -> float:
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
    return float(np.quantile(largest, level))


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
