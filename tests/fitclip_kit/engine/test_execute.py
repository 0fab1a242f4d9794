"""Kernels know nothing of the user's own settings; the progress line says what is left."""

import io
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tqdm import tqdm

from fitclip_kit.engine import run
from fitclip_kit.engine.execute import OwnInterpreter, ProgressLine
from tests.small_project import RESULT, fitclip, make_project, write_notebook

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
        notebook, resources=resources, kernel_manager_class=OwnInterpreter, timeout=300
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
    users = {"IPYTHONDIR": "ipython", "PYTHONSTARTUP": "mine.py", "MPLCONFIGDIR": "mpl"}
    for name, value in users.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("LC_ALL", "C")
    assert outputs(tmp_path) == expected


# The progress line


def shown(expected: float | None, written: str, new_cell: bool = False) -> str:
    """What the line says of the time left, when a cell has written this."""
    stream = io.StringIO()
    line = ProgressLine("x", 2, expected, stream)
    line.write(written)
    if new_cell:
        line.cell_started()
    line._show()
    return stream.getvalue().rstrip().partition("elapsed, ")[2]


def test_time_left_is_the_last_runs_or_the_bars() -> None:
    unknown = "remaining time not known yet"
    bar = io.StringIO()
    with tqdm(total=9000, desc="decode mit", file=bar, mininterval=0, miniters=1) as counted:
        time.sleep(0.01)
        counted.update(4000)
        written = bar.getvalue()
    assert re.fullmatch(r"decode mit 4000/9000, about 00:0\d of that left", shown(None, written))
    assert shown(90.0, written) == "about 1:30 left"
    assert shown(3600.0, "") == "about 1:00:00 left" and shown(59.6, "") == "about 1:00 left"
    assert shown(0.0, "") == shown(None, "") == shown(None, "a warning: 3% | 4\n") == unknown
    assert shown(None, "\rcells:   0%|          | 0/180 [00:00<?, ?cell/s]") == unknown
    two = "\ra: 10%|#  | 1/10 [00:01<00:09, 1it/s]\rb: 50%|###  | 1.5k/3k [1:00:00<1:00:00, 2s/it]"
    assert shown(None, two) == "b 1.5k/3k, about 1:00:00 of that left"
    assert shown(None, two, new_cell=True) == unknown


def test_the_line_gets_what_a_notebook_writes_to_standard_error(tmp_path, monkeypatch):
    project, written = make_project(tmp_path), []
    write_notebook(project, "01_one", RESULT, "import sys; print('a bar', file=sys.stderr)")
    monkeypatch.setattr(ProgressLine, "write", lambda self, text: written.append(text))
    monkeypatch.setattr(run, "PACKAGES", ("fitclip_kit.store",))
    options = ["--profile", "tiny", "--runs-dir", str(project / "runs")]
    assert fitclip(project / "notebooks", "run", *options) == 0
    assert "".join(written) == "a bar\n"


def test_terminal_line_is_rewritten_and_a_log_gets_whole_lines():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        with ProgressLine("[1/2] x", 3, 60.0, stream) as line:
            line.cell_started()
    assert log.getvalue() == (
        "[1/2] x  cell 0/3  0:00 elapsed, about 1:00 left\n[1/2] x  done after 0:00\n"
    )
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") == 2
