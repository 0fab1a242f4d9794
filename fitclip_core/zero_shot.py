"""Zero-shot retrieval and classification of clips, as one outcome for each item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from fitclip_core.clips import FrameSource, check_labels, first_rows, locate_clips, video_numbers
from fitclip_core.encoders import VideoTextEncoder, check_templates
from fitclip_core.metrics import retrieval_ranks, retrieval_ranks_both_ways

Task = Literal["retrieval", "classification"]
COLUMN_OF_TASK: dict[Task, str] = {"retrieval": "text", "classification": "label"}


def evaluate(
    encoder: VideoTextEncoder,
    clips: pd.DataFrame,
    frames: FrameSource,
    *,
    templates: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    renormalise: bool = False,
) -> pd.DataFrame:
    """Rank the right target of every item, among all of them, by a model that never saw the set.

    Retrieval ranks each text's video among all videos and the other way round. Rows with equal
    `path`, `start` and `end` (or that the frames keep as one) are one video with several texts: it
    is encoded once, and of its texts the best is ranked (`metrics.retrieval_ranks_both_ways`).
    Classification ranks each video's label among `classes`; several rows of a video count once.

    Args:
        encoder: the model.
        clips: one row a clip and text: `clip_id` and `text` (retrieval) or `label`
            (classification), and where there are any `path`, `start` and `end`.
        frames: decoded clips in evaluation form. Clips that it lacks are not measured, and of a
            video that it lacks no text is; the result's `attrs["coverage"]` lists them.
        templates: prompts with one `{}` for the class name; classification only, which needs them.
        classes: names of all classes, in any order; classification only. None: the distinct labels
            of the table, those of clips without frames included.
        task: None: decided by which of `text` and `label` is filled.
        renormalise: L2-normalise the mean features, as open_clip and CLIP_benchmark do; the paper
            does not.

    Returns:
        One row for each item and direction, in the table's order: `item` (clip_id; of a video that
        of its first row), `direction` (`text_to_video`, an item a text, and `video_to_text`, an
        item a video; or `classification`), `rank` (float64, 1-based mid-rank of the right target),
        `label` and `predicted` (classification; the first in alphabetical order where classes tie).
        `attrs["coverage"]`: `clips` asked for (rows; in classification videos), `measured`,
        `missing` (their ids); where videos have several rows, also `videos` and `videos_measured`,
        in classification `rows`.

    Raises:
        ValueError: the task is unclear, a text or label is missing, a clip_id is repeated, no clip
            has frames, the templates or classes do not fit the task, a class is repeated, a label
            is not among the classes, a video has several labels, or a feature is not finite.

    Source: the paper's zero-shot tables (supplement, tables 4 and 5).
    """
    trial = prepare(clips, frames, templates=templates, classes=classes, task=task)
    videos = video_side(encoder, trial, renormalise=renormalise)
    return rank(trial, videos, text_side(encoder, trial, renormalise=renormalise))


@dataclass(frozen=True, eq=False)
class Trial:
    """What is to be encoded and ranked: the same for every model.

    Attributes:
        task: retrieval or classification.
        clips: the rows of the clips table that have frames; in classification each video's first.
        frames: the source of the frames.
        indices: positions of those clips in it, int64; equal where rows are one video.
        classes: names of all classes, in alphabetical order; classification only.
        templates: prompts of the classes; classification only.
        coverage: as `evaluate`.
    """

    task: Task
    clips: pd.DataFrame
    frames: FrameSource
    indices: np.ndarray
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    coverage: dict[str, Any]

    @property
    def videos(self) -> tuple[np.ndarray, np.ndarray]:
        """Each distinct video's first row, int64 `[videos]`, and each row's video, int64 `[n]`."""
        return np.flatnonzero(first_rows(self.indices)), pd.factorize(self.indices)[0]


def prepare(
    clips: pd.DataFrame,
    frames: FrameSource,
    *,
    templates: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
) -> Trial:
    """Check what `evaluate` is given and find the clips' frames; arguments and errors as there."""
    task = _task(clips) if task is None else task
    column = COLUMN_OF_TASK.get(task)
    if column is None:
        raise ValueError(f"task is {task!r}; give one of {', '.join(COLUMN_OF_TASK)}")
    for needed in ("clip_id", column):
        if needed not in clips:
            raise ValueError(f"{task} needs the column {needed!r}, which the clips table lacks")
    if len(empty := clips.loc[clips[column].isna(), "clip_id"]):
        raise ValueError(
            f"{len(empty)} clips have no {column}, the first is {empty.iloc[0]!r}; "
            f"fill it in or leave the clips out of the table"
        )
    ranked: list[str] = []
    if task == "classification":
        check_templates(templates or ())
        ranked = _ranked_classes(clips, classes)
    elif templates or classes is not None:
        raise ValueError("retrieval takes its texts as they are; leave templates and classes out")
    rows, videos = len(clips), video_numbers(clips)
    indices, _ = locate_clips(frames, clips["clip_id"].tolist(), videos)
    # The source may know more rows for one video than the table tells, where it has them; videos
    # that it lacks keep a number of their own, below 0.
    videos = np.where(indices >= 0, indices, -1 - videos)
    if task == "classification":
        check_labels(clips, videos)
        first = first_rows(videos)
        clips, indices, videos = clips[first], indices[first], videos[first]
    held = indices >= 0
    missing = clips.loc[~held, "clip_id"].tolist()
    coverage: dict[str, Any] = {"clips": len(clips), "measured": int(held.sum())}
    coverage["missing"] = missing
    if len(clips) < rows:
        coverage["rows"] = rows
    if (n_videos := len(np.unique(videos))) < len(clips):
        coverage |= {"videos": n_videos, "videos_measured": len(np.unique(videos[held]))}
    return Trial(
        task, clips[held], frames, indices[held], tuple(ranked), tuple(templates or ()), coverage
    )


