import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fitclip_core.ensembling import AlphaSweep, interpolate

ALPHAS = (0.0, 0.1, 1 / 3, 0.4, 0.5, 0.7, 0.9, 1.0)


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


@pytest.mark.parametrize("alpha", ALPHAS)
def test_interpolate_equals_numpy(alpha: float) -> None:
    teacher, student = states()
    fused = interpolate(teacher, student, alpha)
    assert list(fused) == list(teacher)
    for name, tensor in fused.items():
        t, s = teacher[name].numpy(), student[name].numpy()
        if name == "logit_scale" or t.dtype == np.int64:
            expected = t
        else:
            expected = (1 - alpha) * t.astype(np.float64) + alpha * s.astype(np.float64)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_ends_are_exact() -> None:
    teacher, student = states()
    # A sum such as 1 * -0 + 0 * 1 would be +0.
    teacher["text.bias"][:2] = torch.tensor([-0.0, 1.0])
    student["text.bias"][:2] = torch.tensor([1.0, -0.0])
    for name, tensor in interpolate(teacher, student, 0).items():
        assert same_bits(tensor, teacher[name]), name
    for name, tensor in interpolate(teacher, student, 1).items():
        end = teacher if name in ("logit_scale", "norm.num_batches_tracked") else student
        assert same_bits(tensor, end[name]), name


@given(
    alpha=st.floats(0, 1),
    pair=st.lists(
        st.tuples(*[st.floats(-(2.0**99), 2.0**99, width=32)] * 2), min_size=1, max_size=9
    ),
)
@settings(max_examples=60, deadline=None)
def test_fusion_stays_between_the_ends_and_mirrors(alpha, pair) -> None:
    teacher, student = (
        {"w": torch.tensor(values, dtype=torch.float32)} for values in zip(*pair, strict=True)
    )
    fused = interpolate(teacher, student, alpha)["w"].double()
    low = torch.minimum(teacher["w"], student["w"]).double()
    high = torch.maximum(teacher["w"], student["w"]).double()
    slack = 1e-6 * torch.maximum(low.abs(), high.abs()) + 1e-44  # float32's smallest step
    assert (low - slack <= fused).all()
    assert (fused <= high + slack).all()
    mirrored = interpolate(student, teacher, 1 - alpha)["w"].double()
    assert ((fused - mirrored).abs() <= 2 * slack).all()


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
        for share in (0.3, shares):
            expected = fused_whole(t, s, share)
            schedule: Any = share if isinstance(share, float) else {"w": share}
            assert same_bits(interpolate({"w": old}, {"w": new}, schedule)["w"], expected)
            for live in (torch.zeros(shape, dtype=kept), torch.zeros_like(old, dtype=kept)):
                model = OneTensor(live)
                AlphaSweep(model, {"w": old}, {"w": new}).set_alpha(schedule)
                assert same_bits(model.w.detach(), expected)


def test_a_value_that_is_not_finite_is_found_wherever_it_is() -> None:
    student = {"w": torch.zeros(999)}
    for place in (0, 17, 998):
        for value in (float("nan"), float("inf"), -float("inf")):
            teacher = {"w": torch.zeros(999)}
            teacher["w"][place] = value
            teacher["w"][place - 1] = -value  # even together they are not finite
            with pytest.raises(ValueError, match=r"w is not finite at alpha 0\.3"):
                interpolate(teacher, student, 0.3)
    huge = {"w": torch.full((999,), 3e38)}  # finite, and their sum is not
    assert torch.isfinite(interpolate(huge, huge, 0.5)["w"]).all()
    large = {"w": torch.full((3,), 1e6)}  # finite, and in the model's half precision it is not
    sweep = AlphaSweep(OneTensor(torch.zeros(3).half()), large, large)
    for alpha in (0.3, 0.6):
        with pytest.raises(ValueError, match="w is not finite"):
            sweep.set_alpha(alpha)
    with pytest.raises(ValueError, match="w is not finite"):
        interpolate({"w": torch.ones(3).half() * 6e4}, {"w": torch.ones(3) * float("inf")}, 0.5)


