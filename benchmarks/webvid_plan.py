"""The method on all of WebVid's 2.5 million clips, on paper: hours, disk, nodes and money.

    python -m benchmarks.webvid_plan
    python -m benchmarks.webvid_plan --set gpu_images=5000 --set gpu_price=2 --set students=1

Measured here, in two or three minutes: decoding of films of about WebVid's size (596 x 336, 18 s;
its project page has 52,000 hours of 10.7 million clips, 17.5 s each), ViT-B/16's towers, and ranks.
All other numbers come from sources or are assumed; the output says which, and `--set` changes them.
No GPU was measured for it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Decoding processes import this module again, so what is heavy is imported where it is used.


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webvid_plan", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--films", type=int, default=64, help="to decode (default: 64)")
    parser.add_argument("--vectors", type=int, default=10_000, help="to rank (default: 10000)")
    parser.add_argument("--seconds", type=float, default=60, help="of the towers (default: 60)")
    given = parser.parse_args(arguments)
    changed = {}
    for one in given.set:
        name, _, value = one.partition("=")
        try:
            changed[name] = float(value)
        except ValueError:
            parser.error(f"--set {one}: write NAME=VALUE, with a number")

    from fitclip_kit.engine.run import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # how threads wait; read when the models are imported
    from benchmarks.webvid_costs import unit_costs
    from fitclip_kit.engine.webvid_plan import NUMBERS, report, webvid_plan

    if unknown := sorted(set(changed) - set(NUMBERS)):
        parser.error(f"no number {', '.join(unknown)}; there are {', '.join(NUMBERS)}")
    with tempfile.TemporaryDirectory() as folder:
        costs = unit_costs(Path(folder), given.films, given.vectors, given.seconds)
    try:
        print(report(webvid_plan(costs, changed)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
