"""Every Python snippet of the README runs as a file, from standard input and in a notebook.

Only the line that fetches a model is replaced, by the embedded teacher, and the videos are tiny.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from data_prep.mini_benchmark import TEACHER
from data_prep.mini_benchmark.build import FRAME_RATE, encode
from fitclip_kit.engine.execute import OwnInterpreter

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
assert len(SNIPPETS) == README.count("```python") > 0
TABLE = re.search(r"^    (clip_id,.*?)\n\n", README, re.DOTALL | re.MULTILINE)
FETCHED = re.compile(r"ClipEncoder\.from_open_clip\(.*?\)")


def program(snippet: str) -> str:
    """The snippet with the embedded teacher for what it would fetch, and a last word."""
    replaced, fetches = FETCHED.subn(f"ClipEncoder.from_folder({str(TEACHER)!r})", snippet)
    assert fetches <= 1
    return replaced + "print('reached its end')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the README tells to write: a table, and its videos beside it."""
    assert TABLE is not None
    lines = [line.strip() for line in TABLE[1].splitlines()]
    (tmp_path / "my_clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, line in enumerate(lines[1:]):
        path = tmp_path / "my_videos" / line.split(",")[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.full((8 * FRAME_RATE, 48, 64, 3), 60 + 90 * number, np.uint8)
        encode(path, frames, 30)
    return tmp_path


@pytest.mark.parametrize("way", ["file", "input"])
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_a_program(folder: Path, number: int, way: str) -> None:
    text = program(SNIPPETS[number])
    (folder / "snippet.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "snippet.py" if way == "file" else "-"],
        input=text if way == "input" else "",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_in_a_notebook(folder: Path, number: int) -> None:
    cell = nbformat.v4.new_code_cell(program(SNIPPETS[number]))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    resources = {"metadata": {"path": str(folder)}}
    options: dict[str, Any] = {"kernel_manager_class": OwnInterpreter, "timeout": 600}
    NotebookClient(notebook, resources=resources, **options).execute()
    outputs = notebook.cells[0].outputs
    check("".join(output.text for output in outputs if output.get("name") == "stdout"))


def check(printed: str) -> None:
    """No clip failed, both videos rank among the first five, and the program ran once."""
    assert printed.count("reached its end") == 1
    assert "Empty DataFrame" in printed
    assert "R@5: 1.0" in printed
