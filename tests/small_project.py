"""A folder with a few notebooks and a profile, for the runner to run as it runs the kit's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from fitclip_kit.engine import cli, run

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
    "import sys; from pathlib import Path; from fitclip_kit.engine import cli, run;"
    "run.PACKAGES = ('fitclip_kit.store',); run.NOTEBOOKS = Path('notebooks');"
    "sys.exit(cli.main(sys.argv[1:]))"
)
COMMAND = [sys.executable, "-c", _MAIN, "run", "--profile", "tiny"]  # in the project's folder
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def fitclip(notebooks: Path, *arguments: str) -> int:
    """Run the command `fitclip` on a folder of notebooks; its exit status."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with mock.patch.object(run, "NOTEBOOKS", notebooks):
            return cli.main(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


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


def interruptible(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """A process that SIGINT ends, also where the tests run in the background, which ignores it."""
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stderr=pipe, text=True, preexec_fn=heed, **options)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
