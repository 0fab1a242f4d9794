"""What loaders return: checked rows, coverage and the ceiling on missing files."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.datasets.base import DataSet, data_set

ROWS = [{"clip_id": f"{k}", "path": f"v/{k}.mp4", "text": "t", "split": "val"} for k in range(4)]


def build(rows: Any = ROWS, found: Any = (True, False, True, False), **other: Any) -> DataSet:
    options = {"annotated": 5, "protocol": {"data_set": "X"}, **other}
    return data_set("x", Path("root"), rows, found=found, **options)


def of_size(n: int, missing: int) -> DataSet:
    clips = pd.DataFrame({"path": [f"{k}.mp4" for k in range(n)]})
    return DataSet("x", Path("root"), clips, clips[:missing], pd.DataFrame(), n)


@pytest.mark.parametrize("rows", [ROWS, pd.DataFrame(ROWS)], ids=["mappings", "frame"])
def test_rows_are_checked_and_the_missing_listed(rows: Any) -> None:
    one = build(rows, dropped=[("9", "no caption", "a.csv")], notes=["quirk"], classes=["a", "b"])
    assert one.clips["clip_id"].tolist() == ["0", "1", "2", "3"]
    assert one.clips["start"].isna().all()
    assert one.missing.values.tolist() == [["1", "v/1.mp4"], ["3", "v/3.mp4"]]
    assert one.missing.index.tolist() == [0, 1]
    assert one.dropped.to_dict("list") == {
        "item": ["9"],
        "reason": ["no caption"],
        "source": ["a.csv"],
    }
    assert (one.coverage, one.annotated) == (0.5, 5)
    assert (one.templates, one.classes, one.notes) == ((), ("a", "b"), ("quirk",))


def test_nothing_dropped_is_an_empty_table() -> None:
    one = build()
    assert list(one.dropped.columns) == ["item", "reason", "source"]
    assert len(one.dropped) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../1.mp4"}, r"x: path '\.\./1\.mp4' in row 1 is not a path inside the root"),
        ({"path": "/1.mp4"}, "x: path '/1.mp4' in row 1 is not a path inside"),
        ({"path": "C:/1.mp4"}, "is not a path inside"),
        ({"clip_id": "0"}, "x: clip_id '0' in row 1 is used twice"),
        ({"text": " "}, "text ' ' in row 1 is not a text with something in it"),
        ({"start": 3.0, "end": 2.0}, "end 2.0 in row 1 is not later than its start"),
    ],
    ids=["up", "absolute", "drive", "repeated", "no_text", "backwards"],
)
def test_bad_rows_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([ROWS[0], {**ROWS[1], **change}], [True, True])


@pytest.mark.parametrize("rows", [[], pd.DataFrame(columns=["clip_id", "path"])])
def test_a_split_without_rows_is_an_error(rows: Any) -> None:
    with pytest.raises(ValueError, match="x: the annotation of this split has no usable row"):
        build(rows, [])


def test_found_must_match_the_rows() -> None:
    with pytest.raises((ValueError, IndexError)):
        build(found=[True])


def test_the_ceiling_itself_is_allowed() -> None:
    for n in range(1, 300):
        for missing in (n // 20, n // 3):
            of_size(n, missing).check_missing(missing / n)
    for percent in range(101):
        of_size(100, percent).check_missing(percent / 100)


def test_one_more_than_the_ceiling_stops() -> None:
    of_size(1000, 0).check_missing(0)
    of_size(1000, 1000).check_missing(1)
    with pytest.raises(ValueError) as caught:
        of_size(1000, 51).check_missing(0.05)
    assert str(caught.value) == (
        "x: 51 of 1000 clips (5.1%) have no file under root, more than the 5.0% allowed; the "
        "first: 0.mp4, 1.mp4, 2.mp4. Check the folder and its layout (fitclip check-data), or "
        "allow more (max_missing)"
    )


@pytest.mark.parametrize("ceiling", [-0.01, 1.01, float("nan"), 5])
def test_a_ceiling_is_a_share(ceiling: float) -> None:
    with pytest.raises(ValueError, match=r"give a share in \[0, 1\]"):
        of_size(2, 0).check_missing(ceiling)
