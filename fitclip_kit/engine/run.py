"""A profile's notebooks in order, each run only when something it depends on has changed.

The record that a notebook is done is a manifest, written last, of what it was made from and of what
it left: its results, the cells that all notebooks share, its executed copies. It holds digests and
no times, so that the same work leaves the same results under it and no later notebook runs again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import lock_descriptor

from fitclip_kit.engine.settings import (
    Notebook,
    ParameterError,
    merge_profile,
    profile_file,
    read_notebooks,
    read_profile,
)
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    MANIFEST_NAME,
    file_sha256,
    json_digest,
    manifest_problems,
    read_manifest,
    remove_abandoned,
    write_json,
    write_manifest,
)

if TYPE_CHECKING:  # what is slow to import is imported where it is needed
    from fitclip_kit.engine.work import Run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PACKAGES = (
    *("fitclip_core", "fitclip_kit.store", "fitclip_kit.weights", "fitclip_kit.engine"),
    *("data_prep", "figures"),
)
# For the kernels. Threads that spin while they wait slow each other down on a shared machine, and
# threads that sleep at once slow small models down: they spin for a fraction of a millisecond.
ENVIRONMENT: Final = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "100000",
    "PYTHONHASHSEED": "0",
}
KERNEL_END_SECONDS = 30.0  # that a kernel may take to notice that its run was killed
TIMINGS: Final = "notebooks/timings.json"


class FolderInUse(RuntimeError):
    """Another run works in the same run folder."""


@dataclass(frozen=True)
class Files:
    """Where one notebook's files lie in a run folder."""

    run_dir: Path
    stem: str

    def beside(self, suffix: str) -> Path:
        """`.ipynb` and `.html` are the executed copies, there only when every cell completed;
        `.running.ipynb` and `.failed.ipynb` partial ones."""
        return self.run_dir / "notebooks" / f"{self.stem}{suffix}"

    @property
    def manifest(self) -> str:
        """The record that the notebook is done, as a path in the run folder."""
        return f"notebooks/{self.stem}.{MANIFEST_NAME}"

    @property
    def results(self) -> Path:
        """The folder whose own manifest the notebook writes as its last act."""
        return self.run_dir / self.stem

    def results_problems(self) -> list[str]:
        """Why the results that the notebook declares are not valid; empty when they are."""
        return manifest_problems(self.results, kind=self.stem)

    def declare(self, made_from: Mapping[str, Any]) -> None:
        """Record that the notebook is done, with the shared results so far, of which it measured
        or read some."""
        outputs = [self.beside(".ipynb"), self.beside(".html"), self.results / MANIFEST_NAME]
        outputs += [path for path in (self.run_dir / "results").rglob("*") if path.is_file()]
        write_manifest(self.run_dir, outputs=outputs, name=self.manifest, **made_from)

    def digest(self) -> str:
        """What later notebooks depend on: all of the record but the executed copies, which hold
        times, and the shared results, which this notebook need not have measured."""
        try:
            done = read_manifest(self.run_dir, self.manifest)
        except ValueError:
            return "not done"
        results = done["outputs"].get(f"{self.stem}/{MANIFEST_NAME}")
        return json_digest([done["parameters"], done["inputs"], done["code"], results])


