"""Studies: which clips a subset takes, and students that are trained and measured once."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from figures.subset_size import sampling_of
from fitclip_core import zero_shot
from fitclip_core.distillation import Recipe, TrainingClips, fit_student
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import studies, sweep
from fitclip_kit.engine.students import fit_or_load, keep_released
from fitclip_kit.engine.studies import (
    Study,
    Training,
    kept_recipe,
    seed_of,
    share_trainings,
    subset_rows,
    subset_trainings,
    train_and_measure,
)
from fitclip_kit.engine.sweep import EvaluationSet, sweep_alphas
from fitclip_kit.store.results import FIRST_SEEDS, ResultsStore
from fitclip_kit.weights.foreign_checkpoints import Checkpoint

SIZE = 8
SAMPLINGS = st.sampled_from(["independent", "nested"])
RECIPE = Recipe(
    steps=4,
    validate_every=2,
    seed=1,
    learning_rate=1e-3,
    temperature=0.1,
    labelled_share=0.9,
    labelled_batch=3,
    unlabelled_batch=2,
)
INPUTS = {"teacher": "sha of the teacher"}


class Clips:
    """Random clips of two frames, with `draws` frames an interval (None: evaluation form)."""

    def __init__(self, n: int, seed: int, draws: int | None = None) -> None:
        self.clip_ids = [f"clip{i}" for i in range(n)]
        self.frame_counts = np.full(n, 2)
        shape = (n, 2, *([] if draws is None else [draws]), SIZE, SIZE, 3)
        self.data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.data[indices]


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[*map(ord, text.ljust(5)[:5]), 127] for text in texts])


def new_encoder() -> ClipEncoder:
    torch.manual_seed(0)
    vision = {"image_size": SIZE, "layers": 1, "width": 16, "patch_size": 4, "head_width": 8}
    text = {"context_length": 6, "vocab_size": 128, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    return ClipEncoder(
        model, letters, image_size=SIZE, mean=(0.5,) * 3, std=(0.3,) * 3, name="tiny"
    )


def training_clips(n: int, seed: int, draws: int | None = 2) -> TrainingClips:
    return TrainingClips(Clips(n, seed, draws), [f"{chr(97 + i)}{seed}" for i in range(n)])


def evaluation_set(name: str, seed: int) -> EvaluationSet:
    frames = Clips(6, seed)
    table = pd.DataFrame({"clip_id": frames.clip_ids, "text": [f"{c} clip" for c in "abcdef"]})
    return EvaluationSet(name, table, frames, protocol={"clips_table": name})


POOL = training_clips(9, seed=1)
UNLABELLED = training_clips(4, seed=2)
VALIDATION = training_clips(5, seed=3, draws=None)
DATA_SETS = [evaluation_set("webvid_val", 4), evaluation_set("msrvtt", 5)]


def measure(
    trainings: list[Training],
    folder: Path,
    encoder: ClipEncoder | None = None,
    unlabelled: TrainingClips | None = UNLABELLED,
) -> Study:
    return train_and_measure(
        trainings,
        encoder or new_encoder(),
        "sha of the teacher",
        unlabelled,
        VALIDATION,
        [0.4, 1.0],
        DATA_SETS,
        ResultsStore(folder / "results"),
    )


def sizes_of(folder: Path, sizes: tuple[int, ...] = (3, 6), **options: Any) -> list[Training]:
    draws = {"independent": [0], "nested": [0]}
    return subset_trainings(folder, POOL, RECIPE, 6, sizes, draws, INPUTS, **options)


def keep(folder: Path, draw: int = 1, inputs: dict[str, str] = INPUTS) -> Path:
    """A student as notebook 03 keeps it."""

    def fit() -> Any:
        return fit_student(new_encoder(), new_encoder(), POOL, UNLABELLED, VALIDATION, RECIPE)

    fit_or_load(folder / f"draw_{draw}", draw, RECIPE, inputs, fit)
    return folder / f"draw_{draw}"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order: trainings and measured cells."""
    log: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            log.append(name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(studies, "fit_student", counting("fit", fit_student))
    monkeypatch.setattr(sweep.zero_shot, "evaluate", counting("cell", zero_shot.evaluate))
    return log


@given(st.data(), st.integers(1, 40), st.integers(0, 499), SAMPLINGS)
def test_a_subset_is_that_many_rows_of_the_pool(data, pool, draw, sampling):
    n = data.draw(st.integers(1, pool))
    rows = subset_rows(pool, n, draw, sampling)
    assert rows.dtype == np.int64
    assert len(rows) == n == len(set(rows.tolist()))
    assert rows.tolist() == sorted(rows.tolist())
    assert min(rows) >= 0 and max(rows) < pool
    assert np.array_equal(rows, subset_rows(pool, n, draw, sampling))


@given(st.data(), st.integers(2, 60), st.integers(0, 499))
def test_nested_subsets_hold_the_smaller_ones(data, pool, draw):
    small, large = sorted(data.draw(st.lists(st.integers(1, pool), min_size=2, max_size=2)))
    assert set(subset_rows(pool, small, draw, "nested")) <= set(
        subset_rows(pool, large, draw, "nested")
    )


def test_independent_subsets_of_two_sizes_share_no_more_than_chance():
    pool, small, large = 1000, 100, 300
    shared = [
        len(
            set(subset_rows(pool, small, draw, "independent"))
            & set(subset_rows(pool, large, draw, "independent"))
        )
        for draw in range(100)
    ]
    # Hypergeometric: mean 30, standard deviation 4.4; of the mean of 100 draws 0.44.
    assert np.mean(shared) == pytest.approx(small * large / pool, abs=4 * 0.44)
    assert np.std(shared) == pytest.approx(4.35, abs=1.5)


@pytest.mark.parametrize("sampling", ["independent", "nested"])
def test_every_row_is_as_likely(sampling):
    pool, n, draws = 20, 5, 400
    counts = np.zeros(pool)
    for draw in range(draws):
        counts[subset_rows(pool, n, draw, sampling)] += 1
    expected, spread = draws * n / pool, np.sqrt(draws * n / pool * (1 - n / pool))
    assert np.abs(counts - expected).max() < 4 * spread


def test_draws_and_ways_of_sampling_take_other_rows():
    taken = {
        (draw, sampling): tuple(subset_rows(50, 25, draw, sampling))
        for draw in range(20)
        for sampling in ("independent", "nested")
    }
    assert len(set(taken.values())) == len(taken)


@pytest.mark.parametrize("n", [-1, 0, 6])
def test_a_subset_beyond_the_pool_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} clips are wanted and there are 5; ask for 1 to 5"):
        subset_rows(5, n, 0, "nested")


