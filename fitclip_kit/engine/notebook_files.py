"""The numbered notebooks of a folder, read and checked without executing them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitclip_kit.engine.parameters import RUN_DIR, ParameterError, declared_parameters
from fitclip_kit.store.files import json_digest

TAG = "parameters"


@dataclass(frozen=True)
class Notebook:
    """A notebook as it stands on disk: file stem, nbformat 4 JSON and its declared defaults."""

    stem: str
    content: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the cells' types, sources and tags: outputs and other metadata are noise."""
        return json_digest(
            [
                [cell["cell_type"], cell_source(cell), sorted(cell_tags(cell))]
                for cell in self.content["cells"]
            ]
        )


def cell_source(cell: dict[str, Any]) -> str:
    """A cell's source as one string (on disk it may be a list of lines)."""
    return "".join(cell["source"])


def cell_tags(cell: dict[str, Any]) -> list[str]:
    """A cell's tags."""
    return list(cell.get("metadata", {}).get("tags", []))


def read_notebook(path: Path) -> Notebook:
    """Read one notebook and its parameters cell.

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
    if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
        raise ParameterError(
            f"{path.name} has {len(tagged)} cells tagged {TAG!r}; exactly one code cell is wanted"
        )
    try:
        defaults = declared_parameters(cell_source(tagged[0]))
    except ParameterError as error:
        raise ParameterError(f"{path.name}, parameters cell: {error}") from error
    if not isinstance(defaults.get(RUN_DIR), str):
        raise ParameterError(f"{path.name}, parameters cell: no text parameter {RUN_DIR!r}")
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
