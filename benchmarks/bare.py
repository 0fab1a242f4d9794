"""The least that decoding takes: what the frame store and the sweep are measured against.

Worker processes import this module, so it imports little.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_prep.sampling import midpoint_indices


def decode_all(paths: Sequence[Path], n_frames: int, size: int, backend: str, workers: int) -> None:
    """Decode and resize the same frames as a frame store, keep none and check nothing."""
    jobs = [(path, n_frames, size, backend) for path in paths]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(_decode, jobs, chunksize=8):
            pass


def _decode(job: tuple[Path, int, int, str]) -> int:
    path, n_frames, size, backend = job
    read = _with_decord if backend == "decord" else with_pyav
    return sum(int(_resize(picture, size)[0, 0, 0]) for picture in read(path, n_frames))


def _with_decord(path: Path, n_frames: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    pictures: np.ndarray = reader.get_batch(
        midpoint_indices(0, len(reader) - 1, n_frames)
    ).asnumpy()
    return pictures


def with_pyav(path: Path, n_frames: int) -> list[np.ndarray]:
    """The middle frames of equal intervals, uint8 RGB, decoded in one pass from the start."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = midpoint_indices(0, stream.frames - 1, n_frames).tolist()
        found = []
        for number, picture in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(picture.to_ndarray(format="rgb24"))
            if number == wanted[-1]:
                break
        return found


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    """The shorter side to `size` pixels, then the centre."""
    height, width = picture.shape[:2]
    short = min(height, width)
    wide, high = int(size * width / short), int(size * height / short)
    image = Image.fromarray(picture).resize((wide, high), Image.Resampling.BICUBIC)
    top, left = (high - size) // 2, (wide - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
