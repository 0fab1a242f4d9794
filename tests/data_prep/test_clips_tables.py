"""What people save as a clips table: `read_clips` and the folder loader give one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.clips import read_clips, validate, write_clips
from data_prep.datasets import load

A, B = {"clip_id": "a1", "path": "red.mp4"}, {"clip_id": "a2", "path": "blue.mp4"}
RED, BLUE = A | {"text": "a red square"}, B | {"text": "a blue square"}
PLAIN = "clip_id,path,text\na1,red.mp4,a red square\na2,blue.mp4,a blue square\n"
ODD = ("NA", "None", "null", "True", "1e5", "nan", "006")  # texts that pandas would convert
TIMED = "clip_id,path,start,end,text\na1,red.mp4,{},a red square\n"

# Content, and the rows that it means, worked out by hand.
READ: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "plain": (PLAIN, [RED, BLUE]),
    "semicolons": (PLAIN.replace(",", ";"), [RED, BLUE]),
    "a spreadsheet's": ("\ufeff" + PLAIN.replace(",", ";").replace("\n", "\r\n"), [RED, BLUE]),
    "old Mac": (PLAIN.replace("\n", "\r"), [RED, BLUE]),
    "capitals": (PLAIN.replace("clip_id,path,text", "Clip_ID,PATH,Text"), [RED, BLUE]),
    "blanks after commas": (PLAIN.replace(",", ", "), [RED, BLUE]),
    "blanks around all": (PLAIN.replace(",", " \t, ").replace("\n", "\u00a0\n"), [RED, BLUE]),
    "blank, then quotes": (
        'clip_id, path, text\na1, red.mp4, "red, moving"\n',
        [A | {"text": "red, moving"}],
    ),
    "blank rows": (PLAIN + ",,\n\n , ,\n", [RED, BLUE]),
    "an unnamed column, empty": (PLAIN.replace("\n", ",\n"), [RED, BLUE]),
    "pandas' index": (PLAIN.replace("clip", ",clip").replace("\na", "\n0,a"), [RED, BLUE]),
    "caption": (PLAIN.replace(",text", ",caption"), [RED, BLUE]),
    "class": ("clip_id,path,Class\na1,red.mp4,red\n", [A | {"label": "red"}]),
    "no clip_id": (
        "path,start,end,text\nred.mp4,,,x\nred.mp4,0.50, 2 ,y\n",
        [
            {"clip_id": "red.mp4", "path": "red.mp4", "text": "x"},
            {"clip_id": "red.mp4#0.50-2", "path": "red.mp4", "start": 0.5, "end": 2, "text": "y"},
        ],
    ),
    "no clip_id, two captions of a video": (
        "path,text\nred.mp4,x\nblue.mp4,y\nred.mp4,z\nred.mp4,x\n",
        [
            {"clip_id": "red.mp4", "path": "red.mp4", "text": "x"},
            {"clip_id": "blue.mp4", "path": "blue.mp4", "text": "y"},
            {"clip_id": "red.mp4 (2)", "path": "red.mp4", "text": "z"},
            {"clip_id": "red.mp4 (3)", "path": "red.mp4", "text": "x"},
        ],
    ),
    "labels like missing values": (
        "clip_id,path,label\n" + "".join(f"{one},{one},{one}\n" for one in ODD),
        [dict.fromkeys(("clip_id", "path", "label"), one) for one in ODD],
    ),
    "labels with blanks": (
        "clip_id,path,label\na1,red.mp4,red \na2,blue.mp4, red\n",
        [A | {"label": "red"}, B | {"label": "red"}],
    ),
    "quotes": (
        'clip_id,path,text\na1,red.mp4,"red, and ""big"""\na2,blue.mp4,"two\nlines, blue"\n',
        [A | {"text": 'red, and "big"'}, B | {"text": "two\nlines, blue"}],
    ),
    "two lines, and a path without an ending": (
        'clip_id,path,text\na1,red,"two\nlines"\n',
        [{"clip_id": "a1", "path": "red", "text": "two\nlines"}],
    ),
    "an inch": ('clip_id,path,text\na1,red.mp4,a 12" square\n', [A | {"text": 'a 12" square'}]),
    "split and times": (
        "split,end,start,text,path,clip_id\nval,7.0,2.5,x,red.mp4,a1\n,,,y,blue.mp4,a2\n",
        [A | {"start": 2.5, "end": 7, "text": "x", "split": "val"}, B | {"text": "y"}],
    ),
}

