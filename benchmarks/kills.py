"""Kill a run at random moments, over and over, until it is done all the same.

    python -m benchmarks.kills [--kills 50] [--seed 0] [--profile smoke]

A run is killed by SIGKILL after a random time of the processor (other load does not matter) and
started again until it is done; then the next one begins. Half of the kills hit every process (a
machine that stops), three of ten the runner alone, two of ten the notebook's kernel (no memory).
Each run must leave the files and bytes of one that nobody disturbed, but for executed notebooks,
write nothing again that was done at a kill, and leave no process and no temporary file. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.run_files import digests
from fitclip_kit.store.files import MANIFEST_NAME

EVERYTHING, RUNNER, KERNEL = "everything", "runner", "kernel"
_WEIGHTS: Final = {EVERYTHING: 5, RUNNER: 3, KERNEL: 2}
_END_SECONDS: Final = 60.0  # for what is left of a run to end
Marks = dict[str, tuple[int, int]]  # path of a file of finished work -> inode, time of writing


@dataclass(frozen=True)
class Blow:
    """What is killed, and after how many processor seconds of the run's processes."""

    target: str
    seconds: float


@dataclass
class Killed:
    """A run that was killed until it was done: the blows that hit, in their order (on everything
    where there was no kernel to kill), files of finished work that were written again after a kill,
    and processes that still live."""

    kills: list[Blow] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    left: list[psutil.Process] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What should not be, a line each."""
        lines = [f"written again: {path}" for path in self.redone]
        return lines + [f"still runs: {process}" for process in self.left]


def killed_run(
    command: Sequence[str],
    run: Path,
    blows: Iterator[Blow],
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Killed:
    """Start a run, kill it and start it again until it is done, or was left alone and ended.

    command, environment and cwd start the run, of which `run` is the folder. blows: one for each
    process that is started; where they end, the run is left alone.

    Raises: RuntimeError when a run fails that was not killed, with what it said.
    """
    killed = Killed()
    members: list[psutil.Process] = []
    finished: Marks = {}
    while True:
        blow = next(blows, None)
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd
            )
            target = ""
            if blow is not None and _outlasts(process, blow.seconds):
                target, hit = _strike(process, blow.target)
                members += hit
                killed.kills.append(Blow(target, blow.seconds))
            process.wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
        before, finished = finished, _finished(run)
        killed.redone += sorted(path for path in before if finished.get(path) != before[path])
        if process.returncode and not target:
            raise RuntimeError(f"the run was not killed and failed:\n{said}")
        if process.returncode and target == KERNEL and "same command goes on" not in said:
            raise RuntimeError(f"the run did not say that its kernel died:\n{said}")
        if process.returncode == 0:  # a kernel that is killed when it ends anyway is not missed
            killed.left = survivors(members, _END_SECONDS)
            return killed


def differences(run: Path, undisturbed: Path) -> list[str]:
    """How a finished run differs from one that nobody disturbed, a line each."""
    ours, theirs = digests(run), digests(undisturbed)
    lines = [f"left over: {name}" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"missing: {name}" for name in sorted(theirs.keys() - ours.keys())]
    return lines + [
        f"other bytes: {name}"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name] != theirs[name] and not name.startswith("notebooks/")
    ]


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it, parents first."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_kernel(process: psutil.Process) -> bool:
    """Whether it is a notebook's kernel."""
    with suppress(psutil.Error):
        return "ipykernel_launcher" in process.cmdline()
    return False


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that only waits to be buried does not."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() not in ("zombie", "dead")
    return False


