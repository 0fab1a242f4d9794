"""A folder with a few notebooks and a profile, for the runner to run as it runs the kit's own."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARAMETERS = "run_dir = '../runs/x'  # the run folder\nvalue = 0.5  # a number"
RESULT = """
import json, sys
from pathlib import Path
from fitclip_kit.store.files import write_manifest
folder = Path(run_dir) / "STEM"
folder.mkdir(parents=True, exist_ok=True)
(folder / "out.json").write_text(json.dumps([repr(value), Path.cwd().name, sys.executable]))
written = write_manifest(
    folder, kind="STEM", parameters={}, inputs={}, code="", outputs=[Path("out.json")]
)
"""
_MAIN = (
    "import sys; from pathlib import Path; from fitclip_kit.engine import run;"
    "run.PACKAGES = ('fitclip_kit.store',); sys.exit(run.main(sys.argv[1:], Path('notebooks')))"
)
COMMAND = [sys.executable, "-c", _MAIN, "--profile", "tiny"]  # in the project's folder
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def make_project(project: Path, profile: str = "common: {value: 1}\n") -> Path:
    (project / "notebooks" / "profiles").mkdir(parents=True)
    (project / "notebooks" / "profiles" / "tiny.yaml").write_text(profile)
    (project / "requirements.lock").write_text("a==1\n")
    return project


def write_notebook(project: Path, stem: str, *cells: str, parameters: str = PARAMETERS) -> None:
    """`STEM` in a cell stands for the notebook's name."""

    def code(source: str, tags: list[str]) -> dict:
        return {
            "cell_type": "code",
            "id": f"c{abs(hash((source, *tags))) % 10**8}",
            "metadata": {"tags": tags},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }

    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}},
        "cells": [
            {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# Title"},
            code(parameters, ["parameters"]),
            *(code(cell.replace("STEM", stem), []) for cell in cells),
        ],
    }
    (project / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(content))
