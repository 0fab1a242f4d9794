"""Do a profile's heavy work on many processes or nodes; the notebooks then find it done.

    python -m fitclip_kit.engine.fan_out --profile mini --executor local
    python -m fitclip_kit.engine.fan_out --profile paper --executor slurm --settings cluster.yaml

`--what sweep` does that part alone. The parts, each of which needs those before it: frames,
teacher, students, sweep, sizes, shares.
The settings file holds `name: value` lines, such as

    partition: gpu
    gpus: 1
    cpus: 8
    minutes: 120
    memory_gb: 32
    parallel: 32        # jobs at once
    retries: 1
    slurm: {account: me, setup: [module load cuda]}

Exit status: 0 all done, 1 tasks failed or another run holds the folder, 2 bad parameters, 130
interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fitclip_kit.engine.command_line import profile_parser
from fitclip_kit.engine.fanout import (
    EXECUTORS,
    Failure,
    FanOutFailed,
    Settings,
    Task,
    fan_out,
    read_settings,
)
from fitclip_kit.engine.run import ENVIRONMENT, HERE, locked, make_plan, stopped_by
from fitclip_kit.engine.work import PARTS, Run, steps


def main(arguments: Sequence[str] | None = None, notebooks_dir: Path = HERE) -> int:
    """The command line; returns the exit status."""
    parser = profile_parser("fitclip_kit.engine.fan_out", __doc__)
    parser.add_argument(
        *("--what", "-w"),
        action="append",
        choices=tuple(PARTS),
        help="a part; may be repeated; default: all",
    )
    parser.add_argument("--executor", choices=EXECUTORS, help="default: the settings', or inline")
    parser.add_argument("--settings", default="", help="a YAML file, see above")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as cleanly as with Ctrl-C
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        executor = {"executor": options.executor} if options.executor else {}
        settings = read_settings(options.settings, **executor)
        plan = make_plan(notebooks_dir, options.profile, options.runs_dir)
        run = Run(plan.run_dir.resolve(), plan.working_dir.resolve(), plan.parameters)
        with locked(plan.run_dir):
            for title, tasks, made_good in fan_out_run(run, options.what or PARTS, settings):
                print(f"{title}: {f'{tasks} tasks done' if tasks else 'nothing to do'}", flush=True)
                for one in made_good:
                    print(f"  done at another attempt: {one.task} ({one.reason}; log: {one.log})")
    except ValueError as error:
        print(error, file=sys.stderr)
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
    return 0


def fan_out_run(
    run: Run, parts: Collection[str], settings: Settings
) -> Iterator[tuple[str, int, list[Failure]]]:
    """Do what is missing of some parts of a run, in their order, each when the one before is done.

    Where tasks fail, the steps that do not need them are done all the same.

    Yields:
        For each step that was done its title, how many tasks it had, and failed attempts that were
        made good.

    Raises:
        ValueError: an unknown part, or one that needs an earlier part which is not done.
        fanout.FanOutFailed: tasks that failed at every attempt, of all steps, at the end.
    """
    total, failures, undone = 0, list[Failure](), list[str]()
    for title, left in steps(run, parts).items():
        try:
            tasks = [Task(work.name, work.do) for work in left()]
        except ValueError:
            if not failures:
                raise
            undone.append(title)  # for want of what failed
            continue
        total += len(tasks)
        try:
            made_good = fan_out(tasks, settings, run.path / "fan_out", title=title)
        except FanOutFailed as error:
            failures += error.failures
        else:
            yield title, len(tasks), made_good
    if failures:
        named = ", ".join(sorted(parts, key=PARTS.index))
        raise FanOutFailed(named, total, failures, undone)


if __name__ == "__main__":
    sys.exit(main())