def test_a_sweep_puts_back_the_sign_of_zero() -> None:
    model = OneTensor(torch.tensor([-0.0, 1.0]))
    ends = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([3.0, 4.0])}
    with AlphaSweep(model, *ends) as sweep:
        sweep.set_alpha(0.5)
    assert same_bits(model.w.detach(), torch.tensor([-0.0, 1.0]))


def test_results_are_new_tensors() -> None:
    teacher, student = states()
    before = copy.deepcopy((teacher, student))
    for alpha in (0, 0.5, 1):
        for tensor in interpolate(teacher, student, alpha).values():
            tensor.zero_()
    for state, kept in zip((teacher, student), before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)


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


def test_mixed_and_half_precision() -> None:
    t, s = torch.randn(50).half(), torch.randn(50).half()
    fused = interpolate({"w": t}, {"w": s}, 0.3)["w"]
    assert torch.equal(fused, (t.float() * (1 - 0.3) + s.float() * 0.3).half())
    assert interpolate({"w": t}, {"w": s.float()}, 0)["w"].dtype == torch.float32


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    teacher, student = states()
    with pytest.raises(ValueError, match="alpha"):
        interpolate(teacher, student, alpha)
    with pytest.raises(ValueError, match="alpha"):
        AlphaSweep(TinyClip(1), teacher, student).set_alpha(alpha)


def test_mismatches_are_refused_by_name() -> None:
    teacher, student = states()
    lacking = {name: tensor for name, tensor in student.items() if name != "text.bias"}
    no_scale = {name: tensor for name, tensor in teacher.items() if name != "logit_scale"}
    nan_scale = teacher | {"logit_scale": torch.tensor(float("nan"))}
    for one, other, message in [
        (teacher, lacking, "text.bias is in the teacher and not in the student"),
        (teacher, student | {"extra": torch.zeros(1)}, "extra is in the student"),
        (teacher, student | {"text.bias": torch.zeros(12)}, r"text.bias has shape \(12,\)"),
        (teacher, student | {"text.bias": torch.zeros(11, dtype=torch.int64)}, "text.bias is"),
        (teacher, student | {"text.bias": torch.full((11,), float("nan"))}, "text.bias is not f"),
        (teacher, student | {"text.bias": torch.full((11,), float("inf"))}, "text.bias is not f"),
        (no_scale, student, "the student has logit_scale"),
        (nan_scale, student, "logit_scale is not finite"),
        (teacher, {}, "names differ"),
    ]:
        with pytest.raises(ValueError, match=message):
            interpolate(one, other, 0.5)


def test_sweep_has_the_values_of_interpolate_without_drift() -> None:
    teacher, student = states()
    model = TinyClip(3)
    addresses = [tensor.data_ptr() for tensor in model.state_dict().values()]
    with AlphaSweep(model, teacher, student) as sweep:
        for alpha in [*ALPHAS, *reversed(ALPHAS), 0.4, 0.4]:
            sweep.set_alpha(alpha)
            expected = interpolate(teacher, student, alpha)
            for name, tensor in model.state_dict().items():
                assert same_bits(tensor, expected[name]), (name, alpha)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == addresses
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_sweep_puts_the_weights_back_also_after_an_error() -> None:
    model = TinyClip(3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), AlphaSweep(model, *states()) as sweep:
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


def test_sweep_without_a_context_stays() -> None:
    teacher, student = states()
    model = TinyClip(3)
    AlphaSweep(model, teacher, student).set_alpha(1)
    assert torch.equal(model.text.weight, student["text.weight"])
    assert model.logit_scale.item() == 5.0


def test_sweep_refuses() -> None:
    teacher, student = states()
    with pytest.raises(ValueError, match="in the model"):
        AlphaSweep(nn.Linear(2, 2), teacher, student)
    with pytest.raises(ValueError, match="in the student"):
        AlphaSweep(TinyClip(1), teacher, {})
    student["text.bias"][0] = float("nan")
    with (
        pytest.raises(ValueError, match=r"text\.bias is not finite at alpha 0\.5"),
        AlphaSweep(TinyClip(1), teacher, student) as sweep,
    ):
        sweep.set_alpha(0.5)
    with AlphaSweep(TinyClip(1), *states()) as sweep, pytest.raises(RuntimeError), sweep:
        pass


# schedules


def by_initial(name: str) -> float:
    return {"p": 0.2, "n": 1.0, "t": 0.0}[name[0]]


