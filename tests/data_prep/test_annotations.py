"""The strict readers: what they take, what they refuse, and in which words."""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotations import digests, read_json, read_lines, read_table, read_text, unique
from tests.data_prep.datasets.malformed import BAD_COPIES, bad_copies

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes) -> Path:
        file = tmp_path / "file.txt"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write_file


READERS: dict[str, Callable[[Path], Any]] = {
    "text": read_text,
    "lines": read_lines,
    "json": read_json,
    "table": lambda file: read_table(file, ["a", "b"]),
}


@pytest.mark.parametrize("bad", BAD_COPIES)
@pytest.mark.parametrize("reader", READERS)
def test_bad_copies_are_recognised(write: Write, reader: str, bad: str) -> None:
    content = '["a", "b"]\n' if reader == "json" else "a,b\n1,2\n"
    broken, message = bad_copies(content.encode())[bad]
    file = write(broken)
    with pytest.raises(ValueError) as caught:
        READERS[reader](file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    for absent in (file.with_name("absent.csv"), file.parent):
        with pytest.raises(ValueError, match=r"is not there; see the loader's documentation"):
            READERS[reader](absent)


def test_where_a_wrong_byte_is(write: Write) -> None:
    content = "a,b\n" + "1,2\n" * 5000 + "3,café\n"
    bad = content.encode("latin-1")
    message = f"line 5002: byte {bad.index(0xE9)} \\(0xe9\\) is not UTF-8 text"
    for reader in ("text", "table"):
        with pytest.raises(ValueError, match=message):
            READERS[reader](write(bad))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_do_not_matter(write: Write, mark: str, end: str) -> None:
    file = write(mark + end.join(["a,b", " 1 ,é", "", "2,x"]))
    assert read_text(file) == "a,b\n 1 ,é\n\n2,x"
    assert read_lines(file) == ["a,b", "1 ,é", "2,x"]
    table = read_table(file, ["a", "b"])
    assert table["a"].tolist() == [" 1 ", "2"]
    assert table["b"].tolist() == ["é", "x"]
    assert table["line"].tolist() == [2, 4]
    assert read_lines(write("a\u2028b\x0bc\n  \nd ")) == ["a\u2028b\x0bc", "d"], "no line ends"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [1, 2', r"no whole JSON \(line 1, column 12"),
        ('{"a": 1}\n{"b"', r"no whole JSON \(line 2, column 1"),
        ("[1,\n 2,]", r"no whole JSON \(line 2, column 4"),
        ("video,text\n", r"no whole JSON \(line 1, column 1"),
        ("[" * 200_000 + "]" * 200_000, "nested too deep"),
        ('[{"a": 1, "b": 2, "a": 3}]', "the key 'a' is there 2 times"),
    ],
    ids=["cut_off", "two_values", "comma_too_many", "csv", "nested", "key_twice"],
)
def test_broken_json(write: Write, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"file\.txt.* {message}"):
        read_json(write(content))
    assert read_json(write("\ufeff" + json.dumps({"é": [1, None]}))) == {"é": [1, None]}


