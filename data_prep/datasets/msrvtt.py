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
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.annotations import digests, read_json, read_table, read_text, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import member, of_form, one_of, typed
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import size_notes

_LIST_FOLDERS = ("structured-symlinks/", "high-quality/structured-symlinks/", "")
_JSON_FOLDERS = ("annotation/", "annotations/", "")
_CSV_FOLDERS = ("", "csv/", "annotation/", "annotations/")
_VIDEO_FOLDERS = (
    "videos/all/",
    "videos/",
    "MSRVTT_Videos/",
    "TrainValVideo/",
    "TestVideo/",
    "video/",
    "all/",
    "",
)
_TEST_TABLES = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
_WHOLE = ("MSR_VTT.json", "MSRVTT_data.json")
_PARTS = ("train_val_videodatainfo.json", "test_videodatainfo.json")
_VIDEO_ID = re.compile(r"video\d+", re.ASCII)
_VIDEO = "MSR-VTT video (`video` and a number)"


@dataclass(frozen=True)
class _Split:
    lists: tuple[str, ...]
    tables: tuple[str, ...] = ()
    official: str | None = None  # its name in the official JSON


_SPLITS = {
    "1ka_test": _Split(("val_list_jsfusion.txt",), _TEST_TABLES),
    "1ka_train": _Split(("train_list_jsfusion.txt",), ("MSRVTT_train.9k.csv",)),
    "full_train": _Split(("train_list_full.txt",), official="train"),
    "full_val": _Split(("val_list_full.txt",), official="validate"),
    "full_test": _Split(("test_list_full.txt",), official="test"),
    "1kb_test": _Split(("test_list_miech.txt",)),
    "1kb_train": _Split(("train_list_miech.txt",)),
}


@dataclass(frozen=True)
class _Captions:
    by_video: dict[str, list[str]]  # in the files' order
    splits: dict[str, str]  # video -> the official JSON's split; empty for MSR_VTT.json
    files: list[Path]

    @property
    def names(self) -> str:
        return " and ".join(file.name for file in self.files)


@dataclass(frozen=True)
class _Texts:
    items: list[tuple[str, str, str]]  # clip id, video, caption
    annotated: int
    n_videos: int
    files: list[Path]


def load(root: Path, *, split: str = "1ka_test", captions: str = "first") -> DataSet:
    """MSR-VTT from its official files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/msrvtt.py` (first caption of the 1K-A list).
    """
    one_of("split", split, tuple(_SPLITS))
    one_of("captions", captions, ("first", "jsfusion", "all"))
    if captions == "jsfusion" and split != "1ka_test":
        raise ValueError(f"captions 'jsfusion' are the 1K-A test's alone; split is {split!r}")
    dropped: list[tuple[str, str, str]] = []
    notes: list[str] = []
    if captions == "jsfusion":
        texts = _jsfusion(root, dropped)
        which = "JSFusion sentence (1K-A)"
    else:
        read = _read_captions(root)
        texts = _of_json(root, split, read, captions == "first", dropped)
        which = f"{'first' if captions == 'first' else 'every'} caption of {read.names}"
        if captions == "first" and split == "1ka_test":
            notes.append(
                "captions are the official FitCLIP code's, each video's first; the field's 1K-A "
                "results use the JSFusion sentence (captions: jsfusion)"
            )
        if captions == "first" and read.names != "MSR_VTT.json":
            notes.append(
                f"the official FitCLIP code reads MSR_VTT.json; {read.names} may have a video's "
                "captions in another order"
            )
    counted = {f"videos in {split}": texts.n_videos}
    size = size_notes("msrvtt", split, texts.files[-1], counted)
    expected = [
        [f"{folder}{video}.mp4" for folder in _VIDEO_FOLDERS] for _, video, _ in texts.items
    ]
    paths, layouts = locate(Files(root, root), expected)
    rows = [
        {"clip_id": clip_id, "path": path, "text": text, "split": split}
        for (clip_id, _, text), path in zip(texts.items, paths, strict=True)
    ]
    protocol = {
        "data_set": "MSR-VTT",
        "split": split,
        "captions": which,
        "annotations": digests(*texts.files),
    }
    return data_set(
        "msrvtt",
        root,
        rows,
        dropped=dropped,
        annotated=texts.annotated,
        found=[layout is not None for layout in layouts],
        protocol=protocol,
        size=size,
        notes=notes,
    )


