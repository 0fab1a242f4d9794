"""Do the intervals, bands and tests of `fitclip_core.statistics` hold what they promise?

Each case simulates data whose truth is known, many times, and counts how often the interval holds
it (coverage) or the test errs (error rate). It prints a table:

    python -m benchmarks.statistics_coverage
    python -m benchmarks.statistics_coverage --simulations 200 --only band

The data are made like those of the kit. An item has a latent difficulty; a student drifts from the
teacher as alpha grows, by a part that all students share, a part of its own for every item, and a
shift for all items, the draw's effect. An item is right where the latent value is below a
threshold, which is set so that the true accuracy is known. The sizes of these parts are about those
of the default run: students agree on items, and with 1,000 items the draws' accuracies have a
standard deviation of 0.5 to 3 percentage points around their items' 1 point of standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from figures.comparisons import holm
from fitclip_core.statistics import (
    Band,
    Interval,
    PairedDifference,
    bootstrap_interval,
    crossed_interval,
    paired_difference,
    per_class_differences,
    selection_gap,
    simultaneous_band,
)

ALPHAS = np.linspace(0, 1, 11)
SHARED, OWN = 0.5, 0.7  # standard deviations at alpha 1 of what students learn; the items' is 1
# The spread of the draws' effects at alpha 1: 0, 1.5 and 2.6 points of 40%, and 3.2 points of 20%.
NONE, SOME, MUCH, MOST = 0.0, 0.05, 0.09, 0.15
# The spread at which draws vary as much as clips: a gain at 40% has the same variance over draws
# (of one draw, on all clips) as over samples of 1,000 clips (of all draws).
AS_CLIPS = 0.034
COVERAGE = (0.93, 0.97)
AT_LEAST = (0.93, 1.0)
FIVE_PERCENT = (0.05, 0.05)
AT_MOST = (0.0, 0.05)

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One line of the table: `once` simulates data and says whether it was held, or erred.

    `target` is the range that the rate must lie in, up to its binomial error; None: it is shown
    for comparison.
    """

    name: str
    once: Callable[[Rng, int], float]
    target: tuple[float, float] | None = None


def simulated_hits(
    rng: Rng,
    accuracies: Sequence[float] | np.ndarray,
    alphas: Sequence[float] | np.ndarray,
    items: int,
    effects: np.ndarray,
    effect_spread: float,
) -> np.ndarray:
    """Hits (0 or 1) [draws, items, points] whose true accuracies, over items and draws, are given.

    `effects` [draws] are the draws' shifts, themselves drawn with the spread `effect_spread`.
    """
    alpha, draws = np.asarray(alphas, dtype=float), len(effects)
    drift = SHARED * rng.normal(size=items) + OWN * rng.normal(size=(draws, items))
    latent = rng.normal(size=items)[:, None] + alpha * (drift + effects[:, None])[..., None]
    spread = np.sqrt(1 + alpha**2 * (SHARED**2 + OWN**2 + effect_spread**2))
    return (latent < ndtri(accuracies) * spread).astype(float)


def mean_held(
    rng: Rng,
    n_resamples: int,
    method: str,
    items: int,
    draws: int,
    effect: float = NONE,
    accuracy: float = 0.4,
    data_sets: int = 1,
) -> bool:
    """Whether the interval holds the student's accuracy, averaged over data sets."""
    effects = effect * rng.normal(size=draws)
    values = [
        simulated_hits(rng, [accuracy], [1.0], items, effects, effect)[..., 0]
        for _ in range(data_sets)
    ]
    return _holds(_interval(values, method, n_resamples), accuracy)


def median_held(
    rng: Rng, n_resamples: int, items: int, draws: int, middle: float, effect: float = 0.0
) -> bool:
    """Whether the interval holds the mean over draws of the median rank."""
    spread, agreement = 1.8, 0.8  # of the ranks' logarithms, and between draws
    noise = np.sqrt(agreement) * rng.normal(size=items)
    noise = noise + np.sqrt(1 - agreement) * rng.normal(size=(draws, items))
    shifts = effect * rng.normal(size=(draws, 1))
    ranks = np.ceil(np.exp(np.log(middle) + shifts + spread * noise))
    truth = float(np.ceil(middle))
    if effect:  # the mean of whole numbers is the sum of the chances to exceed 0, 1, 2, ...
        truth = 1 + ndtr(-np.log(np.arange(1, 20 * middle) / middle) / effect).sum()
    found = bootstrap_interval(ranks, statistic="median", n_resamples=n_resamples, seed=_seed(rng))
    return _holds(found, truth)


