"""Processor time, which other programs change less than time by the clock."""

import os
from collections.abc import Callable
from time import process_time


def processor_seconds() -> float:
    """Used by this process, and by those that it started and that have ended."""
    return process_time() + sum(os.times()[2:4])


def used_by(work: Callable[[], object]) -> float:
    """Processor seconds that the work takes."""
    before = processor_seconds()
    work()
    return processor_seconds() - before
