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

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.annotations import read_table, read_text, unique
from data_prep.datasets.base import Annotation, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import member, of_form, read_object, records, require_form

Split = Literal[
    "1ka_test", "1ka_train", "full_train", "full_val", "full_test", "1kb_test", "1kb_train"
]
OFFICIAL_COUNTS = {
    "1ka_test": {"videos": 1_000},
    "1ka_train": {"videos": 9_000},
    "full_train": {"videos": 6_513},
    "full_val": {"videos": 497},
    "full_test": {"videos": 2_990},
    "1kb_test": {"videos": 1_000},
    "1kb_train": {"videos": 6_656},
}
_TEST_TABLES = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
_LISTS = {  # file of a split's list, and tables in its stead
    "1ka_test": ("val_list_jsfusion.txt", *_TEST_TABLES),
    "1ka_train": ("train_list_jsfusion.txt", "MSRVTT_train.9k.csv"),
    "full_train": ("train_list_full.txt",),
    "full_val": ("val_list_full.txt",),
    "full_test": ("test_list_full.txt",),
    "1kb_test": ("test_list_miech.txt",),
    "1kb_train": ("train_list_miech.txt",),
}
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
_VIDEO = "MSR-VTT video (`video` and a number)"


def load(
    root: Path,
    *,
    split: Split = "1ka_test",
    captions: Literal["first", "jsfusion", "all"] = "first",
) -> DataSet:
    """MSR-VTT from its official files."""
    if captions == "jsfusion" and split != "1ka_test":
        raise ValueError(f"captions 'jsfusion' are the 1K-A test's alone; split is {split!r}")
    annotation = Annotation("msrvtt", root, OFFICIAL_COUNTS)
    if captions == "jsfusion":
        texts = _sentences(annotation)
        rows = [(video, video, text) for video, text in texts.items() if text.strip()]
        for video, text in texts.items():
            if not text.strip():
                annotation.leave_out(video, "the sentence is empty")
        n_videos = annotated = len(texts)
        which = "JSFusion sentence (1K-A)"
    else:
        by_video, splits = _captions(annotation)
        names = " and ".join(file.name for file in annotation.files)
        videos = _videos(annotation, split, splits, names)
        first = captions == "first"
        rows = [
            (clip_id, video, text)
            for video in sorted(videos)
            for clip_id, text in annotation.captions(
                video, by_video.get(video, ()), first=first, source=names
            )
        ]
        n_videos = len(videos)
        annotated = n_videos if first else sum(len(by_video.get(one, ())) for one in videos)
        which = f"{captions if first else 'every'} caption of {names}"
        if first and split == "1ka_test":
            annotation.notes.append(
                "captions are the official FitCLIP code's, each video's first; the field's 1K-A "
                "results use the JSFusion sentence (captions: jsfusion)"
            )
        if first and names != "MSR_VTT.json":
            annotation.notes.append(
                f"the official FitCLIP code reads MSR_VTT.json; {names} may have a video's "
                "captions in another order"
            )
    annotation.compare(split, annotation.files[-1], {f"videos in {split}": n_videos})
    expected = [[f"{folder}{video}.mp4" for folder in _VIDEO_FOLDERS] for _, video, _ in rows]
    paths, layouts = locate(Files(root, root), expected)
    clips = pd.DataFrame(rows, columns=["clip_id", "path", "text"])
    return annotation.data_set(
        "MSR-VTT",
        split,
        clips.assign(path=paths, split=split),
        layouts >= 0,
        annotated=annotated,
        captions=which,
    )


def _sentences(annotation: Annotation) -> dict[str, str]:
    """Video -> the CSV's sentence, in its order; the list, where there is one, must be the same."""
    what = "MSR-VTT 1K-A sentences (captions: jsfusion)"
    file = annotation.file(_places(_CSV_FOLDERS, _TEST_TABLES), what)
    table = read_table(file, ["video_id", "sentence"])
    videos = _checked(file, table["video_id"].str.strip(), table["line"])
    lists = _places(_LIST_FOLDERS, _LISTS["1ka_test"][:1])
    for place in _present(annotation.root, lists)[:1]:
        listed = annotation.root / place
        if other := set(_listed(listed)) ^ set(videos):
            raise ValueError(
                f"{file} ({len(videos)} videos) and {listed} are not the same split: {len(other)} "
                f"videos are in one only, such as {min(other)}; take the original 1K-A files"
            )
    return dict(zip(videos, table["sentence"], strict=True))


def _captions(annotation: Annotation) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Video -> its captions in the files' order, and video -> its split where the JSON tells it;
    from one JSON file, or from the official release's two parts."""
    whole, parts = _places(_JSON_FOLDERS, _WHOLE), _places(_JSON_FOLDERS, _PARTS)
    root = annotation.root
    places = _present(root, whole)[:1] or _present(root, parts) or [*whole, *parts]
    what = "captions of MSR-VTT (of its files, captions: jsfusion needs the 1K-A CSV alone)"
    by_video: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for place in places:
        file = annotation.file([place] if (root / place).is_file() else places, what)
        content = read_object(file)
        official = "annotations" not in content and "sentences" in content
        kind, key = ("sentences", "video_id") if official else ("annotations", "image_id")
        listed = member(content, kind, list, str(file))
        for _, video, text in records(listed, f"{file}, {kind}", **{key: str, "caption": str}):
            by_video.setdefault(video, []).append(text)
        if official:
            listed = member(content, "videos", list, str(file))
            pairs = [
                (of_form(video, _VIDEO_ID, _VIDEO, where)[0], name)
                for where, video, name in records(
                    listed, f"{file}, videos", video_id=str, split=str
                )
            ]
            unique([*splits, *(video for video, _ in pairs)], "the video", file)
            splits |= dict(pairs)
    return by_video, splits


def _videos(annotation: Annotation, split: str, splits: dict[str, str], names: str) -> list[str]:
    """A split's videos, from their list, or where there is none from the captions' file."""
    places = _places(_LIST_FOLDERS, _LISTS[split][:1]) + _places(_CSV_FOLDERS, _LISTS[split][1:])
    if split not in _IN_JSON or not splits or _present(annotation.root, places):
        return _listed(annotation.file(places, f"list of MSR-VTT's split {split}"))
    if videos := [video for video, name in splits.items() if name == _IN_JSON[split]]:
        return videos
    raise ValueError(
        f"{names} has no video of split {_IN_JSON[split]!r}; it has "
        f"{', '.join(sorted(set(splits.values()))) or 'none'}: add the official file of that "
        f"split, or {_LISTS[split][0]}"
    )


def _listed(file: Path) -> list[str]:
    if file.suffix == ".csv":
        table = read_table(file, ["video_id"])
        return _checked(file, table["video_id"].str.strip(), table["line"])
    lines = [line.strip() for line in read_text(file).split("\n")]
    numbers = [number for number, line in enumerate(lines, start=1) if line]
    return _checked(file, list(filter(None, lines)), numbers)


def _checked(file: Path, videos: Iterable[str], lines: Iterable[int]) -> list[str]:
    videos = list(videos)
    require_form(videos, lines, _VIDEO_ID, _VIDEO, file)
    unique(videos, "the video", file)
    return videos


def _places(folders: Iterable[str], names: Iterable[str]) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in folders]


def _present(root: Path, places: Sequence[str]) -> list[str]:
    return [place for place in places if (root / place).is_file()]
