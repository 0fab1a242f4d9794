"""A disk without room, and one that cannot be written: said so, nothing half there, goes on later.

A small file system in memory is filled where mounting is allowed; a limit on the size of files
stands in for it everywhere.
"""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from benchmarks.run_files import digests
from data_prep.mini_benchmark.build import encode
from fitclip_kit.store.files import atomic_path, write_text
from tests.faults.work import WORK, Videos, Work, names, work_of
from tests.small_project import fitclip, make_project, write_notebook

Mount = Callable[[str], Path]
NUMBERS = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8)
TABLE = pd.DataFrame({"number": NUMBERS[:8000]})


@dataclass
class SmallDisk:
    """A folder on a disk that can be filled.

    says: what an error of writing says, one of these.
    without_room: context manager (bytes) in which no more can be written.
    """

    folder: Path
    says: tuple[str, ...]
    without_room: Callable[[int], AbstractContextManager[None]]


@pytest.fixture(params=["full", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDisk:
    if request.param == "full":
        mounted = request.getfixturevalue("mount")("size=8m")
        folder = mounted / "work"
        folder.mkdir()
        return SmallDisk(folder, ("No space left on device",), filled(mounted / "filler"))
    # numpy does not tell the reason; a full disk is found out by the room that is left.
    return SmallDisk(tmp_path, ("File too large", "requested and"), limited)


def filled(filler: Path) -> Callable[[int], AbstractContextManager[None]]:
    @contextmanager
    def without_room(room: int) -> Iterator[None]:
        free = shutil.disk_usage(filler.parent).free
        filler.write_bytes(bytes(max(0, free - room)))
        try:
            yield
        finally:
            filler.unlink()

    return without_room


@contextmanager
def limited(room: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_torch(path: Path) -> None:
    with path.open("wb") as file:  # as export_openai does
        torch.save({"x": torch.from_numpy(NUMBERS)}, file)


def write_figure(path: Path) -> None:
    figure, axes = plt.subplots()
    axes.imshow(NUMBERS.reshape(200, 300))
    plt.close(figure)
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {})


def write_notebook_copy(path: Path) -> None:
    cell = nbformat.v4.new_code_cell("x" * 60_000, id="one")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), str(path))


def write_video(path: Path) -> None:
    encode(path, NUMBERS[:49152].reshape(4, 64, 64, 3), crf=20)


# What the kit writes by, each into a temporary file.
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: path.write_text("x" * 60_000),
    "a.npy": lambda path: np.save(path, NUMBERS),
    "a.csv": lambda path: TABLE.to_csv(path),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pandas(TABLE), path),
    "a.safetensors": lambda path: safetensors.torch.save_file(
        {"x": torch.from_numpy(NUMBERS)}, path
    ),
    "a.pt": write_torch,
    "a.png": write_figure,
    "a.ipynb": write_notebook_copy,
    "a.mp4": write_video,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_or_the_old_one(disk: SmallDisk, name: str) -> None:
    """Also if there is room for all but the last bytes, which are written when a file is closed."""
    target = disk.folder / name

    def write() -> None:
        with atomic_path(target) as temporary:
            WRITERS[name](temporary)

    write()
    whole = target.read_bytes()
    failed = 0
    last = (len(whole) - 1) // 4096 * 4096
    for room in (0, last // 2, last, last + 4096, last + 5 * 4096):
        write_text(target, "old")
        try:
            with disk.without_room(room):
                write()
        except Exception as error:
            assert any(text in str(error) for text in disk.says), error
            assert target.read_text() == "old"
            failed += 1
        else:
            assert target.read_bytes() == whole
        assert names(disk.folder) == [name]
    assert failed >= 3, "there was always room"


@pytest.mark.parametrize("kind", WORK)
def test_work_goes_on_once_there_is_room(
    disk: SmallDisk, kind: str, tmp_path: Path, videos: Videos
) -> None:
    work: Work = work_of(kind, videos)
    work(tmp_path / "whole")
    expected = digests(tmp_path / "whole")
    failed = 0
    for room in (0, 1024, 2048, 4096, 12288):
        folder = disk.folder / str(room)
        try:
            with disk.without_room(room):
                work(folder)
        except Exception as error:
            assert any(text in str(error) for text in disk.says), error
            assert not list(folder.rglob("*.tmp*"))
            failed += 1
        work(folder)
        assert digests(folder) == expected
    assert failed >= 2


LARGE = """
from pathlib import Path
from fitclip_kit.store.files import write_manifest, write_text
folder = Path(run_dir) / "STEM"
write_text(folder / "large", "x" * 10**6)
made = {"parameters": {}, "inputs": {}, "code": "", "outputs": [folder / "large"]}
written = write_manifest(folder, kind="STEM", **made)
"""


@pytest.mark.parametrize("room", [0, 200_000])
def test_a_run_says_so_and_goes_on(
    disk: SmallDisk, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(disk.folder / "project")
    write_notebook(project, "01_one", LARGE)

    def main() -> int:
        arguments = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
        return fitclip(project / "notebooks", "run", *arguments)

    with disk.without_room(room):
        assert main() == 1
    said = capsys.readouterr().err
    assert disk.says[0] in said and "same command goes on" in said
    assert "Traceback" not in said
    assert main() == 0
    assert (project / "runs" / "tiny" / "01_one" / "large").stat().st_size == 10**6
    left = names(project / "runs" / "tiny" / "notebooks")
    assert left == ["01_one.html", "01_one.ipynb", "01_one.manifest.json", "timings.json"]


# Folders that cannot be written


@dataclass
class Protected:
    """A folder, and a function that gives or takes the right to write in it."""

    folder: Path
    allow: Callable[[bool], object]


@pytest.fixture
def protected(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Protected]:
    if os.geteuid() == 0:  # root writes where nobody may
        mount: Mount = request.getfixturevalue("mount")
        folder = mount("size=8m")
        yield Protected(folder, lambda writing: mount(f"remount,{'rw' if writing else 'ro'}"))
        return
    folder = tmp_path / "protected"
    folder.mkdir()

    def allow(writing: bool) -> None:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755 if writing else 0o555)

    yield Protected(folder, allow)
    allow(True)


READ_ONLY = r"Read-only file system|Permission denied"


@pytest.mark.parametrize("kind", WORK)
def test_work_in_a_read_only_folder(
    protected: Protected, kind: str, tmp_path: Path, videos: Videos
) -> None:
    work = work_of(kind, videos)
    work(tmp_path / "whole")
    (protected.folder / "begun").mkdir()
    protected.allow(False)
    with pytest.raises(OSError, match=READ_ONLY) as refused:
        work(protected.folder / "begun")
    assert str(protected.folder) in str(refused.value)
    protected.allow(True)
    work(protected.folder / "begun")
    assert digests(protected.folder / "begun") == digests(tmp_path / "whole")
    if kind == "notebook":
        return  # it declares its outputs anew
    protected.allow(False)
    work(protected.folder / "begun")  # what is done needs no writing


def test_a_run_in_a_read_only_folder(
    protected: Protected, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    write_notebook(project, "01_one", "1")
    protected.allow(False)
    arguments = ["--profile", "tiny", "--runs-dir", str(protected.folder)]
    assert fitclip(project / "notebooks", "run", *arguments) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and str(protected.folder) in said
    assert "Read-only file system" in said or "Permission denied" in said
