"""Weight-space ensembling: teacher and student fused by a share alpha of the student.

Where one alpha is taken, a schedule may stand: a function or mapping from a parameter's name to the
alpha of that parameter, or to a tensor of its shape with an alpha for each weight. `per_tower`,
`linear_in_depth` and `fisher` make such schedules.
"""

import cmath
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from fitclip_core.merges import Schedule as Schedule
from fitclip_core.merges import Share, is_logit_scale
from fitclip_core.merges import fisher as fisher
from fitclip_core.merges import fisher_diagonal as fisher_diagonal
from fitclip_core.merges import linear_in_depth as linear_in_depth
from fitclip_core.merges import per_tower as per_tower

State = Mapping[str, Tensor]

_PIECE = 2**19  # numbers fused at a time: they stay in the cache, and are worth the calls
_ONE = torch.ones(())


def interpolate(
    teacher_state: State, student_state: State, alpha: float | Schedule
) -> dict[str, Tensor]:
    """Fuse two models' weights: ``(1 - alpha) * teacher + alpha * student``.

    Only floating-point tensors are fused. ``logit_scale`` and integer tensors are the teacher's;
    the student's ``logit_scale`` may be missing or NaN. alpha 0 gives the teacher and alpha 1 the
    student (with the teacher's ``logit_scale``), bit for bit.

    Args:
        teacher_state: name -> tensor, such as ``model.state_dict()``.
        student_state: the same names and shapes.
        alpha: share of the student, in [0, 1], or a schedule of shares. A mapping must have every
            fused name; for what is not fused it plays no part.

    Returns:
        New tensors, in the teacher's order, on the teacher's devices. Half precision is fused in
        float32 and rounded once; where the precisions differ the higher one is kept.

    Raises:
        ValueError: alpha is outside [0, 1], or, naming the tensor: names, shapes or kinds differ,
            a schedule's alpha is outside [0, 1], missing or of another shape, or a fused value is
            not finite.

    Source:
        Wortsman et al. 2022 (WiSE-FT), eq. 1; FitCLIP's supplement, section 6 and figure 3.

    Example:
        >>> fused = interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, alpha=0.25)
        >>> fused["w"].tolist()
        [0.25, 0.25]
    """
    _check_alpha(alpha, teacher_state)
    _check_match(teacher_state, student_state)
    fused = {}
    with torch.no_grad():
        for name, teacher in teacher_state.items():
            student = student_state.get(name) if _is_fused(name, teacher) else None
            kept = teacher.dtype
            if student is not None:
                kept = torch.promote_types(kept, student.dtype)
            fused[name] = torch.empty_like(teacher, dtype=kept, requires_grad=False)
            _fuse(fused[name], name, teacher, student, alpha)
    return fused


