"""Which rows of a clips table are one video with several texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def video_numbers(clips: pd.DataFrame) -> np.ndarray:
    """Each row's video: rows with equal `path`, `start` and `end` are one.

    Args:
        clips: a clips table. Missing times are equal to each other; without a path, or without
            that column, a row is a video of its own.

    Returns:
        int64 `[n]`, numbered from 0 in order of first rows.

    Raises:
        ValueError: a time is not a number.

    Source: ARCHITECTURE, the clips table.
    """
    if "path" not in clips:
        return np.arange(len(clips))
    times = [
        clips[name].astype("float64").fillna(-1.0) if name in clips else [-1.0] * len(clips)
        for name in ("start", "end")
    ]
    keys = [
        (path, start, end) if isinstance(path, str) else row
        for row, (path, start, end) in enumerate(zip(clips["path"], *times, strict=True))
    ]
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """Bool `[n]`: whether a row is the first with its number, of `video_numbers` or other ones."""
    return ~pd.Series(numbers).duplicated().to_numpy(dtype=bool)


def check_labels(clips: pd.DataFrame, numbers: np.ndarray) -> None:
    """Refuse a video with several labels; the same label in several rows is one.

    Args:
        clips: with `clip_id` and `label`; rows without a label do not count.
        numbers: `[n]`, equal for rows of one video.

    Raises:
        ValueError: naming the first two rows that differ.
    """
    known: dict[int, tuple[str, str]] = {}
    filled = clips["label"].notna().to_numpy()
    labelled = clips[filled]
    rows = zip(numbers[filled].tolist(), labelled["clip_id"], labelled["label"], strict=True)
    for number, clip_id, label in rows:
        first, other = known.setdefault(number, (clip_id, label))
        if other != label:
            raise ValueError(
                f"{first!r} and {clip_id!r} are one video (path, start and end) with the labels "
                f"{other!r} and {label!r}; classification takes one a video: keep one of the rows"
            )
