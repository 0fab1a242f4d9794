"""Your own videos or images, listed in a CSV.

The table, by default `clips.csv` in the root, is read by `data_prep.clips.read_clips`: comma,
semicolon or tab, UTF-8, a header and one row a clip and text. Its columns, in any order and case:

- `path`: the video or image, relative to the root, with '/'. An image is a clip of one frame.
- `caption` (or `text`) for retrieval, or `label` (or `class`) for classification.
- `start` and `end`, optional: seconds with a decimal point; empty for the video's own.
- `clip_id`, optional: a unique name; by default the path, with start and end where there are any,
  and a number where these were there before.
- `split`, optional.

Rows with the same path, start and end are one video with several captions; a video has one label.

Further columns are not read. Options:

- table: the CSV's path, relative to the root.
- task: `retrieval`, `classification`, or `auto`: whichever the columns are for.
- split: only the rows with this in the column `split`; empty for all rows.
- prompt: what a label is put into, at its one `{}`; for classification only.

Texts are taken without outer spaces. Items are in the table's order. The classes are the labels of
the whole table, other splits' included, in the order of their first rows. Rows without a caption or
label are left out and listed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.clips import read_clips
from data_prep.datasets.base import Annotation, DataSet

_COLUMNS = {"retrieval": "text", "classification": "label"}
_NAMES = {"retrieval": "caption or text", "classification": "label or class"}


def load(
    root: Path,
    *,
    table: str = "clips.csv",
    task: Literal["auto", "retrieval", "classification"] = "auto",
    split: str = "",
    prompt: str = "{}",
) -> DataSet:
    """A data set of the user's own; the module says what the table holds."""
    if prompt != "{}":
        from fitclip_core.encoders import check_templates  # slow to import

        check_templates([prompt])
    annotation = Annotation("folder", root, {})
    file = annotation.file([table], "table of clips")
    rows = read_clips(file)
    chosen = _task(file, rows, task)
    column = _COLUMNS[chosen]
    classes = list(rows[column].dropna().unique())
    if split:
        rows = _of_split(file, rows, split)
    annotated = len(rows)
    silent = rows[column].isna()
    what = _NAMES[chosen].partition(" ")[0]
    for clip_id in rows["clip_id"][silent]:
        annotation.leave_out(clip_id, f"it has no {what}")
    rows = rows[~silent]
    there = {path: os.path.isfile(root / path) for path in rows["path"].unique()}  # bears any name
    kept = [name for name in ("clip_id", "path", "start", "end", "split", column) if name in rows]
    if chosen == "retrieval":
        about = {"captions": f"the column {what}"}
    else:
        about = {"prompts": f"one template, {prompt!r}"}
    return annotation.data_set(
        file.stem,
        split or "all",
        rows[kept].reset_index(drop=True),
        [there[path] for path in rows["path"]],
        annotated=annotated,
        templates=(prompt,) if chosen == "classification" else (),
        classes=classes if chosen == "classification" else (),
        **about,
    )


def _task(file: Path, rows: pd.DataFrame, task: str) -> str:
    """The task that the table's columns are for."""
    wanted = [name for name in _COLUMNS if task in ("auto", name)]
    possible = [name for name in wanted if _COLUMNS[name] in rows]
    if not possible:
        names = " or ".join(_NAMES[name] for name in wanted)
        raise ValueError(f"{file} has no column {names}; add one")
    if len(possible) > 1:
        raise ValueError(
            f"{file} has {' and '.join(_COLUMNS[name] for name in possible)}; choose the task, "
            f"{' or '.join(possible)}"
        )
    return possible[0]


def _of_split(file: Path, rows: pd.DataFrame, split: str) -> pd.DataFrame:
    there = dict.fromkeys(rows["split"].fillna("")) if "split" in rows else {}
    if split not in there:
        found = f"it has {', '.join(map(repr, there))}" if there else "it has no such column"
        raise ValueError(f"{file} has no row with split {split!r}; {found}")
    return rows[rows["split"] == split]
