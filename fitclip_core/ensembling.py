"""Fuse two models' weights by FitCLIP's average.

Everywhere ``alpha`` multiplies the student. Only floating-point tensors are fused; a
``logit_scale`` and integer tensors are the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Share = float | Tensor
"""The student's share of a parameter, in [0, 1]; a tensor of its shape: one share a weight."""
Schedule = Callable[[str], Share] | Mapping[str, Share]
"""A parameter's name to the student's share of it."""


def interpolate(
    teacher_state: State, student_state: State, alpha: float | Schedule
) -> dict[str, Tensor]:
    """Fuse two models' weights: ``(1 - alpha) * teacher + alpha * student``.

    alpha 0 gives the teacher and alpha 1 the student (with the teacher's ``logit_scale``), bit for
    bit. Two products and a sum are three roundings, on any number of threads the same.

    Args:
        teacher_state: name -> tensor, such as ``model.state_dict()``.
        student_state: the same names and shapes; its ``logit_scale`` may be missing or NaN.
        alpha: share of the student, in [0, 1], or a schedule of shares; a mapping must have every
            fused name.

    Returns:
        New tensors, in the teacher's order, on the teacher's devices. Half precision is fused in
        float32 and rounded once; where the precisions differ the higher one is kept.

    Raises:
        ValueError: alpha is outside [0, 1], or, naming the tensor: names, shapes or kinds differ,
            a schedule's alpha is outside [0, 1], missing or of another shape, or a fused value is
            not finite.

    Source: Wortsman et al. 2022 (WiSE-FT), eq. 1; FitCLIP's supplement, section 6 and figure 3.

    Example:
        >>> fused = interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, alpha=0.25)
        >>> fused["w"].tolist()
        [0.25, 0.25]
    """
    check_alpha(alpha, teacher_state)
    check_match(teacher_state, student_state)
    return {
        name: _fused(name, teacher, student_state, alpha) for name, teacher in teacher_state.items()
    }


class AlphaSweep:
    """One live model whose weights are set to any fusion of two end states, in place.

    The values are those of :func:`interpolate`, computed from the two ends each time. As a context
    manager it puts the model's own weights back on exit; without one, the last alpha stays.

    Args:
        model: its state must have the teacher's names and shapes.
        teacher_state: weights at alpha 0. Tensors that are the model's own memory are copied, of
            others the caller keeps the values as they are while the sweep is used.
        student_state: weights at alpha 1, as in :func:`interpolate`.

    Raises:
        ValueError: names, shapes or kinds differ between the two states or from the model.

    Source: FitCLIP's supplement, section 6 and figure 3 (alpha from 0 to 1).

    Example:
        Figure 3 is this, for each data set and student::

            with AlphaSweep(encoder.model, teacher, student) as sweep:
                for alpha in np.linspace(0, 1, 11):
                    sweep.set_alpha(alpha)
                    outcomes = zero_shot.evaluate(encoder, clips, frames)
                    of_texts = outcomes[outcomes["direction"] == "text_to_video"]
                    print(alpha, recall_at_k(of_texts["rank"], 5))
    """

    def __init__(self, model: nn.Module, teacher_state: State, student_state: State) -> None:
        check_match(teacher_state, student_state)
        live = model.state_dict()
        check_same_tensors("the model", live, "the teacher", teacher_state)
        own = {tensor.untyped_storage().data_ptr() for tensor in live.values()}
        self._model = model
        self._teacher, self._student = (
            {
                name: tensor.clone() if tensor.untyped_storage().data_ptr() in own else tensor
                for name, tensor in state.items()
            }
            for state in (teacher_state, student_state)
        )
        self._original: State | None = None

    def set_alpha(self, alpha: float | Schedule) -> None:
        """Write the weights of :func:`interpolate` into the model's own parameters and buffers.

        Raises: ValueError as there; of a wrong schedule the tensors before the one named are
        written already.
        """
        check_alpha(alpha, self._teacher)
        with torch.no_grad():
            for name, live in self._model.state_dict().items():
                teacher = self._teacher[name]
                live.copy_(_fused(name, teacher, self._student, alpha, live.dtype))

    def set_merge(self, merge: Callable[[State, State, float], State], alpha: float) -> None:
        """Write what one of `merges.MERGES` makes of the two end states; ValueError as it."""
        self._write(merge(self._teacher, self._student, alpha))

    def __enter__(self) -> Self:
        if self._original is not None:
            raise RuntimeError("this AlphaSweep is already entered: leave it first")
        self._original = {name: live.clone() for name, live in self._model.state_dict().items()}
        return self

    def __exit__(self, *_: object) -> None:
        original, self._original = self._original or {}, None
        self._write(original)

    def _write(self, state: State) -> None:
        with torch.no_grad():
            for name, live in self._model.state_dict().items():
                live.copy_(state[name])


