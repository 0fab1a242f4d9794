"""The slider's page in a real browser: Voila and JupyterLab serve it, Chromium shows it.

What the page says of stored cells is checked against them; the numbers are `test_widgets`' matter.
After every test the browser's console, its requests and the server's log are read.

The README's picture is made of a finished run, into which nothing is written, by

    EXPLORER_RUN=runs/mini EXPLORER_PICTURES=pictures \\
        python -m pytest tests/fitclip_kit/slider/test_browser.py -k readme
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.slider.material import Material, open_material
from fitclip_kit.store.results import Cell, ResultsStore
from tests.fitclip_kit.slider.small_run import build_run

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from tests.browser import PATIENCE, ROOT, Explorer, Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        ConsoleMessage,
        Page,
        Request,
        Response,
        ViewportSize,
    )

WIDE: ViewportSize = {"width": 1280, "height": 1000}
NARROW: ViewportSize = {"width": 800, "height": 1000}
STORED, FRESH = 0.4, 0.23
RETRIEVAL, ACTIONS = "msrvtt", "ucf101"
MEASURE = {RETRIEVAL: "R@5", ACTIONS: "top1"}
COMPLAINT = re.compile(r"^\[[WEC] |Traceback|\b(warning|error|critical)\b", re.IGNORECASE)
# Lines of a server's log that look like complaints and are none.
HARMLESS = tuple(
    re.compile(line)
    for line in (
        # JupyterLab prints its address and that it was told to end as critical news.
        r"^\[C \S+ \S+ ServerApp\] ?$",
        r"^\[C \S+ \S+ ServerApp\] received signal 15, stopping$",
        # A notebook that came from elsewhere; its cells are run anew, nothing is held back.
        r"^\[W \S+ \S+ ServerApp\] Notebook \S+ is not trusted$",
        # Between two of JupyterLab's own defaults.
        r"The websocket_ping_timeout \(90000\) cannot be longer than",
        # Kernels are asked through this machine's loopback interface only.
        r"^\[IPKernelApp\] WARNING \| Kernel is running over TCP without encryption\.",
        # Jupyter interrupts a kernel before it ends it.
        r"^\[IPKernelApp\] ERROR \| KeyboardInterrupt caught in kernel\.$",
    )
)


@dataclass
class Watch:
    """Gathers what a page should not do."""

    problems: list[str] = field(default_factory=list)

    def page(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", lambda request: self._address(request.url))
        page.on("websocket", lambda socket: self._address(socket.url))
        page.on("response", self._answered)
        page.on("requestfailed", self._failed)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location})")

    def _address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1":
            self.problems.append(f"request to {url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status} for {response.url}")

    def _failed(self, request: Request) -> None:
        # JupyterLab begins to load a notebook's picture from where it is not, and corrects itself.
        corrected = request.failure == "net::ERR_ABORTED" and "/lab/tree/" in request.url
        if not corrected:
            self.problems.append(f"failed: {request.url} ({request.failure})")


@dataclass
class Opened:
    """A served page in the browser."""

    kind: str
    server: Server
    explorer: Explorer
    watch: Watch
    lines_read: int = 0

    def complaints(self) -> list[str]:
        """The lines of the server's log since the last call that tell of something wrong."""
        lines = self.server.log.read_text(errors="replace").splitlines()[self.lines_read :]
        self.lines_read += len(lines)
        suspicious = [line for line in lines if COMPLAINT.search(line)]
        return [line for line in suspicious if not any(known.search(line) for known in HARMLESS)]

    def check(self) -> None:
        """Nothing went wrong so far."""
        assert self.watch.problems == []
        assert self.complaints() == []
        assert self.explorer.part("message").inner_text() == ""


