"""Which frames of a clip are looked at."""

from __future__ import annotations

import numpy as np


def midpoint_indices(start: int, end: int, n: int) -> np.ndarray:
    """The middle frames of `n` equal intervals of a clip: the evaluation's frames.

    start, end: first and last frame number of the clip, both included.

    Returns: int64 [min(n, end - start + 1)], frame numbers in rising order (short clips may repeat
    one). Ticks are the integer-truncated linspace(start, end, n + 1); frame i is
    (tick_i + tick_{i+1}) / 2, rounded half to even.

    Raises: ValueError for n < 1, start < 0 or end < start.
    Source: FitCLIP's released code, `UniformFrameSampler`.

    >>> midpoint_indices(0, 31, 4)
    array([ 4, 11, 19, 27])
    """
    ticks = _ticks(start, end, n)
    return np.rint((ticks[:-1] + ticks[1:]) / 2).astype(np.int64)


def interval_indices(start: int, end: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """One uniform draw from each of `n` equal intervals of a clip: the training's frames.

    Returns: int64 [min(n, end - start + 1)], frame numbers, never falling. Both ends of an interval
    can be drawn, so neighbours may repeat a frame. Arguments, ticks and errors as in
    `midpoint_indices`.

    Source: FitCLIP's released code, `RandomFromUniformIntervalsFrameSampler`.
    """
    ticks = _ticks(start, end, n)
    return rng.integers(ticks[:-1], ticks[1:], endpoint=True, dtype=np.int64)


def frame_times(stamps: np.ndarray, durations: np.ndarray, unit: float, zero: int) -> np.ndarray:
    """The middle of each frame's time on screen, rounded as the official code rounds it.

    stamps: int64 [frames], when each frame appears, in units.
    durations: int64 [frames], for how long, in units; 0 where the file does not tell.
    unit: seconds.
    zero: the video stream's first stamp, from which the seconds count.

    Returns: float32 [frames], seconds: the mean of a frame's start and end, every step in float32.
    The rounding decides: at 25 frames a second, whole seconds lie half-way between two middles.

    Source: FitCLIP's released code, `time_to_indices`, and decord 0.6.0's frame timestamps.

    >>> frame_times(np.array([10, 11]), np.array([1, 1]), 0.5, 10)
    array([0.25, 0.75], dtype=float32)
    """
    start, end = (
        ((edges.astype(np.float32) - np.float32(zero)) * np.float64(unit)).astype(np.float32)
        for edges in (stamps, stamps + durations)
    )
    return (start + end) / np.float32(2)


def segment_indices(times: np.ndarray, start: float, end: float) -> tuple[int, int]:
    """First and last frame number (both included) of the segment from `start` to `end` seconds.

    times: float32 [frames], from `frame_times`, rising.
    start, end: seconds; NaN stands for the video's own start or end.

    Returns: the frames whose times are nearest to `start` and `end`, of two equally near ones the
    later. An `end` past the last frame means the last frame.

    Raises: ValueError when there is no frame, or `start` is later than the video.
    Source: FitCLIP's released code, `time_to_indices` (which fails past the last frame's middle).
    """
    times = np.asarray(times, dtype=np.float64)
    if times.size == 0:
        raise ValueError("the video has no frames")
    if start - times[-1] > np.diff(times[-2:], prepend=0.0)[-1]:
        raise ValueError(
            f"the segment starts at {start:g} s, after the video's last frame at {times[-1]:.3f} s"
        )
    first = 0 if np.isnan(start) else _nearest(times, start)
    last = times.size - 1 if np.isnan(end) else _nearest(times, end)
    if last < first:
        raise ValueError(f"the segment ends at {end:g} s, before its start at {start:g} s")
    return first, last


def _ticks(start: int, end: int, n: int) -> np.ndarray:
    if n < 1:
        raise ValueError(f"n is {n}; at least one frame must be asked for")
    if start < 0 or end < start:
        raise ValueError(f"no frames between first {start} and last {end}; need 0 <= first <= last")
    n = min(n, end - start + 1)
    # In whole numbers, because a floating-point linspace can fall just short of a whole tick.
    return start + np.arange(n + 1, dtype=np.int64) * (end - start) // n


def _nearest(times: np.ndarray, time: float) -> int:
    right = min(int(np.searchsorted(times, time)), times.size - 1)
    if right == 0 or times[right] - time <= time - times[right - 1]:
        return right
    return right - 1
