"""Intervals and paired tests over items, data sets and student draws.

Values are an array [items] (one draw) or [draws, items] of per-item values (of R@k: ``rank <= k``),
or a list of such arrays: data sets, averaged with equal weight whatever their sizes. Draw k is the
same student in all of them; one draw goes with any number. Items count as independent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Values = ArrayLike | Sequence[ArrayLike]
Statistic = Literal["mean", "median"]
Array = NDArray[np.float64]

_CHUNK = 4_000_000  # numbers drawn at once: bounds memory at some 100 MB
_TINIEST = 1e-300  # a p-value below it is 0


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the unit of the values; n counts the items.

    The ends are NaN when a data set has one item.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int


@dataclass(frozen=True)
class PairedDifference(Interval):
    """A mean difference (second - first): `p_value` goes with its interval, `sign_flip_p` holds for
    the given draws alone."""

    p_value: float
    sign_flip_p: float


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
    The statistic, over items, is averaged over draws and data sets. With one draw the interval
    speaks of that draw alone; :func:`crossed_interval` is for means over several.

    Raises: ValueError when values are empty, not finite or of another form than the module's, data
        sets' numbers of draws differ, or a setting is out of range.
    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval); Owen 2007 (crossed factors
        resampled separately); Rao and Wu 1988 (n - 1 of n units).

    Example:
        >>> bootstrap_interval(np.arange(100.0)).estimate
        49.5
    """
    sets = per_item_sets("values", values)
    check_settings(level, n_resamples)
    if statistic not in ("mean", "median"):
        raise ValueError(f'statistic is {statistic!r}: use "mean" or "median"')
    estimate = float(np.mean([getattr(np, statistic)(data, axis=-1).mean() for data in sets]))
    low = high = math.nan
    if min(data.shape[-1] for data in sets) > 1:
        rng = np.random.default_rng(seed)
        weights = draw_weights(common_draws(sets), n_resamples, rng)
        tail = (1 - level) / 2
        totals = resampled_totals(sets, statistic, weights, rng)
        low, high = map(float, np.quantile(totals, [tail, 1 - tail]))
    return Interval(estimate, low, high, level, count_items(sets))


def crossed_interval(values: Values, *, level: float = 0.95) -> Interval:
    """t interval of a mean over crossed items and draws; holds its level with as few as 3 draws.

    The variance of the mean is estimated from two mean squares, of the draws' means and of the
    items' means, less the interaction's, which both hold. The t quantile is the mean of the draws'
    (draws - 1 degrees of freedom) and the items' one, weighted by their parts of the variance. With
    one draw this is the t interval over items; shares close to 0 or 1 are then better served by
    :func:`bootstrap_interval`.

    Raises: as :func:`bootstrap_interval`.
    Source: Obuchowski and Rockette 1995, Hillis 2007 (random readers by random cases, with other
        degrees of freedom); Searle, Casella and McCulloch 1992 (the two-way crossed random model);
        Cochran and Cox 1957 (t quantiles weighted by parts of the variance).

    Example:
        >>> crossed_interval(np.array([[0, 1, 1, 0], [0, 1, 1, 1]])).estimate
        0.625
    """
    sets = per_item_sets("values", values)
    check_settings(level)
    estimate = float(np.mean([data.mean() for data in sets]))
    half = float(crossed_spread(sets).half_width(level))
    return Interval(estimate, estimate - half, estimate + half, level, count_items(sets))


def mean_interval(values: Values, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """95% interval of a mean: crossed where there are several draws, else bootstrapped over items.

    Ends beyond `within`, what the mean must lie in ((0, 1) of a share), are cut there. Simulations
    (benchmarks/statistics_coverage.py) show which interval holds its level where.
    """
    several = common_draws(per_item_sets("values", values)) > 1
    found = crossed_interval(values) if several else bootstrap_interval(values)
    low, high = map(float, np.clip((found.low, found.high), *within))
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

    A side with one draw is compared with every draw of the other.

    Returns: the p-value is NaN when a data set has one item, and 0 where the differences are all
        equal and not 0. sign_flip_p is exact with at most n_resamples distinct sign flips, else
        ``(1 + hits) / (1 + n_resamples)``.
    Raises: ValueError when the sides' data sets, items or draws do not match, or as
        :func:`bootstrap_interval`.
    Source: as :func:`crossed_interval`; Fisher's sign-flip test; Phipson and Smyth 2010 (the one
        that is added).

    Example:
        >>> found = paired_difference([0.0, 0, 0, 1], [1.0, 1, 1, 1])
        >>> round(found.p_value, 3), found.sign_flip_p  # t = 3; 2 of 2**3 sign flips
        (0.058, 0.25)
    """
    firsts, seconds = per_item_sets("first", first), per_item_sets("second", second)
    check_settings(level, n_resamples)
    items, others = ([data.shape[1] for data in sets] for sets in (firsts, seconds))
    if items != others:
        raise ValueError(
            f"first has {items} items in its data sets and second {others}: pass the same items in "
            "the same order"
        )
    common_draws([*firsts, *seconds])
    differences = [other - one for one, other in zip(firsts, seconds, strict=True)]
    estimate = float(np.mean([data.mean() for data in differences]))
    # Data sets' means that cancel leave some 1e-17 of the values, which is no difference.
    if abs(estimate) <= 1e-12 * max(np.abs(data).max() for data in differences):
        estimate = 0.0
    spread = crossed_spread(differences)
    half = float(spread.half_width(level))
    # Each item's share of the sum of the data sets' means: flipping its sign subtracts it twice.
    shares = np.concatenate([data.mean(axis=0) / data.shape[1] for data in differences])
    return PairedDifference(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        level=level,
        n=count_items(differences),
        p_value=spread.p_value(estimate),
        sign_flip_p=_sign_flip_p_value(shares, n_resamples, np.random.default_rng(seed)),
    )


# What follows serves `figures.inference` too, for curves: values with one more axis, the points.


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
        items = data.shape[-1]
        for rows in _chunks(len(weights), data.size):
            count = rows.stop - rows.start
            if statistic == "mean":
                resampled = data @ _multiplicities(rng, items, items, count).T / items
            else:
                resampled = np.median(data[..., rng.integers(0, items, (count, items))], axis=-1)
            if len(data) == 1:
                totals[..., rows] += resampled[0]
            else:
                totals[..., rows] += np.einsum("d...r,rd->...r", resampled, weights[rows])
    return totals / len(sets)


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
    axes, form = (3, "[items, points]") if points else (2, "[items]")
    sets = []
    for index, part in enumerate(parts):
        data, where = np.asarray(part, np.float64), f"{name}[{index}]" if several else name
        if data.ndim not in (axes - 1, axes) or data.size == 0:
            either = f"{form} or {form.replace('[', '[draws, ')}"
            raise ValueError(f"{where} has shape {data.shape}: it must be a non-empty {either}")
        if not np.isfinite(data).all():
            raise ValueError(f"{where} holds NaN or infinite values: measure or leave out the item")
        sets.append(data if data.ndim == axes else data[None])
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
