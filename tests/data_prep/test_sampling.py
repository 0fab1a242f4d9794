from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sampling import frame_times, interval_indices, midpoint_indices, segment_indices

CLIPS = st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 40))


@pytest.mark.parametrize(
    ("start", "end", "n", "expected"),
    [
        # By hand: ticks 0 7 15 23 31, sums 7 22 38 54, halves 3.5->4 11 19 27.
        (0, 31, 4, [4, 11, 19, 27]),
        (0, 0, 4, [0]),
        (7, 7, 1, [7]),
        (0, 9, 1, [4]),  # 4.5 -> 4, half to even
        (0, 11, 1, [6]),  # 5.5 -> 6, half to even
        (0, 2, 4, [0, 0, 2]),  # ticks 0 0 1 2, halves 0 0.5->0 1.5->2
        (10, 14, 2, [11, 13]),
    ],
)
def test_midpoints_by_hand(start: int, end: int, n: int, expected: list[int]) -> None:
    indices = midpoint_indices(start, end, n)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@given(CLIPS)
def test_midpoints_equal_the_formula_in_torch(clip: tuple[int, int, int]) -> None:
    start, length, n = clip
    end = start + length
    ticks = torch.linspace(start, end, min(n, length + 1) + 1, dtype=torch.int64)
    expected = torch.round((ticks[:-1] + ticks[1:]).double() / 2).long()
    assert midpoint_indices(start, end, n).tolist() == expected.tolist()


