"""COCO Captions' loader: first and all captions, the folders in use, and broken files."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.datasets import load
from fitclip_core.clips import video_numbers
from tests.data_prep.datasets.examples import check_refused, lay, touch

FILE = "annotations/captions_val2017.json"


def content(pictures: dict[int, list[str]], prefix: str = "") -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "images": [
            {"id": number, "file_name": f"{prefix}{number:012d}.jpg", "height": 4}
            for number in pictures
        ],
        "annotations": [
            {"id": 10 * number + k, "image_id": number, "caption": text}
            for number in reversed(pictures)
            for k, text in enumerate(pictures[number])
        ],
    }


PICTURES = {139: ["a room", "a table"], 42: ["a cat ", "two cats", "cats"]}
GOOD = json.dumps(content(PICTURES))


def test_the_first_caption_of_each_picture(tmp_path: Path) -> None:
    touch(lay(tmp_path, {FILE: GOOD}), "val2017/000000000042.jpg")
    found = load("coco", tmp_path, captions="first")
    assert found.clips["clip_id"].tolist() == ["000000000139", "000000000042"]
    assert found.clips["path"].tolist() == ["val2017/000000000139.jpg", "val2017/000000000042.jpg"]
    assert found.clips["text"].tolist() == ["a room", "a cat "]
    assert found.missing["clip_id"].tolist() == ["000000000139"]
    assert found.annotated == 2
    assert found.protocol["data_set"] == "COCO Captions 2017"
    assert found.protocol["captions"] == "first caption of captions_val2017.json"


def test_every_caption(tmp_path: Path) -> None:
    found = load("coco", lay(tmp_path, {FILE: GOOD}))
    assert found.clips["clip_id"].tolist()[:3] == [
        *("000000000139_0", "000000000139_1"),
        "000000000042_0",
    ]
    assert found.clips["text"].tolist() == [*PICTURES[139], *PICTURES[42]]
    assert found.annotated == 5
    assert video_numbers(found.clips).tolist() == [0, 0, 1, 1, 1]
    assert found.protocol["captions"] == "every caption of captions_val2017.json"


@pytest.mark.parametrize("folder", ["val2014", "images/val2014", "images", "."])
def test_2014_and_where_pictures_may_lie(tmp_path: Path, folder: str) -> None:
    annotation = json.dumps(content(PICTURES, "COCO_val2014_"))
    lay(tmp_path, {"captions_val2014.json": annotation})
    # The second is another picture.
    touch(tmp_path / folder, *(f"COCO_val2014_000000000{end}" for end in ("042.jpg", "139.png")))
    found = load("coco", tmp_path, year="2014", captions="first")
    paths = [f"COCO_val2014_{number:012d}.jpg" for number in PICTURES]
    assert found.clips["path"].tolist() == [(Path(folder) / path).as_posix() for path in paths]
    assert found.missing["clip_id"].tolist() == ["COCO_val2014_000000000139"]


def changed(part: str, **record: object) -> str:
    """The captions' JSON with the first record of a part changed."""
    whole = content(PICTURES)
    whole[part][0] |= record
    return json.dumps(whole)


REFUSED = [
    (changed("annotations", caption=7), r"annotations\[0\], 'caption': 7 is not a text"),
    (changed("annotations", image_id="42"), r"\[0\], 'image_id': '42' is not a whole number"),
    (changed("annotations", image_id=7), r"annotations\[0\]: there is no image 7"),
    (changed("images", id=42), "the image number 42 is there 2 times"),
    (changed("images", file_name="000000000042.jpg"), "name '000000000042.jpg' is there 2 times"),
    (changed("images", file_name="../1.jpg"), r"images\[0\]: '\.\./1.jpg' is no COCO file"),
    ('{"images": [], "annotations": []}', "no usable row"),
]


@pytest.mark.parametrize(("broken", "message"), REFUSED)
def test_broken_files_are_refused(tmp_path: Path, broken: str, message: str) -> None:
    check_refused(tmp_path, {FILE: broken}, message, "coco")
