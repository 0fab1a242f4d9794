"""Moments in Time: videos of three seconds, each of one action (Monfort et al., TPAMI 2019).

Files, under the root, as in the official archives (on request from its authors; version 1 is no
longer given out):

- `moments_categories.txt`: a line `name,number` for each class (339 in version 1, 305 in 2), or the
  name alone, as in `category_momentsv2.txt` of the authors' model repository.
- `validationSet.csv` or `trainingSet.csv`: no header; `class/file.mp4`, class, and how many
  annotators agreed and disagreed.
- Videos in `validation/` or `training/`, such as `validation/hitting/yt-dygLX_ZH5XY_300.mp4`; also
  with another extension.

Options:

- split: validation (33,900 videos in version 1), which the paper evaluates, or training.
- version: v1 (the paper's 339 classes) or v2. It is checked against the number of classes.

Items are in the table's order, their ids its paths; classes are in the category file's order. A
prompt is the class's name alone, verbatim; ten names have a `+`, such as "playing+music".

Quirk: the official FitCLIP code lists the files on disk and looks each one up in the table, so it
measures what is there; here the table is what counts, and a file that is not there is missing.

Source: FitCLIP's official code, `aligner/data/moments_in_time.py`.
"""

import re
from pathlib import Path

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import About, Annotation, Counts, check_form, lines, refuse, table

OPTIONS = {"split": ("validation", "training"), "version": ("v1", "v2")}
COUNTS: Counts = {
    "v1": {"classes": 339},
    "v2": {"classes": 305},
    "v1 validation": {"videos": 33_900},
    "v2 validation": {"videos": 30_500},
    "v1 training": {"videos": About(802_264)},
    "v2 training": {"videos": About(727_305)},
}
_CLASS = re.compile(
    r'\s*"?(?P<name>[^,;\t"]*[^\s,;\t"])"?\s*(?:[,;\t]\s*"?(?P<number>[0-9]+)"?\s*)?'
)
_PATH = re.compile(r"[^/\\:]+/[^/\\:]+\.\w+")


def load(account: Annotation, split: str, version: str) -> DataSet:
    """Moments in Time from its official files."""
    class_file = account.file("Moments in Time classes", ["moments_categories.txt"])
    file = account.file(f"table of {split} videos", [f"{split}Set.csv"])
    classes = _classes(class_file, version)
    rows = table(file, ["clip_id", "label", "agree", "disagree"], header=False)
    check_form(rows, "clip_id", _PATH, "video, such as 'hitting/name.mp4'")
    said = f"{{label!r}} is none of the {len(classes)} classes in {class_file.name}"
    unknown = rows[~rows["label"].isin(classes)]
    refuse(unknown, said, "take both files from the same archive")
    unique(rows["clip_id"], "video", file)
    account.compare(version, class_file, {f"classes in {version}": len(classes)})
    account.compare(f"{version} {split}", file, {f"videos in {split}": len(rows)})
    moved = int((rows["clip_id"].str.partition("/")[0] != rows["label"]).sum())
    if moved:
        account.notes.append(f"{moved:,} videos lie in another class's folder than their label's")
    return account.data_set(
        "Moments in Time",
        split,
        rows.assign(split=split),
        [f"{split}/" + rows["clip_id"]],
        below=split,
        annotated=len(rows),
        templates=("{}",),
        classes=classes,
        version=version,
        prompts="class name alone",
    )


def _classes(file: Path, version: str) -> list[str]:
    rows = lines(file, _CLASS, "class, such as 'hitting,0'")
    numbered = rows["number"].notna()
    if numbered.any():
        refuse(rows[~numbered], "class {name!r} has no number, and others have one")
        unique(rows["number"], "class number", file)
    unique(rows["name"], "class", file)
    other = "v2" if version == "v1" else "v1"
    if len(rows) == COUNTS[other]["classes"]:
        raise ValueError(
            f"{file} has {len(rows)} classes, as version {other} has; version is {version!r}: "
            f"choose version {other!r}, or take the other archive's files"
        )
    return rows["name"].tolist()
