"""Loaders by name: their options, their documentation, and what every one of them must be."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from data_prep.datasets import LOADERS, documentation, load, options_of


@pytest.mark.parametrize("loader", LOADERS)
def test_options_are_texts_numbers_or_switches(loader: str) -> None:
    for name, default in options_of(loader).items():
        assert type(default) in (str, int, bool), name


@pytest.mark.parametrize("loader", LOADERS)
def test_the_documentation_tells_of_files_and_every_option(loader: str) -> None:
    text = documentation(loader)
    assert "root" in text
    for name in options_of(loader):
        assert name in text


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("root", ["absent", "file"])
def test_a_root_that_is_no_folder(tmp_path: Path, loader: str, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{root} is no folder; give the data set's own folder"):
        load(loader, tmp_path / root)


@pytest.mark.parametrize("loader", LOADERS)
def test_an_empty_root(tmp_path: Path, loader: str) -> None:
    with pytest.raises(ValueError, match=r"under .*; looked for "):
        load(loader, str(tmp_path))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("value", [1.5, None, ["a"]], ids=str)
def test_options_of_the_wrong_type(tmp_path: Path, loader: str, value: Any) -> None:
    for name in options_of(loader):
        with pytest.raises(ValueError, match=f"{loader}'s option {name} is .*; it must be a "):
            load(loader, tmp_path, **{name: value})


def test_a_switch_is_no_text() -> None:
    with pytest.raises(ValueError, match="option split is True; it must be a str, such as its def"):
        load("ucf101", ".", split=True)


@pytest.mark.parametrize("loader", LOADERS)
def test_unknown_choices_are_answered_with_the_known(tmp_path: Path, loader: str) -> None:
    choices = {"split", "captions", "task", "version", "annotation", "shared_ids"}
    if loader == "folder":
        choices.remove("split")
    for name in choices & set(options_of(loader)):
        with pytest.raises(ValueError, match=f"{name} is 'x'; there are "):
            load(loader, tmp_path, **{name: "x"})


def test_unknown_loaders_and_options() -> None:
    for call in (options_of, documentation, lambda name: load(name, ".")):
        with pytest.raises(ValueError, match="there is no loader 'ucf'; there are msrvtt, didemo"):
            call("ucf")
    with pytest.raises(ValueError, match="ucf101 has no option fold, half; it has split"):
        load("ucf101", ".", fold=1, half=True)


def test_the_home_folder_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/clips.csv").write_text("path,text\na.mp4,x\n")
    assert load("folder", "~/data").root == tmp_path / "data"


@pytest.mark.parametrize("loader", LOADERS)
def test_loaders_have_one_public_function_of_root_and_options(loader: str) -> None:
    module = importlib.import_module(f"data_prep.datasets.{loader}")
    kinds = [one.kind for one in inspect.signature(module.load).parameters.values()]
    assert kinds[0] is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds[1:]) <= {inspect.Parameter.KEYWORD_ONLY}
