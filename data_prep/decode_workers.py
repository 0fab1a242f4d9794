"""Map a function over items in processes that can be killed: a hang or a crash costs one item.

The processes are Python's own, started afresh: they do not import the script, the notebook or the
module that was run, as those of `multiprocessing` do, so that a script needs no main guard. Each
has a pipe of its own, so that a worker killed while it sends spoils no other worker's results.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from time import monotonic
from typing import Any

START_DEADLINE = 120.0  # seconds for a worker to start and import, on a very busy machine
_BUSY = object()


@dataclass(frozen=True)
class Failure:
    """What came instead of a result: why the item failed."""

    reason: str


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def killable_map(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int, deadline: float
) -> Generator[tuple[int, Any], None, None]:
    """Yield (item number, result or `Failure`) for every item, in the order in which they finish.

    An exception makes a Failure, and so does a worker that dies or is killed because it takes more
    than `deadline` seconds; it is replaced. What may be a busy machine's fault is tried once more,
    after all others: an item that took too long, or whose worker was killed from outside, as the
    system does when memory runs out.

    function: of a module, or a `functools.partial` of one; items and results must pickle.

    Raises: ValueError for workers < 1, a deadline that is not positive or a function of the script
    or notebook itself; RuntimeError when a worker cannot even start.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed")
    if not deadline > 0:
        raise ValueError(f"deadline is {deadline}; it must be a positive number of seconds")
    if b"__main__" in pickle.dumps(function):
        raise ValueError(
            f"{function!r} is defined in the script or notebook that runs, which worker processes "
            "do not import; put it into a module (a file) of its own and import it from there"
        )
    waiting = deque(range(len(items)))
    tried_again: set[int] = set()
    pool = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        while pool:
            timeout = max(0.0, min(worker.expires for worker in pool) - monotonic())
            wait([worker.connection for worker in pool], timeout)
            for worker in list(pool):
                number, answer = worker.item, worker.answer()
                if answer is _BUSY:
                    continue
                if number is None and isinstance(answer, Failure):
                    raise RuntimeError(f"a worker process could not start: {answer.reason}")
                again = worker.may_be_the_machine and number not in tried_again
                if number is not None and again:
                    tried_again.add(number)
                    waiting.append(number)
                if worker.alive and waiting:
                    coming = waiting.popleft()
                    worker.give(coming, items[coming], deadline)
                else:
                    worker.kill()
                    pool.remove(worker)
                    if waiting:
                        pool.append(_Worker(function))
                if number is not None and not again:  # given out last: the worker is busy meanwhile
                    yield number, answer
    finally:
        for worker in pool:
            worker.kill()


class _Worker:
    """The parent's side of a worker process; `item` is the number it works on, None at first."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        # Fresh processes, not forked ones: a fork of a process with threads (torch, a notebook's
        # kernel) can deadlock.
        self.connection, child = Pipe()
        path = [str(entry) or os.getcwd() for entry in sys.path]
        program = (
            f"import sys; sys.path[:] = {path!a}; import {__name__} as workers; "
            f"workers.serve({child.fileno()})"
        )
        # What it reads as its input ends with this process, also when that is killed.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=[child.fileno()]
        )
        child.close()
        self.alive = True
        self.may_be_the_machine = False  # that failed the item, not what is in it
        self.give(None, function, START_DEADLINE)

    def give(self, number: int | None, item: Any, deadline: float) -> None:
        self.item, self.deadline, self.expires = number, deadline, monotonic() + deadline
        # A worker that died between two items breaks the pipe; `answer` will find it dead.
        with contextlib.suppress(OSError):
            self.connection.send(item)

    def answer(self) -> Any:
        """The result or Failure of the item (any object after the start), _BUSY while it lasts."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            code = self.process.returncode
            self.alive, self.may_be_the_machine = False, code == -signal.SIGKILL
            killed = code is not None and code < 0
            how = f"signal {signal.Signals(-code).name}" if killed else f"exit status {code}"
            return Failure(f"the decoder crashed ({how})")
        if monotonic() < self.expires:
            return _BUSY
        self.alive, self.may_be_the_machine = False, True
        return Failure(f"not done after {self.deadline:g} s, the decoder was killed")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.connection.close()


def serve(descriptor: int) -> None:
    """A worker process: receive the function, answer once when ready, then once an item, until the
    parent hangs up. `descriptor` is this end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    try:
        function = connection.recv()
    except Exception as error:
        connection.send(Failure(f"{type(error).__name__}: {error}"))
        return
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            item = connection.recv()
            try:
                connection.send(function(item))
            except Exception as error:
                # A ValueError's text is written for the user; of others the kind matters as well.
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                connection.send(Failure(f"{kind}{error}"))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, whatever else it is doing."""
    while os.read(0, 1):
        pass
    os._exit(1)
