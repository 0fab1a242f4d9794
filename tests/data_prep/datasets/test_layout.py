"""Files below a folder, which of them stands for an annotation's path, and values of records."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.datasets.layout import Files, find_file, locate
from data_prep.datasets.records import member, of_form, records, require_form, typed
from tests.data_prep.datasets.examples import touch


def files(root: Path, *paths: str) -> Files:
    touch(root, *paths)
    return Files(root, root)


def test_the_first_place_that_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "b/list.txt", "c/list.txt")
    candidates = ["a/list.txt", "b/list.txt", "c/list.txt"]
    assert find_file(tmp_path, candidates, "list") == tmp_path / "b/list.txt"
    with pytest.raises(ValueError, match=r"no list under .*; looked for x\.txt, b$"):
        find_file(tmp_path, ["x.txt", "b"], "list")


def test_all_files_but_hidden_ones(tmp_path: Path) -> None:
    names = ["a.mp4", "x/b.mp4", "x/y/z/c d.mp4", "é.mp4", "noext"]
    touch(tmp_path, *names, ".hidden", "x/._b.mp4", ".cache/d.mp4")
    (tmp_path / "empty").mkdir()
    assert Files(tmp_path, tmp_path).paths == set(names)
    assert Files(tmp_path, tmp_path / "x").paths == {"x/b.mp4", "x/y/z/c d.mp4"}
    assert Files(tmp_path, tmp_path / "absent").paths == frozenset()


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
    assert Files(root, root).paths == {"own.mp4", "file.mp4", *linked}


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"a folder cannot be read: .*Permission denied"):
        _ = Files(tmp_path, tmp_path).paths


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
def test_another_extension_will_do(
    tmp_path: Path, there: list[str], asked: str, found: str | None
) -> None:
    assert files(tmp_path, *there).find(asked) == found


def test_missing_items_get_the_path_in_the_usual_layout(tmp_path: Path) -> None:
    there = files(tmp_path, "b/1.mp4", "b/2.avi", "a/3.mp4", "b/3.mp4")
    expected = [[f"{folder}/{k}.mp4" for folder in "abc"] for k in range(1, 5)]
    for any_extension in (True, False):
        paths, layouts = locate(there, expected, any_extension=any_extension)
        second = "b/2.avi" if any_extension else "b/2.mp4"
        assert paths == ["b/1.mp4", second, "a/3.mp4", "b/4.mp4"]
        assert layouts.tolist() == [1, 1 if any_extension else -1, 0, -1]
    paths, layouts = locate(Files(tmp_path, tmp_path / "absent"), expected)
    assert (paths, layouts.tolist()) == ([f"a/{k}.mp4" for k in range(1, 5)], [-1] * 4)
    assert locate(there, [])[0] == []


def test_names_of_a_form() -> None:
    form = re.compile(r"v\d")
    assert of_form("v1", form, "id", "f, line 2")[0] == "v1"
    require_form(["v1", "v2"], [1, 2], form, "id", Path("f"))
    for wrong in ("v12", "v1\n", " v1", ""):
        with pytest.raises(ValueError, match=r"f, line 7: .* is no id; take the original file"):
            require_form(["v1", wrong], [2, 7], form, "id", Path("f"))


@pytest.mark.parametrize(
    ("value", "kind"), [("a", str), (1, int), (1.5, float), (1, float), ([], list), ({}, dict)]
)
def test_values_of_their_kind(value: Any, kind: type) -> None:
    assert list(records([{"key": value}], "f", key=kind)) == [("f[0]", value)]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, str), ("1", int), (1.0, int), (True, int), (True, float), (None, str), ({}, list)],
)
def test_values_of_another_kind(value: Any, kind: type) -> None:
    with pytest.raises(ValueError, match=r"^f\[0\], 'key': .* is not a"):
        list(records([{"key": value}], "f", key=kind))


def test_what_is_wrong_is_shown_but_not_at_length() -> None:
    with pytest.raises(ValueError, match=r"f has no 'a'; it has nothing"):
        member({}, "a", str, "f")
    with pytest.raises(ValueError, match=r"f has no 'a'; it has b, c:"):
        member({"b": 1, "c": 2}, "a", str, "f")
    with pytest.raises(ValueError, match=r"^f: \['x+\.\.\. is not an object") as caught:
        typed(["x" * 10_000], dict, "f")
    assert len(str(caught.value)) < 150
