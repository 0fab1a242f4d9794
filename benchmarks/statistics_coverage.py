"""Do the intervals, bands and tests of `fitclip_core.statistics` hold what they promise?

    python -m benchmarks.statistics_coverage
    python -m benchmarks.statistics_coverage --simulations 200 --only band

Each case simulates data whose truth is known, many times, and counts how often the interval holds
it (coverage) or the test errs. The data are made like those of the kit. An item has a latent
difficulty; a student drifts from the teacher as alpha grows, by a part that all students share, a
part of its own for every item, and a shift for all items, the draw's effect. An item is right where
the latent value is below a threshold, which is set so that the true accuracy is known. The sizes of
these parts are about those of the default run: with 1,000 items the draws' accuracies have a
standard deviation of 0.5 to 3 percentage points around their items' 1 point of standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
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

Rng = np.random.Generator
Target = tuple[float, float] | None
COVERAGE, AT_LEAST = (0.93, 0.97), (0.93, 1.0)
FIVE_PERCENT, AT_MOST = (0.05, 0.05), (0.0, 0.05)


@dataclass(frozen=True)
class Case:
    """One line of the table: `once` simulates data and says whether it was held, or erred.

    `target` is the range that the rate must lie in, up to its binomial error; None: it is shown
    for comparison.
    """

    name: str
    target: Target
    once: Callable[[Rng, int], float]


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


def simulated_pairs(
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


def mean_held(
    rng: Rng,
    n_resamples: int,
    method: str,
    gain: float | None = None,
    accuracy: float = 0.4,
    **sizes: Any,
) -> bool:
    """Whether the interval holds the student's accuracy, or its gain over the teacher's 40%."""
    if gain is None:
        values = [student for _, student in simulated_pairs(rng, (0.4, accuracy), **sizes)]
    else:
        pairs = simulated_pairs(rng, (0.4, 0.4 + gain), **sizes)
        values = [student - teacher for teacher, student in pairs]
    if method == "crossed":
        found = crossed_interval(values)
    else:
        found = bootstrap_interval(values, n_resamples=n_resamples)
    return _holds(found, accuracy if gain is None else gain)


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


def band_held(rng: Rng, n_resamples: int, items: int, draws: int, effect: float) -> bool:
    """Whether the band holds all 11 points of a curve."""
    accuracies = _curve(peak=0.4, height=0.1)
    hits = simulated_hits(rng, accuracies, ALPHAS, items, effect * rng.normal(size=draws), effect)
    found = simultaneous_band(hits, n_resamples=n_resamples, seed=_seed(rng))
    return _holds(found, accuracies)


def class_held(rng: Rng, n_resamples: int, items: int, draws: int, effect: float) -> bool:
    """Whether the interval of one class holds its gain, 30% to 40%."""
    ((first, second),) = simulated_pairs(rng, (0.3, 0.4), items, draws, effect)
    return _holds(per_class_differences(first, second, np.zeros(items)).iloc[0], 0.1)


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
    chosen = accuracies[np.searchsorted(ALPHAS, found.chosen - 1e-9)]
    return _holds(found, accuracies.max() - chosen)


def paired_test_erred(rng: Rng, n_resamples: int, items: int, draws: int) -> bool:
    """Whether p <= 0.05 where student and teacher are equally good."""
    ((first, second),) = simulated_pairs(rng, (0.4, 0.4), items, draws, NONE)
    return paired_difference(first, second, n_resamples=n_resamples).p_value <= 0.05


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
    pairs = [simulated_pairs(rng, (0.4, 0.4 + gain), 1000, draws, effect)[0] for _ in range(12)]
    families = [*([pair] for pair in pairs), pairs[:5], pairs[6:11]]
    resamples = n_resamples if sign_flips else 1
    found = [
        paired_difference(*zip(*family, strict=True), n_resamples=resamples, seed=_seed(rng))
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
    pairs = [
        simulated_pairs(rng, (0.3, 0.3 + gain * (place % 2)), items, draws, effect)[0]
        for place in range(classes)
    ]
    first = np.hstack([np.broadcast_to(teacher, student.shape) for teacher, student in pairs])
    labels = np.repeat(np.arange(classes), items)
    table = per_class_differences(first, np.hstack([student for _, student in pairs]), labels)
    marked = table["q_value"] <= 0.05
    if sign_flips:
        marked = false_discovery_control(table["sign_flip_p"]) <= 0.05
        marked &= (table["low"] > 0) | (table["high"] < 0)
    equal = table["class"].mod(2).eq(0) | (gain == 0)
    return float(equal[marked].mean()) if marked.any() else 0.0


def cases() -> list[Case]:
    """The table's lines."""
    return [Case(name, target, partial(once, **given)) for name, target, once, given in _lines()]


