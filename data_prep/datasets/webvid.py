"""WebVid: stock videos with their captions, 2.5 million (Bain et al., ICCV 2021).

Files, under the root (the authors gave them out until February 2024, and no longer do):

- `results_2M_val.csv` or `results_2M_train.csv`, in the root or `metadata/`. Columns `videoid` and
  `name` (the caption), and where there is one `page_dir`; in any order, as two are in use.
- Videos, in either layout: `027701_027750/1000000001.mp4` in `page_dir`'s folder, as Frozen in Time
  has them, or `1000000001.mp4`, as FitCLIP has them. They are looked for in
  `videos_low_resolution/val/val_lowres/` (`train/webvid_lowres/` for train), `val/val_lowres/`
  (`train/webvid_lowres/`), `videos/val/`, `videos/`, `val/` and the root; the folder and layout in
  which most are found is taken.

Option: split, val (about 5,000 videos, the paper's validation) or train. Items are in the table's
order, their ids are the video ids.

Quirks: rows without a caption are left out and listed. Captions are used whole, as in the official
FitCLIP code, which evaluates all of val; Frozen in Time cuts them at 350 characters and evaluates
1,000 drawn videos. A video id that is there twice is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.annotations import digests, read_table, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import one_of
from data_prep.datasets.layout import Files, find_file
from data_prep.datasets.official import size_notes

_LOW_RESOLUTION = {"val": "val/val_lowres", "train": "train/webvid_lowres"}


def load(root: Path, *, split: str = "val") -> DataSet:
    """WebVid from its official files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/webvid.py`; for the layout by `page_dir`, Frozen
    in Time's `data_loader/WebVid_dataset.py`.
    """
    one_of("split", split, tuple(_LOW_RESOLUTION))
    name = f"results_2M_{split}.csv"
    file = find_file(root, [name, f"metadata/{name}"], f"WebVid table of {split}")
    table = read_table(file, ["videoid", "name"], optional=["page_dir"])
    _require_form(table, "videoid", r"[0-9]+", file)
    unique(table["videoid"], "videoid", file)
    silent = table["name"].str.strip() == ""
    left_out = [(video, "it has no caption", file.name) for video in table["videoid"][silent]]
    annotated = len(table)
    size = size_notes("webvid", split, file, {f"rows in {split}": annotated})
    table = table[~silent].reset_index(drop=True)
    if "page_dir" in table:
        _require_form(table, "page_dir", r"[0-9]+_[0-9]+", file)

    paths, found, layout = _find_videos(root, split, table)
    return data_set(
        "webvid",
        root,
        pd.DataFrame(
            {"clip_id": table["videoid"], "path": paths, "text": table["name"], "split": split}
        ),
        dropped=left_out,
        annotated=annotated,
        found=found,
        protocol={
            "data_set": "WebVid",
            "split": split,
            "captions": "each video's one caption, whole",
            "layout": layout,
            "annotations": digests(file),
        },
        size=size,
    )


def _require_form(table: pd.DataFrame, column: str, form: str, file: Path) -> None:
    wrong = table[~table[column].str.fullmatch(form)]
    if len(wrong):
        raise ValueError(
            f"{file}, line {wrong['line'].iloc[0]}: {wrong[column].iloc[0]!r} is no {column} "
            f"({len(wrong)} such rows); take the original file"
        )


def _find_videos(root: Path, split: str, table: pd.DataFrame) -> tuple[pd.Series, np.ndarray, str]:
    """The videos' paths, whether each is there, and the layout in words: of the first layout that
    has more than half of the videos, else of the one that has most."""
    layouts = _layouts(root, split, table)
    best = next(layouts)
    while 2 * best[1].sum() <= len(table) and (other := next(layouts, None)) is not None:
        best = max(best, other, key=lambda layout: layout[1].sum())
    return best


def _layouts(
    root: Path, split: str, table: pd.DataFrame
) -> Iterator[tuple[pd.Series, np.ndarray, str]]:
    for folder in _folders(root, split):
        files = Files(root, root / folder)
        prefix = "" if folder == "." else f"{folder}/"
        for page in ("{page_dir}/", "") if "page_dir" in table else ("",):
            pages = table["page_dir"] + "/" if page else ""
            paths = prefix + pages + table["videoid"] + ".mp4"
            found = paths.isin(files.paths).to_numpy(dtype=bool)
            yield paths, found, f"{prefix}{page}{{videoid}}.mp4"


def _folders(root: Path, split: str) -> Iterator[str]:
    """Where the videos may lie; the root, and all that is in it, comes last."""
    low = _LOW_RESOLUTION[split]
    for folder in (f"videos_low_resolution/{low}", low, f"videos/{split}", "videos", split):
        if (root / folder).is_dir():
            yield folder
    yield "."
