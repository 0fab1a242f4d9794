"""Whole runs under faults: the same command goes on, or says in words why it cannot."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
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
from tests.faults.conftest import SmallDisk
from tests.faults.test_work import YEAR, shift
from tests.faults.work import Videos, names
from tests.small_project import (
    COMMAND,
    ENVIRONMENT,
    RESULT,
    fitclip,
    make_project,
    until,
    write_notebook,
)

Said = pytest.CaptureFixture[str]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="this system is not Linux")


def run_here(project: Path) -> int:
    """The exit status of a run in this process."""
    options = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
    return fitclip(project / "notebooks", "run", *options)


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


# A clock that jumps


def test_a_run_on_a_jumping_clock(tmp_path: Path, capsys: Said) -> None:
    """It is a year off at most looks; then the files are a year old, or of the year after next."""
    project = make_project(tmp_path)
    write_notebook(project, "01_one", RESULT)
    off, clock, nanoseconds = itertools.cycle((0, YEAR, -YEAR)), time.time, time.time_ns
    with (
        mock.patch("time.time", lambda: clock() + next(off)),
        mock.patch("time.time_ns", lambda: nanoseconds() + next(off) * 10**9),
    ):
        assert run_here(project) == 0
    assert re.search(r"01_one  done after 0:\d\d\n", capsys.readouterr().out)
    for seconds in (-YEAR, 2 * YEAR):
        shift(project / "runs", seconds)
        assert run_here(project) == 0
        assert "up to date" in capsys.readouterr().out


# Both the runner and its kernels see a clock that is off by what a file says.
