"""The command line: what it prints, where, and its exit status."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.datasets import LOADERS, documentation
from data_prep.mini_benchmark.build import encode
from fitclip_kit.engine import cli
from fitclip_kit.engine.cli import main, typed_options

DEFAULTS = {"split": "test", "first": 3, "strict": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The `folder` loader's table of two clips, one of them there."""
    (tmp_path / "clips.csv").write_text("path,caption\na.mp4,a cat\nb.mp4,a \x1b[31mdog\n")
    encode(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), crf=30)
    return tmp_path


def run(*arguments: Any) -> int:
    return main(["check-data", *map(str, arguments)])


def test_fine(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("folder", "--root", folder, "--max-missing", 0.5, "--decode", 1) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "1 of 2 there" in printed.out and "1 of 1 clips" in printed.out


def test_too_many_missing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("folder", "--root", folder, "--decode", 0) == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_nothing_decodes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "a.mp4").write_bytes(b"no video")
    assert run("folder", "--root", folder, "--max-missing", 0.5) == 1
    assert "can be decoded" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        ("path,caption\n\x1b]0;evil\x07/../x.mp4,a cat\n", "\\x1b]0;evil\\x07"),
    ],
)
def test_a_broken_annotation_is_one_message(
    folder: Path, capsys: pytest.CaptureFixture, content: str, message: str
) -> None:
    (folder / "clips.csv").write_text(content)
    assert run("folder", "--root", folder) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err
    assert printed.err.startswith("fitclip check-data: ") and printed.err.count("\n") == 1
    assert printed.err[:-1].isprintable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--root", ".", "-o", "splits=test"], "no option 'splits'; it has "),
        (["--root", ".", "-o", "split"], "'split' is not key=value"),
        (["--root", ".", "-o", "split=a", "-o", "split=b"], "'split' is given twice"),
        (["--root", ".", "--max-missing", "5"], "max_missing is 5.0"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert run("folder", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["check-data"], ["check-data", "x"], ["check-data", "-z"]]
)
def test_argparse_refuses_the_rest(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: fitclip" in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "check", interrupt)
    assert run("folder", "--root", ".") == 130


def test_help_lists_the_loaders(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for loader in LOADERS:
        assert f"  {loader} " in printed
        assert documentation(loader).partition("\n")[0] in printed


@pytest.mark.parametrize("loader", LOADERS)
def test_without_a_root_the_documentation_is_printed(
    loader: str, capsys: pytest.CaptureFixture
) -> None:
    assert run(loader) == 0
    printed = capsys.readouterr().out
    assert documentation(loader) in printed and f"check-data {loader} --root DIR" in printed


def test_options_have_the_defaults_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "options_of", lambda _: DEFAULTS)
    given = typed_options("x", ["split=a=b", "first=-2", "strict=Yes"])
    assert given == {"split": "a=b", "first": -2, "strict": True}
    assert [type(value) for value in given.values()] == [str, int, bool]
    assert typed_options("x", ["strict=0", "split="]) == {"strict": False, "split": ""}
    assert typed_options("x", []) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [("first=two", "first is 'two'; give a whole number"), ("strict=2", "give true or false")],
)
def test_ill_typed_options(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setattr(cli, "options_of", lambda _: DEFAULTS)
    with pytest.raises(ValueError, match=message):
        typed_options("x", [text])


def test_as_a_command_with_a_poor_terminal(folder: Path) -> None:
    (folder / "clips.csv").write_text("path,label\na.mp4,猫\n猫.mp4,dog\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "fitclip_kit.engine.cli",
        "check-data",
        "folder",
        "--root",
        str(folder),
    ]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "\\u732b.mp4" in done.stdout and done.stderr == ""
