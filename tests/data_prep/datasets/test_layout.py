"""Files below a folder, which of them stands for an annotation's path, and values of records."""

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.datasets.layout import find, locate, scan
from data_prep.datasets.reader import Annotation, check_form, lines, member, records, refuse, typed
from tests.data_prep.datasets.examples import touch


def test_the_first_place_that_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "b/list.txt", "c/list.txt")
    account = Annotation("x", tmp_path, {})
    assert account.file("list", ["x.txt", "list.txt"], ["a/", "b/", "c/"]) == account.files[0]
    assert account.files == [tmp_path / "b/list.txt"]
    with pytest.raises(ValueError, match=r"no list under .*; looked for x\.txt, a/x\.txt, b, a/b$"):
        account.file("list", ["x.txt", "b"], ["", "a/"])


def test_all_files_but_hidden_ones(tmp_path: Path) -> None:
    names = ["a.mp4", "x/b.mp4", "x/y/z/c d.mp4", "é.mp4", "noext"]
    touch(tmp_path, *names, ".hidden", "x/._b.mp4", ".cache/d.mp4")
    (tmp_path / "empty").mkdir()
    assert scan(tmp_path) == set(names)
    assert scan(tmp_path, "x") == {"x/b.mp4", "x/y/z/c d.mp4"}
    assert scan(tmp_path, "absent") == frozenset()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(elsewhere, "one.mp4", "deep/two.mp4")
    touch(root, "own.mp4")
    for name, target in {
        "val": elsewhere,
        "validation": elsewhere,  # the same folder twice is no loop
        "file.mp4": elsewhere / "one.mp4",
        "broken.mp4": tmp_path / "absent.mp4",
        "itself.mp4": root / "itself.mp4",
        "up": tmp_path,
    }.items():
        (root / name).symlink_to(target)
    folders = ("val", "validation", "up/elsewhere")
    linked = {f"{folder}/{name}" for folder in folders for name in ("one.mp4", "deep/two.mp4")}
    assert scan(root) == {"own.mp4", "file.mp4", *linked}


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"a folder cannot be read: .*Permission denied"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        (["a.mp4"], "a.mp4", "a.mp4"),
        (["a.mkv", "a.mp4"], "a.avi", "a.mp4"),
        (["a.MOV"], "a.mov", "a.MOV"),
        (["x/a.webm"], "x/a.mp4", "x/a.webm"),
        (["a.webm"], "x/a.mp4", None),
        (["a.mp4"], "a", "a.mp4"),
        (["a"], "a", "a"),
        (["a"], "a.mp4", None),
        (["id.1.mp4"], "id.1", "id.1.mp4"),
        (["id.mp4"], "id.1", None),
        (["name..mp4"], "name.", "name..mp4"),
        (["name.mov"], "name.", "name.mov"),
        (["a.mp4.webm"], "a.mp4", "a.mp4.webm"),
        (["v.1/a.mp4"], "v.1/a.avi", "v.1/a.mp4"),
        (["a.jpg", "a.json", "a.txt", "a.mp4.part"], "a.mp4", None),
        (["a.mp4", "a.jpeg"], "a.jpg", "a.jpeg"),
        (["a.PNG"], "a.JPG", "a.PNG"),
        (["a.mp4"], "a.jpg", None),
    ],
)
def test_another_extension_will_do(there: list[str], asked: str, found: str | None) -> None:
    assert find(set(there), asked) == found


def test_missing_items_get_the_path_in_the_usual_layout() -> None:
    there = {"b/1.mp4", "b/2.avi", "a/3.mp4", "b/3.mp4"}
    rows = pd.DataFrame({"n": range(1, 5)}, [7, 8, 9, 11])
    layouts = [f"{folder}/" + rows["n"].astype("str") + ".mp4" for folder in "abc"]
    for any_extension in (True, False):
        found = locate(rows, there, layouts, any_extension=any_extension)
        second = "b/2.avi" if any_extension else "b/2.mp4"
        assert found["path"].tolist() == ["b/1.mp4", second, "a/3.mp4", "b/4.mp4"]
        assert found["layout"].tolist() == [1, 1 if any_extension else -1, 0, -1]
        assert found["found"].tolist() == [True, any_extension, True, False]
    found = locate(rows, set(), layouts)
    assert found["path"].tolist() == [f"a/{k}.mp4" for k in range(1, 5)]
    assert not found["found"].any()


FORM = re.compile(r"(?P<id>v\d)(?P<rest>x?)")


def test_rows_are_refused_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("v1\n\nv2x\n")
    rows = lines(file, FORM, "id")
    assert rows.to_dict("list") == {"id": ["v1", "v2"], "rest": ["", "x"]}
    refuse(rows[:0], "{id}")
    with pytest.raises(ValueError, match=r"list.txt, line 3: v2, 'x'; do$"):
        refuse(rows[1:], "{id}, {rest!r}", "do")
    for wrong in ("v12", " v1", "v"):
        file.write_text(f"v1\n\n{wrong}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=rf"line 3: '{wrong}' is no id; take the original"):
            lines(file, FORM, "id")
    odd = pd.DataFrame({"id": ["v1", "\ud800"]}, ["[0]", "[1]"], dtype="object").rename_axis("f, ")
    with pytest.raises(ValueError, match=r"^f, \[1\]: '\\ud800' is no id; take the original file$"):
        check_form(odd, "id", FORM, "id")


@pytest.mark.parametrize(
    ("value", "kind"), [("a", str), (1, int), (1.5, float), (1, float), ([], list), ({}, dict)]
)
def test_values_of_their_kind(value: Any, kind: type) -> None:
    assert records([{"a": value}], "f", a=kind)["a"].tolist() == [value]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, str), ("1", int), (1.0, int), (True, int), (True, float), (None, str), ({}, list)],
)
def test_values_of_another_kind(value: Any, kind: type) -> None:
    with pytest.raises(ValueError, match=r"^f, k\[0\], 'a': .* is not a"):
        records({"k": [{"a": value}]}, "f", "k", a=kind)


def test_what_is_wrong_is_shown_but_not_at_length() -> None:
    with pytest.raises(ValueError, match=r"f has no 'a'; it has nothing"):
        member({}, "a", str, "f")
    with pytest.raises(ValueError, match=r"f has no 'a'; it has b, c:"):
        member({"b": 1, "c": 2}, "a", str, "f")
    with pytest.raises(ValueError, match=r"^f: \['x+\.\.\. is not an object") as caught:
        typed(["x" * 10_000], dict, "f")
    assert len(str(caught.value)) < 150
