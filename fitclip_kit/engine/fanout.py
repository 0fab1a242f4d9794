"""Independent tasks, run in this process, in local processes or by SLURM: one call, one result.

A task leaves its own artefact on disk, whole or not at all, and does nothing where that is valid
already. So any task can be repeated at any time: after an error, a killed worker or a lost node it
is tried again, and what fails again is listed once everything else is done.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import shutil
import subprocess
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import submitit
from submitit.core.core import Job
from tqdm import tqdm

from fitclip_kit.store.files import json_digest, write_text
from fitclip_kit.store.strict_yaml import read_yaml

EXECUTORS: Final = ("inline", "local", "slurm")
_ARRAY: Final = 1000  # jobs of an array: SLURM's default MaxArraySize is 1001
_LOOK, _ASK = 2.0, 15.0  # seconds between looks for results, and questions to SLURM
_GRACE = 15.0  # seconds that a shared file system may take to show an ended job's result
# Of SLURM's job states, those that a job does not leave again.
_ENDED: Final = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        name: what it is, for people; no two tasks of a fan-out share it.
        call: does it. It has to pickle (a module's function, or a `functools.partial` of one with
            small arguments), reads its inputs from disk, and may be repeated.
    """

    name: str
    call: Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where tasks run and what each may use.

    Attributes:
        executor: "inline" (this process, one after the other), "local" (processes of this machine)
            or "slurm" (jobs of the cluster that `sbatch` submits to).
        parallel: tasks at once; 0: as many as this machine's cores allow, on SLURM 256.
        retries: how often a task that failed is tried again.
        minutes: time that an attempt may take (local and slurm).
        cpus: cores of a task (local and slurm).
        gpus: GPUs of a task (local and slurm; 0 hides them from local processes).
        memory_gb: memory of a SLURM job; 0: the cluster's default.
        partition: of SLURM; empty: the cluster's default.
        slurm: further parameters of submitit's SlurmExecutor, such as account, qos, constraint,
            or setup (shell lines that a job starts with).

    Raises: ValueError for a value that is out of range.
    """

    executor: str = "inline"
    parallel: int = 0
    retries: int = 1
    minutes: int = 240
    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0
    partition: str = ""
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor is {self.executor!r}; use one of {', '.join(EXECUTORS)}")
        least = {"parallel": 0, "retries": 0, "minutes": 1, "cpus": 1, "gpus": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} is {value!r}; give a whole number from {low}")
        if not 0 <= self.memory_gb < float("inf"):
            raise ValueError(f"memory_gb is {self.memory_gb}; give gigabytes, or 0")


@dataclass(frozen=True)
class Failure:
    """A failed attempt at a task: which, why, and where its output is."""

    task: str
    attempt: int
    reason: str
    log: Path


class FanOutFailed(RuntimeError):
    """Tasks that failed at every attempt, listed in `failures`; all others are done.

    undone: what could not be begun without them.
    """

    def __init__(
        self, title: str, tasks: int, failures: Sequence[Failure], undone: Sequence[str] = ()
    ) -> None:
        self.failures = list(failures)
        lines = [
            f"  - {one.task}: {one.reason} (attempt {one.attempt}; log: {one.log})"
            for one in failures
        ]
        lines += [f"  - not begun: {one}" for one in undone]
        lost = len(self.failures)
        super().__init__(
            f"{title}: {lost} of {tasks} tasks failed, the other {tasks - lost} are done. The same "
            "call tries only these again:\n" + "\n".join(lines)
        )


def read_settings(file: str | Path, **changes: Any) -> Settings:
    """Settings from a YAML file of `name: value` lines; an empty name means the defaults.

    changes: settings that win over the file's.

    Raises: ValueError for a file that is missing or no such YAML, an unknown name, or a bad value.
    """
    content = (read_yaml(Path(file)) if str(file) else None) or {}
    known = [one.name for one in fields(Settings)]
    if not isinstance(content, dict) or not isinstance(content.get("slurm", {}), dict):
        raise ValueError(f"{file} must hold `name: value` lines of {', '.join(known)}")
    if unknown := sorted(str(name) for name in content if name not in known):
        raise ValueError(
            f"{file} has unknown settings {', '.join(unknown)}; known: {', '.join(known)}"
        )
    return Settings(**{**content, **changes})


def fan_out(
    tasks: Sequence[Task], settings: Settings, folder: Path, *, title: str = "tasks"
) -> list[Failure]:
    """Run every task, and each that fails once more (or `settings.retries` times).

    A task that another call of this function works on, in whatever process, is waited for. When
    interrupted, its own processes and jobs are cancelled; what is done stays done.

    Args:
        tasks: the work; not what is done already, though that only costs time.
        settings: where it runs.
        folder: keeps logs, pickled tasks and locks; on SLURM all nodes must see it.
        title: what the tasks are, for the progress bar and errors.

    Returns:
        Attempts that failed where a later one succeeded.

    Raises:
        ValueError: two tasks have one name, or SLURM does not know a parameter.
        RuntimeError: there is no SLURM here, or it refuses the jobs.
        FanOutFailed: tasks that failed at every attempt, after all others are done.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two tasks are called {repeated!r}; give each its own name")
    if not tasks:
        return []
    pool = _POOLS[settings.executor](settings, Path(folder).absolute(), title)
    waiting = deque(tasks)
    failed: dict[str, list[Failure]] = {task.name: [] for task in tasks}
    left, lost = len(tasks), []
    bar = tqdm(total=len(tasks), desc=title, unit="task")
    with bar, _cancelled_on_error(pool):
        while left:
            chosen = [waiting.popleft() for _ in range(min(len(waiting), pool.room()))]
            if chosen:
                pool.start(chosen)
            for task, reason, log in pool.ended():
                attempts = failed[task.name]
                if reason is None:
                    left -= 1
                    bar.update()
                    continue
                attempts.append(Failure(task.name, len(attempts) + 1, reason, log))
                if len(attempts) <= settings.retries:
                    waiting.append(task)
                else:
                    lost.append(attempts[-1])
                    left -= 1
                bar.set_postfix(failed_attempts=sum(map(len, failed.values())))
    if lost:
        raise FanOutFailed(title, len(tasks), lost)
    return [one for attempts in failed.values() for one in attempts]


