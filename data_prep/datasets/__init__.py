"""The paper's data sets as the user has them on disk, by name: a module each, which is all that a
further one needs. Its docstring says which files it wants and what its options are; its `load`
takes the root, and options by keyword with a default each."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from data_prep.datasets.base import DataSet

LOADERS = tuple(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if module.name not in ("base", "layout", "records")
)


def load(loader: str, root: Path | str, **options: Any) -> DataSet:
    """Read a data set's official annotation and find its files; nothing is decoded.

    loader: one of `LOADERS`; its module says which files it wants and what its options are.
    root: the data set's own folder.
    options: the loader's, such as `split` or `captions`.

    Raises: ValueError for an unknown loader or option, an option of another type than its default
    or another value than there are, and for all that is wrong with the files.
    """
    known = options_of(loader)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"{loader} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    load_function = _module(loader).load
    hints = get_type_hints(load_function)
    for name, value in options.items():
        kind = type(known[name])
        if type(value) is not kind:
            raise ValueError(
                f"{loader}'s option {name} is {value!r}; it must be a {kind.__name__}, such as its "
                f"default, {known[name]!r}"
            )
        allowed = get_args(hints[name])
        if allowed and value not in allowed:
            raise ValueError(f"{name} is {value!r}; there are {', '.join(allowed)}")
    data_set: DataSet = load_function(Path(root).expanduser(), **options)
    return data_set


def options_of(loader: str) -> dict[str, Any]:
    """A loader's options with their defaults.

    Raises: ValueError for an unknown loader.
    """
    parameters = inspect.signature(_module(loader).load).parameters.values()
    return {option.name: option.default for option in parameters if option.name != "root"}


def documentation(loader: str) -> str:
    """What a loader's module says of the files' source, layout and quirks.

    Raises: ValueError for an unknown loader.
    """
    return inspect.getdoc(_module(loader)) or ""


def _module(loader: str) -> ModuleType:
    if loader not in LOADERS:
        raise ValueError(f"there is no loader {loader!r}; there are {', '.join(LOADERS)}")
    return importlib.import_module(f"data_prep.datasets.{loader}")
