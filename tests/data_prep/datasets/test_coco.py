"""COCO Captions' loader: first and all captions, the folders in use, and broken files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitclip_core.videos import video_numbers
from PIL import Image

from data_prep.clip_frames import FrameRule
from data_prep.datasets import load
from data_prep.frame_store import build
from data_prep.mini_benchmark import TEACHER
from fitclip_core.encoders import ClipEncoder
from fitclip_core.zero_shot import evaluate

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


def write(root: Path, what: Any, name: str = FILE) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(what))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, content(PICTURES))
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/000000000042.jpg").touch()
    return tmp_path


def test_the_first_caption_of_each_picture(root: Path) -> None:
    found = load("coco", root, captions="first")
    assert found.clips["clip_id"].tolist() == ["000000000139", "000000000042"]
    assert found.clips["path"].tolist() == ["val2017/000000000139.jpg", "val2017/000000000042.jpg"]
    assert found.clips["text"].tolist() == ["a room", "a cat "]
    assert found.missing["clip_id"].tolist() == ["000000000139"]
    assert found.annotated == 2
    assert found.protocol["data_set"] == "COCO Captions 2017"
    assert found.protocol["captions"] == "first caption of captions_val2017.json"
    assert any("has 2 pictures; officially there are 5,000" in note for note in found.notes)


def test_every_caption(root: Path) -> None:
    found = load("coco", root)
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
    write(tmp_path, content(PICTURES, "COCO_val2014_"), "captions_val2014.json")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "COCO_val2014_000000000042.jpg").touch()
    (tmp_path / folder / "COCO_val2014_000000000139.png").touch()  # another picture
    found = load("coco", tmp_path, year="2014", captions="first")
    paths = [f"COCO_val2014_{number:012d}.jpg" for number in PICTURES]
    assert found.clips["path"].tolist() == [(Path(folder) / path).as_posix() for path in paths]
    assert found.missing["clip_id"].tolist() == ["COCO_val2014_000000000139"]


def test_empty_captions_are_left_out_and_listed(root: Path) -> None:
    write(root, content({1: ["", "b"], 2: [" "], 3: []}))
    found = load("coco", root)
    assert found.clips["text"].tolist() == ["b"]
    assert found.dropped["item"].tolist() == [
        *("000000000001_0", "000000000002_0"),
        *("000000000002", "000000000003"),
    ]
    assert found.annotated == 3


def test_a_split_of_the_official_size(tmp_path: Path) -> None:
    texts = {number: ["a"] * (6 if number < 14 else 5) for number in range(5000)}
    write(tmp_path, content(texts))
    found = load("coco", tmp_path, captions="first")
    assert len(found.clips) == found.annotated == 5000
    assert (found.notes, found.protocol["annotation_size"]) == ((), "official")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split is 'test'; there are val, train"),
        ({"year": "2015"}, "year is '2015'; there are 2017, 2014"),
        ({"captions": "random"}, "captions is 'random'; there are all, first"),
        (
            {"split": "train"},
            r"no COCO captions under .*; looked for annotations/captions_train2017",
        ),
    ],
)
def test_options_that_do_not_go(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("coco", root, **options)


def changed(part: str, **record: object) -> str:
    """The captions' JSON with the first record of a part changed."""
    whole = content(PICTURES)
    whole[part][0] |= record
    return json.dumps(whole)


def without(part: str, key: str) -> str:
    whole = content(PICTURES)
    del whole[part][0][key]
    return json.dumps(whole)


