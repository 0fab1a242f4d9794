"""What the steps of a run cost at 1, 2, 4 and 8 times the data, fitted and drawn.

    python -m benchmarks.costs
    python -m benchmarks.costs --quick --out /tmp/costs

Each step is what a run does, on the mini benchmark's clips and models, in a process of its own with
one thread (decoding uses all cores). The amounts take turns in each round. Time is processor
seconds of the process and of those that it started; seconds by the clock are in the CSV file too.
Memory is what the process grows by, plus all of its workers; disk is what is left behind.
A fixed cost plus one of each clip (for the ranks, of each pair of clips) is fitted to every step;
"exponent" is the power of n that fits best, with its 95% interval, whatever the method is. Linux
only; about 10 processor minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Decoding processes import this module again, so what is heavy is imported where it is used.
# Blocks of 1 MiB and more get pages of their own, which are given back when they are freed.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}
TIMES = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/costs"))
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the data, one round less"
    )
    parser.add_argument("--only", action="append", metavar="STEP", help="may be repeated")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    share = 4 if given.quick else 1
    rounds = max(given.rounds - given.quick, 1)
    if given.step:
        for row in measure(given.step, given.folder, share, rounds):
            print(json.dumps(row), flush=True)
        return

    from fitclip_kit.engine.run import ENVIRONMENT as KERNELS

    os.environ.update(KERNELS | ENVIRONMENT)
    from benchmarks.cost_steps import STEPS, make_material

    if unknown := sorted(set(given.only or ()) - set(STEPS)):
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_material(Path(folder), max(TIMES) * 100 // share)
        for step in given.only or STEPS:
            print(f"{step}: {STEPS[step].what} ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.costs", "--step", step]
            command += ["--folder", folder, "--rounds", str(given.rounds)]
            command += ["--quick"] * given.quick
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{step} failed:\n{done.stderr}")
            rows += [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    write(rows, given.out)


def measure(step: str, folder: Path, share: int, rounds: int) -> Sequence[dict[str, object]]:
    """A row for each round and amount of one step."""
    from benchmarks.cost_steps import STEPS, watched_workers
    from benchmarks.processor import used_by
    from benchmarks.side_by_side import extra_memory

    base = STEPS[step].base // share
    work = STEPS[step].prepare(folder, max(TIMES) * base)
    rows: list[dict[str, object]] = []
    used: list[float] = []

    def timed(n: int, out: Path) -> None:
        start = perf_counter()
        processor = used_by(lambda: work(n, out))
        used[:] = [perf_counter() - start, processor]

    for number in range(rounds + 1):
        for times in TIMES if number else TIMES[:1]:  # the first is a warm-up
            with tempfile.TemporaryDirectory(dir=folder) as out:
                with watched_workers() as seen:
                    grown = extra_memory(partial(timed, times * base, Path(out) / "out"))
                left = sum(one.stat().st_size for one in Path(out).rglob("*") if one.is_file())
            if number:
                rows.append(
                    {
                        "step": step,
                        "n": times * base,
                        "times": times,
                        "round": number,
                        "seconds": used[0],
                        "processor_seconds": used[1],
                        "memory_bytes": grown + max(seen),
                        "disk_bytes": left,
                    }
                )
    return rows


def write(rows: Sequence[dict[str, object]], out: Path) -> None:
    """The table, printed, and the measurements and the figure, as files."""
    import pandas as pd

    from benchmarks.cost_steps import STEPS
    from figures import style
    from figures.costs import cost_curves, fit_growth
    from fitclip_kit.store.files import atomic_path, file_sha256

    measured = pd.DataFrame(rows)
    with atomic_path(out / "costs.csv") as temporary:
        measured.to_csv(temporary, index=False)
    growths = {}
    print("| step | n | processor s | fit, s | off by | exponent | peak memory, MB | disk, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for step, own in measured.groupby("step", sort=False):
        one = STEPS[str(step)]
        growth = fit_growth(own["n"], own["processor_seconds"], one.order)
        growths[one.what] = growth
        by_n = own.groupby("n")
        power = "n" if one.order == 1 else "n²"
        cells = [
            one.what,
            f"{own['n'].min():,} to {own['n'].max():,}",
            ", ".join(f"{value:.3g}" for value in by_n["processor_seconds"].median()),
            f"{growth.fixed:.2g} + {growth.slope:.3g} {power}",
            f"{growth.worst:.0%}",
            f"{growth.exponent:.2f} [{growth.low:.2f}, {growth.high:.2f}]",
            *(_in_megabytes(by_n[name].max()) for name in ("memory_bytes", "disk_bytes")),
        ]
        print(f"| {' | '.join(cells)} |")
    measured["step"] = [STEPS[str(step)].what for step in measured["step"]]
    figure = cost_curves(measured, growths)
    digest = file_sha256(out / "costs.csv")
    files = style.save(figure, out / "costs", {"measurements": digest})
    print(f"\n{', '.join(map(str, [out / 'costs.csv', *files]))}")


def _in_megabytes(by_n: pd.Series[int]) -> str:
    """The megabytes of each n, and by how many bytes the fit grows with each of n."""
    from figures.costs import fit_growth

    if not (by_n > 0).all():
        return "-"
    each = fit_growth(by_n.index, by_n, 1).slope
    return f"{', '.join(f'{value / 1e6:.3g}' for value in by_n)} ({each:,.0f} B each)"


if __name__ == "__main__":
    main()
