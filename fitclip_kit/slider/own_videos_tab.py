"""My videos: the tab that compares teacher, student and fused model on clips of one's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final

import ipywidgets as ipw

from fitclip_kit.slider import html, own_videos, panes
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel, Superseded
from fitclip_kit.slider.own_videos import OwnVideos
from fitclip_kit.slider.parts import (
    button,
    display,
    in_words,
    log_unless_told,
    named,
    progress_bar,
    row,
    show,
)
from fitclip_kit.slider.work import Newest, Progress, Stop

LABELS, CAPTIONS = "labels", "captions"
_HELP: Final = (
    "Name a folder of videos on the computer that runs this page, or upload files; then type one "
    f"label or caption a line. At most {own_videos.MOST_FILES} files and "
    f"{own_videos.MOST_MB:.0f} MB are taken; a browser's upload goes through the notebook server, "
    "which may allow less (JupyterLab: 10 MB), so use a folder for more."
)
_NOTHING: Final = "There are no videos yet: name a folder, or upload some."


class OwnVideosTab:
    """Takes a folder or uploads and texts, and shows how probable each model finds them.

    Decoding and encoding happen in a background thread of its own. After a comparison, each move
    of the page's sliders is followed; only the newest one.

    Args:
        live: the model.
        work_dir: where decoded frames and uploads are kept.
        fusion: what is fused now.

    Attributes:
        widget: the whole tab.
        controls, shown: its parts, by their class without `fk-`.
    """

    def __init__(self, live: LiveModel, work_dir: Path, fusion: Fusion) -> None:
        self._live, self._work_dir, self._fusion = live, work_dir, fusion
        self._templates = _label_templates(live)
        self._lock = threading.RLock()
        self._own: OwnVideos | None = None
        self._loading = False
        self._uploads_last = False
        self._work = Newest(self._progress, self._idle, self._failed)
        self.controls: dict[str, Any] = {
            "folder": ipw.Text(
                description="Folder",
                placeholder="/path/to/videos",
                tooltip="A folder of videos on the computer that runs this page",
                continuous_update=False,
                layout=ipw.Layout(flex="1 1 300px", width="auto", max_width="720px"),
            ),
            "upload": ipw.FileUpload(
                description="Upload videos",
                multiple=True,
                accept="video/*,image/*",
                icon="",
                tooltip="Choose files of this computer",
                layout=ipw.Layout(width="auto"),
            ),
            "kind": ipw.Dropdown(
                description="They are",
                options={"labels of actions": LABELS, "captions": CAPTIONS},
                tooltip="Labels are put into the run's prompts; captions are taken as they are",
                layout=ipw.Layout(width="auto"),
            ),
            "texts": ipw.Textarea(
                description="Texts",
                placeholder="one label or caption a line",
                tooltip="What the clips are scored against, one a line",
                rows=5,
                layout=ipw.Layout(flex="1 1 300px", width="auto", max_width="720px"),
            ),
            "compare": button("Compare", "Decode the videos and score them against the texts"),
        }
        names = ("own-uploads", "own-message", "own-table", "own-failures")
        self.shown: dict[str, Any] = {name: ipw.HTML() for name in names}
        self.shown["own-progress"] = progress_bar()
        named(self.controls | self.shown)
        self.controls["folder"].observe(lambda _: self._choose(uploads=False), "value")
        self.controls["upload"].observe(lambda _: self._choose(uploads=True), "value")
        self.controls["compare"].on_click(lambda _: self._compare())
        self.widget = self._lay_out()

    def follow(self, fusion: Fusion) -> None:
        """Compare at this fusion from now on."""
        with self._lock:
            self._fusion = fusion
            # A load goes on, and compares at the newest fusion when it has ended.
            if self._own is not None and not self._loading:
                self._work.submit(self._score)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; false when `timeout` seconds were not enough."""
        return self._work.wait(timeout)

    def close(self) -> None:
        """End the background work."""
        self._work.close()

    def _choose(self, uploads: bool) -> None:
        """Take what was chosen last, a folder or uploads."""
        with self._lock:
            self._uploads_last = uploads
            files = [f"{one['name']} ({one['size'] / 1e6:.1f} MB)" for one in self._files()]
            said = f"{len(files)} uploaded: {', '.join(files)}" if uploads else ""
            show(self.shown["own-uploads"], f"<p>{escape(said)}</p>" if said else "")

    def _files(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.controls["upload"].value)

    def _compare(self) -> None:
        with self._lock:
            texts, folder = self.controls["texts"].value, self.controls["folder"].value.strip()
            templates = self._templates if self.controls["kind"].value == LABELS else ("{}",)
            asked: tuple[Any, ...] = (texts, self._live.material, self._work_dir)
            if self._uploads_last and self._files():
                load = partial(own_videos.from_uploads, _distinct(self._files()), *asked)
            elif folder:
                load = partial(own_videos.from_folder, folder, *asked)
            else:
                show(self.shown["own-message"], html.notice(_NOTHING))
                return
            self._own, self._loading = None, True
            show(self.shown["own-message"], "<p>Decoding…</p>")
            for name in ("own-table", "own-failures"):
                show(self.shown[name], "")
            self._work.submit(partial(self._load, partial(load, templates=templates)))

    def _load(self, load: Callable[[], OwnVideos], stop: Stop, progress: Progress) -> None:
        try:
            own = load()
        except Exception:
            with suppress(Superseded):
                self._deliver(stop, self._nothing_loaded)
            raise

        def loaded() -> None:
            self._own, self._loading = own, False
            show(self.shown["own-message"], "")
            show(self.shown["own-failures"], panes.own_failures(own))

        self._deliver(stop, loaded)
        self._score(stop, progress)

    def _nothing_loaded(self) -> None:
        self._loading = False

    def _score(self, stop: Stop, progress: Progress) -> None:
        with self._lock:
            own, fusion = self._own, self._fusion
        if own is None or own.clip_set is None:
            return
        found = own_videos.compare(self._live, own, fusion, stop=stop, progress=progress)
        table = panes.own_table(own.clip_set, found, fusion)
        self._deliver(stop, partial(show, self.shown["own-table"], table))

    def _deliver(self, stop: Stop, show_it: Callable[[], None]) -> None:
        with self._lock:
            if stop():
                raise Superseded
            show_it()

    def _progress(self, share: float) -> None:
        with self._lock:
            self.shown["own-progress"].value = share
            display(self.shown["own-progress"], True)

    def _idle(self) -> None:
        with self._lock:
            display(self.shown["own-progress"], False)

    def _failed(self, error: Exception) -> None:
        log_unless_told(error)
        with self._lock:
            show(self.shown["own-message"], html.notice(in_words(error)))

    def _lay_out(self) -> ipw.VBox:
        control, shown = self.controls, self.shown
        return ipw.VBox(
            [
                ipw.HTML(f"<p>{escape(_HELP)}</p>"),
                row(control["folder"], control["upload"]),
                shown["own-uploads"],
                row(control["texts"]),
                row(control["kind"], control["compare"]),
                shown["own-progress"],
                shown["own-message"],
                shown["own-failures"],
                shown["own-table"],
            ]
        )


def _label_templates(live: LiveModel) -> tuple[str, ...]:
    """The prompts of the run's first action data set; without one, the label alone."""
    for clip_set in live.material.sets.values():
        if clip_set.trial.templates:
            return tuple(clip_set.trial.templates)
    return ("{}",)


def _distinct(files: tuple[dict[str, Any], ...]) -> dict[str, bytes]:
    """Uploaded files by name; of two with one name the later gets a number."""
    found: dict[str, bytes] = {}
    for file in files:
        name, number = file["name"], 2
        while name in found:
            name, number = f"{number}_{file['name']}", number + 1
        found[name] = bytes(file["content"])
    return found
