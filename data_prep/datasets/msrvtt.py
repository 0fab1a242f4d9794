"""MSR-VTT: short web videos with 20 captions each (Xu et al., CVPR 2016).

Files, under the root:

- Captions: `MSR_VTT.json` (`images`, `annotations`), as in the archive of Frozen in Time and
  collaborative-experts, or the official `MSRVTT_data.json`, or `train_val_videodatainfo.json` and
  `test_videodatainfo.json` (`videos`, `sentences`); in the root, `annotation/` or `annotations/`.
- Lists: `structured-symlinks/*_list_*.txt` of that archive, or the same files in the root. The 1K-A
  test list can also come from `MSRVTT_JSFUSION_test.csv`, the 1K-A training list from
  `MSRVTT_train.9k.csv` (root or `csv/`), the full splits from the official JSON's `split` field.
- Videos: `video7020.mp4` and so on, in `videos/all/`, `videos/`, `MSRVTT_Videos/`, `TrainValVideo/`
  and `TestVideo/`, `video/`, `all/` or the root.

Options:

- split: 1ka_test (1,000 videos, JSFusion's), 1ka_train (9,000), full_train (6,513), full_val (497),
  full_test (2,990), 1kb_test (1,000, Miech's), 1kb_train (6,656).
- captions: `first`, the official FitCLIP code's rule, takes a video's first caption in the
  annotation file's order; items are sorted by name, as that code sorts the videos' paths.
  `jsfusion`, the field's 1K-A, takes the CSV's sentence, in the CSV's order; the CSV is enough.
  `all` takes every caption, a row each (`video7_0`, `video7_1`, ...): a video is then one clip with
  20 texts, as the field trains on it and measures the full split.

Quirks: the two caption rules share few texts (`jsfusion_val_caption_idx.pkl`, a pickle that is not
read, has the first caption for 46 of 1,000 videos). Copies of the CSV with `;` and CRLF are read as
well. The community's `MSRVTT_val_fold_1.csv` has the CSV's columns and 2,250 other videos; put in
the CSV's place it is refused, as is any list with more videos than its split has.

Source: FitCLIP's official code, `aligner/data/msrvtt.py` (first caption of the 1K-A list).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import (
    Annotation,
    blank,
    check_form,
    lines,
    read_object,
    records,
    table,
)

_TEST_TABLES = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
_SPLITS = {  # how many videos officially, the file of their list, and tables in its stead
    "1ka_test": (1_000, "val_list_jsfusion.txt", *_TEST_TABLES),
    "1ka_train": (9_000, "train_list_jsfusion.txt", "MSRVTT_train.9k.csv"),
    "full_train": (6_513, "train_list_full.txt"),
    "full_val": (497, "val_list_full.txt"),
    "full_test": (2_990, "test_list_full.txt"),
    "1kb_test": (1_000, "test_list_miech.txt"),
    "1kb_train": (6_656, "train_list_miech.txt"),
}
OPTIONS = {"split": tuple(_SPLITS), "captions": ("first", "jsfusion", "all")}
COUNTS = {split: {"videos": n} for split, (n, *_) in _SPLITS.items()}
_IN_JSON = {"full_train": "train", "full_val": "validate", "full_test": "test"}
_LIST_FOLDERS = ("structured-symlinks/", "high-quality/structured-symlinks/", "")
_JSON_FOLDERS = ("annotation/", "annotations/", "")
_CSV_FOLDERS = ("", "csv/", "annotation/", "annotations/")
_VIDEO_FOLDERS = (
    *("videos/all/", "videos/", "MSRVTT_Videos/", "TrainValVideo/", "TestVideo/", "video/"),
    *("all/", ""),
)
_WHOLE = ("MSR_VTT.json", "MSRVTT_data.json")
_PARTS = ("train_val_videodatainfo.json", "test_videodatainfo.json")
_VIDEO_ID = re.compile(r"video\d+", re.ASCII)
_LINE = re.compile(r"\s*(?a:(?P<video>video\d+))\s*")
_VIDEO = "MSR-VTT video (`video` and a number)"


def load(account: Annotation, split: str, captions: str) -> DataSet:
    """MSR-VTT from its official files."""
    if captions == "jsfusion":
        if split != "1ka_test":
            raise ValueError(f"captions 'jsfusion' are the 1K-A test's alone; split is {split!r}")
        every = _sentences(account)
        n_videos = annotated = len(every)
        empty = np.where(blank(every["text"]), "the sentence is empty", "")
        rows = account.keep(every, every["video"], empty)
        which = "JSFusion sentence (1K-A)"
    else:
        texts, splits = _captions(account)
        names = " and ".join(file.name for file in account.files)
        videos = sorted(_videos(account, split, splits, names))
        n_videos = len(videos)
        rows, annotated = account.captions(videos, texts, captions, names)
        which = f"{'first' if captions == 'first' else 'every'} caption of {names}"
        if captions == "first" and split == "1ka_test":
            account.notes.append(
                "captions are the official FitCLIP code's, each video's first; the field's 1K-A "
                "results use the JSFusion sentence (captions: jsfusion)"
            )
        if captions == "first" and names != "MSR_VTT.json":
            account.notes.append(
                f"the official FitCLIP code reads MSR_VTT.json; {names} may have a video's "
                "captions in another order"
            )
    account.compare(split, account.files[-1], {f"videos in {split}": n_videos})
    layouts = [folder + rows["video"] + ".mp4" for folder in _VIDEO_FOLDERS]
    return account.data_set(
        "MSR-VTT",
        split,
        rows.assign(split=split),
        layouts,
        annotated=annotated,
        captions=which,
    )


def _sentences(account: Annotation) -> pd.DataFrame:
    """The CSV's sentences in its order; where there is a list, it must be of the same videos."""
    what = "MSR-VTT 1K-A sentences (captions: jsfusion)"
    file = account.file(what, _TEST_TABLES, _CSV_FOLDERS)
    rows = _listed(file, "sentence")
    for listed in account.there(["val_list_jsfusion.txt"], _LIST_FOLDERS)[:1]:
        if other := set(_listed(listed)["video"]) ^ set(rows["video"]):
            raise ValueError(
                f"{file} ({len(rows)} videos) and {listed} are not the same split: {len(other)} "
                f"videos are in one only, such as {min(other)}; take the original 1K-A files"
            )
    return rows.assign(clip_id=rows["video"], text=rows["sentence"])


