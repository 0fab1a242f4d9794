"""All notebooks on one action set and one student: what it cannot fill is left out and said."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from fitclip_kit.engine.report import main as report
from fitclip_kit.engine.run import main
from fitclip_kit.engine.settings import read_profile
from fitclip_kit.store.files import manifest_problems

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("fewer")
    shutil.copytree(ROOT / "notebooks", project / "notebooks")
    shutil.copy(ROOT / "requirements.lock", project)
    sections = read_profile(ROOT / "notebooks" / "profiles" / "smoke.yaml")
    sections["common"] = {"evaluated": ["ucf101"], "draws": [1]}
    (project / "notebooks" / "profiles" / "fewer.yaml").write_text(yaml.safe_dump(sections))
    arguments = ["--profile", "fewer", "--runs-dir", str(project / "runs")]
    assert main(arguments, project / "notebooks") == 0
    assert report(arguments, project / "notebooks") == 0
    return project / "runs" / "fewer"


def said(run: Path, stem: str) -> str:
    notebook = nbformat.read(run / "notebooks" / f"{stem}.ipynb", as_version=4)
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert not [one for one in outputs if "Warning" in one.get("text", "")]
    return "\n".join(
        one.get("text", "") + one.get("data", {}).get("text/markdown", "") for one in outputs
    )


def test_every_notebook_completes(run: Path) -> None:
    for stem in STEMS:
        assert manifest_problems(run / stem, kind=stem) == []
    assert (run / "report.html").is_file() and (run / "explore.html").is_file()


def test_tables_and_figures_are_of_what_is_there(run: Path) -> None:
    tables = {
        name: pd.read_csv(run / name)
        for name in (
            "04_alpha_sweep/figure3.csv",
            "04_alpha_sweep/comparisons.csv",
            "06_label_share/figure5.csv",
            "07_supplementary_figures/figure1.csv",
            "07_supplementary_figures/bands.csv",
            "07_supplementary_figures/merges.csv",
        )
    }
    sweep, tests, shares, classes, bands, merges = tables.values()
    assert set(sweep["panel"]) == set(bands["panel"]) == {"zero_shot"}
    assert set(tests["scope"]) == set(merges["scope"]) == {"zero_shot"}
    assert set(shares["scope"]) == set(classes["data_set"]) == {"ucf101"}
    headline = (run / "08_supplementary_tables" / "headline.md").read_text()
    assert "UCF101" in headline and "MSR-VTT" not in headline
    drawn = {path.stem for path in (run / "07_supplementary_figures").glob("*.pdf")}
    assert drawn == {"figure1", "bands", "merges", "loss", "renormalised"}


def test_what_is_left_out_is_said(run: Path) -> None:
    for stem in ("04_alpha_sweep", "07_supplementary_figures", "08_supplementary_tables"):
        assert "webvid_val is not measured" in said(run, stem)
        assert "said of 1 (ucf101), where the paper has 5" in said(run, stem)
    text = said(run, "07_supplementary_figures")
    assert "Figure 2 is left out, and so are both directions" in text
    assert "tower is left out (not measured: msrvtt)" in text
    # Figure 2 and both directions have two cells and three, the towers two.
    assert text.count("Left out, as said above.") == 7
