"""What a run will need, before it runs: data, disk, hours of decoding and of the device.

Nothing here is read from a finished run. Counts are the user's own where the files are there, and
nominal where not; speeds are measured on this machine in about a minute.
"""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd

from data_prep import datasets
from data_prep.check import bytes_of, classes_of, clips_there, in_bytes, printable, try_clips
from data_prep.clip_frames import FrameRule
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark.build import encode
from fitclip_core.calibration import TEXT_WORDS, Calibration, Rate
from fitclip_core.distillation import Recipe

Role = Literal["evaluation", "training", "validation"]

# Clips and texts that a model reads, by loader, until the user's own files are counted.
NOMINAL: Mapping[str, tuple[int, int]] = {
    "msrvtt": (1000, 1000),
    "youcook2": (3350, 3273),
    "didemo": (1065, 1065),
    "ucf101": (3783, 101 * 48),
    "moments_in_time": (33_900, 339),
    "webvid": (5000, 5000),
}
RESULT_BYTES = 6  # of one outcome's row in a compressed cell; measured: 3 to 6
_FLOAT_BYTES = 4
_TRAINED_STATES = 4  # weights, gradients, AdamW's two moments
_WIDTH = 100
_TABLE = ["notebook", "what", "clips", "disk_bytes", "decode_hours", "device_hours", "basis"]
_SYNTHETIC = (250, 240, 320)  # frames, height, width: ten seconds at 25 frames a second


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
        directions: outcomes that each clip gives: 2 in retrieval, 1 in recognition.
        basis: of the counts: "counted", "profile" (the run draws that many) or "nominal".
        file_bytes: of the video files; None where they were not looked at.
        decoding: measured on these very clips; None where they were not tried.
        note: why it could not be counted, for one.
    """

    name: str
    role: Role
    clips: int
    texts: int
    directions: int = 2
    basis: str = "nominal"
    file_bytes: int | None = None
    decoding: Decoding | None = None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run will need. `report` puts it in words.

    Attributes:
        steps: DataFrame (notebook, what, clips, disk_bytes, decode_hours, device_hours, basis), one
            row for each data set or student group that a notebook works on.
        materials: the data sets.
        training_bytes: device memory for a training step, estimated; 0 if nothing is trained.
        state_bytes: of it, what does not depend on the batches: weights, gradients, moments.
        calibration: the device's speeds.
        assumptions: what the numbers rest on, a sentence each.
    """

    steps: pd.DataFrame
    materials: tuple[Material, ...]
    training_bytes: int
    state_bytes: int
    calibration: Calibration
    assumptions: tuple[str, ...]

    @property
    def by_notebook(self) -> pd.DataFrame:
        """Sums over each notebook, in order, and a last row `total`."""
        columns = ["disk_bytes", "decode_hours", "device_hours"]
        sums = self.steps.groupby("notebook", sort=False)[columns].sum()
        sums.loc["total"] = sums.sum()
        return sums

    @property
    def fits(self) -> bool | None:
        """Whether a training step fits the device's memory, as far as estimated; None where the
        memory is not known."""
        limit = self.calibration.device_bytes
        return None if limit is None else self.training_bytes <= limit


