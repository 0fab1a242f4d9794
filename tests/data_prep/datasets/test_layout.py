"""Files below a folder, and which of them stands for an annotation's path."""

import os
from pathlib import Path

import pytest

from data_prep.datasets.layout import Files, find_file, find_folder, locate


def touch(root: Path, *paths: str) -> Files:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return Files(root, root)


def test_the_first_place_that_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "b/list.txt", "c/list.txt")
    assert find_file(tmp_path, ["a/list.txt", "b/list.txt", "c/list.txt"], "list") == (
        tmp_path / "b/list.txt"
    )
    assert find_folder(tmp_path, ["a", "c", "b"], "lists") == tmp_path / "c"
    assert find_folder(tmp_path, ["a", "."], "lists") == tmp_path


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "a", "b/x")
    with pytest.raises(ValueError, match=r"no list under .*; looked for x\.txt, b$"):
        find_file(tmp_path, ["x.txt", "b"], "list")
    with pytest.raises(ValueError, match=r"no folder of videos under .*; looked for a, c$"):
        find_folder(tmp_path, ["a", "c"], "videos")
    for call in (find_file, find_folder):
        for root in (tmp_path / "a", tmp_path / "absent"):
            with pytest.raises(ValueError, match="is no folder; give the data set's own folder"):
                call(root, ["x"], "list")


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
    assert Files(root, root).paths == {
        "own.mp4",
        "file.mp4",
        "val/one.mp4",
        "val/deep/two.mp4",
        "validation/one.mp4",
        "validation/deep/two.mp4",
        "up/elsewhere/one.mp4",
        "up/elsewhere/deep/two.mp4",
    }


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
    assert touch(tmp_path, *there).find(asked) == found


def test_missing_items_get_the_path_in_the_usual_layout(tmp_path: Path) -> None:
    files = touch(tmp_path, "b/1.mp4", "b/2.avi", "a/3.mp4", "b/3.mp4")
    expected = [[f"{folder}/{k}.mp4" for folder in "abc"] for k in range(1, 5)]
    paths = ["b/1.mp4", "b/2.avi", "a/3.mp4", "b/4.mp4"]
    assert locate(files, expected) == (paths, [1, 1, 0, None])
    paths[1] = "b/2.mp4"
    assert locate(files, expected, any_extension=False) == (paths, [1, None, 0, None])
    assert locate(Files(tmp_path, tmp_path / "absent"), expected) == (
        ["a/1.mp4", "a/2.mp4", "a/3.mp4", "a/4.mp4"],
        [None] * 4,
    )
    assert locate(files, []) == ([], [])
