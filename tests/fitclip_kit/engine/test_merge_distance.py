import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fitclip_core.merges import fisher
from fitclip_kit.engine import merge_distance
from fitclip_kit.engine.merge_distance import distance_taken, fisher_alpha

SHAPES = {"visual.a": (3, 2), "b": (4,)}


def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def state(scale: float, steps: int) -> dict[str, torch.Tensor]:
        fused = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        return fused | {"logit_scale": torch.tensor(scale), "steps": torch.tensor(steps)}

    # The last two are not fused; the student's may even be NaN.
    return state(4.6, 3), state(float("nan"), 5)


def diagonals(seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    draw = {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: scale * one**2 for name, one in draw.items()}


def slowly(teacher, student, share_of):
    """Weight by weight."""
    along = whole = 0.0
    for name in SHAPES:
        for place in np.ndindex(*teacher[name].shape):
            way = float(student[name][place]) - float(teacher[name][place])
            along += float(share_of(name)[place]) * way**2
            whole += way**2
    return along / whole


def test_the_example():
    assert doctest.testmod(merge_distance).failed == 0


@given(st.floats(0, 1))
def test_one_alpha_goes_that_far(alpha):
    assert distance_taken(*states(), alpha) == pytest.approx(alpha, abs=1e-6)


def test_a_schedule_counts_by_squared_difference():
    teacher = {"a": torch.zeros(2), "b": torch.zeros(1)}
    student = {"a": torch.tensor([1.0, -1]), "b": torch.tensor([2.0])}
    taken = distance_taken(teacher, student, {"a": 0.9, "b": 0.3})
    assert taken == pytest.approx((0.9 * 2 + 0.3 * 4) / 6)
    ends = states()
    share = fisher(diagonals(1), diagonals(2, 0.1), 0.4)
    assert distance_taken(*ends, share) == pytest.approx(slowly(*ends, share), abs=1e-6)


@pytest.mark.parametrize("taken", [0.02, 0.4, 0.97])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e3])
def test_fisher_merging_goes_as_far_as_asked(taken, scale):
    ends, both = states(), (diagonals(1), diagonals(2, scale))
    alpha = fisher_alpha(*both, *ends, taken)
    assert 0 < alpha < 1
    assert slowly(*ends, fisher(*both, alpha)) == pytest.approx(taken, abs=1e-4)


def test_equal_fishers_take_alpha_and_no_information_is_no_obstacle():
    assert fisher_alpha(diagonals(), diagonals(), *states(), 0.3) == pytest.approx(0.3, abs=1e-4)
    nothing = {name: 0 * one for name, one in diagonals().items()}
    assert fisher_alpha(nothing, nothing, *states(), 0.3) == pytest.approx(0.3, abs=1e-4)


def test_what_cannot_be_measured_is_refused():
    teacher, student = states()
    ends, wrong = (teacher, student), diagonals(scale=-1)
    for taken in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="part to take"):
            fisher_alpha(diagonals(), diagonals(), *ends, taken)
    with pytest.raises(ValueError, match="same weights"):
        distance_taken(teacher, teacher, 0.5)
    with pytest.raises(ValueError, match="same weights"):
        fisher_alpha(diagonals(), diagonals(), teacher, teacher, 0.5)
    with pytest.raises(ValueError, match="negative or not finite"):
        fisher_alpha(wrong, diagonals(), *ends, 0.5)
