"""SIGKILL at any moment: what was done stays, what was begun is done again, no scraps are left."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
from fitclip_kit.store.files import remove_abandoned, write_text
from tests.faults.work import (
    WORK,
    Videos,
    dies_at,
    finish_notebook,
    marks,
    work_of,
    write_cells,
)
from tests.small_project import COMMAND, ENVIRONMENT, make_project, write_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="this system is not Linux")

DATA = """
import sys
from pathlib import Path
import pandas as pd
from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from fitclip_kit.store.files import write_json, write_manifest
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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, videos: Videos) -> Path:
    """A project that decodes videos in one notebook and keeps twelve students in the other."""
    project = make_project(tmp_path_factory.mktemp("project"))
    shutil.copytree(videos[1], project / "videos")
    videos[0].to_csv(project / "videos" / "clips.csv", index=False)
    write_notebook(project, "01_data", DATA, FINISH)
    write_notebook(project, "02_students", STUDENTS, FINISH)
    return project


def command(runs: str) -> list[str]:
    return [*COMMAND, "--runs-dir", runs]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(project: Path) -> None:
    before = os.times()
    subprocess.run(command("whole"), cwd=project, env=ENVIRONMENT, check=True)
    took = sum(os.times()[2:4]) - sum(before[2:4])
    undisturbed = project / "whole" / "tiny"
    assert len(digests(undisturbed)) > 30
    shares = {EVERYTHING: 0.55, RUNNER: 0.35, KERNEL: 0.35}
    blows = (Blow(target, share * took) for target, share in shares.items())

    killed = killed_run(command("killed"), project / "killed" / "tiny", blows, ENVIRONMENT, project)

    assert killed.kills, "else the run was done before it was killed"
    assert killed.problems() == []
    assert differences(project / "killed" / "tiny", undisturbed) == []


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


# A kill at each step of each kind of work

# Kinds of work with parts that are finished before the whole is: the records, and what they seal.
KEPT = {"cells": ("cells/*.json", ".parquet"), "store": ("frames_*.json", ".npy")}


@pytest.mark.parametrize("kind", [*WORK, "cells again"])
def test_a_kill_at_any_step(kind: str, tmp_path: Path, videos: Videos) -> None:
    work = work_of(kind.removesuffix(" again"), videos)
    whole = tmp_path / "whole"
    work(whole)
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        if kind == "cells again":
            write_cells(folder, measured_by="an older code")
        died = dies_at(step, partial(work, folder))
        remove_abandoned(folder)
        before = marks(folder)
        pattern, suffix = KEPT.get(kind, ("nothing", ""))
        records = list(folder.rglob(pattern))
        finished = [*records, *(record.with_suffix(suffix) for record in records)]
        work(folder)
        assert digests(folder) == digests(whole)
        again = [path for path in finished if marks(folder)[path] != before[path]]
        assert not again, "finished work was done again"
        if not died:
            break
    assert step > 8


def test_what_a_killed_write_leaves_is_no_output(tmp_path: Path) -> None:
    finish_notebook(tmp_path / "whole")
    draw = tmp_path / "killed" / "03_student_distillation" / "draw_1"
    assert dies_at(1, lambda: write_text(draw / "student.safetensors", "half"))
    assert len(list(draw.iterdir())) == 1

    finish_notebook(tmp_path / "killed")

    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
