"""Whole runs under faults: the same command goes on, or says in words why it cannot."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from benchmarks.kills import (
    EVERYTHING,
    KERNEL,
    RUNNER,
    Blow,
    differences,
    family,
    is_kernel,
    killed_run,
    lives,
    survivors,
)
from benchmarks.run_files import digests
from fitclip_kit.engine import run
from tests.faults.conftest import Protected, SmallDisk
from tests.faults.test_work import YEAR, shift
from tests.faults.work import Videos, names
from tests.small_project import (
    COMMAND,
    ENVIRONMENT,
    RESULT,
    fitclip,
    make_project,
    write_notebook,
)

Said = pytest.CaptureFixture[str]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="this system is not Linux")


def run_here(project: Path, runs: Path | None = None) -> int:
    """The exit status of a run in this process."""
    folder = project / "runs" if runs is None else runs
    return fitclip(project / "notebooks", "run", "--profile", "tiny", "--runs-dir", str(folder))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# SIGKILL

DATA = """
from pathlib import Path
import pandas as pd
from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from fitclip_kit.store.files import write_manifest
frame_store.SHARD_CLIPS = 2
folder = Path(run_dir) / "STEM"
videos = Path("../videos")
clips = pd.read_csv(videos / "clips.csv")
frame_store.build(clips, videos, folder / "frames", FrameRule(n_frames=2, size=16), workers=1)
"""
STUDENTS = """
import time
from pathlib import Path
from fitclip_kit.store.files import manifest_problems, write_json, write_manifest
folder = Path(run_dir) / "STEM"
for draw in range(12):
    one = folder / f"draw_{draw}"
    if manifest_problems(one, kind="student"):
        time.sleep(0.2)
        write_json(one / "weights.json", list(range(1000 * draw)))
        write_manifest(one, kind="student", parameters={"draw": draw}, inputs={}, code="",
                       outputs=[one / "weights.json"])
