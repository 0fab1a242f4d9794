"""What the method reads: decoded clips, the videos of a clips table, and training's views."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

ASPECT_RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10


class FrameSource(Protocol):
    """Decoded clips, such as a frame store.

    `frames(indices)` gives uint8 `[m, frames, h, w, 3]` (evaluation) or
    `[m, frames, draws, h, w, 3]` (training: several draws for each interval), zero padded where
    a clip has fewer frames than `frame_counts` `[n]` of it. A source that holds one video for
    several rows of a table also has `places`, every row's id -> its position.
    """

    @property
    def clip_ids(self) -> Sequence[str]: ...

    @property
    def frame_counts(self) -> np.ndarray: ...

    def frames(self, indices: np.ndarray) -> np.ndarray: ...


def video_numbers(clips: pd.DataFrame) -> np.ndarray:
    """Each row's video: rows with equal `path`, `start` and `end` are one.

    Missing times are equal to each other; a row without a path is a video of its own.

    Returns: int64 `[n]`, numbered from 0 in order of first rows.

    Raises: ValueError when a time is not a number.
    """
    times = clips.reindex(columns=["start", "end"]).astype("float64")
    paths = clips.reindex(columns=["path"])["path"].astype(object)
    own = pd.Series(range(len(clips)), clips.index).where(paths.isna(), -1)
    keys = [paths.where(paths.notna(), ""), own, times["start"], times["end"]]
    return clips.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(dtype=np.int64)


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """Bool `[n]`: whether a row is the first with its number, of `video_numbers` or other ones."""
    return ~pd.Series(numbers).duplicated().to_numpy(dtype=bool)


def check_labels(clips: pd.DataFrame, numbers: np.ndarray) -> None:
    """Refuse a video with several labels; the same label in several rows is one.

    Args:
        clips: with `clip_id` and `label`; rows without a label do not count.
        numbers: `[n]`, equal for rows of one video.

    Raises: ValueError naming the first two rows that differ.
    """
    labelled = clips.assign(number=numbers).dropna(subset="label")
    firsts = labelled.groupby("number")[["clip_id", "label"]].transform("first")
    if (differ := firsts["label"] != labelled["label"]).any():
        (first, other), row = firsts[differ].iloc[0], labelled[differ].iloc[0]
        raise ValueError(
            f"{first!r} and {row['clip_id']!r} are one video (path, start and end) with the labels "
            f"{other!r} and {row['label']!r}; classification takes one a video: keep one row"
        )


def locate_clips(
    source: FrameSource, clip_ids: Sequence[str], videos: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Positions of clips in a source, and the clips that it does not hold.

    Args:
        source: decoded clips.
        clip_ids: wanted clips, each once.
        videos: `[len(clip_ids)]` from `video_numbers`. Clips of one video get one position, that of
            the first of them which the source holds.

    Returns:
        int64 `[len(clip_ids)]` with -1 for a clip that the source lacks, and those clips' ids.

    Raises:
        ValueError: a clip is asked for twice, or the source holds none of them.
    """
    repeated, times = Counter(clip_ids).most_common(1)[0] if len(clip_ids) else ("", 0)
    if times > 1:
        raise ValueError(f"clip_id {repeated!r} appears {times} times; clip ids must be unique")
    positions = {clip_id: place for place, clip_id in enumerate(source.clip_ids)}
    positions = getattr(source, "places", positions)
    own = pd.Series([positions.get(clip_id) for clip_id in clip_ids], dtype="float64")
    if own.isna().all():
        raise ValueError(
            f"none of the {len(clip_ids)} clips is in the frame source, which holds "
            f"{len(positions)} clips; build its frames from this clips table"
        )
    indices = own.groupby(videos).transform("first").fillna(-1).to_numpy(dtype=np.int64)
    missing = [clip_id for clip_id, index in zip(clip_ids, indices, strict=True) if index < 0]
    return indices, missing


