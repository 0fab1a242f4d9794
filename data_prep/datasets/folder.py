"""Your own videos or images, listed in a CSV.

The table (comma, semicolon or tab; UTF-8), by default `clips.csv` in the root, has a header and one
row a clip and text. Its columns, in any order and case:

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

import math
import os
from pathlib import Path

import pandas as pd

from data_prep.datasets.annotations import digests, read_table
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import one_of
from data_prep.datasets.layout import find_file

_TARGETS = {"retrieval": ("caption", "text"), "classification": ("label", "class")}
_TIMES = ("start", "end")


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
    one_of("task", task, ("auto", *_TARGETS))
    if prompt.count("{}") != 1 or set("{}") & set(prompt.replace("{}", "")):
        raise ValueError(f"prompt is {prompt!r}; it must have one {{}} and no other brace")
    file = find_file(root, [table], "table of clips")
    names = [name for pair in _TARGETS.values() for name in pair]
    rows = read_table(file, ["path"], optional=[*names, *_TIMES, "clip_id", "split"])
    task, column = _target(file, rows, task)
    rows = rows.assign(target=rows[column].str.strip())
    classes = list(dict.fromkeys(filter(None, rows["target"])))
    if split:
        rows = _of_split(file, rows, split)
    annotated = len(rows)
    rows = rows.assign(clip_id=_ids(rows))
    for name in _TIMES:
        if name in rows:
            rows[name] = _seconds(file, rows, name)
    if "split" in rows:
        rows["split"] = rows["split"].mask(rows["split"] == "")
    silent = rows["target"] == ""
    dropped = [(clip_id, f"it has no {column}", file.name) for clip_id in rows["clip_id"][silent]]
    rows = rows[~silent].reset_index(drop=True)
    there = {path: os.path.isfile(root / path) for path in rows["path"].unique()}

    classified = task == "classification"
    kept = ["clip_id", "path", *(name for name in (*_TIMES, "split") if name in rows), "target"]
    return data_set(
        "folder",
        root,
        rows[kept].rename(columns={"target": "label" if classified else "text"}),
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
                else {"captions": f"the column {column}"}
            ),
            "annotations": digests(file),
        },
    )


def _target(file: Path, rows: pd.DataFrame, task: str) -> tuple[str, str]:
    """The task, and the column that it is about."""
    there = {one: [name for name in names if name in rows] for one, names in _TARGETS.items()}
    possible = [one for one, names in there.items() if names and task in ("auto", one)]
    if not possible:
        wanted = [
            name for one, names in _TARGETS.items() if task in ("auto", one) for name in names
        ]
        raise ValueError(f"{file} has no column {' or '.join(wanted)}; add one")
    if len(possible) > 1:
        raise ValueError(
            f"{file} has {' and '.join(there[one][0] for one in possible)}; choose the task, "
            f"{' or '.join(possible)}"
        )
    names = there[possible[0]]
    if len(names) > 1:
        raise ValueError(f"{file} has {' and '.join(names)}, which mean the same; remove one")
    return possible[0], names[0]


def _of_split(file: Path, rows: pd.DataFrame, split: str) -> pd.DataFrame:
    there = dict.fromkeys(rows["split"]) if "split" in rows else {}
    if split not in there:
        found = f"it has {', '.join(map(repr, there))}" if there else "it has no such column"
        raise ValueError(f"{file} has no row with split {split!r}; {found}")
    return rows[rows["split"] == split].reset_index(drop=True)


def _ids(rows: pd.DataFrame) -> list[str]:
    if "clip_id" in rows:
        return rows["clip_id"].tolist()
    times = [rows[name].str.strip() for name in _TIMES if name in rows]
    ids = pd.Series(
        [
            f"{path}#{'-'.join(of_row)}" if any(of_row) else path
            for path, *of_row in zip(rows["path"], *times, strict=True)
        ]
    )
    before = ids.groupby(ids).cumcount()
    return ids.where(before == 0, ids + " (" + (before + 1).astype("str") + ")").tolist()


def _seconds(file: Path, rows: pd.DataFrame, name: str) -> list[float]:
    seconds = []
    for text, line in zip(rows[name].str.strip(), rows["line"], strict=True):
        try:
            value = float(text) if text else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value) or (text and math.isnan(value)):
            raise ValueError(
                f"{file}, line {line}: {name} {text!r} is no number of seconds, such as 12.5"
            )
        seconds.append(value)
    return seconds
