"""An alpha sweep, videos to stored outcomes, beside the plain way and beside its least parts.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --clips 50 --rounds 1

The six evaluation sets of the mini benchmark, its teacher, and one student, whose weights are the
teacher's with noise (no time depends on them). Three ways take turns in one run:

    kit      frame stores built anew, `measure`, outcomes of both directions stored
    plain    the method of the paper's code, written here: for each alpha a deep copy of the model,
             every video decoded again and transformed in floating point, captions tokenised again
             and padded, an argsort of the whole score matrix (one direction)
    least    every video decoded once by the bare decoder, and a forward pass an alpha over pictures
             and token ids that lie ready in memory

All of them use all cores. Ratios are medians of each round's, of seconds and of processor seconds,
which say more where others use the machine, and nothing of waiting.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Decoding processes import this module again, so the models are imported where they are used.


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=200, help="a data set (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--precision", default="float32", help="of the kit: float32 or bfloat16")
    given = parser.parse_args(arguments)

    from fitclip_kit.engine.run import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # how threads wait; read when the models are imported
    import pandas as pd

    from benchmarks.side_by_side import seconds
    from benchmarks.sweep_ways import Ways, differences

    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(Path(folder), given.clips, given.device, given.precision)
        print(ways.described)
        timed: dict[str, Callable[[], object]] = {
            "kit": ways.kit,
            "plain": ways.plain,
            "decode": ways.decode,
            "forward": partial(ways.forward, len(ways.alphas)),
        }
        used: dict[str, list[float]] = {name: [] for name in timed}
        found: dict[str, Any] = {}
        counted = {name: partial(_counted, name, way, used, found) for name, way in timed.items()}
        taken = seconds(counted, given.rounds)
    print(differences(found["kit"], found["plain"]))
    tables = {"seconds": taken, "processor seconds": pd.DataFrame(used)}
    for what, table in tables.items():
        table["least"] = table["decode"] + table["forward"]
        print(f"{what}:", ", ".join(f"{name} {v:.1f}" for name, v in table.median().items()))
        print(
            f"    plain / kit {(table['plain'] / table['kit']).median():.1f} (wanted: 5 or more), "
            f"kit / least {(table['kit'] / table['least']).median():.2f} (wanted: 1.2 or less)"
        )


def _counted(
    name: str, way: Callable[[], object], used: dict[str, list[float]], found: dict[str, Any]
) -> None:
    """Run it, keep what it found, and note the processor seconds of this process and of those that
    it ended."""
    before = sum(os.times()[:4])
    found[name] = way()
    used[name].append(sum(os.times()[:4]) - before)


if __name__ == "__main__":
    main()