@pytest.mark.parametrize("draw", [0, 1, 499])
@pytest.mark.parametrize("sampling", ["independent", "nested"])
def test_seeds_tell_the_way_of_sampling_and_are_no_draws_of_notebook_3(draw, sampling):
    seed = seed_of(draw, sampling)
    assert sampling_of(seed) == sampling
    assert seed >= 500
    assert len({seed_of(one, kind) for one in range(500) for kind in FIRST_SEEDS}) == 1000


def test_other_draws_and_samplings_are_refused():
    for draw in (-1, 500):
        with pytest.raises(ValueError, match=f"draw {draw} is not among 0 to 499"):
            seed_of(draw, "nested")
    with pytest.raises(ValueError, match="sampling is 'random'; use one of independent, nested"):
        seed_of(0, "random")


def test_a_subset_study_scales_steps_with_the_clips(tmp_path):
    trainings = sizes_of(tmp_path, (1, 3, 9))
    assert [one.folder.name for one in trainings] == [
        f"size_{size:05d}_{sampling}_0"
        for sampling in ("independent", "nested")
        for size in (1, 3, 9)
    ]
    # The recipe has 4 steps for 6 clips, and a validation every 2.
    assert [one.recipe.steps for one in trainings[:3]] == [1, 2, 6]
    assert [one.recipe.validate_every for one in trainings[:3]] == [1, 1, 3]
    assert [one.recipe.steps for one in sizes_of(tmp_path, (1, 9), steps="fixed")] == [4] * 4
    for one in trainings:
        assert one.recipe.labelled_share == 1
        assert one.recipe.seed == one.seed
        sampling = sampling_of(one.seed)
        rows = subset_rows(9, one.subset_size, 0, sampling)
        assert one.labelled is not None
        assert one.labelled.texts == [POOL.texts[row] for row in rows]
        assert one.labelled.indices.tolist() == POOL.indices[rows].tolist()
    assert len({one.inputs["labelled clips"] for one in trainings}) == 5  # all 9 of 9 are one set


