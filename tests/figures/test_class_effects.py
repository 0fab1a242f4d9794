"""Tests of class effects against all permutations, hand-computed values and simulated nulls."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from figures import class_effects
from figures.class_effects import (
    gail_simon_p_value,
    heterogeneity_p_value,
    qualitative_interaction_p_value,
)


def between(differences: Any, labels: Any) -> float:
    """The sum of squares between classes, class by class."""
    groups: dict[Any, list[float]] = {}
    for difference, label in zip(differences, labels, strict=True):
        groups.setdefault(label, []).append(difference)
    grand = sum(differences) / len(differences)
    return sum(len(group) * (sum(group) / len(group) - grand) ** 2 for group in groups.values())


@pytest.mark.parametrize(
    ("differences", "labels"),
    [
        ([1, 1, 1, 0, -1, 0, -1], "aaabbbc"),
        ([1, 0, 0, -1, 0, 0, 1], "abababa"),  # ties
        ([2 / 3, 1 / 3, 1 / 3, -1 / 3, 0, 0], "ccabab"),
    ],
)
def test_heterogeneity_equals_all_permutations(
    differences: list[float], labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = between(differences, labels)
    orders = list(itertools.permutations(labels))
    exact = np.mean([between(differences, order) >= observed - 1e-12 for order in orders])
    found = heterogeneity_p_value(differences, list(labels))
    assert found == pytest.approx(exact, abs=0.02)
    monkeypatch.setattr(class_effects, "_CHUNK", 1000)
    assert heterogeneity_p_value(differences, list(labels)) == found


def test_heterogeneity_where_nothing_or_everything_differs() -> None:
    labels = np.repeat(["a", "b"], 20)
    assert heterogeneity_p_value(np.ones(40), labels) == 1
    assert heterogeneity_p_value(np.random.default_rng(0).normal(size=9), ["a"] * 9) == 1
    assert heterogeneity_p_value(np.repeat([1.0, 0.0], 20), labels) == 1 / 10_001


def test_heterogeneity_errs_as_often_as_it_says_and_has_power(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty classes of six items, of which none by itself could be told."""
    monkeypatch.setattr(class_effects, "_RESAMPLES", 199)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 6)
    rates = []
    for spread in (0.0, 0.3):
        found = []
        for _ in range(200):
            shift = rng.normal(size=40)[labels] * spread
            differences = np.round(np.clip(rng.normal(size=240) * 0.6 + shift, -1, 1))
            found.append(heterogeneity_p_value(differences, labels))
        rates.append(np.mean(np.array(found) <= 0.05))
    assert rates[0] < 0.09
    assert rates[1] > 0.8


def test_gail_simon_by_hand() -> None:
    # Chi-square tails: with 1 degree of freedom erfc(sqrt(q / 2)), with 2 exp(-q / 2).
    def one(q: float) -> float:
        return math.erfc(math.sqrt(q / 2))

    assert gail_simon_p_value([2, -1.5], [1, 1]) == pytest.approx(0.5 * one(2.25))
    # Q+ = 4 + 1 = 5, Q- = 2.25 + 1 = 3.25; of two other signs 0, 1 or 2 may oppose.
    found = gail_simon_p_value([2, 1, -3], [1, 1, 2])
    assert found == pytest.approx(0.5 * one(2.25) + 0.25 * math.exp(-2.25 / 2))
    three = one(3.25) + math.sqrt(2 * 3.25 / math.pi) * math.exp(-3.25 / 2)
    found = gail_simon_p_value([2, 1, -3, -2], [1, 1, 2, 2])
    expected = 3 / 8 * one(3.25) + 3 / 8 * math.exp(-3.25 / 2) + 1 / 8 * three
    assert found == pytest.approx(expected)
    for effects in ([], [1.0], [1.0, 2.0, 0.0], [-3.0, 0.0]):
        assert gail_simon_p_value(effects, np.ones(len(effects))) == 1


@pytest.mark.parametrize(("classes", "critical"), [(2, 2.71), (3, 4.23), (4, 5.43), (5, 6.50)])
def test_gail_simons_critical_values_at_five_percent(classes: int, critical: float) -> None:
    effects = np.zeros(classes)
    effects[:2] = 9, -math.sqrt(critical)
    assert gail_simon_p_value(effects, np.ones(classes)) == pytest.approx(0.05, abs=0.0005)


def test_a_qualitative_interaction_by_hand() -> None:
    # Sums 3 and -2, sums of squares 3 and 2: Q+ = 3, Q- = 2; the third class never differs.
    differences = [1, 1, 1, 0, -1, 0, 0, -1, 0, 0]
    labels = ["x"] * 4 + ["y"] * 4 + ["z"] * 2
    expected = pytest.approx(0.5 * math.erfc(1))
    assert qualitative_interaction_p_value(differences, labels) == expected
    assert qualitative_interaction_p_value(differences[::-1], labels[::-1]) == expected
    assert qualitative_interaction_p_value(differences[:4], labels[:4]) == 1
    assert qualitative_interaction_p_value([0, 0], ["x", "y"]) == 1


def test_a_qualitative_interaction_of_small_classes_does_not_err() -> None:
    """Paired answers of 30 classes of 14 items: all gain or nothing, and the same with losses."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 14)
    found, opposed = [], []
    for _ in range(400):
        flips = np.where(rng.random(420) < rng.beta(1, 2, 30)[labels], 1, 0)
        differences = flips * rng.choice([-1, 1], 420)
        differences[:14] = rng.random(14) < 0.9
        found.append(qualitative_interaction_p_value(differences, labels))
        signs = np.where(labels % 2, 1, -1)
        differences = flips * np.where(rng.random(420) < 0.85, signs, -signs)
        opposed.append(qualitative_interaction_p_value(differences, labels))
    assert np.mean(np.array(found) <= 0.05) < 0.08
    assert np.mean(np.array(opposed) <= 0.05) > 0.8


@pytest.mark.parametrize(
    ("differences", "labels", "message"),
    [
        ([], [], "one of each for every item"),
        ([1.0, 0.0], ["a"], "one of each for every item"),
        ([[1.0]], [["a"]], "one of each for every item"),
        ([1.0, np.nan], ["a", "b"], "NaN"),
    ],
)
def test_bad_items_are_refused(differences: Any, labels: Any, message: str) -> None:
    for test in (heterogeneity_p_value, qualitative_interaction_p_value):
        with pytest.raises(ValueError, match=message):
            test(differences, labels)
