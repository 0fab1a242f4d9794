"""Count what a run reads and time its decoding, before it runs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from data_prep import datasets
from data_prep.check import bytes_of, classes_of, clips_there, one_a_video, try_clips
from data_prep.clip_frames import FrameRule
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark import build
from data_prep.mini_benchmark.concepts import actions
from data_prep.mini_benchmark.data_sets import TEMPLATES
from fitclip_kit.engine.plan import Decoding, Material, Role
from fitclip_kit.engine.sources import TRAINED_ON, TRAINING_SETS

# Clips and texts that a model reads, by loader, until the user's own files are counted.
NOMINAL: Mapping[str, tuple[int, int]] = {
    "msrvtt": (1000, 1000),
    "youcook2": (3350, 3273),
    "didemo": (1065, 1065),
    "ucf101": (3783, 101 * 48),
    "moments_in_time": (33_900, 339),
    "webvid": (5000, 5000),
}
_EXAMPLES = 64  # texts of a data set to time
_MADE = 32  # clips of each embedded data set that are made to be timed
_SYNTHETIC = (250, 240, 320)  # frames, height, width: ten seconds at 25 frames a second


def survey(
    data_sets: Mapping[str, Mapping[str, object]],
    sizes: Mapping[str, int],
    rule: FrameRule,
    *,
    tries: int = 8,
) -> list[Material]:
    """Count the user's data sets, and decode some clips of each; what is not there is nominal.

    Args:
        data_sets: name -> `loader`, `root` and the loader's options, as a sources file has them.
        sizes: name -> clips that the run draws; 0 takes all.
        rule: frames of evaluation.
        tries: clips to decode of each evaluation set, for their speed.

    Raises: ValueError for a set that is not there and has no nominal size, or is not in `sizes`.
    """
    materials = []
    for name, entry in data_sets.items():
        if name not in sizes:
            raise ValueError(f"there is no size for {name}; give 0 to take all of it")
        role, size = role_of(name), sizes[name]
        if role != "evaluation" and size:
            materials.append(Material(name, role, size, size, basis="profile"))
        else:
            materials.append(_survey_one(name, role, dict(entry), size, rule, tries))
    return materials


def survey_embedded(
    sizes: Mapping[str, int], rule: FrameRule, training_draws: int, seed: int = 0
) -> list[Material]:
    """Make some clips of each embedded data set, for the time that this and their decoding take.

    Args:
        sizes: name -> clips that the run makes.
        rule: frames of evaluation.
        training_draws: frames that the run keeps for each interval of a training clip.
        seed: of the clips.

    Raises: ValueError as `mini_benchmark.build.build`; RuntimeError when a clip does not decode.
    """
    first = next(iter(sizes))
    some = {name: min(size, _MADE) for name, size in sizes.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # One worker: so few clips would not keep several busy.
        make = partial(build.build, seed=seed, workers=1, progress=False)
        start = perf_counter()
        make(folder / "one", {first: 1})  # what every build takes once
        middle = perf_counter()
        tables = make(folder / "some", some)
        seconds = max(perf_counter() - middle - (middle - start), 0.0) / sum(some.values())
        seconds /= available_cores()
        decoding = _try_embedded(tables, folder / "some", rule, training_draws)
    return [
        _embedded(name, table, sizes[name], decoding[name], seconds)
        for name, table in tables.items()
    ]


def measure_decoding(rule: FrameRule, training_draws: int) -> dict[Role, Decoding]:
    """Time the decoding of a made-up clip by all of the workers that a frame store's build uses.

    Raises: RuntimeError when it does not decode.
    """
    n_frames, height, width = _SYNTHETIC
    what = f"a made-up {width}x{height} H.264 clip of {n_frames} frames"
    n = 4 * available_cores()
    clips = pd.DataFrame({"clip_id": [f"copy {i}" for i in range(n)], "path": "clip.mp4"})
    clips = clips.assign(start=math.nan, end=math.nan)
    roles: tuple[Role, ...] = ("evaluation", "training")
    found: dict[Role, Decoding] = {}
    with tempfile.TemporaryDirectory() as folder:
        build.encode(Path(folder) / "clip.mp4", _moving_picture(n_frames, height, width), crf=28)
        for role in roles:
            used = _rule_of(role, rule, training_draws)
            trials = try_clips(clips, Path(folder), used, n, deadline=60.0)
            found[role] = _decoding_or_error(trials, what)
    return found | {"validation": found["evaluation"]}


def role_of(name: str) -> Role:
    """What a run does with the data set that it calls so."""
    if name in TRAINED_ON:
        return "training"
    return "validation" if name in TRAINING_SETS else "evaluation"


def examples(materials: Collection[Material]) -> Iterator[str]:
    """Texts of all the materials, each set's in proportion to the texts that a model reads."""
    most = max((one.texts for one in materials if one.examples), default=1)
    for one in materials:
        wanted = math.ceil(_EXAMPLES * one.texts / most)
        yield from one.examples[:wanted]


