"""Values of annotations, checked one by one: names that become paths, records of JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.annotations import read_json

_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def of_form(value: str, form: re.Pattern[str], what: str, where: str) -> re.Match[str]:
    """The match of a text from an annotation, if all of it has the form; names become paths.

    what: what it should be, such as "YouTube id". where: the file and the line or record.

    Raises: ValueError that shows the text.
    """
    if match := form.fullmatch(value):
        return match
    raise ValueError(f"{where}: {value!r} is no {what}; take the original file")


def require_form(
    names: Iterable[str], lines: Iterable[int], form: re.Pattern[str], what: str, file: Path
) -> None:
    """Refuse a column that holds a name of another form, as `of_form`, with its line."""
    for name, line in zip(names, lines, strict=True):
        if not form.fullmatch(name):
            of_form(name, form, what, f"{file}, line {line}")


def read_object(file: Path) -> dict[str, Any]:
    """`read_json` of a file whose content must be an object."""
    content: dict[str, Any] = typed(read_json(file), dict, str(file))
    return content


def records(content: list[Any], where: str, **kinds: type) -> Iterator[tuple[Any, ...]]:
    """For each record of a JSON list: where it is, and a `member` for each key and kind."""
    for number, record in enumerate(content):
        place = f"{where}[{number}]"
        yield place, *(member(record, key, kind, place) for key, kind in kinds.items())


def member(record: Any, key: str, kind: type, where: str) -> Any:
    """`record[key]` of a JSON object, if it is of its kind; see `typed`.

    Raises: ValueError when the record is no object, or the key is missing or of another kind.
    """
    value = typed(record, dict, where).get(key, ...)
    if value is ...:
        keys = ", ".join(list(record)[:8]) or "nothing"
        raise ValueError(f"{where} has no {key!r}; it has {keys}: take the original file")
    return typed(value, kind, f"{where}, {key!r}")


def typed(value: Any, kind: type, where: str) -> Any:
    """A JSON value, if it is of its kind.

    kind: str, int, float (whole numbers too), list or dict; true and false are no numbers.

    Raises: ValueError that shows the value.
    """
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{where}: {shown} is not {_KINDS[kind]}; take the original file")
    return value
