"""Your own videos or images, listed in a CSV.

The table, by default `clips.csv` in the root, is read by `data_prep.clips.read_clips`: comma,
semicolon or tab, UTF-8, a header and one row a clip and text. Its columns, in any order and case:

- `path`: the video or image, relative to the root, with '/'. An image is a clip of one frame.
- `caption` (or `text`) for retrieval, or `label` (or `class`) for classification.
- `start` and `end`, optional: seconds with a decimal point; empty for the video's own.
- `clip_id`, optional: a unique name; by default the path, with start and end where there are any,
  and a number where these were there before.
- `split`, optional. Further columns are not read.

Rows with the same path, start and end are one video with several captions; a video has one label.
Options:

- table: the CSV's path, relative to the root.
- task: `retrieval`, `classification`, or `auto`: whichever the columns are for.
- split: only the rows with this in the column `split`; empty for all rows.
- prompt: what a label is put into, at its one `{}`; for classification only.

Texts are taken without outer spaces. Items are in the table's order. The classes are the labels of
the whole table, other splits' included, in the order of their first rows. Rows without a caption or
label are left out and listed.
"""

import os
from typing import Any

import numpy as np

from data_prep.clips import read_clips
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import Annotation, Counts

OPTIONS = {
    "table": "clips.csv",
    "task": ("auto", "retrieval", "classification"),
    "split": "",
    "prompt": "{}",
}
COUNTS: Counts = {}
_COLUMNS = {"retrieval": "text", "classification": "label"}
_NAMES = {"retrieval": ("caption", "text"), "classification": ("label", "class")}


def load(account: Annotation, table: str, task: str, split: str, prompt: str) -> DataSet:
    """A data set of the user's own; the module says what the table holds."""
    if prompt != "{}":
        from fitclip_core.encoders import check_templates  # slow to import

        check_templates([prompt])
    file = account.file("table of clips", [table])
    rows = read_clips(file)
    wanted = [name for name in _COLUMNS if task in ("auto", name)]
    possible = [name for name in wanted if _COLUMNS[name] in rows]
    if not possible:
        names = " or ".join(one for name in wanted for one in _NAMES[name])
        raise ValueError(f"{file} has no column {names}; add one")
    if len(possible) > 1:
        raise ValueError(f"{file} has text and label; choose the task, {' or '.join(possible)}")
    column, what = _COLUMNS[possible[0]], _NAMES[possible[0]][0]
    classes = list(rows["label"].dropna().unique()) if column == "label" else []
    if split:
        splits = dict.fromkeys(rows["split"].fillna("")) if "split" in rows else {}
        if split not in splits:
            has = f"it has {', '.join(map(repr, splits))}" if splits else "it has no such column"
            raise ValueError(f"{file} has no row with split {split!r}; {has}")
        rows = rows[rows["split"] == split]
    kept = account.keep(
        rows, rows["clip_id"], np.where(rows[column].isna(), f"it has no {what}", "")
    )
    # These bear any name, so that each is looked for by itself.
    there = {path: os.path.isfile(account.root / path) for path in kept["path"].unique()}
    about: dict[str, Any] = {"captions": f"the column {what}"}
    if column == "label":
        about = {"prompts": f"one template, {prompt!r}"}
    return account.data_set(
        file.stem,
        split or "all",
        kept.drop(columns={"text", "label"} - {column}, errors="ignore").assign(
            found=kept["path"].map(there)
        ),
        annotated=len(rows),
        templates=(prompt,) if column == "label" else (),
        classes=classes,
        **about,
    )
