"""Kill a run at random moments, over and over, until it is done all the same.

    python -m benchmarks.kills [--kills 50] [--seed 0] [--profile smoke] [--keep FOLDER]

A run is killed by SIGKILL after a random time (of the processor: other load does not matter), is
started again, killed again, and so on until it is done; then the next one begins, until there were
enough kills. Half of them hit every process of the run (a machine that stops), three of ten the
runner alone, two of ten the notebook's kernel alone (memory that runs out). In the end each run is
compared with one that nobody disturbed: the same files, the same bytes in all but the executed
notebooks, which hold times. What was done at a kill (whole data sets, shards, students, cells,
notebooks) has to be there untouched later on: the same inode, the same time of writing. No process
and no temporary file may be left. Linux only.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.processes import Seen, family, spent, survivors
from benchmarks.run_files import digests
from fitclip_kit.store.files import MANIFEST_NAME

EVERYTHING, RUNNER, KERNEL = "everything", "runner", "kernel"
_WEIGHTS: Final = {EVERYTHING: 5, RUNNER: 3, KERNEL: 2}
_END_SECONDS: Final = 60.0  # for what is left of a run to end
Marks = dict[str, tuple[int, int]]  # path of a file of finished work -> inode, time of writing
_KINDS: Final = {"mini_benchmark": "sets", "student": "students"}  # of manifests
_COLUMNS: Final = "{:>4} {:>3} {:10} {:>6}  {:38} {:>4} {:>6} {:>8} {:>5} {:>9} {:>5} {:>7}"
_UNITS: Final = ("sets", "shards", "students", "cells", "notebooks")


@dataclass(frozen=True)
class Blow:
    """What is killed, and after how many processor seconds of the run's processes."""

    target: str
    seconds: float


@dataclass(frozen=True)
class Kill:
    """A blow that hit.

    Attributes:
        target: what was killed; everything where there was no kernel to kill.
        seconds: of the processor, since that start.
        where: notebook and cell.
        done: how much was done by then: data sets, shards, students, cells, notebooks.
        temporaries: half-written files that it left.
        redone: files of finished work that were written again since the kill before.
    """

    target: str
    seconds: float
    where: str
    done: Counter[str]
    temporaries: int
    redone: list[str]


@dataclass
class Killed:
    """A run that was killed until it was done.

    Attributes:
        kills: in their order.
        redone: files of finished work that were written again after the last kill.
        left: processes that still live.
        said: what the last process said.
    """

    kills: list[Kill] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    left: list[Seen] = field(default_factory=list)
    said: str = ""

    def problems(self) -> list[str]:
        """What should not be, a line each."""
        again = [*self.redone, *(path for one in self.kills for path in one.redone)]
        lines = [f"written again: {path}" for path in again]
        return lines + [f"still runs: {one.pid} {' '.join(one.words)}" for one in self.left]


def blows(seed: int, longest: float) -> Iterator[Blow]:
    """Endless random blows, each at most so many processor seconds after a start."""
    rng = random.Random(seed)
    names, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    while True:
        yield Blow(rng.choices(names, weights)[0], rng.uniform(0, longest))


def killed_run(
    command: Sequence[str],
    run: Path,
    hits: Iterator[Blow],
    show: Callable[[Kill], None],
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Killed:
    """Start a run, kill it and start it again until it is done, or was left alone and ended.

    Args:
        command: starts the run.
        run: its folder.
        hits: one for each process that is started; where they end, the run is left alone.
        show: is told of each kill when the run has ended by it.
        environment: of the processes.
        cwd: where they run.

    Raises: RuntimeError when a run fails that was not killed, with what it said.
    """
    killed = Killed()
    seen: list[Seen] = []
    finished: Marks = {}
    while True:
        blow = next(hits, None)
        with tempfile.TemporaryFile() as said:
            started = time.time_ns()
            process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=cwd
            )
            target = where = ""
            if blow is not None and _outlasts(process, blow.seconds):
                where = _where(run, started)
                target, members = _strike(process, blow.target)
                seen += members
            process.wait()
            said.seek(0)
            killed.said = said.read().decode(errors="replace")
        before = finished
        done, finished = _finished(run)
        redone = sorted(path for path in before if finished.get(path) != before[path])
        if process.returncode and not target:
            raise RuntimeError(f"the run was not killed and failed:\n{killed.said}")
        if process.returncode and target == KERNEL and "same command goes on" not in killed.said:
            raise RuntimeError(f"the run did not say that its kernel died:\n{killed.said}")
        if blow is not None and target:
            half = sum(1 for _ in run.rglob(".*.tmp*"))
            killed.kills.append(Kill(target, blow.seconds, where, done, half, redone))
            show(killed.kills[-1])
        else:
            killed.redone = redone
        if process.returncode == 0:  # a kernel that is killed when it ends anyway is not missed
            killed.left = survivors(seen, _END_SECONDS)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--profile", default="smoke", help="default: smoke")
    parser.add_argument("--keep", type=Path, help="keep the runs here")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        if options.keep is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="fitclip-kills-"))
            folder = Path(name)
        else:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        return _measure(folder, options.profile, options.kills, options.seed)


