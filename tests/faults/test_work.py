"""Each kind of work under each kind of fault: it ends as undisturbed work does.

The faults: SIGKILL at any moment, a disk without room or that cannot be written, files that vanish,
a clock that jumps, and two that do the same at once. What was done is not done again.
"""

import itertools
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from benchmarks.run_files import digests
from data_prep import frame_store
from fitclip_kit.store.files import remove_abandoned, write_text
from fitclip_kit.store.results import ResultsStore
from tests.faults.conftest import Protected, SmallDisk
from tests.faults.work import (
    KEY,
    OTHER_KEY,
    WORK,
    Videos,
    Work,
    build_store,
    dies_at,
    finish_notebook,
    forked,
    marks,
    outcomes,
    work_of,
    write_cells,
)

YEAR = 365 * 24 * 3600


class Kind(NamedTuple):
    name: str
    work: Work
    digests: dict[str, str]  # of what undisturbed work leaves


@pytest.fixture(params=WORK)
def kind(request: pytest.FixtureRequest, tmp_path: Path, videos: Videos) -> Kind:
    return make_kind(request.param, tmp_path, videos)


def make_kind(name: str, folder: Path, videos: Videos) -> Kind:
    work = work_of(name, videos)
    work(folder / "whole")
    return Kind(name, work, digests(folder / "whole"))


def written_again(folder: Path, before: dict[Path, tuple[int, int]]) -> set[str]:
    now = marks(folder)
    return {path.name for path, mark in before.items() if now[path] != mark}


# Kinds of work with parts that are finished before the whole is: the records, and what they seal.
KEPT = {"cells": ("cells/*.json", ".parquet"), "store": ("frames_*.json", ".npy")}


@pytest.mark.skipif(sys.platform != "linux", reason="this system is not Linux")
@pytest.mark.parametrize("name", [*WORK, "cells again"])
def test_a_kill_at_any_step(name: str, tmp_path: Path, videos: Videos) -> None:
    kind = make_kind(name.removesuffix(" again"), tmp_path, videos)
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        if name == "cells again":
            write_cells(folder, measured_by="an older code")
        died = dies_at(step, partial(kind.work, folder))
        remove_abandoned(folder)
        before = marks(folder)
        pattern, suffix = KEPT.get(name, ("nothing", ""))
        records = {path.stem for path in folder.rglob(pattern)}
        kind.work(folder)
        assert digests(folder) == kind.digests
        again = written_again(folder, before)
        assert not {f"{one}{end}" for one in records for end in (".json", suffix)} & again
        if not died:
            break
    assert step > 8


@pytest.mark.skipif(sys.platform != "linux", reason="this system is not Linux")
def test_what_a_killed_write_leaves_is_no_output(tmp_path: Path) -> None:
    finish_notebook(tmp_path / "whole")
    draw = tmp_path / "killed" / "03_student_distillation" / "draw_1"
    assert dies_at(1, lambda: write_text(draw / "student.safetensors", "half"))
    assert len(list(draw.iterdir())) == 1
    finish_notebook(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_work_goes_on_once_there_is_room(disk: SmallDisk, kind: Kind) -> None:
    failed = 0
    for room in (0, 1024, 2048, 4096, 12288):
        folder = disk.folder / str(room)
        try:
            with disk.without_room(room):
                kind.work(folder)
        except Exception as error:
            assert any(text in str(error) for text in disk.says), error
            assert not list(folder.rglob("*.tmp*"))
            failed += 1
        kind.work(folder)
        assert digests(folder) == kind.digests
    assert failed >= 2


def test_work_in_a_read_only_folder(protected: Protected, kind: Kind) -> None:
    folder = protected.folder / "begun"
    folder.mkdir()
    protected.allow(False)
    with pytest.raises(OSError, match=r"Read-only file system|Permission denied") as refused:
        kind.work(folder)
    assert str(protected.folder) in str(refused.value)
    protected.allow(True)
    kind.work(folder)
    assert digests(folder) == kind.digests
    if kind.name != "notebook":  # it declares its outputs anew
        protected.allow(False)
        kind.work(folder)  # what is done needs no writing


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_finished_work_has_no_age(kind: Kind, seconds: int, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shift(folder, seconds)
    before = marks(folder)
    kind.work(folder)
    anew = {"table.json", "manifest.json"} if kind.name == "notebook" else set()
    assert written_again(folder, before) <= anew


def shift(folder: Path, seconds: int) -> None:
    """Give every file another time of writing, as if the clock had been off."""
    for path in [folder, *folder.rglob("*")]:
        stat = path.stat()
        os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))


SHARD = {"frames_00001.npy", "frames_00001.json"}
CELL = {f"{KEY.digest}.parquet", f"{KEY.digest}.json"}
STUDENT = ("student.safetensors", "history.csv", "manifest.json")


@pytest.mark.parametrize(
    ("name", "file", "made_again"),
    [
        ("store", "frames_00001.npy", SHARD | {"manifest.json"}),
        *(("cells", f"cells/{file}", CELL) for file in CELL),
        *(("student", file, None) for file in STUDENT),
    ],
)
def test_a_file_that_vanished_is_made_again(
    name: str, file: str, made_again: set[str] | None, tmp_path: Path, videos: Videos
) -> None:
    kind, folder = make_kind(name, tmp_path, videos), tmp_path / "whole"
    before = marks(folder)
    (folder / file).unlink()
    kind.work(folder)
    assert digests(folder) == kind.digests
    assert made_again is None or written_again(folder, before) == made_again


def test_an_open_store_reads_on_when_its_files_are_removed(videos: Videos, tmp_path: Path) -> None:
    store = build_store(videos, tmp_path / "store")
    first = store.frames([0, 4])
    shutil.rmtree(tmp_path / "store")
    assert (store.frames([0, 4]) == first).all()


def test_videos_that_vanish_while_they_are_decoded_and_come_back(
    videos: Videos, tmp_path: Path
) -> None:
    """As when a network drive is away for a minute: hashed, not decoded, there again."""
    drive, away = Path(shutil.copytree(videos[1], tmp_path / "videos")), tmp_path / "away"
    decode = frame_store._decode

    def drive_lost(*arguments: object) -> None:
        drive.rename(away)
        try:
            decode(*arguments)  # type: ignore[arg-type]
        finally:
            away.rename(drive)

    gone = pytest.raises(ValueError, match=r"0\.mp4 vanished or was changed")
    with mock.patch.object(frame_store, "_decode", drive_lost), gone:
        build_store((videos[0], drive), tmp_path / "store")
    again = build_store((videos[0], drive), tmp_path / "store")
    assert len(again.failures) == 0
    assert digests(tmp_path / "store") == make_kind("store", tmp_path, videos).digests


def write_cells_often(folder: Path) -> None:
    for _ in range(20):
        for key in (KEY, OTHER_KEY):
            ResultsStore(folder).write(key, outcomes(), {"code": "now"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", ["cells", "store"])
def test_two_do_the_same_at_once(name: str, tmp_path: Path, videos: Videos) -> None:
    kind = make_kind(name, tmp_path, videos)
    work = write_cells_often if name == "cells" else kind.work
    for number in range(4):
        folder = tmp_path / str(number)
        children = [forked(partial(work, folder)) for _ in "ab"]
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert digests(folder) == kind.digests
