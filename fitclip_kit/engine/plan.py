"""What a run will need, before it runs: one of each kind of work timed here, times what is left."""

from __future__ import annotations

import copy
import io
import math
import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from data_prep.check import check, classes_of, in_bytes, printable, try_clips
from data_prep.clip_frames import FrameRule
from data_prep.clips import read_clips
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark import build
from data_prep.mini_benchmark.concepts import actions
from data_prep.mini_benchmark.data_sets import TEMPLATES
from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, fit_student
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine.distributed import pick_device
from fitclip_kit.engine.sources import TRAINING_SETS
from fitclip_kit.engine.work import SWEEP, Frames, Measured, Run, Trained, Work, of_run
from fitclip_kit.weights.models import OPEN_CLIP_PREFIX

ARCHITECTURE = "ViT-B-16-quickgelu"  # timed where the teacher's weights are not there yet
SECONDS = 15.0  # that the timing of each kind of work may take, about
_MOST: Final = 64  # clips or texts that are timed at once
_TRIED = 8  # clips of a data set that are decoded
_BUSY: Final = 0.5  # load of a core above which the times are not the machine's own
_RESULT_BYTES: Final = 6  # of one outcome in a compressed cell; measured: 3 to 6
# By loader, where the user's files are not there: clips, texts that a model reads, outcomes a clip.
NOMINAL: Final = {
    "msrvtt": (1000, 1000, 2),
    "youcook2": (3350, 3273, 2),
    "didemo": (1065, 1065, 2),
    "ucf101": (3783, 101 * 48, 1),
    "moments_in_time": (33_900, 339, 1),
    "webvid": (5000, 5000, 2),
}
_ASSUMED: Final = (
    "Decoding uses all cores. Every set's texts are as long as those timed, and training takes "
    "time in proportion to its clips, labelled or not.",
    "Not counted: reading the frame store, fusing weights, Fisher information and the loss between "
    "(notebook 07), ranks, intervals, figures and the notebooks' starts, some 10 to 30 s each.",
)
_SPEEDS: Final = {
    "videos": "clips of {} frames encoded",
    "texts": "texts of 10 words encoded",
    "train": "clips trained on, as many labelled as not",
}


class Counted(NamedTuple):
    """A data set as a run reads it: clips to decode, distinct texts (captions, or classes times
    prompts), outcomes of a cell, what is there, and the seconds to decode a clip (NaN: not tried).
    """

    clips: int
    texts: int
    outcomes: int
    said: str
    decode: float = math.nan


class Timed(NamedTuple):
    """Seconds for a clip or text ("videos", "texts", "train"), how many were timed at once, the
    bytes that the backward pass keeps of a clip, and those of the weights."""

    seconds: Mapping[str, float]
    batches: Mapping[str, int]
    kept: float
    weights: int


def plan(run: Run, left_out: Sequence[str] = ()) -> str:
    """What is left of a run, in words: data, disk, hours and memory; nothing of it is done.

    left_out: what the notebooks will leave out, sentences to print. Raises ValueError for a data
    set that can neither be counted nor has a known size.
    """
    encoder, assumed = _encoder(run)
    rule = run.rule("", encoder.image_size)
    own = _decoding(rule, embedded=True) if run.sources.file is None else math.nan
    sets = {name: counted(run, name, rule, own) for name in run.sources.names}
    if untried := [name for name, one in sets.items() if math.isnan(one.decode)]:
        tried = [one.decode for one in sets.values() if not math.isnan(one.decode)]
        decode = median(tried) if tried else _decoding(rule, embedded=False)
        like = "the median of the others" if tried else "a made-up clip of 320 x 240 and 250 frames"
        assumed.append(f"{', '.join(untried)}: {decode:.2g} s to decode a clip, as {like}.")
        sets |= {name: sets[name]._replace(decode=decode) for name in untried}
    speed, works = timed(encoder, rule), of_run(run)
    shown = table(works, sets, speed, rule)
    shown["disk"] = shown["disk"].map(lambda disk: in_bytes(disk) if disk else "-")
    for column in ("decoding", "device"):
        shown[column] = shown[column].map(in_time)
    load, cores = os.getloadavg()[0], available_cores()
    assumed += _ASSUMED
    if load > _BUSY * cores:
        busy = f"Other programs were at work on this machine (load {load:.1f}, {cores} cores): idle"
        assumed.append(f"{busy}, it is faster than measured.")
    speeds = [
        f"{1 / speed.seconds[what]:.3g} {unit.format(rule.n_frames)} a second, "
        f"{speed.batches[what]} at once"
        for what, unit in _SPEEDS.items()
    ]
    told = "{}: {:,} clips, {:,} texts; {}"
    sections = {
        "Data": [told.format(name, one.clips, one.texts, one.said) for name, one in sets.items()],
        "Measured here": speeds,
        "Memory": [memory(works, speed, _memory_of(encoder.device))],
        "Assumed": assumed,
        "Left out": left_out,
    }
    lines = [f"Plan for {encoder.name} on {encoder.device} (an estimate, not a promise)", ""]
    lines += [shown.reset_index().to_string(index=False), ""]
    wrap = textwrap.TextWrapper(100, initial_indent="  ", subsequent_indent="    ")
    wrap.break_long_words = wrap.break_on_hyphens = False
    for title, texts in sections.items():
        lines += [f"{title}:"] if texts else []
        lines += [line for text in texts for line in wrap.wrap(printable(text))]
    return "\n".join(lines)


