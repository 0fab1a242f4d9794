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
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from pathlib import Path

import pandas as pd

from data_prep.annotations import digests, read_table, read_text
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import of_form, one_of
from data_prep.datasets.layout import Files, find_file
from data_prep.datasets.official import size_notes

_TABLES = {
    "val": ("Validation_GCC-1.1.0-Validation.tsv", "GCC-1.1.0-Validation.tsv"),
    "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "GCC-training.tsv"),
}
_CRC_FOLDERS = {"val": "validation", "train": "training"}
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:\x00-\x1f]+")


def load(root: Path, *, split: str = "val") -> DataSet:
    """Conceptual Captions 3M from its files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/conceptual_captions.py`; for the names by CRC-32,
    Frozen in Time's `data_loader/ConceptualCaptions_dataset.py`.
    """
    one_of("split", split, ("val", "train"))
    merged = f"gcc3m_{split}_merge.csv"
    places = [f"annotation_files/{merged}", merged]
    places += [f"{folder}{name}" for name in _TABLES[split] for folder in ("", "annotations/")]
    file = find_file(root, places, "CC3M captions")
    if file.name == merged:
        pictures, folder = _merged(file), split
    else:
        pictures, folder = _google(file), _CRC_FOLDERS[split]
    size = size_notes("cc3m", split, file, {f"rows in {split}": len(pictures)})

    repeats = Counter(name for _, name, _ in pictures)
    rows, dropped = [], []
    for line, name, text in pictures:
        item = f"line {line}: {name}"
        if repeats[name] > 1:
            reason = f"{repeats[name]} rows have this file name; whose picture it is is unknown"
            dropped.append((item, reason, file.name))
        elif not text.strip():
            dropped.append((item, "the caption is empty", file.name))
        else:
            rows.append((name, f"{folder}/{name}", text))
    clips = pd.DataFrame(rows, columns=["clip_id", "path", "text"], dtype="str")
    files = Files(root, root / folder).paths
    protocol = {
        "data_set": "CC3M",
        "split": split,
        "captions": "the picture's alt text",
        "annotations": digests(file),
    }
    return data_set(
        "cc3m",
        root,
        clips.assign(split=split),
        dropped=dropped,
        annotated=len(pictures),
        found=[path in files for path in clips["path"]],
        protocol=protocol,
        size=size,
    )


def _merged(file: Path) -> list[tuple[int, str, str]]:
    """(line, file name, caption) of FitCLIP's CSV."""
    table = read_table(file, ["caption", "url", "file"], header=False)
    return [
        (line, of_form(name, _FILE_NAME, "file name", f"{file}, line {line}"), caption)
        for line, name, caption in zip(table["line"], table["file"], table["caption"], strict=True)
    ]


def _google(file: Path) -> list[tuple[int, str, str]]:
    """(line, CRC-32 of the URL, caption) of Google's table."""
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
        rows.append((line, str(zlib.crc32(fields[1].strip().encode())), fields[0]))
    return rows