def plan(
    materials: Sequence[Material],
    rule: FrameRule,
    training_draws: int,
    recipe: Recipe,
    calibration: Calibration,
    decoding: Mapping[Role, Decoding],
    *,
    alphas: Sequence[float],
    trained: int,
    fused: int | None = None,
    references: int = 0,
) -> Plan:
    """Add up what notebooks 01 to 04 read, write and compute.

    Args:
        materials: the data sets.
        rule: frames of evaluation.
        training_draws: frames kept for each interval of a training clip.
        recipe: how a student is trained.
        calibration: of the teacher's architecture, with the rule's frames.
        decoding: for materials that were not tried themselves.
        alphas: shares of the student in the sweep.
        trained: students to train.
        fused: students in the sweep; None: those that are trained.
        references: further models to measure, each taken to be as fast as the calibrated one.

    Raises: ValueError when the calibration is of another number or size of frames, or a number is
    negative.

    Source: `FrameRule.shape` for the frame stores; `distillation.fit_student` and
    `sweep.sweep_alphas` for what is computed.
    """
    fused = trained if fused is None else fused
    if (calibration.n_frames, calibration.image_size) != (rule.n_frames, rule.size):
        raise ValueError(
            f"the calibration is of {calibration.n_frames} frames of {calibration.image_size} px, "
            f"the run of {rule.n_frames} of {rule.size} px; calibrate with the run's frames"
        )
    if min(trained, fused, references, training_draws) < 0:
        raise ValueError(
            f"trained is {trained}, fused {fused}, references {references} and training_draws "
            f"{training_draws}; none may be negative"
        )
    rules = dict.fromkeys(("evaluation", "validation"), rule)
    rules["training"] = replace(rule, draws_per_interval=training_draws)
    rows = [_decode_row(one, rules[one.role], decoding) for one in materials]
    evaluated = [one for one in materials if one.role == "evaluation"]
    rows += _measure_rows("02_teacher_zero_shot", evaluated, 1 + references, calibration)
    training_bytes = state_bytes = 0
    if trained:
        rows.append(_training_row(materials, recipe, trained, calibration))
        training_bytes, state_bytes = training_memory(calibration, recipe)
    above = len({round(float(alpha), 9) for alpha in alphas} - {0.0})
    rows += _measure_rows("04_alpha_sweep", evaluated, fused * above, calibration)
    return Plan(
        pd.DataFrame(rows, columns=_TABLE),
        tuple(materials),
        training_bytes,
        state_bytes,
        calibration,
        tuple(_assumptions(materials, decoding, calibration, recipe if trained else None)),
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
    return states + calibration.activation_bytes * sum(_batches(recipe)), states


def survey(
    data_sets: Mapping[str, Mapping[str, object]],
    sizes: Mapping[str, int],
    rule: FrameRule,
    *,
    trained_on: Collection[str],
    selected_on: Collection[str],
    tries: int = 8,
) -> list[Material]:
    """Count the user's data sets, and decode some clips of each; what is not there is nominal.

    Args:
        data_sets: name -> `loader`, `root` and the loader's options, as a sources file has them.
        sizes: name -> clips that the run draws; 0 takes all.
        rule: frames of evaluation.
        trained_on: names of the training sets.
        selected_on: names of the sets on which a training step is chosen.
        tries: clips to decode of each evaluation set, for their speed.

    Raises: ValueError for a set that is not there and has no nominal size, or is not in `sizes`.
    """
    materials = []
    for name, entry in data_sets.items():
        if name not in sizes:
            raise ValueError(f"there is no size for {name}; give 0 to take all of it")
        role: Role = "evaluation"
        if name in (*trained_on, *selected_on):
            role = "training" if name in trained_on else "validation"
        size = sizes[name]
        if role != "evaluation" and size:
            materials.append(Material(name, role, size, size, basis="profile"))
        else:
            materials.append(_survey_one(name, role, dict(entry), size, rule, tries))
    return materials


def measure_decoding(rule: FrameRule, training_draws: int) -> dict[Role, Decoding]:
    """Time the decoding of a made-up clip by all of the workers that a frame store's build uses.

    Raises: RuntimeError when it does not decode.
    """
    n_frames, height, width = _SYNTHETIC
    what = f"a made-up {width}x{height} H.264 clip of {n_frames} frames"
    n = 4 * available_cores()
    clips = pd.DataFrame({"clip_id": [f"copy {i}" for i in range(n)], "path": "clip.mp4"})
    clips = clips.assign(start=math.nan, end=math.nan)
    training = replace(rule, draws_per_interval=training_draws)
    found: dict[Role, Decoding] = {}
    with tempfile.TemporaryDirectory() as folder:
        encode(Path(folder) / "clip.mp4", _moving_picture(n_frames, height, width), crf=28)
        for role, used in (("evaluation", rule), ("training", training)):
            trials = try_clips(clips, Path(folder), used, n, deadline=60.0)
            speed = _decoding_of(trials, what)
            if speed is None:
                raise RuntimeError(f"{what} does not decode: {trials['reason'].iloc[0]}")
            found[cast(Role, role)] = speed
    return found | {"validation": found["evaluation"]}


def report(found: Plan) -> str:
    """A plan in words."""
    return "\n".join(_report_lines(found))


def _survey_one(
    name: str, role: Role, entry: dict[str, object], size: int, rule: FrameRule, tries: int
) -> Material:
    loader, root = str(entry.pop("loader")), str(entry.pop("root"))
    try:
        data_set = datasets.load(loader, root, **entry)
    except (ValueError, OSError) as error:
        if loader not in NOMINAL:
            raise ValueError(
                f"{name} cannot be counted and has no nominal size: {error}"
            ) from error
        clips, texts = NOMINAL[loader]
        return Material(
            name,
            role,
            size or clips,
            texts if loader in ("ucf101", "moments_in_time") else min(size or texts, texts),
            1 if loader in ("ucf101", "moments_in_time") else 2,
            note=f"not counted: {error}",
        )
    there = clips_there(data_set)
    recognised = "label" in data_set.clips
    texts = (
        classes_of(data_set) * len(data_set.templates) if recognised else there["text"].nunique()
    )
    trials = try_clips(there, data_set.root, rule, tries)
    missing = len(data_set.missing)
    return Material(
        name,
        role,
        min(size, len(there)) if size else len(there),
        texts,
        1 if recognised else 2,
        basis="counted",
        file_bytes=bytes_of(data_set.root, there["path"].unique()),
        decoding=_decoding_of(trials, f"{len(trials)} of its clips"),
        note=f"{missing:,} clip{'' if missing == 1 else 's'} without a file" if missing else "",
    )


def _decoding_of(trials: pd.DataFrame, measured_on: str) -> Decoding | None:
    seconds = trials["seconds"].dropna()
    if seconds.empty:
        return None
    cores = available_cores()
    return Decoding(cores / float(seconds.median()), cores, measured_on)


def _decode_row(
    one: Material, rule: FrameRule, decoding: Mapping[Role, Decoding]
) -> tuple[object, ...]:
    speed = one.decoding or decoding[one.role]
    disk = one.clips * math.prod(rule.shape)
    hours = one.clips / speed.clips_per_second / 3600
    return ("01_data_prep", one.name, one.clips, disk, hours, 0.0, one.basis)


def _measure_rows(
    notebook: str, evaluated: Sequence[Material], models: int, speed: Calibration
) -> list[tuple[object, ...]]:
    return [
        (
            notebook,
            one.name,
            one.clips,
            models * one.clips * one.directions * RESULT_BYTES,
            0.0,
            models * _encoding_seconds(one.clips, one.texts, speed) / 3600,
            one.basis,
        )
        for one in evaluated
    ]


def _training_row(
    materials: Sequence[Material], recipe: Recipe, students: int, speed: Calibration
) -> tuple[object, ...]:
    labelled, unlabelled = _batches(recipe)
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
    seconds = students * (recipe.steps * step + validations * validation)
    clips = recipe.steps * (labelled + unlabelled) * students
    disk = students * speed.parameters * _FLOAT_BYTES
    what = f"{students} student{'' if students == 1 else 's'}"
    return ("03_student_distillation", what, clips, disk, 0.0, seconds / 3600, "profile")


def _encoding_seconds(clips: int, texts: int, speed: Calibration) -> float:
    return clips * speed.n_frames / speed.images.per_second + texts / speed.texts.per_second


def _batches(recipe: Recipe) -> tuple[int, int]:
    """Labelled and unlabelled clips of a step; a loss without a share reads none."""
    return (
        recipe.labelled_batch if recipe.labelled_share > 0 else 0,
        recipe.unlabelled_batch if recipe.labelled_share < 1 else 0,
    )


def _assumptions(
    materials: Sequence[Material],
    decoding: Mapping[Role, Decoding],
    speed: Calibration,
    recipe: Recipe | None,
) -> Iterator[str]:
    if nominal := [one.name for one in materials if one.basis == "nominal"]:
        yield f"Nominal sizes, the files not being there: {', '.join(nominal)}."
    untried = {one.role: decoding[one.role] for one in materials if one.decoding is None}
    if untried:
        first = next(iter(untried.values()))
        speeds = ", ".join(f"{role} {one.clips_per_second:.3g}" for role, one in untried.items())
        yield (
            f"Clips decoded a second where none was tried: {speeds}; measured on "
            f"{first.measured_on} with {first.workers} workers. Longer or larger videos take "
            "longer, and each segment of a long video reads all of it."
        )
    yield (
        f"Every clip has {speed.n_frames} frames and every text {TEXT_WORDS} words; reading the "
        "frame store is not counted."
    )
    if recipe is not None:
        yield (
            f"A training step's time is that of {speed.training.batch} clip(s), scaled to "
            f"{sum(_batches(recipe))}; its memory is what autograd keeps of one clip, times the "
            "clips, without the kernels' workspace."
        )


def _report_lines(found: Plan) -> Iterator[str]:
    speed = found.calibration
    yield f"Plan for {speed.model} on {speed.device} (an estimate, not a promise)"
    yield ""
    yield f"  {'data set':<20}{'role':<12}{'clips':>9}{'texts':>9}{'files':>10}  basis"
    for one in found.materials:
        files = "?" if one.file_bytes is None else in_bytes(one.file_bytes)
        yield (
            f"  {printable(one.name):<20}{one.role:<12}{one.clips:>9,}{one.texts:>9,}{files:>10}  "
            f"{one.basis}"
        )
    for one in found.materials:
        if one.note:
            yield from _wrapped(f"{one.name}: {one.note}")
    yield ""
    yield f"  {'notebook':<26}{'disk':>10}{'decoding':>12}{'device':>12}"
    for name, row in found.by_notebook.iterrows():
        yield (
            f"  {name:<26}{in_bytes(row['disk_bytes']):>10}"
            f"{in_time(row['decode_hours']):>12}{in_time(row['device_hours']):>12}"
        )
    yield ""
    if found.training_bytes:
        yield from _wrapped(
            f"A training step needs about {in_bytes(found.training_bytes)} of memory (estimate). "
            f"{_fit(found)}"
        )
        yield ""
    yield f"Measured here, with {speed.threads} CPU thread{'' if speed.threads == 1 else 's'}:"
    yield from _wrapped(_speed("evaluation", speed.images, "pictures"))
    yield from _wrapped(_speed("evaluation", speed.texts, "texts"))
    yield from _wrapped(_speed("training", speed.training, "clips"))
    yield from _wrapped(f"training: {speed.optimiser_seconds:.2g} s for a step of AdamW")
    for one in found.materials:
        if one.decoding is not None:
            yield from _wrapped(
                f"decoding {one.name}: {one.decoding.clips_per_second:.3g} clips a second "
                f"({one.decoding.measured_on}, {one.decoding.workers} workers)"
            )
    yield "Assumed:"
    for line in found.assumptions:
        yield from _wrapped(line)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fit(found: Plan) -> str:
    speed = found.calibration
    if speed.device_bytes is None:
        return "How much this device has is not known."
    has = f"This device has {in_bytes(speed.device_bytes)}"
    if found.fits:
        return f"{has}."
    clips = (speed.device_bytes - found.state_bytes) // speed.activation_bytes
    fitting = f"about {clips:,} clips in all would fit" if clips > 0 else "not even one clip would"
    return (
        f"{has}: IT WILL NOT FIT. Of labelled_batch and unlabelled_batch together, {fitting}; "
        "smaller batches than the paper's 64 and 64 are another protocol."
    )


def _speed(label: str, rate: Rate, what: str) -> str:
    return (
        f"{label}: {rate.per_second:.3g} {what} a second ({rate.slowest:.3g} to "
        f"{rate.fastest:.3g}, {rate.timings} timings)"
    )


def in_time(hours: float) -> str:
    """Hours for people: 40 s, 12 min, 3.4 h or 5.1 days."""
    if hours == 0:
        return "-"
    for size, unit in ((24, "days"), (1, "h"), (1 / 60, "min")):
        if hours >= (2 if unit == "days" else 1) * size:
            return f"{hours / size:,.1f} {unit}"
    return f"{hours * 3600:.0f} s"


def _moving_picture(n_frames: int, height: int, width: int) -> np.ndarray:
    """A drifting pattern with some noise, so that there is motion to decode: uint8 [n, h, w, 3]."""
    noise = np.random.default_rng(0).integers(0, 48, (height, width + n_frames, 3), np.uint8)
    x = np.arange(width + n_frames)[None, :, None]
    y = np.arange(height)[:, None, None]
    wave = 104 + 50 * np.sin(x / 17) + 50 * np.cos(y / 11)
    picture = (wave + noise).astype(np.uint8)
    return np.stack([picture[:, shift : shift + width] for shift in range(n_frames)])
