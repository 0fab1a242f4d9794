"""Other merges of the same two models than one alpha for all weights.

A schedule says how much of the student each weight takes, and `ensembling.interpolate` takes it in
place of an alpha; `MERGES` names the merges that are more than an average.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fitclip_core.clips import TrainingClips
from fitclip_core.encoders import VideoTextEncoder
from fitclip_core.ensembling import (
    State,
    check_alpha,
    check_match,
    check_same_tensors,
    interpolate,
    is_fused,
    is_logit_scale,
)
from fitclip_core.losses import contrastive_loss

# The first parts of names in open_clip's models: of a text tower that `CLIP` keeps at the top
# level, and of what a transformer tower has before and after its blocks.
_TEXT: Final = "transformer token_embedding positional_embedding ln_final text_projection"
_FIRST: Final = "conv1 class_embedding cls_emb positional_embedding token_embedding ln_pre"
_LAST: Final = "ln_post attn_pool proj ln_final text_projection"


def task_arithmetic(teacher: State, student: State, alpha: float) -> dict[str, Tensor]:
    """``teacher + alpha * (student - teacher)``, with alpha at least 0; above 1 it goes further.

    Source: Ilharco et al. 2023 (task arithmetic), with one task vector.
    """
    return _merge(teacher, student, lambda start, way: start + alpha * way, alpha)


def ties(teacher: State, student: State, alpha: float) -> dict[str, Tensor]:
    """Task arithmetic with the largest fifth of each tensor's changes; of one student no sign
    differs.

    Source: Yadav et al. 2023 (TIES-Merging): trim to the top 20%, elect signs, disjoint mean.
    """

    def trimmed(start: Tensor, way: Tensor) -> Tensor:
        sizes = way.abs()
        largest = torch.topk(sizes.flatten(), max(1, round(0.2 * sizes.numel()))).values
        return start + alpha * torch.where(sizes >= largest[-1], way, 0)

    return _merge(teacher, student, trimmed, alpha)


def slerp(teacher: State, student: State, alpha: float) -> dict[str, Tensor]:
    """Each tensor on the arc between the two models' tensors; on the line where they are parallel.

    Source: Shoemake 1985 (spherical linear interpolation), tensor by tensor as mergekit does.
    """

    def on_arc(start: Tensor, way: Tensor) -> Tensor:
        end = start + way
        lengths = start.norm() * end.norm()
        angle = torch.acos(((start * end).sum() / lengths).clamp(-1, 1))
        if not lengths > 0 or angle.sin() < 1e-6:
            return start + alpha * way
        return (
            torch.sin((1 - alpha) * angle) * start + torch.sin(alpha * angle) * end
        ) / angle.sin()

    return _merge(teacher, student, on_arc, alpha)


MERGES: Final[Mapping[str, Callable[[State, State, float], dict[str, Tensor]]]] = {
    "average": interpolate,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "slerp": slerp,
}
"""Merges by name: function(teacher, student, alpha) -> the merged weights."""


def per_tower(alpha_vision: float, alpha_text: float) -> Callable[[str], float]:
    """A schedule with one alpha for the vision tower and one for the text tower.

    The vision tower is what open_clip's models keep under `visual`. The text tower is `text` in
    `CustomTextCLIP` and at the top level in `CLIP`. A `logit_bias` is the teacher's. The schedule
    raises ValueError for a name that is of neither tower.

    Example:
        >>> schedule = per_tower(0.2, 0.6)
        >>> schedule("visual.proj"), schedule("text_projection")
        (0.2, 0.6)
    """
    shares = {"visual": alpha_vision, "text": alpha_text, "logit_bias": 0.0}
    return lambda name: shares[_tower(name)[0]]


def linear_in_depth(
    alpha_first: float, alpha_last: float, names: Iterable[str]
) -> dict[str, float]:
    """A schedule whose alpha grows (or shrinks) linearly with a parameter's depth in its own tower.

    In a tower of n blocks the embeddings, and the norm right after them, have depth 0, the blocks
    1 to n, and the last norm and the output projection n + 1. The authors' code gives the first
    block alpha_first, the last one alpha_last, and all outside the blocks alpha_first.

    Args:
        alpha_first: the student's share at depth 0, in [0, 1].
        alpha_last: the same at depth n + 1.
        names: of all the model's parameters, of open_clip's transformers.

    Returns:
        An alpha for each name but a logit scale, which is never fused; 0 for a `logit_bias`.

    Raises:
        ValueError: a name of another architecture.

    Source: Wang et al. 2025 (LiNeS): layer-wise scaling, linear in depth.

    Example:
        >>> names = ["visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.bias",
        ...          "visual.proj"]
        >>> list(linear_in_depth(0.2, 0.6, names).values())
        [0.2, 0.4, 0.6]
    """
    places = {name: _depth(name) for name in names if not is_logit_scale(name)}
    blocks: dict[str, int] = {}
    for tower, depth in places.values():
        blocks[tower] = max(blocks.get(tower, 0), depth)
    shares = {tower: np.linspace(alpha_first, alpha_last, n + 2) for tower, n in blocks.items()}
    shares["logit_bias"] = np.zeros(1)
    return {name: float(shares[tower][depth]) for name, (tower, depth) in places.items()}


def fisher(teacher_fisher: State, student_fisher: State, alpha: float) -> Callable[[str], Tensor]:
    """A schedule that weighs each weight by how much the two models' losses depend on it.

    A fused weight is ``((1 - a) * F_t * w_t + a * F_s * w_s) / ((1 - a) * F_t + a * F_s)``, and
    where both F are zero the share is alpha. Each F is first raised to at least a millionth of the
    mean over both: a share of it, and not a value as in the authors' code, because the Fisher's
    unit is that of the loss squared.

    Args:
        teacher_fisher: name -> diagonal of the Fisher information, from :func:`fisher_diagonal`.
        student_fisher: the same names and shapes.
        alpha: weight of the student's Fisher, in [0, 1]; 0 gives the teacher, 1 the student.

    Returns:
        A schedule of one share a weight, computed when it is asked for a parameter.

    Raises:
        ValueError: alpha is out of range, or, naming the tensor: the diagonals' names or
            shapes differ, or values are negative or not finite.

    Source: Matena and Raffel 2022: Fisher merging with diagonals, lambda = (1 - a, a).

    Example:
        >>> schedule = fisher({"w": torch.tensor([1.0, 0])}, {"w": torch.tensor([3.0, 0])}, 0.5)
        >>> schedule("w").tolist()
        [0.75, 0.5]
    """
    check_alpha(alpha, {})
    check_same_tensors("the teacher's Fisher", teacher_fisher, "the student's", student_fisher)
    total, number = 0.0, 0
    for name, teacher in teacher_fisher.items():
        for values in (teacher, student_fisher[name]):
            if not bool(((values >= 0) & values.isfinite()).all()):
                raise ValueError(f"the Fisher diagonal of {name} is negative or not finite")
            total += values.sum(dtype=torch.float64).item()
            number += values.numel()
    lowest = 1e-6 * total / max(number, 1)

    def share(name: str) -> Tensor:
        if name not in teacher_fisher:
            raise ValueError(f"{name} has no Fisher diagonal; compute it with fisher_diagonal")
        teacher = (1 - alpha) * teacher_fisher[name].double().clamp(min=lowest)
        student = alpha * student_fisher[name].double().clamp(min=lowest)
        both = teacher + student
        return torch.where(both > 0, student / both, alpha).float()

    return share


def fisher_diagonal(
    encoder: VideoTextEncoder,
    clips: TrainingClips,
    n: int,
    seed: int,
    temperature: float,
    batch_size: int = 8,
) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information of the contrastive loss, at the model's weights.

    A pair's loss exists only among other pairs, so the gradient of a small batch's loss is squared,
    and the squares are averaged over batches. That is about batch_size times smaller than the mean
    over single pairs, the same for both models.

    Args:
        encoder: the model; its weights and its gradients are left as they are.
        clips: labelled clips in evaluation form.
        n: number of clips, drawn without replacement; a multiple of batch_size.
        seed: of the draw and the batches.
        temperature: the scores are dot products of features divided by it.
        batch_size: pairs in a batch, at least 2.

    Returns:
        name -> float32 on the CPU, of the parameter's shape, >= 0, in squared nats per squared unit
        of the weight; for each floating-point tensor of the model's state but the logit scale.
        Zero for buffers and for what the loss does not depend on.

    Raises:
        ValueError: n, batch_size or temperature is out of range, a parameter is frozen, the frames
            have the wrong form, or a score or gradient is not finite.

    Source: Matena and Raffel 2022 for the diagonal. "Empirical": with the data's own pairs and not
        with labels that the model draws (Martens 2020, section 11).
    """
    if not 2 <= batch_size <= n <= len(clips) or n % batch_size:
        raise ValueError(
            f"n is {n} and batch_size {batch_size} with {len(clips)} clips: n must be a multiple "
            "of batch_size, which is at least 2, and no more than there are clips"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; give a number above 0")
    named = encoder.model.named_parameters(remove_duplicate=False)
    parameters = {name: value for name, value in named if not is_logit_scale(name)}
    if frozen := [name for name, value in parameters.items() if not value.requires_grad]:
        raise ValueError(
            f"{len(frozen)} parameters are frozen, the first is {frozen[0]}: set requires_grad"
        )
    squares = {
        name: torch.zeros_like(tensor, dtype=torch.float32)
        for name, tensor in encoder.model.state_dict().items()
        if is_fused(name, tensor)
    }
    order = np.random.default_rng(seed).permutation(len(clips))[:n]
    for rows in order.reshape(-1, batch_size):
        indices = clips.indices[rows]
        frames, counts = clips.frames.frames(indices), clips.frames.frame_counts[indices]
        with encoder.in_eval_mode():
            videos = encoder.video_features(*encoder.images(frames, counts))
            texts = encoder.text_features(encoder.tokenize([clips.texts[row] for row in rows]))
        loss = contrastive_loss(videos @ texts.T / temperature)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.float() ** 2
    means = {name: (total * batch_size / n).cpu() for name, total in squares.items()}
    if broken := [name for name, mean in means.items() if not bool(mean.isfinite().all())]:
        raise ValueError(f"the gradient of {broken[0]} is not finite")
    return means


def _merge(
    teacher: State, student: State, rule: Callable[[Tensor, Tensor], Tensor], alpha: float
) -> dict[str, Tensor]:
    """Each fused tensor as rule(teacher's, student's - teacher's), in float32 or higher."""
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha is {alpha}: it must be a number, at least 0")
    check_match(teacher, student)
    merged = interpolate(teacher, student, 0.0)
    for name, start in merged.items():
        if is_fused(name, start):
            working = torch.promote_types(start.dtype, torch.float32)
            old, new = start.to(working), student[name].detach().to(start.device, working)
            values = rule(old, new - old).to(start.dtype)
            if not bool(values.isfinite().all() and new.isfinite().all()):
                raise ValueError(f"{name} is not finite at alpha {alpha}")
            merged[name] = values
    return merged


def _tower(name: str) -> tuple[str, str]:
    """The tower of a parameter (or `logit_bias`) and its name within the tower."""
    first, _, rest = name.partition(".")
    if first in ("visual", "text", "logit_bias"):
        return first, rest
    if first in _TEXT.split():
        return "text", name
    raise ValueError(
        f"{name} is of neither tower of open_clip's CLIP and CustomTextCLIP; give other models a "
        "schedule of your own, name -> alpha"
    )


def _depth(name: str) -> tuple[str, int]:
    """The tower of a parameter and its depth there; -1: after the last block."""
    tower, within = _tower(name)
    first = within.split(".")[0]
    if tower == "logit_bias" or first in _LAST.split():
        return tower, -1
    if first in _FIRST.split():
        return tower, 0
    if block := re.match(r"transformer\.resblocks\.(\d+)\.", within):
        return tower, int(block[1]) + 1
    raise ValueError(
        f"the depth of {name} is not known: linear_in_depth takes open_clip's transformers; give "
        "other architectures a schedule of your own, name -> alpha"
    )
