"""What would stop a run is said before anything runs, by the run and by the dry run alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitclip_kit.engine import plan as planning
from fitclip_kit.engine import run
from fitclip_kit.engine.run_check import notes, problems
from fitclip_kit.engine.work import KIT_NOTEBOOKS
from tests.kit_run import BOOKS, NOTEBOOKS, run_of
from tests.small_project import fitclip

TRAINING = ("webvid_train", "webvid_unlabelled", "webvid_selection")
PAPERS = "is one of the paper's data sets, which"
Changes = Mapping[str, Mapping[str, Any]]


def stops(changes: Changes, folder: Path = NOTEBOOKS, **common: Any) -> list[str]:
    """What is said of the smoke profile with some changes, each after its notebook's number."""
    said = problems(run_of("smoke", changes, common, folder))
    return [f"{line[:2]} {line.partition(' would stop: ')[2]}" for line in said]


def write_sources(folder: Path, *data_sets: str, **models: Any) -> dict[str, Any]:
    """A sources file in the folder with these data sets, none of which is there; its parameter."""
    content = {
        "data_sets": {name: {"loader": "webvid", "root": "nowhere"} for name in data_sets},
        "models": {"teacher": {"file": "nowhere.pt"}, **models},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return {"sources_file": "data.yaml"}


@pytest.mark.parametrize("profile", ["smoke", "mini", "development", "paper"])
def test_the_kits_profiles_are_let_through(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITCLIP_DATA", "/nowhere")
    assert problems(run_of(profile)) == []


def test_any_of_the_papers_data_sets_are_let_through() -> None:
    for evaluated in (["webvid_val", "msrvtt"], ["ucf101", "msrvtt"], ["didemo"], ["webvid_val"]):
        assert stops({}, evaluated=evaluated) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"02": {"evaluated": ["msrvt"]}}, ["02 evaluated names msrvt, and"]),
        ({"02": {"evaluated": []}}, ["02 evaluated is empty"]),
        ({"06": {"evaluated": ["mit", "mit"]}}, ["06 evaluated is ['mit', 'mit']; give each once"]),
        ({"04": {"evaluated": ["webvid_train"]}}, ["04 evaluated names webvid_train, and"]),
        ({"07": {"tower_sets": ["msrvtt", "mitt"]}}, ["07 tower_sets names mitt, and"]),
        ({"03": {"labelled_clips": 41}}, ["03 labelled_clips is 41, and notebook 01 has 40"]),
        ({"03": {"learning_rate": -1.0}}, ["03 learning_rate is -1.0"]),
        ({"03": {"draws": [0, 1, 2]}}, ["03 draw 0 stands for a released student"]),
        (
            {"03": {"draws": [1]}},
            [f"{number} it needs student of draw 2, of which" for number in ("04", "06", "07")],
        ),
        ({"04": {"fused_alpha": 0.3}}, ["04 alphas lack 0.3: "]),
        ({"04": {"alphas": [0.4, 0.7]}}, ["04 alphas lack 0, 1: "]),
        ({"04": {"alphas": [0.0, 0.4, 1.0], "fused_alpha": 1.0}}, ["04 fused_alpha is 1", "07 "]),
        (
            {"04": {"alphas": [0.0, 0.4, 1.0, 1.5]}},
            [
                "04 alphas is [0.0, 0.4, 1.0, 1.5]; shares",
                "07 alpha: wants less than or equal to 1",
            ],
        ),
        (
            {"04": {"alphas": [0.0, 0.4, 0.6, 1.0], "fused_alpha": 0.6}},
            ["07 notebook 04's fused_alpha is 0.6, and its merge"],
        ),
        ({"05": {"sizes": [16, 41]}}, ["05 41 clips are wanted and there are 40"]),
        ({"05": {"sizes": []}}, ["05 sizes is empty"]),
        ({"05": {"alphas": [0.0, 0.4]}}, ["05 alphas has 0, which is the teacher"]),
        ({"05": {"steps_rule": "prop"}}, ["05 steps is 'prop'"]),
        ({"05": {"independent_draws": [], "nested_draws": []}}, ["05 there is no draw"]),
        ({"06": {"pseudo_shares": [0.0, 0.01]}}, ["06 pseudo_shares lack 0.0001: "]),
        ({"06": {"tested_share": 0.0}}, ["06 tested_share is 0, with which"]),
        ({"06": {"fused_alpha": 0.0}}, ["06 fused_alpha is 0, the teacher"]),
        ({"06": {"draws": [0]}}, ["06 draws has only the released student"]),
        ({"06": {"teacher_temperature": 0.0}}, ["06 the student in "]),
        ({"07": {"fisher_clips": 32}}, ["07 fisher_clips is 32 and fisher_batch 8, with 24"]),
        ({"07": {"fisher_clips": 20}}, ["07 fisher_clips is 20 and"]),
        ({"07": {"fisher_batch": 1}}, ["07 fisher_clips is 16 and fisher_batch 1"]),
        ({"07": {"tower_alphas": [0.4]}}, ["07 tower_alphas has one alpha"]),
        ({"07": {"merged_draws": 0}}, ["07 merged_draws is 0; give at least 1"]),
        ({"08": {"fused_alpha": 0.5}}, ["08 fused_alpha is 0.5, which is not"]),
        ({"02": {"device": "gpu"}}, ["02 no device 'gpu' here"]),
        ({"05": {"sources_file": "other.yaml"}}, ["01 sources_file is another in 05_subset_size"]),
    ],
)
def test_what_would_stop_a_notebook_is_said(changes: Changes, expected: list[str]) -> None:
    found = stops(changes)
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        assert line.startswith(words)


