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

Source: FitCLIP's official code, `aligner/data/webvid.py`; for the layout by `page_dir`, Frozen in
Time's `data_loader/WebVid_dataset.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from data_prep.annotations import read_table, unique
from data_prep.datasets.base import About, Annotation, DataSet
from data_prep.datasets.layout import Files
from data_prep.datasets.records import require_form

OFFICIAL_COUNTS = {"val": {"rows": About(5_000)}, "train": {"rows": About(2_500_000)}}
_LOW_RESOLUTION = {"val": "val/val_lowres", "train": "train/webvid_lowres"}
_VIDEO_ID = re.compile(r"[0-9]+")
_PAGE = re.compile(r"[0-9]+_[0-9]+")
Layout = tuple[pd.Series, np.ndarray, str]  # each video's path, whether it is there, in words


def load(root: Path, *, split: Literal["val", "train"] = "val") -> DataSet:
    """WebVid from its official files."""
    annotation = Annotation("webvid", root, OFFICIAL_COUNTS)
    name = f"results_2M_{split}.csv"
    file = annotation.file([name, f"metadata/{name}"], f"WebVid table of {split}")
    table = read_table(file, ["videoid", "name"], optional=["page_dir"])
    annotated = len(table)
    require_form(table["videoid"], table["line"], _VIDEO_ID, "videoid", file)
    unique(table["videoid"], "videoid", file)
    annotation.compare(split, file, {f"rows in {split}": annotated})
    silent = table["name"].str.strip() == ""
    for video in table["videoid"][silent]:
        annotation.leave_out(video, "it has no caption")
    table = table[~silent].reset_index(drop=True)
    if "page_dir" in table:
        require_form(table["page_dir"], table["line"], _PAGE, "page_dir", file)

    paths, found, layout = _find_videos(root, split, table)
    return annotation.data_set(
        "WebVid",
        split,
        pd.DataFrame(
            {"clip_id": table["videoid"], "path": paths, "text": table["name"], "split": split}
        ),
        found,
        annotated=annotated,
        captions="each video's one caption, whole",
        layout=layout,
    )


def _find_videos(root: Path, split: str, table: pd.DataFrame) -> Layout:
    """The first layout that has more than half of the videos, else the one that has most."""
    layouts = _layouts(root, split, table)
    best = next(layouts)
    while 2 * best[1].sum() <= len(table) and (other := next(layouts, None)) is not None:
        best = max(best, other, key=lambda layout: layout[1].sum())
    return best


def _layouts(root: Path, split: str, table: pd.DataFrame) -> Iterator[Layout]:
    low = _LOW_RESOLUTION[split]
    folders = (f"videos_low_resolution/{low}", low, f"videos/{split}", "videos", split)
    # The root, and all that is in it, comes last.
    for folder in (*(folder for folder in folders if (root / folder).is_dir()), "."):
        files = Files(root, root / folder)
        prefix = "" if folder == "." else f"{folder}/"
        for page in ("{page_dir}/", "") if "page_dir" in table else ("",):
            pages = table["page_dir"] + "/" if page else ""
            paths = prefix + pages + table["videoid"] + ".mp4"
            found = paths.isin(files.paths).to_numpy(dtype=bool)
            yield paths, found, f"{prefix}{page}{{videoid}}.mp4"
