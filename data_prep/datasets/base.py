"""What every loader shares: the account of an annotation that it reads, and the data set that comes
of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from data_prep.annotations import digests
from data_prep.clips import validate
from data_prep.datasets.layout import find_file

DROPPED_COLUMNS = ("item", "reason", "source")
OFFICIAL: Final = "official"
_SLACK: Final = 1.02  # how far a true list may lie above a rounded number


class About(int):
    """A number that is known from texts only, or rounded there."""


Counts = Mapping[str, Mapping[str, int]]
"""Part of a data set -> what is counted -> how many there are officially."""


@dataclass(frozen=True)
class DataSet:
    """One data set as its official annotation describes it, checked against the files on disk.

    Attributes:
        name: how results call it.
        root: the folder that the clips' paths start from.
        clips: the clips table, those without a file included.
        missing: DataFrame (clip_id, path) of the clips whose file is not there.
        dropped: DataFrame (item, reason, source) of what the annotation holds and the table does
            not: the row or video, why, and the annotation file's name.
        annotated: items of the chosen split in the annotation, before anything was dropped.
        templates: prompts, each with one `{}`; empty for retrieval.
        classes: the class names of a recognition set, in the annotation's order; empty otherwise.
        protocol: JSON data for the results: `data_set` (official name), `split`, `captions` (which
            text, if any), `prompts`, `annotations` (file name -> sha256), `annotation_size`
            ("official", or how it differs) and what else matters.
        notes: quirks that a reader of the numbers should know, one sentence each.
    """

    name: str
    root: Path
    clips: pd.DataFrame
    missing: pd.DataFrame
    dropped: pd.DataFrame
    annotated: int
    templates: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the table's clips whose file is there."""
        return (len(self.clips) - len(self.missing)) / len(self.clips)

    def check_missing(self, ceiling: float) -> None:
        """Stop where too many files are missing for the numbers to mean the data set.

        ceiling: the largest share of the clips that may be missing, in [0, 1].

        Raises: ValueError that counts them, names the first, and says what to do.
        """
        if not 0 <= ceiling <= 1:
            raise ValueError(f"the ceiling on missing files is {ceiling}; give a share in [0, 1]")
        share = len(self.missing) / len(self.clips)
        if share <= ceiling:
            return
        first = ", ".join(self.missing["path"].drop_duplicates().head(3))
        raise ValueError(
            f"{self.name}: {len(self.missing)} of {len(self.clips)} clips ({share:.1%}) have no "
            f"file under {self.root}, more than the {ceiling:.1%} allowed; the first: {first}. "
            "Check the folder and its layout (fitclip check-data), or allow more (max_missing)"
        )


def data_set(
    name: str,
    root: Path,
    rows: Sequence[Mapping[str, Any]] | pd.DataFrame,
    *,
    dropped: Iterable[tuple[str, str, str]] = (),
    annotated: int,
    found: Sequence[bool] | np.ndarray,
    templates: Sequence[str] = (),
    classes: Sequence[str] = (),
    protocol: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> DataSet:
    """Check rows and put a data set together.

    rows: one mapping a clip and text with the clips table's columns (`data_prep.clips.COLUMNS`), or
        a DataFrame of them.
    dropped: (item, reason, annotation file) of what was left out.
    found: for each row, whether its file is there.

    Raises: ValueError when there is no row, a row is no valid clip (path outside the root,
    repeated id, end before start, ...), or a video has several labels, naming it.
    """
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if table.empty:
        raise ValueError(f"{name}: the annotation of this split has no usable row; see its files")
    try:
        clips = validate(table)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    absent = ~np.asarray(found, dtype=bool)
    return DataSet(
        name,
        root,
        clips,
        clips.loc[absent, ["clip_id", "path"]].reset_index(drop=True),
        pd.DataFrame(list(dropped), columns=list(DROPPED_COLUMNS), dtype="str"),
        annotated,
        tuple(templates),
        tuple(classes),
        protocol,
        tuple(notes),
    )


@dataclass
class Annotation:
    """The account of what a loader reads of a data set.

    Attributes:
        name, root: the loader's name, and the data set's own folder.
        counts: the official numbers; empty where there is no official annotation.
        files: the annotation's files, which the protocol names with their digests.
        dropped, notes: as `data_set` takes them.
        sizes: how the numbers differ from the official ones, for notes and protocol. Annotations
            that lost rows over time and deliberate subsets are so told in every result.
    """

    name: str
    root: Path
    counts: Counts
    files: list[Path] = field(default_factory=list)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def file(self, candidates: Sequence[str], what: str) -> Path:
        """`layout.find_file`, and one of the annotation's files from now on."""
        self.files.append(find_file(self.root, candidates, what))
        return self.files[-1]

    def leave_out(self, item: str, reason: str, source: str | None = None) -> None:
        """List an item as left out. source: by default the first of the files."""
        self.dropped.append((item, reason, source or self.files[0].name))

    def captions(
        self, video: str, texts: Iterable[str], *, first: bool, source: str | None = None
    ) -> list[tuple[str, str]]:
        """(clip id, caption) of a video's captions in their order, or of the first that holds
        something; the empty ones, and a video that has no other, are left out."""
        kept = []
        for number, text in enumerate(texts):
            if text.strip():
                kept.append((f"{video}_{number}", text))
            else:
                self.leave_out(f"{video}_{number}", "the caption is empty", source)
        if not kept:
            self.leave_out(video, "it has no caption", source)
        return [(video, text) for _, text in kept[:1]] if first else kept

    def compare(self, part: str, file: Path, found: Mapping[str, int]) -> None:
        """Compare numbers with the official ones of a part of the data set.

        found: how many there are in the file, by what they are; the first word is the official
            numbers' key.

        Raises: ValueError for more than there are officially, or exactly as many as another part
        has: then the file is another list.
        """
        for what, number in found.items():
            noun = what.split()[0]
            known = self.counts[part][noun]
            if number == known:
                continue
            about, slack = ("about ", _SLACK) if isinstance(known, About) else ("", 1)
            parts = [name for name, counts in self.counts.items() if counts.get(noun) == number]
            if number > known * slack:
                wrong = f" and {part} has {about}{known:,}, so it is another list"
            elif parts:
                wrong = f", as {parts[0]} has, and {part} has {about}{known:,}"
            else:
                self.sizes.append(f"{number:,} {what}; officially there are {about}{known:,}")
                continue
            raise ValueError(f"{file} has {number:,} {noun}{wrong}; take the original file")

    def data_set(
        self,
        title: str,
        split: str,
        rows: pd.DataFrame,
        found: Sequence[bool] | np.ndarray,
        *,
        annotated: int,
        templates: Sequence[str] = (),
        classes: Sequence[str] = (),
        **protocol: str,
    ) -> DataSet:
        """`data_set` of some rows and this account.

        title: the official name. protocol: what else belongs into it.
        """
        files = {"annotations": digests(*self.files)}
        size = {"annotation_size": "; ".join(self.sizes) or OFFICIAL} if self.counts else {}
        return data_set(
            self.name,
            self.root,
            rows,
            dropped=self.dropped,
            annotated=annotated,
            found=found,
            templates=templates,
            classes=classes,
            protocol={"data_set": title, "split": split, **protocol, **files, **size},
            notes=(*self.notes, *(f"the annotation has {one}" for one in self.sizes)),
        )
