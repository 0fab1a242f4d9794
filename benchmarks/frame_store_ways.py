"""What `benchmarks.frame_store` measures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import av
import numpy as np
import pandas as pd

from benchmarks import bare
from benchmarks.side_by_side import seconds
from data_prep import frame_store, video
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark import TEACHER, build
from fitclip_core.encoders import ClipEncoder

N_FRAMES = 4
FILM = (596, 336, 25, 18)  # width, height, frames a second, seconds: about WebVid's medians


class Clips(NamedTuple):
    """A clips table and where its paths start."""

    table: pd.DataFrame
    root: Path


class TimedSource:
    """A frame store that counts the seconds of its reads; `cold`: none is in the page cache."""

    def __init__(self, store: frame_store.FrameStore, cold: bool) -> None:
        self.clip_ids, self.frame_counts = store.clip_ids, store.frame_counts
        self.seconds = 0.0
        self._store = frame_store.open_store(store.folder)  # one without a mapping yet
        if cold:
            for path in store.folder.glob("*.npy"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        start = perf_counter()
        found = self._store.frames(indices)
        self.seconds += perf_counter() - start
        return found


def mini_clips(folder: Path, number: int) -> Clips:
    """Clips of the mini benchmark."""
    table = build.build(folder, {"webvid_val": number}, seed=1, progress=False)["webvid_val"]
    return Clips(table, folder / "webvid_val")


def films(folder: Path, number: int) -> Clips:
    """Larger videos: a few are made and the rest are copies, which costs a decoder the same."""
    folder.mkdir(parents=True)
    names = [f"film_{place:05d}" for place in range(number)]
    for place, name in enumerate(names):
        path = folder / f"{name}.mp4"
        if place < 8:
            _film(path, seed=place)
        else:
            shutil.copyfile(folder / f"{names[place % 8]}.mp4", path)
    nothing = [float("nan")] * number
    columns = {"clip_id": names, "path": [f"{name}.mp4" for name in names], "text": names}
    return Clips(pd.DataFrame(columns | {"start": nothing, "end": nothing}), folder)


def decoding(clips: Clips, folder: Path, size: int, rounds: int) -> Iterator[list[str]]:
    """A table's line for each decoder: its name, both rates, and the median of their ratios."""
    rule = frame_store.FrameRule(N_FRAMES, size)
    paths = [clips.root / path for path in clips.table["path"]]
    for backend in [name for name in ("decord", "pyav") if name in video.decoder_versions()]:
        ways: dict[str, Callable[[], object]] = {
            "store": partial(_build_anew, clips, folder / "store", rule, backend),
            "bare": partial(
                bare.decode_all, paths, N_FRAMES, size, backend, available_cores()
            ),
        }  # fmt: skip
        taken = seconds(ways, rounds)
        rates = (len(paths) / taken).median()
        ratio = (taken["bare"] / taken["store"]).median()
        yield [backend, f"{rates['store']:.0f}", f"{rates['bare']:.0f}", f"{ratio:.2f}"]


def reading(clips: Clips, folder: Path, rounds: int) -> str:
    """What shares of encoding are spent in reads."""
    encoder = ClipEncoder.from_folder(TEACHER)
    rule = frame_store.FrameRule(N_FRAMES, encoder.image_size)
    store = frame_store.build(clips.table, clips.root, folder / "read", rule, progress=False)
    shares: dict[bool, list[float]] = {False: []}
    if hasattr(os, "posix_fadvise"):
        shares[True] = []
    for _ in range(rounds):
        for cold, found in shares.items():
            source = TimedSource(store, cold)
            start = perf_counter()
            encoder.encode_source(source)
            found.append(source.seconds / (perf_counter() - start))
    medians = {cold: float(np.median(found)) for cold, found in shares.items()}
    names = {False: "cached", True: "dropped from the cache"}
    told = ", ".join(f"{share:.1%} ({names[cold]})" for cold, share in medians.items())
    return f"reads beside the encoder: {told} of its time (wanted: under 5%)"


def _build_anew(clips: Clips, folder: Path, rule: frame_store.FrameRule, backend: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    frame_store.build(clips.table, clips.root, folder, rule, backend=backend, progress=False)


def _film(path: Path, seed: int) -> None:
    """A smooth random texture that moves under some noise, H.264 with two B-frames."""
    width, height, rate, length = FILM
    rng = np.random.default_rng(seed)
    coarse = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 96, 3), np.uint8), "rgb24")
    wide, high = width + rate * length, height + rate * length // 4
    texture = coarse.reformat(wide, high, interpolation="BICUBIC").to_ndarray()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(rate * length):
            top = number // 4
            window = texture[top : top + height, number : number + width]
            noise = rng.integers(0, 12, (height, width, 1), np.uint8)
            picture = np.minimum(window, 243) + noise
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