def is_logit_scale(name: str) -> bool:
    """Whether a tensor is a model's logit scale, which is never fused."""
    return name.split(".")[-1] == "logit_scale"


def is_fused(name: str, tensor: Tensor) -> bool:
    """Whether a merge mixes a tensor; else it is the teacher's."""
    return tensor.is_floating_point() and not is_logit_scale(name)


def share_of(schedule: float | Schedule, name: str, shape: torch.Size) -> Share:
    """The student's share of a tensor of that name and shape; ValueError for a wrong one."""
    if isinstance(schedule, Mapping):
        share = schedule[name]
    else:
        share = schedule(name) if callable(schedule) else schedule
    values = torch.as_tensor(share)
    if isinstance(share, Tensor) and share.shape != shape:
        raise ValueError(
            f"the schedule's alpha of {name} has shape {tuple(share.shape)}, not {tuple(shape)}: "
            "give a number, or one for each weight"
        )
    if not bool(((values >= 0) & (values <= 1)).all()):
        shown = "outside" if isinstance(share, Tensor) else share
        raise ValueError(f"the schedule's alpha of {name} is {shown}: it must lie in [0, 1]")
    return share


def check_alpha(alpha: float | Schedule, state: State) -> None:
    """Refuse an alpha outside [0, 1] or a mapping whose names are not those of a state."""
    if isinstance(alpha, Mapping):
        fused = [name for name, tensor in state.items() if is_fused(name, tensor)]
        if lacking := [name for name in fused if name not in alpha]:
            raise ValueError(f"the schedule has no alpha for {lacking[0]} ({len(lacking)} such)")
        if stray := [name for name in alpha if name not in state]:
            raise ValueError(
                f"the schedule has {stray[0]} and the model does not ({len(stray)} such names)"
            )
    elif not callable(alpha) and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: the share of the student must lie in [0, 1]")


def check_same_tensors(first: str, state: State, second: str, other: State) -> None:
    """Refuse two states whose names or shapes differ, by what they are called.

    Raises: ValueError naming the first tensor that differs, and how many names do.
    """
    if differing := sorted(state.keys() ^ other.keys()):
        has, lacks = (first, second) if differing[0] in state else (second, first)
        raise ValueError(
            f"{differing[0]} is in {has} and not in {lacks} ({len(differing)} names differ): "
            "both must be of the same architecture, with the same prefix of names"
        )
    for name, tensor in state.items():
        if tensor.shape != other[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in {first} and "
                f"{tuple(other[name].shape)} in {second}: both must be of the same architecture"
            )


def check_match(teacher_state: State, student_state: State) -> None:
    """Refuse two states that cannot be fused, naming the tensor."""
    own = {name: tensor for name, tensor in student_state.items() if not is_logit_scale(name)}
    scales = {name: teacher_state[name] for name in teacher_state if is_logit_scale(name)}
    if stray := [name for name in student_state if is_logit_scale(name) and name not in scales]:
        raise ValueError(f"the student has {stray[0]} and the teacher does not")
    check_same_tensors("the student", {**scales, **own}, "the teacher", teacher_state)
    for name, tensor in own.items():
        if tensor.is_floating_point() != teacher_state[name].is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} in the student and {teacher_state[name].dtype} in the "
                "teacher: fuse checkpoints of the same architecture"
            )


def _fused(
    name: str,
    teacher: Tensor,
    student_state: State,
    alpha: float | Schedule,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """One tensor's fused values: new memory, on the teacher's device."""
    fused, shown = teacher.detach().clone(), ""
    if is_fused(name, teacher):
        student, share = student_state[name].detach(), share_of(alpha, name, teacher.shape)
        kept = torch.promote_types(teacher.dtype, student.dtype)
        working = torch.promote_types(kept, torch.float32)
        old, new = fused.to(working), student.to(teacher.device, working)
        if isinstance(share, Tensor):
            shown, share = " at an alpha for each weight", share.to(old.device, working)
            fused = old * (1 - share) + new * share
        else:  # the ends are exact: 1 * -0 + 0 * 1 would be +0
            shown = f" at alpha {share}"
            mixed = 0 < share < 1
            fused = old * (1 - share) + new * share if mixed else (new if share else old).clone()
        fused = fused.to(dtype or kept)
    if not bool(fused.isfinite().all()):
        raise ValueError(
            f"{name} is not finite{shown}: look for NaN or infinite values in the teacher's and "
            "the student's weights"
        )
    return fused
