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


@pytest.mark.parametrize("arguments", [(0, 9, 0), (-1, 9, 4), (5, 4, 4)])
def test_no_frames_is_an_error(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least one|no frames between"):
        midpoint_indices(*arguments)
    with pytest.raises(ValueError, match=r"at least one|no frames between"):
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
    "29.97": ([1001 * n for n in range(21_600)], [1001] * 21_600, 1 / 30000, 0),
    "after the sound": ([700 + 40 * n for n in range(18_000)], [40] * 18_000, 1 / 1000, 700),
    "far from zero": (
        [126_001 + 3600 * n for n in range(18_000)],
        [3600] * 18_000,
        1 / 90000,
        126_001,
    ),
    "variable": ((np.cumsum(GAPS) - GAPS[0]).tolist(), [*GAPS[1:].tolist(), 40], 1 / 1000, 0),
}


@pytest.mark.parametrize("rate", CLOCKS)
def test_seconds_mean_the_official_codes_frames(rate: str) -> None:
    stamps, durations, unit, zero = CLOCKS[rate]
    times = frame_times(np.array(stamps), np.array(durations), unit, zero)
    expected = official_times(stamps, durations, unit, zero)
    assert times.dtype == np.float32
    assert (times == expected).all()
    for second in [0, 1, 2, 3, 46, 47.5, 58, 60, 89, 91, 137, 301, 599, 600]:
        nearest = nearest_by_looking(expected, second)
        assert segment_indices(times, second, np.nan)[0] == nearest
        assert segment_indices(times, np.nan, second)[1] == nearest


def test_every_youcook2_row_means_the_official_codes_frames(realdata: Path) -> None:
    """Over a made-up video, long enough for every row."""
    rows = pd.read_csv(realdata / "youcook2" / "validation_youcook.csv")
    times = official_times(*CLOCKS["25"])
    nearest = {time: nearest_by_looking(times, time) for time in {*rows["start"], *rows["end"]}}
    assert len(rows) == 3350
    for start, end in rows[["start", "end"]].itertuples(index=False):
        assert segment_indices(times, start, end) == (nearest[start], nearest[end])


def test_frames_without_a_duration_count_from_when_they_appear() -> None:
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
        (0.449, np.nan, (3, 3)),  # less than a frame after the last one
    ],
)
def test_segments(start: float, end: float, expected: tuple[int, int]) -> None:
    assert segment_indices(TIMES, start, end) == expected


@pytest.mark.parametrize(
    ("times", "start", "end", "message"),
    [
        (TIMES, 0.46, 3.0, r"starts at 0.46 s, after the video's last frame at 0.350 s"),
        (TIMES, 0.3, 0.1, "ends at 0.1 s, before its start at 0.3 s"),
        (np.array([]), np.nan, np.nan, "no frames"),
    ],
)
def test_segments_that_there_are_not(
    times: np.ndarray, start: float, end: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segment_indices(times, start, end)
