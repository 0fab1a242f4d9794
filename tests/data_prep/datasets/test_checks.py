"""What the loaders share: options, names, JSON records, and files in several layouts."""

import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.datasets.checks import member, of_form, one_of, typed
from data_prep.datasets.layout import Files, locate


def test_options_and_names() -> None:
    assert one_of("split", "val", ("val", "test")) == "val"
    with pytest.raises(ValueError, match="split is 'Val'; there are val, test"):
        one_of("split", "Val", ("val", "test"))
    assert of_form("v1", re.compile(r"v\d"), "id", "f, line 2") == "v1"
    for wrong in ("v12", "v1\n", " v1", ""):
        with pytest.raises(ValueError, match=r"f, line 2: .* is no id"):
            of_form(wrong, re.compile(r"v\d"), "id", "f, line 2")


@pytest.mark.parametrize(
    ("value", "kind"), [("a", str), (1, int), (1.5, float), (1, float), ([], list), ({}, dict)]
)
def test_values_of_their_kind(value: Any, kind: type) -> None:
    assert member({"key": value}, "key", kind, "f") is value


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, str), ("1", int), (1.0, int), (True, int), (True, float), (None, str), ({}, list)],
)
def test_values_of_another_kind(value: Any, kind: type) -> None:
    with pytest.raises(ValueError, match=r"^f, 'key': .* is not a"):
        member({"key": value}, "key", kind, "f")


def test_what_is_wrong_is_shown_but_not_at_length() -> None:
    with pytest.raises(ValueError, match=r"f has no 'a'; it has nothing"):
        member({}, "a", str, "f")
    with pytest.raises(ValueError, match=r"f has no 'a'; it has b, c:"):
        member({"b": 1, "c": 2}, "a", str, "f")
    with pytest.raises(ValueError, match=r"^f: \['x+\.\.\. is not an object") as caught:
        typed(["x" * 10_000], dict, "f")
    assert len(str(caught.value)) < 150


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for path in ("b/1.mp4", "b/2.webm", "a/2.mp4", "c/3.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    return Files(tmp_path, tmp_path)


def test_the_first_layout_that_has_the_file_else_the_usual_one(files: Files) -> None:
    (files.root / "b/0.mp4").touch()
    candidates = [[f"{folder}/{k}.mp4" for folder in "abc"] for k in (3, 2, 1, 4, 0)]
    paths, layouts = locate(files, candidates)
    assert paths == ["c/3.mp4", "a/2.mp4", "b/1.mp4", "b/4.mp4", "b/0.mp4"]
    assert layouts == [2, 0, 1, None, 1]


def test_other_extensions_only_where_they_will_do(files: Files) -> None:
    candidates = [["b/2.mp4"], ["b/1.mp4"]]
    assert locate(files, candidates) == (["b/2.webm", "b/1.mp4"], [0, 0])
    exact = locate(files, candidates, any_extension=False)
    assert exact == (["b/2.mp4", "b/1.mp4"], [None, 0])


def test_no_files_and_no_items(tmp_path: Path) -> None:
    nothing = Files(tmp_path, tmp_path)
    assert locate(nothing, []) == ([], [])
    assert locate(nothing, [["a/1.mp4", "b/1.mp4"]]) == (["a/1.mp4"], [None])
