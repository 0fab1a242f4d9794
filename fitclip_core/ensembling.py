"""Weight-space ensembling: teacher and student fused by a share alpha of the student."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


def interpolate(teacher_state: State, student_state: State, alpha: float) -> dict[str, Tensor]:
    """Fuse two models' weights: ``(1 - alpha) * teacher + alpha * student``.

    Only floating-point tensors are fused. ``logit_scale`` and integer tensors are the teacher's;
    the student's ``logit_scale`` may be missing or NaN. alpha 0 gives the teacher and alpha 1 the
    student (with the teacher's ``logit_scale``), bit for bit.

    Args:
        teacher_state: name -> tensor, such as ``model.state_dict()``.
        student_state: the same names and shapes.
        alpha: share of the student, in [0, 1].

    Returns:
        New tensors, in the teacher's order, on the teacher's devices. Half precision is fused in
        float32 and rounded once; where the precisions differ the higher one is kept.

    Raises:
        ValueError: alpha is outside [0, 1], or, naming the tensor: names, shapes or kinds differ,
            or a fused value is not finite.

    Source:
        Wortsman et al. 2022 (WiSE-FT), eq. 1; FitCLIP's supplement, section 6 and figure 3.

    Example:
        >>> fused = interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, alpha=0.25)
        >>> fused["w"].tolist()
        [0.25, 0.25]
    """
    _check_alpha(alpha)
    _check_match(teacher_state, student_state)
    return {
        name: _fuse(name, tensor, student_state.get(name), alpha).clone()
        for name, tensor in teacher_state.items()
    }


class AlphaSweep:
    """One live model whose weights are set to any fusion of two end states, in place.

    Every alpha is computed from the two end states, so there is no drift, and the values are those
    of :func:`interpolate`. The model is never copied. As a context manager it puts the model's own
    weights back on exit; without one, the last alpha stays.

    Args:
        model: its state must have the teacher's names and shapes.
        teacher_state: weights at alpha 0. Tensors that are the model's own memory are copied.
        student_state: weights at alpha 1, as in :func:`interpolate`.

    Raises:
        ValueError: names, shapes or kinds differ between the two states or from the model.

    Source:
        FitCLIP's supplement, section 6 and figure 3 (alpha from 0 to 1).

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> ends = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
        >>> with AlphaSweep(model, *ends) as sweep:
        ...     for alpha in (0.0, 0.5):
        ...         sweep.set_alpha(alpha)
        ...         print(model.weight.item())
        0.0
        0.5
    """

    def __init__(self, model: nn.Module, teacher_state: State, student_state: State) -> None:
        _check_match(teacher_state, student_state)
        live = model.state_dict()
        _check_names_and_shapes("the model", live, "the teacher", teacher_state)
        own_memory = {_address(tensor) for tensor in live.values()}
        self._model = model
        self._teacher = _without_aliases(teacher_state, own_memory)
        self._student = _without_aliases(student_state, own_memory)
        self._original: dict[str, Tensor] | None = None

    def set_alpha(self, alpha: float) -> None:
        """Write the fused weights into the model's own parameters and buffers.

        Args:
            alpha: share of the student, in [0, 1].

        Raises:
            ValueError: alpha is outside [0, 1], or a fused value is not finite (naming the tensor).
        """
        _check_alpha(alpha)
        with torch.no_grad():
            for name, live in self._model.state_dict().items():
                live.copy_(_fuse(name, self._teacher[name], self._student.get(name), alpha))

    def __enter__(self) -> Self:
        if self._original is not None:
            raise RuntimeError("this AlphaSweep is already entered: leave it first")
        self._original = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        original, self._original = self._original, None
        if original is None:
            return
        with torch.no_grad():
            for name, live in self._model.state_dict().items():
                live.copy_(original[name])


def _is_logit_scale(name: str) -> bool:
    return name.split(".")[-1] == "logit_scale"


def _fuse(name: str, teacher: Tensor, student: Tensor | None, alpha: float) -> Tensor:
    """One tensor's fused values; at the ends it may be the given tensor itself.

    Two products and a sum are three separate roundings, which no vector unit merges, so the same
    weights give the same bits in any memory layout and with any number of threads.
    """
    if student is None or _is_logit_scale(name) or not teacher.is_floating_point():
        fused = teacher.detach()
    else:
        kept = torch.promote_types(teacher.dtype, student.dtype)
        teacher = teacher.detach()
        student = student.detach().to(teacher.device)
        if alpha == 0:
            fused = teacher.to(kept)
        elif alpha == 1:
            fused = student.to(kept)
        else:
            working = torch.promote_types(kept, torch.float32)
            fused = teacher.to(working) * (1 - alpha)
            fused += student.to(working) * alpha
            fused = fused.to(kept)
    if not torch.isfinite(fused).all():
        raise ValueError(
            f"{name} is not finite at alpha {alpha}: look for NaN or infinite values in the "
            "teacher's and the student's weights"
        )
    return fused


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: the share of the student must lie in [0, 1]")


def _check_match(teacher_state: State, student_state: State) -> None:
    fused = {name: tensor for name, tensor in student_state.items() if not _is_logit_scale(name)}
    kept = {name: teacher_state[name] for name in teacher_state if _is_logit_scale(name)}
    _check_names_and_shapes("the student", {**kept, **fused}, "the teacher", teacher_state)
    stray = [name for name in student_state if name not in teacher_state]
    if stray:
        raise ValueError(f"the student has {stray[0]} and the teacher does not")
    for name, tensor in fused.items():
        if tensor.is_floating_point() != teacher_state[name].is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} in the student and {teacher_state[name].dtype} in the "
                "teacher: fuse checkpoints of the same architecture"
            )


def _check_names_and_shapes(first: str, one: State, second: str, other: State) -> None:
    differing = sorted(one.keys() ^ other.keys())
    if differing:
        has, lacks = (first, second) if differing[0] in one else (second, first)
        raise ValueError(
            f"{differing[0]} is in {has} and not in {lacks} ({len(differing)} names differ): "
            "both must be of the same architecture, with the same prefix of names"
        )
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in {first} and "
                f"{tuple(other[name].shape)} in {second}: both must be of the same architecture"
            )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _without_aliases(state: State, own_memory: set[int]) -> dict[str, Tensor]:
    """The state, with copies of those tensors that the sweep would overwrite."""
    return {
        name: tensor.clone() if _address(tensor) in own_memory else tensor
        for name, tensor in state.items()
    }
