"""Which code a result depends on: a digest of modules and of all that they import of the kit."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

KIT = frozenset({"fitclip_core", "fitclip_kit", "data_prep", "figures"})


def code_digest(*names: str) -> str:
    """SHA-256 of modules' syntax trees and of those of all that they import of the kit.

    Comments, blank lines and docstrings play no part, so that a mended text remeasures nothing. A
    package stands for all modules in it; imports in functions count too. Nothing is imported but
    the parents of a dotted name. Another minor version of Python may count as other code.

    Raises: ValueError when no name is given or a name has no Python source.
    """
    if not names:
        raise ValueError("code_digest needs at least one package or module name")
    waiting, sources = list(names), dict[str, str]()
    while waiting:
        for module, path in _modules(waiting.pop()):
            if module not in sources:
                sources[module], imported = _read(path, path.stat().st_mtime_ns)
                waiting += imported
    lines = [f"{module}\0{source}\n" for module, source in sorted(sources.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def code_commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the checkout that holds this code, with "-dirty" if it was changed since;
    "unknown" where there is no git or no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _modules(name: str) -> Iterator[tuple[str, Path]]:
    """The module of that name with its source; of a package all modules in it."""
    path = _source(name)
    if path is None:
        raise ValueError(f"no module or package named {name!r} with a Python source")
    yield name, path
    if path.name == "__init__.py":
        for inner in path.parent.rglob("*.py"):
            parts = inner.relative_to(path.parent).with_suffix("").parts
            if parts[-1] != "__init__":
                yield ".".join((name, *parts)), inner


def _source(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


@cache
def _read(path: Path, _changed: int) -> tuple[str, tuple[str, ...]]:
    """A digest of a module's tree without docstrings, and the kit's modules that it imports."""
    tree = ast.parse(path.read_bytes())
    imported: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported += [alias.name for alias in names if _of_kit(alias.name)]
            case ast.ImportFrom(module=str(module), names=names) if _of_kit(module):
                inner = [f"{module}.{alias.name}" for alias in names]
                imported += [name if _source(name) else module for name in inner]
            case ast.Module() | ast.ClassDef() | ast.FunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imported)


def _of_kit(name: str) -> bool:
    return name.split(".")[0] in KIT
