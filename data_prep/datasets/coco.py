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

from data_prep.annotations import digests, read_json, unique
from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.checks import member, of_form, one_of, typed
from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.official import size_notes

_FILE_NAME = re.compile(r"[\w-]+\.\w+", re.ASCII)


def load(root: Path, *, split: str = "val", year: str = "2017", captions: str = "all") -> DataSet:
    """COCO Captions from its official files; the module says which.

    Raises: ValueError for an unknown option, and for all that is wrong with the files.
    """
    one_of("split", split, ("val", "train"))
    one_of("year", year, ("2017", "2014"))
    one_of("captions", captions, ("all", "first"))
    name = f"captions_{split}{year}.json"
    file = find_file(root, [f"annotations/{name}", name], "COCO captions")
    content = typed(read_json(file), dict, str(file))
    pictures = _pictures(file, content)
    texts = _texts(file, content, pictures)
    n_texts = sum(len(of_picture) for of_picture in texts.values())
    counted = {"pictures": len(pictures), "captions": n_texts}
    size = size_notes("coco", f"{split} {year}", file, counted)

    items, dropped = [], []
    for number, picture in pictures.items():
        stem = picture.rpartition(".")[0]
        kept = []
        for place, text in enumerate(texts[number]):
            if text.strip():
                kept.append((f"{stem}_{place}", picture, text))
            else:
                dropped.append((f"{stem}_{place}", "the caption is empty", name))
        if not kept:
            dropped.append((stem, "it has no caption", name))
        elif captions == "first":
            items.append((stem, picture, kept[0][2]))
        else:
            items += kept
    folders = (f"{split}{year}/", f"images/{split}{year}/", "images/", "")
    expected = [[f"{folder}{picture}" for folder in folders] for _, picture, _ in items]
    paths, layouts = locate(Files(root, root), expected, any_extension=False)
    rows = [
        {"clip_id": clip_id, "path": path, "text": text, "split": split}
        for (clip_id, _, text), path in zip(items, paths, strict=True)
    ]
    protocol = {
        "data_set": f"COCO Captions {year}",
        "split": split,
        "captions": f"{'first' if captions == 'first' else 'every'} caption of {name}",
        "annotations": digests(file),
    }
    return data_set(
        "coco",
        root,
        rows,
        dropped=dropped,
        annotated=len(pictures) if captions == "first" else n_texts,
        found=[layout is not None for layout in layouts],
        protocol=protocol,
        size=size,
    )


def _pictures(file: Path, content: object) -> dict[int, str]:
    """Image number -> file name."""
    numbers, names = [], []
    for place, record in enumerate(member(content, "images", list, str(file))):
        where = f"{file}, images[{place}]"
        numbers.append(member(record, "id", int, where))
        name = member(record, "file_name", str, where)
        names.append(of_form(name, _FILE_NAME, "COCO file name", where))
    unique(numbers, "the image number", file)
    unique(names, "the file name", file)
    return dict(zip(numbers, names, strict=True))


def _texts(file: Path, content: object, pictures: dict[int, str]) -> dict[int, list[str]]:
    """Image number -> its captions in the file's order."""
    texts: dict[int, list[str]] = {number: [] for number in pictures}
    for place, record in enumerate(member(content, "annotations", list, str(file))):
        where = f"{file}, annotations[{place}]"
        number = member(record, "image_id", int, where)
        text = member(record, "caption", str, where)
        if number not in texts:
            raise ValueError(f"{where}: there is no image {number}; take the original file")
        texts[number].append(text)
    return texts