def table(
    works: Sequence[Work], sets: Mapping[str, Counted], speed: Timed, rule: FrameRule
) -> pd.DataFrame:
    """Sums over the work of each notebook and kind, and over all: how many there are, and of those
    that are left how many, bytes of disk, and seconds of decoding and of the device."""
    costs = {("train", ""): speed.seconds["train"]}
    for name, one in sets.items():
        costs["decode", name] = one.clips * one.decode
        costs["videos", name] = one.clips * speed.seconds["videos"]
        costs["texts", name] = one.texts * speed.seconds["texts"]
    rows = []
    for work in works:
        took = sum(times * costs[what] for what, times in work.size().items())
        decodes = isinstance(work, Frames)
        match work:
            case Frames():
                shape = work.run.rule(work.data_set, rule.size).shape
                disk = sets[work.data_set].clips * math.prod(shape)
            case Measured():
                disk = sum(sets[cell.data_set].outcomes for cell in work.cells) * _RESULT_BYTES
            case _:
                disk = speed.weights if isinstance(work, Trained) else 0
        left = not _is_done(work)
        sums = (left, left * disk, left * took * decodes, left * took * (not decodes))
        rows.append((work.notebook, work.kind, 1, *sums))
    columns = ["notebook", "work", "all", "left", "disk", "decoding", "device"]
    found = pd.DataFrame(rows, columns=columns).groupby(["notebook", "work"], sort=False).sum()
    found.loc[("total", ""), :] = found.sum()
    return found.astype({"all": int, "left": int})


def in_time(seconds: float) -> str:
    """Seconds for people: 40 s, 12.0 min, 3.4 h or 5.1 days."""
    for size, least, unit in ((86400, 2, "days"), (3600, 1, "h"), (60, 1, "min")):
        if seconds >= least * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds else "-"


def _is_done(work: Work) -> bool:
    try:
        return work.is_done()
    except ValueError:
        return False  # for want of what it needs


def _encoder(run: Run) -> tuple[ClipEncoder, list[str]]:
    """The teacher, or a model of its size where its weights are not there."""
    teacher = run.sources.models.teacher
    if teacher.file.startswith(OPEN_CLIP_PREFIX) or Path(teacher.file).exists():
        return cast(ClipEncoder, run.model(SWEEP).encoder), []
    name, device = teacher.architecture or ARCHITECTURE, run.parameters[SWEEP]["device"]
    note = f"The teacher's weights {teacher.file} are not there: timed with a random {name}."
    return ClipEncoder.from_open_clip(name, None, pick_device(device)), [note]


def counted(run: Run, name: str, rule: FrameRule, embedded: float) -> Counted:
    """Count a data set as far as its files are there, and decode some of a user's clips; `embedded`
    is what a clip of the embedded benchmark takes."""
    asked, entry = run.sizes[name], run.sources.data_sets.get(name)
    if entry is None:
        templates = len(TEMPLATES.get(name, ()))
        labels = {action.label for action in actions() if action.data_set == name}
        texts = min(len(labels), asked) * templates if templates else asked
        return Counted(asked, texts, asked if templates else 2 * asked, "made here", embedded)
    if name in TRAINING_SETS and asked:
        missing = "" if Path(entry.root).is_dir() else f", but there is no folder {entry.root}"
        return Counted(asked, asked, 2 * asked, f"as many as asked for{missing}")
    try:
        found = check(entry.loader, entry.root, entry.options, decode=_TRIED, rule=rule)
    except (ValueError, OSError) as error:
        if entry.loader not in NOMINAL:
            raise ValueError(f"{name} cannot be counted and has no known size: {error}") from error
        clips, texts, each = NOMINAL[entry.loader]
        clips = asked or clips
        texts = texts if each == 1 else min(clips, texts)
        return Counted(clips, texts, each * clips, f"nominal, not counted: {error}")
    there, texts = found.videos_there, found.captions
    clips = outcomes = min(asked, there) if asked else there
    if "label" in found.data_set.clips:
        texts = classes_of(found.data_set) * len(found.data_set.templates)
    else:
        outcomes = round(clips * (1 + len(found.there) / max(there, 1)))
    said = f"counted, {in_bytes(found.file_bytes)}, {found.videos - there:,} without a file"
    decode = found.trials["seconds"].median() / available_cores()
    return Counted(clips, texts, outcomes, "; ".join((said, *found.problems)), decode)


