"""What the frame store makes of damaged videos: the frames of the sound ones, or a failure.

    python -m benchmarks.video_mutations --videos FOLDER
    python -m benchmarks.video_mutations --count 100

Sound clips (those of a folder that can be decoded and are not large, else some encoded on the
spot) are damaged by a seeded generator, put through `frame_store.build`, and compared. Printed are,
for each kind of damage and, where the pictures were hit, for each codec: how often the frames are
identical, how often the clip is listed as failed, how often the frames differ without a word and by
how many grey levels, and how often a worker had to be killed or crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd

from benchmarks.damaged_videos import IN_PICTURES, Mutation, encoded_sources, mutations
from data_prep import frame_store, video
from data_prep.clip_frames import FrameRule
from data_prep.sampling import midpoint_indices

RULE = FrameRule(n_frames=4, size=64)
MOST_BYTES = 2_000_000  # of a sound file
BATCH = 100  # files that are on disk at a time
_FAILURES = {"not done after": "killed", "the decoder crashed": "crashed"}


@dataclass(frozen=True)
class Outcome:
    """What the frame store made of a mutation.

    how: "identical" to the frames of the sound file, "reported" as a failure, silently "different",
        "killed" at the deadline, or "crashed".
    difference: of the frames, the mean of the worst one in grey levels; NaN where there are more or
        fewer frames than there should be, or none.
    reason: of the failure; empty where there was none.
    codec: of the sound file.
    """

    mutation: Mutation
    how: str
    difference: float
    reason: str
    codec: str


def outcomes(
    made: Sequence[Mutation], folder: Path, *, workers: int, deadline: float
) -> list[Outcome]:
    """Write the files into `folder`, build a frame store of them there, and compare."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    names = [f"{number:05d}{mutation.ending}" for number, mutation in enumerate(made)]
    for name, mutation in zip(names, made, strict=True):
        (videos / name).write_bytes(mutation.content)
    clips = pd.DataFrame({"clip_id": names, "path": names})
    work: dict[str, Any] = {"workers": workers, "deadline": deadline, "progress": False}
    store = frame_store.build(clips, videos, folder / "store", RULE, **work)
    failures = store.failures.set_index("clip_id")["reason"]
    found = []
    for name, mutation in zip(names, made, strict=True):
        difference, reason = np.nan, str(failures.get(name, ""))
        if reason:
            known = (how for start, how in _FAILURES.items() if reason.startswith(start))
            how = next(known, "reported")
        else:
            place = store.clip_ids.index(name)
            frames = store.frames([place])[0, : store.frame_counts[place]]
            right = _right_frames(mutation.source, mutation.cut, mutation.turns)
            if frames.shape == right.shape:
                difference = float(np.abs(frames.astype(int) - right).mean(axis=(1, 2, 3)).max())
            how = "identical" if difference == 0 and mutation.holds_video else "different"
        found.append(Outcome(mutation, how, difference, reason, _codec(mutation.source)))
    return found


@cache
def _right_frames(source: Path, cut: int, turns: int) -> np.ndarray:
    def choose(times: np.ndarray) -> np.ndarray:
        return cut + midpoint_indices(0, times.size - 1 - cut, RULE.n_frames)

    clip = video.decode(source, choose, RULE.size, "pyav")
    if not turns:
        return clip.frames
    with av.open(str(source)) as container:
        pictures: Any = enumerate(container.decode(container.streams.best("video")))
        turned = {
            number: video.resize(np.rot90(picture.to_ndarray(format="rgb24"), -turns), RULE.size)
            for number, picture in pictures
            if number in clip.indices
        }
    return np.stack([turned[number] for number in clip.indices])


@cache
def _codec(source: Path) -> str:
    with av.open(str(source), metadata_errors="replace") as container:
        best: Any = container.streams.best("video")
        return str(best.codec_context.codec.canonical_name)


def _sound(folder: Path) -> list[Path]:
    """The videos below `folder` that can be decoded, without those of more than `MOST_BYTES`."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(video.DecodeError):
            if path.stat().st_size <= MOST_BYTES:
                _right_frames(path, 0, 0)
                found.append(path)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of sound clips")
    parser.add_argument("--count", type=int, default=2000, help="default: 2000")
    given = parser.parse_args()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        sources = _sound(given.videos) if given.videos else encoded_sources(Path(name) / "sound")
        print(f"{given.count} mutations of {len(sources)} clips\n")
        made = mutations(sources, given.count, seed=0)
        while batch := list(islice(made, BATCH)):
            with tempfile.TemporaryDirectory(dir=name) as folder:
                found += outcomes(batch, Path(folder), workers=1, deadline=60.0)
    table = pd.DataFrame(found)
    table["kind"] = [one.mutation.kind for one in found]
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
