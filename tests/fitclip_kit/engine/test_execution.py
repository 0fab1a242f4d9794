"""Kernels of executed notebooks know nothing of the user's own settings."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fitclip_kit.engine.execution import _OwnInterpreter

CELLS = [
    """import pandas as pd
pd.DataFrame({"a number": [1 / 3, 1e9], "text": ["x" * 70, "y"]})""",
    """import numpy as np
print(np.array([1 / 3, 2 / 3]), "started" in globals(), np.get_printoptions()["precision"])""",
    """from figures import style
figure, (ax,) = style.new_figure(1, 2.0)
with style.theme():
    ax.plot([0, 1], [0, 1])
figure""",
    """import matplotlib.pyplot as plt
lines = plt.plot([0, 1])""",
]
USERS = """
started = True
import numpy, pandas
pandas.set_option("display.precision", 1, "display.max_colwidth", 5)
numpy.set_printoptions(precision=2)
"""


def outputs(folder: Path) -> list[Any]:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, resources=resources, kernel_manager_class=_OwnInterpreter, timeout=300
    ).execute()
    return [[dict(output) for output in cell.outputs] for cell in notebook.cells]


def test_a_users_settings_change_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outputs(tmp_path)
    assert "image/png" in expected[2][0]["data"] and "image/png" in expected[3][0]["data"]
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text(USERS)
    config = (
        "c.InlineBackend.figure_formats = ['svg']\nc.InteractiveShellApp.exec_lines = ['1 / 0']\n"
    )
    (startup.parent / "ipython_config.py").write_text(f"c = get_config()\n{config}")
    (tmp_path / "mine.py").write_text(USERS)
    (tmp_path / "mpl").mkdir()
    (tmp_path / "mpl" / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 30\n")
    users = {
        "IPYTHONDIR": "ipython",
        "PYTHONSTARTUP": "mine.py",
        "MPLCONFIGDIR": "mpl",
    }
    for name, value in users.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("LC_ALL", "C")
    assert outputs(tmp_path) == expected


def test_a_terminal_without_the_letters_is_no_error() -> None:
    program = (
        "from fitclip_kit.engine.command_line import profile_parser\n"
        "profile_parser('x', None)\nprint('α')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "\\u03b1\n"), done.stderr
