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

import re

from data_prep.annotations import unique
from data_prep.datasets.base import DataSet
from data_prep.datasets.reader import Annotation, check_form, read_object, records, refuse

OPTIONS = {"split": ("val", "train"), "year": ("2017", "2014"), "captions": ("all", "first")}
COUNTS = {
    "val 2017": {"pictures": 5_000, "captions": 25_014},
    "train 2017": {"pictures": 118_287, "captions": 591_753},
    "val 2014": {"pictures": 40_504, "captions": 202_654},
    "train 2014": {"pictures": 82_783, "captions": 414_113},
}
_FILE_NAME = re.compile(r"[\w-]+\.\w+", re.ASCII)


def load(account: Annotation, split: str, year: str, captions: str) -> DataSet:
    """COCO Captions from its official files."""
    name = f"captions_{split}{year}.json"
    file = account.file("COCO captions", [name], ["annotations/", ""])
    content = read_object(file)
    images = records(content, str(file), "images", id=int, file_name=str)
    check_form(images, "file_name", _FILE_NAME, "COCO file name")
    unique(images["id"], "the image number", file)
    unique(images["file_name"], "the file name", file)
    texts = records(content, str(file), "annotations", image_id=int, caption=str)
    refuse(texts[~texts["image_id"].isin(images["id"])], "there is no image {image_id}")
    found = {"pictures": len(images), "captions": len(texts)}
    account.compare(f"{split} {year}", file, found)

    images["stem"] = images["file_name"].map(lambda picture: picture.rpartition(".")[0])
    stems = texts["image_id"].map(images.set_index("id")["stem"])
    by_picture = {name: list(of) for name, of in texts["caption"].groupby(stems)}
    rows, annotated = account.captions(images["stem"].tolist(), by_picture, captions, name)
    pictures = rows["video"].map(images.set_index("stem")["file_name"]).astype("object")
    folders = (f"{split}{year}/", f"images/{split}{year}/", "images/", "")
    return account.data_set(
        f"COCO Captions {year}",
        split,
        rows.assign(split=split),
        [folder + pictures for folder in folders],
        any_extension=False,
        annotated=annotated,
        captions=f"{'first' if captions == 'first' else 'every'} caption of {name}",
    )
