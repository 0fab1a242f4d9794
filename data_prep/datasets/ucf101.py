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

Source: FitCLIP's official code, `aligner/data/ucf.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.annotations import read_lines, unique
from data_prep.datasets.base import Annotation, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import of_form

OFFICIAL_COUNTS = {
    "classInd": {"classes": 101},
    "testlist01": {"videos": 3_783},
    "testlist02": {"videos": 3_734},
    "testlist03": {"videos": 3_696},
    "trainlist01": {"videos": 9_537},
    "trainlist02": {"videos": 9_586},
    "trainlist03": {"videos": 9_624},
}
TEMPLATES = tuple(
    f"a {kind} of {article} person {verb}{{}}."
    for verb in ("", "using ", "doing ", "during ", "performing ", "practicing ")
    for article in ("a", "the")
    for kind in ("photo", "video", "example", "demonstration")
)
Split = Literal[
    "testlist01", "testlist02", "testlist03", "trainlist01", "trainlist02", "trainlist03"
]
_VIDEO_FOLDERS = ("UCF-101/", "UCF101/", "videos/", "")
_CLASS_LINE = re.compile(r"(\d+)\s+(\w+)", re.ASCII)
_LIST_LINE = re.compile(r"((\w+)/(v_(\w+)_g\d+_c\d+\.avi))(?:\s+(\d+))?", re.ASCII)


def load(root: Path, *, split: Split = "testlist01") -> DataSet:
    """UCF101 from its official files."""
    annotation = Annotation("ucf101", root, OFFICIAL_COUNTS)
    lists = ("ucfTrainTestlist/", "")
    class_file = annotation.file([f"{folder}classInd.txt" for folder in lists], "class list")
    split_file = annotation.file([f"{folder}{split}.txt" for folder in lists], f"list of {split}")
    classes = _read_classes(class_file)
    rows, expected = _read_list(split_file, classes)
    annotation.compare("classInd", class_file, {"classes": len(classes)})
    annotation.compare(split, split_file, {f"videos in {split}": len(rows)})
    if split == "testlist01":
        annotation.notes.append(
            "the paper's table 1 gives 1,794 test videos, which is no official split; its released "
            "code evaluates testlist01"
        )
    paths, layouts = locate(Files(root, root), expected)
    return annotation.data_set(
        "UCF101",
        split,
        pd.DataFrame(rows, columns=["clip_id", "label"]).assign(path=paths, split=split),
        layouts >= 0,
        annotated=len(rows),
        templates=TEMPLATES,
        classes=[class_name(folder) for folder in classes],
        prompts="the CLIP paper's 48 templates for UCF101",
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
        match = of_form(line, _CLASS_LINE, "class, such as '1 ApplyEyeMakeup'", str(file))
        entries.append((match[2], int(match[1])))
    unique([number for _, number in entries], "class number", file)
    unique([class_name(folder) for folder, _ in entries], "class", file)
    return dict(entries)


def _read_list(
    file: Path, classes: dict[str, int]
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """(path, class's name) of each video, and its path in each layout."""
    rows, expected = [], []
    what = "video, such as 'Archery/v_Archery_g01_c01.avi', in a train list with its class's number"
    for line in read_lines(file):
        match = of_form(line, _LIST_LINE, what, str(file))
        path, folder, name, class_in_name, number = match.groups()
        wrong = ""
        if folder not in classes:
            wrong = (
                f"the class of {path!r} is not in classInd.txt, which has {len(classes)} classes"
            )
        elif number is not None and int(number) != classes[folder]:
            wrong = f"{path!r} has class number {number}, but classInd.txt gives "
            wrong += str(classes[folder])
        if wrong:
            raise ValueError(f"{file}: {wrong}; take both files from the same archive")
        rows.append((path, class_name(folder)))
        # A file's own name tells the other spelling of its class's folder.
        spellings = (path, f"{class_in_name}/{name}")
        expected.append([f"{place}{one}" for one in spellings for place in _VIDEO_FOLDERS])
    unique([path for path, _ in rows], "video", file)
    return rows, expected
