"""Annotations and tables read strictly: what is broken is said with file, place and remedy.

Public copies of annotations are often not what their name says: a git-LFS pointer, a web page, a
table saved again with another separator; tables of one's own come from spreadsheets.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from data_prep.stand_ins import START, stand_in
from fitclip_kit.store.files import file_sha256

_SEPARATORS = (",", ";", "\t")
_BLOCK = 100_000  # rows turned into a frame at a time, so that a large table takes little memory


def read_text(file: Path) -> str:
    """A file's text: UTF-8, a byte-order mark taken off, line ends as `\\n`.

    Raises: ValueError when the file is missing, empty, damaged, not UTF-8, or something else than
    its name says (a git-LFS pointer, a web page, an archive).
    """
    with _text_of(file) as stream:
        return "".join(_without_nul(file, stream))


def read_lines(file: Path) -> list[str]:
    """A file's lines without outer spaces, empty ones left out; errors as `read_text`."""
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


def read_json(file: Path) -> Any:
    """A JSON file's content.

    Raises: ValueError as `read_text`, when it is no whole JSON, or when an object has a key twice.
    """

    def record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique([key for key, _ in pairs], "the key", file)
        return dict(pairs)

    try:
        return json.loads(read_text(file), object_pairs_hook=record)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is no whole JSON (line {error.lineno}, column {error.colno}: {error.msg}); it "
            "is cut off or damaged: download it again"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deep for an annotation; it is damaged") from error


def read_table(
    file: Path, columns: Sequence[str], *, header: bool = True, optional: Sequence[str] = ()
) -> pd.DataFrame:
    """A table of texts in any column order, separated by comma, semicolon or tab; the names of the
    columns in any case. Rows with nothing in any field are left out.

    columns: the names wanted; with `header` False, the names of the columns in order.
    optional: names kept where the table has them.

    Returns: those columns as str, missing fields as "", and `line` (int64, 1-based, of the file,
    where the row starts).

    Raises: ValueError as `read_text`, and when a column is missing or there twice, a row has more
    or fewer fields than the header (or than `columns`), a quote is not closed, a column but the
    first holds something and has no name, or there is no row.
    """
    table = read_by_line(file, columns, header=header, optional=optional)
    return table.reset_index(drop=True).assign(line=table.index.to_numpy())


def read_by_line(
    file: Path,
    columns: Sequence[str],
    *,
    header: bool = True,
    optional: Sequence[str] | None = (),
    skip_blanks: bool = False,
) -> pd.DataFrame:
    """`read_table` with the lines as the index, which is named `line`.

    optional: None keeps every column that has a name, the further ones under theirs.
    skip_blanks: a quote after a separator and blanks opens a quoted field.
    """
    # A text's own line ends stay what they are.
    with _text_of(file, newline="") as stream:
        first = next((line for line in stream if line.strip()), "")
        stream.seek(0)
        separator = _separator(first, columns, header)
        rows = _rows(file, stream, separator, skip_blanks)
        names = [name.strip() for name in next(rows, (0, []))[1]] if header else list(columns)
        places = _places(file, names, columns, optional, separator)
        lines: list[int] = []
        blocks: list[pd.DataFrame] = []
        while block := list(islice(_checked(file, rows, names, separator), _BLOCK)):
            lines += [line for line, _ in block]
            picked = [[fields[place] for place in places.values()] for _, fields in block]
            blocks.append(pd.DataFrame(picked, columns=list(places), dtype="str"))
    if not blocks:
        raise ValueError(f"{file} has no row below its header; download it again, or add rows")
    table = pd.concat(blocks, ignore_index=True)
    return table.set_axis(pd.Index(lines, dtype="int64", name="line"))


def unique(values: Iterable[Hashable], what: str, file: Path) -> None:
    """Raises: ValueError for a repeated key, naming the first one and how often it is there."""
    series = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype="object")
    repeated = series[series.duplicated()].tolist()
    if repeated:
        count = sum(value == repeated[0] for value in series)
        raise ValueError(
            f"{file}: {what} {repeated[0]!r} is there {count} times; each must be there once: take "
            "the original file"
        )


