"""YouCook2's loader: both annotations, the folders in use, and broken files."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import check_refused, lay, touch

HEADER = "end,start,task,text,video_id"
ROWS = [
    '60,47,226,"cut, then wash",-xHr8X2Wpm_',
    "89,67,226, mix ,-xHr8X2Wpm_",
    "9,2,13,fry,_a0b1c2d3e4",
    "9,2,13,fry again,_a0b1c2d3e4",
]
GOOD = "\n".join([HEADER, *ROWS]) + "\n"
TABLE = "validation_youcook.csv"
TREE = "youcookii_annotations_trainval.json"


Step = tuple[float, float, str]


def tree(videos: Mapping[str, tuple[str, str, Sequence[Step]]]) -> str:
    """The official JSON of video -> subset, recipe, (start, end, sentence)."""
    return json.dumps(
        {
            "database": {
                video: {
                    "duration": 241.62,
                    "subset": subset,
                    "recipe_type": recipe,
                    "annotations": [
                        {"segment": [start, end], "id": k, "sentence": text}
                        for k, (start, end, text) in enumerate(steps)
                    ],
                    "video_url": f"https://www.youtube.com/watch?v={video}",
                }
                for video, (subset, recipe, steps) in videos.items()
            }
        }
    )


VIDEOS = {
    "-xHr8X2Wpm_": ("validation", "226", [(47, 60, "cut, then wash"), (67, 89, " mix ")]),
    "trainvideo0": ("training", "101", [(1, 2, "stir")]),
    "_a0b1c2d3e4": ("validation", "13", [(2, 9, "fry"), (2, 9, "fry again")]),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lay(tmp_path, {TABLE: GOOD, TREE: tree(VIDEOS)})


def test_steps_in_the_order_of_the_table(root: Path) -> None:
    found = load("youcook2", root)
    assert found.clips["clip_id"].tolist() == [
        "-xHr8X2Wpm__47_60",
        "-xHr8X2Wpm__67_89",
        "_a0b1c2d3e4_2_9",
        "_a0b1c2d3e4_2_9_2",
    ]
    assert found.clips["text"].tolist() == ["cut, then wash", " mix ", "fry", "fry again"]
    assert found.clips[["start", "end"]].to_numpy().tolist() == [[47, 60], [67, 89], [2, 9], [2, 9]]
    assert found.missing["path"].tolist()[0] == "validation/226/-xHr8X2Wpm_.mp4"
    assert (found.annotated, found.coverage) == (4, 0)
    assert found.protocol["annotation"] == "MIL-NCE's list"


def test_both_annotations_give_the_same_clips(root: Path) -> None:
    official = load("youcook2", root, annotation="official")
    assert official.clips.equals(load("youcook2", root).clips)
    assert official.protocol["annotation"] == "official"
    train = load("youcook2", root, annotation="official", split="train")
    assert train.clips["clip_id"].tolist() == ["trainvideo0_1_2"]
    assert train.clips["path"].tolist() == ["training/101/trainvideo0.mp4"]


@pytest.mark.parametrize(
    "folder",
    [
        *("validation/226", "226", "videos/validation/226", "raw_videos/validation/226"),
        *("videos/226", "raw_videos/226", "videos", "raw_videos", "validation", "."),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_where_videos_may_lie(root: Path, folder: str, suffix: str) -> None:
    touch(root / folder, *(f"-xHr8X2Wpm_{end}" for end in (suffix, ".info.json", ".jpg")))
    found = load("youcook2", root)
    paths = [Path(folder) / f"-xHr8X2Wpm_{suffix}"] * 2
    paths += [Path(folder.replace("226", "13")) / "_a0b1c2d3e4.mp4"] * 2
    assert found.clips["path"].tolist() == [path.as_posix() for path in paths]


def test_steps_without_text_or_length_are_left_out_and_listed(root: Path) -> None:
    lay(root, {TABLE: GOOD + "9,3,13, ,_a0\n5,5,13,a,_a0"})
    found = load("youcook2", root)
    assert len(found.clips) == 4
    assert found.dropped["item"].tolist() == ["line 6: _a0_3_9", "line 7: _a0_5_5"]
    assert found.dropped["reason"].tolist() == [
        "the text is empty",
        "the step ends before it starts",
    ]
    assert found.annotated == 6


def test_the_table_has_no_training_split(root: Path) -> None:
    with pytest.raises(ValueError, match="no training split; give annotation 'official'"):
        load("youcook2", root, split="train")


def changed(**record: object) -> str:
    """The official JSON with the first video's record changed."""
    content = json.loads(tree(VIDEOS))
    content["database"]["-xHr8X2Wpm_"] |= record
    return json.dumps(content)