def video_side(encoder: VideoTextEncoder, trial: Trial, *, renormalise: bool = False) -> Tensor:
    """Features `[n, d]` of the videos of a trial's rows; each distinct video is encoded once."""
    first, numbers = trial.videos
    videos = encoder.encode_source(trial.frames, trial.indices[first])[numbers]
    return F.normalize(videos, dim=-1) if renormalise else videos


def text_side(encoder: VideoTextEncoder, trial: Trial, *, renormalise: bool = False) -> Tensor:
    """Features of a trial's texts `[n, d]`, row by row, or of its classes `[classes, d]`."""
    if trial.task == "retrieval":
        return encoder.encode_texts(trial.clips["text"].tolist())
    classes = encoder.encode_classes(trial.classes, trial.templates)
    return F.normalize(classes, dim=-1) if renormalise else classes


def rank(trial: Trial, videos: Tensor, texts: Tensor) -> pd.DataFrame:
    """Rank a trial's right targets by the features of both sides.

    Args:
        trial: from `prepare`.
        videos: `[n, d]`, from `video_side`.
        texts: `[n, d]` or `[classes, d]`, from `text_side`; of the same space.

    Returns:
        The outcomes, as `evaluate`.

    Raises:
        ValueError: the features do not fit each other or the trial, or are not finite.
    """
    items = trial.clips["clip_id"].tolist()
    first, numbers = trial.videos
    if trial.task == "retrieval":
        if len(videos) != len(items):
            raise ValueError(f"there are {len(videos)} video features for {len(items)} rows")
        to_video, to_text = retrieval_ranks_both_ways(texts, videos[first], numbers)
        of_texts = _outcomes(items, "text_to_video", to_video)
        of_videos = _outcomes([items[row] for row in first], "video_to_text", to_text)
        outcomes = pd.concat([of_texts, of_videos], ignore_index=True)
    else:
        labels = trial.clips["label"].tolist()
        right = [trial.classes.index(label) for label in labels]
        ranks = retrieval_ranks(videos, texts, right)
        # In the ranks' precision, so that what is ranked first is what is predicted.
        best = (videos.double() @ texts.double().T).float().argmax(1).tolist()
        predicted = [trial.classes[number] for number in best]
        outcomes = _outcomes(items, "classification", ranks, labels, predicted)
    outcomes.attrs["coverage"] = trial.coverage
    return outcomes


def _task(clips: pd.DataFrame) -> Task:
    filled = [
        task
        for task, column in COLUMN_OF_TASK.items()
        if column in clips and clips[column].notna().any()
    ]
    if len(filled) != 1:
        raise ValueError(
            f"the clips table has {'both texts and labels' if filled else 'neither text nor label'}"
            f"; {'say which with task=' if filled else 'it needs one of the two columns'}"
        )
    return filled[0]


def _ranked_classes(clips: pd.DataFrame, classes: Sequence[str] | None) -> list[str]:
    labels = sorted(clips["label"].unique())
    if classes is None:
        return labels
    known = set(classes)
    if len(known) < len(classes):
        repeated, times = Counter(classes).most_common(1)[0]
        raise ValueError(f"class {repeated!r} is given {times} times; give each class once")
    if outside := [label for label in labels if label not in known]:
        raise ValueError(
            f"{len(outside)} labels are not among the {len(known)} classes, the first is "
            f"{outside[0]!r}; complete the classes, or leave the clips out of the table"
        )
    return sorted(known)


def _outcomes(
    items: list[str],
    direction: str,
    ranks: Tensor,
    labels: list[str] | None = None,
    predicted: list[str] | None = None,
) -> pd.DataFrame:
    none = [None] * len(items)
    columns = {"item": items, "direction": [direction] * len(items)}
    texts = columns | {"label": labels or none, "predicted": predicted or none}
    outcomes = pd.DataFrame({name: pd.array(column, dtype="str") for name, column in texts.items()})
    outcomes.insert(2, "rank", ranks.to(torch.float64).numpy())
    return outcomes
