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

from __future__ import annotations

import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.annotations import read_table, read_text
from data_prep.datasets.base import Annotation, DataSet
from data_prep.datasets.layout import Files
from data_prep.datasets.records import require_form

OFFICIAL_COUNTS = {"val": {"rows": 15_840}, "train": {"rows": 3_318_333}}
_TABLES = {
    "val": ("Validation_GCC-1.1.0-Validation.tsv", "GCC-1.1.0-Validation.tsv"),
    "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "GCC-training.tsv"),
}
_CRC_FOLDERS = {"val": "validation", "train": "training"}
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:\x00-\x1f]+")


def load(root: Path, *, split: Literal["val", "train"] = "val") -> DataSet:
    """Conceptual Captions 3M from its files."""
    annotation = Annotation("cc3m", root, OFFICIAL_COUNTS)
    merged = f"gcc3m_{split}_merge.csv"
    candidates = [f"annotation_files/{merged}", merged]
    candidates += [f"{folder}{name}" for name in _TABLES[split] for folder in ("", "annotations/")]
    file = annotation.file(candidates, "CC3M captions")
    if file.name == merged:
        table = read_table(file, ["text", "url", "name"], header=False)
        require_form(table["name"], table["line"], _FILE_NAME, "file name", file)
    else:
        table = _google(file)
    folder = split if file.name == merged else _CRC_FOLDERS[split]
    annotation.compare(split, file, {f"rows in {split}": len(table)})

    repeats = Counter(table["name"])
    kept = []
    for line, name, text in zip(table["line"], table["name"], table["text"], strict=True):
        empty = not text.strip()
        kept.append(repeats[name] == 1 and not empty)
        if repeats[name] > 1:
            reason = f"{repeats[name]} rows have this file name; whose picture it is is unknown"
            annotation.leave_out(f"line {line}: {name}", reason)
        elif empty:
            annotation.leave_out(f"line {line}: {name}", "the caption is empty")
    pictures = table[kept]
    paths = f"{folder}/" + pictures["name"]
    files = Files(root, root / folder).paths
    return annotation.data_set(
        "CC3M",
        split,
        pd.DataFrame(
            {"clip_id": pictures["name"], "path": paths, "text": pictures["text"], "split": split}
        ),
        [path in files for path in paths],
        annotated=len(table),
        captions="the picture's alt text",
    )


def _google(file: Path) -> pd.DataFrame:
    """Google's table: text, name (CRC-32 of the URL) and line."""
    rows = []
    for line, content in enumerate(read_text(file).split("\n"), start=1):
        if not content.strip():
            continue
        fields = content.split("\t")
        if len(fields) != 2 or not fields[1].strip():
            raise ValueError(
                f"{file}, line {line}: {len(fields)} fields where caption, tab and URL belong; the "
                "file is cut off there, or no CC3M table"
            )
        rows.append((fields[0], str(zlib.crc32(fields[1].strip().encode())), line))
    return pd.DataFrame(rows, columns=["text", "name", "line"])
