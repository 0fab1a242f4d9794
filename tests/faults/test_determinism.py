"""The same seed gives the same numbers: with one thread or two, and with the data in another order.

What repeats byte for byte is compared so; the rest is named here and in the README. Whole runs are
repeated in `tests/notebooks/test_smoke_profile.py`.
"""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, fit_student
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine.measure import EvaluationSet, Student, measure, sweep_cells
from fitclip_kit.engine.sources import Sources
from fitclip_kit.store.results import ResultsStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLIPS = 41  # so that the last batch is not full
ORDERS = ("plain", "shuffled")
ALPHAS = (0.0, 0.4, 1.0)
WORDS = (
    *("a", "cat", "dog", "red", "blue", "jumps", "over", "two", "three", "small"),
    *("house", "tree", "while", "running", "far"),
)
CLASSES = [f"{one} {two}" for one in WORDS[1:6] for two in WORDS[6:9]]
RECIPE = Recipe(
    steps=4, validate_every=2, seed=3, learning_rate=1e-3, labelled_batch=12, unlabelled_batch=9
)


class Frames:
    """Clips of random blocks of colour, in a given order."""

    def __init__(self, name: str, size: int, order: np.ndarray, draws: int = 0) -> None:
        rng = np.random.default_rng(sum(map(ord, name)))
        shape = (len(order), 4, *([draws] if draws else []), size // 4, size // 4, 3)
        pixels = rng.integers(0, 256, shape, np.uint8).repeat(4, -3).repeat(4, -2)
        self.clip_ids = [f"{name}_{place:02d}" for place in order]
        self.frame_counts = np.where(order % 5 == 0, 3, 4)
        self.data = pixels[order]

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.data[np.asarray(indices)]


def texts_of(order: np.ndarray) -> list[str]:
    """Captions of one to nine words, a few of them twice."""
    rng = np.random.default_rng(0)
    made = [" ".join(rng.choice(WORDS, rng.integers(1, 10))) for _ in range(len(order) - 3)]
    return [(made + made[:3])[place] for place in order]


def in_order(shuffled: bool, n: int = CLIPS) -> np.ndarray:
    return np.random.default_rng(5).permutation(n) if shuffled else np.arange(n)


def evaluation_sets(size: int, shuffled: bool) -> list[EvaluationSet]:
    """A retrieval and an action set; shuffled, their clips, sets and classes are."""
    order = in_order(shuffled)
    searched, acted = (Frames(name, size, order) for name in ("searched", "acted"))
    captions = pd.DataFrame({"clip_id": searched.clip_ids, "text": texts_of(order)})
    # Classes of equal features: which is predicted may depend on nothing but their names.
    named = [*CLASSES, *(f" {name} " for name in CLASSES[:4])]
    labels = [named[place % len(named)] for place in order]
    actions = pd.DataFrame({"clip_id": acted.clip_ids, "label": labels})
    classes = tuple(named[::-1] if shuffled else named)
    sets = [
        EvaluationSet("searched", captions, searched),
        EvaluationSet("acted", actions, acted, ("{}", "a video of {}."), classes=classes),
    ]
    return sets[::-1] if shuffled else sets


def noisy(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: one + 0.3 * one.std(correction=0) * torch.randn(one.shape, generator=generator)
        if one.is_floating_point() and one.ndim
        else one
        for name, one in state.items()
    }


def swept(folder: Path, shuffled: bool) -> dict[str, Any]:
    """Files of a small sweep, and its outcomes and metrics as tables."""
    teacher = Sources().load_teacher()
    encoder = cast(ClipEncoder, teacher.encoder)
    described: dict[str, Any] = {"labelled_clips": 8, "labelled_share": 0.0}
    students = [
        Student(draw=draw, **described, state=noisy(encoder.state(), draw), sha256=f"sha {draw}")
        for draw in (1, 2)
    ]
    results = ResultsStore(folder)
    alphas = ALPHAS
    if shuffled:
        students, alphas = students[::-1], ALPHAS[::-1]
    sets = evaluation_sets(encoder.image_size, shuffled)
    cells = sweep_cells([one.name for one in sets], students, alphas)
    measure(cells, teacher, sets, results, students=students)
    return {"outcomes": results.outcomes(cells), "metrics": results.metrics(cells)}


def features(shuffled: bool) -> dict[str, np.ndarray]:
    """Features by clip and by text, whatever the order that they were computed in."""
    encoder = Sources().load_teacher().encoder
    order = in_order(shuffled)
    back = np.argsort(order)
    videos = encoder.encode_source(Frames("searched", encoder.image_size, order))
    captions = encoder.encode_texts(texts_of(order))
    classes = encoder.encode_classes([CLASSES[place] for place in in_order(shuffled, 15)], ["{}."])
    of_class = np.argsort(in_order(shuffled, 15))
    return {
        "videos": videos.numpy()[back],
        "texts": captions.numpy()[back],
        "classes": classes.numpy()[of_class],
    }


def trained(micro_batch: int | None = None) -> dict[str, np.ndarray]:
    """Losses and weights of a few steps of training."""
    teacher, student = (cast(ClipEncoder, Sources().load_teacher().encoder) for _ in range(2))
    size = teacher.image_size

    def clips(name: str, n: int, draws: int) -> TrainingClips:
        return TrainingClips(Frames(name, size, np.arange(n), draws), texts_of(np.arange(n)))

    fit = fit_student(
        student,
        teacher,
        clips("labelled", 30, 2),
        clips("unlabelled", 20, 2),
        clips("chosen", 16, 0),
        RECIPE,
        micro_batch=micro_batch,
    )
    losses = fit.history.drop(columns="step").to_numpy(np.float64)
    weights = {f"weights: {name}": one.numpy() for name, one in fit.state.items()}
    return {"losses": losses, **weights}


def main(file: str, threads: int) -> None:
    """All of it, with a number of threads, into a file."""
    torch.set_num_threads(threads)
    made: dict[str, Any] = {"whole": trained(), "micro": trained(micro_batch=5)}
    with TemporaryDirectory() as folder:
        for order in ORDERS:
            shuffled = order == "shuffled"
            results = Path(folder, order)
            tables = swept(results, shuffled)
            files = [path for path in results.rglob("*") if path.is_file()]
            cells = {str(path.relative_to(results)): path.read_bytes() for path in files}
            made[order] = {"features": features(shuffled), "cells": cells, **tables}
    Path(file).write_bytes(pickle.dumps(made))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the work made, by number of threads, each in a process of its own."""
    made = {}
    for threads in (1, 2):
        file = tmp_path_factory.mktemp("done") / "made.pickle"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, str(file), str(threads)]
        subprocess.run(command, env=environment, check=True)
        made[threads] = pickle.loads(file.read_bytes())
    return made


# With another number of threads


@pytest.mark.parametrize("order", ORDERS)
def test_two_threads_give_the_same_features_and_results(
    done: dict[int, dict[str, Any]], order: str
) -> None:
    one, two = (done[threads][order] for threads in (1, 2))
    for name, expected in one["features"].items():
        if platform.machine() in ("x86_64", "AMD64"):  # what was measured
            np.testing.assert_array_equal(two["features"][name], expected, err_msg=name)
        np.testing.assert_allclose(two["features"][name], expected, atol=1e-6, err_msg=name)
    assert len(one["cells"]) == 20 and one["cells"] == two["cells"]


def test_threads_and_micro_batches_train_the_same_student_up_to_rounding(
    done: dict[int, dict[str, Any]],
) -> None:
    """Named exceptions: sums over a batch's gradients are added in another order."""
    same_up_to_rounding(done[1]["whole"], done[2]["whole"])
    same_up_to_rounding(done[1]["micro"], done[2]["micro"])
    same_up_to_rounding(done[1]["whole"], done[1]["micro"])


def same_up_to_rounding(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    # The first distillation loss, of equal models, is 0 but for rounding, times the squared scale.
    slack = 1e-6 / (RECIPE.teacher_temperature or 1) ** 2
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-5, atol=slack)
    for name in one.keys() - {"losses"}:
        weights = one[name]
        # A bias of attention's keys changes nothing, so its gradient is rounding alone; AdamW makes
        # steps of full size of it.
        step = RECIPE.learning_rate
        slack = 2 * RECIPE.steps * step if name.endswith("in_proj_bias") else 0.2 * step
        np.testing.assert_allclose(two[name], weights, atol=slack, err_msg=name)
        assert np.median(np.abs(two[name] - weights)) < 1e-2 * step, name


def test_a_process_trains_the_same_student_as_another(done: dict[int, dict[str, Any]]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        here = trained()
    finally:
        torch.set_num_threads(before)
    there = done[1]["whole"]
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_another_order_gives_the_same_results(
    done: dict[int, dict[str, Any]], threads: int
) -> None:
    """Of clips, captions, classes of equal features, data sets, students and alphas."""
    plain, shuffled = (done[threads][order] for order in ORDERS)
    assert plain["cells"] == shuffled["cells"]
    for kind in ("outcomes", "metrics"):
        pd.testing.assert_frame_equal(plain[kind], shuffled[kind])
    outcomes = plain["outcomes"]
    assert len(outcomes) == (1 + 2 * 2) * 3 * CLIPS
    acted = outcomes[outcomes["direction"] == "classification"]
    tied = acted["rank"] % 1 != 0
    assert tied.any() and not tied.all()  # so the order of tied classes was put to the test


def test_another_order_gives_the_same_features(done: dict[int, dict[str, Any]]) -> None:
    """Of texts byte for byte; of clips, which are encoded in their table's order, to rounding."""
    plain, shuffled = (done[1][order]["features"] for order in ORDERS)
    for name in ("texts", "classes"):
        np.testing.assert_array_equal(shuffled[name], plain[name], err_msg=name)
    np.testing.assert_allclose(shuffled["videos"], plain["videos"], atol=1e-6)
    assert np.ptp(plain["videos"], axis=0).max() > 0.01  # the clips are told apart


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
