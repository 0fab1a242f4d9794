"""The fusion of weights against numpy and to the last bit; the sweep against the fusion."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fitclip_core.ensembling import AlphaSweep, interpolate

ALPHAS = (0.0, 0.1, 1 / 3, 0.4, 0.5, 0.7, 0.9, 1.0)
NOT_FUSED = ("logit_scale", "norm.num_batches_tracked")
NAN, INF = float("nan"), float("inf")


class TinyClip(nn.Module):
    """A model with what matters here: weights, a float and an integer buffer, a logit scale."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.text = nn.Linear(7, 11)
        self.logit_scale = nn.Parameter(torch.tensor(4.0 + seed))
        self.norm.load_state_dict(
            self.norm.state_dict()
            | {"running_mean": torch.rand(5), "num_batches_tracked": torch.tensor(seed)}
        )


def states() -> tuple[dict, dict]:
    return TinyClip(1).state_dict(), TinyClip(2).state_dict()


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (
        first.dtype == second.dtype
        and first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes()
    )


def by_initial(name: str) -> float:
    return {"p": 0.2, "n": 1.0, "t": 0.0}[name[0]]


def for_each_weight(name: str) -> torch.Tensor:
    shares = torch.rand(states()[0][name].shape, generator=torch.Generator().manual_seed(0))
    shares.flatten()[:2] = torch.tensor([0.0, 1.0])[: shares.numel()]
    return shares


@pytest.mark.parametrize("schedule", [*ALPHAS, by_initial, for_each_weight])
def test_interpolate_equals_numpy(schedule: Any) -> None:
    teacher, student = states()
    fused = interpolate(teacher, student, schedule)
    assert list(fused) == list(teacher)
    mapping = {}
    for name, tensor in fused.items():
        t, s = teacher[name].double().numpy(), student[name].double().numpy()
        share = 0.0
        if name not in NOT_FUSED:
            share = mapping[name] = schedule(name) if callable(schedule) else schedule
        expected = (1 - np.asarray(share)) * t + np.asarray(share) * s
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=name)
    again = interpolate(teacher, student, mapping)
    assert all(same_bits(again[name], fused[name]) for name in fused)
    model = TinyClip(3)
    AlphaSweep(model, teacher, student).set_alpha(mapping)  # without a context it stays
    assert all(same_bits(tensor, fused[name]) for name, tensor in model.state_dict().items())


def test_ends_are_exact_and_results_are_new_tensors() -> None:
    teacher, student = states()
    # A sum such as 1 * -0 + 0 * 1 would be +0.
    teacher["text.bias"][:2] = torch.tensor([-0.0, 1.0])
    student["text.bias"][:2] = torch.tensor([1.0, -0.0])
    before = copy.deepcopy((teacher, student))
    for alpha in (0, 1, 0.5):
        for name, tensor in interpolate(teacher, student, alpha).items():
            end = student if alpha == 1 and name not in NOT_FUSED else teacher
            assert alpha == 0.5 or same_bits(tensor, end[name]), name
            tensor.zero_()
    for state, kept in zip((teacher, student), before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)


def fused_whole(t: torch.Tensor, s: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
    """The definition: in float32 at least, two products, then their sum, then one rounding."""
    kept = torch.promote_types(t.dtype, s.dtype)
    working = torch.promote_types(kept, torch.float32)
    if isinstance(share, torch.Tensor):
        share = share.to(working)
    old, new = t.to(working) * (1 - share), s.to(working) * share
    return (old + new).to(kept)


class OneTensor(nn.Module):
    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7,), (301, 1009), (2, 3, 9, 31)])
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float16),
        (torch.float64, torch.float32),
    ],
)
def test_bits_are_those_of_the_definition(shape, dtypes) -> None:
    generator = torch.Generator().manual_seed(3)
    t, s = (torch.randn(shape, generator=generator).to(dtype) for dtype in dtypes)
    each = torch.rand(shape, generator=generator)
    kept = torch.promote_types(*dtypes)
    layouts = [(t, s, each)]
    if len(shape) > 1:
        layouts.append((t.mT.contiguous().mT, s, each.mT.contiguous().mT))  # as bits: the same
    for old, new, shares in layouts:
        for share in (0.0, 0.3, 1.0, shares):
            expected = fused_whole(t, s, share)
            schedule: Any = share if isinstance(share, float) else {"w": share}
            assert same_bits(interpolate({"w": old}, {"w": new}, schedule)["w"], expected)
            for live in (torch.zeros(shape, dtype=kept), torch.zeros_like(old, dtype=kept)):
                model = OneTensor(live)
                AlphaSweep(model, {"w": old}, {"w": new}).set_alpha(schedule)
                assert same_bits(model.w.detach(), expected)


def test_a_value_that_is_not_finite_is_found_wherever_it_is() -> None:
    student = {"w": torch.zeros(999)}
    for place, value in ((0, NAN), (17, INF), (998, -INF)):
        teacher = {"w": torch.zeros(999)}
        teacher["w"][place] = value
        teacher["w"][place - 1] = -value  # even together they are not finite
        with pytest.raises(ValueError, match=r"w is not finite at alpha 0\.3"):
            interpolate(teacher, student, 0.3)
    huge = {"w": torch.full((999,), 3e38)}  # finite, and their sum is not
    assert torch.isfinite(interpolate(huge, huge, 0.5)["w"]).all()
    large = {"w": torch.full((3,), 1e6)}  # finite, and in the model's half precision it is not
    with pytest.raises(ValueError, match="w is not finite"):
        AlphaSweep(OneTensor(torch.zeros(3).half()), large, large).set_alpha(0.3)


