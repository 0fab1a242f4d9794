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
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import false_discovery_control

from figures.comparisons import holm
from figures.inference import Band, per_class_differences, selection_gap, simultaneous_band
from fitclip_core.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    crossed_interval,
    paired_difference,
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
Target = tuple[float, float] | None


@dataclass(frozen=True)
class Case:
    """One line of the table: `once` simulates data and says whether it was held, or erred.

    `target` is the range that the rate must lie in, up to its binomial error; None: it is shown
    for comparison.
    """

    name: str
    once: Callable[[Rng, int], float]
    target: Target


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

    def add(name: str, target: Target, once: Callable[..., float], **settings: Any) -> None:
        found.append(Case(name, partial(once, **settings), target))

    for n in (300, 1000):
        for kind, once in (("mean", mean_held), ("difference", difference_held)):
            line = f"{kind}, bootstrap, n {n}, 1 draw"
            add(line, COVERAGE, once, method="bootstrap", items=n, draws=1)
            for effect, name in ((NONE, "are alike"), (SOME, "differ"), (MUCH, "differ much")):
                for method, target in (("crossed", COVERAGE), ("bootstrap", None)):
                    line = f"{kind}, {method}, n {n}, 3 draws that {name}"
                    add(line, target, once, method=method, items=n, draws=3, effect=effect)
    for share in (0.05, 0.9):
        for how, draws in (("bootstrap", 1), ("crossed", 3)):
            line = f"mean of {share:.0%}, {how}, n 300, {_draws(draws)}"
            add(line, COVERAGE, mean_held, method=how, items=300, draws=draws, accuracy=share)
    for how, target in (("crossed", COVERAGE), ("bootstrap", None)):
        line = f"mean of 20%, {how}, n 1000, 3 draws that differ most"
        most = {"items": 1000, "draws": 3, "effect": MOST, "accuracy": 0.2}
        add(line, target, mean_held, method=how, **most)
        panel = {"items": 200, "draws": 3, "effect": SOME, "data_sets": 5}
        line = f"difference, {how}, 5 sets of n 200, 3 draws that differ"
        add(line, target, difference_held, method=how, **panel)
    for middle in (7.5, 40.5):
        target = COVERAGE if middle > 10 else AT_LEAST  # the steps of small ranks widen it
        for n in (300, 1000):
            line = f"median rank {np.ceil(middle):.0f}, bootstrap, n {n}"
            add(f"{line}, 1 draw", target, median_held, items=n, draws=1, middle=middle)
            three = {"items": n, "draws": 3, "middle": middle, "effect": 0.05}
            add(f"{line}, 3 draws that differ", target, median_held, **three)
    for n, draws, effect in ((300, 1, NONE), (1000, 1, NONE), (300, 3, SOME), (1000, 3, SOME)):
        for method, target in (("band", COVERAGE), ("crossed", None)):
            name = "simultaneous band" if method == "band" else "11 single intervals"
            line = f"{name}, all points, n {n}, {_draws(draws)}"
            add(line, target, band_held, items=n, draws=draws, effect=effect, method=method)
    for n in (14, 30, 100):
        for draws, effect in ((1, NONE), (3, 0.27)):
            line = f"class interval, n {n}, {_draws(draws)}"
            add(line, AT_LEAST, class_held, items=n, draws=draws, effect=effect)
    for height, shape in ((0.005, "flat"), (0.1, "curved")):
        for draws, effect in ((1, NONE), (3, SOME)):
            line = f"selection gap, {shape}, n 300, {_draws(draws)}"
            add(line, AT_LEAST, loss_held, items=300, draws=draws, effect=effect, height=height)
    line = "paired test errs, continuous, n 300, 1 draw"
    add(line, FIVE_PERCENT, continuous_test_erred, items=300)
    add("paired test errs, n 300, 3 draws alike", AT_MOST, paired_test_erred, items=300, draws=3)
    new = {"items": 1000, "draws": 3, "effect": SOME, "test": "sign_flip_p"}
    add("sign flips err on new draws, n 1000, 3 draws that differ", None, paired_test_erred, **new)
    for n in (300, 1000):
        add(f"paired test errs, n {n}, 1 draw", AT_MOST, paired_test_erred, items=n, draws=1)
    for draws in (3, 5):
        for ratio in (0, 1, 5, 10):
            line = f"family: any of 14 errs, {draws} draws that vary {ratio} times as clips"
            null = {"draws": draws, "ratio": ratio}
            add(line, AT_MOST, family_decided, **null)
            if draws == 3:
                add(f"{line}, sign flips", None, family_decided, sign_flips=True, **null)
    for ratio in (1, 5):
        for draws in (3, 5, 8):
            line = f"family: share of 14 gains of 5 points found, {draws} draws that vary {ratio}"
            add(f"{line} times as clips", None, family_decided, draws=draws, ratio=ratio, gain=0.05)
    for classes, n, draws, effect, name in (
        (74, 14, 1, NONE, "1 draw"),
        (40, 100, 1, NONE, "1 draw"),
        (74, 14, 3, NONE, "3 draws alike"),
        (74, 14, 3, 0.27, "3 draws that differ"),
        (74, 14, 3, 0.85, "3 draws that differ much"),
    ):
        line = f"false discoveries, {classes} classes of {n}, {name}"
        marked = {"classes": classes, "items": n, "draws": draws, "effect": effect}
        add(line, AT_MOST, false_discoveries, **marked)
        if effect:
            add(f"{line}, sign flips", None, false_discoveries, sign_flips=True, **marked)
    line = "any class is marked of 40 of 100 that are equal, 3 draws that differ much"
    equal = {"classes": 40, "items": 100, "draws": 3, "effect": 0.34, "gain": 0}
    add(line, AT_MOST, false_discoveries, **equal)
    add(f"{line}, sign flips", None, false_discoveries, sign_flips=True, **equal)
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


if __name__ == "__main__":
    main()
