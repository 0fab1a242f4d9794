"""Independent tasks, done in this process, in local processes or by SLURM; training under torchrun.

A task leaves its own artefact on disk, whole or not at all, and does nothing where that is valid
already. So any task can be repeated at any time: after an error, a killed worker or a lost node it
is tried again, and what fails again is listed once everything else is done.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import submitit
from filelock import lock_descriptor
from submitit.core.utils import FailedJobError
from submitit.helpers import as_completed, environment_variables
from tqdm import tqdm

from fitclip_kit.engine.run import locked
from fitclip_kit.engine.settings import ClusterSettings
from fitclip_kit.store.files import json_digest, write_text

_CHECKOUT: Final = str(Path(__file__).parents[2])
_ARRAY: Final = 1000  # jobs of an array: SLURM's default MaxArraySize is 1001
_LOOK, _ASK = 2.0, 15.0  # seconds between looks for results, and questions to SLURM
_GRACE = 15.0  # seconds that a shared file system may take to show an ended job's result
# Of SLURM's job states, those that a job does not leave again.
_ENDED: Final = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)


class Task(Protocol):
    """One piece of work. It has to pickle, reads its inputs from disk, and may be repeated."""

    @property
    def name(self) -> str:
        """What it is, for people; no two tasks of a fan-out share it."""

    def do(self) -> object:
        """Do it."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt at a task."""

    task: str
    attempt: int
    reason: str
    log: Path


class FanOutFailed(RuntimeError):
    """Tasks that failed at every attempt, listed in `failures`; all others are done, but for what
    could not be begun without them, `undone`."""

    def __init__(
        self, title: str, tasks: int, failures: Sequence[Failure], undone: Sequence[str] = ()
    ) -> None:
        self.failures = list(failures)
        lost = len(self.failures)
        lines = [
            f"{title}: {lost} of {tasks} tasks failed, the other {tasks - lost} are done. The same "
            "call tries only these again:"
        ]
        lines += [
            f"  - {failure.task}: {failure.reason} (attempt {failure.attempt}; log: {failure.log})"
            for failure in failures
        ]
        super().__init__("\n".join([*lines, *(f"  - not begun: {title}" for title in undone)]))


def fan_out_steps(
    steps: Mapping[str, Callable[[], Iterable[Task]]],
    settings: ClusterSettings,
    folder: Path,
) -> Iterator[tuple[str, int, list[Failure]]]:
    """Do the tasks of some steps in their order, each step when the one before is done.

    Where tasks fail, the steps that do not need them are done all the same.

    steps: title -> what lists its tasks that are not done, once the steps before are.

    Yields for each step that was done its title, how many tasks it had, and failed attempts that
    were made good.

    Raises: as `fan_out`, but FanOutFailed at the end and of all steps; ValueError for a step that
    needs an earlier one which is not done.
    """
    total, failures, undone = 0, list[Failure](), list[str]()
    for title, list_tasks in steps.items():
        try:
            tasks = list(list_tasks())
        except ValueError:
            if not failures:
                raise
            undone.append(title)  # for want of what failed
            continue
        total += len(tasks)
        try:
            yield title, len(tasks), fan_out(tasks, settings, folder, title=title)
        except FanOutFailed as error:
            failures += error.failures
    if failures:
        raise FanOutFailed(", ".join(steps), total, failures, undone)


def fan_out(
    tasks: Sequence[Task], settings: ClusterSettings, folder: Path, *, title: str
) -> list[Failure]:
    """Do every task, and each that fails once more (or `settings.retries` times).

    A task that another call of this function works on, in whatever process, is waited for. When
    interrupted, its own processes and jobs are cancelled; what is done stays done.

    folder: keeps logs, pickled tasks and locks; on SLURM all nodes must see it.
    title: what the tasks are, for the progress bar and errors.

    Returns the attempts that failed where a later one succeeded.

    Raises: ValueError when two tasks have one name, or SLURM does not know a parameter;
    RuntimeError where there is no SLURM, or it refuses the jobs; FanOutFailed for tasks that failed
    at every attempt, after all others are done.
    """
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two tasks are called {twice[0]!r}; give each its own name")
    if not tasks:
        return []
    pool = _POOLS[settings.executor](settings, Path(folder).absolute(), title)
    waiting, jobs = deque(tasks), list[Any]()
    failed: dict[str, list[Failure]] = {name: [] for name in names}
    lost: list[Failure] = []
    with tqdm(total=len(tasks), desc=title, unit="task") as bar, ExitStack() as undone:
        undone.callback(pool.cancel)
        jobs += pool.start(waiting)
        for job in as_completed(jobs, poll_frequency=pool.look_seconds):
            task, reason, log = pool.ended(job)
            attempts = failed[task.name]
            if reason is None:
                bar.update()
            else:
                attempts.append(Failure(task.name, len(attempts) + 1, reason, log))
                bar.set_postfix(failed_attempts=sum(map(len, failed.values())))
                if len(attempts) <= settings.retries:
                    waiting.append(task)
                else:
                    lost.append(attempts[-1])
            jobs += pool.start(waiting)  # `as_completed` watches these too
        undone.pop_all()
    if lost:
        raise FanOutFailed(title, len(tasks), lost)
    return [failure for attempts in failed.values() for failure in attempts]


