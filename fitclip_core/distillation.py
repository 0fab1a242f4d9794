"""Fit a student on labelled clips and on a teacher's scores of unlabelled ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from fitclip_core.clips import Batch, TrainingClips, training_batches
from fitclip_core.encoders import ClipEncoder
from fitclip_core.fast import ALONE, OneProcess, attention_kernel
from fitclip_core.losses import FitclipLosses, contrastive_loss, fitclip_losses


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student is trained; the defaults are the paper's. ValueError for a wrong value.

    Attributes:
        steps: optimiser steps.
        validate_every: steps between two validations; the last step is always validated.
        seed: of the order of clips, the frames drawn, the crops and the flips.
        learning_rate, weight_decay: of AdamW, constant, on every weight.
        temperature: the student's scores are dot products divided by it, in both losses.
        teacher_temperature: as `temperature`, for the teacher's scores; None: 1 / the teacher's
            own logit_scale, with which even equal weights have a loss.
        labelled_share: weight of the contrastive loss; the distillation loss has the rest.
        labelled_batch, unlabelled_batch: clips in a step.
        crop_scale: smallest and largest share of the picture that a random crop keeps.

    Source: the paper's training recipe; `fitclip_core`, numeric conventions.
    """

    steps: int
    validate_every: int
    seed: int
    learning_rate: float = 3e-6
    weight_decay: float = 0.01
    temperature: float = 0.015
    teacher_temperature: float | None = 0.015
    labelled_share: float = 0.9999
    labelled_batch: int = 64
    unlabelled_batch: int = 64
    crop_scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        def require(rule: str, holds: Callable[[Any], bool], *names: str) -> None:
            for name in names:
                if not holds(value := getattr(self, name)):
                    raise ValueError(f"{name} is {value}; give {rule}")

        counts = ("steps", "validate_every", "labelled_batch", "unlabelled_batch")
        require("at least 1", lambda n: n >= 1, *counts)
        require("a number above 0", lambda x: 0 < x < math.inf, "learning_rate", "temperature")
        require("None or above 0", lambda x: x is None or 0 < x < math.inf, "teacher_temperature")
        require("a number from 0", lambda x: 0 <= x < math.inf, "weight_decay", "seed")
        require("a share in [0, 1]", lambda share: 0 <= share <= 1, "labelled_share")
        require("0 < low <= high <= 1", lambda pair: 0 < pair[0] <= pair[1] <= 1, "crop_scale")


@dataclass(frozen=True)
class StudentFit:
    """A fitted student.

    Attributes:
        state: the weights with the lowest validation loss.
        history: one row a step, and step 0 before the first: `step`, `labelled_loss`,
            `distillation_loss` (with its factor, before its share) and `validation_loss`; NaN
            where not computed.
        best_step: the step of `state`.
        computed: how, as far as it moves the last bits: the kind of `device`, the number of
            `processes` and the `micro_batch`.
        material: counts of what it was trained on: `labelled_clips`, `unlabelled_clips`,
            `shared_clips` (both), `validation_clips`, `frames` of a clip and the `stored_draws`
            that each is drawn from.
    """

    state: dict[str, Tensor]
    history: pd.DataFrame
    best_step: int
    computed: Mapping[str, Any] = field(default_factory=dict)
    material: Mapping[str, int] = field(default_factory=dict)


def distillation_step(
    student: ClipEncoder,
    teacher: ClipEncoder | None,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    labelled: Batch | None,
    unlabelled: Batch | None,
    *,
    micro_batch: int | None = None,
    processes: OneProcess = ALONE,
) -> FitclipLosses:
    """One step of FitCLIP's training: both losses, their gradients, the optimiser's move.

    The contrastive loss compares labelled clips with their own captions. The distillation loss
    compares the student's scores of the unlabelled batch's clips and texts with the teacher's;
    which text belongs to which clip plays no part. Both models see the same crops.

    Args:
        student: its weights move; in eval mode afterwards.
        teacher: not changed; not needed without an unlabelled batch.
        optimiser: of the student's weights.
        recipe: the temperatures and the share are read.
        labelled, unlabelled: from `training_batches`; None where the loss has no share.
        micro_batch, processes: as `fit_student`.

    Returns:
        The total loss and its parts, before the move, in nats, with the graph used up.

    Raises:
        ValueError: a batch that has a share is missing, or a score is not finite.

    Source: the paper's section on training; supplement, section 8.
    """
    labelled_scores = student_scores = teacher_scores = teacher_scale = None
    score = partial(_scores, micro_batch=micro_batch, processes=processes)
    student.model.train()
    if labelled is not None:
        labelled_scores = score(student, labelled, 1 / recipe.temperature)
    if unlabelled is not None:
        if teacher is None:
            raise ValueError("an unlabelled batch needs a teacher to score it")
        student_scores = score(student, unlabelled, 1 / recipe.temperature)
        teacher_scale = _teacher_scale(teacher, recipe)
        with torch.no_grad(), teacher.in_eval_mode():
            teacher_scores = score(teacher, unlabelled, teacher_scale)
    losses = fitclip_losses(
        labelled_scores, student_scores, teacher_scores, teacher_scale, recipe.labelled_share
    )
    optimiser.zero_grad()
    losses.total.backward()
    processes.sum_gradients(student.model.parameters())
    optimiser.step()
    student.model.eval()
    return losses