def test_a_subset_of_a_pool_that_lacks_clips_keeps_texts_and_frames_together(tmp_path):
    pool = TrainingClips(POOL.frames, ["d", "b", "h"], np.array([3, 1, 7]))
    (one,) = subset_trainings(tmp_path, pool, RECIPE, 6, [2], {"nested": [4]}, INPUTS)
    assert one.labelled is not None
    places = [chr(97 + index) for index in one.labelled.indices]
    assert one.labelled.texts == places and len(places) == 2


def test_a_subset_study_refuses_what_makes_no_sense(tmp_path):
    with pytest.raises(ValueError, match="12 clips are wanted and there are 9"):
        sizes_of(tmp_path, (3, 12))
    with pytest.raises(ValueError, match="sizes are repeated"):
        sizes_of(tmp_path, (3, 3))
    with pytest.raises(ValueError, match="nested are repeated"):
        subset_trainings(tmp_path, POOL, RECIPE, 6, [3], {"nested": [1, 1]}, INPUTS)
    with pytest.raises(ValueError, match="steps is 'epochs'; use one of proportional, fixed"):
        sizes_of(tmp_path, steps="epochs")


def test_a_study_trains_and_measures_once(tmp_path, done):
    encoder = new_encoder()
    before = {name: value.clone() for name, value in encoder.state().items()}
    first = measure(sizes_of(tmp_path), tmp_path, encoder, unlabelled=None)
    # The teacher's cells, then two alphas on two data sets as soon as a student is there.
    assert done == ["cell"] * 2 + ["fit", *["cell"] * 4] * 4
    assert all(torch.equal(before[name], value) for name, value in encoder.state().items())
    assert len(first.keys) == len(set(first.keys)) == 2 + 4 * 4
    assert [key.model for key in first.keys[:2]] == ["teacher"] * 2
    assert {(key.label_share, key.subset_size, key.seed) for key in first.keys[2:]} == {
        (1.0, size, seed) for size in (3, 6) for seed in (500, 1000)
    }
    table = first.students
    assert table["subset_size"].tolist() == [3, 6, 3, 6]
    assert table["seed"].tolist() == [500, 500, 1000, 1000]
    assert table["steps"].tolist() == [2, 4, 2, 4]
    assert table["loss_before"].nunique() == 1
    assert table["weights"].nunique() == 4
    done.clear()
    second = measure(sizes_of(tmp_path), tmp_path)
    assert done == []
    assert second.keys == first.keys
    pd.testing.assert_frame_equal(second.students, table)


def test_what_is_unfinished_is_known_before_anything_is_done(tmp_path, done):
    trainings = sizes_of(tmp_path)
    results = ResultsStore(tmp_path / "results")

    def left(**changes: Any) -> list[str]:
        given: dict[str, Any] = {"alphas": [0.4, 1.0], "data_sets": DATA_SETS, "results": results}
        given |= {"trainings": trainings, "teacher_sha256": "sha of the teacher", **changes}
        return [one.folder.name for one in studies.unfinished(**given)]

    names = [one.folder.name for one in trainings]
    assert studies.untrained(trainings) == trainings and left() == names
    student = studies.train(trainings[1], new_encoder(), None, VALIDATION)
    assert student.trained_now and done == ["fit"]
    assert studies.untrained(trainings) == [trainings[0], *trainings[2:]] and left() == names
    measure(trainings, tmp_path)
    assert done.count("fit") == len(trainings)
    assert studies.untrained(trainings) == [] and left() == []
    assert left(alphas=[0.4, 0.5]) == left(model={"architecture": "another"}) == names
    again = replace(trainings[0], inputs={"teacher": "another"})
    assert left(trainings=[again, *trainings[1:]]) == names[:1]
    reused = replace(trainings[0], reused=True)
    assert studies.untrained([reused]) == []
    shutil.rmtree(trainings[0].folder)
    assert studies.untrained([reused, trainings[1]]) == [reused]
    with pytest.raises(ValueError, match="run the notebook that trains it again"):
        studies.train(reused, new_encoder(), None, VALIDATION)