def test_a_broken_sources_file_alone_is_said() -> None:
    [said] = problems(run_of("smoke", {}, {"sources_file": "none.yaml", "evaluated": []}))
    assert "none.yaml is not readable" in said


def test_training_sets_that_the_sources_lack_are_said(tmp_path: Path) -> None:
    common = {"evaluated": ["msrvtt"], **write_sources(tmp_path, "msrvtt", *TRAINING[:1])}
    found = stops({"07": {"tower_sets": ["msrvtt"]}}, tmp_path, **common)
    absent = {"03": TRAINING[1:], "05": TRAINING[2:], "06": TRAINING[1:], "07": TRAINING[2:]}
    assert len(found) == len(absent)
    for line, (number, names) in zip(found, absent.items(), strict=True):
        needed = ", ".join(f"frames of {name}" for name in names)
        assert line.startswith(f"{number} it needs {needed}, of which")
    common |= write_sources(tmp_path, "msrvtt", *TRAINING)
    assert stops({"07": {"tower_sets": ["msrvtt"]}}, tmp_path, **common) == []


def test_evaluation_sets_that_the_sources_lack_are_said(tmp_path: Path) -> None:
    common = write_sources(tmp_path, "msrvtt", "mine", *TRAINING)
    for line in (found := stops({}, tmp_path, **common)):
        assert "names " in line and "on are mine, msrvtt; leave it out" in line
    assert [line[:2] for line in found] == ["02", "04", "06", "07"]
    common |= {"evaluated": ["mine"], **write_sources(tmp_path, "mine", *TRAINING)}
    found = stops({"07": {"tower_sets": ["mine"]}}, tmp_path, **common)
    assert [line[:2] for line in found] == ["04", "05", "06", "07"]
    assert f"none of mine {PAPERS}" in found[0] and "of the data sets mine none is" in found[1]
    found = stops({}, tmp_path, **write_sources(tmp_path, *TRAINING))
    assert "01 the sources file has no data set to measure on" in found[0]


def test_references_are_asked_for_where_they_were_measured(tmp_path: Path) -> None:
    model = {"file": "nowhere.pt", "vocabulary": "nowhere.txt"}
    common = write_sources(tmp_path, "msrvtt", "mit", *TRAINING, references={"fit": model})
    common["evaluated"] = ["msrvtt", "mit"]
    found = stops({"02": {"evaluated": ["mit"]}}, tmp_path, **common)
    assert found == [
        "04 the reference models are not measured on msrvtt in notebook 02; add it there"
    ]


