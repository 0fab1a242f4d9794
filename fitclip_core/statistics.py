"""Intervals and paired tests over items, data sets and student draws.

One run evaluates several students (draws) on the same items of several data sets. Per-item values
(of R@k: ``rank <= k``; of a median rank: the ranks, with ``statistic="median"``) come in one of
three forms:

- an array [items]: one data set, one draw;
- an array [draws, items]: one data set, several draws, the same items in each;
- a list of such arrays: data sets, averaged with equal weight, whatever their sizes. Draw k is the
  same student in all of them. An array of a single draw goes with any number of draws.

Items count as independent of each other, several captions of one video too. Of curves, which have
one more axis at the end, its points, `figures.inference` makes bands and comparisons with the
helpers at this module's end. `benchmarks/statistics_coverage.py` measures what the intervals and
tests hold on simulated data with known truth.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

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


def bootstrap_interval(
    values: Values,
    *,
    statistic: Statistic = "mean",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval over items and, where there are several, over draws.

    Each resample draws every data set's items anew (the same ones for all draws, which share their
    items) and the draws (the same ones for all data sets, which share their students). Of D draws,
    D - 1 are taken: with D the spread between few draws would come out D / (D - 1) times too small.
    With one draw the interval speaks of that draw alone; for means over several draws
    :func:`crossed_interval` holds its level where this one does not.

    Args:
        values: per-item values, in one of the module's three forms.
        statistic: taken over the items of each draw, then averaged over draws and data sets. A
            callable takes (array, axis) and reduces that axis.
        level: confidence level in (0, 1).
        n_resamples: number of bootstrap resamples.
        seed: of the resamples; the same seed gives the same interval.

    Returns:
        The estimate on all values and the interval; its ends are NaN when a data set has one item.

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
    sets = per_item_sets("values", values)
    check_settings(level, n_resamples)
    rng = np.random.default_rng(seed)
    estimate = float(np.mean([_statistic(statistic, data).mean() for data in sets]))
    low, high = _percentile_ends(sets, statistic, level, n_resamples, rng)
    return Interval(estimate, low, high, level, count_items(sets))


def crossed_interval(values: Values, *, level: float = 0.95) -> Interval:
    """t interval of a mean over crossed items and draws; holds its level with as few as 3 draws.

    The variance of the mean is estimated from two mean squares, of the draws' means and of the
    items' means, less the interaction's, which both hold. The t quantile is the mean of the draws'
    (draws - 1 degrees of freedom) and the items' one, weighted by their parts of the variance. With
    one draw this is the t interval over items; shares close to 0 or 1 are then better served by
    :func:`bootstrap_interval`.

    Args:
        values: per-item values, in one of the module's three forms.
        level: confidence level in (0, 1).

    Returns:
        The estimate on all values and the interval; its ends are NaN when a data set has one item.

    Raises:
        ValueError: as :func:`bootstrap_interval`.

    Source:
        Obuchowski and Rockette 1995, Hillis 2007 (random readers by random cases, with other
        degrees of freedom); Searle, Casella and McCulloch 1992 (the two-way crossed random model);
        Cochran and Cox 1957 (t quantiles weighted by parts of the variance).

    Example:
        >>> crossed_interval(np.array([[0, 1, 1, 0], [0, 1, 1, 1]])).estimate
        0.625
    """
    sets = per_item_sets("values", values)
    check_settings(level)
    estimate = float(np.mean([data.mean() for data in sets]))
    half_width = float(crossed_spread(sets).half_width(level))
    return Interval(
        estimate, estimate - half_width, estimate + half_width, level, count_items(sets)
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
        values, level, n_resamples, seed: as :func:`bootstrap_interval`, whose errors it has.
        within: what the mean must lie in, (0, 1) for a share; ends beyond it are cut there.
    """
    if common_draws(per_item_sets("values", values)) > 1:
        found = crossed_interval(values, level=level)
    else:
        found = bootstrap_interval(values, level=level, n_resamples=n_resamples, seed=seed)
    low, high = (float(end) for end in np.clip((found.low, found.high), *within))
    return replace(found, low=low, high=high)


