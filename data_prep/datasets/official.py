"""How many items the official annotations have, and what is said of one that has another number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

OFFICIAL: Final = "official"
_SLACK: Final = 1.02  # how far a true list may lie above a rounded number


class About(int):
    """A number that is known from texts only, or rounded there."""


COUNTS: Final[dict[str, dict[str, dict[str, int]]]] = {
    "msrvtt": {
        "1ka_test": {"videos": 1_000},
        "1ka_train": {"videos": 9_000},
        "full_train": {"videos": 6_513},
        "full_val": {"videos": 497},
        "full_test": {"videos": 2_990},
        "1kb_test": {"videos": 1_000},
        "1kb_train": {"videos": 6_656},
    },
    "didemo": {
        "val": {"descriptions": 4_180, "videos": 1_065},
        "test": {"descriptions": 4_021, "videos": 1_004},
        "train": {"descriptions": About(33_005), "videos": 8_395},
    },
    "youcook2": {
        "mil_nce val": {"steps": 3_350},
        "official val": {"steps": 3_492, "videos": 457},
        "official train": {"steps": 10_337, "videos": 1_333},
    },
    "ucf101": {
        "classInd": {"classes": 101},
        "testlist01": {"videos": 3_783},
        "testlist02": {"videos": 3_734},
        "testlist03": {"videos": 3_696},
        "trainlist01": {"videos": 9_537},
        "trainlist02": {"videos": 9_586},
        "trainlist03": {"videos": 9_624},
    },
    "moments_in_time": {
        "v1": {"classes": 339},
        "v2": {"classes": 305},
        "v1 validation": {"videos": 33_900},
        "v2 validation": {"videos": 30_500},
        "v1 training": {"videos": About(802_264)},
        "v2 training": {"videos": About(727_305)},
    },
    "webvid": {"val": {"rows": About(5_000)}, "train": {"rows": About(2_500_000)}},
    "cc3m": {"val": {"rows": 15_840}, "train": {"rows": 3_318_333}},
    "coco": {
        "val 2017": {"pictures": 5_000, "captions": 25_014},
        "train 2017": {"pictures": 118_287, "captions": 591_753},
        "val 2014": {"pictures": 40_504, "captions": 202_654},
        "train 2014": {"pictures": 82_783, "captions": 414_113},
    },
}
"""Loader -> part of the data set -> what is counted -> how many there are.

Sources: the files themselves where they are public; the data sets' papers and pages for Moments in
Time, WebVid, COCO, CC3M and DiDeMo's train."""


def size_notes(loader: str, part: str, file: Path, found: Mapping[str, int]) -> tuple[str, ...]:
    """What differs from the official numbers, such as "20 rows in val; officially there are about
    5,000", a text each; nothing where they are the same. Annotations that lost rows over time and
    deliberate subsets are so told from the official ones in every result's protocol.

    part: a key of `COUNTS[loader]`. file: what to name in an error.
    found: how many there are, by what they are; the first word is the key in `COUNTS`.

    Raises: ValueError for more than there are officially, or exactly as many as another part has:
    then the file is another list.
    """
    parts, notes = COUNTS[loader], []
    for what, number in found.items():
        noun = what.split()[0]
        known = parts[part][noun]
        rounded = isinstance(known, About)
        shown = f"{'about ' if rounded else ''}{known:,}"
        if number > known * (_SLACK if rounded else 1):
            raise ValueError(
                f"{file} has {number:,} {noun} and {part} has {shown}, so it is another list; take "
                "the original file"
            )
        others = [name for name, counts in parts.items() if counts.get(noun) == number != known]
        if others:
            raise ValueError(
                f"{file} has {number:,} {noun}, as {others[0]} has, and {part} has {shown}; take "
                "the original file"
            )
        if number != known:
            notes.append(f"{number:,} {what}; officially there are {shown}")
    return tuple(notes)
