"""What a user tells the kit, in notebooks' parameters cells and in YAML, checked before any run.

A notebook declares its parameters in the one cell tagged `parameters`, one `name = literal  # help`
a line; the literal is the default and fixes the type. A profile is a YAML file with a section
`common` for every notebook that declares the name, and a section for each notebook's file stem.
"""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
)

from fitclip_kit.store.files import json_digest

COMMON: Final = "common"
RUN_DIR: Final = "run_dir"  # every notebook declares it; the runner sets it, a profile must not
TAG: Final = "parameters"
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
_MERGE: Final = "tag:yaml.org,2002:merge"  # of YAML's key <<, which may stand twice
_EXPONENT = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)  # YAML 1.1 reads 3e-6 as text
_SHOWN = reprlib.Repr()  # a few lines of YAML can stand for a value of any size
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlevel = 2


class ParameterError(ValueError):
    """What is wrong with a notebook's declared parameters or with a profile's values."""


@dataclass(frozen=True)
class Notebook:
    """A notebook as it stands on disk: nbformat 4 JSON and its declared defaults."""

    stem: str
    content: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the cells' types, sources and tags: outputs and other metadata are noise."""
        cells = self.content["cells"]
        return json_digest([[c["cell_type"], cell_source(c), sorted(cell_tags(c))] for c in cells])


class ClusterSettings(BaseModel):
    """Where tasks are done and what each attempt may use; empty or 0 is the cluster's default."""

    model_config = _STRICT

    # This process, one after the other; processes of this machine; jobs that `sbatch` submits.
    executor: Literal["inline", "local", "slurm"] = "inline"
    parallel: NonNegativeInt = 0  # tasks at once; 0: as many as there are cores, on SLURM 256
    retries: NonNegativeInt = 1  # how often a task that failed is tried again
    minutes: PositiveInt = 240
    cpus: PositiveInt = 1
    gpus: NonNegativeInt = 0  # 0 hides them from local processes
    memory_gb: NonNegativeFloat = 0.0  # of a SLURM job
    partition: str = ""
    slurm: dict[str, Any] = {}  # submitit's SlurmExecutor's: account, qos, setup (shell lines)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, None for an empty one.

    Raises: ValueError when it cannot be read, is not YAML of plain values, or repeats a key, which
    YAML's own loader would take for a correction of the first.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except Exception as error:  # of a value that is none of its tag, PyYAML raises anything
        raise ValueError(f"{path} is not readable YAML: {_why(error)}") from error


def read_cluster(file: Path | None, **changes: Any) -> ClusterSettings:
    """A cluster's settings from a YAML file of `name: value` lines; changes win over the file's.

    Raises: ValueError for a file that is missing or no such YAML, an unknown name, or a bad value.
    """
    content = (read_yaml(file) if file else None) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold `name: value` lines")
    try:
        return ClusterSettings.model_validate({**content, **changes})
    except ValidationError as error:
        known = ", ".join(ClusterSettings.model_fields)
        raise ValueError("\n".join([*in_words(error), f"The settings are {known}."])) from error


def declared_parameters(source: str) -> dict[str, Any]:
    """The names and defaults that the source of a parameters cell declares, without running it.

    Raises: ParameterError naming the line that is not `name = literal`, or a repeated name.
    """
    defaults: dict[str, Any] = {}
    where = "the cell is not Python"
    try:
        for statement in ast.parse(source).body:
            where = f"line {statement.lineno}"
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=literal) if name not in defaults:
                    where += f", {name}"
                    defaults[name] = ast.literal_eval(literal)
                    _type_of(defaults[name])
                case _:
                    raise ValueError("this is not `name = literal` of a name that is new")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ParameterError(f"{where}: {_why(error)}") from error
    return defaults


def cell_source(cell: Mapping[str, Any]) -> str:
    """A cell's source as one string (on disk it may be a list of lines)."""
    return "".join(cell["source"])


def cell_tags(cell: Mapping[str, Any]) -> list[str]:
    """A cell's tags."""
    return list(cell.get("metadata", {}).get("tags", []))


