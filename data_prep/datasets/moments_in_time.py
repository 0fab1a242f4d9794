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
"""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.annotations import digests, read_lines, read_table, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import of_form, one_of
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import COUNTS, size_notes

_CLASSES = {version: COUNTS["moments_in_time"][version]["classes"] for version in ("v1", "v2")}
_NUMBER = re.compile(r"\d+", re.ASCII)
_NAME = re.compile(r"[A-Za-z]+(\+[A-Za-z]+)*")
_PATH = re.compile(r"[^/\\:]+/[^/\\:]+\.\w+")


def load(root: Path, *, split: str = "validation", version: str = "v1") -> DataSet:
    """Moments in Time from its official files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    Source: FitCLIP's official code, `aligner/data/moments_in_time.py`.
    """
    one_of("split", split, ("validation", "training"))
    one_of("version", version, tuple(_CLASSES))
    class_file = find_file(root, ["moments_categories.txt"], "Moments in Time classes")
    table_file = find_file(root, [f"{split}Set.csv"], f"table of {split} videos")
    classes = _read_classes(class_file, version)
    table = read_table(table_file, ["path", "label", "agree", "disagree"], header=False)
    known = set(classes)
    for path, label, line in zip(table["path"], table["label"], table["line"], strict=True):
        of_form(path, _PATH, "video, such as 'hitting/name.mp4'", f"{table_file}, line {line}")
        if label not in known:
            raise ValueError(
                f"{table_file}, line {line}: {label!r} is none of the {len(classes)} classes in "
                f"{class_file.name}; take both files from the same archive"
            )
    unique(table["path"], "video", table_file)
    moved = int((table["path"].str.partition("/")[0] != table["label"]).sum())

    expected = [[f"{split}/{path}"] for path in table["path"]]
    paths, layouts = locate(Files(root, root / split), expected)
    in_table, which = {f"videos in {split}": len(table)}, f"{version} {split}"
    size = [
        *size_notes(
            "moments_in_time", version, class_file, {f"classes in {version}": len(classes)}
        ),
        *size_notes("moments_in_time", which, table_file, in_table),
    ]
    notes = []
    if moved:
        notes.append(f"{moved:,} videos lie in another class's folder than their label's")
    return data_set(
        "moments_in_time",
        root,
        table.assign(clip_id=table["path"], path=paths, split=split)[
            ["clip_id", "path", "label", "split"]
        ],
        annotated=len(table),
        found=[layout is not None for layout in layouts],
        templates=("{}",),
        classes=classes,
        protocol={
            "data_set": "Moments in Time",
            "split": split,
            "version": version,
            "prompts": "class name alone",
            "annotations": digests(class_file, table_file),
        },
        size=size,
        notes=notes,
    )


def _read_classes(file: Path, version: str) -> list[str]:
    names = read_lines(file)
    if not all(map(_NAME.fullmatch, names)):
        table = read_table(file, ["name", "number"], header=False)
        for number, line in zip(table["number"], table["line"], strict=True):
            of_form(number.strip(), _NUMBER, "class number", f"{file}, line {line}")
        unique(table["number"].str.strip(), "class number", file)
        names = table["name"].tolist()
    unique(names, "class", file)
    for other, count in _CLASSES.items():
        if other != version and len(names) == count:
            raise ValueError(
                f"{file} has {count} classes, as version {other} has; version is {version!r}: "
                f"choose version {other!r}, or take the other archive's files"
            )
    return names
