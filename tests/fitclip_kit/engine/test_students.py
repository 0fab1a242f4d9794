"""Students on disk, trained once and again when something they follow from changed; and studies."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fitclip_core import zero_shot
from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, StudentFit, fit_student
from fitclip_kit.engine import students
from fitclip_kit.engine.measure import EvaluationSet, measure, sweep_cells
from fitclip_kit.engine.students import (
    Study,
    TrainedStudent,
    Training,
    keep_released,
    kept_recipe,
    load,
    seed_of,
    share_trainings,
    subset_rows,
    subset_trainings,
    train,
    train_and_measure,
)
from fitclip_kit.store.files import file_sha256, read_manifest
from fitclip_kit.store.results import ResultsStore
from fitclip_kit.weights.foreign_checkpoints import Checkpoint
from fitclip_kit.weights.models import LoadedModel
from tests.make import SIZE, RandomClips, labelled_clips, tiny_encoder

NOTHING: Any = None
INPUTS = {"teacher": "sha of the teacher"}
TOLD: dict[str, Any] = {"learning_rate": 1e-3, "temperature": 0.1, "labelled_share": 0.9}
RECIPE = Recipe(steps=4, validate_every=2, seed=1, labelled_batch=3, unlabelled_batch=2, **TOLD)
HISTORY = pd.DataFrame(
    [(0, np.nan, np.nan, np.pi), (1, 1 / 3, np.nan, np.nan), (2, 0.1 + 0.2, np.nan, np.e)],
    columns=["step", "labelled_loss", "distillation_loss", "validation_loss"],
)


def training_clips(n: int, seed: int) -> TrainingClips:
    frames: Any = RandomClips(n, seed)
    frames.data = np.random.default_rng(seed).integers(0, 256, (n, 2, 2, SIZE, SIZE, 3), np.uint8)
    return TrainingClips(frames, [f"{chr(97 + i)}{seed}" for i in range(n)])


def evaluation_set(name: str, seed: int) -> EvaluationSet:
    frames = RandomClips(6, seed)
    table = pd.DataFrame({"clip_id": frames.clip_ids, "text": [f"{c} clip" for c in "abcdef"]})
    return EvaluationSet(name, table, frames, protocol={"clips_table": name})


POOL, UNLABELLED, VALIDATION = training_clips(9, 1), training_clips(4, 2), labelled_clips(5, 3)
DATA_SETS = [evaluation_set("webvid_val", 4), evaluation_set("msrvtt", 5)]


def teacher() -> LoadedModel:
    return LoadedModel(tiny_encoder(0), "sha of the teacher", {})


# one student


class Fits:
    """Counts its calls; each gives other weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.changes: dict[str, Any] = {}
        monkeypatch.setattr(students, "fit_student", self)

    def __call__(self, *_: Any, **options: Any) -> StudentFit:
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        state = {"weight": torch.randn(3, 2, generator=generator), "steps": torch.tensor(7)}
        return StudentFit(**{"state": state, "history": HISTORY, "best_step": 2, **self.changes})


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    return Fits(monkeypatch)


def run(folder: Path, **changes: Any) -> TrainedStudent:
    described = {"draw": 1, "labelled_clips": 9, "recipe": RECIPE, "labelled": None}
    training = Training(**{"folder": folder / "draw_1", **described, "inputs": INPUTS, **changes})
    return train(training, NOTHING, NOTHING, NOTHING)


