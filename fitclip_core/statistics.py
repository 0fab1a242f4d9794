"""Intervals, bands and paired tests over items, data sets and student draws.

One run evaluates several students (draws) on the same items of several data sets. Per-item values
come in one of three forms:

- an array [items]: one data set, one draw;
- an array [draws, items]: one data set, several draws, the same items in each;
- a list of such arrays: data sets, averaged with equal weight, whatever their sizes. Draw k is the
  same student in all of them. An array of a single draw goes with any number of draws.

A curve has one more axis at the end, its points: [items, points] or [draws, items, points].
`benchmarks/statistics_coverage.py` measures what the intervals and tests below hold on simulated
data with known truth.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Values = ArrayLike | Sequence[ArrayLike]
Statistic = Literal["mean", "median"] | Callable[..., NDArray[np.float64]]
Array = NDArray[np.float64]

_CHUNK = 4_000_000  # numbers drawn at once: bounds memory at some 100 MB
_TINIEST = 1e-300  # a p-value below it is 0


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the unit of the values; n counts the items."""

    estimate: float
    low: float
    high: float
    level: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference (second - first), its interval and p-values; n counts the items.

    `p_value` goes with the interval; `sign_flip_p` holds for the given draws alone.
    """

    estimate: float
    low: float
    high: float
    level: float
    p_value: float
    sign_flip_p: float
    n: int


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


def bootstrap_interval(
    values: Values,
    *,
    statistic: Statistic = "mean",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval over items and, where there are several, over draws.

    Each resample draws every data set's items anew (the same ones for all draws, because the draws
    share their items) and the draws (the same ones for all data sets, because the sets share their
    students). Of D draws, D - 1 are taken: with D the spread between few draws would come out
    D / (D - 1) times too small (Rao and Wu). With one draw the interval speaks of that draw alone.
    Few draws say little of how draws spread: in a simulation with 3 draws and 300 items the 95%
    interval covered 95-98% while the draws' standard deviation was at most twice the items'
    standard error, and 86% at five times. For means over several draws :func:`crossed_interval`
    keeps its level there.

    Args:
        values: per-item values, in one of the module's three forms.
        statistic: taken over the items of each draw, then averaged over draws and data sets. A
            callable takes (array, axis) and reduces that axis.
        level: confidence level in (0, 1).
        n_resamples: number of bootstrap resamples.
        seed: of the resamples; the same seed gives the same interval.

    Returns:
        The estimate on all values and the interval; ``n`` is the number of items of all data sets.
        The ends are NaN when a data set has one item, which says nothing about the spread.

    Raises:
        ValueError: values are empty, not finite or of another form, the data sets' numbers of
            draws differ, the statistic does not reduce its axis, or level or n_resamples is out of
            range.

    Source:
        Efron and Tibshirani 1993, chapter 13 (percentile interval); Owen 2007 (crossed factors
        resampled separately); Rao and Wu 1988 (n - 1 of n units).

    Example:
        >>> bootstrap_interval(np.arange(100.0)).estimate
        49.5
    """
    sets = _data_sets("values", values)
    _check_settings(level, n_resamples)
    rng = np.random.default_rng(seed)
    estimate = float(np.mean([_statistic(statistic, data).mean() for data in sets]))
    low, high = _percentile_ends(sets, statistic, level, n_resamples, rng)
    return Interval(estimate, low, high, level, _count_items(sets))


def crossed_interval(values: Values, *, level: float = 0.95) -> Interval:
    """t interval of a mean over crossed items and draws; holds its level with as few as 3 draws.

    The design is that of multi-reader multi-case studies: random draws (there: readers) by random
    items (cases), each draw measured on each item. The variance of the mean is estimated from two
    mean squares, of the draws' means and of the items' means, less the interaction's, which both
    hold. The t quantile is the mean of the draws' (draws - 1 degrees of freedom) and the items'
    one, weighted by their parts of the variance. A percentile bootstrap has no such quantile, and
    of 3 draws it cannot know that they may all lie on one side. With one draw this is the t
    interval over items; shares close to 0 or 1 are then better served by
    :func:`bootstrap_interval`.

    Args:
        values: per-item values, in one of the module's three forms.
        level: confidence level in (0, 1).

    Returns:
        The estimate on all values and the interval; ``n`` is the number of items of all data sets.
        The ends are NaN when a data set has one item.

    Raises:
        ValueError: as :func:`bootstrap_interval`.

    Source:
        Obuchowski and Rockette 1995, Hillis 2007 (the design; their degrees of freedom are others);
        Searle, Casella and McCulloch 1992, Variance Components (the two-way crossed random model);
        Cochran and Cox 1957, Experimental Designs (t quantiles weighted by parts of the variance).

    Example:
        >>> crossed_interval(np.array([[0, 1, 1, 0], [0, 1, 1, 1]])).estimate
        0.625
    """
    sets = _data_sets("values", values)
    _check_settings(level)
    estimate = float(np.mean([data.mean() for data in sets]))
    half_width = float(_crossed(sets).half_width(level))
    return Interval(
        estimate, estimate - half_width, estimate + half_width, level, _count_items(sets)
    )


