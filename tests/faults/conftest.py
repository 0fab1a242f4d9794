"""What the tests of faults share: videos, disks without room, folders that cannot be written."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.work import Videos, make_videos

Mount = Callable[[str], Path]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    """A clips table of five small videos, and their folder."""
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """mount(options) -> a file system in memory, new or remounted; skips where it is forbidden."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def call(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            made = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("mounting is forbidden: there is no mount command")
        if made.returncode:
            pytest.skip(f"mounting is forbidden: {made.stderr.strip()}")
        return folder

    yield call
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


class SmallDisk(NamedTuple):
    """A folder, what an error of writing there says, and a context in which so much room is left.

    A small file system is filled where mounting is allowed; a limit on the size of files stands in
    for it everywhere.
    """

    folder: Path
    says: tuple[str, ...]
    without_room: Callable[[int], AbstractContextManager[None]]


@pytest.fixture(params=["full", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDisk:
    if request.param == "limit":
        # numpy does not tell the reason; a full disk is found out by the room that is left.
        return SmallDisk(tmp_path, ("File too large", "requested and"), limited)
    mounted: Path = request.getfixturevalue("mount")("size=8m")
    folder = mounted / "work"
    folder.mkdir()

    @contextmanager
    def filled(room: int) -> Iterator[None]:
        filler = mounted / "filler"
        filler.write_bytes(bytes(max(0, shutil.disk_usage(mounted).free - room)))
        try:
            yield
        finally:
            filler.unlink()

    return SmallDisk(folder, ("No space left on device",), filled)


@contextmanager
def limited(room: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Protected(NamedTuple):
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
