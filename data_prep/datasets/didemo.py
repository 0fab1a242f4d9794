"""DiDeMo: Flickr videos with several descriptions each (Hendricks et al., ICCV 2017).

Files, under the root:

- `val_data.json`, `test_data.json` or `train_data.json`, from the data set's repository, in the
  root, `data/` or `annotations/`.
- `yfcc100m_hash.txt` from the same place, where the videos are laid out by hash.
- Videos, in either of two layouts; which one is found out and recorded. By YFCC100M hash, as in the
  Multimedia Commons bucket: `videos/5b8/5c5/5b85c5....mp4`, or without `videos/`. By name as in the
  annotation: `videos/10175347@N00_4841555141_4eeb6a515a.mp4`, with any video's extension, or with
  another one added (the authors' script writes `....mov.mp4`).

A name's text is its paragraph: its descriptions in the annotation's order, joined with one space,
otherwise verbatim (some have spaces or a line break in them; CLIP's tokenizer makes each run of
white space one space).

Options:

- split: val, test or train.
- shared_ids: what becomes of names with one Flickr id, which are one video under two names (29 in
  val: 1,094 names, 1,065 videos). `later`, the official FitCLIP code's rule (it keys by file): one
  item, at the first name's place, with the last name's paragraph. `first`: the first name's
  paragraph. `join`: the descriptions of all the names, in the annotation's order. `separate`: an
  item for each name.

Quirks: val and test paragraphs have up to 70 and 81 words, so that CLIP's 77 tokens cut some.
Names can end in a bare dot. Two copies of val_data.json in use differ in one record's extension
(1,094 and 1,093 names; both 1,065 videos). Some papers count 1,003 or 1,004 test videos.

Source: FitCLIP's official code, `aligner/data/didemo.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.annotations import read_json, read_text, unique
from data_prep.datasets.base import About, Annotation, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import of_form, records, typed

OFFICIAL_COUNTS = {
    "val": {"descriptions": 4_180, "videos": 1_065},
    "test": {"descriptions": 4_021, "videos": 1_004},
    "train": {"descriptions": About(33_005), "videos": 8_395},
}
_FOLDERS = ("", "data/", "annotations/")
_HASH_FOLDERS = ("videos/", "", "data/videos/mp4/")
_NAME_FOLDERS = ("videos/", "", "video/")
_LAYOUTS = {True: "by YFCC100M hash", False: "by name"}
_NAME = re.compile(r"[^/\\_\x00-\x1f]*_\d+(_[^/\\\x00-\x1f]*)?", re.ASCII)
_HASH_LINE = re.compile(r"\d+\t[0-9a-f]{7,}", re.ASCII)
_RULES = {
    "later": "one item, with the last name's paragraph",
    "first": "one item, with the first name's paragraph",
    "join": "one item, with the descriptions of all names",
    "separate": "an item for each name",
}


def load(
    root: Path,
    *,
    split: Literal["val", "test", "train"] = "val",
    shared_ids: Literal["later", "first", "join", "separate"] = "later",
) -> DataSet:
    """DiDeMo from its official files, a paragraph a video."""
    annotation = Annotation("didemo", root, OFFICIAL_COUNTS)
    file = annotation.file([f"{folder}{split}_data.json" for folder in _FOLDERS], "DiDeMo texts")
    every, n_descriptions = _read(annotation, file)
    descriptions = {name: texts for name, texts in every.items() if texts}

    videos: dict[str, list[str]] = {}
    for name in descriptions:
        videos.setdefault(_flickr_id(name), []).append(name)
    found = {f"descriptions in {split}": n_descriptions, f"videos in {split}": len(videos)}
    annotation.compare(split, file, found)
    items: list[tuple[str, list[str]]] = []  # clip id, the names whose texts it has
    for names in videos.values() if shared_ids != "separate" else ():
        kept = names[-1] if shared_ids == "later" else names[0]
        items.append((kept, names if shared_ids == "join" else [kept]))
        fate = "takes its descriptions" if shared_ids == "join" else "is kept in its place"
        reason = f"another name of the same Flickr video {fate} (shared_ids: {shared_ids})"
        for name in names:
            if name != kept:
                annotation.leave_out(f"{name} (kept: {kept})", reason)
    if shared_ids == "separate":
        items = [(name, [name]) for name in descriptions]

    hashes = _hashes(annotation)
    files = Files(root, root)
    clip_ids = [clip_id for clip_id, _ in items]
    expected = [
        _expected(files, clip_id, videos[_flickr_id(clip_id)], hashes) for clip_id in clip_ids
    ]
    paths, layouts = locate(files, expected)
    by_hash = {
        bool(layout < len(_HASH_FOLDERS) and _flickr_id(clip_id) in hashes)
        for clip_id, layout in zip(clip_ids, layouts, strict=True)
        if layout >= 0
    }
    paragraphs = [
        " ".join(text for _, text in sorted(one for name in names for one in descriptions[name]))
        for _, names in items
    ]
    return annotation.data_set(
        "DiDeMo",
        split,
        pd.DataFrame({"clip_id": clip_ids, "path": paths, "text": paragraphs, "split": split}),
        layouts >= 0,
        annotated=len(every),
        captions="paragraph: a video's descriptions, joined with a space",
        shared_ids=f"names with one Flickr id are {_RULES[shared_ids]}",
        layout=", ".join(_LAYOUTS[one] for one in sorted(by_hash)) or "no video found",
    )


def _read(annotation: Annotation, file: Path) -> tuple[dict[str, list[tuple[int, str]]], int]:
    """Name -> its descriptions with their places in the file, and how many there are in all; empty
    ones, and names with no other, are left out."""
    descriptions: dict[str, list[tuple[int, str]]] = {}
    listed = typed(read_json(file), list, str(file))
    rows = records(listed, f"{file}, ", video=str, description=str)
    for number, (where, name, text) in enumerate(rows):
        of_name = descriptions.setdefault(of_form(name, _NAME, "DiDeMo video name", where)[0], [])
        if text.strip():
            of_name.append((number, text))
        else:
            annotation.leave_out(f"{name}, [{number}]", "the description is empty")
    for name, texts in descriptions.items():
        if not texts:
            annotation.leave_out(name, "it has no description")
    return descriptions, len(listed)


def _flickr_id(name: str) -> str:
    return name.split("_")[1]


def _hashes(annotation: Annotation) -> dict[str, str]:
    """Flickr id -> YFCC100M hash; nothing where there is no such file."""
    candidates = [f"{folder}yfcc100m_hash.txt" for folder in _FOLDERS]
    if not any((annotation.root / candidate).is_file() for candidate in candidates):
        return {}
    file = annotation.file(candidates, "hashes")
    pairs = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            of_form(line.strip(), _HASH_LINE, "Flickr id, tab and hash", f"{file}, line {number}")
            pairs.append(line.split())
    unique([flickr_id for flickr_id, _ in pairs], "the Flickr id", file)
    return {flickr_id: hashed for flickr_id, hashed in pairs}


def _expected(files: Files, clip_id: str, names: list[str], hashes: dict[str, str]) -> list[str]:
    """A video's path in each layout; by hash first, where there is a hash file."""
    own_first = sorted(names, key=lambda name: name != clip_id)
    by_name = []
    for folder in _NAME_FOLDERS:
        of_names = [f"{folder}{name}" for name in own_first]
        others = (path for path in of_names if len(names) > 1 and files.find(path))
        by_name.append(next(others, of_names[0]))
    if not hashes:
        return by_name
    hashed = hashes.get(_flickr_id(clip_id))
    if hashed is None:
        return [by_name[0]] * len(_HASH_FOLDERS) + by_name
    end = f"{hashed[:3]}/{hashed[3:6]}/{hashed}.mp4"
    return [f"{folder}{end}" for folder in _HASH_FOLDERS] + by_name
