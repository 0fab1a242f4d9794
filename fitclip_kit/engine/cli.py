"""The command `fitclip`: run a profile, report on it, explore it, spread it, check data.

Exit status of all: 0 done; 1 a notebook, a task or a check failed, or another run holds the folder;
2 bad parameters or wrong use; 130 interrupted.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fitclip_kit.engine import run as runs
from fitclip_kit.engine.settings import ParameterError, read_cluster, typed

# Each command imports what it needs: to say that there is nothing to do takes no torch.
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
Profile = Annotated[str, typer.Option(help="A file of notebooks/profiles, no suffix.")]
RunsDir = Annotated[Path, typer.Option(help="Holds a folder for each profile.")]
RUNS = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a title's letters
    try:
        app(args=arguments, prog_name="fitclip")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


_TOLD: tuple[tuple[type[BaseException], int, str], ...] = (
    (KeyboardInterrupt, 130, "\nInterrupted. The same command goes on with what is not done."),
    (BrokenPipeError, 0, ""),  # the reader, such as `head`, has seen enough
    (ParameterError, 2, "Nothing was run. What is wrong:\n{error}"),
    (ValueError, 2, "fitclip {name}: {error}"),
    (RuntimeError, 1, "{error}"),
    (OSError, 1, "The run stopped: {error}.\n  Once that is put right, the same command goes on."),
)


def _command(function: Callable[..., int | None], **options: Any) -> None:
    """Add a command; what it raises is told without a traceback."""
    name = function.__name__.replace("_", "-")

    @functools.wraps(function)
    def told(*arguments: Any, **settings: Any) -> None:
        status, said = 0, ""
        try:
            status = function(*arguments, **settings) or 0
        except tuple(kind for kind, *_ in _TOLD) as error:
            if isinstance(error, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _, status, said = next(row for row in _TOLD if isinstance(error, row[0]))
            said = said.format(name=name, error=error)
        rank = os.environ.get("RANK")  # torchrun's: there may be no process group yet
        if said:
            print(f"rank {rank}: {said}" if rank else said, file=sys.stderr, flush=True)
        raise typer.Exit(status)

    app.command(name, **options)(told)


def run(
    profile: Profile,
    runs_dir: RunsDir = RUNS,
    only: Annotated[list[str], typer.Option(help="A notebook; may be repeated.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what a run needs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run also what is up to date.")] = False,
) -> None:
    """Run the numbered notebooks in order, each only when something it depends on has changed."""
    _end_cleanly()
    start = time.monotonic()
    plan = runs.make_plan(profile, runs_dir)
    if dry_run:
        return runs.print_plan(plan, only)
    ran = runs.run_plan(plan, only=only, force=force)
    took = runs.clock(time.monotonic() - start)
    nothing = f"nothing had to be run ({took}); --force runs it again"
    print(f"{plan.run_dir}: " + (f"{ran} notebooks run in {took}" if ran else nothing))


def report(profile: Profile, runs_dir: RunsDir = RUNS) -> None:
    """Join a run's notebooks into one page that needs no network, and write explore.html."""
    from fitclip_kit.engine.report import make_report

    path = make_report(runs.make_plan(profile, runs_dir))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, needs no network)")


def slider(
    profile: Profile,
    runs_dir: RunsDir = RUNS,
    port: Annotated[int | None, typer.Option(help="Default: any free one.")] = None,
) -> int:
    """Serve the alpha slider of a run, to this machine alone and with a token."""
    from fitclip_kit.slider.serve import serve

    return serve(profile, runs_dir, port)


def cluster(
    profile: Profile,
    runs_dir: RunsDir = RUNS,
    what: Annotated[list[str], typer.Option("--what", "-w")] = [],  # noqa: B006
    executor: Annotated[str, typer.Option(help="Default: the settings', or inline.")] = "",
    settings: Annotated[Path | None, typer.Option(help="A YAML file, see above.")] = None,
) -> None:
    """Do a profile's heavy work on many processes or nodes; the notebooks then find it done.

    --executor is inline, local or slurm. --what does one part, and may be repeated; each needs
    those before it: frames, teacher, students, sweep, sizes, shares. The settings file holds
    `name: value` lines, such as

    \b
        partition: gpu
        gpus: 1
        cpus: 8
        minutes: 120
        memory_gb: 32
        parallel: 32        # jobs at once
        retries: 1
        slurm: {account: me, setup: [module load cuda]}
    """
    from fitclip_kit.engine.cluster import fan_out_steps
    from fitclip_kit.engine.work import PARTS, steps

    _end_cleanly()
    chosen = read_cluster(settings, **({"executor": executor} if executor else {}))
    plan = runs.make_plan(profile, runs_dir)
    todo = steps(plan.run, what or PARTS)
    with runs.locked(plan.run_dir):
        for title, tasks, made_good in fan_out_steps(todo, chosen, plan.run_dir / "fan_out"):
            print(f"{title}: {f'{tasks} tasks done' if tasks else 'nothing to do'}", flush=True)
            for failure in made_good:
                why = f"{failure.reason}; log: {failure.log}"
                print(f"  done at another attempt: {failure.task} ({why})")


