"""Fit a student on labelled clips and on a teacher's scores of unlabelled ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from fitclip_core import distributed
from fitclip_core.augmentation import Part, crop_and_flip, draw_frames
from fitclip_core.encoders import ClipEncoder
from fitclip_core.losses import contrastive_loss, distillation_loss, fitclip_loss
from fitclip_core.video_text import FrameSource, locate_clips
from fitclip_core.videos import video_numbers


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student is trained; the defaults are the paper's.

    Attributes:
        steps: optimiser steps.
        validate_every: steps between two validations; the last step is always validated.
        seed: of the order of clips, the frames drawn, the crops and the flips.
        learning_rate: of AdamW, constant.
        weight_decay: of AdamW, on every weight.
        temperature: the student's scores are cosine similarities divided by it, in both losses.
        teacher_temperature: as `temperature`, for the teacher's scores; None: 1 / the teacher's
            own logit_scale, with which even equal weights have a loss.
        labelled_share: weight of the contrastive loss; the distillation loss has the rest.
        labelled_batch: labelled clips in a step.
        unlabelled_batch: unlabelled clips in a step.
        crop_scale: smallest and largest share of the picture that a random crop keeps.

    Raises:
        ValueError: a value is outside its range.

    Source: ARCHITECTURE "Numeric conventions"; the paper's training recipe.
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
        for name in ("steps", "validate_every", "labelled_batch", "unlabelled_batch"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("learning_rate", "temperature", "teacher_temperature"):
            value = getattr(self, name)
            positive = value is None or (math.isfinite(value) and value > 0)
            _require(positive, f"{name} is {value}; give a number above 0")
        decays = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        _require(decays, f"weight_decay is {self.weight_decay}; give at least 0")
        shares = 0 <= self.labelled_share <= 1
        _require(shares, f"labelled_share is {self.labelled_share}; give a share in [0, 1]")
        low, high = self.crop_scale
        ordered = 0 < low <= high <= 1
        _require(ordered, f"crop_scale is {self.crop_scale}; give 0 < low <= high <= 1")
        _require(self.seed >= 0, f"seed is {self.seed}; give at least 0")


class TrainingClips:
    """Clips with their texts, as training and validation read them.

    A clip with several captions is one item, so that no batch holds it twice, where one caption's
    clip would be another's wrong answer: training draws one of its captions whenever it draws the
    clip, as Frozen in Time does; all else reads the first (`texts`).

    Args:
        frames: decoded clips: several draws for each interval to train on, evaluation frames to
            validate on.
        texts: for each of the clips one, or a tuple of several.
        indices: positions of the clips in `frames`, int64 `[n]`; None: all, in its order.
        missing: ids of clips asked for that `frames` lacks, kept for the record.

    Raises:
        ValueError: there is no clip, or not one text for each.

    Source: Bain et al. 2021, Frozen in Time's code (`caption_sample: rand`).
    """

    def __init__(
        self,
        frames: FrameSource,
        texts: Sequence[str | tuple[str, ...]],
        indices: np.ndarray | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        self.frames = frames
        self.captions = [one if isinstance(one, tuple) else (one,) for one in texts]
        self.texts = [several[0] for several in self.captions]
        self.indices = np.arange(len(frames.clip_ids)) if indices is None else np.asarray(indices)
        self.missing = list(missing)
        _require(len(self) > 0, "there is no clip; give at least one")
        _require(len(self.texts) == len(self), f"{len(self.texts)} texts for {len(self)} clips")

    @classmethod
    def from_table(cls, clips: pd.DataFrame, frames: FrameSource) -> Self:
        """Clips of a table (`clip_id`, `text`) that the frame source holds, in the table's order.

        Rows of one video (`video_text.locate_clips`) are one clip with several captions.

        Raises:
            ValueError: a column is missing, a clip_id is repeated or no clip has frames.
        """
        for column in ("clip_id", "text"):
            _require(column in clips, f"the clips table lacks the column {column!r}")
        ids, videos = clips["clip_id"].tolist(), video_numbers(clips)
        indices, missing = locate_clips(frames, ids, videos)
        texts: dict[int, tuple[str, ...]] = {}
        for index, text in zip(indices.tolist(), clips["text"], strict=True):
            texts[index] = (*texts.get(index, ()), text)
        texts.pop(-1, None)
        return cls(frames, list(texts.values()), np.array(list(texts), dtype=np.int64), missing)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def clip_ids(self) -> list[str]:
        """The clips' ids, in their order."""
        return [self.frames.clip_ids[int(index)] for index in self.indices]