def test_a_student_is_fitted_once_and_knows_how_it_was_trained(tmp_path: Path, fits: Fits) -> None:
    fits.changes = {"material": {"labelled_clips": 9}, "computed": {"device": "cuda"}}
    first, second = run(tmp_path), run(tmp_path)
    fits.changes["computed"] = {"device": "cpu"}  # noted, and not asked for
    third, folder = run(tmp_path), tmp_path / "draw_1"
    assert fits.calls == 1
    for trained in (first, second, third, load(folder, 1)):
        found = trained.student
        assert (found.draw, found.sampling) == (1, "main")
        assert (found.labelled_clips, found.labelled_share) == (9, 0.9)
        assert found.sha256 == file_sha256(folder / "student.safetensors")
        expected = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
        assert torch.equal(found.state["weight"], expected) and found.state["steps"] == 7
        assert trained.best_step == 2
        pd.testing.assert_frame_equal(trained.history, HISTORY, check_exact=True)
        record = {**asdict(RECIPE), "best_step": 2, "material": {"labelled_clips": 9}}
        assert found.training == json.loads(json.dumps(record))
    assert read_manifest(folder)["details"]["device"] == "cuda"
    assert kept_recipe(folder) == RECIPE
    files = {path.name for path in folder.iterdir()}
    assert files == {"student.safetensors", "history.csv", "manifest.json"}


@pytest.mark.parametrize(
    "change",
    [
        *({"recipe": replace(RECIPE, seed=2)}, {"recipe": replace(RECIPE, crop_scale=(0.6, 1.0))}),
        *({"recipe": replace(RECIPE, teacher_temperature=1)}, {"inputs": {"teacher": "other"}}),
        *({"inputs": INPUTS | {"frames": "new"}}, {"draw": 2}, {"labelled_clips": 8}),
        {"sampling": "nested"},
    ],
)
def test_what_changed_is_fitted_again(tmp_path: Path, fits: Fits, change: Any) -> None:
    run(tmp_path)
    for _ in range(2):
        run(tmp_path, **change)
    assert fits.calls == 2