def train(profile: Profile, runs_dir: RunsDir = RUNS) -> int:
    """Train a profile's students by several processes together; notebook 03 finds them done.

    \b
        torchrun --nproc-per-node 2 -m fitclip_kit.engine.cli train --profile mini
        torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
            -m fitclip_kit.engine.cli train --profile paper

    Frames come from notebook 01 (or `fitclip cluster --what frames`). The processes share every
    batch, and each student is the one that notebook 03 would train, up to rounding. All machines
    must see this checkout and the run folder under the same paths; on GPUs each process takes one.
    The same command goes on with the students that are missing; torchrun's `--max-restarts` does so
    by itself. Without torchrun there is one process. torchrun ends with 1 when any of them fails.
    """
    from fitclip_kit.engine.cluster import train_together
    from fitclip_kit.engine.distributed import FirstRankFailed
    from fitclip_kit.engine.work import STUDENTS, missing_students

    plan = runs.make_plan(profile, runs_dir)
    device = str(plan.parameters[STUDENTS]["device"])
    try:
        train_together(lambda: missing_students(plan.run), plan.run_dir, device)
    except FirstRankFailed:
        return 1  # rank 0 says why
    return 0


class _ListsLoaders(TyperCommand):
    """Help that ends with the data sets that can be checked."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from data_prep.datasets import LOADERS, documentation

        with formatter.section("Loaders"):
            formatter.write_dl([(name, documentation(name).partition("\n")[0]) for name in LOADERS])


def _known_loader(name: str) -> str:
    from data_prep.datasets import LOADERS

    if name not in LOADERS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(LOADERS)}")
    return name


def check_data(
    loader: Annotated[str, typer.Argument(metavar="NAME", callback=_known_loader)],
    root: Annotated[Path | None, typer.Option(help="The data set's own folder.")] = None,
    option: Annotated[
        list[str], typer.Option("--option", "-o", metavar="KEY=VALUE", help="May be repeated.")
    ] = [],  # noqa: B006
    max_missing: Annotated[
        float, typer.Option(help="Share of clips without a file that is accepted.")
    ] = 0.05,
    decode: Annotated[int, typer.Option(help="Clips to decode.")] = 3,
) -> int:
    """Say what a data set's files are good for.

    Read its annotation, look for its files, decode a few, and say what a run would do. Without
    --root, print where the files come from and how they must lie.
    """
    from data_prep import check
    from data_prep.datasets import documentation, options_of

    defaults = options_of(loader)
    try:
        options = typed_options(loader, defaults, option)
        found = root and check.check(loader, root, options, max_missing=max_missing, decode=decode)
    except (ValueError, OSError) as error:
        raise ValueError(check.printable(str(error))) from error
    if found:
        print(check.report(found))
        return 1 if found.problems else 0
    print(f"{documentation(loader)}\n\nOptions (-o) and their defaults:")
    for name, default in defaults.items():
        print(f"  {name}={default}")
    print(f"\nCheck a copy of it: fitclip check-data {loader} --root DIR")
    return 0


def typed_options(loader: str, defaults: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Options from `key=value` texts, each of the type of the loader's default.

    Raises: ValueError for a text without "=", an option that is unknown or repeated, or a value of
    another type.
    """
    options: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"option {text!r} is not key=value")
        if name in options:
            raise ValueError(f"option {name!r} is given twice")
        options[name] = value
    try:
        return typed(defaults, options, strict=False)
    except ValueError as error:
        known = ", ".join(f"{name}={default}" for name, default in defaults.items()) or "none"
        raise ValueError(f"options of {loader}: {error}; there are {known}") from error


def _end_cleanly() -> None:
    """End as with Ctrl-C when told to, and give processes the settings that repeat."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name, value in runs.ENVIRONMENT.items():
        os.environ.setdefault(name, value)


for _function in (run, report, slider, cluster, train):
    _command(_function)
_command(check_data, cls=_ListsLoaders)

if __name__ == "__main__":
    sys.exit(main())
