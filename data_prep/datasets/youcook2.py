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

Source: FitCLIP's official code, `aligner/data/youcook2.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from data_prep.annotations import read_table, unique
from data_prep.datasets.base import Annotation, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import member, of_form, read_object, records, require_form, typed

OFFICIAL_COUNTS = {
    "mil_nce val": {"steps": 3_350},
    "official val": {"steps": 3_492, "videos": 457},
    "official train": {"steps": 10_337, "videos": 1_333},
}
_SUBSETS = {"val": "validation", "train": "training"}
_FILES = {
    "mil_nce": [f"{folder}validation_youcook.csv" for folder in ("", "csv/", "annotations/")],
    "official": [f"{folder}youcookii_annotations_trainval.json" for folder in ("", "annotations/")],
}
_VIDEO_ID = re.compile(r"[\w-]+", re.ASCII)
_RECIPE = re.compile(r"\d+", re.ASCII)
_FOLDERS = (
    *("{subset}/{recipe}/", "{recipe}/"),
    *("videos/{subset}/{recipe}/", "raw_videos/{subset}/{recipe}/"),
    *("videos/{recipe}/", "raw_videos/{recipe}/", "videos/", "raw_videos/", "{subset}/", ""),
)


class _Step(NamedTuple):
    video: str
    recipe: str
    start: float
    end: float
    text: str
    where: str  # line or record

    @property
    def key(self) -> str:
        return f"{self.video}_{self.start:.12g}_{self.end:.12g}"


def load(
    root: Path,
    *,
    split: Literal["val", "train"] = "val",
    annotation: Literal["mil_nce", "official"] = "mil_nce",
) -> DataSet:
    """YouCook2 from its official files, a step an item."""
    if split == "train" and annotation == "mil_nce":
        raise ValueError("MIL-NCE's CSV has no training split; give annotation 'official'")
    account = Annotation("youcook2", root, OFFICIAL_COUNTS)
    file = account.file(_FILES[annotation], f"YouCook2 annotation ({annotation})")
    subset = _SUBSETS[split]
    if annotation == "mil_nce":
        steps = _read_csv(file)
        found = {"steps": len(steps)}
        account.notes.append("MIL-NCE's list lacks 21 of the 457 official validation videos")
    else:
        steps, n_videos = _read_json(file, subset)
        found = {"steps": len(steps), f"videos in {subset}": n_videos}
    account.compare(f"{annotation} {split}", file, found)
    unique(((step.key, step.text) for step in steps), "the step with its text", file)

    rows, expected = [], []
    seen: Counter[str] = Counter()
    for step in steps:
        if not step.text.strip():
            account.leave_out(f"{step.where}: {step.key}", "the text is empty")
        elif step.end <= step.start:
            account.leave_out(f"{step.where}: {step.key}", "the step ends before it starts")
        else:
            seen[step.key] += 1
            again = f"_{seen[step.key]}" if seen[step.key] > 1 else ""
            rows.append((step.key + again, step.start, step.end, step.text))
            file_name = f"{step.video}.mp4"
            expected.append(
                [one.format(subset=subset, recipe=step.recipe) + file_name for one in _FOLDERS]
            )
    paths, layouts = locate(Files(root, root), expected)
    clips = pd.DataFrame(rows, columns=["clip_id", "start", "end", "text"])
    return account.data_set(
        "YouCook2",
        split,
        clips.assign(path=paths, split=split),
        layouts >= 0,
        annotated=len(steps),
        captions="the step's sentence",
        annotation="MIL-NCE's list" if annotation == "mil_nce" else "official",
    )


def _read_csv(file: Path) -> list[_Step]:
    table = read_table(file, ["video_id", "task", "start", "end", "text"])
    table["video_id"], table["task"] = table["video_id"].str.strip(), table["task"].str.strip()
    require_form(table["video_id"], table["line"], _VIDEO_ID, "YouTube id", file)
    require_form(table["task"], table["line"], _RECIPE, "recipe number", file)
    steps = []
    for row in table.to_dict("records"):
        where = f"line {row['line']}"
        start, end = (
            _seconds(row[name], f"{name} ", f"{file}, {where}") for name in ("start", "end")
        )
        steps.append(_Step(row["video_id"], row["task"], start, end, row["text"], where))
    return steps


def _read_json(file: Path, subset: str) -> tuple[list[_Step], int]:
    """A subset's steps, and the number of its videos."""
    content = member(read_object(file), "database", dict, str(file))
    subsets = {
        video: member(record, "subset", str, f"{file}, {video}")
        for video, record in content.items()
    }
    videos = [video for video, name in subsets.items() if name == subset]
    if not videos:
        has = ", ".join(sorted(set(subsets.values()))) or "none"
        raise ValueError(f"{file} has no video of subset {subset!r}; it has {has}")
    steps = []
    for video in videos:
        at, record = f"{file}, {video}", content[video]
        of_form(video, _VIDEO_ID, "YouTube id", at)
        recipe = of_form(member(record, "recipe_type", str, at), _RECIPE, "recipe number", at)[0]
        listed = member(record, "annotations", list, at)
        for number, (where, segment, text) in enumerate(
            records(listed, f"{at}, annotations", segment=list, sentence=str)
        ):
            if len(segment) != 2:
                raise ValueError(f"{where}: the segment {segment} is not [start, end]")
            start, end = (_seconds(typed(value, float, where), "", where) for value in segment)
            steps.append(_Step(video, recipe, start, end, text, f"annotations[{number}]"))
    return steps, len(videos)


def _seconds(value: str | float, what: str, where: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{where}: {what}{value!r} is no time in seconds; take the original file")
    return seconds
