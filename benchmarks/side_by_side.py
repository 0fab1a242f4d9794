"""Time and memory of several ways to do the same, taken in one run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import pandas as pd


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Seconds each way takes: one row a round, one column a way.

    The ways take turns within each round, so that a machine that slows down slows all of them.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: at least one is needed")
    taken = []
    for _ in range(rounds):
        row = {}
        for name, way in ways.items():
            start = perf_counter()
            way()
            row[name] = perf_counter() - start
        taken.append(row)
    return pd.DataFrame(taken)


def extra_memory(work: Callable[[], object]) -> int:
    """Bytes by which the process grows at most while it does the work. Linux only.

    Memory that was given back to the allocator, and not to the system, is not seen: measure before
    anything large was freed.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, value = line.split(":", 1)
        if name == field:
            return int(value.split()[0])
    raise OSError(f"/proc/self/status has no {field}")
