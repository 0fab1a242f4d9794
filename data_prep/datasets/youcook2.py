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

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import (
    Annotation,
    blank,
    check_form,
    member,
    read_object,
    refuse,
    table,
    typed,
)

OPTIONS = {"split": ("val", "train"), "annotation": ("mil_nce", "official")}
COUNTS = {
    "mil_nce val": {"steps": 3_350},
    "official val": {"steps": 3_492, "videos": 457},
    "official train": {"steps": 10_337, "videos": 1_333},
}
_SUBSETS = {"val": "validation", "train": "training"}
_FILES = {"mil_nce": "validation_youcook.csv", "official": "youcookii_annotations_trainval.json"}
_VIDEO_ID = re.compile(r"[\w-]+", re.ASCII)
_RECIPE = re.compile(r"\d+", re.ASCII)


def load(account: Annotation, split: str, annotation: str) -> DataSet:
    """YouCook2 from its official files, a step an item."""
    if split == "train" and annotation == "mil_nce":
        raise ValueError("MIL-NCE's CSV has no training split; give annotation 'official'")
    file = account.file(
        f"YouCook2 annotation ({annotation})", [_FILES[annotation]], ["", "csv/", "annotations/"]
    )
    subset = _SUBSETS[split]
    if annotation == "mil_nce":
        steps = table(file, ["video_id", "task", "start", "end", "text"])
        steps["video"], steps["recipe"] = steps["video_id"].str.strip(), steps["task"].str.strip()
        steps["where"] = [f"line {line}" for line in steps.index]
        account.notes.append("MIL-NCE's list lacks 21 of the 457 official validation videos")
        found = {"steps": len(steps)}
    else:
        steps, n_videos = _of_json(file, subset)
        found = {"steps": len(steps), f"videos in {subset}": n_videos}
    check_form(steps, "video", _VIDEO_ID, "YouTube id")
    check_form(steps, "recipe", _RECIPE, "recipe number")
    for end in ("start", "end"):
        seconds = steps[end].map(_seconds)
        refuse(steps[seconds.isna()], f"{end} {{{end}!r}} is no time in seconds")
        steps[end] = seconds
    times = zip(steps["video"], steps["start"], steps["end"], strict=True)
    steps["clip_id"] = [f"{video}_{start:.12g}_{end:.12g}" for video, start, end in times]
    account.compare(f"{annotation} {split}", file, found)
    unique(zip(steps["clip_id"], steps["text"], strict=True), "the step with its text", file)

    late = steps["end"] <= steps["start"]
    wrong = ["the text is empty", "the step ends before it starts"]
    why = np.select([blank(steps["text"]), late], wrong, "")
    rows = account.keep(steps, steps["where"] + ": " + steps["clip_id"], why)
    again = rows.groupby("clip_id").cumcount()
    rows["clip_id"] += np.where(again > 0, "_" + (again + 1).astype("str"), "")
    by_recipe, name = rows["recipe"] + "/" + rows["video"] + ".mp4", rows["video"] + ".mp4"
    of_subset = (f"{subset}/", "", f"videos/{subset}/", f"raw_videos/{subset}/")
    layouts = [folder + by_recipe for folder in (*of_subset, "videos/", "raw_videos/")]
    layouts += [folder + name for folder in ("videos/", "raw_videos/", f"{subset}/", "")]
    return account.data_set(
        "YouCook2",
        split,
        rows.assign(split=split),
        layouts,
        annotated=len(steps),
        captions="the step's sentence",
        annotation="MIL-NCE's list" if annotation == "mil_nce" else "official",
    )


def _of_json(file: Path, subset: str) -> tuple[pd.DataFrame, int]:
    """A subset's steps, and the number of its videos."""
    content = member(read_object(file), "database", dict, str(file))
    names = [member(one, "subset", str, f"{file}, {video}") for video, one in content.items()]
    videos = [video for video, name in zip(content, names, strict=True) if name == subset]
    if not videos:
        has = ", ".join(sorted(set(names))) or "none"
        raise ValueError(f"{file} has no video of subset {subset!r}; it has {has}")
    rows, places = [], []
    for video in videos:
        record = content[video]
        recipe = member(record, "recipe_type", str, f"{file}, {video}")
        for number, step in enumerate(member(record, "annotations", list, f"{file}, {video}")):
            where = f"annotations[{number}]"
            place = f"{file}, {video}, {where}"
            segment = member(step, "segment", list, place)
            if len(segment) != 2:
                raise ValueError(f"{place}: the segment {segment} is not [start, end]")
            times = [typed(seconds, float, place) for seconds in segment]
            text = member(step, "sentence", str, place)
            rows.append((video, recipe, *times, text, where))
            places.append(f"{video}, {where}")
    columns = ["video", "recipe", "start", "end", "text", "where"]
    index = pd.Index(places, dtype="object", name=f"{file}, ")
    return pd.DataFrame(rows, index, columns, "object"), len(videos)


def _seconds(value: str | float) -> float:
    """NaN for what is no time."""
    try:
        seconds = float(value)
    except ValueError:
        return math.nan
    return seconds if 0 <= seconds < math.inf else math.nan
