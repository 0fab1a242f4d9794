"""UCF101: 101 human actions in 13,320 videos (Soomro et al., 2012).

Files, under the root:

- `classInd.txt` and the split's list, such as `testlist01.txt`, of the official
  "UCF101TrainTestSplits-RecognitionTask" archive: in `ucfTrainTestlist/` or the root.
- Videos by class, `ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi`, in `UCF-101/` (the official
  archive's folder), `UCF101/`, `videos/` or the root; also with another extension.

Option: split, `testlist01` to `testlist03` (3,783, 3,734 and 3,696 videos) or `trainlist01` to
`trainlist03` (9,537, 9,586 and 9,624). FitCLIP's official code evaluates testlist01. Items are in
the list's order, their ids its entries; classes are in classInd's order.

A class's name is its folder's, cut into words before every capital letter: "Apply Eye Makeup". The
prompts are the 48 templates for UCF101 of the CLIP paper's released code.

Quirks: train lists have a class number after each path, test lists none. The class in folder
`HandstandPushups` has files that begin with `v_HandStandPushups`; the name comes from the folder
("Handstand Pushups", where the CLIP paper's code says "Hand Stand Pushups"), and copies with a
folder `HandStandPushups` are found too. The FitCLIP paper's table 1 gives 1,794 test videos, as the
CLIP paper does; no official split has that many. Of lists cut down to some
classes every number says so.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_prep.annotations import digests, read_lines, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import one_of
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import COUNTS, size_notes

TEMPLATES = tuple(
    f"a {kind} of {article} person {verb}{{}}."
    for verb in ("", "using ", "doing ", "during ", "performing ", "practicing ")
    for article in ("a", "the")
    for kind in ("photo", "video", "example", "demonstration")
)
_SPLITS = tuple(name for name in COUNTS["ucf101"] if name != "classInd")
_LIST_FOLDERS = ("ucfTrainTestlist/", "")
_VIDEO_FOLDERS = ("UCF-101/", "UCF101/", "videos/", "")
_CLASS_LINE = re.compile(r"(\d+)\s+(\w+)", re.ASCII)
_LIST_LINE = re.compile(r"((\w+)/v_(\w+)_g\d+_c\d+\.avi)(?:\s+(\d+))?", re.ASCII)


def load(root: Path, *, split: str = "testlist01") -> DataSet:
    """UCF101 from its official files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/ucf.py`.
    """
    one_of("split", split, _SPLITS)
    class_file = find_file(root, [f"{one}classInd.txt" for one in _LIST_FOLDERS], "class list")
    split_file = find_file(root, [f"{one}{split}.txt" for one in _LIST_FOLDERS], f"list of {split}")
    classes = _read_classes(class_file)
    entries = _read_list(split_file, classes)
    # A file's own name tells the other spelling of its class's folder.
    expected = [
        [f"{place}{path}" for place in _VIDEO_FOLDERS]
        + [f"{place}{in_name}/{PurePosixPath(path).name}" for place in _VIDEO_FOLDERS]
        for path, _, in_name in entries
    ]
    paths, layouts = locate(Files(root, root), expected)
    rows = [
        {"clip_id": entry, "path": path, "label": class_name(folder), "split": split}
        for (entry, folder, _), path in zip(entries, paths, strict=True)
    ]
    size = [
        *size_notes("ucf101", "classInd", class_file, {"classes": len(classes)}),
        *size_notes("ucf101", split, split_file, {f"videos in {split}": len(entries)}),
    ]
    notes = []
    if split == "testlist01":
        notes.append(
            "the paper's table 1 gives 1,794 test videos, which is no official split; its released "
            "code evaluates testlist01"
        )
    return data_set(
        "ucf101",
        root,
        rows,
        annotated=len(entries),
        found=[layout is not None for layout in layouts],
        templates=TEMPLATES,
        classes=[class_name(folder) for folder in classes],
        protocol={
            "data_set": "UCF101",
            "split": split,
            "prompts": "the CLIP paper's 48 templates for UCF101",
            "annotations": digests(class_file, split_file),
        },
        size=size,
        notes=notes,
    )


def class_name(folder: str) -> str:
    """A class's name in the prompts, from its folder's.

    Source: FitCLIP's official code, `aligner/data/ucf.py`.

    >>> class_name("HandstandPushups")
    'Handstand Pushups'
    """
    return " ".join(re.findall("[a-zA-Z][^A-Z]*", folder))


def _read_classes(file: Path) -> dict[str, int]:
    """Folder -> number, in the file's order."""
    entries = []
    for line in read_lines(file):
        match = _CLASS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{file}: {line!r} is no class, such as '1 ApplyEyeMakeup'; take the original file"
            )
        entries.append((match[2], int(match[1])))
    unique([number for _, number in entries], "class number", file)
    unique([class_name(folder) for folder, _ in entries], "class", file)
    return dict(entries)


def _read_list(file: Path, classes: dict[str, int]) -> list[tuple[str, str, str]]:
    """(path, class's folder, class as the file's name spells it) of each video."""
    entries = []
    for line in read_lines(file):
        match = _LIST_LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{file}: {line!r} is no video, such as 'Archery/v_Archery_g01_c01.avi', in a "
                "train list with its class's number; take the original file"
            )
        path, folder, in_name, number = match.groups()
        if folder not in classes:
            raise ValueError(
                f"{file}: the class of {path!r} is not in classInd.txt, which has {len(classes)} "
                "classes; take both files from the same archive"
            )
        if number is not None and int(number) != classes[folder]:
            raise ValueError(
                f"{file}: {path!r} has class number {number}, but classInd.txt gives "
                f"{classes[folder]}; take both files from the same archive"
            )
        entries.append((path, folder, in_name))
    unique([path for path, _, _ in entries], "video", file)
    return entries