def _captions(account: Annotation) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Video -> its captions in the files' order, and video -> its split where the JSON tells it;
    from one JSON file, or from the official release's two parts."""
    what = "captions of MSR-VTT (of its files, captions: jsfusion needs the 1K-A CSV alone)"
    found = account.there(_WHOLE, _JSON_FOLDERS)[:1] or account.there(_PARTS, _JSON_FOLDERS)
    if not found:
        account.file(what, [*_WHOLE, *_PARTS], _JSON_FOLDERS)  # says where they were looked for
    account.files += found
    texts: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for file in found:
        content = read_object(file)
        official = "annotations" not in content and "sentences" in content
        kind, key = ("sentences", "video_id") if official else ("annotations", "image_id")
        rows = records(content, str(file), kind, **{key: str, "caption": str})
        for video, text in rows.to_numpy():
            texts.setdefault(video, []).append(text)
        if official:
            videos = records(content, str(file), "videos", video_id=str, split=str)
            check_form(videos, "video_id", _VIDEO_ID, _VIDEO)
            unique([*splits, *videos["video_id"]], "the video", file)
            splits |= dict(videos.to_numpy())
    return texts, splits


def _videos(account: Annotation, split: str, splits: dict[str, str], names: str) -> list[str]:
    """A split's videos, from their list, or where there is none from the captions' file."""
    _, listed, *tables = _SPLITS[split]
    places = [f"{folder}{listed}" for folder in _LIST_FOLDERS]
    places += [f"{folder}{name}" for name in tables for folder in _CSV_FOLDERS]
    if split not in _IN_JSON or not splits or account.there(places):
        file = account.file(f"list of MSR-VTT's split {split}", places)
        return _listed(file)["video"].tolist()
    if videos := [video for video, name in splits.items() if name == _IN_JSON[split]]:
        return videos
    raise ValueError(
        f"{names} has no video of split {_IN_JSON[split]!r}; it has "
        f"{', '.join(sorted(set(splits.values()))) or 'none'}: add the official file of that "
        f"split, or {listed}"
    )


def _listed(file: Path, *columns: str) -> pd.DataFrame:
    """The videos of a list, or of a table with further columns."""
    if file.suffix == ".csv":
        rows = table(file, ["video_id", *columns])
        rows["video"] = rows["video_id"].str.strip()
        check_form(rows, "video", _VIDEO_ID, _VIDEO)
    else:
        rows = lines(file, _LINE, _VIDEO)
    unique(rows["video"], "the video", file)
    return rows
