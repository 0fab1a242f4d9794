"""What the notebooks compute, against a count by hand and against what studies really train."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitclip_core.distillation import Recipe, TrainingClips
from fitclip_kit.engine import students, studies
from fitclip_kit.engine.plan import Differentiating, Fitting, Job, Measuring
from fitclip_kit.engine.run_jobs import notebook_jobs
from fitclip_kit.engine.settings import merge_profile, profile_file, read_notebooks, read_profile
from fitclip_kit.store.files import write_manifest
from tests.tiny_training import Source

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
Parameters = dict[str, dict[str, Any]]
MINI = {"webvid_train": 1000, "webvid_unlabelled": 600, "webvid_selection": 300}
MINI |= dict.fromkeys(("webvid_val", "msrvtt", "youcook2", "didemo", "ucf101", "mit"), 1000)


def parameters(profile: str, **changes: dict[str, Any]) -> Parameters:
    declared = {book.stem: book.defaults for book in read_notebooks(NOTEBOOKS)}
    values = merge_profile(read_profile(profile_file(NOTEBOOKS, profile)), declared)
    for stem, own in values.items():
        own.update(changes.get(f"n{stem[:2]}", {}))
    return values


def jobs_of(values: Parameters, clips: dict[str, int] = MINI, references: int = 0) -> list[Job]:
    jobs, problems = notebook_jobs(values, clips, references=references)
    assert problems == []
    return jobs


def cells(jobs: list[Job], notebook: str = "") -> int:
    of = [one for one in jobs if isinstance(one, Measuring) and one.notebook.startswith(notebook)]
    return sum(one.cells for one in of)


def fits(jobs: list[Job], notebook: str) -> dict[str, Recipe]:
    of = [one for one in jobs if isinstance(one, Fitting) and one.notebook.startswith(notebook)]
    return {one.what: one.recipe for one in of}


def test_the_default_runs_cells() -> None:
    jobs = jobs_of(parameters("mini"))
    assert cells(jobs, "02") == 6
    assert cells(jobs, "04") == 5 * 10 * 6, "not the teacher's again"
    assert cells(jobs, "05") == 4 * (3 + 3) * 2
    assert cells(jobs, "06") == 3 * 4 * 5, "those of the share 0.0001 are notebook 04's"
    assert cells(jobs, "07") == 2 * 36 + 3 * 3 * 6 + 3 * 6
    assert cells(jobs) == 558, "as many as a run leaves in its results"
    trained = [one.students for one in jobs if isinstance(one, Fitting)]
    assert trained == [5, 6, 6, 6, 6, 3, 3, 3, 3]


def test_towers_and_the_loss_encode_more_or_less_than_they_store() -> None:
    jobs = jobs_of(parameters("mini"))
    own = [one for one in jobs if isinstance(one, Measuring) and one.notebook.startswith("07")]
    assert Measuring("07_supplementary_figures", "msrvtt", 6, 6, 36) in own
    assert Measuring("07_supplementary_figures", "webvid_selection", 33, 33, 0) in own
    assert Differentiating("07_supplementary_figures", 1 + 3, 256, 8) in jobs


def test_references_and_other_data_sets() -> None:
    values = parameters("mini", n04={"evaluated": ["mit", "didemo"]}, n02={"evaluated": ["mit"]})
    assert cells(jobs_of(parameters("mini"), references=2), "02") == 6 * (1 + 2)
    jobs = jobs_of(values)
    assert cells(jobs, "02") == 1
    assert cells(jobs, "04") == 5 * 10 * 2 + 1, "here the teacher is new on didemo"
    between = 1 + 3 * 4  # notebook 05 the teacher; 06 it and three fused models on three more sets
    assert cells(jobs, "07") == 2 * 36 + 3 * 3 * 6 + 3 * 6 + 51 * 4 - between


def test_batches_are_no_larger_than_what_they_are_drawn_from() -> None:
    values = parameters("mini", n03={"labelled_batch": 64, "unlabelled_batch": 64})
    jobs = jobs_of(values, MINI | {"webvid_unlabelled": 20})
    assert {one.labelled_batch for one in fits(jobs, "03").values()} == {64}
    assert {one.unlabelled_batch for one in fits(jobs, "06").values()} == {20}
    sizes = {what: one.labelled_batch for what, one in fits(jobs, "05").items()}
    assert sizes["6 students of 19 clips"] == 19 and sizes["6 students of 450 clips"] == 64


def test_the_users_own_teacher_is_planned_with_the_papers_recipe() -> None:
    own = {f"n{number:02}": {"sources_file": "mine.yaml"} for number in range(1, 9)}
    values = parameters("mini", **own)
    [recipe] = fits(jobs_of(values, MINI | {"webvid_train": 4500}), "03").values()
    assert recipe == Recipe(steps=900, validate_every=30, seed=0)
    [problem] = notebook_jobs(values, MINI)[1]
    assert problem.startswith("03_student_distillation would stop: labelled_clips is 4500, and")


def test_another_teacher_temperature_is_one_for_both_notebooks() -> None:
    for both in ({}, {"teacher_temperature": 0.0}):
        jobs = jobs_of(parameters("mini", n03=both, n06=both))
        trained = {**fits(jobs, "03"), **fits(jobs, "06")}.values()
        assert {one.teacher_temperature for one in trained} == {None if both else 0.015}
    _, problems = notebook_jobs(parameters("mini", n06={"teacher_temperature": 0.0}), MINI)
    assert (
        len(problems) == 1 and "06_label_share would stop: its teacher_temperature" in problems[0]
    )


def test_studies_train_what_is_planned(tmp_path: Path) -> None:
    """The functions that the notebooks call, on a made-up pool."""
    values = parameters("mini")
    jobs = jobs_of(values)
    recipe = replace(fits(jobs, "03")["5 students of 150 clips"], seed=5)
    pool = TrainingClips(Source(np.zeros((1000, 1, 1, 1, 3), np.uint8)), [""] * 1000)
    sizes, shares = values["05_subset_size"], values["06_label_share"]
    draws = {"independent": sizes["independent_draws"], "nested": sizes["nested_draws"]}
    trainings = studies.subset_trainings(
        tmp_path, pool, recipe, 150, sizes["sizes"], draws, {}, steps="proportional"
    )
    planned = fits(jobs, "05")
    assert len(trainings) == sum(int(what.split()[0]) for what in planned)
    for one in trainings:
        batch = min(one.recipe.labelled_batch, one.subset_size)
        expected = replace(one.recipe, seed=0, labelled_batch=batch)
        assert replace(planned[f"6 students of {one.subset_size:,} clips"], seed=0) == expected

    trained = {"draw": 3, **asdict(recipe)}
    write_manifest(
        tmp_path / "kept", kind=students.KIND, parameters=trained, inputs={}, code="", outputs=[]
    )
    trainings = studies.share_trainings(
        tmp_path, tmp_path / "kept", 3, pool, 150, shares["pseudo_shares"], {}
    )
    new = [one.recipe for one in trainings if not one.reused]
    assert [replace(one, seed=5) for one in fits(jobs, "06").values()] == new


def test_what_would_stop_a_notebook_is_said_and_left_out() -> None:
    values = parameters("mini", n05={"sizes": [19, 2000]}, n06={"draws": [1, 9]})
    jobs, problems = notebook_jobs(values, {k: v for k, v in MINI.items() if k != "mit"})
    assert cells(jobs, "05") == cells(jobs, "06") == 0
    assert "05_subset_size would stop: 2000 clips are wanted and there are 1000" in problems[2]
    for place, stem in ((0, "02"), (1, "04"), (3, "06"), (5, "07")):
        assert problems[place].startswith(stem) and "evaluated names mit, and" in problems[place]
    assert "06_label_share would stop: it goes by the recipe of draw 9" in problems[4]
    assert "tower_sets names mit" in problems[6] and len(problems) == 7


def test_a_released_student_is_fused_and_not_trained() -> None:
    released = {"draws": [0]}
    values = parameters("mini", n03=released, n04=released, n06=released)
    jobs, problems = notebook_jobs(values, MINI)
    assert not [
        one for one in jobs if isinstance(one, Fitting) and one.notebook[:2] in ("03", "06")
    ]
    assert cells(jobs, "04") == 10 * 6
    assert [one[:2] for one in problems] == ["05", "06"]
    assert "recipe of draw 0, which notebook 03 does not" in problems[0]


@pytest.mark.parametrize("profile", ["smoke", "mini", "development", "paper"])
def test_every_profile_can_be_planned(profile: str) -> None:
    values = parameters(profile)
    data = values["01_data_prep"]
    clips = MINI | {"webvid_train": data["labelled_clips"], "webvid_unlabelled": 9000}
    assert {one.notebook[:2] for one in jobs_of(values, clips)} >= {"02", "03", "04", "05", "07"}
