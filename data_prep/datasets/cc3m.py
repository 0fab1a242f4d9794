"""Conceptual Captions 3M: web pictures with their alt texts (Sharma et al., ACL 2018).

An image is a clip of one frame. Files, under the root, in either of two layouts:

- FitCLIP's: `gcc3m_val_merge.csv` or `gcc3m_train_merge.csv`, in the root or `annotation_files/`
  (no header; caption, URL, file name), and the pictures in `val/` or `train/`. Its pictures kept
  the names they had on the web; of those with one name a single file is left and nothing tells
  whose it is, so all rows of that name are left out and listed, as in the official code.
- Google's: `Validation_GCC-1.1.0-Validation.tsv` or `Train_GCC-training.tsv` (no header; caption,
  tab, URL; quotes are part of the text), and the pictures in `validation/` or `training/`, named by
  the CRC-32 of their URL without an extension, as the public download script and Frozen in Time
  name them. URLs of one CRC-32 are left out and listed too.

The CSV is taken where both are there. Option: split, val or train. Items are in the file's order.
Many pictures are gone from the web; `missing` lists them. A download in img2dataset's shards has no
list of its own here: write one as a CSV and use the `folder` loader.

Source: FitCLIP's official code, `aligner/data/conceptual_captions.py`; for the names by CRC-32,
Frozen in Time's `data_loader/ConceptualCaptions_dataset.py`.
"""

import re
import zlib

import numpy as np

from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import Annotation, blank, check_form, lines, table

OPTIONS = {"split": ("val", "train")}
COUNTS = {"val": {"rows": 15_840}, "train": {"rows": 3_318_333}}
_TABLES = {
    "val": ("Validation_GCC-1.1.0-Validation.tsv", "GCC-1.1.0-Validation.tsv"),
    "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "GCC-training.tsv"),
}
_CRC_FOLDERS = {"val": "validation", "train": "training"}
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:\x00-\x1f]+")
_GOOGLES_LINE = re.compile(r"(?P<text>[^\t]*)\t[^\S\t]*(?P<url>[^\t]*\S)[^\S\t]*")


def load(account: Annotation, split: str) -> DataSet:
    """Conceptual Captions 3M from its files."""
    merged, what = f"gcc3m_{split}_merge.csv", "CC3M captions"
    if account.there([merged], ["annotation_files/", ""]):
        file, folder = account.file(what, [merged], ["annotation_files/", ""]), split
        rows = table(file, ["text", "url", "name"], header=False)
        check_form(rows, "name", _FILE_NAME, "file name")
    else:
        names = [f"{place}{name}" for name in _TABLES[split] for place in ("", "annotations/")]
        places = [f"annotation_files/{merged}", merged, *names]
        file, folder = account.file(what, places), _CRC_FOLDERS[split]
        rows = lines(file, _GOOGLES_LINE, "caption, tab and URL")
        rows["name"] = [str(zlib.crc32(url.encode())) for url in rows["url"]]
    account.compare(split, file, {f"rows in {split}": len(rows)})

    repeats = rows.groupby("name")["name"].transform("size")
    unknown = repeats.astype("str") + " rows have this file name; whose picture it is is unknown"
    why = np.select([repeats > 1, blank(rows["text"])], [unknown, "the caption is empty"], "")
    items = (f"line {line}: {name}" for line, name in rows["name"].items())
    kept = account.keep(rows, items, why)
    return account.data_set(
        "CC3M",
        split,
        kept.assign(clip_id=kept["name"], split=split),
        [f"{folder}/" + kept["name"]],
        below=folder,
        any_extension=False,
        annotated=len(rows),
        captions="the picture's alt text",
    )
