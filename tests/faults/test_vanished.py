"""Inputs that vanish between two steps or in the middle of one, and perhaps come back."""

import shutil
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.run_files import digests
from data_prep import frame_store
from fitclip_kit.engine import students
from fitclip_kit.store.results import ResultsStore
from tests.faults.work import (
    KEY,
    Videos,
    build_store,
    keep_student,
    marks,
    store_work,
    work_of,
    write_cells,
)
from tests.small_project import RESULT, fitclip, make_project, write_notebook


@pytest.fixture
def own_videos(videos: Videos, tmp_path: Path) -> Videos:
    """The videos, to remove."""
    return videos[0], Path(shutil.copytree(videos[1], tmp_path / "videos"))


def test_a_shard_that_vanished_is_missed_and_made_again(videos: Videos, tmp_path: Path) -> None:
    work, folder = work_of("store", videos), tmp_path / "store"
    work(folder)
    before, kept = digests(folder), marks(folder)
    (folder / "frames_00001.npy").unlink()
    with pytest.raises(ValueError, match=r"frames_00001\.npy is missing .* build .* again"):
        frame_store.open_store(folder)
    work(folder)
    assert digests(folder) == before
    rewritten = {path for path, mark in marks(folder).items() if kept[path] != mark}
    assert {path.name for path in rewritten} == {
        "frames_00001.npy",
        "frames_00001.json",
        "manifest.json",
    }


def test_an_open_store_reads_on_when_its_files_are_removed(videos: Videos, tmp_path: Path) -> None:
    store = build_store(videos, tmp_path / "store")
    first = store.frames([0, 4])
    shutil.rmtree(tmp_path / "store")
    assert (store.frames([0, 4]) == first).all()


@pytest.mark.parametrize("name", ["student.safetensors", "history.csv", "manifest.json"])
def test_a_student_that_vanished(name: str, tmp_path: Path) -> None:
    keep_student(tmp_path / "draw")
    before = digests(tmp_path / "draw")
    (tmp_path / "draw" / name).unlink()
    with pytest.raises(ValueError, match="run the training again"):
        students.load(tmp_path / "draw", 1)
    keep_student(tmp_path / "draw")
    assert digests(tmp_path / "draw") == before


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_cell_that_vanished(suffix: str, tmp_path: Path) -> None:
    write_cells(tmp_path)
    before, kept = digests(tmp_path), marks(tmp_path)
    (tmp_path / "cells" / KEY.digest).with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=r"1 cells .* cannot be used; evaluate them again"):
        ResultsStore(tmp_path).outcomes([KEY])
    write_cells(tmp_path)
    assert digests(tmp_path) == before
    assert sum(kept[path] != mark for path, mark in marks(tmp_path).items()) == 2


def test_videos_that_vanish_while_they_are_decoded_and_come_back(
    own_videos: Videos, videos: Videos, tmp_path: Path
) -> None:
    """As when a network drive is away for a minute: hashed, not decoded, there again."""
    away = tmp_path / "away"
    decode = frame_store._decode

    def drive_lost(*arguments: object) -> None:
        own_videos[1].rename(away)
        try:
            decode(*arguments)  # type: ignore[arg-type]
        finally:
            away.rename(own_videos[1])

    gone = pytest.raises(ValueError, match=r"0\.mp4 vanished or was changed")
    with mock.patch.object(frame_store, "_decode", drive_lost), gone:
        build_store(own_videos, tmp_path / "store")
    again = build_store(own_videos, tmp_path / "store")
    assert len(again.failures) == 0
    store_work(videos)(tmp_path / "whole")
    assert digests(tmp_path / "store") == digests(tmp_path / "whole")


def test_a_result_that_vanishes_while_a_later_notebook_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    write_notebook(project, "01_one", RESULT)
    lost = "from pathlib import Path\nearlier = Path(run_dir) / '01_one' / 'out.json'\n"
    lost += "if not Path('lost').exists():\n    Path('lost').touch()\n    earlier.unlink()\n"
    write_notebook(project, "02_two", lost + "text = earlier.read_text()", RESULT)
    arguments = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
    assert fitclip(project / "notebooks", "run", *arguments) == 1
    said = capsys.readouterr().err
    assert "02_two failed" in said and "No such file" in said and "out.json" in said
    assert fitclip(project / "notebooks", "run", *arguments) == 0
    assert "01_one  runs, because output out.json is missing" in capsys.readouterr().out
    assert (project / "runs/tiny/01_one/out.json").is_file()


def test_a_shared_result_that_vanished_is_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    measure = "from pathlib import Path\nfrom fitclip_kit.store.files import write_text\n"
    measure += "write_text(Path(run_dir) / 'results' / 'STEM.json', 'measured')"
    write_notebook(project, "01_one", measure, RESULT)
    write_notebook(project, "02_two", measure, RESULT)
    arguments = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
    assert fitclip(project / "notebooks", "run", *arguments) == 0
    cell = project / "runs" / "tiny" / "results" / "01_one.json"
    cell.unlink()
    capsys.readouterr()
    assert fitclip(project / "notebooks", "run", *arguments) == 0
    said = capsys.readouterr().out
    assert "01_one  runs, because output results/01_one.json is missing" in said
    assert "02_two  up to date" in said, "the same work was done"
    assert cell.is_file()
