"""What all tests share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch starts its threads

# The same examples on every machine, and no failure because a machine is busy.
settings.register_profile("kit", deadline=None, derandomize=True)
settings.load_profile("kit")


SHARED = Path(__file__).parents[2] / "shared"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def may_not_mount() -> bool:
    with TemporaryDirectory() as folder:
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=True
            )
        except (FileNotFoundError, subprocess.CalledProcessError):
            return True
        subprocess.run(["umount", "-l", folder], capture_output=True)
    return False


# All that a test may be skipped for, and whether it is true here. Details may follow after a colon.
ABSENT: dict[str, Callable[[], bool]] = {
    "decord is not installed": lambda: find_spec("decord") is None,
    "playwright is not installed": lambda: find_spec("playwright") is None,
    "no chromium is installed": lambda: not any(map(shutil.which, BROWSERS)),
    "make is not installed": lambda: shutil.which("make") is None,
    "mounting is forbidden": may_not_mount,
    "no ../shared/realdata beside this checkout": lambda: not (SHARED / "realdata").is_dir(),
    "no ../shared/paper beside this checkout": lambda: not (SHARED / "paper").is_dir(),
    "this system has no /proc": lambda: not Path("/proc/self/cmdline").is_file(),
    "this system has no /proc/net/tcp": lambda: not Path("/proc/net/tcp").is_file(),
    "this system has no fork": lambda: not hasattr(os, "fork"),
    "this system has no named pipes": lambda: not hasattr(os, "mkfifo"),
    "this system is not Linux": lambda: not sys.platform.startswith("linux"),
    "this system is Windows": lambda: os.name == "nt",
}


def only_for_cause(report: Any) -> Any:
    """The report of a test or module, failed where it was skipped for no reason of `ABSENT`."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not ABSENT.get(reason.partition(":")[0], lambda: False)():
            report.outcome = "failed"
            report.longrepr = (
                f"skipped because {reason!r}, which is not true here, or not in the table ABSENT "
                "of tests/conftest.py"
            )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return only_for_cause((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return only_for_cause((yield))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data sets' files and clips that lies beside some checkouts."""
    folder = SHARED / "realdata"
    if not folder.is_dir():
        pytest.skip("no ../shared/realdata beside this checkout")
    return folder
