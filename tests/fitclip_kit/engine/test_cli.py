"""The command line: what it prints, where, and its exit status."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from data_prep.datasets import LOADERS, documentation
from data_prep.mini_benchmark.build import encode
from fitclip_kit.engine import run as runs
from fitclip_kit.engine.cli import main, typed_options
from fitclip_kit.engine.settings import ParameterError
from tests.small_project import ROOT

DEFAULTS = {"split": "test", "first": 3, "strict": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The `folder` loader's table of two clips, one of them there."""
    (tmp_path / "clips.csv").write_text("path,caption\na.mp4,a cat\nb.mp4,a \x1b[31mdog\n")
    encode(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), crf=30)
    return tmp_path


def run(*arguments: Any) -> int:
    return main(["check-data", *map(str, arguments)])


def test_a_copy_is_checked(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("folder", "--root", folder, "--max-missing", 0.5, "--decode", 1) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "1 of 2 there" in printed.out and "1 of 1 clips" in printed.out
    assert run("folder", "--root", folder, "--decode", 0) == 1
    assert "PROBLEM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("path,caption\n\x1b]0;evil\x07/../x.mp4,a cat\n", "\\x1b]0;evil\\x07")],
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
        (["-o", "splits=test"], "unknown: 'splits'; there are table="),
        (["-o", "split"], "'split' is not key=value"),
        (["-o", "split=a", "-o", "split=b"], "'split' is given twice"),
        (["--root", ".", "--max-missing", "5"], "max_missing is 5.0"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert run("folder", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    ["check-data", "check-data x", "nothing", "run", "run --profil mini", "run --profile x mini"],
)
def test_other_words_are_refused(arguments: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments.split()) == 2
    assert "Usage: fitclip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. The same command goes on"),
        (RuntimeError("a notebook failed"), 1, "a notebook failed"),
        (OSError(28, "No space left", "/full"), 1, "The run stopped: [Errno 28] No space left"),
        (ParameterError("a: wants"), 2, "Nothing was run. What is wrong:\na: wants"),
        (ValueError("no frames"), 2, "fitclip run: no frames"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_are_told_without_a_traceback(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    def raising(*_: object) -> None:
        raise error

    monkeypatch.setattr(runs, "make_plan", raising)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main(["run", "--profile", "mini"]) == status
    told = capfd.readouterr().err
    assert told.strip().startswith(said) and "Traceback" not in told
    assert bool(told) == bool(said)


def test_the_slider_is_served_by_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = mock.Mock(**{"serve.return_value": 1})
    monkeypatch.setitem(sys.modules, "fitclip_kit.slider.serve", serve)
    assert main(["slider", "--profile", "mini", "--port", "8866"]) == 1
    serve.serve.assert_called_once_with("mini", Path("runs"), 8866)


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fitclip": "fitclip_kit.engine.cli:main"}


def test_help_lists_the_loaders(capsys: pytest.CaptureFixture) -> None:
    assert run("--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for loader in LOADERS:
        assert f" {loader} {documentation(loader).partition(chr(10))[0]}" in printed
    assert run("didemo") == 0  # without a root
    printed = capsys.readouterr().out
    assert documentation("didemo") in printed and "check-data didemo --root DIR" in printed


def test_options_have_the_defaults_types() -> None:
    given = typed_options("x", DEFAULTS, ["split=a=b", "first=-2", "strict=Yes"])
    assert repr(given) == repr({"split": "a=b", "first": -2, "strict": True})
    assert typed_options("x", DEFAULTS, []) == {}
    with pytest.raises(ValueError, match=r"options of x: first: wants a .*; there are split=test"):
        typed_options("x", DEFAULTS, ["first=two"])


def test_as_a_command_with_a_poor_terminal(folder: Path) -> None:
    (folder / "clips.csv").write_text("path,label\na.mp4,猫\n猫.mp4,dog\n", encoding="utf-8")
    command = [sys.executable, "-m", "fitclip_kit.engine.cli", "check-data", "folder"]
    command += ["--root", str(folder)]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "\\u732b.mp4" in done.stdout and done.stderr == ""
