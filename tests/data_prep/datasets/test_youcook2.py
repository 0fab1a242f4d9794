"""YouCook2's loader: both annotations, the folders in use, and broken files."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from data_prep.datasets import load

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
    (tmp_path / TABLE).write_text(GOOD)
    (tmp_path / TREE).write_text(tree(VIDEOS))
    return tmp_path


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
    assert list(found.protocol["annotations"]) == [TABLE]
    assert any("has 4 steps; officially there are 3,350" in note for note in found.notes)


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
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_where_videos_may_lie(root: Path, folder: str, suffix: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    file = root / folder / f"-xHr8X2Wpm_{suffix}"
    file.touch()
    file.with_suffix(".info.json").touch()
    file.with_suffix(".jpg").touch()
    found = load("youcook2", root)
    assert found.clips["path"].tolist()[:2] == [file.relative_to(root).as_posix()] * 2
    missing = file.relative_to(root).as_posix().replace("226", "13")
    missing = missing.replace("-xHr8X2Wpm_", "_a0b1c2d3e4").replace(suffix, ".mp4")
    assert found.missing["path"].tolist() == [missing] * 2


def test_steps_without_text_or_length_are_left_out_and_listed(root: Path) -> None:
    (root / TABLE).write_text("\n".join([GOOD.strip(), "9,3,13, ,_a0", "5,5,13,a,_a0"]))
    found = load("youcook2", root)
    assert len(found.clips) == 4
    assert found.dropped["item"].tolist() == ["line 6: _a0_3_9", "line 7: _a0_5_5"]
    assert found.dropped["reason"].tolist() == [
        "the text is empty",
        "the step ends before it starts",
    ]
    assert found.annotated == 6


@pytest.mark.parametrize(
    ("split", "n_videos", "n_steps"), [("val", 457, 3492), ("train", 1333, 10337)]
)
def test_the_official_sizes(tmp_path: Path, split: str, n_videos: int, n_steps: int) -> None:
    subset = {"val": "validation", "train": "training"}[split]
    steps: list[list[Step]] = [[(1.5, 2.25, "a")] for _ in range(n_videos)]
    for k in range(n_steps - n_videos):
        steps[k % n_videos].append((k + 3, k + 5, f"step {k}"))
    videos = {f"video-{k}": (subset, "101", of_video) for k, of_video in enumerate(steps)}
    (tmp_path / TREE).write_text(tree({**videos, "other": ("testing", "5", [])}))
    found = load("youcook2", tmp_path, split=split, annotation="official")
    assert len(found.clips) == found.annotated == n_steps
    assert found.clips["clip_id"].iloc[0] == "video-0_1.5_2.25"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split is 'test'; there are val, train"),
        ({"annotation": "youcook"}, "annotation is 'youcook'; there are mil_nce, official"),
        ({"split": "train"}, "no training split; give annotation 'official'"),
    ],
)
def test_options_that_do_not_go(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("youcook2", root, **options)


def changed(**record: object) -> str:
    """The official JSON with the first video's record changed."""
    content = json.loads(tree(VIDEOS))
    content["database"]["-xHr8X2Wpm_"] |= record
    return json.dumps(content)


def step(**record: object) -> str:
    return changed(annotations=[{"segment": [1, 2], "sentence": "a"} | record])