GOOD = json.dumps(content(PICTURES))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:7446\nsize 34933776\n"
# Name -> the file, its content, what the error says of it.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "cut off": (FILE, GOOD[:-30], "no whole JSON"),
    "in UTF-16": (FILE, GOOD.encode("utf-16"), "UTF-16"),
    "in Latin-1": (FILE, GOOD.replace("room", "rêve").encode("latin-1"), "0xea"),
    "a CSV": (FILE, "image_id,caption\n1,a\n", "no whole JSON"),
    "empty": (FILE, "", "is empty"),
    "git-LFS pointer": (FILE, POINTER, "git-LFS pointer"),
    "web page": (FILE, "<!DOCTYPE html>\n<html></html>\n", "web page"),
    "list": (FILE, "[]", r"\[\] is not an object"),
    "instances instead of captions": (
        FILE,
        without("annotations", "caption"),
        r"annotations\[0\] has no 'caption'; it has id, image_id",
    ),
    "no images": (FILE, '{"annotations": []}', "no 'images'; it has annotations"),
    "no annotations": (FILE, '{"images": []}', "no 'annotations'; it has images"),
    "no file name": (FILE, without("images", "file_name"), r"images\[0\] has no 'file_name'"),
    "number for a caption": (
        FILE,
        changed("annotations", caption=7),
        r"annotations\[0\], 'caption': 7 is not a text",
    ),
    "text for an image number": (
        FILE,
        changed("annotations", image_id="42"),
        r"annotations\[0\], 'image_id': '42' is not a whole number",
    ),
    "caption of another image": (
        FILE,
        changed("annotations", image_id=7),
        r"annotations\[0\]: there is no image 7",
    ),
    "image twice": (FILE, changed("images", id=42), "the image number 42 is there 2 times"),
    "file name twice": (
        FILE,
        changed("images", file_name="000000000042.jpg"),
        "the file name '000000000042.jpg' is there 2 times",
    ),
    "absolute path": (
        FILE,
        changed("images", file_name="/etc/passwd"),
        r"images\[0\]: '/etc/passwd' is no COCO file name",
    ),
    "..": (
        FILE,
        changed("images", file_name="../1.jpg"),
        r"images\[0\]: '\.\./1.jpg' is no COCO file",
    ),
    "no pictures": (FILE, '{"images": [], "annotations": []}', "no usable row"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_place(root: Path, name: str) -> None:
    file, broken, message = BROKEN[name]
    (root / file).write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(ValueError, match=message):
        load("coco", root)


def test_a_bom_changes_nothing(root: Path) -> None:
    before = load("coco", root).clips
    (root / FILE).write_bytes(b"\xef\xbb\xbf" + (root / FILE).read_bytes())
    assert load("coco", root).clips.equals(before)


def test_five_captions_of_a_picture_are_measured_as_the_field_does(tmp_path: Path) -> None:
    """Each caption looks for its picture among the pictures; of a picture's captions the best
    counts. Counted as VSE++'s evaluation counts, one by one."""
    words = ["a {} square", "something {}", "{} on grey", "{} box", "the colour is {}", "all {}"]
    colours = ["red", "green", "blue", "yellow", "white", "black", "orange"]
    captions = {
        place: [word.format(colour) for word in words[: 6 if place == 2 else 5]]
        for place, colour in enumerate(colours)
    }
    write(tmp_path, content(captions))
    (tmp_path / "val2017").mkdir()
    for place, colour in enumerate(colours):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"val2017/{place:012d}.jpg")
    found = load("coco", tmp_path)
    encoder = ClipEncoder.from_folder(TEACHER)
    rule = FrameRule(4, encoder.image_size)
    store = build(found.clips, tmp_path, tmp_path / "store", rule, workers=1, progress=False)
    assert len(store) == 7 and len(found.clips) == 36
    outcomes = evaluate(encoder, found.clips, store)

    pictures = encoder.encode_source(store).double().numpy()
    texts = encoder.encode_texts(found.clips["text"].tolist()).double().numpy()
    owners = [place for place in range(7) for _ in captions[place]]
    scores = pictures @ texts.T
    search = [
        1 + sum(other > column[owner] for other in column)
        for column, owner in zip(scores.T, owners, strict=True)
    ]
    best = []
    for place, row in enumerate(scores):
        order = np.argsort(-row)
        own = [column for column in range(36) if owners[column] == place]
        best.append(1 + min(int(np.where(order == column)[0][0]) for column in own))
    ranks = {name: rows["rank"].tolist() for name, rows in outcomes.groupby("direction")}
    assert ranks == {"text_to_video": search, "video_to_text": best}
    assert max(best) > 1 and max(search) > 1, "the teacher is not perfect"
