"""The clips table: what every data set becomes, one row a clip and text."""

from __future__ import annotations

from csv import QUOTE_MINIMAL, QUOTE_NONNUMERIC
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitclip_core.artefacts import atomic_path

COLUMNS = ("clip_id", "path", "start", "end", "text", "label", "split")
REQUIRED = ("clip_id", "path")
_TEXT_COLUMNS = ("clip_id", "path", "text", "label", "split")
_TIME_COLUMNS = ("start", "end")


def validate(clips: pd.DataFrame) -> pd.DataFrame:
    """A checked and typed copy of a clips table, with a fresh 0..n-1 index.

    Rows with equal `path`, `start` and `end` are one video (`fitclip_core.videos`).

    Columns: `clip_id` (unique), `path` (relative to the data set's root, with '/'), `start` and
    `end` (seconds; missing = the video's own), and where the data set has them `text` (caption or
    paragraph), `label` (class name) and `split`. Missing `start` and `end` columns are added as
    NaN; further columns are kept, after these.

    Raises: ValueError naming the column and the first wrong row.
    """
    absent = [name for name in REQUIRED if name not in clips.columns]
    if absent:
        raise ValueError(f"the clips table has no column {absent}; it has {list(clips.columns)}")
    repeated = clips.columns[clips.columns.duplicated()].tolist()
    if repeated:
        raise ValueError(f"the clips table has columns twice: {repeated}")
    table = clips.reset_index(drop=True)
    table = table.assign(**{name: np.nan for name in _TIME_COLUMNS if name not in table})
    for name in _TEXT_COLUMNS:
        if name in table:
            table[name] = _text(table[name], required=name in REQUIRED)
    for name in _TIME_COLUMNS:
        table[name] = _seconds(table[name])
    _refuse(table["clip_id"].duplicated(), table, "clip_id", "is used twice; it must be unique")
    _refuse(~table["path"].map(_is_inside), table, "path", "is not a path inside the root")
    late = table["end"] <= table["start"].fillna(0.0)
    _refuse(late, table, "end", "is not later than its start")
    known = [name for name in COLUMNS if name in table]
    return table[known + [name for name in table.columns if name not in COLUMNS]]


def read_clips(csv: Path) -> pd.DataFrame:
    """Read a clips table from CSV and validate it. Empty fields are missing values; texts such as
    `None` or `NA` stay texts.

    Raises: ValueError naming the file when it is no clips table; FileNotFoundError.
    """
    try:
        table = pd.read_csv(
            csv,
            dtype=dict.fromkeys(_TEXT_COLUMNS, "str"),
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8",
        )
        return validate(table)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{csv} is not a clips table: {error}") from error


def write_clips(csv: Path, clips: pd.DataFrame) -> None:
    """Validate a clips table and write it as CSV, atomically; equal tables give equal bytes.

    Raises: ValueError as `validate`.
    """
    table = validate(clips)
    # pandas leaves a text with a lone carriage return bare, and then takes it for the row's end.
    texts = [table[name].dropna() for name in _TEXT_COLUMNS if name in table]
    bare = any("\r" in text for column in texts for text in column)
    with atomic_path(Path(csv)) as temporary:
        table.to_csv(
            temporary,
            index=False,
            lineterminator="\n",
            encoding="utf-8",
            quoting=QUOTE_NONNUMERIC if bare else QUOTE_MINIMAL,
        )


def _text(column: pd.Series, *, required: bool) -> pd.Series:
    present = column.notna().to_numpy(dtype=bool)
    good = [isinstance(value, str) and bool(value.strip()) for value in column]
    wrong = present & ~np.array(good, dtype=bool)
    frame = column.to_frame()
    _refuse(wrong, frame, str(column.name), "is not a text with something in it")
    if required:
        _refuse(~present, frame, str(column.name), "is missing")
    return column.astype("str")


def _seconds(column: pd.Series) -> pd.Series:
    try:
        seconds = column.astype("float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column.name} is not in seconds: {error}") from error
    wrong = np.isinf(seconds) | (seconds < 0)
    _refuse(wrong, seconds.to_frame(), str(column.name), "must be finite and not negative")
    return seconds


def _is_inside(path: str) -> bool:
    # A table made on one system is read on another, so Windows' absolute paths are refused too.
    # Plain string tests: path objects take minutes for the millions of rows of WebVid.
    if path.startswith("/") or path[1:2] == ":" or "\\" in path or "\0" in path:
        return False
    return ".." not in path.split("/")


def _refuse(wrong: Any, table: pd.DataFrame, column: str, why: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if rows.size:
        value = table[column].tolist()[rows[0]]
        raise ValueError(f"{column} {value!r} in row {rows[0]} {why} ({rows.size} such rows)")