def difference_held(
    rng: Rng,
    n_resamples: int,
    method: str,
    items: int,
    draws: int,
    effect: float = NONE,
    data_sets: int = 1,
) -> bool:
    """Whether the interval holds the student's gain over the teacher, 40% to 45%."""
    pairs = _pairs(rng, (0.4, 0.45), items, draws, effect, data_sets)
    return _holds(_interval([second - first for first, second in pairs], method, n_resamples), 0.05)


def band_held(
    rng: Rng, n_resamples: int, items: int, draws: int, effect: float, method: str = "band"
) -> bool:
    """Whether the band holds all 11 points of a curve, or 11 intervals do ("crossed")."""
    accuracies = _curve(peak=0.4, height=0.1)
    hits = simulated_hits(rng, accuracies, ALPHAS, items, effect * rng.normal(size=draws), effect)
    if method == "band":
        band = simultaneous_band(hits, n_resamples=n_resamples, seed=_seed(rng))
        return _holds(band, accuracies)
    found = [crossed_interval(hits[..., point]) for point in range(len(ALPHAS))]
    return all(map(_holds, found, accuracies))


def class_held(rng: Rng, n_resamples: int, items: int, draws: int, effect: float) -> bool:
    """Whether the interval of one class holds its gain, 30% to 40%."""
    ((first, second),) = _pairs(rng, (0.3, 0.4), items, draws, effect)
    row = per_class_differences(first, second, np.zeros(items)).iloc[0]
    return bool(row["low"] <= 0.1 + 1e-12 and row["high"] >= 0.1 - 1e-12)


def loss_held(
    rng: Rng, n_resamples: int, items: int, draws: int, effect: float, height: float
) -> bool:
    """Whether the gap's interval holds what the chosen alpha truly loses; validation peaks at 0.6,
    the test at 0.4."""
    effects = effect * rng.normal(size=draws)
    accuracies = _curve(peak=0.4, height=height)
    validation, test = (
        simulated_hits(rng, curve, ALPHAS, items, effects, effect)
        for curve in (_curve(peak=0.6, height=height), accuracies)
    )
    found = selection_gap(validation, test, ALPHAS, n_resamples=n_resamples, seed=_seed(rng))
    loss = accuracies.max() - accuracies[np.searchsorted(ALPHAS, found.chosen - 1e-9)]
    return bool(found.low - 1e-12 <= loss <= found.high + 1e-12)


def paired_test_erred(
    rng: Rng,
    n_resamples: int,
    items: int,
    draws: int,
    effect: float = NONE,
    test: str = "p_value",
) -> bool:
    """Whether p <= 0.05 where student and teacher are equally good."""
    ((first, second),) = _pairs(rng, (0.4, 0.4), items, draws, effect)
    found = paired_difference(first, second, n_resamples=n_resamples, seed=_seed(rng))
    return bool(getattr(found, test) <= 0.05)


def continuous_test_erred(rng: Rng, n_resamples: int, items: int) -> bool:
    """Whether p <= 0.05 for two models' equal, continuous values."""
    return paired_difference(*rng.normal(size=(2, items)), n_resamples=1).p_value <= 0.05


def family_decided(
    rng: Rng,
    n_resamples: int,
    draws: int,
    ratio: float,
    gain: float = 0.0,
    sign_flips: bool = False,
) -> float:
    """The share of 14 comparisons that are decided; without a gain, whether any is.

    They are those of notebook 04: 6 data sets of 1,000 clips and the mean of 5 of them, each
    against two other models. ratio: the draws' variance in units of the clips'. sign_flips: by the
    Holm-corrected sign-flip test, where the interval leaves out 0 as well.
    """
    effect = np.sqrt(ratio) * AS_CLIPS
    pairs = [_pairs(rng, (0.4, 0.4 + gain), 1000, draws, effect)[0] for _ in range(12)]
    families = [*([pair] for pair in pairs), pairs[:5], pairs[6:11]]
    found = [
        paired_difference(
            [first for first, _ in family],
            [second for _, second in family],
            n_resamples=n_resamples if sign_flips else 1,
            seed=_seed(rng),
        )
        for family in families
    ]
    test = "sign_flip_p" if sign_flips else "p_value"
    decided = holm(np.array([getattr(one, test) for one in found])) <= 0.05
    decided &= [not _holds(one, 0.0) for one in found]
    return float(decided.mean() if gain else decided.any())


