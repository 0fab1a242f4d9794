"""The user's own table: its columns, tasks and splits, images as clips, broken tables."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.clip_frames import FrameRule
from data_prep.datasets import load
from data_prep.frame_store import build
from fitclip_core.clips import video_numbers
from tests.data_prep.datasets.examples import lay

CAPTIONS = b'path,caption\na.mp4,A cat sleeps\nb/c.mp4,"Two dogs, running"\n'
LABELS = b"path,label\na.mp4,run\nb/c.mp4,jump\nd.mp4,run\n"


def write(root: Path, content: bytes = CAPTIONS, name: str = "clips.csv") -> Path:
    return lay(root, {name: content})


def test_captions(tmp_path: Path) -> None:
    (write(tmp_path) / "b").mkdir()
    (tmp_path / "b/c.mp4").touch()
    data = load("folder", tmp_path)
    assert data.clips["clip_id"].tolist() == ["a.mp4", "b/c.mp4"]
    assert data.clips["path"].tolist() == ["a.mp4", "b/c.mp4"]
    assert data.clips["text"].tolist() == ["A cat sleeps", "Two dogs, running"]
    assert "label" not in data.clips
    assert data.missing["path"].tolist() == ["a.mp4"]
    assert (data.annotated, data.templates, data.classes, data.notes) == (2, (), (), ())
    assert data.protocol["captions"] == "the column caption"
    assert (data.protocol["data_set"], data.protocol["split"]) == ("clips", "all")


def test_labels(tmp_path: Path) -> None:
    data = load("folder", write(tmp_path, LABELS), prompt="a video of {}.")
    assert data.clips["label"].tolist() == ["run", "jump", "run"]
    assert "text" not in data.clips
    assert (data.classes, data.templates) == (("run", "jump"), ("a video of {}.",))
    assert data.protocol["prompts"] == "one template, 'a video of {}.'"


def test_several_captions_of_a_video(tmp_path: Path) -> None:
    content = b"path,start,end,text\na.mp4,1,3,x\na.mp4,1,3,y\na.mp4,,,z\na.mp4,1.0,3,x\n"
    data = load("folder", write(tmp_path, content))
    assert data.clips["clip_id"].tolist() == [
        *("a.mp4#1-3", "a.mp4#1-3 (2)"),
        *("a.mp4", "a.mp4#1.0-3"),
    ]
    assert video_numbers(data.clips).tolist() == [0, 0, 1, 0]
    labels = b"path,label\na.mp4,run\nb.mp4,sit\na.mp4,run\n"
    assert load("folder", write(tmp_path, labels)).clips["clip_id"].tolist()[2] == "a.mp4 (2)"
    with pytest.raises(ValueError, match=r"'a.mp4' and 'a.mp4 \(3\)' are one video"):
        load("folder", write(tmp_path, labels + b"a.mp4,sit\n"))


def test_splits(tmp_path: Path) -> None:
    content = b"path,label,split\na.mp4,run,test\nb.mp4,jump,train\nc.mp4,sit,test\nd.mp4,run,\n"
    everything = load("folder", write(tmp_path, content))
    assert everything.clips["split"].tolist()[:3] == ["test", "train", "test"]
    assert everything.clips["split"].isna().tolist() == [False, False, False, True]
    test = load("folder", tmp_path, split="test")
    assert test.clips["path"].tolist() == ["a.mp4", "c.mp4"]
    assert (test.annotated, test.protocol["split"]) == (2, "test")
    assert test.classes == ("run", "jump", "sit"), "a class of the other splits competes"
    with pytest.raises(ValueError, match="no row with split 'val'; it has 'test', 'train', ''"):
        load("folder", tmp_path, split="val")


def test_a_task_is_chosen(tmp_path: Path) -> None:
    write(tmp_path, b"path,text,label\na.mp4,A cat,sit\n")
    assert load("folder", tmp_path, task="retrieval").clips["text"].tolist() == ["A cat"]
    assert load("folder", tmp_path, task="classification").classes == ("sit",)


def test_rows_without_a_text_are_listed(tmp_path: Path) -> None:
    data = load("folder", write(tmp_path, CAPTIONS + b"d.mp4,\ne.mp4,  \n"))
    assert (len(data.clips), data.annotated) == (2, 4)
    assert data.dropped.values.tolist() == [
        ["d.mp4", "it has no caption", "clips.csv"],
        ["e.mp4", "it has no caption", "clips.csv"],
    ]


def test_another_table(tmp_path: Path) -> None:
    data = load("folder", write(tmp_path, name="lists/mine.csv"), table="lists/mine.csv")
    assert data.protocol["data_set"] == "mine"
    assert data.clips["path"].iloc[0] == "a.mp4", "paths start from the root, not from the table"


def test_images_are_clips(tmp_path: Path) -> None:
    write(tmp_path, b"path,text\na.png,red\nb.jpeg,blue\nc.png,none\n")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("L", (30, 50), 77).save(tmp_path / "b.jpeg")
    data = load("folder", tmp_path)
    assert data.missing["clip_id"].tolist() == ["c.png"]
    rule = FrameRule(n_frames=4, size=8)
    store = build(data.clips, data.root, tmp_path / "store", rule, workers=1, progress=False)
    assert store.clip_ids == ["a.png", "b.jpeg"]
    assert store.frame_counts.tolist() == [1, 1]
    frames = store.frames([0, 1])
    assert (frames[0, 0] == (255, 0, 0)).all() and (frames[1, 0] == 77).all()
    assert not frames[:, 1:].any()
    assert [record.get("decoder") for record in store.records] == ["pillow", "pillow", None]
    assert store.failures["reason"].tolist() == ["no such file"]


REFUSED: list[tuple[bytes, dict[str, Any], str]] = [
    (CAPTIONS[:-10], {}, "line 3: .* the file is cut off, or a quote is not closed"),
    (CAPTIONS.replace(b",", b"|"), {}, r"has no column path; it has path\|caption"),
    (CAPTIONS.replace(b"caption", b"x"), {}, "no column caption or text or label or class"),
    (CAPTIONS, {"task": "classification"}, "has no column label or class; add one"),
    (b"path,text\na.mp4,\n", {}, "folder: the annotation of this split has no usable"),
    (CAPTIONS + b"../d.mp4,x\n", {}, r"path '\.\./d\.mp4' in row 2 is not a path inside the root"),
    (b"path,text,label\na.mp4,x,y\n", {}, "has text and label; choose the task, retrieval or cl"),
    (CAPTIONS, {"split": "val"}, "no row with split 'val'; it has no such column"),
    (CAPTIONS, {"table": "mine.csv"}, r"no table of clips under .*; looked for mine\.csv"),
    (CAPTIONS, {"prompt": "{name} {}"}, "'{name} {}' must hold {} once, .* and no other brace"),
]


@pytest.mark.parametrize(("content", "options", "message"), REFUSED)
def test_broken_tables_and_bad_options(
    tmp_path: Path, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load("folder", write(tmp_path, content), **options)
