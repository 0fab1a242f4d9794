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

import re
from collections.abc import Set as AbstractSet

import numpy as np
import pandas as pd

from data_prep.annotations import read_json, unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.layout import find, locate, scan
from data_prep.datasets.reader import About, Annotation, blank, check_form, lines, records

OPTIONS = {
    "split": ("val", "test", "train"),
    "shared_ids": ("later", "first", "join", "separate"),
}
COUNTS = {
    "val": {"descriptions": 4_180, "videos": 1_065},
    "test": {"descriptions": 4_021, "videos": 1_004},
    "train": {"descriptions": About(33_005), "videos": 8_395},
}
_FOLDERS = ("", "data/", "annotations/")
_HASH_FOLDERS = ("videos/", "", "data/videos/mp4/")
_NAME_FOLDERS = ("videos/", "", "video/")
_NAME = re.compile(r"[^/\\_\x00-\x1f]*_\d+(_[^/\\\x00-\x1f]*)?", re.ASCII)
_HASH_LINE = re.compile(r"\s*(?a:(?P<id>\d+)\t(?P<hash>[0-9a-f]{7,}))\s*")
_RULES = {
    "later": "one item, with the last name's paragraph",
    "first": "one item, with the first name's paragraph",
    "join": "one item, with the descriptions of all names",
    "separate": "an item for each name",
}


def load(account: Annotation, split: str, shared_ids: str) -> DataSet:
    """DiDeMo from its official files, a paragraph a video."""
    file = account.file("DiDeMo texts", [f"{split}_data.json"], _FOLDERS)
    every = records(read_json(file), str(file), video=str, description=str)
    check_form(every, "video", _NAME, "DiDeMo video name")
    every["id"] = every["video"].map(lambda name: name.split("_")[1])
    empty = np.where(blank(every["description"]), "the description is empty", "")
    texts = account.keep(every, every["video"] + ", " + every.index, empty)
    names = every.drop_duplicates("video")
    told = names["video"].isin(texts["video"])
    names = account.keep(names, names["video"], np.where(told, "", "it has no description"))
    found = {f"descriptions in {split}": len(every), f"videos in {split}": names["id"].nunique()}
    account.compare(split, file, found)

    by_video = names.groupby("id", sort=False)["video"].agg(list)
    rows = names[["id", "video"]]
    if shared_ids != "separate":
        rows = by_video.str[-1 if shared_ids == "later" else 0].reset_index()
        fate = "takes its descriptions" if shared_ids == "join" else "is kept in its place"
        reason = f"another name of the same Flickr video {fate} (shared_ids: {shared_ids})"
        for kept, of_id in zip(rows["video"], by_video, strict=True):
            for name in of_id:
                if name != kept:
                    account.leave_out(f"{name} (kept: {kept})", reason)
    key = "id" if shared_ids == "join" else "video"
    paragraphs = texts.groupby(key)["description"].agg(" ".join)

    files, hashes = scan(account.root), _hashes(account)
    layouts = []
    for folder in _NAME_FOLDERS:
        paths = (_by_name(files, folder, video, by_video[of]) for of, video in rows.to_numpy())
        layouts.append(pd.Series(paths, rows.index, dtype="object"))
    if hashes:
        ends = rows["id"].map({of: f"{one[:3]}/{one[3:6]}/{one}.mp4" for of, one in hashes.items()})
        layouts = [(folder + ends).fillna(layouts[0]) for folder in _HASH_FOLDERS] + layouts
    rows = locate(rows, files, layouts)
    by_hash = (rows["layout"] < len(_HASH_FOLDERS)) & rows["id"].isin(hashes)
    ways = {"by name": rows["found"] & ~by_hash, "by YFCC100M hash": rows["found"] & by_hash}
    return account.data_set(
        "DiDeMo",
        split,
        rows.assign(clip_id=rows["video"], text=rows[key].map(paragraphs), split=split),
        annotated=every["video"].nunique(),
        captions="paragraph: a video's descriptions, joined with a space",
        shared_ids=f"names with one Flickr id are {_RULES[shared_ids]}",
        layout=", ".join(way for way, rows in ways.items() if rows.any()) or "no video found",
    )


def _hashes(account: Annotation) -> dict[str, str]:
    """Flickr id -> YFCC100M hash; nothing where there is no such file."""
    name = "yfcc100m_hash.txt"
    if not account.there([name], _FOLDERS):
        return {}
    file = account.file("hashes", [name], _FOLDERS)
    pairs = lines(file, _HASH_LINE, "Flickr id, tab and hash")
    unique(pairs["id"], "the Flickr id", file)
    return dict(pairs.to_numpy())


def _by_name(files: AbstractSet[str], folder: str, video: str, names: list[str]) -> str:
    """A video's path by its name, or by another of its names if it is found under that."""
    own_first = [video, *(name for name in names if name != video)]
    found = (name for name in own_first if len(names) > 1 and find(files, folder + name))
    return folder + next(found, video)
