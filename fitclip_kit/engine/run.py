"""Run the numbered notebooks in order, each only when something it depends on has changed.

    python -m fitclip_kit.engine.run --profile mini [--runs-dir runs] [--only 01_data_prep]
    python -m fitclip_kit.engine.run --profile paper --dry-run

Exit status: 0 all done, 1 a notebook failed or another run holds the folder, 2 bad parameters,
130 interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fitclip_kit.engine.command_line import profile_parser
from fitclip_kit.engine.notebook_files import Notebook, read_notebooks
from fitclip_kit.engine.parameters import ParameterError, merge_profile, profile_file, read_profile
from fitclip_kit.engine.progress import ProgressLine, clock
from fitclip_kit.engine.stamps import (
    Files,
    package_data_digest,
    reasons_to_run,
    stamp_digest,
    write_stamp,
)
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    file_sha256,
    json_digest,
    remove_abandoned,
    write_json,
)

HERE = Path(__file__).parents[2] / "notebooks"
PACKAGES = (
    "fitclip_core",
    "fitclip_kit.store",
    "fitclip_kit.weights",
    "fitclip_kit.engine",
    "data_prep",
    "figures",
)
# For the kernels. Threads that spin while they wait slow each other down on a shared machine, and
# threads that sleep at once slow small models down: they spin for a fraction of a millisecond.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "100000",
    "PYTHONHASHSEED": "0",
}
KERNEL_END_SECONDS = 30.0  # that a kernel may take to notice that its run was killed


class FolderInUse(RuntimeError):
    """Another run works in the same run folder."""


@dataclass(frozen=True)
class Plan:
    """A profile's checked notebooks and parameters, and where they run."""

    notebooks: Sequence[Notebook]
    parameters: Mapping[str, Mapping[str, Any]]
    working_dir: Path
    run_dir: Path
    code: Mapping[str, str]  # digests that every notebook depends on

    def made_from(self, position: int) -> dict[str, Any]:
        """Digests of all that the notebook at this position depends on, as of now."""
        notebook = self.notebooks[position]
        upstream = [stamp_digest(self.files(other)) for other in self.notebooks[:position]]
        return {
            **self.code,
            "notebook": notebook.digest,
            "parameters": dict(self.parameters[notebook.stem]),
            "named files": self._named_files(notebook),
            "earlier notebooks": json_digest(upstream),
        }

    def _named_files(self, notebook: Notebook) -> dict[str, str]:
        """Digests of the files that parameters named `*_file` point to, such as the sources."""
        named = {
            name: self.working_dir / value
            for name, value in self.parameters[notebook.stem].items()
            if name.endswith("_file") and value
        }
        return {name: file_sha256(path) for name, path in named.items() if path.is_file()}

    def files(self, notebook: Notebook) -> Files:
        """Where the notebook's files lie."""
        return Files(self.run_dir, notebook.stem)


def make_plan(notebooks_dir: Path, profile: str, runs_dir: Path) -> Plan:
    """Read and check the notebooks and the profile.

    Raises: ParameterError listing everything wrong with them.
    """
    notebooks = read_notebooks(notebooks_dir)
    sections = read_profile(profile_file(notebooks_dir, profile))
    parameters = merge_profile(sections, {book.stem: book.defaults for book in notebooks})
    code = {
        "packages": code_digest(*PACKAGES),
        "packages' data": package_data_digest(PACKAGES),
        "requirements.lock": file_sha256(notebooks_dir.parent / "requirements.lock"),
    }
    return Plan(notebooks, parameters, notebooks_dir, runs_dir / profile, code)


def run_plan(
    plan: Plan, *, only: Collection[str] = (), force: bool = False, say: Callable[[str], None]
) -> int:
    """Run what has to run, in order; returns how many notebooks ran.

    `only` limits the run to these stems; `force` runs them whatever their stamps say.

    Raises: NotebookFailed from the first one that fails; FolderInUse; ParameterError for an unknown
    stem in `only`, and before the first one runs, as `check_plan`.
    """
    unknown = set(only) - {notebook.stem for notebook in plan.notebooks}
    if unknown:
        raise ParameterError(f"no notebook named {', '.join(sorted(unknown))}")
    ran = 0
    checked = False
    with locked(plan.run_dir):
        for position, notebook in enumerate(plan.notebooks):
            title = f"[{position + 1}/{len(plan.notebooks)}] {notebook.stem}"
            made_from = plan.made_from(position)
            reasons = reasons_to_run(plan.files(notebook), made_from)
            if only and notebook.stem not in only:
                say(f"{title}  left out" + (f" (not up to date: {reasons[0]})" if reasons else ""))
            elif reasons or force:
                if not checked:
                    check_plan(plan, only)
                    checked = True
                say(f"{title}  runs, because {reasons[0] if reasons else 'of --force'}")
                _run_one(plan, notebook, made_from, title)
                ran += 1
            else:
                say(f"{title}  up to date")
    return ran