def train_together(list_tasks: Callable[[], Iterable[Task]], run_dir: Path, device: str) -> None:
    """Do training tasks one after the other, all of torchrun's processes together on each.

    Raises: ValueError when frames are missing or as `fit_student`; FolderInUse; FirstRankFailed in
    the processes that wait for rank 0, where that fails alone.
    """
    from fitclip_kit.engine import distributed  # tasks of a cluster need not wait for torch

    with distributed.process_group(device), ExitStack() as held:

        def begin() -> list[Task]:
            held.enter_context(locked(run_dir))
            return list(list_tasks())

        tasks = distributed.on_first_rank(begin)
        first = distributed.rank() == 0
        for task in tasks:
            task.do()
            if first:
                print(f"{task.name}: done by {distributed.size()} process(es)", flush=True)
        if first and not tasks:
            print("nothing to do")


@dataclass(frozen=True)
class _Done:
    """A job that was done at once."""

    task: Task
    reason: str | None
    log: Path

    def done(self) -> bool:
        return True


class _Inline:
    """This process, one task at a time; the base of the other pools. `folder` is absolute."""

    look_seconds = 0.1

    def __init__(self, settings: ClusterSettings, folder: Path, title: str) -> None:
        self.settings, self.title = settings, re.sub(r"\W+", "-", title)
        self.locks = folder / "locks"
        self.locks.mkdir(parents=True, exist_ok=True)
        # Of its own for each call: job ids may come again, and old results must not be read as new.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.title}-", dir=folder))

    def start(self, waiting: deque[Task]) -> list[Any]:
        """Begin as many of the waiting tasks as there is room for; a job for each."""
        if not waiting:
            return []
        task = waiting.popleft()
        log = self.folder / f"{json_digest(task.name)[:16]}.txt"
        reason, trace = _attempt(task, self.lock(task))
        if reason is not None:
            write_text(log, f"{task.name}\n{trace}")
        return [_Done(task, reason, log)]

    def ended(self, job: Any) -> tuple[Task, str | None, Path]:
        """The task of a job that ended, why it failed (None: it did not), and its log."""
        return job.task, job.reason, job.log

    def cancel(self) -> None:
        """End what is running."""

    def lock(self, task: Task) -> Path:
        return self.locks / f"{json_digest(task.name)[:16]}.lock"


