"""What the frame store makes of damaged videos, in numbers.

    python -m benchmarks.video_mutations --videos FOLDER
    python -m benchmarks.video_mutations --count 100

Sound clips (those of a folder that can be decoded and are not large, else some encoded on the
spot) are damaged by a seeded generator (`benchmarks.damaged_videos`), put through
`frame_store.build`, and compared with the frames of the sound clips. Printed are, for each kind of
damage and, where the pictures were hit, for each codec: how often the frames are identical, how
often the clip is listed as failed, how often the frames differ without a word and by how many grey
levels, and how often a worker had to be killed or crashed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from benchmarks.damage_outcomes import Outcome, outcomes, sound_sources
from benchmarks.damaged_videos import IN_PICTURES, encoded_sources, mutations

HOW = ("identical", "reported", "different", "killed", "crashed")
BATCH = 100  # files that are on disk at a time


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.video_mutations", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--videos", type=Path, help="folder of sound clips")
    parser.add_argument("--count", type=int, default=2000, help="default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--workers", type=int, default=1, help="default: 1")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a clip; default: 60")
    parser.add_argument("--backend", default="auto", help="auto (default), decord or pyav")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.videos is None:
            sources = encoded_sources(folder / "sound")
        else:
            sources = sound_sources(given.videos)
        print(f"{given.count} mutations of {len(sources)} clips, seed {given.seed}\n")
        found = list(_found(sources, given, folder))
    table = pd.DataFrame(
        [(one.mutation.kind, one.codec, one.how, one.difference) for one in found],
        columns=["kind", "codec", "how", "difference"],
    )
    print(_printed(table, "kind"), end="\n\n")
    print("Of those that hit the pictures:\n")
    print(_printed(table[table["kind"].isin(IN_PICTURES)], "codec"), end="\n\n")
    print("The reasons:\n")
    print(pd.Series([one.reason for one in found if one.reason]).value_counts().to_string())


def _found(sources: Sequence[Path], given: argparse.Namespace, folder: Path) -> Iterator[Outcome]:
    made = mutations(sources, given.count, given.seed)
    done = 0
    while batch := list(islice(made, BATCH)):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield from outcomes(
                batch,
                Path(place),
                workers=given.workers,
                deadline=given.deadline,
                backend=given.backend,
            )
        done += len(batch)
        print(f"{done} done", file=sys.stderr)


def _printed(table: pd.DataFrame, by: str) -> str:
    """A Markdown table of counts, one row a kind or codec."""
    lines = [
        f"| {by} | files | {' | '.join(HOW)} | largest difference, grey levels |",
        "| --- " * (len(HOW) + 3) + "|",
    ]
    for name, rows in [*table.groupby(by, sort=False), ("all", table)]:
        counts = rows["how"].value_counts()
        numbers = " | ".join(str(counts.get(how, 0)) for how in HOW)
        worst = rows.loc[rows["how"] == "different", "difference"].max()
        shown = "" if pd.isna(worst) else f"{worst:.1f}"
        lines.append(f"| {name} | {len(rows)} | {numbers} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
