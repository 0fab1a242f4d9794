"""What notebooks can be told and what a profile tells them, checked before anything runs.

A notebook declares its parameters in the one cell tagged `parameters`, one `name = literal  # help`
a line; the literal is the default and fixes the type. A profile is a YAML file with a section
`common` for every notebook that declares the name, and a section for each notebook's file stem.
"""

from __future__ import annotations

import ast
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitclip_kit.store.strict_yaml import read_yaml

COMMON = "common"
RUN_DIR = "run_dir"  # every notebook declares it; the runner sets it, a profile must not
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str"}
_LIST = "list of "
_SHOWN = reprlib.Repr()  # a few lines of YAML can stand for a value of any size
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlevel = 2


class ParameterError(ValueError):
    """What is wrong with a notebook's declared parameters or with a profile's values."""


def declared_parameters(source: str) -> dict[str, Any]:
    """The names and defaults that the source of a parameters cell declares, without running it.

    Raises: ParameterError naming the line that is not `name = literal`, or a repeated name.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"line {error.lineno} is not Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # half a letter; far too deep
        raise ParameterError(f"the cell is not Python: {_why(error)}") from error
    defaults: dict[str, Any] = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise ParameterError(f"line {statement.lineno} is not `name = literal`")
        target = statement.targets[0]
        if not isinstance(target, ast.Name):
            raise ParameterError(f"line {statement.lineno} does not assign to one plain name")
        if target.id in defaults:
            raise ParameterError(f"line {statement.lineno} declares {target.id!r} again")
        try:
            value = ast.literal_eval(statement.value)
            _type_of(value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise ParameterError(f"line {statement.lineno}, {target.id}: {_why(error)}") from error
        defaults[target.id] = value
    return defaults


def profile_file(notebooks_dir: Path, profile: str) -> Path:
    """The file of a profile; its name is also the run's folder, so it cannot be a path.

    Raises: ParameterError for what is no plain name.
    """
    if profile in ("", "..") or Path(profile).name != profile:
        raise ParameterError(
            f"profile {profile!r}: give a name, as of a file in notebooks/profiles"
        )
    return notebooks_dir / "profiles" / f"{profile}.yaml"


def read_profile(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a profile file: {"common" or notebook stem: {parameter: value}}.

    Raises: ParameterError when it is not there, is not YAML of that shape, or repeats a key.
    """
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"no profile {path.stem!r} in {path.parent}; there: {known}")
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ParameterError(str(error)) from error
    sections = {} if content is None else content
    if not isinstance(sections, dict):
        raise ParameterError(f"{path} must hold sections, found {type(sections).__name__}")
    for name, section in sections.items():
        if not isinstance(section, dict | None):
            raise ParameterError(f"{path}: section {name!r} must hold `parameter: value` lines")
    return {str(name): dict(section or {}) for name, section in sections.items()}


def merge_profile(
    sections: Mapping[str, Mapping[str, Any]], declared: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each notebook's parameters: its defaults, then `common`, then its own section.

    `declared` maps a notebook's stem to its defaults. `run_dir` is left out: the runner sets it.

    Raises: ParameterError listing every unknown section, unknown parameter and ill-typed value.
    """
    problems = [
        f"section {name!r}: there is no such notebook (there: {', '.join(declared)})"
        for name in sections
        if name != COMMON and name not in declared
    ]
    for name in sections.get(COMMON, {}):
        if not any(name in defaults for defaults in declared.values()):
            problems.append(f"{COMMON}: no notebook declares {name!r}")
    merged = {}
    for stem, defaults in declared.items():
        own = sections.get(stem, {})
        problems += [f"{stem}: unknown parameter {name!r}" for name in own if name not in defaults]
        shared = {k: v for k, v in sections.get(COMMON, {}).items() if k in defaults}
        values = dict(defaults)
        for name, value in {**shared, **own}.items():
            if name == RUN_DIR:
                problems.append(f"{stem}: {RUN_DIR} is set by the runner (--runs-dir), not here")
            elif name in defaults:
                try:
                    values[name] = _typed(_type_of(defaults[name]), value)
                except ValueError as error:
                    problems.append(f"{stem}: {name}: {error}")
        values.pop(RUN_DIR, None)
        merged[stem] = values
    if problems:
        raise ParameterError("\n".join(problems))
    return merged


def _type_of(default: Any) -> str:
    if isinstance(default, list):
        kinds = {_type_of(element) for element in default}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        if len(kinds) != 1:
            raise ValueError(
                f"{_SHOWN.repr(default)} does not show one type for the list's elements"
            )
        return _LIST + kinds.pop()
    if type(default) not in _SCALARS:
        raise ValueError(f"{_SHOWN.repr(default)} is no bool, int, float, str or list of those")
    if isinstance(default, float) and not math.isfinite(default):
        raise ValueError(f"{default!r} is no finite number")
    return _SCALARS[type(default)]


def _typed(kind: str, value: Any) -> Any:
    if kind.startswith(_LIST) and isinstance(value, list):
        return [_typed(kind.removeprefix(_LIST), element) for element in value]
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError as error:
            raise ValueError("wants a finite number, found a larger one") from error
    if _SCALARS.get(type(value)) != kind:
        raise ValueError(
            f"wants {kind}, found {_SHOWN.repr(value)} ({type(value).__name__}){_hint(kind, value)}"
        )
    if kind == "float" and not math.isfinite(value):
        raise ValueError(f"wants a finite number, found {value!r}")
    return value


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _hint(kind: str, value: Any) -> str:
    """YAML 1.1 reads `3e-6` as text; say so, because it looks like a number to everyone else."""
    if kind != "float" or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return "; YAML takes an exponent only after a decimal point, as in 3.0e-6"