def test_logit_scale_of_the_student_may_be_missing_or_nan() -> None:
    teacher, student = states()
    expected = interpolate(teacher, student, 0.4)
    for value in (None, torch.tensor(float("nan")), torch.ones(3)):
        odd = {name: tensor for name, tensor in student.items() if name != "logit_scale"}
        if value is not None:
            odd["logit_scale"] = value
        fused = interpolate(teacher, odd, 0.4)
        assert list(fused) == list(expected)
        assert all(same_bits(fused[name], expected[name]) for name in expected)


def without(state: dict, name: str) -> dict:
    return {other: tensor for other, tensor in state.items() if other != name}


TEACHER, STUDENT = states()
HALF = dict.fromkeys(TEACHER, 0.5)
SCALE_NAN = TEACHER | {"logit_scale": torch.tensor(NAN)}


def with_bias(bias: Any, state: dict = STUDENT) -> dict:
    return state | {"text.bias": bias}


@pytest.mark.parametrize(
    ("teacher", "student", "alpha", "message"),
    [
        *[(TEACHER, STUDENT, alpha, f"alpha is {alpha}") for alpha in (-0.01, 1.01, NAN, INF)],
        (TEACHER, without(STUDENT, "text.bias"), 0.5, "text.bias is in the teacher and not in"),
        (TEACHER, STUDENT | {"extra": torch.zeros(1)}, 0.5, "extra is in the student"),
        (TEACHER, with_bias(torch.zeros(12)), 0.5, r"text.bias has shape \(12,\)"),
        (TEACHER, with_bias(torch.zeros(11, dtype=torch.int64)), 0.5, "text.bias is torch.int64"),
        (TEACHER, with_bias(torch.full((11,), NAN)), 0.5, r"text.bias is not finite at alpha 0\.5"),
        (
            TEACHER,
            with_bias(torch.full((11,), NAN)),
            with_bias(torch.ones(11) / 2, HALF),
            "text.bias is not finite at an alpha for each weight",
        ),
        (without(TEACHER, "logit_scale"), STUDENT, 0.5, "the student has logit_scale"),
        (SCALE_NAN, STUDENT, 0.5, "logit_scale is not finite"),
        (TEACHER, {}, 0.5, "names differ"),
        (TEACHER, STUDENT, without(HALF, "text.bias"), r"no alpha for text\.bias \(1 such\)"),
        (TEACHER, STUDENT, HALF | {"txt.bias": 0.5}, r"has txt\.bias and the model does not"),
        (TEACHER, STUDENT, with_bias(1.5, HALF), r"alpha of text\.bias is 1\.5"),
        (TEACHER, STUDENT, with_bias(NAN, HALF), r"alpha of text\.bias is nan"),
        (TEACHER, STUDENT, with_bias(torch.full((11,), 1.5), HALF), r"text\.bias is outside"),
        (TEACHER, STUDENT, with_bias(torch.full((11,), NAN), HALF), r"text\.bias is outside"),
        (TEACHER, STUDENT, with_bias(torch.ones(7), HALF), r"shape \(7,\), not \(11,\)"),
        (TEACHER, STUDENT, lambda name: -0.1, "alpha of .* is -0.1"),
        (TEACHER, STUDENT, {}, "no alpha for"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(
    teacher: dict, student: dict, alpha: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(teacher, student, alpha)
    model = TinyClip(3)
    before = copy.deepcopy(model.state_dict())
    with (
        pytest.raises(ValueError, match=message),
        AlphaSweep(model, teacher, student) as sweep,
    ):
        sweep.set_alpha(alpha)
    assert all(same_bits(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sweep_has_the_values_of_interpolate_without_drift() -> None:
    model = TinyClip(3)
    addresses = [tensor.data_ptr() for tensor in model.state_dict().values()]
    with AlphaSweep(model, TEACHER, STUDENT) as sweep:
        for alpha in [*ALPHAS, *reversed(ALPHAS), 0.4, 0.4]:
            sweep.set_alpha(alpha)
            expected = interpolate(TEACHER, STUDENT, alpha)
            for name, tensor in model.state_dict().items():
                assert same_bits(tensor, expected[name]), (name, alpha)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == addresses
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_sweep_puts_the_weights_back_also_after_an_error() -> None:
    model = TinyClip(3)
    model.text.bias.data[0] = -0.0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), AlphaSweep(model, TEACHER, STUDENT) as sweep:
        sweep.set_alpha(0.4)
        assert not torch.equal(model.text.weight, before["text.weight"])
        raise KeyError
    assert all(same_bits(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sweep_survives_end_states_that_are_the_models_own_memory() -> None:
    teacher, student = states()
    for own_is_teacher in (True, False):
        model = TinyClip(1 if own_is_teacher else 2)
        ends = (model.state_dict(), student) if own_is_teacher else (teacher, model.state_dict())
        sweep = AlphaSweep(model, *ends)
        for alpha in (0.3, 1.0, 0.0, 0.6):
            sweep.set_alpha(alpha)
            expected = interpolate(teacher, student, alpha)
            assert all(same_bits(t, expected[name]) for name, t in model.state_dict().items())


def test_sweep_refuses_other_models_and_to_be_entered_twice() -> None:
    with pytest.raises(ValueError, match="in the model"):
        AlphaSweep(nn.Linear(2, 2), TEACHER, STUDENT)
    with AlphaSweep(TinyClip(1), TEACHER, STUDENT) as sweep, pytest.raises(RuntimeError), sweep:
        pass
