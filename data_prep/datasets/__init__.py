"""The paper's data sets as the user has them on disk, by name: a module each, which is all that a
further one needs. Its docstring, which `fitclip check-data` prints, says which files it wants and
what its options are. `OPTIONS` has each option's choices, the default first, or the default alone
where any text will do; `COUNTS` the official numbers; `load` makes a `DataSet`."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import Annotation

LOADERS = tuple(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if module.name not in ("base", "layout", "reader")
)


def load(loader: str, root: Path | str, **options: Any) -> DataSet:
    """Read a data set's official annotation and find its files; nothing is decoded.

    loader: one of `LOADERS`. root: the data set's own folder. options: the loader's, as texts.

    Raises: ValueError for an unknown loader, option or value, and for all that is wrong with the
    files.
    """
    module, known = _module(loader), options_of(loader)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"{loader} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    for name, value in options.items():
        choices = module.OPTIONS[name]
        if not isinstance(value, str):
            raise ValueError(
                f"{loader}'s option {name} is {value!r}; it must be a str, such as its default, "
                f"{known[name]!r}"
            )
        if isinstance(choices, tuple) and value not in choices:
            raise ValueError(f"{name} is {value!r}; there are {', '.join(choices)}")
    account = Annotation(loader, Path(root).expanduser(), module.COUNTS)
    data_set: DataSet = module.load(account, **(known | options))
    return data_set


def options_of(loader: str) -> dict[str, Any]:
    """A loader's options with their defaults. Raises: ValueError for an unknown loader."""
    options = _module(loader).OPTIONS.items()
    return {name: known[0] if isinstance(known, tuple) else known for name, known in options}


def documentation(loader: str) -> str:
    """What a loader's module says of its files. Raises: ValueError for an unknown loader."""
    return inspect.getdoc(_module(loader)) or ""


def _module(loader: str) -> ModuleType:
    if loader not in LOADERS:
        raise ValueError(f"there is no loader {loader!r}; there are {', '.join(LOADERS)}")
    return importlib.import_module(f"data_prep.datasets.{loader}")
