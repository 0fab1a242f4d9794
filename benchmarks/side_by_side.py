"""Time and memory of several ways to do the same, taken in one run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import pandas as pd


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, pd.DataFrame]:
    """ "seconds" and "processor seconds" of each way: one row a round, one column a way.

    Processor seconds are of this process and of those that it ended. The ways take turns within
    each round, so that a machine that slows down slows all of them.
    """
    wall, processor = [], []
    for _ in range(rounds):
        wall.append({})
        processor.append({})
        for name, way in ways.items():
            start, used = perf_counter(), sum(os.times()[:4])
            way()
            wall[-1][name] = perf_counter() - start
            processor[-1][name] = sum(os.times()[:4]) - used
    return {"seconds": pd.DataFrame(wall), "processor seconds": pd.DataFrame(processor)}


def extra_memory(work: Callable[[], object]) -> int:
    """Bytes by which the process grows at most while it does the work. Linux only.

    Memory that was given back to the allocator, and not to the system, is not seen: measure before
    anything large was freed.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - before) * 1024


def kilobytes(field: str) -> int:
    """A number of this process's /proc/self/status."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if field in line]
    return int(line.split()[1])