def test_a_schedule_gives_each_tensor_its_own_alpha() -> None:
    teacher, student = states()
    merged = interpolate(teacher, student, by_initial)
    mapping = {name: by_initial(name) for name in teacher if name != "logit_scale"}
    for name, tensor in merged.items():
        share = 0.0 if name == "logit_scale" else by_initial(name)
        assert same_bits(tensor, interpolate(teacher, student, share)[name]), name
        assert same_bits(tensor, interpolate(teacher, student, mapping)[name]), name
    model = TinyClip(3)
    with AlphaSweep(model, teacher, student) as sweep:
        for schedule in (by_initial, mapping):
            sweep.set_alpha(schedule)
            assert all(same_bits(t, merged[name]) for name, t in model.state_dict().items())


@given(alpha=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])))
@settings(max_examples=20)
def test_a_constant_schedule_is_that_alpha(alpha) -> None:
    teacher, student = states()
    expected = interpolate(teacher, student, alpha)
    for schedule in (lambda name: alpha, dict.fromkeys(teacher, alpha)):
        merged = interpolate(teacher, student, schedule)
        assert all(same_bits(merged[name], expected[name]) for name in expected)


def test_an_alpha_for_each_weight() -> None:
    teacher, student = states()
    shares = {name: torch.rand(tensor.shape) for name, tensor in teacher.items()}
    shares["text.bias"][:2] = torch.tensor([0.0, 1.0])
    merged = interpolate(teacher, student, shares)
    for name, tensor in merged.items():
        t, s = teacher[name], student[name]
        for place in np.ndindex(*tensor.shape):
            share = 0.0
            if name not in ("logit_scale", "norm.num_batches_tracked"):
                share = float(shares[name][place])
            expected = (1 - share) * float(t[place]) + share * float(s[place])
            assert float(tensor[place]) == pytest.approx(expected, abs=1e-6), (name, place)
    assert merged["text.bias"][0] == teacher["text.bias"][0]
    assert merged["text.bias"][1] == student["text.bias"][1]
    half = interpolate(
        teacher, student, {name: torch.full_like(s, 0.5) for name, s in shares.items()}
    )
    plain = interpolate(teacher, student, 0.5)
    assert all(torch.equal(half[name], plain[name]) for name in plain)


def test_wrong_schedules_are_refused_by_name() -> None:
    teacher, student = states()
    constant = dict.fromkeys(teacher, 0.5)
    lacking = {name: alpha for name, alpha in constant.items() if name != "text.bias"}
    nan = float("nan")
    wrong: list[tuple[Any, str]] = [
        (lacking, r"no alpha for text\.bias \(1 such\)"),
        (constant | {"txt.bias": 0.5}, r"the schedule has txt\.bias and the model does not"),
        (constant | {"text.bias": 1.5}, r"alpha of text\.bias is 1\.5: the share"),
        (constant | {"text.bias": nan}, r"alpha of text\.bias is nan"),
        (constant | {"text.bias": torch.full((11,), 1.5)}, r"alpha of text\.bias is outside"),
        (constant | {"text.bias": torch.full((11,), nan)}, r"alpha of text\.bias is outside"),
        (constant | {"text.bias": torch.ones(7)}, r"text\.bias has shape \(7,\), not \(11,\)"),
        (lambda name: -0.1, "alpha of .* is -0.1"),
        ({}, "no alpha for"),
    ]
    for schedule, message in wrong:
        with pytest.raises(ValueError, match=message):
            interpolate(teacher, student, schedule)
        model = TinyClip(3)
        before = copy.deepcopy(model.state_dict())
        with (
            pytest.raises(ValueError, match=message),
            AlphaSweep(model, teacher, student) as sweep,
        ):
            sweep.set_alpha(schedule)
        assert all(same_bits(t, before[name]) for name, t in model.state_dict().items())
    student["text.bias"][0] = nan
    with pytest.raises(ValueError, match=r"text\.bias is not finite at alpha 0\.5"):
        interpolate(teacher, student, constant)
    with pytest.raises(ValueError, match=r"text\.bias is not finite at an alpha for each weight"):
        interpolate(teacher, student, constant | {"text.bias": torch.ones(11) / 2})