class _Pool(ABC):
    """Where tasks run; `folder` is absolute."""

    def __init__(self, settings: Settings, folder: Path, title: str) -> None:
        self.settings = settings
        self.locks = folder / "locks"
        self.locks.mkdir(parents=True, exist_ok=True)
        # Of its own for each call: job ids may come again, and old results must not be read as new.
        self.jobs = Path(tempfile.mkdtemp(prefix=f"{_dashed(title)}-", dir=folder))

    @abstractmethod
    def room(self) -> int:
        """How many more tasks can be given now."""

    @abstractmethod
    def start(self, tasks: Sequence[Task]) -> None:
        """Begin these tasks."""

    @abstractmethod
    def ended(self) -> Iterator[tuple[Task, str | None, Path]]:
        """Wait a moment; the tasks that ended, why they failed (None: they did not), their logs."""

    @abstractmethod
    def cancel(self) -> None:
        """End what is running."""

    def lock(self, task: Task) -> Path:
        return self.locks / f"{json_digest(task.name)[:16]}.lock"


class _Inline(_Pool):
    """This process, one task at a time."""

    def __init__(self, settings: Settings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.done: list[tuple[Task, str | None, Path]] = []

    def room(self) -> int:
        return 1

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            log = self.jobs / f"{json_digest(task.name)[:16]}.txt"
            reason, trace = _attempt(task, self.lock(task))
            if reason is not None:
                write_text(log, f"{task.name}\n{trace}")
            self.done.append((task, reason, log))

    def ended(self) -> Iterator[tuple[Task, str | None, Path]]:
        while self.done:
            yield self.done.pop()

    def cancel(self) -> None:
        pass


class _Submitted(_Pool):
    """Processes that submitit starts; each leaves a pickle of how its task ended."""

    executor: submitit.Executor
    look_seconds = _LOOK

    def __init__(self, settings: Settings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.running: dict[str, tuple[Task, Job[Any]]] = {}  # by job id

    def start(self, tasks: Sequence[Task]) -> None:
        with _environment(self.settings.cpus):
            for job, task in zip(self.submit(tasks), tasks, strict=True):
                self.running[job.job_id] = (task, job)

    def ended(self) -> Iterator[tuple[Task, str | None, Path]]:
        time.sleep(self.look_seconds)
        gone = self.gone()  # asked first: a job may end after it, never before unseen
        left = {path.name for path in self.jobs.iterdir()}  # a listing is fresh, also on NFS
        for job_id, (task, job) in list(self.running.items()):
            if job.paths.result_pickle.name in left:
                reason = _reason(job)
                job.paths.result_pickle.unlink()
            elif job_id in gone:
                reason = f"the process ended without a result ({gone[job_id]})"
            else:
                continue
            del self.running[job_id]
            self.release(job_id)
            yield task, reason, job.paths.stdout

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> list[Job[Any]]:
        """One job a task."""

    @abstractmethod
    def gone(self) -> dict[str, str]:
        """Running jobs that are over, with or without a result: job id -> how they ended."""

    @abstractmethod
    def release(self, job_id: str) -> None:
        """Forget a job that ended."""


class _Local(_Submitted):
    """Processes of this machine, each with its own GPUs where it asks for some."""

    look_seconds = 0.1

    def __init__(self, settings: Settings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        self.executor = submitit.LocalExecutor(self.jobs)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        places = settings.parallel or max(1, (cores or 1) // settings.cpus)
        self.places = list(range(places))  # those that are free
        self.taken: dict[str, int] = {}

    def room(self) -> int:
        return len(self.places)

    def submit(self, tasks: Sequence[Task]) -> list[Job[Any]]:
        jobs: list[Job[Any]] = []
        gpus = self.settings.gpus
        for task in tasks:
            place = self.places.pop(0)
            self.executor.update_parameters(
                timeout_min=self.settings.minutes,
                stderr_to_stdout=True,
                gpus_per_node=gpus,
                visible_gpus=list(range(gpus * place, gpus * (place + 1))),
            )
            jobs.append(self.executor.submit(_attempt, task, self.lock(task)))
            self.taken[jobs[-1].job_id] = place
        return jobs

    def gone(self) -> dict[str, str]:
        return {job_id: "killed" for job_id, (_, job) in self.running.items() if job.done()}

    def release(self, job_id: str) -> None:
        self.places.append(self.taken.pop(job_id))

    def cancel(self) -> None:
        for _, job in self.running.values():
            job.cancel()
        for _, job in self.running.values():
            while not job.done():
                time.sleep(0.05)


class _Slurm(_Submitted):
    """Jobs of a SLURM cluster, in arrays.

    Whether a job is over is asked of `squeue`, which every cluster answers; submitit's own way,
    `sacct`, needs an accounting data base.
    """

    def __init__(self, settings: Settings, folder: Path, title: str) -> None:
        super().__init__(settings, folder, title)
        if absent := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
            raise RuntimeError(
                f"there is no {absent[0]} here; start this on a SLURM cluster's login node, or "
                "choose executor local or inline"
            )
        self.executor = submitit.SlurmExecutor(self.jobs)
        wanted: dict[str, Any] = {
            "job_name": f"fitclip-{_dashed(title)}",
            "time": settings.minutes,
            "cpus_per_task": settings.cpus,
            # From SLURM 22.05 on a step does not inherit the number from its job.
            "srun_args": [f"--cpus-per-task={settings.cpus}"],
            "array_parallelism": settings.parallel or 256,
            "stderr_to_stdout": True,
        }
        wanted |= {"gpus_per_node": settings.gpus} if settings.gpus else {}
        wanted |= {"mem": f"{round(1024 * settings.memory_gb)}MB"} if settings.memory_gb else {}
        wanted |= {"partition": settings.partition} if settings.partition else {}
        self.executor.update_parameters(**{**wanted, **settings.slurm})
        self.asked = float("-inf")
        self.states: dict[str, str] = {}
        self.over_since: dict[str, float] = {}

    def room(self) -> int:
        return _ARRAY  # SLURM queues what does not run yet

    def submit(self, tasks: Sequence[Task]) -> list[Job[Any]]:
        jobs: list[Job[Any]] = []
        try:
            with self.executor.batch():
                for task in tasks:
                    jobs.append(self.executor.submit(_attempt, task, self.lock(task)))
        except submitit.core.utils.FailedJobError as error:
            raise RuntimeError(f"SLURM refused the jobs: {error}") from error
        return jobs

    def gone(self) -> dict[str, str]:
        if time.monotonic() - self.asked < _ASK:
            return {}
        self.asked = time.monotonic()
        states = self._ask()
        if states is None:  # the controller is busy or restarts: nothing is known
            return {}
        gone = {}
        for job_id in self.running:
            state = states.get(job_id, "no longer known to SLURM")
            if job_id in states and state not in _ENDED:
                self.over_since.pop(job_id, None)  # requeued, for one
            elif self.asked - self.over_since.setdefault(job_id, self.asked) >= _GRACE:
                gone[job_id] = state
        return gone

    def _ask(self) -> dict[str, str] | None:
        """The states of this user's jobs, ended ones for some minutes too; None: no answer."""
        options = ["--noheader", "--array", "--states=all", "--format=%i %T"]
        command = ["squeue", f"--user={getpass.getuser()}", *options]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return None
        if answer.returncode:
            return None
        return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())

    def release(self, job_id: str) -> None:
        self.over_since.pop(job_id, None)

    def cancel(self) -> None:
        if self.running:
            subprocess.run(["scancel", *self.running], capture_output=True, timeout=60)


_POOLS: Final[Mapping[str, type[_Pool]]] = {"inline": _Inline, "local": _Local, "slurm": _Slurm}


def _dashed(title: str) -> str:
    return re.sub(r"\W+", "-", title)


def _attempt(task: Task, lock: Path) -> tuple[str | None, str]:
    """Do a task; why it failed (None: it did not) and the traceback, which goes to the log too."""
    try:
        with _alone(lock):
            task.call()
    except Exception as error:
        trace = traceback.format_exc()
        print(f"{task.name} failed:\n{trace}", flush=True)
        return f"{type(error).__name__}: {error}", trace
    return None, ""


def _reason(job: Job[Any]) -> str | None:
    try:
        reason, _ = job.result()
    except Exception as error:  # a result that does not unpickle, or submitit's own errors
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None if reason is None else str(reason)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that the system frees when this process ends in whatever way."""
    with lock.open("a") as file:
        # Some file systems have no locks. Then a task may be done twice at once, which costs time.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What the processes that are started meanwhile find: this checkout, and their threads."""
    checkout = str(Path(__file__).parents[2])
    changed = {
        "PYTHONPATH": os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _cancelled_on_error(pool: _Pool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        pool.cancel()
        raise
