"""Train a profile's students by several processes together; notebook 03 then finds them done.

    torchrun --nproc-per-node 2 -m fitclip_kit.engine.train --profile mini
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m fitclip_kit.engine.train --profile paper

Frames come from notebook 01 (or `fitclip_kit.engine.fan_out --what frames`). The processes share
every batch, and each student is the one that notebook 03 would train, up to rounding. All machines
must see this checkout and the run folder under the same paths; on GPUs each process takes one. The
same command goes on with the students that are missing; torchrun's `--max-restarts` does so by
itself. Without torchrun there is one process.

Exit status of a process: 0 all done, 1 training failed or another run holds the folder, 2 bad
parameters or missing frames, 130 interrupted. torchrun ends with 1 when any of them fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fitclip_kit.engine import distributed
from fitclip_kit.engine.command_line import profile_parser
from fitclip_kit.engine.run import HERE, Plan, locked, make_plan
from fitclip_kit.engine.work import STUDENTS, Run, Work, missing_students


def main(arguments: Sequence[str] | None = None, notebooks_dir: Path = HERE) -> int:
    """The command line; returns the exit status."""
    options = profile_parser("fitclip_kit.engine.train", __doc__).parse_args(arguments)
    try:
        plan = make_plan(notebooks_dir, options.profile, options.runs_dir)
        with distributed.process_group(str(plan.parameters[STUDENTS]["device"])):
            train(plan)
    except distributed.FirstRankFailed:
        return 1  # rank 0 says why
    except (ValueError, RuntimeError, OSError) as error:
        rank = os.environ.get("RANK")  # torchrun's: there may be no process group yet
        print(f"rank {rank}: {error}" if rank else error, file=sys.stderr, flush=True)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def train(plan: Plan) -> None:
    """Train the students that are missing, one after the other, all processes together.

    Raises: ValueError when frames are missing or as `fit_student`; FolderInUse.
    """
    run = Run(plan.run_dir.resolve(), plan.working_dir.resolve(), plan.parameters)
    with ExitStack() as held:

        def begin() -> list[Work]:
            held.enter_context(locked(plan.run_dir))
            return missing_students(run)

        tasks = distributed.on_first_rank(begin)
        for task in tasks:
            task.do()
            _say(f"{task.name}: done by {distributed.size()} process(es)")
        if not tasks:
            _say("nothing to do")


def _say(line: str) -> None:
    if distributed.rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
