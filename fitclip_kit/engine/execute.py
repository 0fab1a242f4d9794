"""Execute one notebook with papermill and accept it only when every cell completed.

papermill alone passes a notebook that left with `sys.exit(0)` and writes its files in place.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TextIO

import nbconvert
import nbformat
import papermill
import traitlets
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from papermill.exceptions import PapermillExecutionError

from fitclip_kit.engine.run import Files, clock
from fitclip_kit.engine.settings import RUN_DIR, Notebook, cell_source
from fitclip_kit.store.files import MANIFEST_NAME, atomic_path, write_json, write_text

KERNEL_START_SECONDS: Final = 180
TERMINAL_INTERVAL: Final = 1.0  # seconds between two looks of the progress line on a terminal
LOG_INTERVAL: Final = 60.0  # seconds between two lines in a log file
# A kernel's environment, of what a user's settings would change in a notebook's outputs; IPython's
# own come from IPYTHONDIR.
USERS_SETTINGS: Final = {
    "PYTHONSTARTUP": "",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MATPLOTLIBRC": os.devnull,
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SHOWN_LINES = 12
# What tqdm writes, such as "decode mit:  40%|####      | 400/1000 [00:01<00:02, 323.94it/s]".
_BAR = re.compile(
    r"(?P<what>[^\r\n|]*): +\d+%\|[^|]*\| (?P<count>\S+/\S+) \[[\d:]+<(?P<left>[\d:]+)"
)


class NotebookFailed(RuntimeError):
    """A notebook that did not run to its end or left no valid results; says where and why."""


class ProgressLine:
    """Context manager that keeps a line with cells done, elapsed and estimated remaining time.

    On a terminal the line is rewritten in place; elsewhere a new one is printed now and then.
    `expected` is the time the notebook took last, in seconds, or None: then what is left is taken
    from the progress bar that the running cell shows on standard error, which is written to it.
    """

    def __init__(self, title: str, cells: int, expected: float | None, stream: TextIO) -> None:
        self._title, self._cells, self._expected, self._stream = title, cells, expected, stream
        self._started_cells, self._bar = 0, ""
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the line was made."""
        return time.monotonic() - self._start

    def cell_started(self) -> None:
        """Count one more code cell as begun."""
        self._started_cells += 1
        self._bar = ""

    def write(self, text: str) -> None:
        """Take what the running cell writes to standard error."""
        for bar in _BAR.finditer(text):
            self._bar = f"{bar['what']} {bar['count']}, about {bar['left']} of that left"

    def flush(self) -> None:
        """A file has it; there is nothing to do."""

    def __enter__(self) -> ProgressLine:
        self._show()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        end = "stopped" if kind else "done"
        self._show(f"{self._title}  {end} after {clock(self.elapsed)}", last=True)

    def _repeat(self) -> None:
        interval = TERMINAL_INTERVAL if self._stream.isatty() else LOG_INTERVAL
        while not self._stop.wait(interval):
            self._show()

    def _show(self, line: str = "", last: bool = False) -> None:
        left = self._bar or "remaining time not known yet"
        if self._expected is not None and self.elapsed < self._expected:
            left = f"about {clock(self._expected - self.elapsed)} left"
        cell, elapsed = f"cell {self._started_cells}/{self._cells}", clock(self.elapsed)
        line = line or f"{self._title}  {cell}  {elapsed} elapsed, {left}"
        terminal = self._stream.isatty()
        self._stream.write(("\r\x1b[K" if terminal else "") + line)
        self._stream.write("\n" if last or not terminal else "")
        self._stream.flush()


def execute(
    notebook: Notebook,
    parameters: Mapping[str, Any],
    files: Files,
    working_dir: Path,
    progress: ProgressLine,
) -> None:
    """Run the notebook in `working_dir`; leave its executed copy, its page and valid results.

    What an earlier run left is removed first; a partial copy is kept as `.failed.ipynb`.

    Raises: NotebookFailed with the cell and the error; KeyboardInterrupt when interrupted.
    """
    (files.run_dir / files.manifest).unlink(missing_ok=True)
    (files.results / MANIFEST_NAME).unlink(missing_ok=True)
    for suffix in (".ipynb", ".html", ".failed.ipynb"):
        files.beside(suffix).unlink(missing_ok=True)
    running = files.beside(".running.ipynb")
    write_json(running, notebook.content)
    try:
        executed = _run(notebook, parameters, files, working_dir, progress)
        _refuse_unfinished(executed)
        if problems := files.results_problems():
            raise NotebookFailed(
                "every cell completed, but the results that it must declare in "
                f"{files.results / MANIFEST_NAME} are not valid:\n" + _indented(problems)
            )
        _render(executed, files)
    except BaseException:
        os.replace(running, files.beside(".failed.ipynb"))
        raise
    running.unlink()


