"""What holds for every loader: found by name, options, documentation, strict reading, sizes."""

from pathlib import Path
from typing import Any

import pytest

from data_prep.check import check, report
from data_prep.datasets import LOADERS, documentation, load, options_of
from tests.data_prep.datasets.examples import EXAMPLES, lay


def test_every_loader_is_found_and_has_an_example() -> None:
    assert {example.loader for example in EXAMPLES.values()} == set(LOADERS)
    assert len(LOADERS) >= 9


@pytest.mark.parametrize("loader", LOADERS)
def test_options_and_documentation(loader: str, tmp_path: Path) -> None:
    text = documentation(loader)
    assert "root" in text
    for name, default in options_of(loader).items():
        assert type(default) is str, "as YAML and the command line can give it"
        assert name in text
        for value in (1.5, None, ["a"], True):
            message = f"{loader}'s option {name} is .*; it must be a str, such as its default"
            with pytest.raises(ValueError, match=message):
                load(loader, tmp_path, **{name: value})
        if name not in ("table", "prompt") and (loader, name) != ("folder", "split"):
            with pytest.raises(ValueError, match=f"{name} is 'x'; there are .*{default}"):
                load(loader, tmp_path, **{name: "x"})


@pytest.mark.parametrize("loader", LOADERS)
def test_roots_without_the_files(loader: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in ("absent", "file"):
        with pytest.raises(ValueError, match=f"{root} is no folder; give the data set's own fol"):
            load(loader, tmp_path / root)
    (tmp_path / "file").unlink()
    with pytest.raises(ValueError, match=r"^no .* under .*; looked for "):
        load(loader, str(tmp_path))


def test_unknown_loaders_and_options() -> None:
    for call in (options_of, documentation, lambda name: load(name, ".")):
        with pytest.raises(ValueError, match="there is no loader 'ucf'; there are cc3m, coco, did"):
            call("ucf")
    with pytest.raises(ValueError, match="ucf101 has no option fold, half; it has split"):
        load("ucf101", ".", fold=1, half=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_mark_and_other_line_ends_change_nothing_and_a_pointer_is_no_file(
    name: str, tmp_path: Path
) -> None:
    loader, options, good, files = EXAMPLES[name]
    contents = files(good)
    data = load(loader, lay(tmp_path, contents), **options)
    assert (len(data.clips), data.annotated, len(data.missing)) == (1, 1, 1)
    assert set(data.protocol["annotations"]) == set(contents)
    for file, content in contents.items():
        lay(tmp_path, {file: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")})
        assert load(loader, tmp_path, **options).clips.equals(data.clips)
        lay(tmp_path, {file: b"version https://git-lfs.github.com/spec/v1\n"})
        with pytest.raises(ValueError, match=rf"{file} is (not a clips table: it is )?a git-LFS p"):
            load(loader, tmp_path, **options)
        lay(tmp_path, {file: content})


@pytest.mark.parametrize("name", EXAMPLES)
def test_another_size_than_the_official_one_is_said(name: str, tmp_path: Path) -> None:
    loader, options, good, files = EXAMPLES[name]
    data = load(loader, lay(tmp_path, files(good)), **options)
    if loader == "folder":
        assert "annotation_size" not in data.protocol and data.notes == ()
        return
    said = data.protocol["annotation_size"].split("; ")
    assert any(text.startswith("officially there are") for text in said)
    assert f"the annotation has {said[0]}" in data.notes[-1] + data.notes[-2:][0]
    found = " ".join(report(check(loader, tmp_path, options, decode=0, max_missing=1)).split())
    assert f"annotation size {said[0]}" in found


def test_the_home_folder_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    options: dict[str, Any] = {"task": "retrieval"}
    lay(tmp_path, {"data/clips.csv": "path,text\na.mp4,x\n"})
    assert load("folder", "~/data", **options).root == tmp_path / "data"


def test_the_real_lists_are_of_the_official_size(realdata: Path) -> None:
    for loader, options in {
        "didemo": {},
        "youcook2": {},
        "ucf101": {"split": "trainlist01"},
        "msrvtt": {"captions": "jsfusion"},
    }.items():
        found = load(loader, realdata / loader, **options)
        assert found.protocol["annotation_size"] == "official", loader
