"""Work behind a page: one thread, in which only the newest job counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 0.3  # seconds; work that lasts longer shows progress


class Superseded(Exception):
    """The work was given up because a newer move made it useless."""


@dataclass(frozen=True)
class Task:
    """What work knows of who waits for it; by default nobody looks and nothing stops it.

    stop: true once the work is useless. progress: called with the share that is done, 0 to 1.
    """

    stop: Callable[[], bool] = lambda: False
    progress: Callable[[float], None] = lambda share: None

    def check(self) -> None:
        """Raises: Superseded once the work is useless."""
        if self.stop():
            raise Superseded

    def part(self, start: float, end: float) -> Task:
        """The task of a part of the work, which goes from one share to another."""
        return Task(self.stop, lambda share: self.progress(start + (end - start) * share))


class Newest:
    """Runs jobs in one background thread; a new job supersedes the running and the waiting ones.

    A job looks at its task every tenth of a second or so, and leaves with `Superseded`. Called in
    that thread: `shown` with each share that the newest job tells once work has lasted `PATIENCE`
    seconds; `idle` when nothing is left to do; `failed` with what any job raised.
    """

    def __init__(
        self,
        shown: Callable[[float], None],
        idle: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._shown, self._idle, self._failed = shown, idle, failed
        self._lock = threading.Lock()
        self._newest = 0  # the number of the job that was submitted last
        self._since: float | None = None  # when work began; None: there is none
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explorer")

    def submit(self, job: Callable[[Task], None]) -> None:
        """Take this job and leave all earlier ones. Raises: ValueError after `close`."""
        with self._lock:
            self._newest += 1
            self._since = self._since or time.monotonic()
            try:
                self._thread.submit(self._run, self._newest, job)
            except RuntimeError as error:
                raise ValueError("the page was closed; run its cell again") from error

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is left to do. Raises: TimeoutError after `timeout` seconds."""
        self._thread.submit(lambda: None).result(timeout)

    def close(self) -> None:
        """Supersede the running job, wait for its end and take no more."""
        with self._lock:
            self._newest += 1
        self._thread.shutdown()

    def _run(self, number: int, job: Callable[[Task], None]) -> None:
        def stop() -> bool:
            return number != self._newest

        def progress(share: float) -> None:
            if not stop() and self._since and time.monotonic() - self._since >= PATIENCE:
                self._shown(share)

        try:
            if not stop():
                job(Task(stop, progress))
        except Superseded:
            pass
        except Exception as error:
            self._failed(error)
        with self._lock:
            if stop():
                return
            self._since = None
        self._idle()