def false_discoveries(
    rng: Rng,
    n_resamples: int,
    classes: int,
    items: int,
    draws: int,
    effect: float = NONE,
    gain: float = 0.3,
    sign_flips: bool = False,
) -> float:
    """Share of the classes marked (q <= 0.05) that are equal.

    Half the classes gain, half nothing; each class has its own draws' effects. sign_flips: by
    q-values of the sign-flip test, where the interval leaves out 0 as well.
    """
    firsts, seconds = [], []
    for one in range(classes):
        accuracies = (0.3, 0.3 + gain * (one % 2))
        ((first, second),) = _pairs(rng, accuracies, items, draws, effect)
        firsts.append(np.broadcast_to(first, second.shape))
        seconds.append(second)
    labels = np.repeat(np.arange(classes), items)
    table = per_class_differences(np.hstack(firsts), np.hstack(seconds), labels)
    marked = table["q_value"] <= 0.05
    if sign_flips:
        marked = false_discovery_control(table["sign_flip_p"]) <= 0.05
        marked &= (table["low"] > 0) | (table["high"] < 0)
    equal = table["class"].mod(2).eq(0) | (gain == 0)
    return float(equal[marked].mean()) if marked.any() else 0.0


def cases() -> list[Case]:
    """The table's lines. The draw's effect of a class is larger, as there are fewer items in it."""
    found = []
    for items in (300, 1000):
        for kind, once in (("mean", mean_held), ("difference", difference_held)):
            plain = partial(once, method="bootstrap", items=items, draws=1)
            found.append(Case(f"{kind}, bootstrap, n {items}, 1 draw", plain, COVERAGE))
            for effect, name in ((NONE, "alike"), (SOME, "differ"), (MUCH, "differ much")):
                for method, target in (("crossed", COVERAGE), ("bootstrap", None)):
                    several = partial(once, method=method, items=items, draws=3, effect=effect)
                    line = f"{kind}, {method}, n {items}, 3 draws that {_agree(name)}"
                    found.append(Case(line, several, target))
    for accuracy in (0.05, 0.9):
        for method, draws in (("bootstrap", 1), ("crossed", 3)):
            edge = partial(mean_held, method=method, items=300, draws=draws, accuracy=accuracy)
            line = f"mean of {accuracy:.0%}, {method}, n 300, {_draws(draws)}"
            found.append(Case(line, edge, COVERAGE))
    for method, target in (("crossed", COVERAGE), ("bootstrap", None)):
        most = partial(mean_held, method=method, items=1000, draws=3, effect=MOST, accuracy=0.2)
        found.append(Case(f"mean of 20%, {method}, n 1000, 3 draws that differ most", most, target))
        panel = partial(
            difference_held, method=method, items=200, draws=3, effect=SOME, data_sets=5
        )
        found.append(
            Case(f"difference, {method}, 5 sets of n 200, 3 draws that differ", panel, target)
        )
    for middle in (7.5, 40.5):
        target = COVERAGE if middle > 10 else AT_LEAST  # the steps of small ranks widen it
        for items in (300, 1000):
            line = f"median rank {np.ceil(middle):.0f}, bootstrap, n {items}"
            one = partial(median_held, items=items, draws=1, middle=middle)
            three = partial(median_held, items=items, draws=3, middle=middle, effect=0.05)
            found.append(Case(f"{line}, 1 draw", one, target))
            found.append(Case(f"{line}, 3 draws that differ", three, target))
    for items, draws, effect in ((300, 1, NONE), (1000, 1, NONE), (300, 3, SOME), (1000, 3, SOME)):
        for method, target in (("band", COVERAGE), ("crossed", None)):
            curve = partial(band_held, items=items, draws=draws, effect=effect, method=method)
            name = "simultaneous band" if method == "band" else "11 single intervals"
            found.append(Case(f"{name}, all points, n {items}, {_draws(draws)}", curve, target))
    for items in (14, 30, 100):
        for draws, effect in ((1, NONE), (3, 0.27)):
            one_class = partial(class_held, items=items, draws=draws, effect=effect)
            found.append(Case(f"class interval, n {items}, {_draws(draws)}", one_class, AT_LEAST))
    for height, shape in ((0.005, "flat"), (0.1, "curved")):
        for draws, effect in ((1, NONE), (3, SOME)):
            gap = partial(loss_held, items=300, draws=draws, effect=effect, height=height)
            found.append(Case(f"selection gap, {shape}, n 300, {_draws(draws)}", gap, AT_LEAST))
    found += [
        Case(
            "paired test errs, continuous, n 300, 1 draw",
            partial(continuous_test_erred, items=300),
            FIVE_PERCENT,
        ),
        Case(
            "paired test errs, n 300, 3 draws alike",
            partial(paired_test_erred, items=300, draws=3),
            AT_MOST,
        ),
        Case(
            "sign flips err on new draws, n 1000, 3 draws that differ",
            partial(paired_test_erred, items=1000, draws=3, effect=SOME, test="sign_flip_p"),
        ),
    ]
    for items in (300, 1000):
        one_draw = partial(paired_test_erred, items=items, draws=1)
        found.append(Case(f"paired test errs, n {items}, 1 draw", one_draw, AT_MOST))
    for draws in (3, 5):
        for ratio in (0, 1, 5, 10):
            null = partial(family_decided, draws=draws, ratio=ratio)
            line = f"family: any of 14 errs, {draws} draws that vary {ratio} times as clips"
            found.append(Case(line, null, AT_MOST))
            if draws == 3:
                found.append(Case(f"{line}, sign flips", partial(null, sign_flips=True)))
    for ratio in (1, 5):
        for draws in (3, 5, 8):
            power = partial(family_decided, draws=draws, ratio=ratio, gain=0.05)
            line = f"family: share of 14 gains of 5 points found, {draws} draws that vary {ratio}"
            found.append(Case(f"{line} times as clips", power))
    for classes, items, draws, effect, name in (
        (74, 14, 1, NONE, "1 draw"),
        (40, 100, 1, NONE, "1 draw"),
        (74, 14, 3, NONE, "3 draws alike"),
        (74, 14, 3, 0.27, "3 draws that differ"),
        (74, 14, 3, 0.85, "3 draws that differ much"),
    ):
        marked = partial(
            false_discoveries, classes=classes, items=items, draws=draws, effect=effect
        )
        line = f"false discoveries, {classes} classes of {items}, {name}"
        found.append(Case(line, marked, AT_MOST))
        if effect:
            found.append(Case(f"{line}, sign flips", partial(marked, sign_flips=True)))
    equal = partial(false_discoveries, classes=40, items=100, draws=3, effect=0.34, gain=0)
    line = "any class is marked of 40 of 100 that are equal, 3 draws that differ much"
    found.append(Case(line, equal, AT_MOST))
    found.append(Case(f"{line}, sign flips", partial(equal, sign_flips=True)))
    return found


