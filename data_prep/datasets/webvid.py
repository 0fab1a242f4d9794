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

import re
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.layout import scan
from data_prep.datasets.reader import About, Annotation, blank, check_form, table

OPTIONS = {"split": ("val", "train")}
COUNTS = {"val": {"rows": About(5_000)}, "train": {"rows": About(2_500_000)}}
_LOW_RESOLUTION = {"val": "val/val_lowres", "train": "train/webvid_lowres"}
_VIDEO_ID = re.compile(r"[0-9]+")
_PAGE = re.compile(r"[0-9]+_[0-9]+")


def load(account: Annotation, split: str) -> DataSet:
    """WebVid from its official files."""
    name = f"results_2M_{split}.csv"
    file = account.file(f"WebVid table of {split}", [name], ["", "metadata/"])
    every = table(file, ["videoid", "name"], optional=["page_dir"])
    check_form(every, "videoid", _VIDEO_ID, "videoid")
    unique(every["videoid"], "videoid", file)
    account.compare(split, file, {f"rows in {split}": len(every)})
    silent = np.where(blank(every["name"]), "it has no caption", "")
    rows = account.keep(every, every["videoid"], silent)
    if "page_dir" in rows:
        check_form(rows, "page_dir", _PAGE, "page_dir")

    layout, rows = _locate(account.root, split, rows)
    return account.data_set(
        "WebVid",
        split,
        rows.assign(clip_id=rows["videoid"], text=rows["name"], split=split),
        annotated=len(every),
        captions="each video's one caption, whole",
        layout=layout,
    )


def _locate(root: Path, split: str, rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The first layout that has more than half of the videos, else the one that has most, and the
    rows with their paths in it."""
    low = _LOW_RESOLUTION[split]
    folders = (f"videos_low_resolution/{low}", low, f"videos/{split}", "videos", split)
    # The root, and all that is in it, comes last.
    places = [*(folder for folder in folders if (root / folder).is_dir()), ""]
    pages = ("{page_dir}/", "") if "page_dir" in rows else ("",)
    files_of = cache(partial(scan, root))
    best, most = ("", rows), -1
    for folder, page in product(places, pages):
        prefix = f"{folder}/" if folder else ""
        paths = prefix + (rows["page_dir"] + "/" if page else "") + rows["videoid"] + ".mp4"
        found = paths.isin(files_of(folder))
        if found.sum() > most:
            most = found.sum()
            best = f"{prefix}{page}{{videoid}}.mp4", rows.assign(path=paths, found=found)
        if 2 * most > len(rows):
            break
    return best
