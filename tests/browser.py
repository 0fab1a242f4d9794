"""A server and a browser for the tests of the slider's page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Playwright

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300.0  # seconds that anything may take on a busy machine
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S*")


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        address: as it printed it, with the token.
        log: all that it and its kernels say.
        process: its number.
    """

    address: str
    log: Path
    process: int

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(urlsplit(self.address).port or 0)

    @property
    def token(self) -> str:
        """What a request has to hold to be answered."""
        return parse_qs(urlsplit(self.address).query)["token"][0]


@contextmanager
def serving(command: Sequence[str], folder: Path) -> Iterator[Server]:
    """Run a server until the block is left; it may use nothing of the user's Jupyter settings.

    Args:
        command: what follows `python`; it has to print its address.
        folder: for its log and settings; must exist.

    Raises:
        RuntimeError: it ended, or printed no address, with the last that it said.
    """
    log = folder / "server.log"
    homes = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
    homes |= {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    own = {name: str(folder / part) for name, part in homes.items()}
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(_printed_address(process, log), log, process.pid)
    finally:
        _stop(process)


def _printed_address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if found := _ADDRESS.findall(log.read_text(errors="replace")):
            return str(found[-1])
        time.sleep(0.1)
    said = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the server printed no address in {PATIENCE:g} s; it said: {said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # it ends its kernels
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def find_chromium() -> str | None:
    """The path of an installed Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright, chromium: str) -> Browser:
    """Start a headless Chromium that can reach nothing but this machine."""
    only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    return playwright.chromium.launch(executable_path=chromium, args=[only_here])


@dataclass(frozen=True)
class Explorer:
    """The slider's page in a browser, found by its `fk-` classes (`fitclip_kit.slider.widgets`)."""

    page: Page

    def part(self, name: str, inside: str = "") -> Locator:
        """An element of the class `fk-<name>`, or what a CSS selector finds in it."""
        return self.page.locator(f".fk-{name} {inside}".strip())

    def state(self) -> dict[str, str]:
        """What `.fk-state` says: vision, text, merge, student, data-set, state, busy."""
        found: dict[str, str] = self.page.evaluate(_STATE)
        return found

    def wait_for(self, **expected: Any) -> None:
        """Wait until the page's state is this; numbers as numbers, `_` for `-` in names.

        Raises: TimeoutError with the state that the page has.
        """
        wanted = {name.replace("_", "-"): str(value) for name, value in expected.items()}
        try:
            self.page.wait_for_function(_HAS_STATE, arg=wanted, timeout=PATIENCE * 1000)
        except Exception as error:
            raise TimeoutError(f"{wanted} was waited for; the page has {self.state()}") from error

    def settle(self, **expected: Any) -> None:
        """Wait until all that is on the page belongs to this state."""
        self.wait_for(**expected, busy=0)

    def grab(self, slider: str = "alpha") -> tuple[float, float, float]:
        """Press the mouse on a slider's handle; returns x of 0, x of 1 and y, in pixels."""
        handle, track = self.part(slider, ".noUi-handle"), self.part(slider, ".noUi-base")
        handle.scroll_into_view_if_needed()
        box, middle = track.bounding_box(), handle.bounding_box()
        if box is None or middle is None:
            raise RuntimeError(f"the slider {slider} is not displayed")
        y = middle["y"] + middle["height"] / 2
        self.page.mouse.move(middle["x"] + middle["width"] / 2, y)
        self.page.mouse.down()
        return box["x"], box["x"] + box["width"], y

    def drag(self, share: float, slider: str = "alpha", steps: int = 1) -> None:
        """Drag a slider's handle to a share in [0, 1] by mouse."""
        left, right, y = self.grab(slider)
        self.page.mouse.move(left + share * (right - left), y, steps=steps)
        self.page.mouse.up()


_STATE = """() => Object.fromEntries(
  [...(document.querySelector(".fk-state")?.attributes ?? [])]
    .filter(one => one.name.startsWith("data-")).map(one => [one.name.slice(5), one.value])
)"""
_HAS_STATE = """wanted => {
  const shown = document.querySelector(".fk-state");
  const equal = (a, b) => a === b || Math.abs(Number(a) - Number(b)) < 1e-9;
  return shown !== null && Object.entries(wanted)
    .every(([name, value]) => equal(shown.getAttribute("data-" + name), value));
}"""
