"""What would stop a run is said before anything runs, by the run and by the dry run alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fitclip_kit.engine import dry_run, run
from fitclip_kit.engine.run_check import KIT_NOTEBOOKS, notes
from fitclip_kit.engine.run_jobs import run_problems
from fitclip_kit.engine.settings import merge_profile, read_notebooks, read_profile
from tests.small_project import fitclip

ROOT = Path(__file__).parents[3]
BOOKS = {book.stem: book.defaults for book in read_notebooks(ROOT / "notebooks")}
SMOKE = read_profile(ROOT / "notebooks" / "profiles" / "smoke.yaml")
TRAINING = ("webvid_train", "webvid_unlabelled", "webvid_selection")
Sections = dict[str, dict[str, Any]]


def parameters(sections: Sections) -> dict[str, dict[str, Any]]:
    """Those of the smoke profile with some values changed; sections may be named by number."""
    stems = {stem[:2]: stem for stem in BOOKS}
    changed = {name: dict(section) for name, section in SMOKE.items()}
    for name, section in sections.items():
        changed.setdefault(stems.get(name, name), {}).update(section)
    return merge_profile(changed, BOOKS)


def stops(sections: Sections, folder: Path = ROOT) -> list[str]:
    return run_problems(parameters(sections), folder)


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
    sections = read_profile(ROOT / "notebooks" / "profiles" / f"{profile}.yaml")
    assert run_problems(merge_profile(sections, BOOKS), ROOT / "notebooks") == []


@pytest.mark.parametrize(
    "evaluated",
    [["webvid_val", "msrvtt"], ["ucf101", "msrvtt"], ["didemo"], ["mit"], ["webvid_val"]],
    ids=" ".join,
)
def test_any_of_the_papers_data_sets_are_let_through(evaluated: list[str]) -> None:
    assert stops({"common": {"evaluated": evaluated}}) == []


@pytest.mark.parametrize(
    ("sections", "expected"),
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
            ["04 it fuses draws 2, which", "06 it goes by the recipe of draw 2, which"],
        ),
        (
            {"04": {"fused_alpha": 0.3}},
            ["04 alphas lack 0.3: "],
        ),
        (
            {"04": {"alphas": [0.4, 0.7]}},
            ["04 alphas lack 0, 1: "],
        ),
        ({"04": {"alphas": [0.0, 0.4, 1.0, 1.5]}}, ["04 alphas is [0.0, 0.4, 1.0, 1.5]; shares"]),
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
        ({"06": {"draws": [0]}}, ["06 draws has only the released student"]),
        ({"07": {"fisher_clips": 32}}, ["07 fisher_clips is 32 and fisher_batch 8, with 24"]),
        ({"07": {"fisher_clips": 20}}, ["07 fisher_clips is 20 and"]),
        ({"07": {"tower_alphas": [0.4]}}, ["07 tower_alphas has one alpha"]),
        ({"07": {"merged_draws": 0}}, ["07 merged_draws is 0; give at least 1"]),
        ({"08": {"fused_alpha": 0.5}}, ["08 fused_alpha is 0.5, which is not"]),
        ({"02": {"device": "gpu"}}, ["02 no device 'gpu' here"]),
        ({"05": {"sources_file": "other.yaml"}}, ["01 sources_file is another in 05_subset_size"]),
        ({"common": {"sources_file": "none.yaml"}}, ["none.yaml"]),
    ],
)
def test_what_would_stop_a_notebook_is_said(sections: Sections, expected: list[str]) -> None:
    found = stops(sections)
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        stem, _, rest = line.partition(" would stop: ")
        assert f"{stem[:2]} {rest}".startswith(words) or words in line


def test_training_sets_that_the_sources_lack_are_said(tmp_path: Path) -> None:
    common = {"evaluated": ["msrvtt"], **write_sources(tmp_path, "msrvtt", *TRAINING[:1])}
    found = stops({"common": common, "07": {"tower_sets": ["msrvtt"]}}, tmp_path)
    absent = {"03": TRAINING[1:], "05": TRAINING[2:], "06": TRAINING[1:], "07": TRAINING[2:]}
    assert len(found) == len(absent)
    for line, (number, names) in zip(found, absent.items(), strict=True):
        assert line.startswith(number) and f"it reads {', '.join(names)}, and" in line
    common |= write_sources(tmp_path, "msrvtt", *TRAINING)
    assert stops({"common": common, "07": {"tower_sets": ["msrvtt"]}}, tmp_path) == []


def test_evaluation_sets_that_the_sources_lack_are_said(tmp_path: Path) -> None:
    common = write_sources(tmp_path, "msrvtt", "mine", *TRAINING)
    for line in (found := stops({"common": common}, tmp_path)):
        assert "names " in line and "on are mine, msrvtt; leave it out" in line
    assert [line[:2] for line in found] == ["02", "04", "06", "07"]
    common |= {"evaluated": ["mine"], **write_sources(tmp_path, "mine", *TRAINING)}
    found = stops({"common": common, "07": {"tower_sets": ["mine"]}}, tmp_path)
    assert [line[:2] for line in found] == ["04", "05", "06", "07"]
    assert "none of mine is one of the paper's data sets" in found[0]
    found = stops({"common": write_sources(tmp_path, *TRAINING)}, tmp_path)
    assert "01_data_prep would stop: the sources file has no data set to measure on" in found[0]


def test_references_are_asked_for_where_they_were_measured(tmp_path: Path) -> None:
    model = {"file": "nowhere.pt", "vocabulary": "nowhere.txt"}
    common = write_sources(tmp_path, "msrvtt", "mit", *TRAINING, references={"fit": model})
    common["evaluated"] = ["msrvtt", "mit"]
    found = stops({"common": common, "02": {"evaluated": ["mit"]}}, tmp_path)
    assert found == [
        "04_alpha_sweep would stop: the reference models are not measured on msrvtt in notebook "
        "02; add it there"
    ]


def test_a_released_student_alone_cannot_be_studied(tmp_path: Path) -> None:
    student = {"file": "nowhere.pt"}
    common = write_sources(tmp_path, "msrvtt", TRAINING[2], student=student)
    common |= {"evaluated": ["msrvtt"], "draws": [0]}
    found = stops({"common": common}, tmp_path)
    assert {line[:2] for line in found} == {"05", "06"}


def test_models_files_that_are_not_there_are_said(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("")
    references = {"fit": {"file": "nowhere.pth", "vocabulary": "there.txt"}}
    common = write_sources(
        tmp_path, "msrvtt", *TRAINING, student={"file": "released.pt"}, references=references
    )
    common["evaluated"] = ["msrvtt"]
    for draws, files in (
        ([0, 1], {"01": "nowhere.pt", "03": "released.pt", "02": "nowhere.pth"}),
        ([1, 2], {"01": "nowhere.pt", "02": "nowhere.pth"}),
    ):
        values = parameters({"common": {**common, "draws": draws}})
        assert run_problems(values, tmp_path) == []
        found = run_problems(values, tmp_path, files=True)
        assert {line[:2]: line.split(",")[0].rpartition("/")[2] for line in found} == files


def test_less_than_was_asked_for_is_said() -> None:
    assert notes(parameters({})) == []
    found = notes(parameters({"07": {"merged_draws": 3}, "06": {"fused_alpha": 0.5}}))
    assert found == [
        "07_supplementary_figures: merged_draws is 3, and all students are 2.",
        "08_supplementary_tables: no claim on 06_label_share, which is not measured at 0.4.",
    ]


# The runner


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., int]:
    """The kit's own notebooks with a profile made here; gives the exit status of a call."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "requirements.lock", tmp_path)

    def call(sections: Sections, *options: str) -> int:
        file = tmp_path / "notebooks" / "profiles" / "mine.yaml"
        file.write_text(yaml.safe_dump(sections))
        arguments = ["--profile", "mine", "--runs-dir", str(tmp_path / "runs"), *options]
        return fitclip(tmp_path / "notebooks", "run", *arguments)

    return call


