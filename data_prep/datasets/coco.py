"""COCO Captions: still pictures with five captions or more each (Chen et al., 2015).

An image is a clip of one frame. Files, under the root: `annotations/captions_val2017.json` and so
on (or in the root), and the pictures in `val2017/000000000139.jpg` (2014:
`val2014/COCO_val2014_000000000042.jpg`), or with `images/` before.

Options:

- split: val or train; year: "2017" (5,000 and 118,287 pictures) or "2014" (40,504 and 82,783), a
  text: YAML needs the quotes.
- captions: `all` takes every caption, a row each (`000000000139_0`, ...): a picture is then one
  clip with five texts or more, as retrieval on COCO is measured (VSE++; CLIP). `first` takes a
  picture's first caption in the file's order. Items are in the order of the file's `images`.

Karpathy's splits (`dataset_coco.json`) are not read. The paper does not measure on COCO; it is one
of the sources that Frozen in Time's third checkpoint was trained on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.annotations import unique
from data_prep.datasets.base import Annotation, DataSet
from data_prep.datasets.layout import Files, locate
from data_prep.datasets.records import member, of_form, read_object, records

OFFICIAL_COUNTS = {
    "val 2017": {"pictures": 5_000, "captions": 25_014},
    "train 2017": {"pictures": 118_287, "captions": 591_753},
    "val 2014": {"pictures": 40_504, "captions": 202_654},
    "train 2014": {"pictures": 82_783, "captions": 414_113},
}
_FILE_NAME = re.compile(r"[\w-]+\.\w+", re.ASCII)


def load(
    root: Path,
    *,
    split: Literal["val", "train"] = "val",
    year: Literal["2017", "2014"] = "2017",
    captions: Literal["all", "first"] = "all",
) -> DataSet:
    """COCO Captions from its official files."""
    annotation = Annotation("coco", root, OFFICIAL_COUNTS)
    name = f"captions_{split}{year}.json"
    file = annotation.file([f"annotations/{name}", name], "COCO captions")
    pictures, texts = _read(file)
    n_texts = sum(map(len, texts.values()))
    found = {"pictures": len(pictures), "captions": n_texts}
    annotation.compare(f"{split} {year}", file, found)

    first = captions == "first"
    rows = [
        (clip_id, picture, text)
        for number, picture in pictures.items()
        for clip_id, text in annotation.captions(
            picture.rpartition(".")[0], texts[number], first=first
        )
    ]
    folders = (f"{split}{year}/", f"images/{split}{year}/", "images/", "")
    expected = [[f"{folder}{picture}" for folder in folders] for _, picture, _ in rows]
    paths, layouts = locate(Files(root, root), expected, any_extension=False)
    clips = pd.DataFrame(rows, columns=["clip_id", "path", "text"])
    return annotation.data_set(
        f"COCO Captions {year}",
        split,
        clips.assign(path=paths, split=split),
        layouts >= 0,
        annotated=len(pictures) if first else n_texts,
        captions=f"{'first' if first else 'every'} caption of {name}",
    )


def _read(file: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Image number -> file name, and image number -> its captions in the file's order."""
    content = read_object(file)
    listed = member(content, "images", list, str(file))
    images = [
        (number, of_form(name, _FILE_NAME, "COCO file name", where)[0])
        for where, number, name in records(listed, f"{file}, images", id=int, file_name=str)
    ]
    unique([number for number, _ in images], "the image number", file)
    unique([name for _, name in images], "the file name", file)
    texts: dict[int, list[str]] = {number: [] for number, _ in images}
    listed = member(content, "annotations", list, str(file))
    for where, number, text in records(listed, f"{file}, annotations", image_id=int, caption=str):
        if number not in texts:
            raise ValueError(f"{where}: there is no image {number}; take the original file")
        texts[number].append(text)
    return dict(images), texts