def mean_interval(
    values: Values,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of a mean: crossed where there are several draws, else the bootstrap over items.

    Simulations (benchmarks/statistics_coverage.py) show which one holds its level where.

    Args:
        values: per-item values, in one of the module's three forms.
        level: confidence level in (0, 1).
        n_resamples: bootstrap resamples, where there is one draw.
        seed: of the resamples.
        within: what the mean must lie in, (0, 1) for a share; ends beyond it are cut there.

    Raises:
        ValueError: as :func:`bootstrap_interval`.
    """
    if _common_draws(_data_sets("values", values)) > 1:
        found = crossed_interval(values, level=level)
    else:
        found = bootstrap_interval(values, level=level, n_resamples=n_resamples, seed=seed)
    low, high = (float(end) for end in np.clip((found.low, found.high), *within))
    return replace(found, low=low, high=high)


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
    sets = _data_sets("values", values, points=True)
    _check_settings(level, n_resamples)
    estimate = np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)
    half_widths = _crossed(sets).half_width(level)
    rng = np.random.default_rng(seed)
    draw_weights = _draw_weights(_common_draws(sets), n_resamples, rng)
    deviations = _resampled_totals(sets, "mean", draw_weights, rng) - estimate[:, None]
    single = special.ndtri((1 + level) / 2)
    half_widths *= max(1.0, _joint_quantile(np.abs(deviations), deviations, sets, level) / single)
    return Band(estimate, estimate - half_widths, estimate + half_widths, level, _count_items(sets))


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
    sets = _data_sets("values", values, points=True)
    _check_settings(level, n_resamples)
    means = np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)
    if level <= 0.5:
        raise ValueError(f"level is {level}: bounds of one side need more than 0.5, such as 0.95")
    if len(means) < 2:
        raise ValueError("there is one point: comparisons with the best need at least two")
    rng = np.random.default_rng(seed)
    draw_weights = _draw_weights(_common_draws(sets), n_resamples, rng)
    deviations = _resampled_totals(sets, "mean", draw_weights, rng) - means[:, None]
    reach = np.empty((len(means), len(means)))  # [point, other]: of the bound of other - point
    for place in range(len(means)):
        gaps = [data - data[:, [place]] for data in sets]
        one = deviations - deviations[place]
        factor = _joint_quantile(one, one, sets, level) / special.ndtri(level)
        reach[place] = _crossed(gaps).half_width(2 * level - 1) * max(1.0, factor)
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
        n=_count_items(sets),
    )


def paired_difference(
    first: Values,
    second: Values,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Mean of (second - first) over the same items, with an interval and a two-sided p-value.

    Interval and p-value are of one t, that of :func:`crossed_interval` on the per-item differences,
    and so speak of new items and new draws: the p-value is 1 less the largest level whose interval
    leaves out 0. With one draw both are of the paired t test over items, given that draw.

    Beside them stands the sign-flip permutation test over items, an item's differences in all draws
    flipped together. It needs no normal mean, but it is conditional on the draws at hand: its null
    hypothesis is that each item's difference is, with these draws, as likely to be of either sign.

    Args:
        first: per-item values of one model, in one of the module's three forms.
        second: values of the other model for the same items, in the same form. A side with one
            draw is compared with every draw of the other.
        level: confidence level in (0, 1).
        n_resamples: sign flips, where not all can be enumerated.
        seed: of the flips.

    Returns:
        Estimate, interval, both p-values and number of items of all data sets. Interval and p-value
        are NaN when a data set has one item. The p-value is 0 where the differences are all equal
        and not 0, which leaves the interval no width. With at most n_resamples distinct sign flips
        sign_flip_p is exact; else it is ``(1 + hits) / (1 + n_resamples)`` and cannot go below
        ``1 / (1 + n_resamples)``.

    Raises:
        ValueError: the sides' data sets, items or draws do not match, or as bootstrap_interval.

    Source:
        As :func:`crossed_interval`; Fisher's sign-flip test; Phipson and Smyth 2010 (the added
        one).

    Example:
        >>> found = paired_difference([0.0, 0, 0, 1], [1.0, 1, 1, 1])
        >>> round(found.p_value, 3), found.sign_flip_p  # t = 3; 2 of 2**3 sign flips
        (0.058, 0.25)
    """
    firsts, seconds = _data_sets("first", first), _data_sets("second", second)
    _check_settings(level, n_resamples)
    if len(firsts) != len(seconds):
        raise ValueError(
            f"first has {len(firsts)} data sets and second {len(seconds)}: pass the same ones"
        )
    for index, (one, other) in enumerate(zip(firsts, seconds, strict=True)):
        if one.shape[1] != other.shape[1]:
            raise ValueError(
                f"data set {index} has {one.shape[1]} items in first and {other.shape[1]} in "
                "second: pass the same items in the same order"
            )
    _common_draws([*firsts, *seconds])
    differences = [other - one for one, other in zip(firsts, seconds, strict=True)]
    estimate = float(np.mean([data.mean() for data in differences]))
    # Data sets' means that cancel leave some 1e-17 of the values, which is no difference.
    if abs(estimate) <= 1e-12 * max(np.abs(data).max() for data in differences):
        estimate = 0.0
    spread = _crossed(differences)
    half_width = float(spread.half_width(level))
    # Each item's share of the sum of the data sets' means: flipping its sign subtracts it twice.
    shares = np.concatenate([data.mean(axis=0) / data.shape[1] for data in differences])
    return PairedDifference(
        estimate=estimate,
        low=estimate - half_width,
        high=estimate + half_width,
        level=level,
        p_value=spread.p_value(estimate),
        sign_flip_p=_sign_flip_p_value(shares, n_resamples, np.random.default_rng(seed)),
        n=_count_items(differences),
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
    _check_settings(level)
    sides = []
    for name, outcomes in (("first", first), ("second", second)):
        (side,) = _data_sets(name, np.asarray(outcomes))
        if not np.isin(side, (0, 1)).all():
            raise ValueError(f"{name} holds other values than 0 and 1: pass rank <= k of each item")
        sides.append(side)
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(
            f"first has {sides[0].shape[1]} items and second {sides[1].shape[1]}: pass the same "
            "items in the same order"
        )
    _common_draws(sides)
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
        spread = _crossed([adjusted], small_sample=False)
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
    validations = _data_sets("validation", validation, points=True)
    tests = _data_sets("test", test, points=True)
    _check_settings(level, n_resamples)
    grid = np.asarray(alphas, dtype=np.float64)
    numbers = {data.shape[1] for data in (*validations, *tests)}
    if numbers != {grid.size} or grid.ndim != 1 or not (np.diff(grid) > 0).all():
        raise ValueError(
            f"alphas are {grid.tolist()} and the curves have {sorted(numbers)} points: pass "
            "ascending alphas, one for each point of validation and test"
        )
    rng = np.random.default_rng(seed)
    draws = _common_draws([*validations, *tests])
    draw_weights = _draw_weights(draws, n_resamples, rng)
    curves, resampled = [], []
    for sets in (validations, tests):
        curves.append(np.mean([data.mean(axis=(0, -1)) for data in sets], axis=0)[:, None])
        resampled.append(_resampled_totals(sets, "mean", draw_weights, rng))
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
        n=_count_items(tests),
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


def _percentile_ends(
    sets: list[Array],
    statistic: Statistic,
    level: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    if min(data.shape[-1] for data in sets) == 1:
        return float("nan"), float("nan")
    draw_weights = _draw_weights(_common_draws(sets), n_resamples, rng)
    totals = _resampled_totals(sets, statistic, draw_weights, rng)
    tail = (1 - level) / 2
    low, high = np.quantile(totals, [tail, 1 - tail])
    return float(low), float(high)


def _draw_weights(draws: int, n_resamples: int, rng: np.random.Generator) -> Array:
    """Each draw's weight in each resample: [n_resamples, draws], rows sum to 1."""
    taken = max(draws - 1, 1)
    return _multiplicities(rng, draws, taken, n_resamples) / taken


def _resampled_totals(
    sets: list[Array], statistic: Statistic, draw_weights: Array, rng: np.random.Generator
) -> Array:
    """The mean over draws and data sets of the statistic in each resample: [..., n_resamples].

    Sets are [draws, items], or [draws, points, items] where there are several points.
    """
    totals = np.zeros((*sets[0].shape[1:-1], len(draw_weights)))
    for data in sets:
        for rows in _chunks(len(draw_weights), data.size):
            resampled = _resampled(statistic, data, rows.stop - rows.start, rng)
            if len(data) == 1:
                totals[..., rows] += resampled[0]
            else:
                totals[..., rows] += np.einsum("d...r,rd->...r", resampled, draw_weights[rows])
    return totals / len(sets)


def _resampled(
    statistic: Statistic, data: Array, n_resamples: int, rng: np.random.Generator
) -> Array:
    """The statistic of each draw on resampled items: [draws, ..., n_resamples]."""
    items = data.shape[-1]
    if statistic == "mean":
        return data @ _multiplicities(rng, items, items, n_resamples).T / items
    picked = rng.integers(0, items, (n_resamples, items))
    return _statistic(statistic, data[:, picked])


@dataclass(frozen=True, eq=False)
class _Spread:
    """The standard error of a mean over crossed items and draws, and its t quantiles.

    error and weight (the draws' part of its square) are arrays [...]; the others are degrees of
    freedom, inf for a normal quantile.
    """

    error: Array
    weight: Array
    of_items: float
    of_draws: float

    def half_width(self, level: float) -> Array:
        return self._quantile((1 - level) / 2) * self.error

    def p_value(self, estimate: float) -> float:
        """1 less the largest level whose interval around the estimate, a number, leaves out 0."""
        error = float(self.error)
        if math.isnan(error) or estimate == 0:
            return math.nan if math.isnan(error) else 1.0
        if error == 0:
            return 0.0
        ratio = abs(estimate) / error
        # Between the p-values of the two single t distributions, and a little beyond for rounding.
        ends = [2 * float(special.stdtr(df, -ratio)) for df in (self.of_items, self.of_draws)]
        low, high = max(min(ends) / 2, _TINIEST), min(2 * max(ends), 1.0)
        if self._quantile(low / 2) <= ratio:
            return 0.0
        found = optimize.brentq(
            lambda log_p: float(self._quantile(math.exp(log_p) / 2)) - ratio,
            math.log(low),
            math.log(high),
            xtol=1e-12,
        )
        return math.exp(found)

    def _quantile(self, tail: float) -> Array:
        """What is exceeded with this chance, on one side."""
        of_items, of_draws = (special.stdtrit(df, tail) for df in (self.of_items, self.of_draws))
        return (self.weight - 1) * of_items - self.weight * of_draws


def _crossed(sets: list[Array], *, small_sample: bool = True) -> _Spread:
    """The spread of `crossed_interval`, for sets [draws, ..., items]: [...], NaN for one item.

    Without `small_sample` the items' variance has the divisor n and a normal quantile.
    """
    draws, fewest = _common_draws(sets), min(data.shape[-1] for data in sets)
    of_items, of_draws = float(fewest - 1) if small_sample else math.inf, float(max(draws - 1, 1))
    if fewest == 1:
        nothing = np.full(sets[0].shape[1:-1], np.nan)
        return _Spread(nothing, nothing, of_items, of_draws)
    by_draw = np.zeros((draws, *sets[0].shape[1:-1]))
    items_part, interaction = np.zeros_like(by_draw[0]), np.zeros_like(by_draw[0])
    for data in sets:
        n_draws, items = len(data), data.shape[-1]
        by_draw += data.mean(axis=-1)
        by_item = data.mean(axis=0)
        items_part += by_item.var(axis=-1, ddof=int(small_sample)) / items
        if n_draws > 1:
            residuals = data - data.mean(axis=-1, keepdims=True)
            residuals -= residuals.mean(axis=0)
            squares = np.square(residuals).sum(axis=(0, -1))
            interaction += squares / ((n_draws - 1) * (items - 1) * n_draws * items)
    draws_part = np.zeros_like(items_part)
    if draws > 1:
        draws_part = (by_draw / len(sets)).var(axis=0, ddof=1) / draws
    interaction /= len(sets) ** 2
    # The interaction is in both parts, and no estimate of the whole may be less than it.
    variance = draws_part + items_part / len(sets) ** 2 - interaction
    variance = np.maximum(variance, interaction)
    weight = np.divide(draws_part, variance, out=np.zeros_like(variance), where=variance > 0)
    return _Spread(np.sqrt(variance), np.minimum(weight, 1), of_items, of_draws)


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


def _multiplicities(rng: np.random.Generator, units: int, taken: int, n_resamples: int) -> Array:
    """How often each unit is taken in each resample: [n_resamples, units], rows sum to `taken`."""
    picked = rng.integers(0, units, (n_resamples, taken))
    picked += np.arange(n_resamples)[:, None] * units
    counts = np.bincount(picked.ravel(), minlength=n_resamples * units)
    return counts.reshape(n_resamples, units).astype(np.float64)


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


def _sign_flip_p_value(shares: Array, n_resamples: int, rng: np.random.Generator) -> float:
    shares = shares[shares != 0]  # flipping a zero changes nothing
    total = shares.sum()
    # Equal sums may differ by rounding, in the order of 1e-16 of the sum of sizes.
    threshold = abs(total) - 1e-12 * np.abs(shares).sum()
    if len(shares) < int(n_resamples).bit_length():  # that is, 2 ** len(shares) <= n_resamples
        codes = np.arange(2 ** len(shares))[:, None]
        flipped = (codes >> np.arange(len(shares))) & 1
        return float(np.mean(np.abs(total - 2 * (flipped @ shares)) >= threshold))
    hits = 0
    for rows in _chunks(n_resamples, len(shares)):
        flipped = rng.integers(0, 2, (rows.stop - rows.start, len(shares)), dtype=np.uint8)
        hits += int(np.sum(np.abs(total - 2 * (flipped @ shares)) >= threshold))
    return (1 + hits) / (1 + n_resamples)


def _statistic(statistic: Statistic, data: Array) -> Array:
    """The statistic over the last axis, checked."""
    if statistic == "mean":
        return data.mean(axis=-1)
    if statistic == "median":
        return np.median(data, axis=-1)
    if not callable(statistic):
        raise ValueError(f'statistic is {statistic!r}: use "mean", "median" or a callable')
    reduced = np.asarray(statistic(data, axis=-1), dtype=np.float64)
    if reduced.shape != data.shape[:-1]:
        raise ValueError(
            f"the statistic turned shape {data.shape} into {reduced.shape}: it must take "
            "(array, axis) and reduce that axis alone"
        )
    if not np.isfinite(reduced).all():
        raise ValueError("the statistic gave NaN or infinite values: choose one that is defined")
    return reduced


def _chunks(total: int, width: int) -> Iterator[slice]:
    """Consecutive slices of range(total) whose rows of `width` numbers fit the memory bound."""
    step = max(1, _CHUNK // width)
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def _data_sets(name: str, values: Values, *, points: bool = False) -> list[Array]:
    """The values as a list of [draws, items] arrays, of curves as [draws, points, items]."""
    parts, several = [values], False
    if isinstance(values, list | tuple) and len(values) > 0 and np.ndim(values[0]) > 0:
        parts, several = list(values), True
    arrays = [np.asarray(part, dtype=np.float64) for part in parts]
    axes, form = 2, "[items] or [draws, items]"
    if points:
        axes, form = 3, "[items, points] or [draws, items, points]"
    for index, data in enumerate(arrays):
        where = f"{name}[{index}]" if several else name
        if data.ndim not in (axes - 1, axes) or data.size == 0:
            raise ValueError(f"{where} has shape {data.shape}: it must be a non-empty {form}")
        if not np.isfinite(data).all():
            raise ValueError(f"{where} holds NaN or infinite values: measure or leave out the item")
    sets = [data if data.ndim == axes else data[None] for data in arrays]
    if points:
        numbers = sorted({data.shape[-1] for data in sets})
        if len(numbers) > 1:
            raise ValueError(f"the data sets of {name} have {numbers} points: pass the same ones")
        sets = [np.ascontiguousarray(data.swapaxes(1, 2)) for data in sets]
    _common_draws(sets)
    return sets


def _common_draws(sets: list[Array]) -> int:
    numbers = sorted({len(data) for data in sets} - {1})
    if len(numbers) > 1:
        raise ValueError(
            f"the numbers of draws differ: {numbers}. Draw k must be the same student everywhere"
        )
    return numbers[0] if numbers else 1


def _count_items(sets: list[Array]) -> int:
    return sum(data.shape[-1] for data in sets)


def _check_settings(level: float, n_resamples: int = 1) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1, such as 0.95")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: at least 1 resample is needed")
