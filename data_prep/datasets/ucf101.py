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

import re

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import Annotation, lines, refuse

COUNTS = {
    "classInd": {"classes": 101},
    "testlist01": {"videos": 3_783},
    "testlist02": {"videos": 3_734},
    "testlist03": {"videos": 3_696},
    "trainlist01": {"videos": 9_537},
    "trainlist02": {"videos": 9_586},
    "trainlist03": {"videos": 9_624},
}
OPTIONS = {"split": tuple(COUNTS)[1:]}
TEMPLATES = tuple(
    f"a {kind} of {article} person {verb}{{}}."
    for verb in ("", "using ", "doing ", "during ", "performing ", "practicing ")
    for article in ("a", "the")
    for kind in ("photo", "video", "example", "demonstration")
)
_LIST_FOLDERS = ("ucfTrainTestlist/", "")
_BOTH = "take both files from the same archive"
_VIDEO_FOLDERS = ("UCF-101/", "UCF101/", "videos/", "")
_CLASS = re.compile(r"\s*(?a:(?P<number>\d+)\s+(?P<folder>\w+))\s*")
_VIDEO = re.compile(
    r"\s*(?a:(?P<clip_id>(?P<folder>\w+)/(?P<file>v_(?P<class_in_name>\w+)_g\d+_c\d+\.avi))"
    r"(?:\s+(?P<number>\d+))?)\s*"
)


def load(account: Annotation, split: str) -> DataSet:
    """UCF101 from its official files."""
    class_file = account.file("class list", ["classInd.txt"], _LIST_FOLDERS)
    file = account.file(f"list of {split}", [f"{split}.txt"], _LIST_FOLDERS)
    classes = lines(class_file, _CLASS, "class, such as '1 ApplyEyeMakeup'")
    classes["label"] = classes["folder"].map(class_name)
    unique(classes["number"].astype(int), "class number", class_file)
    unique(classes["label"], "class", class_file)
    classes = classes.set_index("folder")
    what = "video, such as 'Archery/v_Archery_g01_c01.avi', in a train list with its class's number"
    rows = lines(file, _VIDEO, what)
    rows["known"], rows["label"] = (rows["folder"].map(classes[of]) for of in ("number", "label"))
    which = f"classInd.txt, which has {len(classes)} classes"
    refuse(rows[rows["label"].isna()], f"the class of {{clip_id!r}} is not in {which}", _BOTH)
    wrong = rows["number"].notna() & (rows["number"].astype(float) != rows["known"].astype(float))
    said = "{clip_id!r} has class number {number}, but classInd.txt gives {known}"
    refuse(rows[wrong], said, _BOTH)
    unique(rows["clip_id"], "video", file)
    account.compare("classInd", class_file, {"classes": len(classes)})
    account.compare(split, file, {f"videos in {split}": len(rows)})
    if split == "testlist01":
        account.notes.append(
            "the paper's table 1 gives 1,794 test videos, which is no official split; its released "
            "code evaluates testlist01"
        )
    # A file's own name tells the other spelling of its class's folder.
    spellings = (rows["clip_id"], rows["class_in_name"] + "/" + rows["file"])
    layouts = [folder + path for path in spellings for folder in _VIDEO_FOLDERS]
    return account.data_set(
        "UCF101",
        split,
        rows.assign(split=split),
        layouts,
        annotated=len(rows),
        templates=TEMPLATES,
        classes=classes["label"].tolist(),
        prompts="the CLIP paper's 48 templates for UCF101",
    )


def class_name(folder: str) -> str:
    """A class's name in the prompts, from its folder's.

    Source: FitCLIP's official code, `aligner/data/ucf.py`.

    >>> class_name("HandstandPushups")
    'Handstand Pushups'
    """
    return " ".join(re.findall("[a-zA-Z][^A-Z]*", folder))
