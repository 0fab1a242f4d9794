"""What a run will need, before it runs: data, disk, hours of decoding and of the device.

Nothing here is read from a finished run. `survey` counts the data, `run_jobs` what the notebooks
compute, and `calibration` times the model; this module adds up, and `plan_report` puts the sum in
words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from data_prep.clip_frames import FrameRule
from fitclip_core.distillation import Recipe
from fitclip_kit.engine.calibration import Calibration

Role = Literal["evaluation", "training", "validation"]

RESULT_BYTES = 6  # of one outcome's row in a compressed cell; measured: 3 to 6
_FLOAT_BYTES = 4
_TRAINED_STATES = 4  # weights, gradients, AdamW's two moments
_SQUARED_STATES = 3  # weights, gradients, sums of their squares
_TABLE = ["notebook", "what", "clips", "disk_bytes", "decode_hours", "device_hours", "basis"]


@dataclass(frozen=True)
class Decoding:
    """How fast this machine decodes clips into the frame store's frames.

    Attributes:
        clips_per_second: by all workers together.
        workers: processes at once.
        measured_on: what was decoded, in words.
    """

    clips_per_second: float
    workers: int
    measured_on: str


@dataclass(frozen=True)
class Material:
    """One data set as a run reads it.

    Attributes:
        name: how the run calls it.
        role: "evaluation"; "training" (its store holds several draws for each interval); or
            "validation", on which a training step is chosen.
        clips: clips to decode.
        texts: distinct texts that a model reads: captions, or classes times prompts.
        directions: outcomes that each clip gives: 1 in recognition, 2 in retrieval, and more where
            clips have several texts.
        basis: of the counts: "counted", "profile" (the run draws that many) or "nominal".
        file_bytes: of the video files; None where they were not looked at.
        decoding: measured on these very clips; None where they were not tried.
        making_seconds: to draw one clip of the embedded benchmark, all cores at work; 0 for files
            that are there.
        examples: some of the texts.
        note: why it could not be counted, for one.
    """

    name: str
    role: Role
    clips: int
    texts: int
    directions: float = 2
    basis: str = "nominal"
    file_bytes: int | None = None
    decoding: Decoding | None = None
    making_seconds: float = 0.0
    examples: tuple[str, ...] = field(default=(), repr=False)
    note: str = ""


@dataclass(frozen=True)
class Measuring:
    """A notebook measures models on a data set.

    Attributes:
        notebook: its stem.
        data_set: the material's name.
        videos: times that all its videos are encoded.
        texts: times that all its texts are encoded.
        cells: of the results that are stored.
    """

    notebook: str
    data_set: str
    videos: int
    texts: int
    cells: int


@dataclass(frozen=True)
class Fitting:
    """A notebook trains students that differ in nothing that takes time.

    Attributes:
        notebook: its stem.
        what: the students, in words.
        students: how many.
        recipe: how each is trained; its batches are no larger than the sets they are drawn from.
    """

    notebook: str
    what: str
    students: int
    recipe: Recipe


@dataclass(frozen=True)
class Differentiating:
    """A notebook computes gradients of models on labelled clips, as for Fisher information.

    Attributes:
        notebook: its stem.
        models: how many.
        clips: that each goes through once.
        batch: clips at a time.
    """

    notebook: str
    models: int
    clips: int
    batch: int


Job = Measuring | Fitting | Differentiating


@dataclass(frozen=True)
class Plan:
    """What a run will need. `plan_report.report` puts it in words.

    Attributes:
        steps: DataFrame (notebook, what, clips, disk_bytes, decode_hours, device_hours, basis), one
            row for each data set or group of students that a notebook works on.
        materials: the data sets.
        training_bytes: device memory for the largest training step, estimated; 0 if nothing is
            trained.
        state_bytes: of it, what does not depend on the batches: weights, gradients, moments.
        gradient_bytes: device memory for the largest `Differentiating`; 0 if there is none.
        training_clips: labelled and unlabelled clips of the largest training step.
        calibration: the device's speeds.
        decoding: of the materials that were not tried themselves.
    """

    steps: pd.DataFrame
    materials: tuple[Material, ...]
    training_bytes: int
    state_bytes: int
    gradient_bytes: int
    training_clips: int
    calibration: Calibration
    decoding: Mapping[Role, Decoding]

    @property
    def by_notebook(self) -> pd.DataFrame:
        """Sums over each notebook, in order, and a last row `total`."""
        columns = ["disk_bytes", "decode_hours", "device_hours"]
        sums = self.steps.groupby("notebook", sort=False)[columns].sum()
        sums.loc["total"] = sums.sum()
        return sums

    @property
    def fits(self) -> bool | None:
        """Whether a training step and a gradient fit the device's memory, as far as estimated; None
        where the memory is not known."""
        limit = self.calibration.device_bytes
        return None if limit is None else max(self.training_bytes, self.gradient_bytes) <= limit


def plan(
    materials: Sequence[Material],
    rule: FrameRule,
    training_draws: int,
    jobs: Sequence[Job],
    calibration: Calibration,
    decoding: Mapping[Role, Decoding],
) -> Plan:
    """Add up what a run reads, writes and computes.

    Args:
        materials: the data sets.
        rule: frames of evaluation.
        training_draws: frames kept for each interval of a training clip.
        jobs: what is computed, notebook by notebook; each model is taken to be as fast as the
            calibrated one.
        calibration: of the teacher's architecture, with the rule's frames.
        decoding: for materials that were not tried themselves.

    Raises: ValueError when the calibration is of another number or size of frames, a number is
    negative, or a job is about a data set that is not among the materials.

    Source: `FrameRule.shape` for the frame stores; `distillation.fit_student`,
    `zero_shot.evaluate` and `merges.fisher_diagonal` for what is computed.
    """
    if (calibration.n_frames, calibration.image_size) != (rule.n_frames, rule.size):
        raise ValueError(
            f"the calibration is of {calibration.n_frames} frames of {calibration.image_size} px, "
            f"the run of {rule.n_frames} of {rule.size} px; calibrate with the run's frames"
        )
    if training_draws < 0:
        raise ValueError(f"training_draws is {training_draws}; it may not be negative")
    rules = dict.fromkeys(("evaluation", "validation"), rule)
    rules["training"] = replace(rule, draws_per_interval=training_draws)
    rows = [_decode_row(one, rules[one.role], decoding) for one in materials]
    rows += [_job_row(job, materials, calibration) for job in jobs]
    recipes = [job.recipe for job in jobs if isinstance(job, Fitting) and job.students]
    largest = max(recipes, key=lambda one: training_memory(calibration, one), default=None)
    training_bytes, state_bytes = training_memory(calibration, largest) if largest else (0, 0)
    return Plan(
        steps=pd.DataFrame(rows, columns=_TABLE),
        materials=tuple(materials),
        training_bytes=training_bytes,
        state_bytes=state_bytes,
        gradient_bytes=max(
            (
                _SQUARED_STATES * _FLOAT_BYTES * calibration.parameters
                + job.batch * calibration.activation_bytes
                for job in jobs
                if isinstance(job, Differentiating) and job.models
            ),
            default=0,
        ),
        training_clips=sum(batches(largest)) if largest else 0,
        calibration=calibration,
        decoding=decoding,
    )


def training_memory(calibration: Calibration, recipe: Recipe) -> tuple[int, int]:
    """Estimated bytes of device memory for a training step, and the part that does not grow with
    the batches.

    That part is the student's weights, gradients and moments and the teacher's weights. The rest is
    what the backward pass keeps of the labelled and the unlabelled batch, which are in memory
    together: `Calibration.activation_bytes` a clip.
    """
    teacher = recipe.labelled_share < 1
    states = (_TRAINED_STATES + teacher) * _FLOAT_BYTES * calibration.parameters
    return states + calibration.activation_bytes * sum(batches(recipe)), states


def batches(recipe: Recipe) -> tuple[int, int]:
    """Labelled and unlabelled clips of a step; a loss without a share reads none."""
    return (
        recipe.labelled_batch if recipe.labelled_share > 0 else 0,
        recipe.unlabelled_batch if recipe.labelled_share < 1 else 0,
    )


def _decode_row(
    one: Material, rule: FrameRule, decoding: Mapping[Role, Decoding]
) -> tuple[object, ...]:
    speed = one.decoding or decoding[one.role]
    disk = one.clips * math.prod(rule.shape)
    seconds = one.clips * (one.making_seconds + 1 / speed.clips_per_second)
    return ("01_data_prep", one.name, one.clips, disk, seconds / 3600, 0.0, one.basis)


def _job_row(job: Job, materials: Sequence[Material], speed: Calibration) -> tuple[object, ...]:
    if isinstance(job, Fitting):
        return _fitting_row(job, materials, speed)
    if isinstance(job, Differentiating):
        clips = job.models * job.clips
        seconds = clips / speed.training.per_second
        what = f"gradients of {job.models} models"
        return (job.notebook, what, clips, 0, 0.0, seconds / 3600, "profile")
    one = next((one for one in materials if one.name == job.data_set), None)
    if one is None:
        raise ValueError(
            f"{job.notebook} measures on {job.data_set}, which is not among the data sets "
            f"({', '.join(one.name for one in materials)}); leave it out there or add it here"
        )
    seconds = _encoding_seconds(job.videos * one.clips, job.texts * one.texts, speed)
    disk = round(job.cells * one.clips * one.directions * RESULT_BYTES)
    return (job.notebook, one.name, one.clips, disk, 0.0, seconds / 3600, one.basis)


def _fitting_row(
    job: Fitting, materials: Sequence[Material], speed: Calibration
) -> tuple[object, ...]:
    recipe = job.recipe
    labelled, unlabelled = batches(recipe)
    step = (
        (labelled + unlabelled) / speed.training.per_second
        + _encoding_seconds(unlabelled, unlabelled, speed)  # the teacher's scores
        + speed.optimiser_seconds
    )
    validation = sum(
        _encoding_seconds(one.clips, one.texts, speed)
        for one in materials
        if one.role == "validation"
    )
    validations = 1 + math.ceil(recipe.steps / recipe.validate_every)
    seconds = job.students * (recipe.steps * step + validations * validation)
    clips = recipe.steps * (labelled + unlabelled) * job.students
    disk = job.students * speed.parameters * _FLOAT_BYTES
    return (job.notebook, job.what, clips, disk, 0.0, seconds / 3600, "profile")


def _encoding_seconds(clips: int, texts: int, speed: Calibration) -> float:
    return clips * speed.n_frames / speed.images.per_second + texts / speed.texts.per_second
