"""What the frame store makes of damaged videos: the frames of the sound ones, or a failure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd

from benchmarks.damaged_videos import Mutation
from data_prep import frame_store, video
from data_prep.clip_frames import FrameRule
from data_prep.sampling import midpoint_indices

RULE = FrameRule(n_frames=4, size=64)
MOST_BYTES = 2_000_000  # of a sound file


@dataclass(frozen=True)
class Outcome:
    """What the frame store made of a mutation.

    how: "identical" to the frames of the sound file, "reported" as a failure, silently "different",
        "killed" at the deadline, or "crashed".
    difference: of the frames, the mean of the worst one in grey levels; NaN where there are more or
        fewer frames than there should be, or none.
    reason: of the failure; empty where there was none.
    codec: of the sound file.
    """

    mutation: Mutation
    how: str
    difference: float
    reason: str
    codec: str


def outcomes(
    made: Sequence[Mutation], folder: Path, *, workers: int, deadline: float, backend: str = "auto"
) -> list[Outcome]:
    """Write the files into `folder`, build a frame store of them there, and compare."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    names = [f"{number:05d}{mutation.ending}" for number, mutation in enumerate(made)]
    for name, mutation in zip(names, made, strict=True):
        (videos / name).write_bytes(mutation.content)
    store = frame_store.build(
        pd.DataFrame({"clip_id": names, "path": names}),
        videos,
        folder / "store",
        RULE,
        backend=backend,
        workers=workers,
        deadline=deadline,
        progress=False,
    )
    failures = dict(zip(store.failures["clip_id"], store.failures["reason"], strict=True))
    places = {name: place for place, name in enumerate(store.clip_ids)}
    found = []
    for name, mutation in zip(names, made, strict=True):
        if name in failures:
            found.append(_failed(mutation, failures[name]))
        else:
            place = places[name]
            frames = store.frames([place])[0, : store.frame_counts[place]]
            found.append(_compared(mutation, frames))
    return found


def _failed(mutation: Mutation, reason: str) -> Outcome:
    known = {"not done after": "killed", "the decoder crashed": "crashed"}
    how = next((how for start, how in known.items() if reason.startswith(start)), "reported")
    return Outcome(mutation, how, np.nan, reason, codec(mutation.source))


def _compared(mutation: Mutation, frames: np.ndarray) -> Outcome:
    right = _right_frames(mutation.source, mutation.cut, mutation.turns)
    difference = np.nan
    if frames.shape == right.shape:
        difference = float(np.abs(frames.astype(int) - right).mean(axis=(1, 2, 3)).max())
    same = difference == 0 and mutation.holds_video
    how = "identical" if same else "different"
    return Outcome(mutation, how, difference, "", codec(mutation.source))


@cache
def _right_frames(source: Path, cut: int, turns: int) -> np.ndarray:
    def choose(times: np.ndarray) -> np.ndarray:
        return cut + midpoint_indices(0, times.size - 1 - cut, RULE.n_frames)

    clip = video.decode(source, choose, RULE.size, "pyav")
    if not turns:
        return clip.frames
    numbers, places = np.unique(clip.indices, return_inverse=True)
    with av.open(str(source)) as container:
        pictures: Any = enumerate(container.decode(container.streams.best("video")))
        wanted = [one.to_ndarray(format="rgb24") for number, one in pictures if number in numbers]
    turned = [video.resize(np.rot90(picture, -turns), RULE.size) for picture in wanted]
    return np.stack(turned)[places]


@cache
def codec(source: Path) -> str:
    """The name of a sound file's video codec."""
    with av.open(str(source), metadata_errors="replace") as container:
        best: Any = container.streams.best("video")
        return str(best.codec_context.codec.canonical_name)


def sound_sources(folder: Path) -> list[Path]:
    """The videos below `folder` that can be decoded, without those of more than `MOST_BYTES`."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(video.DecodeError):
            if path.stat().st_size <= MOST_BYTES:
                _right_frames(path, 0, 0)
                found.append(path)
    return found