def _run(
    notebook: Notebook,
    parameters: Mapping[str, Any],
    files: Files,
    working_dir: Path,
    progress: ProgressLine,
) -> nbformat.NotebookNode:
    begun: list[str] = []  # sources of the code cells begun, to name the one a dead kernel was in

    def count(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if _is_code(cell):
            begun.append(cell.source)
            progress.cell_started()

    run_dir = os.path.relpath(files.run_dir.resolve(), working_dir.resolve())
    running = str(files.beside(".running.ipynb"))
    running = running.replace("{", "{{").replace("}", "}}")  # papermill formats it
    try:
        executed: nbformat.NotebookNode = papermill.execute_notebook(
            running,
            running,
            parameters={**parameters, RUN_DIR: run_dir},
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=KERNEL_START_SECONDS,
            cwd=str(working_dir),
            kernel_manager_class=OwnInterpreter,
            on_cell_start=count,
            stderr_file=progress,
        )
    except PapermillExecutionError as error:
        trace = [line for entry in error.traceback for line in _ANSI.sub("", entry).splitlines()]
        said = f"code cell [{error.exec_count}] raised {error.ename}: {error.evalue}"
        raise NotebookFailed(f"{said}\n{_indented(trace[-_SHOWN_LINES:])}") from error
    except Exception as error:  # the kernel did not start, or died: no cell says so itself
        cell = _indented(begun[-1].splitlines()[:_SHOWN_LINES]) if begun else "    (none)"
        where = f"  while in code cell [{len(begun)}]:\n{cell}"
        raise NotebookFailed(f"{type(error).__name__}: {error}\n{where}") from error
    name = f"{notebook.stem}.ipynb"
    executed.metadata.papermill.update(input_path=name, output_path=name)
    return executed


def _refuse_unfinished(executed: nbformat.NotebookNode) -> None:
    for number, cell in enumerate(filter(_is_code, executed.cells), start=1):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if cell.execution_count is None or errors:
            why = "; ".join(f"{error.ename}: {error.evalue}" for error in errors)
            raise NotebookFailed(
                f"code cell [{number}] did not complete ({why or 'not executed'}); a notebook has "
                "to run to its end\n" + _indented(cell.source.splitlines()[:_SHOWN_LINES])
            )


def _render(executed: nbformat.NotebookNode, files: Files) -> None:
    resources = {"metadata": {"name": files.stem}}
    # A progress bar comes as many pieces of one line; a reader wants its last state.
    executed, resources = CoalesceStreamsPreprocessor().preprocess(executed, resources)
    page, _ = nbconvert.HTMLExporter().from_notebook_node(executed, resources=resources)
    write_text(files.beside(".html"), page)
    with atomic_path(files.beside(".ipynb")) as temporary:
        nbformat.write(executed, str(temporary))


def _is_code(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and bool(cell_source(cell).strip())


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


class OwnInterpreter(AsyncKernelManager):
    """Starts kernels with this interpreter and this checkout's packages, whatever is registered,
    and without the user's start-up files and settings of IPython and matplotlib."""

    @traitlets.default("transport_encryption")
    def _encrypt_where_possible(self) -> str:  # else the kernel warns that others may listen
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        checkout = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
        env = {**USERS_SETTINGS, "PYTHONPATH": path, "IPYTHONDIR": self._ipython_dir.name}
        spec = KernelSpec(**{**get_kernel_dict(), "env": env})
        # Users' errors are cell outputs; what a kernel logs itself is noise from an interrupt.
        spec.argv = [*spec.argv, "--IPKernelApp.log_level=CRITICAL"]
        return spec

    @cached_property
    def _ipython_dir(self) -> tempfile.TemporaryDirectory[str]:  # gone with the manager
        return tempfile.TemporaryDirectory(prefix="fitclip_ipython_", ignore_cleanup_errors=True)

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """As usual, but the kernel inherits the run folder's lock and so holds it as long as it
        lives: a run that was killed may leave its kernel behind for a moment."""
        await super().start_kernel(close_fds=False, **options)