def test_a_released_student_alone_cannot_be_studied(tmp_path: Path) -> None:
    common = write_sources(tmp_path, "msrvtt", TRAINING[2], student={"file": "nowhere.pt"})
    found = stops({}, tmp_path, evaluated=["msrvtt"], draws=[0], **common)
    assert [line[:30] for line in found] == [
        "05 it goes by the recipe of a ",
        "06 draws has only the released",
    ]


def test_models_files_that_are_not_there_are_said(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("")
    references = {"fit": {"file": "nowhere.pth", "vocabulary": "there.txt"}}
    student = {"file": "released.pt"}
    common = write_sources(tmp_path, "msrvtt", *TRAINING, student=student, references=references)
    common["evaluated"] = ["msrvtt"]
    files = {"01": "nowhere.pt", "02": "nowhere.pth", "03": "released.pt"}
    for draws, said in (([0, 1], files), ([1, 2], {key: files[key] for key in ("01", "02")})):
        own = run_of("smoke", {}, {**common, "draws": draws}, tmp_path)
        assert problems(own) == []
        found = problems(own, files=True)
        assert {line[:2]: line.split(",")[0].rpartition("/")[2] for line in found} == said


def test_less_than_was_asked_for_is_said() -> None:
    assert notes(run_of("smoke").parameters) == []
    changes: Changes = {
        "07": {"merged_draws": 3},
        "06": {"fused_alpha": 0.5},
        "05": {"alphas": [1.0]},
    }
    assert notes(run_of("smoke", changes).parameters) == [
        "07_supplementary_figures: merged_draws is 3, and all students are 2.",
        "08_supplementary_tables: no claim on 05_subset_size, which is not measured at 0.4.",
        "08_supplementary_tables: no claim on 06_label_share, which is not measured at 0.4.",
    ]


# The runner


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., int]:
    """The kit's own notebooks with a profile made here; gives the exit status of a call."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    shutil.copy(NOTEBOOKS.parent / "requirements.lock", tmp_path)

    def call(sections: Changes, *options: str) -> int:
        file = tmp_path / "notebooks" / "profiles" / "mine.yaml"
        file.write_text(yaml.safe_dump(sections))
        arguments = ["--profile", "mine", "--runs-dir", str(tmp_path / "runs"), *options]
        return fitclip(tmp_path / "notebooks", "run", *arguments)

    return call


BAD: Changes = {
    "common": {"evaluated": ["webvid_val", "msrvt"]},
    "07_supplementary_figures": {"tower_sets": ["msrvtt"]},
    "08_supplementary_tables": {"fused_alpha": 0.33},
}


def test_all_that_would_stop_is_listed_and_nothing_runs(
    project: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    note = lambda plan, place, *_: ran.append(plan.notebooks[place].stem)  # noqa: E731
    monkeypatch.setattr(run, "_run_one", note)
    monkeypatch.setattr(planning, "timed", lambda *_, **__: pytest.fail("timed the model"))
    for options in ((), ("--dry-run",)):
        assert project(BAD, *options) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("Nothing was run. What is wrong:\n02_teacher_zero_shot would sto")
        assert all(f"\n{number}_" in errors for number in ("04", "06", "07", "08"))
    only = ("--only", "01_data_prep")
    assert project(BAD, *only, "--only", "08_supplementary_tables") == 2
    assert "02_" not in capsys.readouterr().err and ran == []
    assert project(BAD, *only) == 0 and ran == ["01_data_prep"]


def test_the_dry_run_says_what_will_be_left_out(
    project: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def plan(own: object, left_out: Sequence[str] = ()) -> str:
        said.extend(left_out)
        return "the plan"

    monkeypatch.setattr(planning, "plan", plan)
    assert project({"common": {"evaluated": ["webvid_val", "msrvtt"]}}, "--dry-run") == 0
    assert {line[:2] for line in said} == {"04", "06", "07"}
    assert "of 1 (msrvtt), where the paper has 5" in said[0]
    assert "Figure 1 is left out" in "\n".join(said)
    said.clear()
    assert project({}, "--dry-run") == 0 and said == []
    assert "the plan" in capsys.readouterr().out


def test_the_kits_notebooks_are_those_that_are_checked() -> None:
    assert tuple(BOOKS) == KIT_NOTEBOOKS
