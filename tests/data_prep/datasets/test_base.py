"""Data sets of checked rows, the ceiling on missing files, and official numbers."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.datasets import LOADERS
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../1.mp4"}, r"x: path '\.\./1\.mp4' in row 1 is not a path inside the root"),
        ({"clip_id": "0"}, "x: clip_id '0' in row 1 is used twice"),
        ({"text": " "}, "text ' ' in row 1 is not a text with something in it"),
        ({"start": 3.0, "end": 2.0}, "end 2.0 in row 1 is not later than its start"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([ROWS[0], {**ROWS[1], **change}], [True, True])


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


def test_the_official_number_needs_no_word() -> None:
    for loader in set(LOADERS) - {"folder"}:
        account = annotation(loader)
        for part, counts in account.counts.items():
            account.compare(part, FILE, counts)
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
        ("didemo", "val", {"descriptions": 4_181}, "4,181 descriptions and val has 4,180, so"),
        ("didemo", "test", {"descriptions": 4_180}, "4,180 descriptions and test has 4,021"),
        ("didemo", "val", {"descriptions": 4_021}, "4,021 descriptions, as test has, and val has"),
        ("didemo", "val", {"videos": 1_066}, "1,066 videos and val has 1,065"),
        ("ucf101", "testlist01", {"videos": 3_734}, "3,734 videos, as testlist02 has, and testl"),
        ("ucf101", "testlist03", {"videos": 3_697}, "3,697 videos and testlist03 has 3,696"),
        ("webvid", "val", {"rows": 2_500_000}, "2,500,000 rows and val has about 5,000, so it is"),
        ("webvid", "train", {"rows": 5_000}, "5,000 rows, as val has, and train has about 2,500,0"),
        ("youcook2", "mil_nce val", {"steps": 3_351}, "3,351 steps and mil_nce val has 3,350"),
        ("youcook2", "official train", {"steps": 10_338}, "official train has 10,337"),
        ("msrvtt", "full_val", {"videos": 2_990}, "2,990 videos and full_val has 497, so it is"),
        ("msrvtt", "full_train", {"videos": 6_514}, "full_train has 6,513, so it is"),
        ("moments_in_time", "v1", {"classes": 305}, "305 classes, as v2 has, and v1 has 339"),
        ("moments_in_time", "v1 validation", {"videos": 33_901}, "v1 validation has 33,900"),
        ("coco", "val 2017", {"captions": 25_015}, "25,015 captions and val 2017 has 25,014"),
        ("cc3m", "val", {"rows": 15_841}, "15,841 rows and val has 15,840"),
    ],
)
def test_another_list_is_an_error(
    loader: str, part: str, found: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^list\.txt has .*{message}.*; take the original file$"):
        annotation(loader).compare(part, FILE, found)
