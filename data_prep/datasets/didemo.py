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
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.annotations import digests, read_json, read_text, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import member, of_form, one_of, typed
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import COUNTS, size_notes

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


def load(root: Path, *, split: str = "val", shared_ids: str = "later") -> DataSet:
    """DiDeMo from its official files, a paragraph a video; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/didemo.py`.
    """
    one_of("split", split, tuple(COUNTS["didemo"]))
    one_of("shared_ids", shared_ids, tuple(_RULES))
    file = find_file(root, [f"{folder}{split}_data.json" for folder in _FOLDERS], "DiDeMo texts")
    dropped: list[tuple[str, str, str]] = []
    annotated, n_descriptions, descriptions = _read(file, dropped)

    videos: dict[str, list[str]] = {}
    for name in descriptions:
        videos.setdefault(_flickr_id(name), []).append(name)
    counted = {f"descriptions in {split}": n_descriptions, f"videos in {split}": len(videos)}
    size = size_notes("didemo", split, file, counted)
    items: list[tuple[str, list[str], list[str]]] = []  # clip id, the video's names, texts' names
    for names in videos.values() if shared_ids != "separate" else ():
        kept = names[-1] if shared_ids == "later" else names[0]
        items.append((kept, names, names if shared_ids == "join" else [kept]))
        fate = "takes its descriptions" if shared_ids == "join" else "is kept in its place"
        reason = f"another name of the same Flickr video {fate} (shared_ids: {shared_ids})"
        others = [name for name in names if name != kept]
        dropped += [(f"{name} (kept: {kept})", reason, file.name) for name in others]
    if shared_ids == "separate":
        items = [(name, videos[_flickr_id(name)], [name]) for name in descriptions]

    hashes, hash_files = _hashes(root)
    files = Files(root, root)
    expected = [_expected(files, clip_id, names, hashes) for clip_id, names, _ in items]
    paths, layouts = locate(files, expected)
    by_hash = {
        layout < len(_HASH_FOLDERS) and _flickr_id(clip_id) in hashes
        for (clip_id, _, _), layout in zip(items, layouts, strict=True)
        if layout is not None
    }

    rows = []
    for (clip_id, _, texts), path in zip(items, paths, strict=True):
        numbered = sorted(one for name in texts for one in descriptions[name])
        paragraph = " ".join(text for _, text in numbered)
        rows.append({"clip_id": clip_id, "path": path, "text": paragraph, "split": split})
    protocol = {
        "data_set": "DiDeMo",
        "split": split,
        "captions": "paragraph: a video's descriptions, joined with a space",
        "shared_ids": f"names with one Flickr id are {_RULES[shared_ids]}",
        "layout": ", ".join(_LAYOUTS[one] for one in sorted(by_hash)) or "no video found",
        "annotations": digests(file, *hash_files),
    }
    return data_set(
        "didemo",
        root,
        rows,
        dropped=dropped,
        annotated=annotated,
        found=[layout is not None for layout in layouts],
        protocol=protocol,
        size=size,
    )


def _read(
    file: Path, dropped: list[tuple[str, str, str]]
) -> tuple[int, int, dict[str, list[tuple[int, str]]]]:
    """The numbers of names and of descriptions, and name -> its descriptions with their place in
    the file."""
    descriptions: dict[str, list[tuple[int, str]]] = {}
    records = typed(read_json(file), list, str(file))
    for number, record in enumerate(records):
        where = f"{file}, [{number}]"
        name = of_form(member(record, "video", str, where), _NAME, "DiDeMo video name", where)
        text = member(record, "description", str, where)
        of_name = descriptions.setdefault(name, [])
        if text.strip():
            of_name.append((number, text))
        else:
            dropped.append((f"{name}, [{number}]", "the description is empty", file.name))
    for name, texts in descriptions.items():
        if not texts:
            dropped.append((name, "it has no description", file.name))
    kept = {name: texts for name, texts in descriptions.items() if texts}
    return len(descriptions), len(records), kept


def _flickr_id(name: str) -> str:
    return name.split("_")[1]


def _hashes(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Flickr id -> YFCC100M hash, and the file; none where there is no such file."""
    places = [root / f"{folder}yfcc100m_hash.txt" for folder in _FOLDERS]
    files = [place for place in places if place.is_file()][:1]
    pairs = []
    for file in files:
        what = "Flickr id, tab and hash"
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                of_form(line.strip(), _HASH_LINE, what, f"{file}, line {number}")
                pairs.append(line.split())
        unique([flickr_id for flickr_id, _ in pairs], "the Flickr id", file)
    return {flickr_id: hashed for flickr_id, hashed in pairs}, files


def _expected(
    files: Files, clip_id: str, names: Sequence[str], hashes: dict[str, str]
) -> list[str]:
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
