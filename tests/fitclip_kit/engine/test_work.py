"""The list of work of a run, against a count by hand and against what it says of itself."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitclip_core.distillation import Recipe
from fitclip_kit.engine import work as module
from fitclip_kit.engine.work import Measured, Trained, Work, of_run, steps
from tests.kit_run import run_of

STUDENTS = {"draws": [1], "steps": 7, "validate_every": 3, "labelled_batch": 6}


def cells(works: list[Work], number: str = "") -> int:
    measured = (work for work in works if isinstance(work, Measured))
    return sum(len(work.cells) for work in measured if work.notebook.startswith(number))


def trained(works: list[Work], number: str) -> list[Trained]:
    own = (work for work in works if isinstance(work, Trained))
    return [work for work in own if work.notebook.startswith(number)]


def test_the_default_run() -> None:
    works = of_run(run_of("mini"))
    assert Counter(work.kind for work in works if work.notebook[:2] == "01") == {"frame stores": 9}
    assert cells(works, "02") == 6
    assert cells(works, "04") == 5 * 10 * 6, "not the teacher's again"
    assert cells(works, "05") == 4 * (3 + 3) * 2
    assert cells(works, "06") == 3 * 4 * 5, "those of the share 0.0001 are notebook 04's"
    assert cells(works, "07") == 2 * 36 + 3 * 3 * 6 + 3 * 6
    assert cells(works) == 558, "as many as a run leaves in its results"
    assert [len(trained(works, number)) for number in ("03", "05", "06")] == [5, 24, 12]


@pytest.mark.parametrize("profile", ["smoke", "mini", "development", "paper"])
def test_work_comes_after_what_it_needs_and_is_listed_once(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITCLIP_DATA", "/nowhere")
    known: set[str] = set()
    measured: Counter[Any] = Counter()
    for work in of_run(run_of(profile)):
        assert work.name not in known
        assert set(work.after) <= known, work.name
        known.add(work.name)
        measured.update(work.cells if isinstance(work, Measured) else ())
        if isinstance(work, Measured):
            decoded = {f"frames of {cell.data_set}" for cell in work.cells}
            students = {cell.draw for cell in work.cells} - {None}
            assert decoded <= set(work.after)
            assert students == ({work.student.draw} if work.student and students else set())
    assert set(measured.values()) == {1}


def test_towers_are_encoded_once_for_each_of_their_alphas() -> None:
    works = {work.name: work for work in of_run(run_of("mini"))}
    towers = works["tower map of draw 1"]
    assert isinstance(towers, Measured) and len(towers.cells) == 2 * 36
    names = [(what, name) for what in ("videos", "texts") for name in ("msrvtt", "mit")]
    assert towers.size() == dict.fromkeys(names, 6)
    wide = [cell for cell in towers.cells if cell.alpha == 0.2]
    assert replace(towers, cells=tuple(wide)).size() == {
        (what, name): {"videos": 1, "texts": 6}[what] for what, name in names
    }
    merges = works["draw 2, other merges"].size()
    assert set(merges.values()) == {3} and len(merges) == 2 * 6
    assert works["draw 3 at alpha 0.7"].size()["videos", "didemo"] == 1
    assert works["frames of mit"].size() == {("decode", "mit"): 1}


def test_references_and_other_data_sets(tmp_path: Path) -> None:
    names = ("webvid_train", "webvid_unlabelled", "webvid_selection", "mit", "didemo", "msrvtt")
    content = {
        "data_sets": {name: {"loader": "webvid", "root": "x"} for name in names},
        "models": {
            "teacher": {"file": "x"},
            "references": {f"fit_{n}": {"file": "x", "vocabulary": "x"} for n in (1, 2)},
        },
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    common = {"sources_file": "data.yaml", "evaluated": ["mit", "didemo"], "draws": [1, 2]}
    changes: dict[str, dict[str, Any]] = {"02": {"evaluated": ["mit"]}}
    changes |= {"06": {"evaluated": ["mit", "msrvtt"], "draws": [1]}}
    works = of_run(run_of("mini", changes, common, working_dir=tmp_path))
    assert cells(works, "02") == 1 + 2
    assert cells(works, "04") == 2 * 10 * 2 + 1, "here the teacher is new on didemo"
    assert cells(works, "05") == 24 * 2 + 1, "the next of the paper's sets, msrvtt"
    assert cells(works, "06") == 4 * 2 + 1, "of the share 0.0001 only msrvtt is new"
    assert cells(works, "07") == 36 + 2 * 3 * 2 + 3 * 2, "the tower map is of mit alone"


def test_a_students_size_is_that_of_a_walk_through_its_training() -> None:
    changes: dict[str, dict[str, Any]] = {
        "03": {**STUDENTS, "unlabelled_batch": 64, "labelled_clips": 100}
    }
    changes |= {"01": {"unlabelled_clips": 20}, "04": {"draws": [1]}, "06": {"draws": [1]}}
    changes["05"] = {"sizes": [4, 200]}
    works = of_run(run_of("mini", changes))
    [main] = trained(works, "03")
    clips, validations = 0, 1
    for step in range(1, 8):
        clips += 6 + 20
        validations += step % 3 == 0 or step == 7
    selection = {(what, "webvid_selection"): validations for what in ("videos", "texts")}
    assert main.size() == {("train", ""): clips, **selection}
    assert {work.batch for work in trained(works, "05")} == {4, 6}, "on labels alone"
    assert [work.batch for work in trained(works, "06")] == [6, 26, 26, 26]
    assert main.micro_batch is None


def test_the_users_own_teacher_has_the_papers_recipe(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("models: {teacher: {file: x}}")
    run = run_of("mini", {}, {"sources_file": "data.yaml"}, working_dir=tmp_path)
    assert run.recipe == (4500, Recipe(steps=900, validate_every=30, seed=0))
    assert trained(of_run(run, [module.STUDENTS]), "03")[1].training.recipe.seed == 2


def test_a_released_student_is_fused_and_not_trained() -> None:
    run = run_of("mini", {}, {"draws": [0]})
    works = of_run(run, [module.STUDENTS, module.SWEEP, module.SHARES])
    assert [work.name for work in works if work.kind == "students"] == ["student of draw 0"]
    assert cells(works, "04") == 10 * 6 + 6 and cells(works, "06") == 0


def test_what_is_needed_is_said_where_it_is_not_there(tmp_path: Path) -> None:
    run = replace(run_of("smoke"), path=tmp_path)
    works = {work.name: work for work in of_run(run)}
    for name in ("frames of mit", "teacher on mit", "student of draw 1"):
        with pytest.raises(ValueError, match=r"run notebook 01_data_prep first|not finished"):
            works[name].is_done()
    with pytest.raises(ValueError, match="no part everything; choose from frames, teacher"):
        steps(run, ["everything"])
    merges = works["draw 1, other merges"]
    assert not merges.is_done()
    other = replace(run_of("smoke", {"05": {"sizes": [41]}}), path=tmp_path)
    assert list(steps(other, ["frames"])) == ["frames: shards", "frames: frame stores"]
    assert list(steps(run, ["frames", "sizes"])) == [
        "frames: shards",
        "frames: frame stores",
        "sizes: students",
        "sizes: cells",
    ]