@pytest.fixture(scope="module")
def run(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that tests may write to; named after a profile, as Voila's command needs."""
    folder = tmp_path_factory.mktemp("runs") / "mini"
    given = os.environ.get("EXPLORER_RUN")
    if not given:
        return build_run(folder)
    folder.mkdir()
    for entry in Path(given).resolve().iterdir():
        if entry.name != "explore_alpha":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def material(run: Path) -> Material:
    return open_material(run)


def serve_voila(run: Path, folder: Path) -> list[str]:
    options = ["--profile", run.name, "--runs-dir", str(run.parent)]
    return ["-m", "fitclip_kit.engine.cli", "slider", *options]


def serve_lab(run: Path, folder: Path) -> list[str]:
    notebook = load_notebook_node(str(ROOT / "notebooks" / "explore_alpha.ipynb"))
    notebook = parameterize_notebook(notebook, {"run_dir": str(run)})
    (folder / "kit" / "notebooks").mkdir(parents=True)
    nbformat.write(notebook, str(folder / "kit" / "notebooks" / "explore_alpha.ipynb"))
    picture = Path("figures", "gallery", "explore_alpha.png")  # the notebook shows it
    (folder / "kit" / picture).parent.mkdir(parents=True)
    shutil.copy(ROOT / picture, folder / "kit" / picture)
    # JupyterLab asks its makers for news and new versions unless it is told not to.
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    root = ["--allow-root"] if os.geteuid() == 0 else []
    options = ["--no-browser", "--ip=127.0.0.1", "--port=0", f"--notebook-dir={folder / 'kit'}"]
    return ["-m", "jupyterlab", *options, *root]


def open_voila(page: Page, server: Server) -> None:
    page.goto(server.address)


def open_lab(page: Page, server: Server) -> None:
    page.goto(f"{server.origin}/lab/tree/notebooks/explore_alpha.ipynb?token={server.token}")
    # Cells that are run before there is a kernel are not run.
    page.locator(".jp-StatusBar-TextItem").filter(has_text="| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


KINDS: dict[str, tuple[Callable[[Path, Path], list[str]], Callable[[Page, Server], None]]] = {
    "voila": (serve_voila, open_voila),
    "lab": (serve_lab, open_lab),
}


@pytest.fixture(scope="module", params=["voila", pytest.param("lab", marks=pytest.mark.slow)])
def served(
    request: pytest.FixtureRequest,
    browser: Browser,
    material: Material,
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Opened]:
    kind = request.param
    command, open_page = KINDS[kind]
    folder = tmp_path_factory.mktemp(kind)
    watch = Watch()
    with serving(command(run, folder), folder) as server:
        page = new_page(browser, watch)
        open_page(page, server)
        opened = Opened(kind, server, Explorer(page), watch)
        opened.explorer.settle(data_set=next(iter(material.sets)))
        choose(opened.explorer, "data-set", material.sets[RETRIEVAL].title)
        opened.explorer.settle(data_set=RETRIEVAL)
        yield opened
        page.context.close()
    assert opened.complaints() == []  # what it says when it ends, too


@pytest.fixture
def opened(served: Opened) -> Iterator[Opened]:
    """The page; what a test leaves it in is where the next one finds it."""
    yield served
    served.check()


def new_page(browser: Browser, watch: Watch) -> Page:
    page = browser.new_context(viewport=WIDE).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    watch.page(page)
    return page


# What the page says, known otherwise


def percent(results: ResultsStore, key: Cell) -> str:
    """R@5 of text-to-video or top-1 of a cell, as the page prints it."""
    metrics = results.metrics([key])
    wanted = (metrics["metric"] == MEASURE[key.data_set]) & (
        metrics["direction"] != "video_to_text"
    )
    return f"{100 * metrics.loc[wanted, 'value'].item():.1f}%"


def choose(explorer: Explorer, menu: str, value: str) -> None:
    explorer.part(menu, "select").select_option(value)


def answered(explorer: Explorer, material: Material, alpha: float, **state: Any) -> None:
    """The page settles at a state and gives the stored answer of it."""
    explorer.settle(state="stored", **state)
    name, draw = explorer.state()["data-set"], int(explorer.state()["student"])
    stored = percent(material.run.results, material.students[draw].cell(name, alpha))
    assert f": {stored} " in explorer.part("answer").inner_text()


# Tests


def test_the_page_opens_at_the_papers_alpha(opened: Opened, material: Material) -> None:
    page = opened.explorer
    opening = {"vision": 0.4, "text": 0.4, "merge": "average", "student": 1}
    answered(page, material, 0.4, **opening, data_set=RETRIEVAL)
    assert page.part("curves", "figure").count() == len(material.sets)
    assert page.part("metrics", "tbody tr").count() == len(material.sets)
    assert page.part("strip", "img").count() == 1


def test_every_control_has_a_name_and_news_are_announced(opened: Opened) -> None:
    page = opened.explorer.page
    named = page.locator(".fk-page").aria_snapshot()

    for role in ("slider", "spinbutton", "combobox", "checkbox", "textbox", "button", "tab"):
        lines = [line for line in named.splitlines() if re.match(rf"\s*- {role}\b", line)]
        assert lines, role
        assert [line for line in lines if not re.match(rf'\s*- {role} "[^"]+"', line)] == []
    assert [line for line in named.splitlines() if re.match(r"\s*- img(:|$)", line)] == []
    assert opened.explorer.part("live", "[aria-live=polite]").count() == 1


def test_the_mouse_moves_the_slider(opened: Opened, material: Material) -> None:
    page = opened.explorer

    page.drag(1.0, steps=5)
    answered(page, material, 1.0, vision=1, text=1)
    assert page.part("alpha-number", "input").input_value() == "1"

    page.drag(FRESH)
    page.settle(vision=FRESH, text=FRESH, state="exact")
    assert page.part("live").inner_text().startswith(f"α = {FRESH} · student 1: ")


def test_the_keyboard_moves_the_slider(opened: Opened) -> None:
    page, keyboard = opened.explorer, opened.explorer.page.keyboard
    page.part("alpha", ".noUi-handle").focus()

    for key, vision in (("Home", 0), ("ArrowRight", 0.01), ("ArrowUp", 0.02), ("End", 1)):
        keyboard.press(key)
        page.wait_for(vision=vision)
    keyboard.press("ArrowLeft")
    page.settle(vision=0.99, state="exact")

    page.part("alpha-number", "input").fill(str(STORED))
    keyboard.press("Enter")
    page.settle(vision=STORED, state="stored")


def test_only_the_newest_move_is_computed(opened: Opened) -> None:
    page = opened.explorer
    page.page.evaluate(RECORD)
    left, right, y = page.grab()
    for percent_now in range(41, 98, 2):
        page.page.mouse.move(left + percent_now / 100 * (right - left), y)
    page.page.mouse.up()
    page.settle(vision=0.97, state="exact")
    seen = page.page.evaluate("window.fkSeen")

    visions = [float(one["vision"]) for one in seen]
    assert visions == sorted(visions)  # no answer of an earlier move after a later one
    waits = [one for one in seen if one["vision"] == "0.97"]
    assert waits[0]["state"] == "interpolated" and waits[0]["busy"] == "1"
    if waits[-1]["time"] - waits[0]["time"] > 1000:
        assert any(one["progress"] for one in waits)
    assert not page.part("progress").is_visible()


RECORD = """() => {
  window.fkSeen = [];
  const bar = document.querySelector(".fk-progress");
  new MutationObserver(() => {
    const data = document.querySelector(".fk-state").dataset;
    const progress = getComputedStyle(bar).display !== "none";
    window.fkSeen.push({...data, progress, time: performance.now()});
  }).observe(document.querySelector(".fk-controls"),
             {childList: true, subtree: true, attributes: true});
}"""


def test_the_text_tower_can_have_its_own_share(opened: Opened) -> None:
    page = opened.explorer
    page.drag(STORED)
    assert not page.part("text").is_visible()

    page.part("separate", "input").check()
    page.drag(0.9, "text")
    page.settle(vision=STORED, text=0.9, state="exact")
    page.part("text", ".noUi-handle").focus()
    page.page.keyboard.press("Home")
    page.settle(vision=STORED, text=0)

    page.part("separate", "input").uncheck()
    page.settle(vision=STORED, text=STORED, state="stored")


def test_students_and_data_sets_are_chosen_in_menus(opened: Opened, material: Material) -> None:
    page = opened.explorer
    page.drag(STORED)

    choose(page, "student", "student 2")
    choose(page, "data-set", material.sets[ACTIONS].title)
    answered(page, material, STORED, student=2, data_set=ACTIONS)
    assert page.part("classes", "caption").count() + page.part("classes", "p").count() >= 2

    choose(page, "student", "student 1")
    choose(page, "data-set", material.sets[RETRIEVAL].title)
    page.settle(student=1, data_set=RETRIEVAL, state="stored")


def test_clips_are_switched(opened: Opened, material: Material) -> None:
    page, clips = opened.explorer, material.sets[RETRIEVAL]
    number = page.part("clip", "input")

    def shows(place: int) -> None:
        name = f"{clips.clip_ids[place - 1]}: {clips.texts[place - 1]}"
        page.part("strip", f'img[alt$="{name}"]').wait_for()
        page.settle()
        assert number.input_value() == str(place)

    page.part("next").click()
    shows(2)
    page.part("previous").click()
    shows(1)
    page.part("previous").click()
    shows(len(clips.clip_ids))
    number.fill("7")
    page.page.keyboard.press("Enter")
    shows(7)
    before = page.part("probabilities", "tbody").inner_text()
    page.drag(1.0)
    page.settle(vision=1)
    assert page.part("probabilities", "tbody").inner_text() != before


def test_a_typed_query_retrieves_clips(opened: Opened, material: Material) -> None:
    page, clips = opened.explorer, material.sets[RETRIEVAL]
    query = clips.texts[3]
    page.drag(0.0)
    page.part("query", "input").click()
    page.page.keyboard.type(f"  {query} ")
    page.part("gallery").filter(has_text=f"“{query}”").wait_for()
    page.settle(vision=0)
    assert page.part("gallery", "ol li img").count() == 8
    assert "same 8 clips" in page.part("entered").inner_text()

    page.drag(1.0)
    page.settle(vision=1)
    top = page.part("alpha").evaluate("one => one.getBoundingClientRect().top")
    assert top >= 0  # the slider stays in sight
    page.part("query", "input").fill("")
    page.part("gallery", "li").first.wait_for(state="detached")


HOSTILE = "broken <img src=nowhere>.mp4"


def test_own_videos_are_compared_and_broken_ones_listed(
    opened: Opened, run: Path, tmp_path: Path
) -> None:
    page = opened.explorer
    video = min((RunFolder(run).data / ACTIONS / "videos").glob("*.mp4"))
    broken = tmp_path / HOSTILE
    broken.write_bytes(b"this is no video")
    page.part("tabs", "[role=tab]").filter(has_text="My videos").click()

    with page.page.expect_file_chooser() as chooser:
        page.part("upload").click()
    chooser.value.set_files([video, broken])
    page.part("own-uploads").filter(has_text="2 uploaded").wait_for()
    page.part("texts", "textarea").fill("dancing\nrunning\njuggling balls\n")
    page.part("compare").click()
    page.part("own-failures").filter(has_text=HOSTILE).wait_for()
    table = page.part("own-table").filter(has_text="juggling balls")
    table.wait_for()
    assert video.stem in table.inner_text()
    page.part("tabs", "[role=tab]").filter(has_text="Explore").click()


def test_the_state_is_saved_as_a_figure_and_as_weights(opened: Opened) -> None:
    page = opened.explorer
    page.drag(FRESH)
    page.settle(vision=FRESH, state="exact")
    for button, suffixes in (
        ("save-figure", {".png", ".pdf"}),
        ("save-checkpoint", {".safetensors"}),
    ):
        page.part(button).click()
        page.part("saved").filter(has_text=max(suffixes)).wait_for()
        lines = page.part("saved").inner_text().splitlines()
        paths = [Path(line) for line in lines if line.startswith("/")]
        assert {path.suffix for path in paths if path.is_file()} == suffixes


def test_the_page_fits_a_narrow_window(opened: Opened) -> None:
    page = opened.explorer
    page.drag(STORED)
    page.settle(vision=STORED)
    page.page.set_viewport_size(NARROW)
    if opened.kind == "lab":
        page.page.keyboard.press("Control+b")  # take the files' list away

    assert page.page.evaluate(SCROLLED_SIDEWAYS) == []
    page.drag(1.0)
    page.settle(vision=1)
    page.page.set_viewport_size(WIDE)


# Wide tables may be moved to the side on their own; neither the page nor what holds it may.
SCROLLED_SIDEWAYS = """() => {
  const page = document.querySelector(".fk-page"), found = [];
  for (let one = page; one; one = one.parentElement) found.push(one);
  return [...found, ...page.querySelectorAll(":not(.fk-scroll)")]
    .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0)
    .filter(one => ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
    .map(one => `${one.className}: ${one.scrollWidth} in ${one.clientWidth}`);
}"""


def test_the_readmes_picture(opened: Opened, material: Material, tmp_path: Path) -> None:
    """`readme` has the sliders, curves and numbers, `page` all that the page has."""
    page, query = opened.explorer, material.sets[RETRIEVAL].texts[0]
    pictures = Path(os.environ.get("EXPLORER_PICTURES", tmp_path))
    page.page.set_viewport_size({"width": 1280, "height": 3000})
    page.drag(STORED)
    page.part("query", "input").fill(query)
    page.part("gallery").filter(has_text=f"“{query}”").wait_for()
    page.settle(vision=STORED)
    page.part("page").screenshot(path=pictures / f"{opened.kind}_page.png")

    top, end = (page.part(name).bounding_box() for name in ("page", "metrics"))
    assert top is not None and end is not None
    height = end["y"] + end["height"] - top["y"] + 12
    page.page.screenshot(
        path=pictures / f"{opened.kind}_readme.png",
        clip={"x": top["x"], "y": top["y"], "width": top["width"], "height": height},
    )
    with Image.open(pictures / f"{opened.kind}_readme.png") as image:
        assert image.width > 700 and image.height > 300
    page.part("query", "input").fill("")
    page.page.set_viewport_size(WIDE)