def _lines() -> Iterator[tuple[str, Target, Callable[..., float], dict[str, Any]]]:
    """Name, target, function and arguments. A class has fewer items, so its draws vary more."""
    crossed_or_not: list[tuple[str, Target]] = [("crossed", COVERAGE), ("bootstrap", None)]
    spreads = (("are alike", NONE), ("differ", SOME), ("differ much", MUCH))
    for n, (kind, gain) in product((300, 1000), (("mean", None), ("difference", 0.05))):
        given: dict[str, Any] = {"items": n, "gain": gain}
        one: dict[str, Any] = {"method": "bootstrap", "draws": 1, "effect": NONE}
        yield f"{kind}, bootstrap, n {n}, 1 draw", COVERAGE, mean_held, given | one
        for (how, effect), (method, target) in product(spreads, crossed_or_not):
            three = {"method": method, "draws": 3, "effect": effect}
            name = f"{kind}, {method}, n {n}, 3 draws that {how}"
            yield name, target, mean_held, given | three
    for share, (method, draws) in product((0.05, 0.9), (("bootstrap", 1), ("crossed", 3))):
        name = f"mean of {share:.0%}, {method}, n 300, {_draws(draws)}"
        given = {"method": method, "items": 300, "draws": draws, "effect": NONE}
        yield name, COVERAGE, mean_held, given | {"accuracy": share}
    for method, target in crossed_or_not:
        given = {"method": method, "items": 1000, "draws": 3, "effect": MOST, "accuracy": 0.2}
        name = f"mean of 20%, {method}, n 1000, 3 draws that differ most"
        yield name, target, mean_held, given
        given = {"method": method, "items": 200, "draws": 3, "effect": SOME, "data_sets": 5}
        name = f"difference, {method}, 5 sets of n 200, 3 draws that differ"
        yield name, target, mean_held, given | {"gain": 0.05}
    for middle, n in product((7.5, 40.5), (300, 1000)):
        target = COVERAGE if middle > 10 else AT_LEAST  # the steps of small ranks widen it
        name = f"median rank {np.ceil(middle):.0f}, bootstrap, n {n}"
        given = {"items": n, "middle": middle}
        yield f"{name}, 1 draw", target, median_held, given | {"draws": 1}
        three = {"draws": 3, "effect": 0.05}
        yield f"{name}, 3 draws that differ", target, median_held, given | three
    for (draws, effect), n in product(((1, NONE), (3, SOME)), (300, 1000)):
        given = {"items": n, "draws": draws, "effect": effect}
        name = f"simultaneous band, all points, n {n}, {_draws(draws)}"
        yield name, COVERAGE, band_held, given
    for n, (draws, effect) in product((14, 30, 100), ((1, NONE), (3, 0.27))):
        given = {"items": n, "draws": draws, "effect": effect}
        yield f"class interval, n {n}, {_draws(draws)}", AT_LEAST, class_held, given
    shapes = (("flat", 0.005), ("curved", 0.1))
    for (shape, height), (draws, effect) in product(shapes, ((1, NONE), (3, SOME))):
        given = {"items": 300, "draws": draws, "effect": effect, "height": height}
        yield f"selection gap, {shape}, n 300, {_draws(draws)}", AT_LEAST, loss_held, given
    name = "paired test errs, continuous, n 300, 1 draw"
    yield name, FIVE_PERCENT, continuous_test_erred, {"items": 300}
    for name, n, draws in (
        ("n 300, 3 draws alike", 300, 3),
        ("n 300, 1 draw", 300, 1),
        ("n 1000, 1 draw", 1000, 1),
    ):
        yield f"paired test errs, {name}", AT_MOST, paired_test_erred, {"items": n, "draws": draws}
    for draws, ratio in product((3, 5), (0, 1, 5, 10)):
        name = f"family: any of 14 errs, {draws} draws that vary {ratio} times as clips"
        given = {"draws": draws, "ratio": ratio}
        yield name, AT_MOST, family_decided, given
        if draws == 3:
            yield f"{name}, sign flips", None, family_decided, given | {"sign_flips": True}
    for ratio, draws in product((1, 5), (3, 5, 8)):
        vary = f"{draws} draws that vary {ratio} times as clips"
        name = f"family: share of 14 gains of 5 points found, {vary}"
        yield name, None, family_decided, {"draws": draws, "ratio": ratio, "gain": 0.05}
    many, few = {"classes": 74, "items": 14}, {"classes": 40, "items": 100}
    discovered = "false discoveries, {classes} classes of {items}, "
    for name, given, draws, effect in (
        (f"{discovered}1 draw", many, 1, NONE),
        (f"{discovered}1 draw", few, 1, NONE),
        (f"{discovered}3 draws alike", many, 3, NONE),
        (f"{discovered}3 draws that differ", many, 3, 0.27),
        (f"{discovered}3 draws that differ much", many, 3, 0.85),
        ("any class is marked of {classes} of {items} that are equal, 3 draws that differ much",
         few | {"gain": 0}, 3, 0.34),
    ):  # fmt: skip
        line, given = name.format(**given), given | {"draws": draws, "effect": effect}
        yield line, AT_MOST, false_discoveries, given
        if effect:
            yield f"{line}, sign flips", None, false_discoveries, given | {"sign_flips": True}


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
    return "too low" if rate < low else "too high" if rate > high else "holds"


def main() -> None:
    """Measure all cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    print("| case | rate % | ± | target % | |\n|---|---|---|---|---|")
    for case in cases():
        if arguments.only in case.name:
            rate, error = measure(case, arguments.simulations, n_resamples=1000)
            target = "-".join(f"{100 * end:g}" for end in case.target or ())
            word = verdict(case, rate, arguments.simulations)
            line = f"| {case.name} | {100 * rate:.1f} | {200 * error:.1f} | {target} | {word} |"
            print(line, flush=True)


def _curve(peak: float, height: float) -> np.ndarray:
    """Accuracies over alpha: a parabola from at least 35% to its peak."""
    return 0.35 + height * (1 - ((ALPHAS - peak) / max(peak, 1 - peak)) ** 2)


def _holds(found: Interval | PairedDifference | Band | Any, truth: float | np.ndarray) -> bool:
    """Whether the truth lies inside, ends included: shares of n items may equal an end."""
    return bool(np.all((found.low <= truth + 1e-12) & (found.high >= truth - 1e-12)))


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**31))


def _draws(draws: int) -> str:
    return "1 draw" if draws == 1 else f"{draws} draws"


if __name__ == "__main__":
    main()
