import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.clips import COLUMNS, read_clips, validate, write_clips

# What a UTF-8 CSV can carry: no lone surrogates; line ends inside a text are tested on their own.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(
    lambda text: bool(text.strip())
)
AWKWARD = ["NA", "null", "None", "1.50", "a, b", 'say "hi"', "two\nlines", " outer ", "日本"]


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": ["a", "b"], "path": ["a.mp4", "x/b.mp4"], **columns})


def test_columns_are_typed_and_ordered() -> None:
    columns = {"split": "val", "views": [1, 2], "text": ["one", None], "end": [2, None]}
    clips = table(**columns).set_index(pd.Index([5, 9]))
    checked = validate(clips)
    assert list(checked.columns) == ["clip_id", "path", "start", "end", "text", "split", "views"]
    assert checked.index.tolist() == [0, 1]
    assert checked["start"].isna().all()
    assert checked["end"].dtype == np.float64
    assert checked["text"].tolist()[0] == "one"
    assert checked["text"].isna().tolist() == [False, True]
    assert "start" not in clips.columns, "the caller's table must stay as it was"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"clip_id": ["a", "a"]}, "clip_id 'a' in row 1 is used twice"),
        ({"clip_id": ["a", None]}, "clip_id .* in row 1 is missing"),
        ({"clip_id": ["a", " "]}, "row 1 is not a text with something in it"),
        ({"clip_id": [1, 2]}, "clip_id 1 in row 0 is not a text"),
        ({"path": ["a", "/etc/b"]}, "path '/etc/b' in row 1 is not a path inside the root"),
        ({"path": ["a", "x/../../b"]}, "not a path inside"),
        ({"path": ["a", "C:/b"]}, "not a path inside"),
        ({"path": ["a", "x\\b"]}, "not a path inside"),
        ({"start": [0.0, -1.0]}, "start -1.0 in row 1 must be finite and not negative"),
        ({"end": [1.0, np.inf]}, "end inf in row 1 must be finite"),
        ({"start": [0.0, 5.0], "end": [1.0, 5.0]}, "end 5.0 in row 1 is not later than its start"),
        ({"end": [1.0, 0.0]}, "not later than its start"),
        ({"start": ["soon", "later"]}, "start is not in seconds"),
        ({"text": ["fine", ""]}, "text '' in row 1 is not a text with something in it"),
        ({"label": ["fine", 3]}, "label 3 in row 1"),
    ],
)
def test_bad_tables(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(table().assign(**columns))


def test_missing_and_repeated_columns() -> None:
    assert len(validate(pd.DataFrame({name: [] for name in COLUMNS}))) == 0
    with pytest.raises(ValueError, match=r"no column \['path'\]"):
        validate(pd.DataFrame({"clip_id": ["a"]}))
    with pytest.raises(ValueError, match="twice"):
        validate(pd.concat([table(), table()[["path"]]], axis=1))


@settings(max_examples=12)
@given(st.lists(st.tuples(TEXT, st.none() | st.floats(0, 1e6)), min_size=1, max_size=6))
@example([(text, 0.1) for text in AWKWARD])
def test_csv_keeps_everything(rows: list[tuple[str, float | None]]) -> None:
    clips = pd.DataFrame(
        {
            "clip_id": [f"00{number}" for number in range(len(rows))],
            "path": [f"{number}.mp4" for number in range(len(rows))],
            "start": [start for _, start in rows],
            "text": [text for text, _ in rows],
            "label": [text for text, _ in rows],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "clips.csv"
        write_clips(csv, clips)
        first = csv.read_bytes()
        back = read_clips(csv)
        write_clips(csv, back)
        assert csv.read_bytes() == first
        with pytest.raises(FileNotFoundError):
            read_clips(csv.with_name("absent.csv"))
    pd.testing.assert_frame_equal(back, validate(clips))
