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

import pandas as pd

from data_prep.annotations import digests
from data_prep.clips import read_clips
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import one_of
from data_prep.datasets.layout import find_file

_COLUMNS = {"retrieval": "text", "classification": "label"}
_NAMES = {"retrieval": "caption or text", "classification": "label or class"}


def load(
    root: Path,
    *,
    table: str = "clips.csv",
    task: str = "auto",
    split: str = "",
    prompt: str = "{}",
) -> DataSet:
    """A data set of the user's own; the module says what the table holds.

    Raises: ValueError for a bad option, and for all that is wrong with the table.
    """
    one_of("task", task, ("auto", *_COLUMNS))
    if prompt != "{}":
        from fitclip_core.video_text import check_templates  # slow to import

        check_templates([prompt])
    file = find_file(root, [table], "table of clips")
    rows = read_clips(file)
    task = _task(file, rows, task)
    column = _COLUMNS[task]
    classes = list(rows[column].dropna().unique())
    if split:
        rows = _of_split(file, rows, split)
    annotated = len(rows)
    silent = rows[column].isna()
    what = _NAMES[task].partition(" ")[0]
    dropped = [(clip_id, f"it has no {what}", file.name) for clip_id in rows["clip_id"][silent]]
    rows = rows[~silent].reset_index(drop=True)
    there = {path: os.path.isfile(root / path) for path in rows["path"].unique()}

    classified = task == "classification"
    kept = [name for name in ("clip_id", "path", "start", "end", "split", column) if name in rows]
    return data_set(
        "folder",
        root,
        rows[kept],
        dropped=dropped,
        annotated=annotated,
        found=[there[path] for path in rows["path"]],
        templates=(prompt,) if classified else (),
        classes=classes if classified else (),
        protocol={
            "data_set": file.stem,
            "split": split or "all",
            **(
                {"prompts": f"one template, {prompt!r}"}
                if classified
                else {"captions": f"the column {what}"}
            ),
            "annotations": digests(file),
        },
    )


def _task(file: Path, rows: pd.DataFrame, task: str) -> str:
    """The task that the table's columns are for."""
    wanted = [one for one in _COLUMNS if task in ("auto", one)]
    possible = [one for one in wanted if _COLUMNS[one] in rows]
    if not possible:
        names = " or ".join(_NAMES[one] for one in wanted)
        raise ValueError(f"{file} has no column {names}; add one")
    if len(possible) > 1:
        raise ValueError(
            f"{file} has {' and '.join(_COLUMNS[one] for one in possible)}; choose the task, "
            f"{' or '.join(possible)}"
        )
    return possible[0]


def _of_split(file: Path, rows: pd.DataFrame, split: str) -> pd.DataFrame:
    there = dict.fromkeys(rows["split"].fillna("")) if "split" in rows else {}
    if split not in there:
        found = f"it has {', '.join(map(repr, there))}" if there else "it has no such column"
        raise ValueError(f"{file} has no row with split {split!r}; {found}")
    return rows[rows["split"] == split].reset_index(drop=True)