def test_the_table_tells_the_kept_step_and_its_loss(tmp_path):
    table = measure(sizes_of(tmp_path), tmp_path).students
    for row, training in zip(table.itertuples(), sizes_of(tmp_path), strict=True):
        history = pd.read_csv(training.folder / "history.csv").set_index("step")
        validated = history["validation_loss"].drop(0)
        assert row.best_step == validated.idxmin()
        assert row.loss_kept == validated.min()
        assert row.loss_before == history["validation_loss"][0]


def test_a_study_goes_on_where_it_was_stopped(tmp_path, done, monkeypatch):
    whole = measure(sizes_of(tmp_path / "whole"), tmp_path / "whole").keys
    write = ResultsStore.write
    written: list[Any] = []

    def killed(store: ResultsStore, key: Any, *rest: Any) -> None:
        if len(written) == 2 + 4 + 1:
            raise KeyboardInterrupt
        written.append(key)
        write(store, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ResultsStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(sizes_of(tmp_path), tmp_path)
    done.clear()
    keys = measure(sizes_of(tmp_path), tmp_path).keys
    assert done == ["cell"] * 3 + ["fit", *["cell"] * 4] * 2
    assert keys == whole
    stores = [ResultsStore(one / "results") for one in (tmp_path, tmp_path / "whole")]
    pd.testing.assert_frame_equal(stores[0].outcomes(keys), stores[1].outcomes(keys))


def test_other_clips_or_another_recipe_train_again(tmp_path, done):
    one = sizes_of(tmp_path)[0]
    measure([one], tmp_path)
    for other in (
        replace(one, inputs={**one.inputs, "labelled clips": "others"}),
        replace(one, recipe=replace(one.recipe, learning_rate=2e-3)),
    ):
        done.clear()
        measure([other], tmp_path)
        assert done.count("fit") == 1


def test_a_study_of_shares_reuses_the_student_that_is_there(tmp_path, done):
    kept = keep(tmp_path / "03")
    shares = [0.0, 0.1, 0.5]
    trainings = share_trainings(tmp_path / "06", kept, 1, POOL, 9, shares, INPUTS)
    assert [one.reused for one in trainings] == [False, True, False]
    assert [one.recipe.labelled_share for one in trainings] == [1.0, 0.9, 0.5]
    assert [one.folder.name for one in trainings] == [
        "share_0_draw_1",
        "draw_1",
        "share_0.5_draw_1",
    ]
    files = {file: file.read_bytes() for file in kept.iterdir()}
    done.clear()
    study = measure(trainings, tmp_path)
    assert done.count("fit") == 2
    assert {file: file.read_bytes() for file in kept.iterdir()} == files
    assert study.students["label_share"].tolist() == [1.0, 0.9, 0.5]
    assert {key.subset_size for key in study.keys if key.alpha} == {9}

    # The cells of the reused student are those that a sweep over it measures.
    store = ResultsStore(tmp_path / "results")
    keys = [key for key in study.keys if key.label_share == 0.9]
    before = store.digest(keys)
    done.clear()
    swept = sweep_alphas(
        new_encoder(),
        "sha of the teacher",
        [studies.students.load(kept, 1).student],
        [0.4, 1.0],
        DATA_SETS,
        store,
        label_share=0.9,
        subset_size=9,
    )
    assert done == []
    assert set(swept) == set(keys)
    assert store.digest(keys) == before


def test_a_student_of_a_study_is_the_one_that_is_fitted_alone(tmp_path):
    trainings = share_trainings(tmp_path / "06", keep(tmp_path), 1, POOL, 9, [0.5], INPUTS)
    measure(trainings, tmp_path)
    recipe = replace(RECIPE, labelled_share=0.5)
    alone = fit_student(new_encoder(), new_encoder(), POOL, UNLABELLED, VALIDATION, recipe).state
    state = studies.students.load(trainings[0].folder, 1).student.state
    assert all(torch.equal(alone[name], state[name]) for name in alone)


def test_a_reused_student_that_is_missing_or_of_other_material_is_refused(tmp_path, done):
    kept = keep(tmp_path)
    other = share_trainings(tmp_path, kept, 1, POOL, 9, [0.1], {"teacher": "another"})
    with pytest.raises(ValueError, match=r"not of this study.*teacher.*run the notebook"):
        measure(other, tmp_path)
    gone = share_trainings(tmp_path, kept, 1, POOL, 9, [0.1], INPUTS)
    (kept / "student.safetensors").unlink()
    with pytest.raises(ValueError, match="not of this study"):
        measure(gone, tmp_path)
    assert "fit" not in done


def test_shares_have_the_teacher_temperature_that_is_asked_for(tmp_path, done):
    kept = keep(tmp_path)
    found = share_trainings(tmp_path, kept, 1, POOL, 9, [0.0, 0.5], INPUTS)
    assert [one.recipe.teacher_temperature for one in found] == [0.015, 0.015]
    for temperature in (None, 0.02):
        other = {"teacher_temperature": temperature}
        found = share_trainings(tmp_path, kept, 1, POOL, 9, [0.0, 0.5], INPUTS, **other)
        assert [one.recipe for one in found] == [
            replace(RECIPE, labelled_share=share, teacher_temperature=temperature)
            for share in (1.0, 0.5)
        ]
        with pytest.raises(ValueError, match=r"temperature 0\.015 .* asks for .* share, 0\.1,"):
            share_trainings(tmp_path, kept, 1, POOL, 9, [0.0, 0.1], INPUTS, **other)


def test_what_is_finished_stays_so_with_the_recipe_in_its_results(tmp_path, done):
    kept = keep(tmp_path / "03")
    trainings = share_trainings(tmp_path / "06", kept, 1, POOL, 9, [0.1, 0.5], INPUTS)
    measure(trainings, tmp_path)
    store = ResultsStore(tmp_path / "results")
    stored = store.keys()
    steps = [store.record(key)["protocol"].get("training", {}).get("steps") for key in stored]
    assert set(steps) == {None, RECIPE.steps}, "the teacher has none"
    given = (trainings, "sha of the teacher", [0.4, 1.0], DATA_SETS, store)
    assert studies.unfinished(*given) == []
    done.clear()
    measure(trainings, tmp_path)
    assert done == []


def test_share_studies_refuse_what_makes_no_sense(tmp_path):
    kept = keep(tmp_path)
    with pytest.raises(ValueError, match="shares are repeated"):
        share_trainings(tmp_path, kept, 1, POOL, 9, [0.1, 0.1], INPUTS)
    with pytest.raises(ValueError, match=r"labelled_share is 1\.5"):
        share_trainings(tmp_path, kept, 1, POOL, 9, [-0.5], INPUTS)


def test_the_recipe_of_a_kept_student_comes_back(tmp_path):
    kept = keep(tmp_path)
    assert kept_recipe(kept) == RECIPE
    assert asdict(kept_recipe(kept)) == asdict(RECIPE)
    shutil.rmtree(kept)
    with pytest.raises(ValueError, match="the folder is not finished"):
        kept_recipe(kept)
    released = Checkpoint("fitclip_student", new_encoder().state(), {}, "abc")
    keep_released(tmp_path / "draw_0", 0, released)
    with pytest.raises(ValueError, match="was not trained here, so its recipe is not known"):
        kept_recipe(tmp_path / "draw_0")


def test_trainings_must_not_share_a_folder_or_a_cell(tmp_path):
    with pytest.raises(ValueError, match="nothing to train"):
        measure([], tmp_path)
    one, other = sizes_of(tmp_path)[:2]
    with pytest.raises(ValueError, match="two trainings have one folder"):
        measure([one, replace(other, folder=one.folder)], tmp_path)
    with pytest.raises(ValueError, match=r"two trainings have one cell, \(1.0, 3, 500\)"):
        measure([one, replace(one, folder=tmp_path / "elsewhere")], tmp_path)