def _measure(folder: Path, profile: str, kills: int, seed: int) -> int:
    scratch = {"TMPDIR": folder / "tmp", "JUPYTER_RUNTIME_DIR": folder / "jupyter"}
    for path in scratch.values():
        path.mkdir()
    environment = os.environ | {name: str(path) for name, path in scratch.items()}

    def command(name: str) -> list[str]:
        runs = ["--profile", profile, "--runs-dir", str(folder / name)]
        return [sys.executable, "-m", "fitclip_kit.engine.cli", "run", *runs]

    before = os.times()
    subprocess.run(command("undisturbed"), env=environment, check=True, stdout=subprocess.DEVNULL)
    took = sum(os.times()[2:4]) - sum(before[2:4])
    expected = folder / "undisturbed" / profile
    print(f"undisturbed: {took:.0f} processor seconds, {len(digests(expected))} files\n")
    print(_COLUMNS.format("kill", "run", "killed", "after", "where", *_UNITS, "half", "redone"))
    hits = blows(seed, took / 4)
    table: list[Kill] = []
    wrong = runs = 0

    def show(kill: Kill) -> None:
        table.append(kill)
        done = (kill.done[unit] for unit in _UNITS)
        counts = (*done, kill.temporaries, len(kill.redone))
        row = (len(table), runs, kill.target, f"{kill.seconds:.1f} s", kill.where, *counts)
        print(_COLUMNS.format(*row), flush=True)

    while len(table) < kills:
        runs += 1
        name = f"killed_{runs}"
        given = itertools.islice(hits, kills - len(table))
        killed = killed_run(command(name), folder / name / profile, given, show, environment)
        problems = killed.problems() + differences(folder / name / profile, expected)
        wrong += len(problems)
        print("\n".join([f"{'':9}done, {len(problems)} problems", *problems[:20]]), flush=True)
        shutil.rmtree(folder / name)
    targets = Counter(kill.target for kill in table)
    what = ", ".join(f"{number} {target}" for target, number in targets.most_common())
    print(f"\n{len(table)} kills ({what}), {runs} runs, {wrong} problems")
    for variable, path in scratch.items():
        print(f"left in {variable}: {sum(1 for _ in path.rglob('*'))} files")
    return 1 if wrong else 0


def _outlasts(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait; whether a process and what it started come to use so many processor seconds."""
    while process.poll() is None:
        if spent(process.pid) >= seconds:
            return True
        time.sleep(0.2)
    return False


def _strike(process: subprocess.Popen[bytes], target: str) -> tuple[str, list[Seen]]:
    """Kill; what was killed in fact, and all processes of the run."""
    members = family(process.pid)
    kernels = [one for one in members if one.is_kernel]
    if target == KERNEL and kernels:
        kernels[0].kill()
        return target, members
    target = EVERYTHING if target == KERNEL else target
    for one in members[:1] if target == RUNNER else members:
        one.kill()
    return target, members


def _where(run: Path, started: int) -> str:
    """The notebook and the code cell that a run is at."""
    running = list((run / "notebooks").glob("*.running.ipynb"))
    stem = running[0].name.partition(".")[0] if running else ""
    try:
        if not running or running[0].stat().st_mtime_ns < started:
            return "between notebooks"
        cells = json.loads(running[0].read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return stem
    begun = [cell.get("metadata", {}).get("papermill", {}).get("status") for cell in cells]
    codes = [
        status for cell, status in zip(cells, begun, strict=True) if cell["cell_type"] == "code"
    ]
    return f"{stem}, cell {sum(status in ('running', 'completed') for status in codes)}"


def _finished(run: Path) -> tuple[Counter[str], Marks]:
    """What a run need not do again: how many pieces of each kind, and the marks of their files."""
    while True:
        # The kernel of a killed runner lives for a moment, and moves files.
        with suppress(FileNotFoundError):
            work = _finished_work(run)
            files = [path for _, pieces in work for path in pieces]
            stats = {str(path): path.stat() for path in files}
            marks = {name: (one.st_ino, one.st_mtime_ns) for name, one in stats.items()}
            return Counter(kind for kind, _ in work), marks


def _finished_work(run: Path) -> list[tuple[str, list[Path]]]:
    """The pieces of work that a run need not do again: the kind of each, and its files."""
    work = []
    for record in (run / "notebooks").glob(f"*.{MANIFEST_NAME}"):
        stem = record.name.partition(".")[0]
        copies = [record.with_name(f"{stem}{suffix}") for suffix in (".ipynb", ".html")]
        work.append(("notebooks", [record, *copies, *_declared(run / stem / MANIFEST_NAME)]))
    for record in run.rglob("frames_*.json"):
        work.append(("shards", [record, record.with_suffix(".npy")]))
    for record in (run / "results" / "cells").glob("*.json"):
        work.append(("cells", [record, record.with_suffix(".parquet")]))
    for manifest in run.rglob(MANIFEST_NAME):
        if manifest.parent.parent != run:  # a notebook's is void without the runner's
            kind = json.loads(manifest.read_text(encoding="utf-8"))["kind"]
            work.append((_KINDS.get(kind, kind), _declared(manifest)))
    return work


def _declared(manifest: Path) -> list[Path]:
    """A manifest and the outputs that it declares."""
    outputs = json.loads(manifest.read_text(encoding="utf-8"))["outputs"]
    return [manifest, *(manifest.parent / name for name in outputs)]


if __name__ == "__main__":
    sys.exit(main())
