"""A clock that jumps: nothing that is done is done again, and nothing waits for another year."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.faults.work import WORK, Videos, marks, work_of
from tests.small_project import COMMAND, ENVIRONMENT, RESULT, make_project, write_notebook

YEAR = 365 * 24 * 3600
# Both the runner and its kernels see a clock that is off by what a file says.
JUMPING = """
import os, time

def off():
    try:
        with open(os.environ["CLOCK_OFF"]) as file:
            return int(file.read() or 0)
    except OSError:
        return 0

def jumping(clock, unit):
    return lambda: clock() + off() * unit

time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
"""


def shift(folder: Path, seconds: int) -> None:
    """Give every file another time of writing, as if the clock had been off."""
    for path in [folder, *folder.rglob("*")]:
        stat = path.stat()
        os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
@pytest.mark.parametrize("kind", WORK)
def test_finished_work_has_no_age(kind: str, seconds: int, tmp_path: Path, videos: Videos) -> None:
    work = work_of(kind, videos)
    work(tmp_path)
    shift(tmp_path, seconds)
    before = marks(tmp_path)
    work(tmp_path)
    written = {path.name for path in before if marks(tmp_path)[path] != before[path]}
    assert written <= ({"table.json", "manifest.json"} if kind == "notebook" else set())


@pytest.mark.slow
def test_a_run_on_a_jumping_clock(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    jumps = [
        f"import os, time\nbefore = time.time()\nfile = open(os.environ['CLOCK_OFF'], 'w')\n"
        f"n = file.write('{seconds}')\nfile.close()\n"
        f"assert abs(time.time() - before - ({seconds - earlier})) < 1000\ntime.sleep(0.3)"
        for earlier, seconds in ((0, YEAR), (YEAR, -YEAR), (-YEAR, 0))
    ]
    write_notebook(project, "01_one", *jumps, RESULT)
    write_notebook(project, "02_two", RESULT)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(tmp_path / "path"), ENVIRONMENT["PYTHONPATH"]])
    environment = {**ENVIRONMENT, "PYTHONPATH": path, "CLOCK_OFF": str(tmp_path / "off")}

    def said(environment: dict[str, str]) -> str:
        done = subprocess.run(COMMAND, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"01_one  done after 0:\d\d\n", said(environment))
    for seconds in (-YEAR, 2 * YEAR):
        shift(project / "runs", seconds)
        again = subprocess.run(
            COMMAND, cwd=project, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert again.stdout.count("up to date") == 2
