"""The frame store: decoding beside the bare decoder, and reading beside a sweep's forward passes.

    python -m benchmarks.frame_store
    python -m benchmarks.frame_store --videos 100 --rounds 1

Two kinds of videos are made: the mini benchmark's clips (96 x 96, 2 seconds), where what is done
once a file counts most, and films of the size and length of WebVid's (596 x 336, 18 seconds, 25
frames a second, a moving texture). For both, and for each decoder that is installed,
`frame_store.build` and the bare decoder take turns on all cores, from the start of their processes
to the end. The bare decoder resizes the same frames, keeps none and checks nothing.

Reading is measured in a sweep's encoding of a store of the mini benchmark's clips: the seconds that
reads take, with the files in the page cache and (Linux) with them dropped from it before each pass,
as shares of all seconds. A thread reads a batch while the one before it is computed, so these
shares are the most that the encoder can have waited.
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frame_store", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=1000, help="of the mini benchmark")
    parser.add_argument("--videos", type=int, default=200, help="of WebVid's size")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    given = parser.parse_args(arguments)

    from fitclip_kit.engine.run import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # how threads wait; read when the models are imported
    from benchmarks.frame_store_ways import decoding, films, mini_clips, reading

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| videos | decoder | store, clips/s | bare, clips/s | store / bare |")
        print("| --- | --- | --- | --- | --- |")
        mini = mini_clips(folder / "mini", given.clips)
        for kind, clips, size in (
            ("mini", mini, 40),
            ("WebVid's size", films(folder / "films", given.videos), 224),
        ):
            for line in decoding(clips, folder, size, given.rounds):
                print(f"| {kind} | {' | '.join(line)} |")
        print(reading(mini, folder, given.rounds))


if __name__ == "__main__":
    main()
