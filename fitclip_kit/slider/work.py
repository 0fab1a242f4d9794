"""Work in the background of a page: one thread, and only the newest job counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from fitclip_kit.slider.live import Superseded

Stop = Callable[[], bool]
Progress = Callable[[float], None]
Job = Callable[[Stop, Progress], None]

PATIENCE: Final = 0.3  # seconds; work that lasts longer shows progress


class Newest:
    """Runs jobs in one background thread; a new job supersedes the running and the waiting one.

    A job is called with `stop()`, which is true once the job is superseded, and `progress(share)`,
    a share in [0, 1]. It looks at `stop()` every tenth of a second or so, and leaves with
    `Superseded`. The three functions below are called in background threads, one at a time.

    Args:
        shown: called with the share done, once work has lasted `patience` seconds without a pause
            and with each share that the newest job tells from then on.
        idle: called when nothing is left to do, whatever became of the last job.
        failed: called with what a job raised, be it superseded or not, except `Superseded`.
        patience: seconds before `shown` is called.
    """

    def __init__(
        self,
        shown: Callable[[float], None],
        idle: Callable[[], None],
        failed: Callable[[Exception], None],
        patience: float = PATIENCE,
    ) -> None:
        self._shown, self._idle, self._failed = shown, idle, failed
        self._patience = patience
        self._changed = threading.Condition()
        self._telling = threading.Lock()  # so that nothing is shown after `idle`
        self._newest = 0  # the number of the job that was submitted last
        self._waiting: Job | None = None
        self._running = False
        self._closed = False
        self._share = 0.0
        self._slow = False
        self._timer: threading.Timer | None = None
        self._thread = threading.Thread(target=self._run, name="explorer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take this job and leave all earlier ones.

        Raises: ValueError after `close`.
        """
        with self._changed:
            if self._closed:
                raise ValueError("the page was closed; run its cell again")
            self._newest += 1
            self._waiting, self._share = job, 0.0
            if self._timer is None:
                self._timer = threading.Timer(self._patience, self._lost_patience)
                self._timer.daemon = True
                self._timer.start()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; false when that took more than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._running and self._waiting is None, timeout
            )

    def close(self, timeout: float = 5.0) -> bool:
        """Supersede the running job and take no more; false when it took more than `timeout` s."""
        with self._changed:
            self._closed = True
            self._newest += 1
            self._waiting = None
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._waiting is None:
                    break
                number, job = self._newest, self._waiting
                self._waiting, self._running = None, True
            try:
                job(*self._controls(number))
            except Superseded:
                pass
            except Exception as error:
                self._failed(error)
            self._rest()
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _controls(self, number: int) -> tuple[Stop, Progress]:
        def stop() -> bool:
            return number != self._newest

        def progress(share: float) -> None:
            with self._telling:
                if not stop():
                    self._share = share
                    if self._slow:
                        self._shown(share)

        return stop, progress

    def _lost_patience(self) -> None:
        with self._telling:
            if threading.current_thread() is self._timer:  # else the work has ended meanwhile
                self._slow = True
                self._shown(self._share)

    def _rest(self) -> None:
        """Unless another job waits, make a pause: patience begins anew with the next job."""
        with self._telling:
            with self._changed:
                if self._waiting is not None:
                    return
                if self._timer is not None:
                    self._timer.cancel()
                self._timer, self._slow = None, False
            self._idle()


def part(progress: Progress, place: int, of: int) -> Progress:
    """The progress of one of several equal parts, counted from 0, as that of the whole."""
    return lambda share: progress((place + share) / of)