def digests(*files: Path) -> dict[str, str]:
    """File name -> SHA-256, for a protocol."""
    return {file.name: file_sha256(file) for file in files}


@contextmanager
def _text_of(file: Path, newline: str | None = None) -> Iterator[TextIO]:
    if not file.is_file():
        raise ValueError(
            f"{file} is not there; see the loader's documentation for where it belongs"
        )
    with file.open("rb") as binary:
        what = stand_in(binary.read(START))
    if what:
        raise ValueError(f"{file} is {what}")
    try:
        with file.open(encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}{_wrong_byte(file.read_bytes())}") from error


def _wrong_byte(content: bytes) -> str:
    """Which it is; a stream's own error counts from the start of its buffer."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len((content[: error.start] + b"x").splitlines())
        byte = content[error.start : error.start + 1]
        meant = byte.decode("cp1252", errors="ignore")
        maybe = f" (in Windows-1252 it is {meant!r})" if meant else ""
        what = f"byte {error.start} (0x{byte.hex()}) is not UTF-8 text; save it as UTF-8{maybe}"
        return f", line {line}: {what}, in a spreadsheet as 'CSV UTF-8', or take the original file"
    return " changed while it was read; read it again"


def _without_nul(file: Path, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            what = "it is damaged, or no UTF-8 text: download it again, or save it as UTF-8"
            raise ValueError(f"{file} holds NUL bytes; {what}")
        yield line


def _rows(
    file: Path, stream: TextIO, separator: str, skip_blanks: bool
) -> Iterator[tuple[int, list[str]]]:
    """(line where it starts, fields) of each row that has something in it."""
    lines = _without_nul(file, stream)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=skip_blanks)
    start = 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {start}: {error}; the file is cut off, or a quote is not closed"
        ) from error


def _checked(
    file: Path, rows: Iterable[tuple[int, list[str]]], names: Sequence[str], separator: str
) -> Iterator[tuple[int, list[str]]]:
    """The rows, each seen to have a field a name, and nothing where a name is missing."""
    unnamed = [place for place, name in enumerate(names) if place and not name]
    for line, fields in rows:
        if len(fields) != len(names):
            why = "the file is cut off there"
            if len(fields) > len(names):
                why = f"a text with {separator!r} in it needs quotes, and no row ends with one"
            raise ValueError(
                f"{file}, line {line}: {len(fields)} fields where {len(names)} belong "
                f"({', '.join(names)}); {why}, or its separator is not {separator!r}: mend the "
                "row, or take the original file"
            )
        if shifted := [fields[place] for place in unnamed if fields[place].strip()]:
            raise ValueError(
                f"{file}, line {line}: {_short(repr(shifted[0]))} is in a column without a name; "
                f"name it, or put a text with {separator!r} in it in quotes"
            )
        yield line, fields


def _separator(first: str, columns: Sequence[str], header: bool) -> str:
    """The separator that finds most of the columns' names in the header; without a header, that
    gives the first row the right number of fields."""

    def fit(separator: str) -> tuple[int, int]:
        cells = next(csv.reader([first], delimiter=separator), [])
        names = {cell.strip().casefold() for cell in cells}
        found = sum(name.casefold() in names for name in columns)
        return found if header else int(len(cells) == len(columns)), len(cells)

    return max(_SEPARATORS, key=fit)


def _places(
    file: Path,
    names: list[str],
    columns: Sequence[str],
    optional: Sequence[str] | None,
    separator: str,
) -> dict[str, int]:
    """Which of the wanted columns there are, and where."""
    folded = [name.casefold() for name in names]
    known = {name.casefold() for name in columns}
    if optional is None:
        optional = [name for name in names if name and name.casefold() not in known]
    wanted = [*columns, *(name for name in optional if name.casefold() in folded)]
    if absent := [name for name in columns if name.casefold() not in folded]:
        raise ValueError(
            f"{file} has no column {', '.join(absent)}; it has {_short(', '.join(names))} "
            f"(separator {separator!r}): take the original file, or name its columns so"
        )
    if twice := [name for name in wanted if folded.count(name.casefold()) > 1]:
        raise ValueError(f"{file} has the column {twice[0]} more than once; remove one")
    return {name: folded.index(name.casefold()) for name in wanted}


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