class TrainingClips:
    """Clips with their captions, as training and validation read them.

    A clip with several captions is one item, so that no batch holds it twice, where one caption's
    clip would be another's wrong answer: training draws one of its captions whenever it draws the
    clip, as Frozen in Time does; all else reads the first (`texts`).

    Args:
        frames: decoded clips: several draws for each interval to train on, evaluation frames to
            validate on.
        texts: for each of the clips one, or a tuple of several.
        indices: positions of the clips in `frames`, int64 `[n]`; None: all, in its order.
        missing: ids of clips asked for that `frames` lacks, kept for the record.

    Raises:
        ValueError: there is no clip, or not one text for each.

    Source: Bain et al. 2021, Frozen in Time's code (`caption_sample: rand`).
    """

    def __init__(
        self,
        frames: FrameSource,
        texts: Sequence[str | tuple[str, ...]],
        indices: np.ndarray | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        self.frames = frames
        self.captions = [text if isinstance(text, tuple) else (text,) for text in texts]
        self.texts = [captions[0] for captions in self.captions]
        self.indices = np.arange(len(frames.clip_ids)) if indices is None else np.asarray(indices)
        self.missing = list(missing)
        if len(self) == 0:
            raise ValueError("there is no clip; give at least one")
        if len(self.texts) != len(self):
            raise ValueError(f"{len(self.texts)} texts for {len(self)} clips")

    @classmethod
    def from_table(cls, clips: pd.DataFrame, frames: FrameSource) -> Self:
        """Clips of a table (`clip_id`, `text`) that the frame source holds, in the table's order.

        Rows of one video are one clip with several captions.

        Raises:
            ValueError: a column or a text is missing, a clip_id is repeated or no clip has frames.
        """
        for column in ("clip_id", "text"):
            if column not in clips:
                raise ValueError(f"the clips table lacks the column {column!r}")
        if len(empty := clips.loc[clips["text"].isna(), "clip_id"]):
            raise ValueError(f"{len(empty)} clips have no text, the first is {empty.iloc[0]!r}")
        indices, missing = locate_clips(frames, clips["clip_id"].tolist(), video_numbers(clips))
        held = indices >= 0
        texts = clips["text"][held].groupby(indices[held], sort=False).agg(tuple)
        return cls(frames, texts.tolist(), texts.index.to_numpy(dtype=np.int64), missing)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def clip_ids(self) -> list[str]:
        """The clips' ids, in their order."""
        return [self.frames.clip_ids[int(index)] for index in self.indices]


class Batch(NamedTuple):
    """A batch's clips, or a process's rows of them, as the encoders take them."""

    frames: torch.Tensor  # uint8 [rows, frames, size, size, 3]
    counts: np.ndarray  # [rows], valid frames of each clip
    texts: list[str]
    n: int  # clips of the whole batch
    draws: int  # stored frames that each was drawn from


def training_batches(
    clips: TrainingClips,
    size: int,
    image_size: int,
    crop_scale: tuple[float, float],
    seed: int,
    rows: slice = slice(None),
) -> Iterator[Batch]:
    """Random batches without end: each clip one stored draw an interval, one crop, one flip.

    Batches are drawn without replacement within an epoch. Every batch is full: the clips of an
    epoch that do not fill one are left out of it, others in each epoch.

    Args:
        clips: in training form.
        size: clips in a batch; where there are fewer, all of them.
        image_size: side of the views, in pixels.
        crop_scale: smallest and largest share of the picture's area that a crop keeps.
        seed: of the order of clips, the frames drawn, the crops, the flips and the captions.
        rows: those of each batch to make; what is random is drawn for the whole batch.

    Raises:
        ValueError: the frames have no axis of draws.

    Source: `fitclip_core`, numeric conventions, training frames and crops.
    """
    generator = torch.Generator().manual_seed(seed)
    size, several = min(size, len(clips)), max(map(len, clips.captions)) > 1
    while True:
        order = torch.randperm(len(clips), generator=generator).numpy()
        for start in range(0, len(clips) - size + 1, size):
            own = order[start : start + size][rows]
            places = clips.indices[own]
            stored = clips.frames.frames(places)
            if stored.ndim != 6 or stored.shape[2] == 0:
                raise ValueError(
                    f"training frames have shape {list(stored.shape)}; give [clips, intervals, "
                    "draws, height, width, 3], which a frame store built with "
                    "draws_per_interval > 0 holds"
                )
            n, intervals, draws, height, width, _ = stored.shape
            drawn = torch.randint(draws, (size, intervals), generator=generator)[rows].numpy()
            frames = stored[np.arange(n)[:, None], np.arange(intervals), drawn]
            boxes = crop_boxes(size, height, width, crop_scale, generator)[rows]
            flips = (torch.rand(size, generator=generator) < 0.5)[rows]
            views = crop_and_flip(frames, boxes, flips, image_size)
            # Nothing is drawn where there is nothing to choose, as before there were several.
            chosen = torch.rand(size, generator=generator) if several else torch.zeros(size)
            texts = [
                clips.captions[row][int(place * len(clips.captions[row]))]
                for row, place in zip(own, chosen[rows].tolist(), strict=True)
            ]
            yield Batch(views, clips.frames.frame_counts[places], texts, size, draws)


def crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Random boxes for n pictures, as torchvision's RandomResizedCrop draws them, all at once.

    Args:
        n: how many boxes.
        height, width: of the pictures, in pixels.
        scale: smallest and largest share of the picture's area.
        generator: where the randomness comes from.

    Returns:
        int64 `[n, 4]`: top, left, height, width, in pixels. Where ten attempts gave no box that
        fits (an aspect ratio of 3/4 to 4/3), the central box nearest to those ratios.

    Source: Szegedy et al. 2015, 6 (inception crops); torchvision RandomResizedCrop.
    """
    area = height * width * torch.empty(n, ATTEMPTS).uniform_(*scale, generator=generator)
    log_ratios = [math.log(ratio) for ratio in ASPECT_RATIOS]
    ratio = torch.empty(n, ATTEMPTS).uniform_(*log_ratios, generator=generator).exp()
    heights = (area / ratio).sqrt().round().long()
    widths = (area * ratio).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    attempt = fits.int().argmax(1, keepdim=True)
    box_height = heights.gather(1, attempt).squeeze(1)
    box_width = widths.gather(1, attempt).squeeze(1)

    def places(room: torch.Tensor) -> torch.Tensor:
        """One of the room + 1 places of each box; 0 for a box that does not fit."""
        drawn = torch.rand(n, generator=generator, dtype=torch.float64)
        return (drawn * (room + 1).clamp(min=1)).long()

    top, left = places(height - box_height), places(width - box_width)
    boxes = torch.stack([top, left, box_height, box_width], 1)
    high = min(height, round(width / ASPECT_RATIOS[0]))
    wide = min(width, round(height * ASPECT_RATIOS[1]))
    boxes[~fits.any(1)] = torch.tensor([(height - high) // 2, (width - wide) // 2, high, wide])
    return boxes


def crop_and_flip(
    frames: np.ndarray, boxes: torch.Tensor, flips: torch.Tensor, size: int
) -> torch.Tensor:
    """Resized crop and horizontal flip, the same for all frames of a clip.

    The crop is resized by bicubic interpolation with antialiasing on uint8, as the frame store
    and CLIP's evaluation resize, so that training adds no other kind of blur.

    Args:
        frames: uint8 `[n, frames, h, w, 3]`.
        boxes: int `[n, 4]` from `crop_boxes`.
        flips: bool `[n]`.
        size: side of the result, in pixels.

    Returns: uint8 `[n, frames, size, size, 3]`.
    """
    out = torch.empty(*frames.shape[:2], size, size, 3, dtype=torch.uint8)
    views = zip(torch.from_numpy(frames), boxes.tolist(), flips.tolist(), out, strict=True)
    for clip, box, flip, target in views:
        view = pixels.resized_crop(
            clip.permute(0, 3, 1, 2), *box, [size, size], InterpolationMode.BICUBIC, antialias=True
        )
        target.copy_((view.flip(-1) if flip else view).permute(0, 2, 3, 1))
    return out