@dataclass(frozen=True)
class Plan:
    """A profile's checked notebooks and parameters, and where they run.

    code: digest of the kit's code; inputs: digests of what else every notebook depends on.
    """

    notebooks: Sequence[Notebook]
    parameters: Mapping[str, Mapping[str, Any]]
    working_dir: Path
    run_dir: Path
    code: str
    inputs: Mapping[str, str]

    @property
    def run(self) -> Run:
        """The run as its work takes it."""
        from fitclip_kit.engine.work import Run

        return Run(self.run_dir.resolve(), self.working_dir.resolve(), self.parameters)

    def files(self, notebook: Notebook) -> Files:
        """Where the notebook's files lie."""
        return Files(self.run_dir, notebook.stem)

    def made_from(self, position: int) -> dict[str, Any]:
        """What the notebook at this position depends on, as of now and as its manifest holds it.

        Among it are the files that parameters named `*_file` point to, such as the sources.
        """
        notebook = self.notebooks[position]
        parameters = dict(self.parameters[notebook.stem])
        earlier = [self.files(other).digest() for other in self.notebooks[:position]]
        inputs = {**self.inputs, "notebook": notebook.digest}
        inputs["earlier notebooks"] = json_digest(earlier)
        for name, value in parameters.items():
            if name.endswith("_file") and value and (self.working_dir / value).is_file():
                inputs[name] = file_sha256(self.working_dir / value)
        made_from: dict[str, Any] = {"kind": notebook.stem, "code": self.code}
        return made_from | {"parameters": parameters, "inputs": inputs}

    def reasons_to_run(self, position: int) -> list[str]:
        """Why a notebook has to run; empty when it is done and every output is as it left it."""
        files = self.files(self.notebooks[position])
        if not (self.run_dir / files.manifest).is_file():
            return ["it has not completed yet"]
        made_from = self.made_from(position)
        problems = manifest_problems(self.run_dir, name=files.manifest, **made_from)
        return problems or files.results_problems()


def make_plan(profile: str, runs_dir: Path) -> Plan:
    """Read and check the notebooks and the profile, whose name the run folder has.

    Raises: ParameterError listing everything wrong with them.
    """
    notebooks = read_notebooks(NOTEBOOKS)
    sections = read_profile(profile_file(NOTEBOOKS, profile))
    parameters = merge_profile(sections, {book.stem: book.defaults for book in notebooks})
    lock = file_sha256(NOTEBOOKS.parent / "requirements.lock")
    inputs = {"packages' data": _package_data_digest(), "requirements.lock": lock}
    code = code_digest(*PACKAGES)
    return Plan(notebooks, parameters, NOTEBOOKS, runs_dir / profile, code, inputs)


def run_plan(plan: Plan, *, only: Collection[str] = (), force: bool = False) -> int:
    """Run what has to run, in order; returns how many notebooks ran.

    `only` limits the run to these stems; `force` runs them though they are done.

    Raises: NotebookFailed from the first one that fails; FolderInUse; ParameterError for an unknown
    stem in `only`, and before the first one runs, for what would stop one of them later on.
    """
    if unknown := set(only) - {notebook.stem for notebook in plan.notebooks}:
        raise ParameterError(f"no notebook named {', '.join(sorted(unknown))}")
    ran = 0
    with locked(plan.run_dir):
        for position, notebook in enumerate(plan.notebooks):
            title = f"[{position + 1}/{len(plan.notebooks)}] {notebook.stem}"
            reasons = plan.reasons_to_run(position)
            if only and notebook.stem not in only:
                stale = f" (not up to date: {reasons[0]})" if reasons else ""
                print(f"{title}  left out{stale}", flush=True)
            elif reasons or force:
                if not ran:
                    _check_plan(plan, only, files=True)
                why = reasons[0] if reasons else "of --force"
                print(f"{title}  runs, because {why}", flush=True)
                _run_one(plan, position, title)
                ran += 1
            else:
                print(f"{title}  up to date", flush=True)
    return ran


def print_plan(plan: Plan, only: Collection[str]) -> None:
    """Print what a run would need, measured on this machine in about a minute; run nothing.

    Raises: ParameterError for what would stop a notebook, or keeps the plan from being made.
    """
    from fitclip_kit.engine import plan as planning
    from fitclip_kit.engine.run_check import notes

    _check_plan(plan, only, files=False)
    try:
        print(planning.plan(plan.run, [*_left_out(plan), *notes(plan.parameters)]))
    except ValueError as error:
        raise ParameterError(str(error)) from error


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder alone, and clear it of what killed processes left half-written.

    The system frees it when this process and the kernels that it started have ended in any way.

    Raises: FolderInUse when another run holds it; where only a kernel of a killed one does, after
    the time that it may take to end.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + KERNEL_END_SECONDS
    with (run_dir / ".lock").open("a+") as file:
        while not lock_descriptor(file.fileno(), blocking=False):
            file.seek(0)
            holder = file.read().strip()
            if not _was_killed(holder):
                raise FolderInUse(
                    f"Another run ({holder or 'not known which'}) works in {run_dir}. "
                    "Wait until it ends, or choose another --runs-dir."
                )
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"A kernel of a run that was killed ({holder}) still works in {run_dir}. "
                    "Wait until it ends, or end it (a process called ipykernel_launcher)."
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.set_inheritable(file.fileno(), True)
        remove_abandoned(run_dir)
        yield


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _package_data_digest() -> str:
    """SHA-256 over the packages' files that are not Python: the shipped teacher, word lists, ..."""
    digests = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in map(Path, (spec and spec.submodule_search_locations) or []):
            for path in root.rglob("*"):
                relative = path.relative_to(root)
                hidden = any(part.startswith((".", "__")) for part in relative.parts)
                if path.is_file() and path.suffix != ".py" and not hidden:
                    digests[f"{package}/{relative.as_posix()}"] = file_sha256(path)
    return json_digest(digests)