BAD: Sections = {
    "common": {"evaluated": ["webvid_val", "msrvt"]},
    "07_supplementary_figures": {"tower_sets": ["msrvtt"]},
    "08_supplementary_tables": {"fused_alpha": 0.33},
}


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_all_that_would_stop_is_listed_and_nothing_runs(
    project: Callable[..., int],
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "_run_one", lambda *_: pytest.fail("ran a notebook"))
    monkeypatch.setattr(dry_run, "calibrate", lambda *_, **__: pytest.fail("timed the model"))
    assert project(BAD, *options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Nothing was run. What is wrong:\n02_teacher_zero_shot would stop: ")
    for number in ("04", "06", "07", "08"):
        assert f"\n{number}_" in errors


def test_only_the_chosen_notebooks_are_checked(
    project: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    monkeypatch.setattr(
        run, "_run_one", lambda plan, place, *_: ran.append(plan.notebooks[place].stem)
    )
    assert project(BAD, "--only", "01_data_prep", "--only", "08_supplementary_tables") == 2
    assert "02_" not in capsys.readouterr().err and ran == []
    assert project(BAD, "--only", "01_data_prep") == 0
    assert ran == ["01_data_prep"]


def test_the_dry_run_says_what_will_be_left_out(
    project: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def plan(values: object, folder: object, left_out: Sequence[str] = ()) -> str:
        said.extend(left_out)
        return "the plan"

    monkeypatch.setattr(dry_run, "dry_run", plan)
    assert project({"common": {"evaluated": ["webvid_val", "msrvtt"]}}, "--dry-run") == 0
    assert {line[:2] for line in said} == {"04", "06", "07"}
    assert "of 1 (msrvtt), where the paper has 5" in said[0]
    assert "Figure 1 is left out" in "\n".join(said)
    said.clear()
    assert project({}, "--dry-run") == 0 and said == []
    assert "the plan" in capsys.readouterr().out


def test_the_kits_notebooks_are_those_that_are_checked() -> None:
    assert tuple(BOOKS) == KIT_NOTEBOOKS