def read_notebook(path: Path) -> Notebook:
    """Read one notebook and its parameters cell, without executing it.

    Raises: ParameterError when it is no nbformat 4 file, does not have exactly one code cell tagged
    `parameters`, or that cell declares no text `run_dir` or anything but `name = literal`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["nbformat"] != 4:
            raise ValueError(f"nbformat is {content['nbformat']}, 4 is wanted")
        tagged = [cell for cell in content["cells"] if TAG in cell_tags(cell)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{path.name} is not a readable notebook: {error}") from error
    if [cell["cell_type"] for cell in tagged] != ["code"]:
        raise ParameterError(
            f"{path.name} has {len(tagged)} cells tagged {TAG!r}; exactly one code cell is wanted"
        )
    try:
        defaults = declared_parameters(cell_source(tagged[0]))
        if not isinstance(defaults.get(RUN_DIR), str):
            raise ParameterError(f"no text parameter {RUN_DIR!r}")
    except ParameterError as error:
        raise ParameterError(f"{path.name}, parameters cell: {error}") from error
    return Notebook(path.stem, content, defaults)


def read_notebooks(folder: Path) -> list[Notebook]:
    """The notebooks named like `01_data_prep.ipynb`, in order.

    Raises: ParameterError listing what is wrong with any of them, or when there is none.
    """
    notebooks, problems = [], []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        try:
            notebooks.append(read_notebook(path))
        except ParameterError as error:
            problems.append(str(error))
    if not notebooks and not problems:
        problems.append(f"no notebooks named like 01_data_prep.ipynb in {folder}")
    if problems:
        raise ParameterError("\n".join(problems))
    return notebooks


def profile_file(notebooks_dir: Path, profile: str) -> Path:
    """The file of a profile; ParameterError for a path, as its name is also the run's folder."""
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
        sections = read_yaml(path) or {}
    except ValueError as error:
        raise ParameterError(str(error)) from error
    if not isinstance(sections, dict):
        raise ParameterError(f"{path} must hold sections, found {type(sections).__name__}")
    for name, section in sections.items():
        if not isinstance(section, dict | None):
            raise ParameterError(f"{path}: section {name!r} must hold `parameter: value` lines")
    return {str(name): dict(section or {}) for name, section in sections.items()}


def merge_profile(
    sections: Mapping[str, Mapping[str, Any]], declared: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each notebook's parameters but `run_dir`: its defaults, then `common`, then its own section.

    `declared` maps a notebook's stem to its defaults.

    Raises: ParameterError listing every unknown section, unknown parameter and ill-typed value.
    """
    problems = [
        f"section {name!r}: there is no such notebook (there: {', '.join(declared)})"
        for name in sections
        if name != COMMON and name not in declared
    ]
    common = sections.get(COMMON, {})
    known = {name for defaults in declared.values() for name in defaults}
    problems += [f"{COMMON}: no notebook declares {name!r}" for name in common if name not in known]
    merged = {}
    for stem, defaults in declared.items():
        given = {name: value for name, value in common.items() if name in defaults}
        given |= sections.get(stem, {})
        if given.pop(RUN_DIR, None) is not None:
            problems.append(f"{stem}: {RUN_DIR} is set by the runner (--runs-dir), not here")
        own = {name: value for name, value in defaults.items() if name != RUN_DIR}
        try:
            merged[stem] = {**own, **typed(own, given)}
        except ValueError as error:
            problems += [f"{stem}: {problem}" for problem in str(error).splitlines()]
    if problems:
        raise ParameterError("\n".join(problems))
    return merged


def typed(
    defaults: Mapping[str, Any], given: Mapping[str, Any], *, strict: bool = True
) -> dict[str, Any]:
    """Given settings as values of their defaults' types; not strict: text may say a number.

    Raises: ValueError with a line for each that is unknown or of another type.
    """
    fields: dict[str, Any] = {name: (_type_of(value), value) for name, value in defaults.items()}
    model = create_model("Settings", __config__=_STRICT | ConfigDict(strict=strict), **fields)
    try:
        return model.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError("\n".join(in_words(error))) from error


def in_words(error: ValidationError) -> Iterator[str]:
    """What is wrong with each setting, in a few words however large its value is."""
    for wrong in error.errors(include_url=False):
        name, value = ".".join(map(str, wrong["loc"])), wrong["input"]
        if wrong["type"] == "extra_forbidden":
            yield f"unknown: {name!r}"
            continue
        try:
            found = f"{_SHOWN.repr(value)} ({type(value).__name__})"
        except ValueError:
            found = "a number of thousands of digits"
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            found += "; YAML takes an exponent only after a decimal point, as in 3.0e-6"
        yield f"{name}: {wrong['msg'].replace('Input should be', 'wants')}, found {found}"


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if key.tag != _MERGE]
        names = [self.construct_object(key, deep=True) for key in keys]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(f"key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _type_of(default: Any) -> Any:
    """The type that a default stands for, such as float or list[int]."""
    if isinstance(default, list):
        kinds = {_type_of(element) for element in default}
        kinds = {float} if kinds == {int, float} else kinds
        if len(kinds) != 1:
            raise ValueError(f"{_SHOWN.repr(default)} does not show one type for its elements")
        return list[kinds.pop()]  # type: ignore[misc]
    if type(default) not in (bool, int, float, str):
        raise ValueError(f"{_SHOWN.repr(default)} is no bool, int, float, str or list of those")
    if isinstance(default, float) and not math.isfinite(default):
        raise ValueError(f"{default!r} is no finite number")
    return type(default)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
