"""Data sets of checked rows, the ceiling on missing files, and official numbers."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.datasets.base import DataSet, data_set
from data_prep.datasets.reader import About, Annotation

ROWS = [{"clip_id": f"{k}", "path": f"v/{k}.mp4", "text": "t", "split": "val"} for k in range(4)]
FILE = Path("list.txt")


def build(rows: Any = ROWS, found: Any = (True, False, True, False), **other: Any) -> DataSet:
    options = {"annotated": 5, "protocol": {"data_set": "X"}, **other}
    return data_set("x", Path("root"), rows, found=found, **options)


def of_size(n: int, missing: int) -> DataSet:
    clips = pd.DataFrame({"path": [f"{k}.mp4" for k in range(n)]})
    return DataSet("x", Path("root"), clips, clips[:missing], pd.DataFrame(), n)


@pytest.mark.parametrize("rows", [ROWS, pd.DataFrame(ROWS)], ids=["mappings", "frame"])
def test_rows_are_checked_and_the_missing_listed(rows: Any) -> None:
    data = build(rows, dropped=[("9", "no caption", "a.csv")], notes=["quirk"], classes=["a", "b"])
    assert data.clips["clip_id"].tolist() == ["0", "1", "2", "3"]
    assert data.clips["start"].isna().all()
    assert data.missing.to_dict() == {
        "clip_id": {0: "1", 1: "3"},
        "path": {0: "v/1.mp4", 1: "v/3.mp4"},
    }
    assert data.dropped.values.tolist() == [["9", "no caption", "a.csv"]]
    assert list(build().dropped.columns) == ["item", "reason", "source"]
    assert (data.coverage, data.annotated) == (0.5, 5)
    assert (data.templates, data.classes, data.notes) == ((), ("a", "b"), ("quirk",))


def test_a_split_without_rows_is_an_error() -> None:
    empty: list[Any] = [[], pd.DataFrame(columns=["clip_id", "path"])]
    for rows in empty:
        with pytest.raises(ValueError, match="x: the annotation of this split has no usable row"):
            build(rows, [])


def test_the_ceiling_itself_is_allowed() -> None:
    for n in range(1, 300):
        for missing in (0, n // 20, n // 3, n):
            of_size(n, missing).check_missing(missing / n)


def test_one_more_than_the_ceiling_stops() -> None:
    with pytest.raises(ValueError) as caught:
        of_size(1000, 51).check_missing(0.05)
    assert str(caught.value) == (
        "x: 51 of 1000 clips (5.1%) have no file under root, more than the 5.0% allowed; the "
        "first: 0.mp4, 1.mp4, 2.mp4. Check the folder and its layout (fitclip check-data), or "
        "allow more (max_missing)"
    )


@pytest.mark.parametrize("ceiling", [-0.01, 1.01, float("nan")])
def test_a_ceiling_is_a_share(ceiling: float) -> None:
    with pytest.raises(ValueError, match=r"give a share in \[0, 1\]"):
        of_size(2, 0).check_missing(ceiling)


def annotation(loader: str) -> Annotation:
    module = importlib.import_module(f"data_prep.datasets.{loader}")
    return Annotation(loader, Path("root"), module.COUNTS)


SIZES = """
msrvtt: 1ka_test 1000, 1ka_train 9000, full_train 6513, full_val 497, full_test 2990, 1kb_test 1000
msrvtt: 1kb_train 6656
ucf101: classInd 101, testlist01 3783, testlist02 3734, testlist03 3696, trainlist01 9537
ucf101: trainlist02 9586, trainlist03 9624
didemo: val 4180 1065, test 4021 1004, train 33005 8395
youcook2: mil_nce val 3350, official val 3492 457, official train 10337 1333
moments_in_time: v1 339, v2 305, v1 validation 33900, v2 validation 30500
moments_in_time: v1 training 802264, v2 training 727305
webvid: val 5000, train 2500000
cc3m: val 15840, train 3318333
coco: val 2017 5000 25014, train 2017 118287 591753, val 2014 40504 202654
coco: train 2014 82783 414113
"""  # from the papers, the official files and the repositories' texts


def test_the_official_sizes_need_no_word_and_more_are_another_list() -> None:
    read: dict[str, list[str]] = {}
    for line in SIZES.strip().splitlines():
        loader, _, sizes = line.partition(": ")
        read.setdefault(loader, []).extend(sizes.split(", "))
    for loader, parts in read.items():
        account = annotation(loader)
        told = [" ".join([part, *map(str, of.values())]) for part, of in account.counts.items()]
        assert told == parts
        for part, counts in account.counts.items():
            account.compare(part, FILE, counts)
            for noun, number in counts.items():
                more = number * 11 // 10 if isinstance(number, About) else number + 1
                with pytest.raises(
                    ValueError, match=rf"^list\.txt has {more:,} {noun}.* {part} has"
                ):
                    account.compare(part, FILE, {noun: more})
        assert account.sizes == []


def test_fewer_are_a_note_and_a_rounded_number_leaves_room() -> None:
    account = annotation("didemo")
    account.compare("val", FILE, {"descriptions in val": 4_179, "videos in val": 1_065})
    assert account.sizes == ["4,179 descriptions in val; officially there are 4,180"]
    account = annotation("webvid")
    for number in (20, 5_100):
        account.compare("val", FILE, {"rows in val": number})
    assert account.sizes == [
        "20 rows in val; officially there are about 5,000",
        "5,100 rows in val; officially there are about 5,000",
    ]
    with pytest.raises(ValueError, match="5,101 rows"):
        account.compare("val", FILE, {"rows": 5_101})
    assert About(5) == 5


@pytest.mark.parametrize(
    ("loader", "part", "found", "message"),
    [
        ("didemo", "val", {"descriptions": 4_021}, "4,021 descriptions, as test has, and val has"),
        ("ucf101", "testlist01", {"videos": 3_734}, "3,734 videos, as testlist02 has, and testl"),
        ("webvid", "val", {"rows": 2_500_000}, "2,500,000 rows and val has about 5,000, so it is"),
        ("webvid", "train", {"rows": 5_000}, "5,000 rows, as val has, and train has about 2,500,0"),
        ("moments_in_time", "v1", {"classes": 305}, "305 classes, as v2 has, and v1 has 339"),
    ],
)
def test_another_list_is_an_error(
    loader: str, part: str, found: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^list\.txt has .*{message}.*; take the original file$"):
        annotation(loader).compare(part, FILE, found)
