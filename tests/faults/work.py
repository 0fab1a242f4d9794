"""Pieces of the kit's work that leave something on disk, small and the same each time."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from data_prep.mini_benchmark.build import encode
from fitclip_core.distillation import Recipe, StudentFit
from fitclip_kit.engine import students
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.store.files import write_json
from fitclip_kit.store.results import Cell, ResultsStore

Videos = tuple[pd.DataFrame, Path]  # a clips table and the folder of its videos
Work = Callable[[Path], object]
RULE = FrameRule(n_frames=2, size=16)
KEY = Cell(alpha=0.4, labelled_share=1.0, labelled_clips=8, draw=1, data_set="msrvtt")
OTHER_KEY = Cell(alpha=0.0, labelled_share=1.0, labelled_clips=8, draw=1, data_set="msrvtt")


def make_videos(folder: Path, n: int = 5) -> Videos:
    pixels = np.random.default_rng(0)
    for number in range(n):
        encode(folder / f"{number}.mp4", pixels.integers(0, 256, (4, 32, 32, 3), np.uint8), crf=30)
    names = [f"clip{number}" for number in range(n)]
    paths = [f"{number}.mp4" for number in range(n)]
    return pd.DataFrame({"clip_id": names, "path": paths, "text": names}), folder


def build_store(videos: Videos, folder: Path) -> frame_store.FrameStore:
    """Frames in three shards."""
    clips, root = videos
    with mock.patch.object(frame_store, "SHARD_CLIPS", 2):
        return frame_store.build(
            clips, root, folder, RULE, backend="pyav", workers=1, progress=False
        )


def store_work(videos: Videos) -> Work:
    """`build_store` that decodes in this process."""

    def decode(
        function: Callable[[Any], Any], items: Sequence[Any], **_: Any
    ) -> Iterator[tuple[int, Any]]:
        for number, item in enumerate(items):
            yield number, function(item)

    def work(folder: Path) -> None:
        with mock.patch.object(frame_store, "killable_map", decode):
            build_store(videos, folder)

    return work


def outcomes(n: int = 40) -> pd.DataFrame:
    items = [f"clip{number:03d}" for number in range(n)]
    ranks = np.random.default_rng(0).integers(1, n + 1, n).astype(float)
    return pd.DataFrame({"item": items, "direction": "text_to_video", "rank": ranks})


def write_cells(folder: Path, measured_by: str = "now") -> None:
    """What a sweep leaves: a cell that is not there under this protocol is measured."""
    store, protocol = ResultsStore(folder), {"code": measured_by}
    for key in (KEY, OTHER_KEY):
        if not store.is_valid(key, protocol):
            store.write(key, outcomes(), protocol)


def keep_student(folder: Path) -> students.TrainedStudent:
    """What notebook 03 leaves of a draw."""
    state = {"weight": torch.arange(3000, dtype=torch.float32), "bias": torch.ones(3)}
    history = pd.DataFrame({"step": [0, 1], "validation_loss": [1.0, 0.5]})
    training = students.Training(
        folder=folder,
        draw=1,
        labelled_clips=8,
        recipe=Recipe(steps=1, validate_every=1, seed=1),
        labelled=None,
        inputs={"teacher": "0" * 64},
    )
    nothing: Any = None
    with mock.patch.object(
        students, "fit_student", return_value=StudentFit(state, history, best_step=1)
    ):
        return students.train(training, nothing, nothing, nothing)


def finish_notebook(folder: Path) -> None:
    """What a notebook does at its end."""
    write_json(folder / "03_student_distillation" / "table.json", {"loss": 0.5})
    keep_student(RunFolder(folder).student(1))
    RunFolder(folder).finish("03_student_distillation", {"draws": [1]}, {"sources": "embedded"})


WORK = ("cells", "student", "notebook", "store")


def work_of(kind: str, videos: Videos) -> Work:
    """One of `WORK`: it does what is missing in a folder."""
    works: dict[str, Work] = {"cells": write_cells, "student": keep_student}
    works |= {"notebook": finish_notebook, "store": store_work(videos)}
    return works[kind]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def marks(folder: Path) -> dict[Path, tuple[int, int]]:
    """What tells whether a file was written again."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def forked(work: Callable[[], object]) -> int:
    """Begin a piece of work in a copy of this process; the status comes with `os.waitpid`."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
    return child


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Do a piece of work in a copy of this process that SIGKILL ends at one of the steps in which
    files become lasting: before a file is synced, gets its name, or its folder is synced.

    Returns: False when the work was done before it came to that step.
    """
    calls = count(1)
    fsync, replace = (_fatal(step, one, calls) for one in (os.fsync, os.replace))
    with mock.patch("os.fsync", fsync), mock.patch("os.replace", replace):
        child = forked(work)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, "the work failed, see stderr"
    return os.WIFSIGNALED(status)


def _fatal(step: int, function: Callable[..., Any], calls: Iterator[int]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call
