"""A test is skipped only for what is truly absent."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
MORE = """
ABSENT.update({"no air": lambda: False, "no gold": lambda: True})
"""
TESTS = """
import pytest

@pytest.mark.parametrize("reason", ["no gold", "no gold: none was found"])
def test_absent(reason):
    pytest.skip(reason)

def test_there():
    pytest.skip("no air")

@pytest.mark.skipif(True, reason="no wish to")
def test_no_thing():
    pass

@pytest.fixture
def air():
    pytest.skip("no air")

def test_fixture(air):
    pass
"""


def run(folder: Path, tests: str, *options: str) -> str:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST + MORE, encoding="utf-8")
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.parametrize("options", [("-p", "no:xdist"), ("-n", "1", "--dist", "loadfile")])
def test_skips_without_need_fail(tmp_path: Path, options: tuple[str, ...]) -> None:
    said = run(tmp_path, TESTS, *options)
    assert "1 failed, 2 skipped, 2 errors" in said, said
    assert "'no wish to', which is not true here" in said


@pytest.mark.parametrize(("reason", "outcome"), [("no air", "1 error"), ("no gold", "1 skipped")])
def test_so_do_modules_skipped_without_need(tmp_path: Path, reason: str, outcome: str) -> None:
    tests = f"import pytest\npytest.importorskip('no_such_module', reason={reason!r})\n"
    said = run(tmp_path, tests, "-p", "no:xdist")
    assert outcome in said, said
