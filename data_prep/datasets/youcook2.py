"""YouCook2: cooking videos cut into described steps (Zhou et al., AAAI 2018).

Files, under the root:

- annotation `mil_nce`: `validation_youcook.csv` of the MIL-NCE repository (root, `csv/` or
  `annotations/`; columns end, start, task, text, video_id in any order; 3,350 steps of 436 videos).
- annotation `official`: `youcookii_annotations_trainval.json` (root or `annotations/`; 457
  validation videos with 3,492 steps, 1,333 training videos).
- Videos, any extension, by recipe and YouTube id: `validation/226/xHr8X2Wpmno.mp4` (MIL-NCE's
  archive), `226/...`, `videos/validation/226/...`, `raw_videos/validation/226/...` (the official
  download script; `training` for that split), or without the recipe in `videos/`, `raw_videos/`,
  `validation/` or the root.

Options:

- split: val, or train (official annotation only).
- annotation: `mil_nce`, which the official FitCLIP code evaluates, or `official`.

An item is one step: a video from `start` to `end` seconds, in the file's order, its text verbatim.
Its id is made of video, start and end, with `_2` for a second text of the same step (there is one:
3,350 texts are of 3,349 clips, where the official code takes both rows for clips of their own).

Quirks: the CSV has `end` before `start`, ids that begin with `-` or `_`, 3 texts with outer spaces,
and repeated texts (3,273 distinct). It lacks 21 official validation videos.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.annotations import digests, read_json, read_table, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import member, of_form, one_of, typed
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import size_notes

_SUBSETS = {"val": "validation", "train": "training"}
_FILES = {
    "mil_nce": [f"{folder}validation_youcook.csv" for folder in ("", "csv/", "annotations/")],
    "official": [f"{folder}youcookii_annotations_trainval.json" for folder in ("", "annotations/")],
}
_VIDEO_ID = re.compile(r"[\w-]+", re.ASCII)
_RECIPE = re.compile(r"\d+", re.ASCII)
_LAYOUTS = (
    "{subset}/{recipe}/{video}.mp4",
    "{recipe}/{video}.mp4",
    "videos/{subset}/{recipe}/{video}.mp4",
    "raw_videos/{subset}/{recipe}/{video}.mp4",
    "videos/{recipe}/{video}.mp4",
    "raw_videos/{recipe}/{video}.mp4",
    "videos/{video}.mp4",
    "raw_videos/{video}.mp4",
    "{subset}/{video}.mp4",
    "{video}.mp4",
)


@dataclass(frozen=True)
class _Step:
    video: str
    recipe: str
    start: float
    end: float
    text: str
    where: str  # line or record

    @property
    def key(self) -> str:
        return f"{self.video}_{self.start:.12g}_{self.end:.12g}"


def load(root: Path, *, split: str = "val", annotation: str = "mil_nce") -> DataSet:
    """YouCook2 from its official files, a step an item; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/youcook2.py`.
    """
    one_of("split", split, tuple(_SUBSETS))
    one_of("annotation", annotation, tuple(_FILES))
    if split == "train" and annotation == "mil_nce":
        raise ValueError("MIL-NCE's CSV has no training split; give annotation 'official'")
    file = find_file(root, _FILES[annotation], f"YouCook2 annotation ({annotation})")
    if annotation == "mil_nce":
        steps = _read_csv(file)
        counted = {"steps": len(steps)}
        notes = ["MIL-NCE's list lacks 21 of the 457 official validation videos"]
    else:
        steps, n_videos = _read_json(file, _SUBSETS[split])
        counted = {"steps": len(steps), f"videos in {_SUBSETS[split]}": n_videos}
        notes = []
    size = size_notes("youcook2", f"{annotation} {split}", file, counted)
    unique(((one.key, one.text) for one in steps), "the step with its text", file)

    dropped, items = [], []
    seen: Counter[str] = Counter()
    for step in steps:
        name = f"{step.where}: {step.key}"
        if not step.text.strip():
            dropped.append((name, "the text is empty", file.name))
        elif step.end <= step.start:
            dropped.append((name, "the step ends before it starts", file.name))
        else:
            seen[step.key] += 1
            again = f"_{seen[step.key]}" if seen[step.key] > 1 else ""
            items.append((step.key + again, step))
    names = {"subset": _SUBSETS[split]}
    expected = [
        [one.format(recipe=step.recipe, video=step.video, **names) for one in _LAYOUTS]
        for _, step in items
    ]
    paths, layouts = locate(Files(root, root), expected)
    rows = [
        {
            "clip_id": clip_id,
            "path": path,
            "start": step.start,
            "end": step.end,
            "text": step.text,
            "split": split,
        }
        for (clip_id, step), path in zip(items, paths, strict=True)
    ]
    protocol = {
        "data_set": "YouCook2",
        "split": split,
        "captions": "the step's sentence",
        "annotation": {"mil_nce": "MIL-NCE's list", "official": "official"}[annotation],
        "annotations": digests(file),
    }
    return data_set(
        "youcook2",
        root,
        rows,
        dropped=dropped,
        annotated=len(steps),
        found=[layout is not None for layout in layouts],
        protocol=protocol,
        size=size,
        notes=notes,
    )


def _read_csv(file: Path) -> list[_Step]:
    table = read_table(file, ["video_id", "task", "start", "end", "text"])
    steps = []
    for row in table.itertuples():
        where = f"{file}, line {row.line}"
        start, end = (_seconds(row, name, where) for name in ("start", "end"))
        video = of_form(str(row.video_id).strip(), _VIDEO_ID, "YouTube id", where)
        recipe = of_form(str(row.task).strip(), _RECIPE, "recipe number", where)
        steps.append(_Step(video, recipe, start, end, str(row.text), f"line {row.line}"))
    return steps


def _read_json(file: Path, subset: str) -> tuple[list[_Step], int]:
    """A subset's steps, and the number of its videos."""
    content = member(typed(read_json(file), dict, str(file)), "database", dict, str(file))
    videos = [
        video
        for video, record in content.items()
        if member(record, "subset", str, f"{file}, {video}") == subset
    ]
    if not videos:
        has = ", ".join(sorted({record["subset"] for record in content.values()})) or "none"
        raise ValueError(f"{file} has no video of subset {subset!r}; it has {has}")
    steps = []
    for video in videos:
        at, record = f"{file}, {video}", content[video]
        of_form(video, _VIDEO_ID, "YouTube id", at)
        recipe = of_form(member(record, "recipe_type", str, at), _RECIPE, "recipe number", at)
        for number, one in enumerate(member(record, "annotations", list, at)):
            where = f"{at}, annotations[{number}]"
            segment = member(one, "segment", list, where)
            if len(segment) != 2:
                raise ValueError(f"{where}: the segment {segment} is not [start, end]")
            start, end = (_checked(typed(value, float, where), where) for value in segment)
            text = member(one, "sentence", str, where)
            steps.append(_Step(video, recipe, start, end, text, f"annotations[{number}]"))
    return steps, len(videos)


def _seconds(row: Any, name: str, where: str) -> float:
    text = getattr(row, name)
    try:
        return _checked(float(text), where)
    except ValueError as error:
        raise ValueError(f"{where}: {name} {text!r} is no time in seconds") from error


def _checked(seconds: float, where: str) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{where}: {seconds} is no time in seconds; take the original file")
    return float(seconds)
