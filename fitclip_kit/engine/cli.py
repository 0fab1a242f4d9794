"""The command line: `fitclip check-data NAME --root DIR` says what a data set's files are good for.

Exit status: 0 fine; 1 too many files are missing or nothing decodes; 2 wrong use, or something is
wrong with the annotation; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.check import check, printable, report
from data_prep.datasets import LOADERS, documentation, options_of

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a caption's letters
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return _check_data(given)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {given.command}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def typed_options(loader: str, given: Sequence[str]) -> dict[str, Any]:
    """Options from `key=value` texts, each of the type of the loader's default.

    Raises: ValueError for a text without "=", an unknown or repeated option, or a value that is no
    whole number or no true or false where one belongs.
    """
    defaults = options_of(loader)
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"option {text!r} is not key=value")
        if name not in defaults:
            known = ", ".join(f"{key}={default}" for key, default in defaults.items())
            raise ValueError(f"{loader} has no option {name!r}; it has {known or 'none'}")
        if name in options:
            raise ValueError(f"option {name!r} is given twice")
        options[name] = _typed(name, value, defaults[name])
    return options


def _check_data(given: argparse.Namespace) -> int:
    options = typed_options(given.loader, given.option)
    if given.root is None:
        _print_documentation(given.loader)
        return 0
    found = check(
        given.loader, given.root, options, max_missing=given.max_missing, decode=given.decode
    )
    print(report(found))
    return 1 if found.problems else 0


def _print_documentation(loader: str) -> None:
    print(documentation(loader))
    print("\nOptions (-o) and their defaults:")
    for name, default in options_of(loader).items():
        print(f"  {name}={default}")
    print(f"\nCheck a copy of it: fitclip check-data {loader} --root DIR")


def _typed(name: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in _TRUE + _FALSE:
            raise ValueError(f"{name} is {value!r}; give true or false")
        return value.lower() in _TRUE
    if isinstance(default, int):
        try:
            return int(value)
        except ValueError as error:
            raise ValueError(f"{name} is {value!r}; give a whole number") from error
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fitclip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser(
        "check-data",
        help="say what a data set's files are good for",
        description=(
            "Read a data set's annotation, look for its files, decode a few, and say what a run "
            "would do. Without --root, print where the files come from and how they must lie."
        ),
        epilog="loaders:\n" + "\n".join(f"  {name:<18}{_title(name)}" for name in LOADERS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("loader", metavar="NAME", choices=LOADERS, help="a loader, see below")
    one.add_argument("--root", type=Path, metavar="DIR", help="the data set's own folder")
    one.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the loader; may be repeated",
    )
    one.add_argument(
        "--max-missing",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="clips without a file that are accepted, in [0, 1] (default: 0.05)",
    )
    one.add_argument(
        "--decode", type=int, default=3, metavar="N", help="clips to decode (default: 3)"
    )
    return parser


def _title(loader: str) -> str:
    return documentation(loader).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
