"""Conceptual Captions' loader: FitCLIP's CSV and Google's table."""

import zlib
from pathlib import Path

import pytest

from data_prep.datasets import load
from tests.data_prep.datasets.examples import check_refused, lay, touch

TABLE = "annotation_files/gcc3m_val_merge.csv"
GOOD = (
    '"a; b; c; d, ""quoted""",http://x.org/1,one.jpg\n'
    "two cats,http://x.org/a/same.jpg,same.jpg\n"
    "three,http://x.org/3,one.png\n"
    "four,http://x.org/b/same.jpg,same.jpg\n"
    " ,http://x.org/5,five.jpg\n"
    "six,http://x.org/6,a name (1)%20.jpg\n"
)
GOOGLE = "Validation_GCC-1.1.0-Validation.tsv"
GOOD_GOOGLE = 'a "b\thttp://x.org/1\nc, d; e\thttp://x.org/2\n\nf"\thttp://x.org/3 \n'


def test_fitclips_table(tmp_path: Path) -> None:
    touch(lay(tmp_path, {TABLE: GOOD}), "val/one.png", "val/a name (1)%20.jpg")
    found = load("cc3m", tmp_path)
    assert found.clips["clip_id"].tolist() == ["one.jpg", "one.png", "a name (1)%20.jpg"]
    assert found.clips["text"].tolist() == ['a; b; c; d, "quoted"', "three", "six"]
    assert found.clips["path"].tolist()[0] == "val/one.jpg"
    assert found.missing["clip_id"].tolist() == ["one.jpg"], "one.png is another picture"
    same = "2 rows have this file name; whose picture it is is unknown"
    assert found.dropped[["item", "reason"]].values.tolist() == [
        ["line 2: same.jpg", same],
        ["line 4: same.jpg", same],
        ["line 5: five.jpg", "the caption is empty"],
    ]
    assert (found.annotated, set(found.clips["split"])) == (6, {"val"})


def test_googles_table_with_names_by_crc_32(tmp_path: Path) -> None:
    lay(tmp_path, {GOOGLE: GOOD_GOOGLE + "a\t123456789\nb\thttp://x\nc\thttp://x\n"})
    names = [str(zlib.crc32(f"http://x.org/{k}".encode())) for k in (1, 2, 3)]
    names.append("3421780262")  # CRC-32's check value
    touch(tmp_path, f"validation/{names[1]}")
    found = load("cc3m", tmp_path)
    assert found.clips["text"].tolist() == ['a "b', "c, d; e", 'f"', "a"]
    assert found.clips["path"].tolist() == [f"validation/{name}" for name in names]
    assert found.missing["clip_id"].tolist() == [names[0], *names[2:]]
    assert len(found.dropped) == 2, "one URL twice"


@pytest.mark.parametrize(
    ("split", "name", "folder"),
    [("val", GOOGLE, "validation"), ("train", "Train_GCC-training.tsv", "training")],
)
def test_both_splits_and_the_csv_first(tmp_path: Path, split: str, name: str, folder: str) -> None:
    lay(tmp_path, {name: GOOD_GOOGLE})
    assert load("cc3m", tmp_path, split=split).clips["path"].str.startswith(f"{folder}/").all()
    lay(tmp_path, {f"gcc3m_{split}_merge.csv": GOOD})
    assert load("cc3m", tmp_path, split=split).clips["path"].tolist()[0] == f"{split}/one.jpg"


REFUSED = [
    (TABLE, GOOD[:-30], "line 6: 2 fields where 3 belong"),
    (TABLE, "a|http://x|c.jpg\n", "line 1: 1 fields where 3 belong"),
    (TABLE, "a,b,c.jpg\nd,e,c.jpg\n", "no usable row"),
    (TABLE, GOOD.replace("five.jpg", "/etc/passwd"), "line 5: '/etc/passwd' is no file name"),
    (TABLE, GOOD.replace("five.jpg", ".."), r"line 5: '\.\.' is no file"),
    (TABLE, GOOD.replace("five.jpg", "C:x.jpg"), "'C:x.jpg' is no file name"),
    (TABLE, GOOD.replace("five.jpg", ""), "line 5: '' is no file name"),
    (GOOGLE, GOOD_GOOGLE[:-17], "line 4: 'f\"' is no caption, tab and URL"),
    (GOOGLE, "a\t\n", "line 1: .* is no caption, tab and URL"),
    (GOOGLE, "a,b\n", "line 1: 'a,b' is no caption, tab and URL"),
]


@pytest.mark.parametrize(("file", "content", "message"), REFUSED)
def test_broken_files_are_refused(tmp_path: Path, file: str, content: str, message: str) -> None:
    check_refused(tmp_path, {file: content}, message, "cc3m")