def test_other_code_is_fitted_again(
    tmp_path: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    monkeypatch.setattr(students, "code_digest", lambda *modules: "other code")
    run(tmp_path)
    assert fits.calls == 2
    monkeypatch.undo()
    run(tmp_path, reused=True)  # of a student that is another notebook's the code may be old


def test_a_damaged_failed_or_other_student_is_no_student(
    tmp_path: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "draw_1"
    fits.changes = {"state": {"weight": torch.tensor([torch.nan])}}
    with pytest.raises(ValueError, match="weight holds NaN"):
        run(tmp_path)
    fits.changes = {}
    run(tmp_path)
    with pytest.raises(ValueError, match="holds draw 1, not 3"):
        load(folder, 3)
    for name in ("student.safetensors", "history.csv", "manifest.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-2] + b"xx")
        with pytest.raises(ValueError, match=r"no student in .*run the training again"):
            load(folder, 1)
        run(tmp_path)
    assert fits.calls == 5
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(students, "write_manifest", lambda *_, **options: 1 // 0)
        run(tmp_path, recipe=replace(RECIPE, seed=5))
    with pytest.raises(ValueError, match="other bytes"):
        load(folder, 1)


def released(number: float, **further: torch.Tensor) -> Checkpoint:
    state = {"weight": torch.full((2,), number), "logit_scale": torch.tensor(torch.nan), **further}
    return Checkpoint(kind="fitclip_student", state=state, left_out={}, sha256=f"sha of {number}")


def test_a_released_student_is_kept_without_its_logit_scale(tmp_path: Path) -> None:
    kept = keep_released(tmp_path, released(1.0), 4500, 0.9999)
    before = (tmp_path / "student.safetensors").stat().st_mtime_ns
    for found in (kept, keep_released(tmp_path, released(1.0), 4500, 0.9999), load(tmp_path, 0)):
        student = found.student
        assert (student.draw, student.labelled_clips, student.labelled_share) == (0, 4500, 0.9999)
        assert student.state.keys() == {"weight"} and student.state["weight"].tolist() == [1, 1]
        assert student.sha256 == file_sha256(tmp_path / "student.safetensors")
        assert student.training == {"released": "fitclip_student"}
        assert found.history.empty and found.best_step == 0
    assert (tmp_path / "student.safetensors").stat().st_mtime_ns == before
    other = keep_released(tmp_path, released(2.0), 4500, 0.9999).student.state
    assert other["weight"].tolist() == [2, 2]
    with pytest.raises(ValueError, match="was not trained here, so its recipe is not known"):
        kept_recipe(tmp_path)
    with pytest.raises(ValueError, match="bias"):
        keep_released(tmp_path, released(3.0, bias=torch.tensor([torch.inf])), 4500, 0.9999)


# subsets


@given(st.data(), st.integers(1, 40), st.integers(0, 499))
def test_a_subset_is_that_many_rows_of_the_pool_and_nested_ones_hold_the_smaller(data, pool, draw):
    small, large = sorted(data.draw(st.lists(st.integers(1, pool), min_size=2, max_size=2)))
    for sampling in ("independent", "nested"):
        for n in (small, large):
            rows = subset_rows(pool, n, draw, sampling)
            assert rows.dtype == np.int64 and len(rows) == n
            assert rows.tolist() == sorted(set(rows.tolist()))
            assert min(rows) >= 0 and max(rows) < pool
            assert np.array_equal(rows, subset_rows(pool, n, draw, sampling))
    nested = [set(subset_rows(pool, n, draw, "nested")) for n in (small, large)]
    assert nested[0] <= nested[1]


def test_every_row_is_as_likely_and_independent_sizes_share_no_more_than_chance():
    pool, n, more, draws = 20, 5, 10, 400
    for sampling in ("independent", "nested"):
        taken = [subset_rows(pool, n, draw, sampling) for draw in range(draws)]
        counts = np.bincount(np.concatenate(taken), minlength=pool)
        expected, spread = draws * n / pool, np.sqrt(draws * n / pool * (1 - n / pool))
        assert np.abs(counts - expected).max() < 4 * spread
    larger = [subset_rows(pool, more, draw, "independent") for draw in range(draws)]
    smaller = [subset_rows(pool, n, draw, "independent") for draw in range(draws)]
    shared = [len(set(few) & set(many)) for few, many in zip(smaller, larger, strict=True)]
    # Hypergeometric: mean 2.5, standard deviation 0.99; of the mean of 400 draws 0.05.
    assert np.mean(shared) == pytest.approx(n * more / pool, abs=0.2)


def test_seeds_are_those_that_students_were_always_trained_with():
    seeds = [seed_of(2, sampling) for sampling in ("main", "independent", "nested")]
    assert seeds == [2, 502, 1002]
    assert subset_rows(9, 4, 0, "nested").tolist() == [2, 3, 4, 7]
    assert subset_rows(9, 4, 0, "independent").tolist() == [0, 5, 6, 8]


# studies


def sizes_of(folder: Path, sizes: tuple[int, ...] = (3, 6), **options: Any) -> list[Training]:
    draws = options.pop("draws", {"independent": [0], "nested": [0]})
    return subset_trainings(folder, POOL, RECIPE, 6, sizes, draws, INPUTS, **options)


def shares_of(folder: Path, kept: Path, *shares: float, **options: Any) -> list[Training]:
    inputs = options.pop("inputs", INPUTS)
    return share_trainings(folder, kept, 1, POOL, 9, list(shares), inputs, **options)


def studied(trainings: list[Training], folder: Path, **changes: Any) -> Study:
    given: dict[str, Any] = {"teacher": teacher(), "unlabelled": UNLABELLED, **changes}
    told = (VALIDATION, [0.4, 1.0], DATA_SETS, ResultsStore(folder / "results"))
    return train_and_measure(trainings, given["teacher"], given["unlabelled"], *told)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A student as notebook 03 keeps it."""
    told: dict[str, Any] = {"draw": 1, "labelled_clips": 9, "labelled": POOL, "inputs": INPUTS}
    training = Training(folder=tmp_path / "03" / "draw_1", recipe=RECIPE, **told)
    train(training, tiny_encoder(0), UNLABELLED, VALIDATION)
    return training.folder


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order: trainings and measured cells."""
    log: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            log.append(name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(students, "fit_student", counting("fit", fit_student))
    monkeypatch.setattr(zero_shot, "evaluate", counting("cell", zero_shot.evaluate))
    return log


def test_a_subset_study_scales_steps_with_the_clips(tmp_path):
    trainings = sizes_of(tmp_path, (1, 3, 9))
    samplings = ("independent", "nested")
    assert [one.folder.name for one in trainings] == [
        f"size_{size:05d}_{sampling}_0" for sampling in samplings for size in (1, 3, 9)
    ]
    # The recipe has 4 steps for 6 clips, and a validation every 2.
    assert [one.recipe.steps for one in trainings[:3]] == [1, 2, 6]
    assert [one.recipe.validate_every for one in trainings[:3]] == [1, 1, 3]
    assert [one.recipe.steps for one in sizes_of(tmp_path, (1, 9), steps="fixed")] == [4] * 4
    for one in trainings:
        assert one.recipe.labelled_share == 1
        assert one.recipe.seed == seed_of(one.draw, one.sampling)
        rows = subset_rows(9, one.labelled_clips, 0, one.sampling)
        assert one.labelled is not None
        assert one.labelled.texts == [POOL.texts[row] for row in rows]
        assert one.labelled.indices.tolist() == POOL.indices[rows].tolist()
    assert len({one.inputs["labelled clips"] for one in trainings}) == 5  # all 9 of 9 are one set
    pool = TrainingClips(POOL.frames, ["d", "b", "h"], np.array([3, 1, 7]))
    (one,) = subset_trainings(tmp_path, pool, RECIPE, 6, [2], {"nested": [4]}, INPUTS)
    assert one.labelled is not None
    assert one.labelled.texts == [chr(97 + index) for index in one.labelled.indices]


def test_a_study_trains_and_measures_once_and_goes_on_where_it_was(tmp_path, done):
    model, trainings = teacher(), sizes_of(tmp_path)
    before = {name: value.clone() for name, value in tiny_encoder(0).state().items()}
    first = studied(trainings[:2], tmp_path, teacher=model, unlabelled=None)
    # The teacher's cells, then two alphas on two data sets as soon as a student is there.
    assert done == ["cell"] * 2 + ["fit", *["cell"] * 4] * 2
    state = model.encoder.state()
    assert all(torch.equal(before[name], value) for name, value in state.items())
    done.clear()
    whole = studied(trainings, tmp_path)
    assert done == ["fit", *["cell"] * 4] * 2
    assert whole.cells[: len(first.cells)] == first.cells
    assert len(set(whole.cells)) == len(whole.cells) == 2 + 4 * 4
    places = {(cell.sampling, cell.labelled_clips, cell.draw) for cell in whole.cells[2:]}
    assert places == {(kind, size, 0) for kind in ("independent", "nested") for size in (3, 6)}
    table = whole.students
    assert table["labelled_clips"].tolist() == [3, 6, 3, 6]
    assert table["sampling"].tolist() == ["independent"] * 2 + ["nested"] * 2
    assert table["steps"].tolist() == [2, 4, 2, 4]
    assert table["loss_before"].nunique() == 1 and table["weights"].nunique() == 4
    for row, training in zip(table.itertuples(), trainings, strict=True):
        losses = pd.read_csv(training.folder / "history.csv").set_index("step")["validation_loss"]
        assert row.best_step == losses.drop(0).idxmin()
        assert (row.loss_kept, row.loss_before) == (losses.drop(0).min(), losses[0])
    done.clear()
    assert studied(trainings, tmp_path).cells == whole.cells and done == []


def test_a_study_of_shares_reuses_the_student_that_is_there(tmp_path, kept, done):
    trainings = shares_of(tmp_path / "06", kept, 0.0, 0.1, 0.5)
    assert [one.reused for one in trainings] == [False, True, False]
    assert [one.recipe.labelled_share for one in trainings] == [1.0, 0.9, 0.5]
    names = ["share_0_draw_1", "draw_1", "share_0.5_draw_1"]
    assert [one.folder.name for one in trainings] == names
    files = {file: file.read_bytes() for file in kept.iterdir()}
    study = studied(trainings, tmp_path)
    assert done.count("fit") == 2
    assert {file: file.read_bytes() for file in kept.iterdir()} == files
    assert study.students["labelled_share"].tolist() == [1.0, 0.9, 0.5]
    assert {cell.labelled_clips for cell in study.cells if cell.alpha} == {9}
    both = (tiny_encoder(0), tiny_encoder(0))
    recipe = replace(RECIPE, labelled_share=0.5)
    alone = fit_student(*both, POOL, UNLABELLED, VALIDATION, recipe).state
    state = load(trainings[2].folder, 1).student.state
    assert all(torch.equal(alone[name], state[name]) for name in alone)
    # The cells of the reused student are those that a sweep over it measures.
    done.clear()
    student = load(kept, 1).student
    swept = sweep_cells([one.name for one in DATA_SETS], [student], [0.4, 1.0])
    store = ResultsStore(tmp_path / "results")
    measure(swept, teacher(), DATA_SETS, store, students=[student])
    assert done == [] and set(swept) == {cell for cell in study.cells if cell.labelled_share == 0.9}
    assert store.record(swept[0])["protocol"]["training"]["steps"] == RECIPE.steps
    other = shares_of(tmp_path, kept, 0.1, inputs={"teacher": "another"})
    with pytest.raises(ValueError, match=r"not of this study.*teacher.*run the notebook"):
        studied(other, tmp_path)


def test_shares_have_the_teacher_temperature_that_is_asked_for(tmp_path, kept):
    found = shares_of(tmp_path, kept, 0.0, 0.5)
    assert [one.recipe.teacher_temperature for one in found] == [0.015, 0.015]
    for temperature in (None, 0.02):
        found = shares_of(tmp_path, kept, 0.0, 0.5, teacher_temperature=temperature)
        assert [one.recipe for one in found] == [
            replace(RECIPE, labelled_share=share, teacher_temperature=temperature)
            for share in (1.0, 0.5)
        ]
        with pytest.raises(ValueError, match=r"temperature 0\.015 .* asks for .* share, 0\.1;"):
            shares_of(tmp_path, kept, 0.0, 0.1, teacher_temperature=temperature)


def test_studies_that_make_no_sense_are_refused(tmp_path, kept):
    one, other = sizes_of(tmp_path)[:2]
    for make, problem in {
        lambda: sizes_of(tmp_path, (3, 12)): "12 clips are wanted and there are 9",
        lambda: sizes_of(tmp_path, (3, 3)): "sizes are repeated",
        lambda: sizes_of(tmp_path, draws={"nested": [1, 1]}): "nested are repeated",
        lambda: sizes_of(tmp_path, steps="epochs"): "steps is 'epochs'; use proportional",
        lambda: shares_of(tmp_path, kept, 0.1, 0.1): "shares are repeated",
        lambda: shares_of(tmp_path, kept, -0.5): r"labelled_share is 1\.5",
        lambda: studied([], tmp_path): "nothing to train",
        lambda: subset_rows(5, 0, 0, "nested"): "0 clips are wanted and there are 5",
        lambda: subset_rows(5, 3, -1, "nested"): "draw -1 is not among 0 to 499",
        lambda: subset_rows(5, 3, 500, "nested"): "draw 500 is not among",
        lambda: subset_rows(5, 3, 0, "random"): "sampling is 'random'; use one of",
        lambda: studied(
            [one, replace(other, folder=one.folder)], tmp_path
        ): "folders of trainings are repeated",
        lambda: studied([one, replace(one, folder=tmp_path / "elsewhere")], tmp_path): (
            "cells of trainings are repeated"
        ),
    }.items():
        with pytest.raises(ValueError, match=problem):
            make()
