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


@pytest.mark.parametrize("options", ["-p no:xdist", "-n 1 --dist loadfile"])
def test_skips_without_need_fail(tmp_path: Path, options: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST + MORE, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS)
    for name in ("air", "gold"):  # a whole module
        missing = f"pytest.importorskip('no_such_module', reason='no {name}')"
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{missing}\n")
    options += " --continue-on-collection-errors"
    command = [sys.executable, "-m", "pytest", *options.split()]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "1 failed, 3 skipped, 3 errors" in said, said
    assert "'no wish to', which is not true here" in said
