"""Checks that the loaders share: of options, of names that become paths, of JSON records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """An option's value, if it is one of those there are.

    Raises: ValueError that lists them.
    """
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}; there are {', '.join(allowed)}")
    return value


def of_form(value: str, form: re.Pattern[str], what: str, where: str) -> str:
    """A name from an annotation, if all of it has the form; names become paths.

    what: what it should be, such as "YouTube id". where: the file and the line or record.

    Raises: ValueError that shows the name.
    """
    if not form.fullmatch(value):
        raise ValueError(f"{where}: {value!r} is no {what}; take the original file")
    return value


def member(record: Any, key: str, kind: type, where: str) -> Any:
    """`record[key]` of a JSON object, if it is of its kind.

    kind: str, int, float (whole numbers too), list or dict; true and false are no numbers.

    Raises: ValueError when the record is no object, or the key is missing or of another kind.
    """
    value = typed(record, dict, where).get(key, ...)
    if value is ...:
        found = ", ".join(list(record)[:8]) or "nothing"
        raise ValueError(f"{where} has no {key!r}; it has {found}: take the original file")
    return typed(value, kind, f"{where}, {key!r}")


def typed(value: Any, kind: type, where: str) -> Any:
    """A JSON value, if it is of its kind; see `member`.

    Raises: ValueError that shows the value.
    """
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{where}: {_short(value)} is not {_KINDS[kind]}; take the original file")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
