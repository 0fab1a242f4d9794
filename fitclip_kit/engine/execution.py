"""Execute one notebook with papermill and accept it only when every cell completed.

papermill alone passes a notebook that left with `sys.exit(0)` and writes its files in place.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

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

from fitclip_kit.engine.command_line import USERS_SETTINGS
from fitclip_kit.engine.notebook_files import Notebook, cell_source
from fitclip_kit.engine.parameters import RUN_DIR
from fitclip_kit.engine.progress import ProgressLine
from fitclip_kit.engine.stamps import Files, results_problems
from fitclip_kit.store import files
from fitclip_kit.store.files import MANIFEST_NAME, atomic_path, write_json, write_text

KERNEL_START_SECONDS = 180
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SHOWN_LINES = 12


class NotebookFailed(RuntimeError):
    """A notebook that did not run to its end or left no valid results; says where and why."""


def execute(
    notebook: Notebook,
    parameters: Mapping[str, Any],
    files: Files,
    working_dir: Path,
    progress: ProgressLine,
) -> None:
    """Run the notebook in `working_dir`; leave its executed copy, its page and valid results.

    What an earlier run left of these is removed first. A partial copy is kept as `files.failed`.

    Raises: NotebookFailed with the cell and the error; KeyboardInterrupt when interrupted.
    """
    stale = (files.stamp, files.executed, files.html, files.failed, files.results / MANIFEST_NAME)
    for path in stale:
        path.unlink(missing_ok=True)
    write_json(files.running, notebook.content)
    try:
        executed = _run(notebook, parameters, files, working_dir, progress)
        _refuse_unfinished(executed)
        problems = results_problems(files)
        if problems:
            raise NotebookFailed(
                "every cell completed, but the results that it must declare in "
                f"{files.results / MANIFEST_NAME} are not valid:\n" + _indented(problems)
            )
        _render(executed, files)
    except BaseException:
        os.replace(files.running, files.failed)
        raise
    files.running.unlink()


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
    running = str(files.running).replace("{", "{{").replace("}", "}}")  # papermill formats it
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
            kernel_manager_class=_OwnInterpreter,
            on_cell_start=count,
            stderr_file=progress,
        )
    except PapermillExecutionError as error:
        trace = [line for entry in error.traceback for line in _ANSI.sub("", entry).splitlines()]
        raise NotebookFailed(
            f"code cell [{error.exec_count}] raised {error.ename}: {error.evalue}\n"
            + _indented(trace[-_SHOWN_LINES:])
        ) from error
    except Exception as error:  # the kernel did not start, or died: no cell says so itself
        cell = _indented(begun[-1].splitlines()[:_SHOWN_LINES]) if begun else "    (none)"
        raise NotebookFailed(
            f"{type(error).__name__}: {error}\n  while in code cell [{len(begun)}]:\n{cell}"
        ) from error
    executed.metadata.papermill.input_path = f"{notebook.stem}.ipynb"
    executed.metadata.papermill.output_path = files.executed.name
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
    write_text(files.html, page)
    with atomic_path(files.executed) as temporary:
        nbformat.write(executed, str(temporary))


def _is_code(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and bool(cell_source(cell).strip())


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


class _OwnInterpreter(AsyncKernelManager):
    """Starts kernels with this interpreter and this checkout's packages, whatever is registered,
    and without the user's start-up files and settings of IPython and matplotlib."""

    @traitlets.default("transport_encryption")
    def _encrypt_where_possible(self) -> str:  # else the kernel warns that others may listen
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        checkout = str(Path(files.__file__).parents[2])
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