def paired_difference(
    first: Values,
    second: Values,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Mean of (second - first) over the same items, with an interval and a two-sided p-value.

    Both are of one t, that of :func:`crossed_interval` on the per-item differences, and so speak of
    new items and new draws: the p-value is 1 less the largest level whose interval leaves out 0.
    Beside them stands the sign-flip permutation test over items, an item's differences in all draws
    flipped together. It needs no normal mean, but it is conditional on the draws at hand.

    Args:
        first: per-item values of one model, in one of the module's three forms.
        second: values of the other model for the same items, in the same form. A side with one
            draw is compared with every draw of the other.
        level: confidence level in (0, 1).
        n_resamples: sign flips, where not all can be enumerated.
        seed: of the flips.

    Returns:
        Interval and p-value are NaN when a data set has one item. The p-value is 0 where the
        differences are all equal and not 0. With at most n_resamples distinct sign flips
        sign_flip_p is exact; else it is ``(1 + hits) / (1 + n_resamples)``.

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
    firsts, seconds = per_item_sets("first", first), per_item_sets("second", second)
    check_settings(level, n_resamples)
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
    common_draws([*firsts, *seconds])
    differences = [other - one for one, other in zip(firsts, seconds, strict=True)]
    estimate = float(np.mean([data.mean() for data in differences]))
    # Data sets' means that cancel leave some 1e-17 of the values, which is no difference.
    if abs(estimate) <= 1e-12 * max(np.abs(data).max() for data in differences):
        estimate = 0.0
    spread = crossed_spread(differences)
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
        n=count_items(differences),
    )


def _percentile_ends(
    sets: list[Array],
    statistic: Statistic,
    level: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    if min(data.shape[-1] for data in sets) == 1:
        return float("nan"), float("nan")
    weights = draw_weights(common_draws(sets), n_resamples, rng)
    totals = resampled_totals(sets, statistic, weights, rng)
    tail = (1 - level) / 2
    low, high = np.quantile(totals, [tail, 1 - tail])
    return float(low), float(high)


def draw_weights(draws: int, n_resamples: int, rng: np.random.Generator) -> Array:
    """Each draw's weight in each resample: [n_resamples, draws], rows sum to 1."""
    taken = max(draws - 1, 1)
    return _multiplicities(rng, draws, taken, n_resamples) / taken


def resampled_totals(
    sets: list[Array], statistic: Statistic, weights: Array, rng: np.random.Generator
) -> Array:
    """The mean over draws and data sets of the statistic in each resample: [..., n_resamples].

    Sets are [draws, items], or [draws, points, items] where there are several points.
    """
    totals = np.zeros((*sets[0].shape[1:-1], len(weights)))
    for data in sets:
        for rows in _chunks(len(weights), data.size):
            resampled = _resampled(statistic, data, rows.stop - rows.start, rng)
            if len(data) == 1:
                totals[..., rows] += resampled[0]
            else:
                totals[..., rows] += np.einsum("d...r,rd->...r", resampled, weights[rows])
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
class Spread:
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


def crossed_spread(sets: list[Array], *, small_sample: bool = True) -> Spread:
    """The spread of `crossed_interval`, for sets [draws, ..., items]: [...], NaN for one item.

    Without `small_sample` the items' variance has the divisor n and a normal quantile.
    """
    draws, fewest = common_draws(sets), min(data.shape[-1] for data in sets)
    of_items, of_draws = float(fewest - 1) if small_sample else math.inf, float(max(draws - 1, 1))
    if fewest == 1:
        nothing = np.full(sets[0].shape[1:-1], np.nan)
        return Spread(nothing, nothing, of_items, of_draws)
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
    return Spread(np.sqrt(variance), np.minimum(weight, 1), of_items, of_draws)


def _multiplicities(rng: np.random.Generator, units: int, taken: int, n_resamples: int) -> Array:
    """How often each unit is taken in each resample: [n_resamples, units], rows sum to `taken`."""
    picked = rng.integers(0, units, (n_resamples, taken))
    picked += np.arange(n_resamples)[:, None] * units
    counts = np.bincount(picked.ravel(), minlength=n_resamples * units)
    return counts.reshape(n_resamples, units).astype(np.float64)


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


def per_item_sets(name: str, values: Values, *, points: bool = False) -> list[Array]:
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
    common_draws(sets)
    return sets


def common_draws(sets: list[Array]) -> int:
    numbers = sorted({len(data) for data in sets} - {1})
    if len(numbers) > 1:
        raise ValueError(
            f"the numbers of draws differ: {numbers}. Draw k must be the same student everywhere"
        )
    return numbers[0] if numbers else 1


def count_items(sets: list[Array]) -> int:
    return sum(data.shape[-1] for data in sets)


def check_settings(level: float, n_resamples: int = 1) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1, such as 0.95")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: at least 1 resample is needed")