@given(CLIPS, st.integers(0, 100))
def test_draws_stay_in_their_intervals(clip: tuple[int, int, int], seed: int) -> None:
    start, length, n = clip
    end = start + length
    drawn = interval_indices(start, end, n, np.random.default_rng(seed))
    n = min(n, length + 1)
    ticks = [start + i * length // n for i in range(n + 1)]
    assert len(drawn) == n
    assert all(low <= d <= high for low, d, high in zip(ticks, drawn, ticks[1:], strict=False))
    assert drawn.tolist() == interval_indices(start, end, n, np.random.default_rng(seed)).tolist()


def test_draws_are_uniform_with_both_ends() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([interval_indices(0, 8, 2, rng) for _ in range(5000)])
    for column, (low, high) in enumerate([(0, 4), (4, 8)]):
        values, counts = np.unique(drawn[:, column], return_counts=True)
        assert values.tolist() == list(range(low, high + 1))
        assert counts.min() > 880  # 1,000 expected each, standard deviation 28


@pytest.mark.parametrize("arguments", [(0, 9, 0), (0, 9, -1), (-1, 9, 4), (5, 4, 4)])
def test_no_frames_is_an_error(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        midpoint_indices(*arguments)
    with pytest.raises(ValueError):
        interval_indices(*arguments, np.random.default_rng(0))


def official_times(stamps: list[int], durations: list[int], unit: float, zero: int) -> np.ndarray:
    """decord's start and end of each frame and their mean, one float32 at a time."""
    single, middles = np.float32, []
    for stamp, duration in zip(stamps, durations, strict=True):
        start = single(float(single(stamp) - single(zero)) * unit)
        end = single(float(single(stamp + duration) - single(zero)) * unit)
        middles.append(single(single(start + end) / single(2)))
    return np.array(middles, np.float32)


def nearest_by_looking(times: np.ndarray, second: float) -> int:
    distances = [abs(float(time) - second) for time in times]  # exact in float64
    return len(distances) - 1 - distances[::-1].index(min(distances))


GAPS = np.random.default_rng(1).integers(10, 120, 12_000)
CLOCKS: dict[str, tuple[list[int], list[int], float, int]] = {  # stamps, durations, unit, zero
    "25": ([512 * n for n in range(18_000)], [512] * 18_000, 1 / 12800, 0),
    "30": ([512 * n for n in range(21_600)], [512] * 21_600, 1 / 15360, 0),
    "29.97": ([1001 * n for n in range(21_600)], [1001] * 21_600, 1 / 30000, 0),
    "23.976": ([1001 * n for n in range(17_300)], [1001] * 17_300, 1 / 24000, 0),
    "25, in milliseconds, after the sound": (
        [700 + 40 * n for n in range(18_000)],
        [40] * 18_000,
        1 / 1000,
        700,
    ),
    "25, far from zero": (
        [126_001 + 3600 * n for n in range(18_000)],
        [3600] * 18_000,
        1 / 90000,
        126_001,
    ),
    "variable": ((np.cumsum(GAPS) - GAPS[0]).tolist(), [*GAPS[1:].tolist(), 40], 1 / 1000, 0),
}


@pytest.mark.parametrize("rate", CLOCKS)
def test_whole_seconds_mean_the_official_codes_frames(rate: str) -> None:
    stamps, durations, unit, zero = CLOCKS[rate]
    times = frame_times(np.array(stamps), np.array(durations), unit, zero)
    expected = official_times(stamps, durations, unit, zero)
    assert times.dtype == np.float32
    assert (times == expected).all()
    for second in [0, 1, 2, 3, 46, 47, 58, 60, 89, 91, 137, 301, 599, 600]:
        nearest = nearest_by_looking(expected, second)
        assert segment_indices(times, second, np.nan)[0] == nearest
        assert segment_indices(times, np.nan, second)[1] == nearest


@pytest.mark.parametrize("rate", CLOCKS)
def test_every_youcook2_row_means_the_official_codes_frames(realdata: Path, rate: str) -> None:
    """Over made-up videos, long enough for every row."""
    rows = pd.read_csv(realdata / "youcook2" / "validation_youcook.csv")
    stamps, durations, unit, zero = CLOCKS[rate]
    expected = official_times(stamps, durations, unit, zero)
    times = frame_times(np.array(stamps), np.array(durations), unit, zero)
    seconds = sorted({*rows["start"], *rows["end"]})
    nearest = {second: nearest_by_looking(expected, second) for second in seconds}
    assert len(rows) == 3350
    for start, end in rows[["start", "end"]].itertuples(index=False):
        assert segment_indices(times, start, end) == (nearest[start], nearest[end])


def test_frame_times_by_hand() -> None:
    # 25 frames a second: in float32, 0.98 s and 1.02 s are equally near to 1 s.
    times = frame_times(np.arange(50), np.ones(50, np.int64), 0.04, 0)
    assert times[[24, 25]].tolist() == [np.float32(0.98), np.float32(1.02)]
    assert segment_indices(times, 1.0, 1.0) == (25, 25)
    # Frames without a duration, as some files have: the times when they appear.
    assert frame_times(np.array([3, 5]), np.array([0, 0]), 0.5, 3).tolist() == [0.0, 1.0]


TIMES = np.array([0.05, 0.15, 0.25, 0.35])  # 10 frames a second


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (np.nan, np.nan, (0, 3)),
        (0.0, 0.35, (0, 3)),
        (0.14, 0.26, (1, 2)),
        (0.25, 0.25, (2, 2)),
        (np.nan, 99.0, (0, 3)),  # annotations often end after the video
        (0.39, np.nan, (3, 3)),
    ],
)
def test_segments(start: float, end: float, expected: tuple[int, int]) -> None:
    assert segment_indices(TIMES, start, end) == expected


@given(
    st.lists(st.floats(0.001, 2), min_size=1, max_size=20),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_segments_are_the_nearest_frames(gaps: list[float], a: float, b: float) -> None:
    times = np.cumsum(gaps)
    start, end = min(a, b, times[-1]), max(a, b)
    first, last = segment_indices(times, start, end)
    assert abs(times[first] - start) == np.abs(times - start).min()
    assert abs(times[last] - end) == np.abs(times - end).min()


def test_segment_after_the_video_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"starts at 2 s, after the video's last frame at 0.350 s"):
        segment_indices(TIMES, 2.0, 3.0)
    with pytest.raises(ValueError, match="before its start"):
        segment_indices(TIMES, 0.3, 0.1)
    with pytest.raises(ValueError, match="no frames"):
        segment_indices(np.array([]), np.nan, np.nan)
