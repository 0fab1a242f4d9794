"""A process and what it started, seen through /proc and ended by SIGKILL. Linux only."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """A process; `started`, in the system's ticks, tells it from a later one of the same number."""

    pid: int
    started: str
    words: tuple[str, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether it is a notebook's kernel."""
        return "ipykernel_launcher" in self.words

    @property
    def lives(self) -> bool:
        """Whether it still runs; one that only waits to be buried does not."""
        state = _state(self.pid)
        return state is not None and state.started == self.started and state.letter not in "ZX"

    def kill(self) -> None:
        """Send SIGKILL, unless it is gone."""
        if self.lives:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def family(pid: int) -> list[Seen]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    states = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if state := _state(int(folder.name)):
            states[int(folder.name)] = state
            children.setdefault(state.parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop(0)
        if one in states:
            found.append(Seen(one, states[one].started, _words(one)))
        waiting += children.get(one, [])
    return found


def survivors(processes: list[Seen], seconds: float) -> list[Seen]:
    """Those that still live after so many seconds at most."""
    end = time.monotonic() + seconds
    while (alive := [one for one in processes if one.lives]) and time.monotonic() < end:
        time.sleep(0.1)
    return alive


def spent(pid: int) -> float:
    """Processor seconds that a process and all that descend from it have used, the dead included
    that were waited for."""
    states = [_state(one.pid) for one in family(pid)]
    return sum(state.ticks for state in states if state) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _State:
    letter: str
    parent: int
    ticks: int
    started: str


def _state(pid: int) -> _State | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _State(fields[0], int(fields[1]), sum(map(int, fields[11:15])), fields[19])


def _words(pid: int) -> tuple[str, ...]:
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0"))
    except OSError:
        return ()
