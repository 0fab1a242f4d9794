"""The clips table: what every data set becomes, one row a clip and text."""

from __future__ import annotations

import math
import os
import re
from csv import QUOTE_MINIMAL, QUOTE_NONNUMERIC
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.annotations import read_by_line
from fitclip_core.clips import check_labels, video_numbers
from fitclip_kit.store.files import atomic_path

COLUMNS = ("clip_id", "path", "start", "end", "text", "label", "split")
_REQUIRED = ("clip_id", "path")
_TEXT_COLUMNS = ("path", "clip_id", "text", "label", "split")
_TIME_COLUMNS = ("start", "end")
_ALSO_CALLED = {"caption": "text", "class": "label"}
_AS_WRITTEN = b'"clip_id","path"'  # a header in quotes: every text is in quotes, blanks and all


def validate(clips: pd.DataFrame) -> pd.DataFrame:
    """A checked and typed copy of a clips table, with a fresh 0..n-1 index.

    Rows with equal `path`, `start` and `end` are one video (`fitclip_core.clips.video_numbers`),
    with several texts or one label.

    Columns: `clip_id` (unique), `path` (relative to the data set's root, with '/'), `start` and
    `end` (seconds; missing = the video's own), and where the data set has them `text` (caption or
    paragraph), `label` (class name) and `split`. Missing `start` and `end` columns are added as
    NaN; further columns are kept, after these.

    Raises: ValueError naming the column and the first wrong row, by its line too where the index is
    named `line`.
    """
    if absent := [name for name in _REQUIRED if name not in clips.columns]:
        raise ValueError(f"the clips table has no column {absent}; it has {list(clips.columns)}")
    if repeated := clips.columns[clips.columns.duplicated()].tolist():
        raise ValueError(f"the clips table has columns twice: {repeated}")
    table = clips if clips.index.name == "line" else clips.reset_index(drop=True)
    table = table.assign(**{name: np.nan for name in _TIME_COLUMNS if name not in table})
    for name in [name for name in _TEXT_COLUMNS if name in table]:
        present = table[name].notna().to_numpy(dtype=bool)
        wrong = present & ~table[name].map(_is_text).to_numpy(dtype=bool)
        _refuse(wrong, table, name, "is not a text with something in it")
        if name in _REQUIRED:
            _refuse(~present, table, name, "is missing")
        table[name] = table[name].astype("str")
    for name in _TIME_COLUMNS:
        try:
            table[name] = table[name].astype("float64")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is not in seconds: {error}") from error
        wrong = np.isinf(table[name]) | (table[name] < 0)
        _refuse(wrong, table, name, "must be finite and not negative")
    _refuse(table["clip_id"].duplicated(), table, "clip_id", "is used twice; it must be unique")
    _refuse(~table["path"].map(_is_inside), table, "path", "is not a path inside the root")
    late = table["end"] <= table["start"].fillna(0.0)
    _refuse(late, table, "end", "is not later than its start")
    if "label" in table:
        check_labels(table, video_numbers(table))
    known = [name for name in COLUMNS if name in table]
    further = [name for name in table.columns if name not in COLUMNS]
    return table[known + further].reset_index(drop=True)


def read_clips(csv: Path) -> pd.DataFrame:
    """Read a clips table from CSV, one's own or one that `write_clips` wrote, and validate it.

    UTF-8, separated by comma, semicolon or tab; columns in any order and case, `caption` for `text`
    and `class` for `label`. Without `clip_id` it is made of path, start and end. Blanks around
    values and rows with nothing in them are left out; empty fields are missing values; `None` or
    `NA` stay texts, as further columns do. What `write_clips` wrote is given back as it was.

    Raises: FileNotFoundError; ValueError naming the file, and the line where there is one, when it
    is no clips table or could be read in two ways.
    """
    csv = Path(csv)
    if not csv.exists():
        raise FileNotFoundError(f"there is no clips table {csv}")
    try:
        with csv.open("rb") as file:
            as_written = file.read(len(_AS_WRITTEN)) == _AS_WRITTEN
        table = _named(read_by_line(csv, ["path"], optional=None, skip_blanks=True))
        if not as_written:
            _refuse_swallowed_rows(table)
            table = table.apply(lambda column: column.str.strip())
        if "clip_id" not in table:
            table["clip_id"] = _ids(table)
        for name in _TIME_COLUMNS:
            if name in table:
                table[name] = _numbers(table[name])
        for name in set(_TEXT_COLUMNS) & set(table.columns) - set(_REQUIRED):
            table[name] = table[name].mask(table[name] == "")
        return validate(table)
    except ValueError as error:
        rest = str(error).removeprefix(str(csv))
        what = f"it{rest}" if rest.startswith(" ") else rest.removeprefix(", ")
        raise ValueError(f"{csv} is not a clips table: {what}") from error


def write_clips(csv: Path, clips: pd.DataFrame) -> None:
    """Validate a clips table and write it as CSV, atomically; equal tables give equal bytes.

    Raises: ValueError as `validate`.
    """
    table = validate(clips)
    # In quotes, and with them the header, where a reader would take blanks or line ends for its own
    texts = [table[name].dropna() for name in _TEXT_COLUMNS if name in table]
    quoted = any(
        "\r" in text or "\n" in text or text != text.strip() for column in texts for text in column
    )
    quoting: Any = QUOTE_NONNUMERIC if quoted else QUOTE_MINIMAL
    with atomic_path(Path(csv)) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", quoting=quoting)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The same columns under the clips table's names."""
    known = {name: name for name in COLUMNS} | _ALSO_CALLED
    names = [known.get(name.casefold(), name) for name in table.columns]
    for also, name in _ALSO_CALLED.items():
        if names.count(name) > 1:
            raise ValueError(f"it has {also} and {name}, which mean the same; remove one")
    return table.set_axis(names, axis="columns")


def _refuse_swallowed_rows(table: pd.DataFrame) -> None:
    """A quote that is opened by mistake takes in rows up to the next one: these hold a path."""
    for name in table.columns:
        broken = table[table[name].str.contains(r"[\r\n]", regex=True)]
        for line, text, path in zip(broken.index, broken[name], broken["path"], strict=True):
            suffix = os.path.splitext(path.strip())[1]
            cells = [
                cell.strip() for row in text.splitlines()[1:] for cell in re.split("[,;\t]", row)
            ]
            if suffix and any(cell.endswith(suffix) for cell in cells):
                raise ValueError(
                    f"line {line}: the quote that opens in {name} takes in the rows below; close "
                    "it, or double it where it belongs to the text"
                )


def _ids(table: pd.DataFrame) -> list[str]:
    """The path, with start and end where there are any, and a number where these were there."""
    times = [table[name] for name in _TIME_COLUMNS if name in table]
    ids = [
        f"{path}#{'-'.join(of_row)}" if any(of_row) else path
        for path, *of_row in zip(table["path"], *times, strict=True)
    ]
    before = pd.Series(ids).groupby(ids).cumcount()
    return [f"{name} ({n + 1})" if n else name for name, n in zip(ids, before, strict=True)]


def _numbers(column: pd.Series) -> list[float]:
    """Seconds from texts; NaN where there is none."""
    seconds = []
    for line, text in column.items():
        try:
            value = float(text) if text else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value) or (text and math.isnan(value)):
            raise ValueError(
                f"line {line}: {column.name} {text!r} is no number of seconds, such as 12.5"
            )
        seconds.append(value)
    return seconds


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


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
        line = f", the first in line {table.index[rows[0]]}" if table.index.name == "line" else ""
        raise ValueError(f"{column} {value!r} in row {rows[0]} {why} ({rows.size} such rows{line})")
