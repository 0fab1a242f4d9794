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

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from data_prep.annotations import read_lines, read_table, unique
from data_prep.datasets.base import About, Annotation, Counts, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import require_form

OFFICIAL_COUNTS: Counts = {
    "v1": {"classes": 339},
    "v2": {"classes": 305},
    "v1 validation": {"videos": 33_900},
    "v2 validation": {"videos": 30_500},
    "v1 training": {"videos": About(802_264)},
    "v2 training": {"videos": About(727_305)},
}
_NUMBER = re.compile(r"\d+", re.ASCII)
_NAME = re.compile(r"[A-Za-z]+(\+[A-Za-z]+)*")
_PATH = re.compile(r"[^/\\:]+/[^/\\:]+\.\w+")


def load(
    root: Path,
    *,
    split: Literal["validation", "training"] = "validation",
    version: Literal["v1", "v2"] = "v1",
) -> DataSet:
    """Moments in Time from its official files."""
    annotation = Annotation("moments_in_time", root, OFFICIAL_COUNTS)
    class_file = annotation.file(["moments_categories.txt"], "Moments in Time classes")
    table_file = annotation.file([f"{split}Set.csv"], f"table of {split} videos")
    classes = _read_classes(class_file, version)
    table = read_table(table_file, ["clip_id", "label", "agree", "disagree"], header=False)
    what = "video, such as 'hitting/name.mp4'"
    require_form(table["clip_id"], table["line"], _PATH, what, table_file)
    unknown = table[~table["label"].isin(classes)]
    if len(unknown):
        line, label = unknown["line"].iloc[0], unknown["label"].iloc[0]
        raise ValueError(
            f"{table_file}, line {line}: {label!r} is none of the {len(classes)} classes in "
            f"{class_file.name}; take both files from the same archive"
        )
    unique(table["clip_id"], "video", table_file)
    annotation.compare(version, class_file, {f"classes in {version}": len(classes)})
    annotation.compare(f"{version} {split}", table_file, {f"videos in {split}": len(table)})
    moved = int((table["clip_id"].str.partition("/")[0] != table["label"]).sum())
    if moved:
        annotation.notes.append(
            f"{moved:,} videos lie in another class's folder than their label's"
        )
    expected = [[f"{split}/{path}"] for path in table["clip_id"]]
    paths, layouts = locate(Files(root, root / split), expected)
    return annotation.data_set(
        "Moments in Time",
        split,
        table[["clip_id", "label"]].assign(path=paths, split=split),
        layouts >= 0,
        annotated=len(table),
        templates=("{}",),
        classes=classes,
        version=version,
        prompts="class name alone",
    )


def _read_classes(file: Path, version: str) -> list[str]:
    names = read_lines(file)
    if not all(map(_NAME.fullmatch, names)):
        table = read_table(file, ["name", "number"], header=False)
        numbers = table["number"].str.strip()
        require_form(numbers, table["line"], _NUMBER, "class number", file)
        unique(numbers, "class number", file)
        names = table["name"].tolist()
    unique(names, "class", file)
    other = "v2" if version == "v1" else "v1"
    if len(names) == OFFICIAL_COUNTS[other]["classes"]:
        raise ValueError(
            f"{file} has {len(names)} classes, as version {other} has; version is {version!r}: "
            f"choose version {other!r}, or take the other archive's files"
        )
    return names
