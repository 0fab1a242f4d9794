"""The same seed gives the same numbers: with one thread or two, and with the data in another order.

What repeats byte for byte is compared so; the rest is named here and in the README. Whole runs are
repeated in `tests/notebooks/test_smoke_profile.py`, the frame store's bytes with other numbers of
processes in `tests/data_prep/test_frame_store.py`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
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


def main(folder: str, threads: int) -> None:
    """All of it, with a number of threads, into files."""
    torch.set_num_threads(threads)
    for name in ORDERS:
        shuffled = name == "shuffled"
        save(Path(folder, f"features_{name}.npz"), features(shuffled))
        for kind, table in swept(Path(folder, f"cells_{name}"), shuffled).items():
            table.to_pickle(Path(folder, f"{kind}_{name}.pkl"))
    for which, micro_batch in {"whole": None, "micro": 5}.items():
        save(Path(folder, f"trained_{which}.npz"), trained(micro_batch))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The work's files by number of threads, each made by a process of its own."""
    folders = {threads: tmp_path_factory.mktemp(f"threads_{threads}") for threads in (1, 2)}
    for threads, folder in folders.items():
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, str(folder), str(threads)]
        subprocess.run(command, env=environment, check=True)
    return folders


def save(file: Path, content: dict[str, Any]) -> None:
    np.savez(file, **content)


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def cells(folder: Path, order: str) -> dict[str, bytes]:
    """The results store's files."""
    root = folder / f"cells_{order}"
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# With another number of threads


@pytest.mark.parametrize("order", ["plain", "shuffled"])
def test_two_threads_give_the_same_features_and_results(done: dict[int, Path], order: str) -> None:
    one, two = (arrays(done[threads], f"features_{order}") for threads in (1, 2))
    for name in one:
        if platform.machine() in ("x86_64", "AMD64"):  # what was measured
            np.testing.assert_array_equal(two[name], one[name], err_msg=name)
        np.testing.assert_allclose(two[name], one[name], atol=1e-6, err_msg=name)
    found = [cells(done[threads], order) for threads in (1, 2)]
    assert len(found[0]) == 20 and found[0] == found[1]


@pytest.mark.parametrize("which", ["whole", "micro"])
def test_two_threads_train_the_same_student_up_to_rounding(
    done: dict[int, Path], which: str
) -> None:
    """A named exception: sums over a batch's gradients are added in another order."""
    one, two = (arrays(done[threads], f"trained_{which}") for threads in (1, 2))
    same_up_to_rounding(one, two)


def test_micro_batches_train_the_same_student_up_to_rounding(done: dict[int, Path]) -> None:
    """A named exception, too."""
    same_up_to_rounding(*(arrays(done[1], f"trained_{which}") for which in ("whole", "micro")))


def same_up_to_rounding(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    # The first distillation loss, of equal models, is 0 but for rounding, times the squared scale.
    slack = 1e-6 / (RECIPE.teacher_temperature or 1) ** 2
    np.testing.assert_allclose(one.pop("losses"), two.pop("losses"), rtol=1e-5, atol=slack)
    for name, weights in one.items():
        # A bias of attention's keys changes nothing, so its gradient is rounding alone; AdamW makes
        # steps of full size of it.
        step = RECIPE.learning_rate
        slack = 2 * RECIPE.steps * step if name.endswith("in_proj_bias") else 0.2 * step
        np.testing.assert_allclose(two[name], weights, atol=slack, err_msg=name)
        assert np.median(np.abs(two[name] - weights)) < 1e-2 * step, name


def test_a_process_trains_the_same_student_as_another(done: dict[int, Path]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        here = trained()
    finally:
        torch.set_num_threads(before)
    there = arrays(done[1], "trained_whole")
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)


# With the data in another order


@pytest.mark.parametrize("threads", [1, 2])
def test_another_order_gives_the_same_results(done: dict[int, Path], threads: int) -> None:
    """Of clips, captions, classes of equal features, data sets, students and alphas."""
    plain, shuffled = (cells(done[threads], order) for order in ("plain", "shuffled"))
    assert plain == shuffled
    for kind in ("outcomes", "metrics"):
        tables = [pd.read_pickle(done[threads] / f"{kind}_{order}.pkl") for order in ORDERS]
        pd.testing.assert_frame_equal(*tables)
    outcomes = pd.read_pickle(done[threads] / "outcomes_plain.pkl")
    assert len(outcomes) == (1 + 2 * 2) * 3 * CLIPS
    acted = outcomes[outcomes["direction"] == "classification"]
    tied = acted["rank"] % 1 != 0
    assert tied.any() and not tied.all()  # so the order of tied classes was put to the test


def test_another_order_gives_the_same_features(done: dict[int, Path]) -> None:
    """Of texts byte for byte; of clips, which are encoded in their table's order, to rounding."""
    plain, shuffled = (arrays(done[1], f"features_{order}") for order in ORDERS)
    for name in ("texts", "classes"):
        np.testing.assert_array_equal(shuffled[name], plain[name], err_msg=name)
    np.testing.assert_allclose(shuffled["videos"], plain["videos"], atol=1e-6)
    assert np.ptp(plain["videos"], axis=0).max() > 0.01  # the clips are told apart


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