def _rule_of(role: Role, rule: FrameRule, training_draws: int) -> FrameRule:
    return replace(rule, draws_per_interval=training_draws) if role == "training" else rule


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
    videos = one_a_video(there)
    recognised = "label" in data_set.clips
    if recognised:
        texts = classes_of(data_set) * len(data_set.templates)
        some = _prompts(data_set.classes or there["label"].unique(), data_set.templates)
    else:
        texts = there["text"].nunique()
        some = _spread(there["text"].drop_duplicates().tolist())
    trials = try_clips(videos, data_set.root, rule, tries)
    missing = len(data_set.missing)
    return Material(
        name,
        role,
        min(size, len(videos)) if size else len(videos),
        texts,
        1 if recognised else 1 + (len(there) or 1) / (len(videos) or 1),
        basis="counted",
        file_bytes=bytes_of(data_set.root, there["path"].unique()),
        decoding=_decoding_of(trials, f"{len(trials)} of its clips"),
        examples=some,
        note=f"{missing:,} clip{'' if missing == 1 else 's'} without a file" if missing else "",
    )


def _try_embedded(
    tables: Mapping[str, pd.DataFrame], root: Path, rule: FrameRule, training_draws: int
) -> dict[str, Decoding]:
    """How fast each data set's clips decode; the sets of a rule share their worker processes."""
    found: dict[str, Decoding] = {}
    roles: tuple[Role, ...] = ("evaluation", "training")
    for role in roles:
        names = [name for name in tables if (role_of(name) == "training") == (role == "training")]
        if not names:
            continue
        moved = [tables[name].assign(path=f"{name}/" + tables[name]["path"]) for name in names]
        clips = pd.concat(dict(zip(names, moved, strict=True)), names=["data_set", None])
        trials = try_clips(clips, root, _rule_of(role, rule, training_draws), len(clips))
        for name, own in trials.groupby(clips.index.get_level_values("data_set")):
            found[str(name)] = _decoding_or_error(own, f"{len(own)} clips made here")
    return found


def _embedded(
    name: str, table: pd.DataFrame, clips: int, decoding: Decoding, making_seconds: float
) -> Material:
    templates = TEMPLATES.get(name, ())
    if templates:
        named = (action.label for action in actions() if action.data_set == name)
        classes = list(dict.fromkeys(named))[:clips]  # the clips go through them in turn
        texts, some = len(classes) * len(templates), _prompts(classes, templates)
    else:
        texts, some = clips, _spread(table["text"].tolist())
    return Material(
        name,
        role_of(name),
        clips,
        texts,
        1 if templates else 2,
        basis="profile",
        decoding=decoding,
        making_seconds=making_seconds,
        examples=some,
    )


def _prompts(classes: Collection[str], templates: Collection[str]) -> tuple[str, ...]:
    return _spread([text.replace("{}", label) for label in classes for text in templates])


def _spread(texts: list[str]) -> tuple[str, ...]:
    """Some of the texts, from all over the list and in random order."""
    order = np.random.default_rng(0).permutation(len(texts))[:_EXAMPLES]
    return tuple(texts[place] for place in order)


def _decoding_or_error(trials: pd.DataFrame, measured_on: str) -> Decoding:
    speed = _decoding_of(trials, measured_on)
    if speed is None:
        raise RuntimeError(f"{measured_on} does not decode: {trials['reason'].iloc[0]}")
    return speed


def _decoding_of(trials: pd.DataFrame, measured_on: str) -> Decoding | None:
    seconds = trials["seconds"].dropna()
    if seconds.empty:
        return None
    cores = available_cores()
    return Decoding(cores / float(seconds.median()), cores, measured_on)


def _moving_picture(n_frames: int, height: int, width: int) -> np.ndarray:
    """A drifting pattern with some noise, so that there is motion to decode: uint8 [n, h, w, 3]."""
    noise = np.random.default_rng(0).integers(0, 48, (height, width + n_frames, 3), np.uint8)
    x = np.arange(width + n_frames)[None, :, None]
    y = np.arange(height)[:, None, None]
    wave = 104 + 50 * np.sin(x / 17) + 50 * np.cos(y / 11)
    picture = (wave + noise).astype(np.uint8)
    return np.stack([picture[:, shift : shift + width] for shift in range(n_frames)])
