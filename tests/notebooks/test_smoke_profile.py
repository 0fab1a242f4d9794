"""The real notebooks, run by the real runner on the smoke profile, twice from nothing."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from benchmarks.run_files import digests
from fitclip_kit.engine.run import main
from fitclip_kit.store.files import manifest_problems

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two run folders that were made from nothing with the same profile."""
    folders = []
    for number in range(2):
        runs_dir = tmp_path_factory.mktemp(f"runs_{number}")
        assert main(["--profile", "smoke", "--runs-dir", str(runs_dir)]) == 0
        folders.append(runs_dir / "smoke")
    return folders


def made_by(run: Path) -> dict[str, str]:
    """Digests of everything a run leaves but the executed notebooks, which hold timings."""
    return digests(run, without=["notebooks"])


def test_every_notebook_leaves_a_valid_manifest(runs: list[Path]) -> None:
    for stem in STEMS:
        assert manifest_problems(runs[0] / stem, kind=stem) == []


def test_equal_seeds_give_equal_files(runs: list[Path]) -> None:
    first, second = (made_by(run) for run in runs)

    assert len(first) > 500
    assert first == second


def test_the_sweep_is_complete_and_figure_3_is_drawn(runs: list[Path]) -> None:
    outcomes = pd.read_parquet(runs[0] / "04_alpha_sweep" / "outcomes.parquet")
    cells = outcomes[["data_set", "alpha", "draw"]].drop_duplicates()

    # Six data sets: the teacher once, two students at two alphas each.
    assert len(cells) == 6 * (1 + 2 * 2)
    curve = pd.read_csv(runs[0] / "04_alpha_sweep" / "figure3.csv")
    assert sorted(set(curve["alpha"])) == [0.0, 0.4, 1.0]
    assert curve[["value", "ci_low", "ci_high"]].map(lambda share: 0 <= share <= 1).all(axis=None)
    for suffix in ("png", "pdf"):
        assert (runs[0] / "04_alpha_sweep" / f"figure3.{suffix}").stat().st_size > 10_000


def test_executed_copies_hold_no_error_and_no_warning(runs: list[Path]) -> None:
    for stem in STEMS:
        notebook = nbformat.read(runs[0] / "notebooks" / f"{stem}.ipynb", as_version=4)
        outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
        assert not [one for one in outputs if one.output_type == "error"]
        assert not [one for one in outputs if "Warning" in one.get("text", "")]
        lines = [line for one in outputs for line in one.get("text", "").splitlines()]
        assert not [line for line in lines if line.count("%|") > 1]
        # A progress widget leaves its first state in the executed copy: a bar at 0%.
        shown = [one.get("data", {}).get("text/plain", "") for one in outputs]
        assert not [text for text in [*lines, *shown] if "  0%|" in text]
        assert (runs[0] / "notebooks" / f"{stem}.html").is_file()


def test_a_second_call_does_nothing(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = made_by(runs[0])

    assert main(["--profile", "smoke", "--runs-dir", str(runs[0].parent)]) == 0

    assert capsys.readouterr().out.count("up to date") == len(STEMS)
    assert made_by(runs[0]) == before