def main(arguments: Sequence[str] | None = None, notebooks_dir: Path = HERE) -> int:
    """The command line; returns the exit status."""
    parser = profile_parser("fitclip_kit.engine.run", __doc__)
    parser.add_argument("--only", action="append", default=[], help="a notebook; may be repeated")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what a run needs, run nothing"
    )
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as cleanly as with Ctrl-C
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    start = time.monotonic()
    try:
        plan = make_plan(notebooks_dir, options.profile, options.runs_dir)
        if options.dry_run:
            return _print_plan(plan, options.only)
        ran = run_plan(plan, only=options.only, force=options.force, say=_say)
    except ParameterError as error:
        print(f"Nothing was run. What is wrong:\n{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on with what is not done.", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(stopped_by(error), file=sys.stderr)
        return 1
    took = clock(time.monotonic() - start)
    nothing = f"nothing had to be run ({took}); --force runs it again"
    _say(f"{plan.run_dir}: " + (f"{ran} notebooks run in {took}" if ran else nothing))
    return 0


def stopped_by(error: OSError) -> str:
    """What to say of a full disk, a folder that cannot be written, a file that vanished."""
    return (
        f"The run stopped: {error}.\n"
        "  Once that is put right, the same command goes on with what is not done."
    )


def check_plan(plan: Plan, only: Collection[str] = (), *, files: bool = True) -> None:
    """Refuse what would stop one of the notebooks, or of those in `only`, later on.

    files: whether the models' files have to be there.

    Raises: ParameterError listing all of it.
    """
    from fitclip_kit.engine.run_check import problems  # slow to import, often not needed
    from fitclip_kit.engine.work import KIT_NOTEBOOKS, Run

    if not set(KIT_NOTEBOOKS) <= set(plan.parameters):
        return  # notebooks of another project, of which nothing is known
    others = set(plan.parameters).difference(only) if only else ()
    run = Run(plan.run_dir.resolve(), plan.working_dir.resolve(), plan.parameters)
    found = problems(run, files=files)
    if stops := [one for one in found if one.split(maxsplit=1)[0] not in others]:
        raise ParameterError("\n".join(stops))


def _print_plan(plan: Plan, only: Collection[str]) -> int:
    from fitclip_kit.engine import plan as planning  # slow to import, seldom needed
    from fitclip_kit.engine.run_check import notes
    from fitclip_kit.engine.work import Run

    check_plan(plan, only, files=False)
    run = Run(plan.run_dir.resolve(), plan.working_dir.resolve(), plan.parameters)
    try:
        print(planning.plan(run, [*_left_out(plan), *notes(plan.parameters)]))
    except ValueError as error:
        raise ParameterError(str(error)) from error
    return 0


def _left_out(plan: Plan) -> list[str]:
    """What figures and tests will do without, by the data sets that are measured; by notebook."""
    from figures import measures
    from fitclip_kit.engine.sources import size_study_set
    from fitclip_kit.engine.work import FIGURES, SHARES, SIZES, SWEEP, Run

    evaluated = {one: plan.parameters[one].get("evaluated", []) for one in plan.parameters}
    sources = Run(plan.run_dir, plan.working_dir, plan.parameters).sources
    by_notebook = {
        SWEEP: measures.left_out(evaluated[SWEEP]),
        SIZES: measures.left_out_of_sizes(size_study_set(sources.evaluated)),
        SHARES: measures.left_out_of_shares(evaluated[SHARES]),
        FIGURES: measures.left_out_of_figures(
            evaluated[FIGURES], plan.parameters[FIGURES]["tower_sets"]
        ),
    }
    return [f"{stem}: {line}" for stem, lines in by_notebook.items() for line in lines]


def _run_one(plan: Plan, notebook: Notebook, made_from: Mapping[str, Any], title: str) -> None:
    from fitclip_kit.engine.execution import (  # slow to import, often not needed
        NotebookFailed,
        execute,
    )

    files = plan.files(notebook)
    timings_file = plan.run_dir / "notebooks" / "timings.json"
    timings = _read_timings(timings_file)
    cells = 1 + sum(cell["cell_type"] == "code" for cell in notebook.content["cells"])
    with ProgressLine(title, cells, timings.get(notebook.stem), sys.stdout) as progress:
        try:
            execute(notebook, plan.parameters[notebook.stem], files, plan.working_dir, progress)
        except NotebookFailed as error:
            raise NotebookFailed(
                f"{notebook.stem} failed: {error}\n  The partial copy is {files.failed}.\n"
                "  The same command goes on from here; notebooks that are done are not repeated."
            ) from error
        write_stamp(files, made_from)
        write_json(timings_file, {**timings, notebook.stem: round(progress.elapsed, 1)})


def _read_timings(path: Path) -> dict[str, float]:
    try:
        timings = json.loads(path.read_text(encoding="utf-8"))
        return {str(stem): float(seconds) for stem, seconds in timings.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # an estimate is all that is lost


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder alone, and clear it of what killed processes left half-written.

    The system frees the folder when this process and the kernels that it started have ended, in
    whatever way.

    Raises: FolderInUse when another run holds it; where only a kernel of a killed one does, after
    the time that it may take to end.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        _lock(file, run_dir)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.set_inheritable(file.fileno(), True)
        remove_abandoned(run_dir)
        yield


def _lock(file: TextIO, run_dir: Path) -> None:
    deadline = time.monotonic() + KERNEL_END_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            if not _was_killed(holder):
                raise FolderInUse(
                    f"Another run ({holder or 'not known which'}) works in {run_dir}. "
                    "Wait until it ends, or choose another --runs-dir."
                ) from error
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"A kernel of a run that was killed ({holder}) still works in {run_dir}. "
                    "Wait until it ends, or end it (a process called ipykernel_launcher)."
                ) from error
        time.sleep(0.1)


def _was_killed(holder: str) -> bool:
    """Whether the process that a lock names, of this machine, is gone."""
    words = holder.split()
    if len(words) != 4 or words[3] != socket.gethostname():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    return False


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
