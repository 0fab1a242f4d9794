import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sampling import interval_indices, midpoint_indices, segment_indices

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