def _decoding(rule: FrameRule, *, embedded: bool) -> float:
    """Seconds to make and decode a clip of the embedded benchmark, or to decode a drifting pattern
    with some noise; all cores at work."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, took = Path(temporary), [0.0, 0.0]
        if embedded:
            for place, n in enumerate((1, 1 + _TRIED)):  # the first pays for the process's start
                make = partial(build.build, folder / str(n), {"msrvtt": n}, 0, workers=1)
                took[place] = _took(partial(make, progress=False))
            folder = folder / str(1 + _TRIED) / "msrvtt"
            clips = read_clips(folder / "clips.csv")
        else:
            noise = np.random.default_rng(0).integers(0, 48, (240, 320, 3), np.uint8)
            x, y = np.arange(320)[None, :, None], np.arange(240)[:, None, None]
            picture = (noise + 104 + 50 * np.sin(x / 17) + 50 * np.cos(y / 11)).astype(np.uint8)
            frames = np.stack([np.roll(picture, shift, axis=1) for shift in range(250)])
            build.encode(folder / "clip.mp4", frames, crf=28)
            clips = pd.DataFrame({"clip_id": list("abcdefgh"), "path": "clip.mp4"})
            clips = clips.assign(start=math.nan, end=math.nan)
        trials = try_clips(clips, folder, rule, _TRIED)
    made = max(took[1] - took[0], 0) / _TRIED
    return float(made + trials["seconds"].median()) / available_cores()


class _Noise:
    """Clips for training; they note when they are read, which is once a step."""

    def __init__(self, n: int, rule: FrameRule) -> None:
        self.clip_ids, self.frame_counts = [str(i) for i in range(n)], np.full(n, rule.n_frames)
        self.array = np.random.default_rng(0).integers(0, 256, (n, *rule.shape), np.uint8)
        self.read_at: list[float] = []

    def frames(self, indices: np.ndarray) -> np.ndarray:
        self.read_at.append(perf_counter())
        return self.array[indices]


def timed(encoder: ClipEncoder, rule: FrameRule) -> Timed:
    """Time encoding and training; the encoder and PyTorch's random state stay as they are."""
    texts = [f"{number} a man in the street with a red dog" for number in range(_MOST)]
    encoder.tokenize(texts)  # a sweep tokenizes once, for all its models
    noise, student = _Noise(_MOST, rule).array, copy.deepcopy(encoder)

    def step(n: int, steps: int = 3) -> float:
        """Seconds for each clip of a step on n labelled and n unlabelled ones."""
        drawn = replace(rule, draws_per_interval=1)
        read = [_Noise(n, drawn), _Noise(n, drawn), _Noise(n, rule)]
        recipe = Recipe(steps=steps, validate_every=steps, seed=0)
        clips = [TrainingClips(source, texts[:n]) for source in read]
        with redirect_stderr(io.StringIO()):  # no progress bar
            fit_student(student, encoder, clips[0], clips[1], clips[2], recipe)
        return (read[0].read_at[-1] - read[0].read_at[0]) / max(steps - 1, 1) / 2

    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(1, steps=1)
    parameters = list(student.model.parameters())
    for one in parameters:
        storages.pop(one.untyped_storage().data_ptr(), None)
    ways = {
        "videos": lambda n: _took(lambda: encoder.encode_videos(noise[:n])),
        "texts": lambda n: _took(lambda: encoder.encode_texts(texts[:n])),
        "train": step,
    }
    found = {what: each(way) for what, way in ways.items()}
    seconds = {what: took for what, (took, _) in found.items()}
    batches = {what: n for what, (_, n) in found.items()}
    weights = sum(4 * one.numel() for one in parameters)
    return Timed(seconds, batches, kept=sum(storages.values()) / 2, weights=weights)


def each(took: Callable[[int], float]) -> tuple[float, int]:
    """Seconds for one of n at once, the median of three timings. n is 1, doubled as long as eight
    times as much fits `SECONDS`; where not even 1 does, it is timed once."""
    n, last = 1, took(1)
    if 8 * last > SECONDS:
        return last, 1
    while 2 * n <= _MOST and 8 * last <= SECONDS:
        n *= 2
        last = took(n)
    return median([took(n), took(n), took(n)]) / n, n


def _took(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory(works: Sequence[Work], speed: Timed, there: int) -> str:
    """Weights, gradients and AdamW's two moments, the teacher's weights, and what the backward pass
    keeps of the clips that are computed at once."""
    needed = 0.0
    for work in (work for work in works if isinstance(work, Trained)):
        clips = min(work.batch, work.micro_batch or work.batch)
        states = 4 + (work.training.recipe.labelled_share < 1)
        needed = max(needed, states * speed.weights + clips * speed.kept)
    fits = "." if needed <= there else ": IT WILL NOT FIT; set micro_batch."
    return (
        f"The largest training step needs about {in_bytes(needed)}, by what autograd keeps of one "
        f"clip and without the kernels' workspace. This device has {in_bytes(there)}{fits}"
    )