def measure(case: Case, simulations: int, n_resamples: int) -> tuple[float, float]:
    """The case's rate over simulations, each with a seed of its own, and its standard error."""
    values = [
        float(case.once(np.random.default_rng(seed), n_resamples)) for seed in range(simulations)
    ]
    return float(np.mean(values)), float(np.std(values) / np.sqrt(simulations))


def verdict(case: Case, rate: float, simulations: int) -> str:
    """Whether the rate is in its target, up to twice the binomial error at the target's ends."""
    if case.target is None:
        return "(comparison)"
    low, high = (
        end + sign * 2 * np.sqrt(end * (1 - end) / simulations)
        for end, sign in zip(case.target, (-1, 1), strict=True)
    )
    if low <= rate <= high:
        return "holds"
    return "too low" if rate < low else "too high"


def main() -> None:
    """Measure all cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--n-resamples", type=int, default=1000)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    print("| case | rate % | ± | target % | |\n|---|---|---|---|---|")
    for case in cases():
        if arguments.only not in case.name:
            continue
        rate, error = measure(case, arguments.simulations, arguments.n_resamples)
        target = "" if case.target is None else "-".join(f"{100 * end:g}" for end in case.target)
        word = verdict(case, rate, arguments.simulations)
        print(
            f"| {case.name} | {100 * rate:.1f} | {200 * error:.1f} | {target} | {word} |",
            flush=True,
        )


def _pairs(
    rng: Rng,
    accuracies: tuple[float, float],
    items: int,
    draws: int,
    effect: float,
    data_sets: int = 1,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The teacher's hits [1, items] and the students' [draws, items] in each data set."""
    effects = effect * rng.normal(size=draws)
    hits = [
        simulated_hits(rng, accuracies, [0.0, 1.0], items, effects, effect)
        for _ in range(data_sets)
    ]
    return [(one[:1, :, 0], one[..., 1]) for one in hits]


def _curve(peak: float, height: float) -> np.ndarray:
    """Accuracies over alpha: a parabola from at least 35% to its peak."""
    return 0.35 + height * (1 - ((ALPHAS - peak) / max(peak, 1 - peak)) ** 2)


def _interval(values: list[np.ndarray], method: str, n_resamples: int) -> Interval:
    if method == "crossed":
        return crossed_interval(values)
    return bootstrap_interval(values, n_resamples=n_resamples)


def _holds(found: Interval | PairedDifference | Band, truth: float | np.ndarray) -> bool:
    """Whether the truth lies inside, ends included: shares of n items may equal an end."""
    return bool(np.all((found.low <= truth + 1e-12) & (found.high >= truth - 1e-12)))


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**31))


def _draws(draws: int) -> str:
    return "1 draw" if draws == 1 else f"{draws} draws"


def _agree(name: str) -> str:
    return "are alike" if name == "alike" else name


if __name__ == "__main__":
    main()
