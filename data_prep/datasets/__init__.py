"""The paper's data sets as the user has them on disk, one module each, by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.datasets.base import DataSet

LOADERS = (
    "msrvtt",
    "didemo",
    "youcook2",
    "ucf101",
    "moments_in_time",
    "webvid",
    "cc3m",
    "coco",
    "folder",
)


def load(loader: str, root: Path | str, **options: Any) -> DataSet:
    """Read a data set's official annotation and find its files; nothing is decoded.

    loader: one of `LOADERS`; its module says which files it wants and what its options are.
    root: the data set's own folder.
    options: the loader's, such as `split` or `captions`.

    Raises: ValueError for an unknown loader or option, an option of another type than its default,
    and for all that is wrong with the files.
    """
    known = options_of(loader)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"{loader} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    for name, value in options.items():
        kind = type(known[name])
        if type(value) is not kind:
            raise ValueError(
                f"{loader}'s option {name} is {value!r}; it must be a {kind.__name__}, such as its "
                f"default, {known[name]!r}"
            )
    return _load_of(loader)(Path(root).expanduser(), **options)


def options_of(loader: str) -> dict[str, Any]:
    """A loader's options with their defaults.

    Raises: ValueError for an unknown loader.
    """
    parameters = list(inspect.signature(_load_of(loader)).parameters.values())
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def documentation(loader: str) -> str:
    """What a loader's module says of the files' source, layout and quirks.

    Raises: ValueError for an unknown loader.
    """
    _load_of(loader)
    module = importlib.import_module(f"data_prep.datasets.{loader}")
    return inspect.getdoc(module) or ""


def _load_of(loader: str) -> Callable[..., DataSet]:
    if loader not in LOADERS:
        raise ValueError(f"there is no loader {loader!r}; there are {', '.join(LOADERS)}")
    module = importlib.import_module(f"data_prep.datasets.{loader}")
    load_function: Callable[..., DataSet] = module.load
    return load_function