"""
FINISH = """
outputs = sorted(path for path in folder.rglob("*") if path.is_file())
written = write_manifest(folder, kind="STEM", parameters={}, inputs={}, code="", outputs=outputs)
"""


@on_linux
@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path, videos: Videos
) -> None:
    """It decodes videos in one notebook and keeps twelve students in the other."""
    project = make_project(tmp_path)
    shutil.copytree(videos[1], project / "videos")
    videos[0].to_csv(project / "videos" / "clips.csv", index=False)
    write_notebook(project, "01_data", DATA, FINISH)
    write_notebook(project, "02_students", STUDENTS, FINISH)
    before = os.times()
    subprocess.run([*COMMAND, "--runs-dir", "whole"], cwd=project, env=ENVIRONMENT, check=True)
    took = sum(os.times()[2:4]) - sum(before[2:4])
    undisturbed, folder = project / "whole" / "tiny", project / "killed" / "tiny"
    assert len(digests(undisturbed)) > 30
    shares = {EVERYTHING: 0.55, RUNNER: 0.35, KERNEL: 0.35}
    blows = (Blow(target, share * took) for target, share in shares.items())
    command = [*COMMAND, "--runs-dir", "killed"]
    killed = killed_run(command, folder, blows, ENVIRONMENT, project)
    assert killed.kills, "else the run was done before it was killed"
    assert killed.problems() == []
    assert differences(folder, undisturbed) == []


@on_linux
@pytest.mark.slow
def test_a_rerun_waits_for_the_kernel_of_a_killed_run(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    stay = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)"
    write_notebook(project, "01_one", stay)
    first = subprocess.Popen(COMMAND, cwd=project, env=ENVIRONMENT)
    until(lambda: (project / "notebooks" / "begun").exists())
    members = family(first.pid)
    kernel = next(filter(is_kernel, members))
    os.kill(kernel.pid, signal.SIGSTOP)  # it cannot notice that it is alone
    first.kill()
    first.wait()
    try:
        refused = pytest.raises(run.FolderInUse, match=f"kernel of .*process {first.pid} on")
        with mock.patch.object(run, "KERNEL_END_SECONDS", 0.3), refused:
            run.locked(project / "runs" / "tiny").__enter__()
        os.kill(kernel.pid, signal.SIGCONT)
        with run.locked(project / "runs" / "tiny"):
            assert not lives(kernel)
    finally:
        with suppress(psutil.NoSuchProcess):
            kernel.kill()
    assert survivors(members, 10) == []


DECODING = """
from time import sleep
from data_prep.decode_workers import killable_map
list(killable_map(sleep, [600, 600], workers=2, deadline=1000))
"""


@on_linux
def test_decoding_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    """Not after the clip that is in work: a rerun must not meet it."""
    process = subprocess.Popen([sys.executable, "-c", DECODING], env=ENVIRONMENT, cwd=tmp_path)
    until(lambda: len(family(process.pid)) >= 3)
    members = family(process.pid)
    process.kill()
    process.wait()
    left = survivors(members, 10)
    for one in left:
        one.kill()
    assert left == []


# Disks

LARGE = """
from pathlib import Path
from fitclip_kit.store.files import write_manifest, write_text
folder = Path(run_dir) / "STEM"
write_text(folder / "large", "x" * 10**6)
made = {"parameters": {}, "inputs": {}, "code": "", "outputs": [folder / "large"]}
written = write_manifest(folder, kind="STEM", **made)
"""


@pytest.mark.parametrize("room", [0, 200_000])
def test_a_run_on_a_full_disk_says_so_and_goes_on(disk: SmallDisk, room: int, capsys: Said) -> None:
    project = make_project(disk.folder / "project")
    write_notebook(project, "01_one", LARGE)
    with disk.without_room(room):
        assert run_here(project) == 1
    said = capsys.readouterr().err
    assert disk.says[0] in said and "same command goes on" in said
    assert "Traceback" not in said
    assert run_here(project) == 0
    assert (project / "runs" / "tiny" / "01_one" / "large").stat().st_size == 10**6
    left = names(project / "runs" / "tiny" / "notebooks")
    assert left == ["01_one.html", "01_one.ipynb", "01_one.manifest.json", "timings.json"]


def test_a_run_in_a_read_only_folder(protected: Protected, capsys: Said, tmp_path: Path) -> None:
    project = make_project(tmp_path)
    write_notebook(project, "01_one", "1")
    protected.allow(False)
    assert run_here(project, protected.folder) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and str(protected.folder) in said
    assert "Read-only file system" in said or "Permission denied" in said


# Results that vanish


def test_a_result_that_vanishes_while_a_later_notebook_runs(tmp_path: Path, capsys: Said) -> None:
    """The notebook's own, which it needs; then one that both have measured and share."""
    project = make_project(tmp_path)
    measure = "from pathlib import Path\nfrom fitclip_kit.store.files import write_text\n"
    measure += "write_text(Path(run_dir) / 'results' / 'STEM.json', 'measured')"
    write_notebook(project, "01_one", measure, RESULT)
    lost = "from pathlib import Path\nearlier = Path(run_dir) / '01_one' / 'out.json'\n"
    lost += "if not Path('lost').exists():\n    Path('lost').touch()\n    earlier.unlink()\n"
    write_notebook(project, "02_two", lost + "text = earlier.read_text()", measure, RESULT)
    assert run_here(project) == 1
    said = capsys.readouterr().err
    assert "02_two failed" in said and "No such file" in said and "out.json" in said
    assert run_here(project) == 0
    assert "01_one  runs, because output out.json is missing" in capsys.readouterr().out
    folder = project / "runs" / "tiny"
    assert (folder / "01_one" / "out.json").is_file()
    (folder / "results" / "01_one.json").unlink()
    assert run_here(project) == 0
    said = capsys.readouterr().out
    assert "01_one  runs, because output results/01_one.json is missing" in said
    assert "02_two  up to date" in said, "the same work was done"
    assert (folder / "results" / "01_one.json").is_file()


# Two at once, and a clock that jumps


@pytest.mark.slow
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
    jumping = {**ENVIRONMENT, "PYTHONPATH": path, "CLOCK_OFF": str(tmp_path / "off")}

    def said(environment: dict[str, str]) -> str:
        done = subprocess.run(COMMAND, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"01_one  done after 0:\d\d\n", said(jumping))
    for seconds in (-YEAR, 2 * YEAR):
        shift(project / "runs", seconds)
        assert said(ENVIRONMENT).count("up to date") == 2