# Content, and what the refusal has to say.
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "comma in every caption": (PLAIN.replace(" square", ", moving"), "line 2: 4 fields where 3"),
    "comma, and the caption first": (
        "text,path,clip_id\na square, moving,red.mp4,a1\n",
        "line 2: 4 fields where 3 belong (text, path, clip_id); a text with ',' in it needs quotes",
    ),
    "comma into an unnamed column": (
        "clip_id,path,text,\na1,red.mp4,a square, moving\n",
        "line 2: 'moving' is in a column without a name",
    ),
    "a quote not closed": (
        PLAIN.replace("a red", '"a red'),
        "line 2: unexpected end of data; the file is cut off, or a quote is not closed",
    ),
    "a quote closed rows later": (
        PLAIN.replace("a red", '"a red') + 'a3,green.mp4,green"\na4,white.mp4,white\n',
        "line 2: the quote that opens in text takes in the rows below",
    ),
    "Windows-1252": (
        PLAIN.replace("a blue", "café").encode("cp1252"),
        "line 3: byte 57 (0xe9) is not UTF-8 text; save it as UTF-8 (in Windows-1252 it is 'é')",
    ),
    "decimal commas": (
        TIMED.replace(",", ";").format("0,2;0,9"),
        "line 2: start '0,2' is no number of seconds, such as 12.5",
    ),
    "hours and minutes": (TIMED.format("0,00:00:01"), "line 2: end '00:00:01' is no number of s"),
    "not a number": (TIMED.format("nan,"), "line 2: start 'nan' is no number of seconds"),
    "start after end": (
        TIMED.format("5,2"),
        "end 2.0 in row 0 is not later than its start (1 such",
    ),
    "the line of a wrong value": (
        "\n" + PLAIN + '\n,,\na3,../up.mp4,"x"\n',
        "in row 2 is not a path inside the root (1 such rows, the first in line 7)",
    ),
    "a Windows path": (PLAIN.replace("blue.mp4", "b\\b.mp4"), "the first in line 3)"),
    "a clip_id twice": (PLAIN.replace("a2", "a1"), "clip_id 'a1' in row 1 is used twice; it must"),
    "an empty path": (PLAIN.replace("red.mp4", " "), "path '' in row 0 is not a text"),
    "an empty clip_id": (PLAIN.replace("a2", ""), "clip_id '' in row 1 is not a text"),
    "a column twice": ("clip_id,path,text,Text\na1,red.mp4,x,y\n", "it has the column text more"),
    "one column by two names": (
        "clip_id,path,text,caption\na1,red.mp4,x,y\n",
        "it has caption and text, which mean the same; remove one",
    ),
    "the separator's name": ("sep=;\n" + PLAIN.replace(",", ";"), "it has no column path"),
    "JSON": ('[{"clip_id": "a1", "path": "red.mp4", "text": "x"}]', "line 1: "),
    "the header and blank rows": ("clip_id,path,text\n,,\n", "it has no row below its header"),
    "two labels of one video": (
        "clip_id,path,label\na1,red.mp4,blue\na2,red.mp4, Blue\n",
        "'a1' and 'a2' are one video",
    ),
}


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "clips.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row without its missing values."""
    rows = table.astype(object).to_dict("records")
    return [{str(name): one for name, one in row.items() if not pd.isna(one)} for row in rows]


@pytest.mark.parametrize("name", READ)
def test_both_ways_read_the_same(tmp_path: Path, name: str) -> None:
    content, rows = READ[name]
    table = read_clips(write(tmp_path, content))
    assert rows_of(table) == rows
    pd.testing.assert_frame_equal(load("folder", tmp_path).clips[table.columns], table)


@pytest.mark.parametrize("name", REFUSED)
def test_both_ways_refuse_for_the_same_reason(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    file = write(tmp_path, content)
    said = []
    for read in (lambda: read_clips(file), lambda: load("folder", tmp_path)):
        with pytest.raises(ValueError) as caught:
            read()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{file} is not a clips table: ")
    assert reason in said[0]


def test_further_columns_are_kept_as_texts(tmp_path: Path) -> None:
    content = "clip_id,path,Line,line no, Views\na1,red.mp4,x, 007 ,\n"
    table = read_clips(write(tmp_path, content))
    assert table[["Line", "line no", "Views"]].to_numpy().tolist() == [["x", "007", ""]]
    assert list(table.columns) == ["clip_id", "path", "start", "end", "Line", "line no", "Views"]


@pytest.mark.parametrize(
    "text", [" outer ", "a\nb", "a\rb", "x\r\na2,blue.mp4,y", "\u00a0x", "a, b"]
)
def test_what_the_kit_wrote_is_not_changed(tmp_path: Path, text: str) -> None:
    """Unlike a table of people's own, whose blanks go and whose swallowed rows are refused."""
    clips = validate(pd.DataFrame([RED | {"text": text, "start": 1.5}, BLUE | {"label": text}]))
    write_clips(tmp_path / "clips.csv", clips)
    pd.testing.assert_frame_equal(read_clips(tmp_path / "clips.csv"), clips)
