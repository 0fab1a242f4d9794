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
import tempfile
from itertools import islice
from pathlib import Path

import pandas as pd

from benchmarks.damage_outcomes import Outcome, outcomes, sound_sources
from benchmarks.damaged_videos import IN_PICTURES, encoded_sources, mutations

BATCH = 100  # files that are on disk at a time


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of sound clips")
    parser.add_argument("--count", type=int, default=2000, help="default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    given = parser.parse_args()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        if given.videos is None:
            sources = encoded_sources(Path(name) / "sound")
        else:
            sources = sound_sources(given.videos)
        print(f"{given.count} mutations of {len(sources)} clips, seed {given.seed}\n")
        made = mutations(sources, given.count, given.seed)
        while batch := list(islice(made, BATCH)):
            with tempfile.TemporaryDirectory(dir=name) as folder:
                found += outcomes(batch, Path(folder), workers=1, deadline=60.0)
    table = pd.DataFrame(
        [(one.mutation.kind, one.codec, one.how, one.difference, one.reason) for one in found],
        columns=["kind", "codec", "how", "difference", "reason"],
    )
    print(_counted(table, "kind"), "\n\nOf those that hit the pictures:\n")
    print(_counted(table[table["kind"].isin(IN_PICTURES)], "codec"), "\n\nThe reasons:\n")
    print(table.loc[table["reason"] != "", "reason"].value_counts().to_string())


def _counted(table: pd.DataFrame, by: str) -> str:
    """Counts of outcomes, one row a kind or codec, and the largest silent difference."""
    counts = pd.crosstab(table[by], table["how"], margins=True)
    silent = table[table["how"] == "different"]
    worst = silent.groupby(by)["difference"].max().rename("grey levels, at most")
    return counts.join(worst).to_string()


if __name__ == "__main__":
    main()
