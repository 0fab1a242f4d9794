"""The real notebooks, run by the command: on the smoke profile, and on one of its data sets."""

import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from benchmarks.run_files import digests
from fitclip_kit.engine.settings import read_profile
from fitclip_kit.store.files import manifest_problems
from tests.small_project import ROOT, fitclip

NOTEBOOKS = ROOT / "notebooks"
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def smoke_run(runs_dir: Path) -> Path:
    options = ["--profile", "smoke", "--runs-dir", str(runs_dir)]
    assert fitclip(NOTEBOOKS, "run", *options) == 0
    return runs_dir / "smoke"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smoke_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def fewer(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report on one action set and one student, whose data sets and student are
    those of the smoke run."""
    project = tmp_path_factory.mktemp("fewer")
    shutil.copytree(NOTEBOOKS, project / "notebooks")
    shutil.copy(ROOT / "requirements.lock", project)
    sections = read_profile(NOTEBOOKS / "profiles" / "smoke.yaml")
    sections["common"] = {"evaluated": ["ucf101"], "draws": [1]}
    (project / "notebooks" / "profiles" / "fewer.yaml").write_text(yaml.safe_dump(sections))
    for made in ("01_data_prep", "03_student_distillation/draw_1"):
        shutil.copytree(run / made, project / "runs" / "fewer" / made)
    options = ["--profile", "fewer", "--runs-dir", str(project / "runs")]
    assert fitclip(project / "notebooks", "run", *options) == 0
    assert fitclip(project / "notebooks", "report", *options) == 0
    return project / "runs" / "fewer"


def outputs(run: Path, stem: str) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(run / "notebooks" / f"{stem}.ipynb", as_version=4)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", ["run", "fewer"])
@pytest.mark.parametrize("stem", STEMS)
def test_every_notebook_completes_without_an_error_or_a_warning(
    name: str, stem: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    assert manifest_problems(run / stem, kind=stem) == []
    assert (run / "notebooks" / f"{stem}.html").is_file()
    left = outputs(run, stem)
    assert not [output for output in left if output.output_type == "error"]
    lines = [line for output in left for line in output.get("text", "").splitlines()]
    assert not [line for line in lines if "Warning" in line or line.count("%|") > 1]
    # A progress widget leaves its first state in the executed copy: a bar at 0%.
    shown = [output.get("data", {}).get("text/plain", "") for output in left]
    assert not [text for text in [*lines, *shown] if "  0%|" in text]


def test_a_second_call_does_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(run, without=["notebooks"])
    smoke_run(run.parent)
    assert capsys.readouterr().out.count("up to date") == len(STEMS)
    assert digests(run, without=["notebooks"]) == before


@pytest.mark.slow
def test_a_second_run_from_nothing_gives_equal_files(run: Path, tmp_path: Path) -> None:
    first = digests(run, without=["notebooks"])
    assert len(first) > 500
    assert digests(smoke_run(tmp_path), without=["notebooks"]) == first


def test_tables_and_figures_are_of_what_is_there(run: Path, fewer: Path) -> None:
    outcomes = pd.read_parquet(run / "04_alpha_sweep" / "outcomes.parquet")
    cells = outcomes[["data_set", "alpha", "draw"]].drop_duplicates()
    assert len(cells) == 6 * (1 + 2 * 2)  # the teacher once, two students at two alphas each
    curve = pd.read_csv(run / "04_alpha_sweep" / "figure3.csv")
    assert sorted(set(curve["alpha"])) == [0.0, 0.4, 1.0]
    scopes = {
        "04_alpha_sweep/figure3.csv panel": "zero_shot",
        "04_alpha_sweep/comparisons.csv scope": "zero_shot",
        "06_label_share/figure5.csv scope": "ucf101",
        "07_supplementary_figures/figure1.csv data_set": "ucf101",
        "07_supplementary_figures/bands.csv panel": "zero_shot",
        "07_supplementary_figures/merges.csv scope": "zero_shot",
    }
    for what, expected in scopes.items():
        file, column = what.split()
        assert set(pd.read_csv(fewer / file)[column]) == {expected}, file
    headline = (fewer / "08_supplementary_tables" / "headline.md").read_text()
    assert "UCF101" in headline and "MSR-VTT" not in headline
    drawn = {path.stem for path in (fewer / "07_supplementary_figures").glob("*.pdf")}
    assert drawn == {"figure1", "bands", "merges", "loss", "renormalised"}
    assert (fewer / "report.html").is_file() and (fewer / "explore.html").is_file()


def test_what_is_left_out_is_said(fewer: Path) -> None:
    said = {
        stem: "\n".join(
            output.get("text", "") + output.get("data", {}).get("text/markdown", "")
            for output in outputs(fewer, stem)
        )
        for stem in STEMS
    }
    for stem in ("04_alpha_sweep", "07_supplementary_figures", "08_supplementary_tables"):
        assert "webvid_val is not measured" in said[stem]
        assert "said of 1 (ucf101), where the paper has 5" in said[stem]
    text = said["07_supplementary_figures"]
    assert "Figure 2 is left out, and so are both directions" in text
    assert "tower is left out (not measured: msrvtt)" in text
    # Figure 2 and both directions have two cells and three, the towers two.
    assert text.count("Left out, as said above.") == 7
