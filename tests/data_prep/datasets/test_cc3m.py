"""Conceptual Captions' loader: FitCLIP's CSV, Google's table, and broken files."""

import zlib
from pathlib import Path

import pytest

from data_prep.datasets import load

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
GOOD_GOOGLE = 'a "b\thttp://x.org/1\nc, d; e\thttp://x.org/2\n\nf"\thttp://x.org/3\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "annotation_files").mkdir()
    (tmp_path / TABLE).write_text(GOOD)
    (tmp_path / "val").mkdir()
    (tmp_path / "val/one.png").touch()
    (tmp_path / "val/a name (1)%20.jpg").touch()
    return tmp_path


@pytest.fixture
def google(tmp_path: Path) -> Path:
    (tmp_path / GOOGLE).write_text(GOOD_GOOGLE)
    return tmp_path


def test_fitclips_table(root: Path) -> None:
    found = load("cc3m", root)
    assert found.clips["clip_id"].tolist() == ["one.jpg", "one.png", "a name (1)%20.jpg"]
    assert found.clips["text"].tolist() == ['a; b; c; d, "quoted"', "three", "six"]
    assert found.clips["path"].tolist()[0] == "val/one.jpg"
    assert found.missing["clip_id"].tolist() == ["one.jpg"], "one.png is another picture"
    assert found.dropped["item"].tolist() == [
        *("line 2: same.jpg", "line 4: same.jpg"),
        "line 5: five.jpg",
    ]
    assert found.dropped["reason"].str.contains("2 rows have this file name").tolist() == [
        *(True, True),
        False,
    ]
    assert found.annotated == 6
    assert set(found.clips["split"]) == {"val"}


def test_googles_table_with_names_by_crc_32(google: Path) -> None:
    names = [str(zlib.crc32(f"http://x.org/{k}".encode())) for k in (1, 2, 3)]
    (google / "validation").mkdir()
    (google / "validation" / names[1]).touch()
    found = load("cc3m", google)
    assert found.clips["text"].tolist() == ['a "b', "c, d; e", 'f"']
    assert found.clips["path"].tolist() == [f"validation/{name}" for name in names]
    assert found.missing["clip_id"].tolist() == [names[0], names[2]]
    assert any("has 3 rows in val; officially there are 15,840" in note for note in found.notes)


def test_a_known_crc_32_and_a_repeated_url(google: Path) -> None:
    (google / GOOGLE).write_text("a\t123456789\nb\thttp://x.org\nc\thttp://x.org\n")
    found = load("cc3m", google)
    assert found.clips["path"].tolist() == ["validation/3421780262"], "CRC-32's check value"
    assert len(found.dropped) == 2


@pytest.mark.parametrize("split", ["val", "train"])
def test_both_splits(tmp_path: Path, split: str) -> None:
    (tmp_path / f"gcc3m_{split}_merge.csv").write_text(GOOD)
    assert load("cc3m", tmp_path, split=split).clips["path"].tolist()[0] == f"{split}/one.jpg"
    (tmp_path / f"gcc3m_{split}_merge.csv").unlink()
    name = {"val": GOOGLE, "train": "Train_GCC-training.tsv"}[split]
    (tmp_path / name).write_text(GOOD_GOOGLE)
    folder = {"val": "validation/", "train": "training/"}[split]
    assert load("cc3m", tmp_path, split=split).clips["path"].str.startswith(folder).all()


def test_googles_table_of_the_official_size(google: Path) -> None:
    rows = [f"caption {k}\thttp://x.org/{k}" for k in range(15_840)]
    (google / GOOGLE).write_text("\n".join(rows))
    found = load("cc3m", google)
    assert len(found.clips) + len(found.dropped) == found.annotated == 15_840
    assert found.notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split is 'test'; there are val, train"),
        ({"split": "train"}, r"no CC3M captions under .*; looked for annotation_files/gcc3m_train"),
    ],
)
def test_options_that_do_not_go(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("cc3m", root, **options)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:7446\nsize 34933776\n"
PAGE = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n"
# Name -> the file, its content, what the error says of it.
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "table cut off in a row": (TABLE, GOOD[:-30], "line 6: 2 fields where 3 belong"),
    "table with an open quote": (TABLE, '"a,b,c\nd,e,f\n', "a quote is not closed"),
    "table with |": (TABLE, "a|http://x|c.jpg\n", "line 1: 1 fields where 3 belong"),
    "table without a column": (TABLE, "a,one.jpg\n", "line 1: 2 fields where 3 belong"),
    "table in UTF-16": (TABLE, GOOD.encode("utf-16"), "UTF-16"),
    "table in Latin-1": (TABLE, GOOD.replace("six", "rêve").encode("latin-1"), "0xea"),
    "table of one file name": (TABLE, "a,b,c.jpg\nd,e,c.jpg\n", "no usable row"),
    "table with an absolute path": (
        TABLE,
        GOOD.replace("five.jpg", "/etc/passwd"),
        "line 5: '/etc/passwd' is no file name",
    ),
    "table with ..": (
        TABLE,
        GOOD.replace("five.jpg", "../../x.jpg"),
        r"line 5: '\.\./\.\./x.jpg' is no file name",
    ),
    "table with .. alone": (TABLE, GOOD.replace("five.jpg", ".."), r"line 5: '\.\.' is no file"),
    "table with a drive": (TABLE, GOOD.replace("five.jpg", "C:x.jpg"), "'C:x.jpg' is no file name"),
    "table without a name": (TABLE, GOOD.replace("five.jpg", ""), "line 5: '' is no file name"),
    "empty table": (TABLE, "", "is empty"),
    "git-LFS pointer for the table": (TABLE, POINTER, "git-LFS pointer"),
    "web page for the table": (TABLE, PAGE, "web page"),
    "Google's table cut off": (GOOGLE, GOOD_GOOGLE[:-16], "line 4: 1 fields where caption, tab"),
    "Google's table without a URL": (GOOGLE, "a\t\n", "line 1: 2 fields where caption, tab and"),
    "Google's table with commas": (GOOGLE, "a,b\n", "line 1: 1 fields where caption, tab and URL"),
    "Google's table in UTF-16": (GOOGLE, GOOD_GOOGLE.encode("utf-16"), "UTF-16"),
    "Google's table in Latin-1": (GOOGLE, "rêve\thttp://x\n".encode("latin-1"), "0xea"),
    "empty Google's table": (GOOGLE, "", "is empty"),
    "git-LFS pointer for Google's table": (GOOGLE, POINTER, "git-LFS pointer"),
    "web page for Google's table": (GOOGLE, PAGE, "web page"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_place(tmp_path: Path, name: str) -> None:
    file, content, message = BROKEN[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load("cc3m", tmp_path)


@pytest.mark.parametrize(("file", "good"), [(TABLE, GOOD), (GOOGLE, GOOD_GOOGLE)])
def test_a_bom_and_other_line_ends_change_nothing(tmp_path: Path, file: str, good: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(good)
    before = load("cc3m", tmp_path).clips
    (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    assert load("cc3m", tmp_path).clips.equals(before)
