"""UCF101's loader: the splits, the layouts, the class that is spelled in two ways, broken lists."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from data_prep.datasets import load
from data_prep.datasets.ucf101 import TEMPLATES
from tests.data_prep.datasets.examples import lay, touch

CLASSES = b"1 Archery\r\n2 HandstandPushups\r\n3 YoYo\r\n"
TEST = (
    b"Archery/v_Archery_g01_c01.avi\r\n"
    b"HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n"
    b"YoYo/v_YoYo_g25_c05.avi\r\n"
)
TRAIN = b"YoYo/v_YoYo_g08_c01.avi 3\r\nArchery/v_Archery_g08_c01.avi 1\r\n"


def write(root: Path, folder: str = "ucfTrainTestlist", /, **contents: bytes) -> Path:
    files = {"classInd": CLASSES, "testlist01": TEST, **contents}
    return lay(root, {f"{folder}/{name}.txt": content for name, content in files.items()})


@pytest.mark.parametrize("videos", ["UCF-101/", "UCF101/", "videos/", ""])
@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "."])
def test_the_layouts_in_use(tmp_path: Path, lists: str, videos: str) -> None:
    write(tmp_path, lists)
    touch(
        tmp_path,
        f"{videos}Archery/v_Archery_g01_c01.avi",
        f"{videos}HandstandPushups/v_HandStandPushups_g01_c01.avi",
    )
    data = load("ucf101", tmp_path)
    assert data.clips["clip_id"].tolist() == TEST.decode().split()
    assert data.clips["path"].tolist() == [videos + path for path in TEST.decode().split()]
    assert data.clips["label"].tolist() == ["Archery", "Handstand Pushups", "Yo Yo"]
    assert set(data.clips["split"]) == {"testlist01"}
    assert data.missing["clip_id"].tolist() == ["YoYo/v_YoYo_g25_c05.avi"]
    assert data.classes == ("Archery", "Handstand Pushups", "Yo Yo")
    assert (data.annotated, len(data.dropped), data.templates) == (3, 0, TEMPLATES)
    assert data.protocol["prompts"] == "the CLIP paper's 48 templates for UCF101"
    assert any("1,794" in note for note in data.notes)
    assert any("has 3 classes; officially there are 101" in note for note in data.notes)


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_the_other_spelling_of_the_folder(tmp_path: Path, suffix: str) -> None:
    path = f"UCF-101/HandStandPushups/v_HandStandPushups_g01_c01{suffix}"
    touch(write(tmp_path), path)
    data = load("ucf101", tmp_path)
    assert data.clips["path"].iloc[1] == path
    assert data.clips["label"].iloc[1] == "Handstand Pushups"
    assert len(data.missing) == 2


def test_train_lists_have_class_numbers(tmp_path: Path) -> None:
    data = load("ucf101", write(tmp_path, trainlist01=TRAIN), split="trainlist01")
    assert data.clips["label"].tolist() == ["Yo Yo", "Archery"]
    assert data.protocol["split"] == "trainlist01"
    assert not any("1,794" in note for note in data.notes)


REFUSED = [
    ("testlist01", TEST[:-8], "'YoYo/v_YoYo_g25_c' is no video, such as"),
    ("classInd", CLASSES[:-4], "class of 'YoYo/.*' is not in classInd"),
    ("classInd", CLASSES[:11], "which has 1 classes; take both files"),
    ("classInd", CLASSES.replace(b" ", b","), "'1,Archery' is no class"),
    ("classInd", b"Archery\nYoYo\n", "'Archery' is no class"),
    ("trainlist01", TRAIN.replace(b" ", b";"), "g08_c01.avi;3' is no video"),
    ("trainlist01", TRAIN.replace(b"i 3", b"i 2"), "number 2, but .* gives 3; take both"),
    ("testlist01", TEST + TEST[:31], "video 'Archery/.*' is there 2 times"),
    ("classInd", CLASSES + b"4 YoYo\n", "class 'Yo Yo' is there 2 times"),
    ("classInd", CLASSES + b"3 Biking\n", "class number 3 is there 2 times"),
    ("testlist01", b"v_Archery_g01_c01.avi\n", "is no video"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_broken_lists_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    split = name.replace("classInd", "testlist01")
    with pytest.raises(ValueError, match=message):
        load("ucf101", write(tmp_path, **{name: content}), split=split)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no list of testlist02 under .*ucfTrainTestlist/"):
        load("ucf101", write(tmp_path), split="testlist02")


def test_templates_are_those_of_the_clip_paper(realdata: Path) -> None:
    text = (realdata / "clip/prompts.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    ucf = next(part for part in section if part.startswith("UCF101"))
    listed = ucf.split("templates = [")[1].split("]")[0]
    assert list(TEMPLATES) == re.findall(r"'([^']+)'", listed)
    assert len(set(TEMPLATES)) == 48
    names = re.findall(r"'([^']+)'", ucf.split("classes = [")[1].split("]")[0])
    root = realdata / "ucf101"
    ours = load("ucf101", root).classes
    assert set(names) ^ set(ours) == {"Hand Stand Pushups", "Handstand Pushups"}


def test_the_official_test_list(realdata: Path) -> None:
    data = load("ucf101", realdata / "ucf101")
    assert (len(data.clips), data.annotated, len(data.dropped)) == (3783, 3783, 0)
    assert (data.classes[0], data.classes[-1]) == ("Apply Eye Makeup", "Yo Yo")
    counts = Counter(data.clips["label"])
    assert set(counts) == set(data.classes) and len(data.classes) == 101
    assert (counts["Breast Stroke"], counts["Boxing Punching Bag"]) == (28, 49)
    handstands = data.clips[data.clips["label"] == "Handstand Pushups"]["path"]
    assert handstands.str.startswith("UCF-101/HandstandPushups/v_HandStandPushups_").all()


def test_the_official_train_list(realdata: Path) -> None:
    data = load("ucf101", realdata / "ucf101", split="trainlist01")
    assert len(data.clips) == 9537
    assert set(data.clips["label"]) == set(data.classes)
    test = load("ucf101", realdata / "ucf101")
    assert not set(data.clips["clip_id"]) & set(test.clips["clip_id"])
    assert data.notes == ()


def test_real_clips_in_the_official_layout(realdata: Path, tmp_path: Path) -> None:
    """Lists cut to three classes, as found in public, and 15 real clips, 10 of the test list."""
    (tmp_path / "UCF-101").symlink_to(realdata / "videos/UCF-101")
    shutil.copytree(realdata / "ucf101/variants/senalar_3class", tmp_path / "ucfTrainTestlist")
    data = load("ucf101", tmp_path)
    on_disk = {
        path.relative_to(realdata / "videos").as_posix()
        for path in (realdata / "videos/UCF-101").rglob("*.avi")
    }
    there = set(data.clips["path"]) - set(data.missing["path"])
    assert there == on_disk & set(data.clips["path"])
    assert data.classes == ("Baby Crawling", "Punch", "Push Ups")
    assert (len(data.clips), len(there)) == (104, 10)