class AlphaSweep:
    """One live model whose weights are set to any fusion of two end states, in place.

    Every alpha is computed from the two end states, so there is no drift, and the values are those
    of :func:`interpolate`. The model is never copied. As a context manager it puts the model's own
    weights back on exit; without one, the last alpha stays. Beyond the live model and the two end
    states it needs memory only for small pieces, and for such own weights as are neither end's.

    Args:
        model: its state must have the teacher's names and shapes.
        teacher_state: weights at alpha 0. Tensors that are the model's own memory are copied, of
            others the caller keeps the values as they are while the sweep is used.
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
        self._tame_names: set[str] = set()
        self._original: dict[str, Tensor] | None = None

    def set_alpha(self, alpha: float | Schedule) -> None:
        """Write the fused weights into the model's own parameters and buffers.

        Args:
            alpha: share of the student, in [0, 1], or a schedule, as in :func:`interpolate`.

        Raises:
            ValueError: as :func:`interpolate`. Of a wrong schedule the tensors before the one named
                are written already, of values that are not finite the one named too.
        """
        _check_alpha(alpha, self._teacher)
        with torch.no_grad():
            for name, live in self._model.state_dict().items():
                teacher = self._teacher[name]
                student = self._student.get(name) if _is_fused(name, teacher) else None
                _fuse(live, name, teacher, student, alpha, self._tame_names)

    def __enter__(self) -> Self:
        if self._original is not None:
            raise RuntimeError("this AlphaSweep is already entered: leave it first")
        self._original = {
            name: self._kept(name, live) for name, live in self._model.state_dict().items()
        }
        return self

    def _kept(self, name: str, live: Tensor) -> Tensor:
        """The tensor's values as they are now: an end state's own tensor where it has the bits."""
        for end in (self._teacher, self._student):
            if name in end and _same_bits(live, end[name]):
                return end[name]
        return live.clone()

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


def schedule_digest(schedule: Schedule, state: State) -> str:
    """SHA-256 of the shares that a schedule gives the fused tensors of a state, in hexadecimal.

    Raises: ValueError as :func:`interpolate`, for a wrong schedule.
    """
    _check_alpha(schedule, state)
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if _is_fused(name, tensor):
            share = torch.as_tensor(_share(schedule, name, tensor.shape), dtype=torch.float64)
            digest.update(f"{name}\0{tuple(share.shape)}\0".encode())
            digest.update(share.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_fused(name: str, teacher: Tensor) -> bool:
    return teacher.is_floating_point() and not is_logit_scale(name)


def _fuse(
    out: Tensor,
    name: str,
    teacher: Tensor,
    student: Tensor | None,
    alpha: float | Schedule,
    tame_names: set[str] | None = None,
) -> None:
    """Write one tensor's fused values, a piece at a time: each is worked on while it is in cache.

    Without a student, the teacher's values. Gradients must be off.

    Two products and a sum are three separate roundings, which no vector unit merges, so the same
    weights give the same bits in any memory layout and with any number of threads.

    Names are added to `tame_names` whose two ends are seen to have finite norms: any share then
    gives finite values, and they are not looked at again.
    """
    share: Share = 0.0
    if student is None:
        student = teacher
    else:
        share = _share(alpha, name, teacher.shape)
    kept = torch.promote_types(teacher.dtype, student.dtype)
    working = torch.promote_types(kept, torch.float32)
    tensors = (out, teacher, student)
    plain = all(tensor.dtype == working and tensor.is_cpu for tensor in tensors)
    known = tame_names is not None and name in tame_names
    both_are_read = plain and not isinstance(share, Tensor) and 0 < share < 1
    tame = not known and tame_names is not None and both_are_read
    finite = True
    for piece, old, new, part in _pieces(*tensors, share):
        if not isinstance(part, Tensor) and part in (0, 1):
            piece.copy_(new if part else old)
        elif plain and not isinstance(part, Tensor):
            # One operation less than below. It adds (1 - part) * old * 1, so only the product by 1
            # can be made in one step with the sum, and that one needs no rounding.
            torch.mul(new, part, out=piece)
            piece.addcmul_(old, _ONE, value=1 - part)
        else:
            old, new = old.to(working), new.to(old.device, working)
            if isinstance(part, Tensor):
                part = part.to(old.device, working)
            fused = old * (1 - part)
            fused += new * part
            piece.copy_(fused.to(kept))
        if not known:
            tame = tame and _has_finite_norm(old) and _has_finite_norm(new)
            # With one value that is not finite the sum is not. A sum of finite ones may overflow.
            finite = finite and (tame or cmath.isfinite(piece.sum().item()))
    if tame and tame_names is not None:
        tame_names.add(name)
    if not finite and not torch.isfinite(out).all():
        shown = "an alpha for each weight" if isinstance(share, Tensor) else f"alpha {share}"
        raise ValueError(
            f"{name} is not finite at {shown}: look for NaN or infinite values in the "
            "teacher's and the student's weights"
        )


def _has_finite_norm(values: Tensor) -> bool:
    return math.isfinite(torch.linalg.vector_norm(values).item())


def _pieces(
    out: Tensor, teacher: Tensor, student: Tensor, share: Share
) -> Iterator[tuple[Tensor, Tensor, Tensor, Share]]:
    """Views of a few rows each, which lie in the same places of all."""
    if out.numel() <= _PIECE:
        yield out, teacher, student, share
        return
    rows = max(1, _PIECE * len(out) // out.numel())
    pieces = [tensor.split(rows) for tensor in (out, teacher, student)]
    shares: Sequence[Share] = [share] * len(pieces[0])
    if isinstance(share, Tensor):
        shares = share.split(rows)
    yield from zip(*pieces, shares, strict=True)


def _share(alpha: float | Schedule, name: str, shape: torch.Size) -> Share:
    """The student's share of a tensor, checked."""
    if isinstance(alpha, Mapping):
        share = alpha[name]
    elif callable(alpha):
        share = alpha(name)
    else:
        return alpha
    if isinstance(share, Tensor):
        if share.shape != shape:
            raise ValueError(
                f"the schedule's alpha of {name} has shape {tuple(share.shape)}, not "
                f"{tuple(shape)}: give a number, or one for each weight"
            )
        within = share.numel() == 0 or bool(share.min() >= 0 and share.max() <= 1)  # not with NaN
    else:
        within = 0 <= share <= 1
    if not within:
        shown = "outside" if isinstance(share, Tensor) else share
        raise ValueError(
            f"the schedule's alpha of {name} is {shown}: the share of the student must lie in "
            "[0, 1]"
        )
    return share


def _check_alpha(alpha: float | Schedule, state: State) -> None:
    if isinstance(alpha, Mapping):
        fused = [name for name, tensor in state.items() if _is_fused(name, tensor)]
        if lacking := [name for name in fused if name not in alpha]:
            raise ValueError(f"the schedule has no alpha for {lacking[0]} ({len(lacking)} such)")
        if stray := [name for name in alpha if name not in state]:
            raise ValueError(
                f"the schedule has {stray[0]} and the model does not ({len(stray)} such names)"
            )
    elif not callable(alpha) and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: the share of the student must lie in [0, 1]")


def _check_match(teacher_state: State, student_state: State) -> None:
    fused = {name: tensor for name, tensor in student_state.items() if not is_logit_scale(name)}
    kept = {name: teacher_state[name] for name in teacher_state if is_logit_scale(name)}
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


def _same_bits(one: Tensor, other: Tensor) -> bool:
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(one.itemsize)
    if whole is None or one.dtype != other.dtype or one.device != other.device:
        return False
    bits = [torch.atleast_1d(tensor.detach()).contiguous().view(whole) for tensor in (one, other)]
    return torch.equal(bits[0], bits[1])


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _without_aliases(state: State, own_memory: set[int]) -> dict[str, Tensor]:
    """The state, with copies of those tensors that the sweep would overwrite."""
    return {
        name: tensor.clone() if _address(tensor) in own_memory else tensor
        for name, tensor in state.items()
    }