def _check_plan(plan: Plan, only: Collection[str], *, files: bool) -> None:
    """Refuse what would stop one of the notebooks, or of those in `only`, later on: ParameterError
    listing all of it. files: whether the models' files have to be there."""
    from fitclip_kit.engine.run_check import problems
    from fitclip_kit.engine.work import KIT_NOTEBOOKS

    if not set(KIT_NOTEBOOKS) <= set(plan.parameters):
        return  # notebooks of another project, of which nothing is known
    others = set(plan.parameters).difference(only) if only else ()
    found = problems(plan.run, files=files)
    if stops := [line for line in found if line.split(maxsplit=1)[0] not in others]:
        raise ParameterError("\n".join(stops))


def _run_one(plan: Plan, position: int, title: str) -> None:
    from fitclip_kit.engine.execute import NotebookFailed, ProgressLine, execute

    notebook, made_from = plan.notebooks[position], plan.made_from(position)
    files, timings = plan.files(notebook), _read_timings(plan.run_dir / TIMINGS)
    cells = 1 + sum(cell["cell_type"] == "code" for cell in notebook.content["cells"])
    with ProgressLine(title, cells, timings.get(notebook.stem), sys.stdout) as progress:
        try:
            execute(notebook, plan.parameters[notebook.stem], files, plan.working_dir, progress)
        except NotebookFailed as error:
            raise NotebookFailed(
                f"{notebook.stem} failed: {error}\n"
                f"  The partial copy is {files.beside('.failed.ipynb')}.\n"
                "  The same command goes on from here; notebooks that are done are not repeated."
            ) from error
        files.declare(made_from)
        timings[notebook.stem] = round(progress.elapsed, 1)
        write_json(plan.run_dir / TIMINGS, timings)


def _read_timings(path: Path) -> dict[str, float]:
    with suppress(OSError, ValueError, AttributeError, TypeError):  # only an estimate is lost
        timings = json.loads(path.read_text(encoding="utf-8"))
        return {str(stem): float(seconds) for stem, seconds in timings.items()}
    return {}


def _left_out(plan: Plan) -> list[str]:
    """What figures and tests will do without, by the data sets that are measured; by notebook."""
    from figures import measures
    from fitclip_kit.engine.sources import size_study_set
    from fitclip_kit.engine.work import FIGURES, SHARES, SIZES, SWEEP

    values = plan.parameters
    evaluated = {stem: values[stem].get("evaluated", []) for stem in values}
    towers = values[FIGURES]["tower_sets"]
    by_notebook = {
        SWEEP: measures.left_out(evaluated[SWEEP]),
        SIZES: measures.left_out_of_sizes(size_study_set(plan.run.sources.evaluated)),
        SHARES: measures.left_out_of_shares(evaluated[SHARES]),
        FIGURES: measures.left_out_of_figures(evaluated[FIGURES], towers),
    }
    return [f"{stem}: {line}" for stem, lines in by_notebook.items() for line in lines]


def _was_killed(holder: str) -> bool:
    """Whether the process that a lock names, of this machine, is gone."""
    match holder.split():
        case ["process", number, "on", host] if host == socket.gethostname():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return True
            except OSError:  # another user's
                pass
    return False