def fit_student(
    student: ClipEncoder,
    teacher: ClipEncoder | None,
    labelled: TrainingClips | None,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    recipe: Recipe,
    *,
    micro_batch: int | None = None,
    processes: OneProcess = ALONE,
) -> StudentFit:
    """Repeat `distillation_step`, and keep the weights of the lowest validation loss.

    All weights of both towers are trained, in place. The validation loss is the contrastive loss
    of the whole validation set at once; step 0, the student as given, is recorded, never chosen. A
    loss of share 0 is not computed, and its clips are not read. The labelled batches do not depend
    on the unlabelled part, nor on PyTorch's global random state, which is left as it was: the same
    student, clips and recipe on the same machine give the same weights.

    Args:
        student: starts from the weights that it has, in FitCLIP the teacher's; on return it holds
            the best ones.
        teacher: scores the unlabelled clips; not changed; not needed at labelled_share 1.
        labelled: clips in training form; not needed at labelled_share 0.
        unlabelled: clips in training form with any texts; not needed at labelled_share 1.
        validation: labelled clips in evaluation form.
        recipe: the numbers.
        micro_batch: clips (a process) whose activations are held at a time; they are computed
            again when the gradients of the features are known: up to a third slower, the same up
            to rounding. None: all at once.
        processes: those that train together; each calls this with the same arguments but for the
            device, and keeps the same weights, bit for bit.

    Raises:
        ValueError: something needed is missing, teacher and student are one model or take pictures
            of different sizes, the frames have the wrong form, or a loss is not finite; a batch is
            computed in parts and the student has batch normalisation, which would see the parts; or
            processes differ in their arguments or outnumber a batch's clips.

    Source: the paper's section on training; supplement, 8 (share of the two losses); Gao et al.
        2021, 3.2 (GradCache, for micro batches).
    """
    share = recipe.labelled_share
    labelled, unlabelled = labelled if share > 0 else None, unlabelled if share < 1 else None
    _check(student, teacher, labelled, unlabelled, recipe, micro_batch, processes)
    if processes.size > 1:
        clips = (labelled, unlabelled, validation)
        processes.check_same(
            recipe=asdict(recipe),
            student=_weights_digest(student),
            teacher=teacher is not None and _weights_digest(teacher),
            clips=[read and [read.clip_ids, read.captions] for read in clips],
        )
    # Separate streams, so that a run without one part differs in nothing else.
    labelled_seed, unlabelled_seed, dropout_seed = (
        int(seed) for seed in np.random.SeedSequence(recipe.seed).generate_state(3)
    )

    def batches(clips: TrainingClips | None, size: int, seed: int) -> Iterator[Batch | None]:
        if clips is None:
            return repeat(None)
        rows = processes.rows(min(size, len(clips)))
        return training_batches(clips, size, student.image_size, recipe.crop_scale, seed, rows)

    labelled_batches = batches(labelled, recipe.labelled_batch, labelled_seed)
    unlabelled_batches = batches(unlabelled, recipe.unlabelled_batch, unlabelled_seed)
    # logit_scale (and logit_bias) get no gradient: the recipe's temperature takes their place.
    optimiser = torch.optim.AdamW(
        student.model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    history = [_row(0, None, _validation_loss(student, validation, recipe, processes))]
    best_loss, best_step = math.inf, 0
    best_state: dict[str, Tensor] = {}
    devices = [student.device] if student.device.type == "cuda" else []
    with torch.random.fork_rng(devices), attention_kernel(student.device):
        torch.manual_seed(dropout_seed + processes.rank)
        train = partial(distillation_step, micro_batch=micro_batch, processes=processes)
        steps = range(1, recipe.steps + 1)
        progress = tqdm(steps, "student", unit="step", disable=processes.rank > 0)
        for step in progress:
            pair = next(labelled_batches), next(unlabelled_batches)
            try:
                losses = train(student, teacher, optimiser, recipe, *pair)
            except ValueError as error:
                raise ValueError(f"step {step}: {error}") from error
            loss = math.nan
            if step % recipe.validate_every == 0 or step == recipe.steps:
                loss = _validation_loss(student, validation, recipe, processes)
                if loss < best_loss:
                    best_loss, best_step, best_state = loss, step, student.state()
                progress.set_postfix(validation_loss=loss, best=best_step)
            history.append(_row(step, losses, loss))
    optimiser.zero_grad()
    student.load_state(best_state)
    if processes.size > 1:
        processes.check_same(**{"trained weights": _weights_digest(student)})
    computed = {
        "device": student.device.type,
        "processes": processes.size,
        "micro_batch": micro_batch,
    }
    first, second = (set(clips.clip_ids) if clips else set() for clips in (labelled, unlabelled))
    batch = next(batch for batch in reversed(pair) if batch is not None)
    material = {
        "labelled_clips": len(first),
        "unlabelled_clips": len(second),
        "shared_clips": len(first & second),
        "validation_clips": len(validation),
        "frames": batch.frames.shape[1],
        "stored_draws": batch.draws,
    }
    table = pd.DataFrame(history).astype({"step": "int64"})
    return StudentFit(best_state, table, best_step, computed, material)


def _scores(
    encoder: ClipEncoder, batch: Batch, scale: float, micro_batch: int | None, processes: OneProcess
) -> Tensor:
    """Scaled similarities `[n, n]` of a batch: rows are videos, columns are texts."""

    def encode(frames: Tensor, counts: np.ndarray, texts: list[str]) -> tuple[Tensor, Tensor]:
        videos = encoder.video_features(*encoder.images(frames, counts))
        return videos, encoder.text_features(encoder.tokenize(texts))

    if micro_batch is None:
        videos, texts = encode(batch.frames, batch.counts, batch.texts)
    else:
        # Computed again in the backward pass, from the same random state.
        parts = [slice(at, at + micro_batch) for at in range(0, len(batch.texts), micro_batch)]
        given = [(batch.frames[part], batch.counts[part], batch.texts[part]) for part in parts]
        features = [checkpoint(encode, *part, use_reentrant=False) for part in given]
        videos, texts = (torch.cat(side) for side in zip(*features, strict=True))
    return scale * processes.gather(videos, batch.n) @ processes.gather(texts, batch.n).T


def _validation_loss(
    student: ClipEncoder, clips: TrainingClips, recipe: Recipe, processes: OneProcess
) -> float:
    mine = processes.rows(len(clips))
    precision, student.precision = student.precision, "float32"
    try:
        own = (
            student.encode_source(clips.frames, clips.indices[mine]),
            student.encode_texts(clips.texts[mine]),
        )
    finally:
        student.precision = precision
    # By way of the device, on which processes exchange tensors.
    videos, texts = (processes.gather(rows.to(student.device), len(clips)).cpu() for rows in own)
    # One machine's rounding decides for all which step is the best.
    scale = 1 / recipe.temperature
    return processes.of_first(contrastive_loss(scale * videos @ texts.T).item())


def _teacher_scale(teacher: ClipEncoder, recipe: Recipe) -> float:
    scale = 1 / recipe.teacher_temperature if recipe.teacher_temperature else teacher.logit_scale
    if not math.isfinite(scale):
        raise ValueError(
            f"the teacher's logit_scale is {scale}; give the recipe a teacher_temperature"
        )
    return scale


def _check(
    student: ClipEncoder,
    teacher: ClipEncoder | None,
    labelled: TrainingClips | None,
    unlabelled: TrainingClips | None,
    recipe: Recipe,
    micro_batch: int | None,
    processes: OneProcess,
) -> None:
    """Refuse what `fit_student` cannot train."""
    share, in_parts = recipe.labelled_share, micro_batch is not None or processes.size > 1
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch is {micro_batch}; give at least 1, or None")
    if in_parts and any(isinstance(part, _BatchNorm) for part in student.model.modules()):
        raise ValueError(
            f"{student.name} has batch normalisation: its features depend on the other clips of a "
            "batch, which must be computed at once; train it in one process, with micro_batch None"
        )
    if share > 0 and labelled is None:
        raise ValueError(f"labelled_share {share} needs labelled clips")
    if share == 1:
        return
    if unlabelled is None or teacher is None:
        raise ValueError(f"labelled_share {share}, below 1, needs unlabelled clips and a teacher")
    if teacher is student or teacher.model is student.model:
        raise ValueError("teacher and student are the same model; load the teacher a second time")
    if teacher.image_size != student.image_size:
        raise ValueError(
            f"the teacher takes pictures of {teacher.image_size} px and the student of "
            f"{student.image_size} px; both see the same crops, so the sizes must be equal"
        )
    _teacher_scale(teacher, recipe)


def _weights_digest(encoder: ClipEncoder) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _row(step: int, losses: FitclipLosses | None, validation_loss: float) -> dict[str, float]:
    parts = (losses.labelled, losses.distillation) if losses else (None, None)
    labelled, distillation = (math.nan if part is None else part.item() for part in parts)
    return {
        "step": step,
        "labelled_loss": labelled,
        "distillation_loss": distillation,
        "validation_loss": validation_loss,
    }
