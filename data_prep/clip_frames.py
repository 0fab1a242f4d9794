"""From one clip and a frame rule to the frames that the store keeps; what a worker runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep import sampling, video


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip are kept, and how large.

    n_frames: intervals that a clip is cut into, one frame each (fewer in clips with fewer frames).
    size: pixels of the square frames.
    draws_per_interval: 0 keeps the intervals' middle frames (evaluation), K > 0 keeps K random
        frames an interval (training).
    seed: of the draws; a clip's draws depend on it and on the clip's id only.

    Raises: ValueError for a value out of range.
    """

    n_frames: int = 4
    size: int = 224
    draws_per_interval: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_frames", 1), ("size", 1), ("draws_per_interval", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"FrameRule.{name} is {value!r}; need a whole number >= {least}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one clip's frames: [n_frames, size, size, 3], with K after n_frames in training."""
        draws = (self.draws_per_interval,) if self.draws_per_interval else ()
        return (self.n_frames, *draws, self.size, self.size, 3)


@dataclass(frozen=True)
class ClipRequest:
    """One clip to decode: `start` and `end` in seconds, NaN for the video's own; `compare` whether
    a second decoder must give the same frames (see `video.compare`)."""

    clip_id: str
    path: Path
    start: float
    end: float
    compare: bool = False


def clip_frames(rule: FrameRule, backend: str, request: ClipRequest) -> video.DecodedClip:
    """Decode one clip's frames: uint8 [n, size, size, 3], or [n, K, size, size, 3] in training,
    with n = min(rule.n_frames, frames in the clip).

    Raises: ValueError when the clip cannot be decoded.
    """
    clip = video.decode(request.path, partial(_choose, rule, request), rule.size, backend)
    return video.compare(clip, request.path, rule.size) if request.compare else clip


def _choose(rule: FrameRule, request: ClipRequest, times: np.ndarray) -> np.ndarray:
    first, last = sampling.segment_indices(times, request.start, request.end)
    if not rule.draws_per_interval:
        return sampling.midpoint_indices(first, last, rule.n_frames)
    name = hashlib.sha256(request.clip_id.encode()).digest()
    rng = np.random.default_rng([rule.seed, int.from_bytes(name[:8], "little")])
    draws = [
        sampling.interval_indices(first, last, rule.n_frames, rng)
        for _ in range(rule.draws_per_interval)
    ]
    return np.stack(draws, axis=1)