@dataclass(frozen=True)
class StudentFit:
    """A fitted student.

    Attributes:
        state: the weights with the lowest validation loss.
        history: one row a step, and step 0 before the first: `step`, `labelled_loss`,
            `distillation_loss` (over the squared teacher temperature, before its share) and
            `validation_loss`; NaN where not computed.
        best_step: the step of `state`.
        computed: how, as far as it moves the last bits: the kind of `device`, the number of
            `processes` and the `micro_batch`.
        material: what it was trained on: `labelled_clips`, `unlabelled_clips` (0 where its loss has
            no share), how many of them are both (`shared_clips`, by their ids), `validation_clips`,
            `frames` of a clip and `stored_draws` that each is drawn from.
    """

    state: dict[str, torch.Tensor]
    history: pd.DataFrame
    best_step: int
    computed: Mapping[str, Any] = field(default_factory=dict)
    material: Mapping[str, int] = field(default_factory=dict)


def fit_student(
    student: ClipEncoder,
    teacher: ClipEncoder | None,
    labelled: TrainingClips | None,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    recipe: Recipe,
    *,
    micro_batch: int | None = None,
) -> StudentFit:
    """Train all weights of both towers, in place, and keep the best by validation loss.

    Every step joins the contrastive loss of a labelled batch and the distillation loss of an
    unlabelled one. The latter compares the student's and the teacher's scores of the batch's clips
    with the batch's texts; which text belongs to which clip plays no part. Both see the same crops.
    A loss of share 0 is not computed, and its clips are not read.

    Batches are drawn without replacement within an epoch. Every batch is full: the clips of an
    epoch that do not fill one are left out of it, others in each epoch. A set smaller than a batch
    is a batch. The labelled batches and their crops do not depend on the unlabelled part, nor on
    PyTorch's global random state, which is left as it was: the same student, clips and recipe on
    the same machine give the same weights.

    The validation loss is the contrastive loss of the whole validation set at once. Step 0, the
    student as given, is recorded but never chosen.

    Inside torchrun (`distributed.process_group`) every process calls this with the same arguments,
    but for the device. Each reads its share of every batch and of the validation clips and computes
    their features; all compare all features and add up their gradients, which are those of one
    process up to rounding. All keep the same weights, bit for bit. Drop-out, which no model of the
    paper has, would draw other masks on other numbers of processes or with another `micro_batch`.

    Args:
        student: starts from the weights that it has; on return it holds the best ones.
        teacher: scores the unlabelled clips and is not changed; not needed at labelled_share 1.
        labelled: clips in training form with their captions; not needed at labelled_share 0.
        unlabelled: clips in training form with texts; not needed at labelled_share 1.
        validation: labelled clips in evaluation form.
        recipe: the numbers.
        micro_batch: clips (a process) whose activations are held at a time: features are computed
            without them, and computed again, micro batch by micro batch, when the loss's gradients
            with respect to the features are known. Up to a third slower; the loss is still over the
            whole batch, and its gradients are the same up to rounding. None: all at once.

    Returns:
        The best weights, the losses and the chosen step.

    Raises:
        ValueError: something needed is missing, teacher and student are one model or take pictures
            of different sizes, the frames have the wrong form, or a loss is not finite; a batch is
            computed in parts and the student has batch normalisation, which would see the parts; or
            processes differ in their arguments or outnumber a batch's clips.

    Source: ARCHITECTURE "Numeric conventions"; supplement, 8 (share of the two losses); Gao et al.
        2021, 3.2 (features first, their gradients, then the encoder again: GradCache).
    """
    if micro_batch is not None:
        _require(micro_batch >= 1, f"micro_batch is {micro_batch}; give at least 1, or None")
    if micro_batch is not None or distributed.size() > 1:
        normalised = any(isinstance(module, _BatchNorm) for module in student.model.modules())
        _require(
            not normalised,
            f"{student.name} has batch normalisation: its features depend on the other clips of a "
            "batch, which must be computed at once; train it in one process, with micro_batch None",
        )
    _check_processes_agree(student, teacher, (labelled, unlabelled, validation), recipe)
    # Separate streams, so that a run without one part differs in nothing else.
    streams = np.random.SeedSequence(recipe.seed).generate_state(3)
    labelled_seed, unlabelled_seed, model_seed = (int(stream) for stream in streams)
    labelled_batches = unlabelled_batches = None
    teacher_scale = math.nan
    if recipe.labelled_share > 0:
        if labelled is None:
            raise ValueError(f"labelled_share {recipe.labelled_share} needs labelled clips")
        labelled_batches = _batches(labelled, recipe.labelled_batch, student, recipe, labelled_seed)
    if recipe.labelled_share < 1:
        if unlabelled is None or teacher is None:
            raise ValueError(
                f"labelled_share {recipe.labelled_share} needs unlabelled clips and a teacher; "
                f"only at 1 may they be left out"
            )
        teacher_scale = _teacher_scale(student, teacher, recipe)
        unlabelled_batches = _batches(
            unlabelled, recipe.unlabelled_batch, student, recipe, unlabelled_seed
        )

    scale = 1 / recipe.temperature
    # logit_scale (and logit_bias) get no gradient: the recipe's temperature takes their place.
    optimiser = torch.optim.AdamW(
        student.model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    optimiser.zero_grad()
    history = [_row(0, validation_loss=_validation_loss(student, validation, scale))]
    best_loss, best_step = math.inf, 0
    best_state: dict[str, torch.Tensor] = {}
    devices = [student.device] if student.device.type == "cuda" else []
    with torch.random.fork_rng(devices), attention_kernel(student.device):
        torch.manual_seed(model_seed + distributed.rank())
        steps = range(1, recipe.steps + 1)
        for step in (
            progress := tqdm(steps, "student", unit="step", disable=distributed.rank() > 0)
        ):
            labelled_scores = student_scores = teacher_scores = None
            student.model.train()
            if labelled_batches is not None:
                batch = next(labelled_batches)
                labelled_scores = _scores(student, batch, scale, micro_batch)
            if unlabelled_batches is not None and teacher is not None:
                batch = next(unlabelled_batches)
                student_scores = _scores(student, batch, scale, micro_batch)
                with torch.no_grad(), teacher.in_eval_mode():
                    teacher_scores = _scores(teacher, batch, teacher_scale, micro_batch)
            try:
                loss = fitclip_loss(
                    labelled_scores,
                    student_scores,
                    teacher_scores,
                    teacher_scale,
                    recipe.labelled_share,
                )
            except ValueError as error:
                raise ValueError(f"step {step}: {error}") from error
            loss.backward()
            distributed.sum_gradients(student.model.parameters())
            optimiser.step()
            optimiser.zero_grad()
            student.model.eval()

            row = _row(step)
            if labelled_scores is not None:
                row["labelled_loss"] = contrastive_loss(labelled_scores.detach()).item()
            if student_scores is not None and teacher_scores is not None:
                row["distillation_loss"] = distillation_loss(
                    student_scores.detach(), teacher_scores, teacher_scale
                ).item()
            if step % recipe.validate_every == 0 or step == recipe.steps:
                row["validation_loss"] = _validation_loss(student, validation, scale)
                if row["validation_loss"] < best_loss:
                    best_loss, best_step = row["validation_loss"], step
                    best_state = student.state()
                progress.set_postfix(validation_loss=row["validation_loss"], best=best_step)
            history.append(row)
    student.load_state(best_state)
    if distributed.size() > 1:
        distributed.check_same(**{"trained weights": _weights_digest(student)})
    computed = {
        "device": student.device.type,
        "processes": distributed.size(),
        "micro_batch": micro_batch,
    }
    material = {
        **_counted(labelled, unlabelled, recipe),
        "validation_clips": len(validation),
        "frames": batch.intervals,
        "stored_draws": batch.draws,
    }
    table = pd.DataFrame(history).astype({"step": "int64"})
    return StudentFit(best_state, table, best_step, computed, material)


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the flash kernel's backward pass takes longer than the plain one's."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class _Batch(NamedTuple):
    """This process's share of a batch of `n` clips, of `intervals` frames, each one of `draws`."""

    n: int
    intervals: int
    draws: int
    frames: torch.Tensor  # uint8 [share, frames, size, size, 3]
    counts: np.ndarray
    texts: list[str]


def _batches(
    clips: TrainingClips, size: int, student: ClipEncoder, recipe: Recipe, seed: int
) -> Iterator[_Batch]:
    """Random batches without end; each epoch's incomplete last batch is left out.

    The processes draw the same clips and views; each reads and crops its share of them alone.
    """
    generator = torch.Generator().manual_seed(seed)
    size, several = min(size, len(clips)), max(map(len, clips.captions)) > 1
    part = Part(distributed.share(size), size)
    while True:
        order = torch.randperm(len(clips), generator=generator).numpy()
        for start in range(0, len(clips) - size + 1, size):
            mine = order[start : start + size][part.rows]
            places = clips.indices[mine]
            stored = clips.frames.frames(places)
            drawn = draw_frames(stored, generator, part)
            crops = crop_and_flip(drawn, student.image_size, recipe.crop_scale, generator, part)
            captions = [clips.captions[row] for row in mine]
            chosen = torch.rand(size, generator=generator) if several else torch.zeros(size)
            shares = chosen[part.rows].tolist()
            texts = [
                one[int(share * len(one))] for one, share in zip(captions, shares, strict=True)
            ]
            yield _Batch(
                size,
                stored.shape[1],
                stored.shape[2],
                crops.to(student.device),
                clips.frames.frame_counts[places],
                texts,
            )


def _scores(
    encoder: ClipEncoder, batch: _Batch, scale: float, micro_batch: int | None
) -> torch.Tensor:
    """Scaled similarities `[n, n]` of a batch: rows are videos, columns are texts."""
    videos, texts = _features(encoder, batch, micro_batch)
    return scale * distributed.gather(videos, batch.n) @ distributed.gather(texts, batch.n).T


def _features(
    encoder: ClipEncoder, batch: _Batch, micro_batch: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a share's videos and texts, `[share, d]` each."""

    def encode(
        frames: torch.Tensor, counts: np.ndarray, texts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        videos = encoder.video_features(*encoder.images(frames, counts))
        return videos, encoder.text_features(encoder.tokenize(texts))

    frames, counts, texts = batch.frames, batch.counts, batch.texts
    if micro_batch is None:
        return encode(frames, counts, texts)
    parts = [slice(at, at + micro_batch) for at in range(0, len(texts), micro_batch)]
    # Computed again in the backward pass, from the same random state.
    pieces = [
        checkpoint(encode, frames[part], counts[part], texts[part], use_reentrant=False)
        for part in parts
    ]
    videos, of_texts = zip(*pieces, strict=True)
    return torch.cat(videos), torch.cat(of_texts)


def _validation_loss(student: ClipEncoder, clips: TrainingClips, scale: float) -> float:
    mine = distributed.share(len(clips))
    with student.in_float32():
        own = (
            student.encode_source(clips.frames, clips.indices[mine]),
            student.encode_texts(clips.texts[mine]),
        )
    # By way of the device, on which processes exchange tensors.
    videos, texts = (distributed.gather(rows.to(student.device), len(clips)).cpu() for rows in own)
    # One machine's rounding decides for all which step is the best.
    return distributed.of_first(contrastive_loss(scale * videos @ texts.T).item())


def _check_processes_agree(
    student: ClipEncoder,
    teacher: ClipEncoder | None,
    clips: Sequence[TrainingClips | None],
    recipe: Recipe,
) -> None:
    if distributed.size() == 1:
        return
    distributed.check_same(
        recipe=asdict(recipe),
        student=_weights_digest(student),
        teacher=teacher is not None and _weights_digest(teacher),
        clips=[one is not None and [one.clip_ids, one.captions] for one in clips],
    )


def _counted(
    labelled: TrainingClips | None, unlabelled: TrainingClips | None, recipe: Recipe
) -> dict[str, int]:
    """How many clips the losses that have a share read."""
    first = set(labelled.clip_ids) if labelled and recipe.labelled_share > 0 else set()
    second = set(unlabelled.clip_ids) if unlabelled and recipe.labelled_share < 1 else set()
    return {
        "labelled_clips": len(first),
        "unlabelled_clips": len(second),
        "shared_clips": len(first & second),
    }


def _weights_digest(encoder: ClipEncoder) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _teacher_scale(student: ClipEncoder, teacher: ClipEncoder, recipe: Recipe) -> float:
    if teacher is student or teacher.model is student.model:
        raise ValueError("teacher and student are the same model; load the teacher a second time")
    if teacher.image_size != student.image_size:
        raise ValueError(
            f"the teacher takes pictures of {teacher.image_size} px and the student of "
            f"{student.image_size} px; both see the same crops, so the sizes must be equal"
        )
    scale = 1 / recipe.teacher_temperature if recipe.teacher_temperature else teacher.logit_scale
    if not math.isfinite(scale):
        raise ValueError(
            f"the teacher's logit_scale is {scale}; give the recipe a teacher_temperature"
        )
    return scale


def _row(step: int, **losses: float) -> dict[str, float]:
    unknown = dict.fromkeys(("labelled_loss", "distillation_loss", "validation_loss"), math.nan)
    return {"step": step, **unknown, **losses}


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