OFFICIAL = tree(VIDEOS)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:7446\nsize 34933776\n"
PAGE = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"
# Name -> the file, its content, what the error says of it.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "table cut off in a row": (TABLE, GOOD[:-25], "line 5: 3 fields where 5 belong"),
    "table with an open quote": (TABLE, GOOD.replace(' wash"', ""), "quote is not closed"),
    "table with |": (TABLE, GOOD.replace(",", "|"), "has no column video_id, task, start"),
    "table in UTF-16": (TABLE, GOOD.encode("utf-16"), "UTF-16"),
    "table in Latin-1": (TABLE, GOOD.replace("mix", "crème").encode("latin-1"), "0xe8"),
    "table with a row twice": (TABLE, GOOD + ROWS[2] + "\n", "is there 2 times"),
    "table without a column": (TABLE, GOOD.replace("video_id", "id"), "no column video_id"),
    "table with an absolute path": (
        TABLE,
        GOOD.replace("_a0b1c2d3e4", "/etc/passwd"),
        "line 4: '/etc/passwd' is no YouTube id",
    ),
    "table with ..": (
        TABLE,
        GOOD.replace("_a0b1c2d3e4", "../../etc/passwd"),
        "line 4: '../../etc/passwd' is no YouTube id",
    ),
    "table with .. as a recipe": (
        TABLE,
        GOOD.replace("67,226", "67,.."),
        r"line 3: '\.\.' is no recipe",
    ),
    "table with a text for a time": (
        TABLE,
        GOOD.replace("89,67", "1:29,67"),
        "line 3: end '1:29' is no time",
    ),
    "table with an infinite time": (
        TABLE,
        GOOD.replace("89,67", "inf,67"),
        "line 3: end 'inf' is no time",
    ),
    "table with NaN": (TABLE, GOOD.replace("89,67", "89,nan"), "line 3: start 'nan' is no time"),
    "table with a time below 0": (TABLE, GOOD.replace("89,67", "89,-1"), "start '-1' is no time"),
    "table without a time": (TABLE, GOOD.replace("89,67", "89,"), "line 3: start '' is no time"),
    "table of swapped times": (
        TABLE,
        GOOD.replace("end,start", "start,end"),
        "no usable row",
    ),
    "empty table": (TABLE, "", "is empty"),
    "table without rows": (TABLE, HEADER, "no row"),
    "git-LFS pointer for the table": (TABLE, POINTER, "git-LFS pointer"),
    "web page for the table": (TABLE, PAGE, "web page"),
    "JSON cut off": (TREE, OFFICIAL[:-30], "no whole JSON"),
    "JSON in UTF-16": (TREE, OFFICIAL.encode("utf-16"), "UTF-16"),
    "JSON in Latin-1": (TREE, OFFICIAL.replace("fry", "crème").encode("latin-1"), "0xe8"),
    "empty JSON": (TREE, "", "is empty"),
    "git-LFS pointer for the JSON": (TREE, POINTER, "git-LFS pointer"),
    "web page for the JSON": (TREE, PAGE, "web page"),
    "JSON list": (TREE, "[]", r"\[\] is not an object"),
    "JSON without a database": (TREE, '{"videos": {}}', "no 'database'; it has videos"),
    "JSON with a list of videos": (TREE, '{"database": []}', r"'database': \[\] is not an object"),
    "JSON without the subset": (
        TREE,
        tree({"a": ("training", "1", [])}),
        "has no video of subset 'validation'; it has training",
    ),
    "JSON without any video": (TREE, '{"database": {}}', "no video of subset .*; it has none"),
    "JSON with a video twice": (
        TREE,
        OFFICIAL.replace("trainvideo0", "-xHr8X2Wpm_"),
        "the key '-xHr8X2Wpm_' is there 2 times",
    ),
    "JSON video of another kind": (TREE, '{"database": {"a": 7}}', "a: 7 is not an object"),
    "JSON with a number for a recipe": (
        TREE,
        changed(recipe_type=226),
        "'recipe_type': 226 is not",
    ),
    "JSON with .. as a recipe": (TREE, changed(recipe_type=".."), r"'\.\.' is no recipe number"),
    "JSON with steps by id": (TREE, changed(annotations={}), "'annotations': {} is not a list"),
    "JSON with an absolute path": (
        TREE,
        tree({"/etc/passwd": ("validation", "1", [])}),
        "'/etc/passwd' is no YouTube id",
    ),
    "JSON with ..": (
        TREE,
        tree({"../a": ("validation", "1", [])}),
        r"'\.\./a' is no YouTube id",
    ),
    "JSON with a number for a text": (
        TREE,
        step(sentence=3),
        r"annotations\[0\], 'sentence': 3 is",
    ),
    "JSON with one time": (TREE, step(segment=[1]), r"annotations\[0\]: the segment \[1\] is not"),
    "JSON with a text for a time": (TREE, step(segment=[1, "2"]), "'2' is not a number"),
    "JSON with NaN": (TREE, step(segment=[1, float("nan")]), "nan is no time in seconds"),
    "JSON with a time below 0": (TREE, step(segment=[-1, 2]), "-1 is no time in seconds"),
    "JSON with a step twice": (
        TREE,
        changed(annotations=[{"segment": [1, 2], "sentence": "a"}] * 2),
        "is there 2 times",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_place(root: Path, name: str) -> None:
    file, content, message = BROKEN[name]
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load("youcook2", root, annotation="mil_nce" if file == TABLE else "official")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_bom_line_ends_separators_and_column_order_change_nothing(
    root: Path, separator: str
) -> None:
    before = load("youcook2", root).clips
    rows = [row[::-1] for row in csv.reader(GOOD.splitlines())]
    with (root / TABLE).open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=separator, lineterminator="\r\n").writerows(rows)
    assert load("youcook2", root).clips.equals(before)


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
    with pytest.raises(ValueError, match="3350 of 3350 clips"):
        found.check_missing(0.5)


def test_the_real_official_layout(realdata: Path, tmp_path: Path) -> None:
    subset = realdata / "youcook2/youcookii_annotations_trainval.subset20.json"
    shutil.copy(subset, tmp_path / TREE)
    found = load("youcook2", tmp_path, split="train", annotation="official")
    assert len(found.clips) == found.annotated == 132
    assert found.clips["path"].nunique() == 20
    first = found.clips.iloc[0]
    assert (first["clip_id"], first["start"], first["end"]) == ("GLd3aX16zBg_90_102", 90, 102)
    assert first["text"] == "spread margarine on two slices of white bread"
