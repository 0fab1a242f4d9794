"""Two that work on the same files at once: one waits, or is told; what they leave is whole."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from benchmarks.run_files import digests
from fitclip_kit.store.files import atomic_path, remove_abandoned, write_text
from fitclip_kit.store.results import ResultsStore
from tests.faults.work import KEY, OTHER_KEY, Videos, names, outcomes, store_work, write_cells
from tests.small_project import COMMAND, ENVIRONMENT, RESULT, make_project, write_notebook


def test_writers_and_a_cleaner_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(30):
            with atomic_path(tmp_path / "a.txt") as temporary, temporary.open("w") as file:
                for _ in range(20):
                    file.write(letter * 1000)
                    file.flush()

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, letter) for letter in "abc"]
        while not all(one.done() for one in writing):
            remove_abandoned(tmp_path)
        for one in writing:
            one.result()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() in [letter * 20_000 for letter in "abc"]


def test_scraps_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["a.tmp", ".a.tmp", ".hidden", "b.abcdefgh.tmp.txt", ".b.tmp.txt"]
    scraps = [".b.abcdefgh.tmp.txt", "deep/er/.c.x_1.d.abcd_e12.tmp", ".frames_00001.x.tmp.npy"]
    for name in [*kept, *scraps]:
        write_text(tmp_path / name, "x")
    assert remove_abandoned(tmp_path) == sorted(tmp_path / name for name in scraps)
    assert names(tmp_path) == sorted([*kept, "deep"])


def together(*works: Callable[[], object]) -> list[int]:
    """Do pieces of work at once, each in a copy of this process; their exit statuses."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_sweeps_write_the_same_cells(tmp_path: Path) -> None:
    def write() -> None:
        store = ResultsStore(tmp_path / "both")
        for _ in range(20):
            for key in (KEY, OTHER_KEY):
                store.write(key, outcomes(), {"code": "now"})

    assert together(write, write) == [0, 0]
    write_cells(tmp_path / "one")
    assert digests(tmp_path / "both") == digests(tmp_path / "one")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_build_the_same_frame_store(tmp_path: Path, videos: Videos) -> None:
    work = store_work(videos)
    work(tmp_path / "one")
    for number in range(4):
        folder = tmp_path / f"both_{number}"
        assert together(partial(work, folder), partial(work, folder)) == [0, 0]
        assert digests(folder) == digests(tmp_path / "one")


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    write_notebook(project, "01_one", "import time\ntime.sleep(3)", RESULT)
    runs = [
        subprocess.Popen(COMMAND, cwd=project, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate()[1] for one in runs]
    assert sorted(one.returncode for one in runs) == [0, 1]
    first = next(number for number, one in enumerate(runs) if one.returncode == 0)
    assert f"Another run (process {runs[first].pid} on " in said[1 - first]
    assert (project / "runs" / "tiny" / "01_one" / "out.json").is_file()