class _Submitted(_Inline):
    """Processes that submitit starts; each leaves a pickle of how its task ended."""

    executor: submitit.Executor

    def __init__(self, settings: ClusterSettings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.running: dict[str, tuple[Task, submitit.Job[Any]]] = {}  # by job id
        self.room = _ARRAY  # for how many more tasks; SLURM queues what does not run yet

    def start(self, waiting: deque[Task]) -> list[Any]:
        tasks = [waiting.popleft() for _ in range(min(len(waiting), self.room))]
        path = os.pathsep.join(filter(None, [_CHECKOUT, os.environ.get("PYTHONPATH")]))
        with environment_variables(PYTHONPATH=path, OMP_NUM_THREADS=str(self.settings.cpus)):
            jobs = self.submit(tasks) if tasks else []
        self.running |= {job.job_id: (task, job) for job, task in zip(jobs, tasks, strict=True)}
        return jobs

    def ended(self, job: Any) -> tuple[Task, str | None, Path]:
        task, _ = self.running.pop(job.job_id)
        result = job.paths.result_pickle
        if not result.exists():
            return task, f"the process left no result and is {job.state}", job.paths.stdout
        try:
            reason, _ = job.result()
        except Exception as error:  # a result that does not unpickle, or submitit's own errors
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        result.unlink()
        return task, reason, job.paths.stdout

    def submit(self, tasks: Sequence[Task]) -> list[submitit.Job[Any]]:
        """One job a task."""
        return [self.executor.submit(_attempt, task, self.lock(task)) for task in tasks]


class _Local(_Submitted):
    """Processes of this machine, each with its own GPUs where it asks for some."""

    def __init__(self, settings: ClusterSettings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.executor = submitit.LocalExecutor(self.folder)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.room = settings.parallel or max(1, (cores or 1) // settings.cpus)
        self.free, self.taken = list(range(self.room)), dict[str, int]()  # places; by job id

    def submit(self, tasks: Sequence[Task]) -> list[submitit.Job[Any]]:
        jobs: list[submitit.Job[Any]] = []
        gpus = self.settings.gpus
        for task in tasks:
            place = self.free.pop(0)
            self.executor.update_parameters(
                timeout_min=self.settings.minutes,
                stderr_to_stdout=True,
                gpus_per_node=gpus,
                visible_gpus=list(range(gpus * place, gpus * (place + 1))),
            )
            jobs += super().submit([task])
            self.taken[jobs[-1].job_id] = place
        self.room = len(self.free)
        return jobs

    def ended(self, job: Any) -> tuple[Task, str | None, Path]:
        self.free.append(self.taken.pop(job.job_id))
        self.room = len(self.free)
        return super().ended(job)

    def cancel(self) -> None:
        jobs = [job for _, job in self.running.values()]
        for job in jobs:
            job.cancel()
        while not all(job.done() for job in jobs):
            time.sleep(0.05)


class _Slurm(_Submitted):
    """Jobs of a SLURM cluster, in arrays."""

    def __init__(self, settings: ClusterSettings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.look_seconds = _LOOK
        if absent := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
            raise RuntimeError(
                f"there is no {absent[0]} here; start this on a SLURM cluster's login node, or "
                "choose executor local or inline"
            )
        self.queue = _Queue()
        self.executor = submitit.SlurmExecutor(self.folder)
        memory = f"{round(1024 * settings.memory_gb)}MB" if settings.memory_gb else None
        wanted: dict[str, Any] = {
            "job_name": f"fitclip-{self.title}",
            "time": settings.minutes,
            "cpus_per_task": settings.cpus,
            # From SLURM 22.05 on a step does not inherit the number from its job.
            "srun_args": [f"--cpus-per-task={settings.cpus}"],
            "array_parallelism": settings.parallel or 256,
            "stderr_to_stdout": True,
            "gpus_per_node": settings.gpus or None,
            "mem": memory,
            "partition": settings.partition or None,
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}
        self.executor.update_parameters(**{**wanted, **settings.slurm})

    def submit(self, tasks: Sequence[Task]) -> list[submitit.Job[Any]]:
        try:
            with self.executor.batch():
                jobs = super().submit(tasks)
        except FailedJobError as error:
            raise RuntimeError(f"SLURM refused the jobs: {error}") from error
        for job in jobs:
            job.watcher = self.queue  # type: ignore[assignment]
        return jobs

    def cancel(self) -> None:
        if self.running:
            subprocess.run(["scancel", *self.running], capture_output=True, timeout=60)


class _Queue:
    """Tells submitit's jobs whether they are over, as their watcher, by `squeue`, which every
    cluster answers; submitit's own way, `sacct`, needs an accounting data base."""

    def __init__(self) -> None:
        self.asked = float("-inf")
        self.answered: float | None = None
        self.states: dict[str, str] = {}
        self.over_since: dict[str, float] = {}

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether a job is over and has had time to show its result."""
        if time.monotonic() - self.asked >= _ASK:
            self.asked = time.monotonic()
            self._ask()
        if self.answered is None:
            return False
        if job_id in self.states and self.states[job_id] not in _ENDED:
            self.over_since.pop(job_id, None)  # requeued, for one
            return False
        return self.answered - self.over_since.setdefault(job_id, self.answered) >= _GRACE

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """SLURM's word for how a job is or ended."""
        return self.states.get(job_id, "no longer known to SLURM")

    def _ask(self) -> None:
        """Take the states of this user's jobs, ended ones for some minutes too, if SLURM answers:
        its controller may be busy or restart."""
        options = ["--noheader", "--array", "--states=all", "--format=%i %T"]
        command = ["squeue", f"--user={getpass.getuser()}", *options]
        with suppress(subprocess.SubprocessError):
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=True
            ).stdout
            lines = [line for line in answer.splitlines() if line.strip()]
            self.states = dict(line.split(maxsplit=1) for line in lines)
            self.answered = time.monotonic()


_POOLS: Final[Mapping[str, type[_Inline]]] = {"inline": _Inline, "local": _Local, "slurm": _Slurm}


def _attempt(task: Task, lock: Path) -> tuple[str | None, str]:
    """Do a task; why it failed (None: it did not) and the traceback, which goes to the log too."""
    try:
        # The system frees the lock when this process ends in whatever way.
        with lock.open("a") as file:
            # Without locks a task may be done twice at once, which costs time.
            with suppress(OSError):
                lock_descriptor(file.fileno())
            task.do()
    except Exception as error:
        trace = traceback.format_exc()
        print(f"{task.name} failed:\n{trace}", flush=True)
        return f"{type(error).__name__}: {error}", trace
    return None, ""
