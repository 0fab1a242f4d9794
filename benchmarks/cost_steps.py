"""The steps whose costs `benchmarks.costs` measures, each on n clips, texts or rows."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.retrieval_ranks import vectors
from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from data_prep.clips import read_clips
from data_prep.mini_benchmark import build
from fitclip_core.distillation import Recipe, TrainingClips, fit_student
from fitclip_core.metrics import retrieval_ranks_both_ways
from fitclip_kit.engine.measure import EvaluationSet, Student, measure, sweep_cells
from fitclip_kit.engine.sources import Sources
from fitclip_kit.store.results import Cell, ResultsStore

N_FRAMES, IMAGE_SIZE, TRAINING_DRAWS, WIDTH, BATCH = 4, 40, 3, 512, 16
ALPHAS = tuple(number / 10 for number in range(11))
CLIPS = "webvid_val"  # the mini benchmark's data set that all steps read


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        what: the step, in words, with what n counts.
        base: n at one times the data.
        order: the exponent of n that its method has.
        prepare: (folder of the shared material, largest n) -> a function of n and an empty folder
            that does the step.
    """

    what: str
    base: int
    order: int
    prepare: Callable[[Path, int], Callable[[int, Path], object]]


def make_material(folder: Path, clips: int) -> None:
    """Videos and frame stores that the steps share."""
    table = build.build(folder, {CLIPS: clips}, seed=1, progress=False)[CLIPS]
    for draws, name in ((0, "evaluation"), (TRAINING_DRAWS, "training")):
        _build_store(table, folder / CLIPS, folder / name, draws)


@contextmanager
def watched_workers() -> Iterator[list[int]]:
    """Collect, 20 times a second, the bytes that the processes of this one have in memory."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            pages = []
            for one in Path("/proc/self/task").glob("*/children"):
                for child in one.read_text().split():
                    with suppress(OSError):  # it has just ended
                        pages.append(int(Path(f"/proc/{child}/statm").read_text().split()[1]))
            seen.append(sum(pages) * os.sysconf("SC_PAGE_SIZE"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _decode(folder: Path, most: int) -> Callable[[int, Path], object]:
    table = _table(folder)
    return lambda n, out: _build_store(table[:n], folder / CLIPS, out, 0)


def _encode_videos(folder: Path, most: int) -> Callable[[int, Path], object]:
    encoder, store = _teacher().encoder, frame_store.open_store(folder / "evaluation")
    return lambda n, out: encoder.encode_source(store, np.arange(n))


def _encode_texts(folder: Path, most: int) -> Callable[[int, Path], object]:
    encoder = _teacher().encoder
    texts = list(itertools.islice(_distinct_texts(_table(folder)), most))
    encoder.tokenize(texts)  # a sweep tokenizes once, for all its models
    return lambda n, out: encoder.encode_texts(texts[:n])


def _sweep(folder: Path, most: int) -> Callable[[int, Path], object]:
    teacher, table = _teacher(), _table(folder)
    store = frame_store.open_store(folder / "evaluation")
    state = teacher.encoder.state()  # no time depends on the weights
    made_up: dict[str, Any] = {
        "draw": 1,
        "labelled_clips": 1,
        "labelled_share": 1.0,
        "sha256": "made up",
    }
    student = Student(**made_up, state=state)

    def sweep(n: int, out: Path) -> None:
        sets = [EvaluationSet(CLIPS, table[:n], store)]
        results = ResultsStore(out)
        cells = sweep_cells([CLIPS], [student], ALPHAS)
        measure(cells, teacher, sets, results, students=[student])

    return sweep


def _ranks(folder: Path, most: int) -> Callable[[int, Path], object]:
    texts, videos = vectors(most, WIDTH, 8.0)
    return lambda n, out: retrieval_ranks_both_ways(texts[:n], videos[:n])


def _train(folder: Path, most: int) -> Callable[[int, Path], object]:
    texts = _table(folder)["text"].tolist()
    stores = {name: frame_store.open_store(folder / name) for name in ("training", "evaluation")}
    teacher = _teacher().encoder

    def train(n: int, out: Path) -> None:
        clips = TrainingClips(stores["training"], texts[:n], np.arange(n))
        held_out = TrainingClips(stores["evaluation"], texts[:BATCH], np.arange(BATCH))
        steps = n // BATCH
        batches = {"labelled_batch": BATCH, "unlabelled_batch": BATCH}
        recipe = Recipe(steps=steps, validate_every=steps, seed=1, **batches)
        fit_student(_teacher().encoder, teacher, clips, clips, held_out, recipe)

    return train


def _intervals(folder: Path, most: int) -> Callable[[int, Path], object]:
    student: dict[str, Any] = {"draw": 1, "labelled_clips": 1, "labelled_share": 1.0}
    cells = [Cell(CLIPS, alpha=alpha, **student) for alpha in ALPHAS[1:4]]

    def intervals(n: int, out: Path) -> None:
        results, rng = ResultsStore(out), np.random.default_rng(0)
        for cell in cells:
            results.write(cell, _outcomes(n, rng), {})
        results.metrics(cells)

    return intervals


STEPS: Mapping[str, Step] = {
    "decode": Step("frame store of n clips", 100, 1, _decode),
    "videos": Step("encode n clips", 100, 1, _encode_videos),
    "texts": Step("encode n captions", 1000, 1, _encode_texts),
    "sweep": Step("11 alphas on n clips", 50, 1, _sweep),
    "ranks": Step("rank n x n, both ways", 2000, 2, _ranks),
    "training": Step("train on n + n clips", 64, 1, _train),
    "intervals": Step("intervals of 3 models", 2000, 1, _intervals),
}


def _teacher() -> Any:
    return Sources().load_teacher("cpu")


def _table(folder: Path) -> pd.DataFrame:
    return read_clips(folder / CLIPS / "clips.csv")


def _build_store(table: pd.DataFrame, root: Path, out: Path, draws: int) -> None:
    rule = FrameRule(N_FRAMES, IMAGE_SIZE, draws_per_interval=draws)
    frame_store.build(table, root, out, rule, progress=False)


def _distinct_texts(table: pd.DataFrame) -> Iterator[str]:
    """The captions, each with a word more, then with another one in its place, and so on."""
    texts = table["text"].tolist()
    words = sorted({word for text in texts for word in text.split()})
    yield from (f"{text} {word}" for word in words for text in texts)


def _outcomes(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Ranks both ways of n made-up clips."""
    items = [f"clip{number}" for number in range(n)]
    parts = [
        pd.DataFrame({"item": items, "direction": one, "rank": rng.integers(1, n + 1, n) * 1.0})
        for one in ("text_to_video", "video_to_text")
    ]
    return pd.concat(parts, ignore_index=True)
