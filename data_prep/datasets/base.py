"""A data set as every loader gives it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from data_prep.clips import validate

OFFICIAL: Final = "official"


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
        """Stop where a larger share of the clips than `ceiling`, in [0, 1], has no file.

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
    found: Sequence[bool] | np.ndarray | pd.Series,
    templates: Sequence[str] = (),
    classes: Sequence[str] = (),
    protocol: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> DataSet:
    """Check rows, which are a clips table (`data_prep.clips`), and put a data set together.

    found: for each row, whether its file is there. The rest is as in `DataSet`.

    Raises: ValueError when there is no row or a row is no valid clip (path outside the root,
    repeated id, end before start, several labels of a video, ...), naming it.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        raise ValueError(f"{name}: the annotation of this split has no usable row; see its files")
    try:
        clips = validate(table)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    missing = clips.loc[~np.asarray(found, dtype=bool), ["clip_id", "path"]].reset_index(drop=True)
    left_out = pd.DataFrame(list(dropped), columns=["item", "reason", "source"], dtype="str")
    described = (tuple(templates), tuple(classes), protocol, tuple(notes))
    return DataSet(name, root, clips, missing, left_out, annotated, *described)
