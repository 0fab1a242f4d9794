"""Which rows of a clips table are one video."""

import math

import numpy as np
import pandas as pd
import pytest

from fitclip_core.clips import check_labels, first_rows, video_numbers

ROWS = [
    ("a.mp4", 0.0, 2.0),
    ("a.mp4", math.nan, math.nan),
    ("b.mp4", math.nan, 2.0),
    ("a.mp4", math.nan, math.nan),
    ("a.mp4", 0.0, 2.0),
    ("a.mp4", 0.0, math.nan),
    ("b.mp4", math.nan, 2.0),
    ("a.mp4", 2.0, 0.0),
]
VIDEOS = [0, 1, 2, 1, 0, 3, 2, 4]


def test_rows_of_equal_path_start_and_end_are_one_video() -> None:
    clips = pd.DataFrame(ROWS, columns=["path", "start", "end"], index=range(7, 15))
    assert video_numbers(clips).tolist() == VIDEOS
    assert video_numbers(clips.astype(object).where(clips.notna(), None)).tolist() == VIDEOS
    assert video_numbers(clips[["path"]]).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert first_rows(video_numbers(clips)).tolist() == [n in (0, 1, 2, 5, 7) for n in range(8)]


def test_rows_whose_path_is_not_known_are_videos_of_their_own() -> None:
    assert video_numbers(pd.DataFrame({"clip_id": ["a", "b"]})).tolist() == [0, 1]
    clips = pd.DataFrame({"path": ["a.mp4", None, math.nan, "a.mp4", None]})
    assert video_numbers(clips).tolist() == [0, 1, 2, 0, 3]
    assert video_numbers(clips[:0]).tolist() == []


def test_a_video_has_one_label_however_often() -> None:
    clips = pd.DataFrame({"clip_id": list("abcd"), "label": ["run", "sit", "run", None]})
    check_labels(clips, np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"'a' and 'b' are one video .* labels 'run' and 'sit'"):
        check_labels(clips, np.array([0, 0, 1, 2]))
