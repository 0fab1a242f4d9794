"""One line on the terminal that says how far a notebook is."""

from __future__ import annotations

import re
import threading
import time
from types import TracebackType
from typing import TextIO

TERMINAL_INTERVAL = 1.0  # seconds between two looks of the line on a terminal
LOG_INTERVAL = 60.0  # seconds between two lines in a log file
# What tqdm writes, such as "decode mit:  40%|####      | 400/1000 [00:01<00:02, 323.94it/s]".
_BAR = re.compile(
    r"(?P<what>[^\r\n|]*): +\d+%\|[^|]*\| (?P<count>\S+/\S+) \[[\d:]+<(?P<left>[\d:]+)"
)


class ProgressLine:
    """Context manager that keeps a line with cells done, elapsed and estimated remaining time.

    On a terminal the line is rewritten in place; elsewhere a new one is printed now and then.
    `expected` is the time the notebook took last, in seconds, or None: then what is left is taken
    from the progress bar that the running cell shows, if it does. The line is given the notebook's
    standard error as a file is.
    """

    def __init__(self, title: str, cells: int, expected: float | None, stream: TextIO) -> None:
        self.cells = cells
        self.started_cells = 0
        self._title = title
        self._expected = expected
        self._bar = ""
        self._stream = stream
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the line was made."""
        return time.monotonic() - self._start

    def cell_started(self) -> None:
        """Count one more code cell as begun."""
        self.started_cells += 1
        self._bar = ""

    def write(self, text: str) -> None:
        """Take what the running cell writes to standard error."""
        for bar in _BAR.finditer(text):
            self._bar = f"{bar['what']} {bar['count']}, about {bar['left']} of that left"

    def flush(self) -> None:
        """A file has it; there is nothing to do."""

    def __enter__(self) -> ProgressLine:
        self._show()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        end = "done" if error is None else "stopped"
        self._show(f"{self._title}  {end} after {clock(self.elapsed)}", last=True)

    def _repeat(self) -> None:
        interval = TERMINAL_INTERVAL if self._stream.isatty() else LOG_INTERVAL
        while not self._stop.wait(interval):
            self._show()

    def _show(self, line: str | None = None, last: bool = False) -> None:
        left = self._bar or "remaining time not known yet"
        if self._expected is not None and self.elapsed < self._expected:
            left = f"about {clock(self._expected - self.elapsed)} left"
        line = line or (
            f"{self._title}  cell {self.started_cells}/{self.cells}"
            f"  {clock(self.elapsed)} elapsed, {left}"
        )
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