def step(**record: object) -> str:
    return changed(annotations=[{"segment": [1, 2], "sentence": "a"} | record])


TWICE = changed(annotations=[{"segment": [1, 2], "sentence": "a"}] * 2)
REFUSED = [
    (TABLE, GOOD + ROWS[2] + "\n", "is there 2 times"),
    (TABLE, GOOD.replace("_a0b1c2d3e4", "../../etc"), "line 4: '../../etc' is no YouTube id"),
    (TABLE, GOOD.replace("67,226", "67,.."), r"line 3: '\.\.' is no recipe number"),
    (TABLE, GOOD.replace("89,67", "1:29,67"), "line 3: end '1:29' is no time in seconds"),
    (TABLE, GOOD.replace("89,67", "inf,67"), "line 3: end 'inf' is no time"),
    (TABLE, GOOD.replace("89,67", "89,nan"), "line 3: start 'nan' is no time"),
    (TABLE, GOOD.replace("89,67", "89,-1"), "start '-1' is no time"),
    (TABLE, GOOD.replace("89,67", "89,"), "line 3: start '' is no time"),
    (TABLE, GOOD.replace("end,start", "start,end"), "no usable row"),
    (TREE, tree({"a": ("training", "1", [])}), "no video of subset 'validation'; it has training"),
    (TREE, '{"database": {}}', "no video of subset .*; it has none"),
    (TREE, tree(VIDEOS).replace("trainvideo0", "-xHr8X2Wpm_"), "'-xHr8X2Wpm_' is there 2 times"),
    (TREE, '{"database": {"a": 7}}', "a: 7 is not an object"),
    (TREE, changed(recipe_type=226), "'recipe_type': 226 is not"),
    (TREE, changed(recipe_type=".."), r"'\.\.' is no recipe number"),
    (TREE, changed(annotations={}), "'annotations': {} is not a list"),
    (TREE, tree({"../a": ("validation", "1", [(1, 2, "a")])}), r"'\.\./a' is no YouTube id"),
    (TREE, step(sentence=3), r"annotations\[0\], 'sentence': 3 is"),
    (TREE, step(segment=[1]), r"annotations\[0\]: the segment \[1\] is not"),
    (TREE, step(segment=[1, "2"]), "'2' is not a number"),
    (TREE, step(segment=[1, float("nan")]), "nan is no time in seconds"),
    (TREE, step(segment=[-1, 2]), "-1 is no time in seconds"),
    (TREE, TWICE, "is there 2 times"),
]


@pytest.mark.parametrize(("file", "content", "message"), REFUSED)
def test_broken_files_are_refused(root: Path, file: str, content: str, message: str) -> None:
    annotation = "mil_nce" if file == TABLE else "official"
    check_refused(root, {file: content}, message, "youcook2", annotation=annotation)


def test_the_real_table(realdata: Path) -> None:
    found = load("youcook2", realdata / "youcook2")
    with (realdata / "youcook2" / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(found.clips) == found.annotated == 3350
    assert (len(found.dropped), found.coverage, len(found.notes)) == (0, 0, 1)
    for column in ("text", "start", "end"):
        kind = str if column == "text" else float
        assert found.clips[column].tolist() == [kind(row[column]) for row in rows]
    assert found.clips["path"].tolist() == [
        f"validation/{row['task']}/{row['video_id']}.mp4" for row in rows
    ]
    assert found.clips["path"].nunique() == 436
    assert found.clips["text"].nunique() == 3273
    assert found.clips["path"].str.contains(r"/[-_][^/]*$").sum() == 101
    again = found.clips[found.clips["clip_id"].str.startswith("oJZUxU9szWA_120_252")]
    assert len(again) == 2


def test_the_real_official_layout(realdata: Path, tmp_path: Path) -> None:
    subset = realdata / "youcook2/youcookii_annotations_trainval.subset20.json"
    shutil.copy(subset, tmp_path / TREE)
    found = load("youcook2", tmp_path, split="train", annotation="official")
    assert len(found.clips) == found.annotated == 132
    assert found.clips["path"].nunique() == 20
    first = found.clips.iloc[0]
    assert (first["clip_id"], first["start"], first["end"]) == ("GLd3aX16zBg_90_102", 90, 102)
    assert first["text"] == "spread margarine on two slices of white bread"
