"""What the tests of faults share."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.work import make_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """A clips table of five small videos, and their folder."""
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
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