def survivors(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after so many seconds at most."""
    end = time.monotonic() + seconds
    while (alive := list(filter(lives, processes))) and time.monotonic() < end:
        time.sleep(0.1)
    return alive


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--profile", default="smoke", help="default: smoke")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fitclip-kills-") as name:
        return _measure(Path(name), options.profile, options.kills, options.seed)


def _measure(folder: Path, profile: str, kills: int, seed: int) -> int:
    environment = os.environ | {"TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()

    def command(name: str) -> list[str]:
        runs = ["--profile", profile, "--runs-dir", str(folder / name)]
        return [sys.executable, "-m", "fitclip_kit.engine.cli", "run", *runs]

    before = os.times()
    subprocess.run(command("undisturbed"), env=environment, check=True, stdout=subprocess.DEVNULL)
    took = sum(os.times()[2:4]) - sum(before[2:4])
    expected = folder / "undisturbed" / profile
    print(f"undisturbed: {took:.0f} processor seconds, {len(digests(expected))} files")
    blows = _blows(seed, took / 4)
    targets: Counter[str] = Counter()
    wrong = 0
    for run in itertools.count(1):
        path = folder / f"killed_{run}" / profile
        given = itertools.islice(blows, kills - targets.total())
        killed = killed_run(command(path.parent.name), path, given, environment)
        targets.update(blow.target for blow in killed.kills)
        problems = killed.problems() + differences(path, expected)
        wrong += len(problems)
        summary = f"run {run}: {len(killed.kills)} kills, {len(problems)} problems"
        print("\n".join([summary, *problems[:20]]), flush=True)
        shutil.rmtree(path.parent)
        if targets.total() >= kills:
            break
    print(f"\n{targets.total()} kills ({dict(targets)}), {run} runs, {wrong} problems")
    print(f"left in TMPDIR: {sum(1 for _ in (folder / 'tmp').rglob('*'))} files")
    return 1 if wrong else 0


def _blows(seed: int, longest: float) -> Iterator[Blow]:
    """Endless random blows, each at most so many processor seconds after a start."""
    rng = random.Random(seed)
    while True:
        target = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        yield Blow(target, rng.uniform(0, longest))


def _outlasts(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait; whether a process and what it started come to use so many processor seconds."""
    while process.poll() is None:
        used = 0.0
        for member in family(process.pid):
            with suppress(psutil.Error):
                used += sum(member.cpu_times()[:4])  # its own, and of its children that ended
        if used >= seconds:
            return True
        time.sleep(0.2)
    return False


def _strike(process: subprocess.Popen[bytes], target: str) -> tuple[str, list[psutil.Process]]:
    """Kill; what was killed in fact, and all processes of the run."""
    members = family(process.pid)
    kernels = list(filter(is_kernel, members))[:1]
    if target == KERNEL and not kernels:
        target = EVERYTHING
    for member in {KERNEL: kernels, RUNNER: members[:1], EVERYTHING: members}[target]:
        with suppress(psutil.Error):
            member.kill()
    return target, members


def _finished(run: Path) -> Marks:
    """The marks of the files of work that a run need not do again."""
    while True:
        # The kernel of a killed runner lives for a moment, and moves files.
        with suppress(FileNotFoundError):
            stats = {str(path): path.stat() for path in _finished_files(run)}
            return {name: (one.st_ino, one.st_mtime_ns) for name, one in stats.items()}


def _finished_files(run: Path) -> Iterator[Path]:
    for record in (run / "notebooks").glob(f"*.{MANIFEST_NAME}"):
        stem = record.name.partition(".")[0]
        yield from (record, *(record.with_name(f"{stem}{end}") for end in (".ipynb", ".html")))
        yield from _declared(run / stem / MANIFEST_NAME)
    for record in run.rglob("frames_*.json"):
        yield from (record, record.with_suffix(".npy"))
    for record in (run / "results" / "cells").glob("*.json"):
        yield from (record, record.with_suffix(".parquet"))
    for manifest in run.rglob(MANIFEST_NAME):
        if manifest.parent.parent != run:  # a notebook's is void without the runner's
            yield from _declared(manifest)


def _declared(manifest: Path) -> Iterator[Path]:
    """A manifest and the outputs that it declares."""
    yield manifest
    for name in json.loads(manifest.read_text(encoding="utf-8"))["outputs"]:
        yield manifest.parent / name


if __name__ == "__main__":
    sys.exit(main())