# What csv can carry and the reader must give back: no NUL, and one kind of line end.
CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r") | st.sampled_from("\",;\t\n '"),
    max_size=8,
)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.permutations(["video", "text", "spare"]),
    st.booleans(),
)
def test_what_csv_writes_is_read_back(
    rows: list[tuple[str, str, str]],
    separator: str,
    end: str,
    quoting: Any,
    order: list[str],
    header: bool,
) -> None:
    kept = [row for row in rows if any(cell.strip() for cell in row)]
    by_name = {name: [row[k] for row in kept] for k, name in enumerate(order)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([order, *rows] if header else rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        file.write_bytes(buffer.getvalue().encode())
        if not kept:
            with pytest.raises(ValueError, match=r"no row below its header|is empty"):
                read_table(file, order, header=header)
            return
        if header:
            table = read_table(file, ["text", "video"], optional=["spare", "absent"])
            assert list(table.columns) == ["text", "video", "spare", "line"]
        else:
            first = next(line for line in buffer.getvalue().split("\n") if line.strip())
            if sum(len(next(csv.reader([first], delimiter=one))) == 3 for one in ",;\t") != 1:
                return  # which separator it is cannot be told from the first line
            table = read_table(file, order, header=False)
            assert list(table.columns) == [*order, "line"]
    for name in order:
        assert table[name].tolist() == by_name[name]
    assert {str(table[name].dtype) for name in order} == {"str"}
    text = buffer.getvalue().replace("\r\n", "\n")
    starts = [number for number, one in enumerate(lines_of_rows(text, separator)) if one]
    assert table["line"].tolist() == [number + 1 for number in starts[int(header) :]]


def lines_of_rows(text: str, separator: str) -> list[bool]:
    """For each line whether a row with something in it starts there, by counting quotes."""
    flags: list[bool] = []
    row = ""
    for line in text.split("\n"):
        row += line + "\n"
        flags.append(False)
        if row.count('"') % 2 == 0:
            lines = row.count("\n")
            cells = next(csv.reader(io.StringIO(row), delimiter=separator), [])
            flags[-lines] = any(cell.strip() for cell in cells)
            row = ""
    return flags


def test_lines_are_those_of_the_file(write: Write) -> None:
    file = write('\n\na,b\n\n1,"two\n\nlines"\n,\n2,x\n  ,  \n"3\n",y\n')
    table = read_table(file, ["a", "b"])
    assert table.values.tolist() == [["1", "two\n\nlines", 5], ["2", "x", 9], ["3\n", "y", 11]]


def test_names_and_texts_full_of_other_separators(write: Write) -> None:
    for separator in (",", ";", "\t"):
        others = "".join({",", ";", "\t"} - {separator}) * 3
        for header in (True, False):
            first = f"key{separator}caption\n" if header else ""
            file = write(f"{first}1{separator}{others}\n")
            table = read_table(file, ["key", "caption"], header=header)
            assert table["caption"].tolist() == [others]
    assert read_table(write("key\na\nb"), ["key"])["key"].tolist() == ["a", "b"]
    table = read_table(write('"Video ID"; TEXT ;more\n1;2;3\n'), ["text", "video id"])
    assert table.columns.tolist() == ["text", "video id", "line"]
    assert table.iloc[0].tolist() == ["2", "1", 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3", r"line 3: 1 fields where 2 belong \(a, b\); the file is cut off there"),
        ("a,b\n1,2,3\n", "line 2: 3 fields where 2 belong .* needs quotes"),
        ("a,b\n1;2\n", "line 2: 1 fields where 2 belong .* or its separator is not ','"),
        ('a,b\n1,2\n3,"x\n\n', "line 3: unexpected end of data; the file is cut off, or a quote"),
        ('a,b\n1,"x" y\n', "line 2: ',' expected after '\"'; the file is cut off, or a quote"),
        ('a,b\n1,"' + "x" * 200_000, r"line 2: field larger than field limit .* quote is not"),
        ("a,b,\n1,2, \n3,4,5", "line 3: '5' is in a column without a name"),
        ("a,b\n", "has no row below its header; download it again"),
        ("a,b\n , \n\n", "has no row below its header"),
        ("a|b\n1|2\n", r"has no column a, b; it has a\|b \(separator ','\)"),
        ("a,c\n1,2\n", r"has no column b; it has a, c \(separator ','\): take the original"),
        ("a,b,A\n1,2,3\n", "has the column a more than once; remove one"),
        (",".join(["long name"] * 99) + "\n", r"it has long name, .*\.\.\. \(separator"),
    ],
    ids=lambda value: value[:20],
)
def test_broken_tables(write: Write, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(write(content), ["a", "b"])
    with pytest.raises(ValueError, match=r"line 1: 3 fields where 2 belong \(a, b\)"):
        read_table(write("1,2,3\n"), ["a", "b"], header=False)


def test_a_large_table_is_read_in_blocks(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.annotations._BLOCK", 4)
    for n in (3, 4, 5, 8, 11):
        file = write("a,b\n" + "".join(f"{k},{k * k}\n" for k in range(n)))
        table = read_table(file, ["b"])
        expected = pd.DataFrame({"b": [str(k * k) for k in range(n)], "line": range(2, n + 2)})
        pd.testing.assert_frame_equal(table, expected.astype({"b": "str", "line": "int64"}))


def test_repeated_keys_and_digests(write: Write) -> None:
    kinds: tuple[Callable[[list[str]], Any], ...] = (list, pd.Series, iter)
    for kind in kinds:
        unique(kind(["a", "b"]), "video", Path("x.csv"))
        unique(kind([]), "video", Path("x.csv"))
        with pytest.raises(ValueError, match=r"x\.csv: video 'b' is there 3 times; each must be"):
            unique(kind(["a", "b", "c", "b", "a", "b"]), "video", Path("x.csv"))
    with pytest.raises(ValueError, match=r"step \('a', 2\) is there 2 times"):
        unique([("a", 1), ("a", 2), ("a", 2)], "step", Path("x.csv"))
    assert digests(write("content")) == {"file.txt": hashlib.sha256(b"content").hexdigest()}


def test_real_tables(realdata: Path) -> None:
    """Two copies of one table; and one with quotes and other line ends, beside a trusted reader:
    pandas."""
    copies = ("MSRVTT_JSFUSION_test.csv", "variants/MSRVTT_JSFUSION_test.semicolon_crlf.csv")
    one, other = (
        read_table(realdata / "msrvtt" / name, ["video_id", "sentence"]) for name in copies
    )
    assert len(one) == 1000
    pd.testing.assert_frame_equal(one, other)

    file = realdata / "youcook2" / "validation_youcook.csv"
    columns = ["video_id", "start", "end", "text", "task"]
    expected = pd.read_csv(file, dtype="str", keep_default_na=False)[columns]
    pd.testing.assert_frame_equal(read_table(file, columns)[columns], expected)
