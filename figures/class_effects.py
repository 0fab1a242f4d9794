"""Whether a difference between two models is the same in all classes, and of one sign in all.

Both tests take one paired difference an item. With several students it is the mean over them: the
tests then hold for new items of the same classes and for these students, not for new ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_CHUNK = 4_000_000  # numbers permuted at once
_RESAMPLES = 10_000


def heterogeneity_p_value(differences: ArrayLike, labels: ArrayLike) -> float:
    """p-value of the test that a paired difference does not depend on the class.

    The statistic is the sum of squares between classes of the mean differences; under the null
    hypothesis the labels could as well be permuted over the items. All classes count together, so
    the test has power where no class by itself has enough items.

    differences: [items] of one pair each, second - first, averaged over draws. labels: [items] the
    items' classes.

    Returns: (1 + permutations that reach the statistic) / (1 + permutations).

    Raises: ValueError when there is no item, a difference is NaN or infinite, or there is not one
    label for each item.
    Source: Pitman 1938 (the analysis of variance by permutation); Phipson and Smyth 2010 (the added
    one).
    """
    values, codes = _checked(differences, labels)
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    ordered = values[np.argsort(codes, kind="stable")]

    def between(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        # Less the square of the grand mean, which permutations leave as it is.
        return (np.add.reduceat(rows, starts, axis=1) ** 2 / sizes).sum(axis=1)

    threshold = between(ordered[None])[0] - 1e-12 * np.square(values).sum()
    rng = np.random.default_rng(0)
    reached, step = 0, max(1, _CHUNK // len(values))
    for start in range(0, _RESAMPLES, step):
        rows = np.tile(ordered, (min(step, _RESAMPLES - start), 1))
        reached += int((between(rng.permuted(rows, axis=1)) >= threshold).sum())
    return (1 + reached) / (1 + _RESAMPLES)


def qualitative_interaction_p_value(differences: ArrayLike, labels: ArrayLike) -> float:
    """p-value of the test that a paired difference has the same sign, or is 0, in all classes.

    `gail_simon_p_value` of the classes' mean differences, each with the standard error that it has
    if the class's true difference is 0: the root of its sum of squares, over its items. Unlike the
    spread around its own mean it does not vanish in a class of a few items that agree. A class
    without any difference says nothing and is left out.

    Takes and raises as `heterogeneity_p_value`; 1 where fewer than two classes have a difference.
    """
    values, codes = _checked(differences, labels)
    sums, squares = np.bincount(codes, values), np.bincount(codes, np.square(values))
    known = squares > 0
    return gail_simon_p_value(sums[known], np.sqrt(squares[known]))


def gail_simon_p_value(effects: ArrayLike, errors: ArrayLike) -> float:
    """Gail and Simon's p-value that effects are not of both signs.

    The statistic is the smaller of two sums of squared effects in units of their standard errors,
    over the positive and over the negative ones. Its distribution where the null hypothesis is
    hardest to keep, with one effect very large and the other K - 1 zero, is a mixture of chi-square
    distributions, whose degrees of freedom are binomial: of K - 1 signs, each as likely as not.

    effects: [classes] independent and about normal. errors: [classes] standard errors, above 0.

    Returns: the p-value; 1 where all effects are of one sign or there are fewer than two.

    Source: Gail and Simon 1985, Testing for qualitative interactions between treatment effects and
    patient subsets (Biometrics 41).

    Example:
        >>> round(gail_simon_p_value([1.645, -1.645], [1, 1]), 3)  # of two, the one-sided 5%
        0.05
    """
    values = np.asarray(effects, np.float64)
    squares = np.square(values / np.asarray(errors, np.float64))
    statistic = min(squares[values > 0].sum(), squares[values < 0].sum())
    if statistic == 0:
        return 1.0
    others = len(values) - 1
    freedoms = np.arange(1, others + 1)
    weights = stats.binom.pmf(freedoms, others, 0.5)
    return float((weights * stats.chi2.sf(statistic, freedoms)).sum())


def _checked(
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