def _jsfusion(root: Path, dropped: list[tuple[str, str, str]]) -> _Texts:
    """The CSV's sentences in its order; the list, where it is there too, must be the same."""
    what = "MSR-VTT 1K-A sentences (captions: jsfusion)"
    file = find_file(root, _places(_CSV_FOLDERS, _TEST_TABLES), what)
    table = read_table(file, ["video_id", "sentence"])
    videos = _checked(file, zip(table["video_id"], table["line"], strict=True))
    for listed in _present(root, _places(_LIST_FOLDERS, _SPLITS["1ka_test"].lists))[:1]:
        if other := set(_listed(listed)) ^ set(videos):
            raise ValueError(
                f"{file} ({len(videos)} videos) and {listed} are not the same split: {len(other)} "
                f"videos are in one only, such as {min(other)}; take the original 1K-A files"
            )
    items = []
    for video, sentence in zip(videos, table["sentence"], strict=True):
        if sentence.strip():
            items.append((video, video, sentence))
        else:
            dropped.append((video, "the sentence is empty", file.name))
    return _Texts(items, len(videos), len(videos), [file])


def _of_json(
    root: Path, split: str, read: _Captions, first_only: bool, dropped: list[tuple[str, str, str]]
) -> _Texts:
    """A split's captions, sorted by video, then in the file's order."""
    videos, lists = _videos_of(root, split, read)
    items: list[tuple[str, str, str]] = []
    for video in sorted(videos):
        kept = []
        for number, text in enumerate(read.by_video.get(video, ())):
            if text.strip():
                kept.append((f"{video}_{number}", video, text))
            else:
                dropped.append((f"{video}_{number}", "the caption is empty", read.names))
        if not kept:
            dropped.append((video, "it has no caption", read.names))
        elif first_only:
            items.append((video, video, kept[0][2]))
        else:
            items += kept
    n_texts = sum(len(read.by_video.get(video, ())) for video in videos)
    annotated = len(videos) if first_only else n_texts
    return _Texts(items, annotated, len(videos), [*read.files, *lists])


def _videos_of(root: Path, split: str, read: _Captions) -> tuple[list[str], list[Path]]:
    """A split's videos in their list's order, and the list; none where the captions' file tells."""
    wanted = _SPLITS[split]
    places = _places(_LIST_FOLDERS, wanted.lists) + _places(_CSV_FOLDERS, wanted.tables)
    if wanted.official and read.splits and not _present(root, places):
        videos = [video for video, name in read.splits.items() if name == wanted.official]
        if not videos:
            has = ", ".join(sorted(set(read.splits.values()))) or "none"
            raise ValueError(
                f"{read.names} has no video of split {wanted.official!r}; it has {has}: add the "
                f"official file of that split, or {wanted.lists[0]}"
            )
        return videos, []
    file = find_file(root, places, f"list of MSR-VTT's split {split}")
    return _listed(file), [file]


def _listed(file: Path) -> list[str]:
    if file.suffix == ".csv":
        table = read_table(file, ["video_id"])
        return _checked(file, zip(table["video_id"], table["line"], strict=True))
    lines = enumerate(read_text(file).split("\n"), start=1)
    return _checked(file, ((line, number) for number, line in lines if line.strip()))


def _checked(file: Path, numbered: Iterable[tuple[str, int]]) -> list[str]:
    videos = [
        of_form(video.strip(), _VIDEO_ID, _VIDEO, f"{file}, line {line}")
        for video, line in numbered
    ]
    unique(videos, "the video", file)
    return videos


def _read_captions(root: Path) -> _Captions:
    """The captions of one JSON file, or of the official release's two parts."""
    whole, parts = _places(_JSON_FOLDERS, _WHOLE), _places(_JSON_FOLDERS, _PARTS)
    files = _present(root, whole)[:1] or _present(root, parts)
    if not files:
        what = "captions of MSR-VTT (of its files, captions: jsfusion needs the 1K-A CSV alone)"
        find_file(root, whole + parts, what)
    by_video: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for file in files:
        content = typed(read_json(file), dict, str(file))
        official = "annotations" not in content and "sentences" in content
        records, key = ("sentences", "video_id") if official else ("annotations", "image_id")
        for number, record in enumerate(member(content, records, list, str(file))):
            where = f"{file}, {records}[{number}]"
            video = member(record, key, str, where)
            by_video.setdefault(video, []).append(member(record, "caption", str, where))
        if official:
            names = _official_splits(file, content)
            unique([*splits, *names], "the video", file)
            splits |= names
    return _Captions(by_video, splits, files)


def _official_splits(file: Path, content: dict[str, Any]) -> dict[str, str]:
    ids, names = [], []
    for number, video in enumerate(member(content, "videos", list, str(file))):
        where = f"{file}, videos[{number}]"
        ids.append(of_form(member(video, "video_id", str, where), _VIDEO_ID, _VIDEO, where))
        names.append(member(video, "split", str, where))
    unique(ids, "the video", file)
    return dict(zip(ids, names, strict=True))


def _places(folders: Iterable[str], names: Iterable[str]) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in folders]


def _present(root: Path, places: Iterable[str]) -> list[Path]:
    return [root / place for place in places if (root / place).is_file()]
