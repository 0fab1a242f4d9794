"""The page of the alpha slider: binds the pure functions of this package to ipywidgets.

Every part of the page carries a class to find it by:

    fk-page         everything; fk-controls the part with the sliders and menus
    fk-alpha        slider of alpha (of the vision tower, when the towers are separate); its handle
                    is `.fk-alpha .noUi-handle`, fk-alpha-number is the same number as an input
    fk-separate     checkbox: a share of its own for the text tower
    fk-text         slider of the text tower, fk-text-number its input
    fk-merge        menu: average, linear in depth, fisher
    fk-student      menu of the students (draws)
    fk-data-set     menu of the data sets
    fk-status       what is shown; holds one element `.fk-state` with data-vision, data-text,
                    data-merge, data-student, data-data-set, data-state (of the data set: stored,
                    exact, interpolated or unknown), data-busy (1 while the background measures
                    or encodes, else 0)
    fk-progress     bar, displayed only while something takes longer than 0.3 s
    fk-live         the new numbers in words, for screen readers (aria-live)
    fk-message      errors, empty when there is none
    fk-curves       the curves with markers, fk-metrics the table of all data sets
    fk-answer       the shown data set's answer, fk-classes its winners and losers
    fk-previous, fk-clip, fk-next    clip picker: button, number input from 1, button
    fk-strip        frames of the clip, fk-probabilities its classes' or captions' probabilities
    fk-query        text input, answered while it is typed; fk-gallery the clips it retrieves,
                    fk-entered those that entered or left the top since alpha 0
    fk-tabs         tabs: Explore, My videos
    fk-folder, fk-upload, fk-kind, fk-texts, fk-compare    My videos: folder input, upload button,
                    menu labels or captions, text area with one a line, button
    fk-own-uploads, fk-own-table, fk-own-failures    files taken, the comparison, what was refused;
                    fk-own-message errors, fk-own-progress as fk-progress
    fk-save-figure, fk-save-checkpoint, fk-saved    buttons, and where the files were written
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final

import ipywidgets as ipw
from IPython.display import HTML, display

from figures.explorer_state import percent_text
from fitclip_kit.slider import document, html, panes, saving, views
from fitclip_kit.slider.answers import Answers
from fitclip_kit.slider.controls import Controls, View
from fitclip_kit.slider.curves import CurvePicture
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel, Superseded
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.own_videos_tab import OwnVideosTab
from fitclip_kit.slider.parts import (
    button,
    heading,
    in_words,
    log_unless_told,
    named,
    progress_bar,
    row,
    show,
)
from fitclip_kit.slider.parts import display as show_or_hide
from fitclip_kit.slider.stored import StoredSweep
from fitclip_kit.slider.work import Newest, Progress, Stop, part

_SHOWN: Final = (
    *("status", "live", "message", "curves", "metrics", "answer", "classes"),
    *("strip", "probabilities", "entered", "gallery", "saved"),
)
_STATUS: Final = {
    "stored": "stored in the sweep",
    "exact": "measured exactly",
    "interpolated": "≈ interpolated between stored α",
    "unknown": "not measured yet",
}


class ExplorerPage:
    """The page; show it as the last value of a notebook's cell.

    A move is answered in its handler with what is stored, was measured before, or lies between two
    stored alphas. A background thread then encodes the shown clip and the query and measures what
    is not known, the shown data set first; the next move supersedes it.

    Widgets change while the page's lock is held: by handlers, which JupyterLab runs in a thread of
    their own, and by the background thread once it has seen that no newer move came.

    Args:
        material: a finished run.

    Attributes:
        widget: the whole page.
        controls: what can be moved, by its class without `fk-`.
        shown: what is shown, likewise.
        own: the tab of one's own videos.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._live = LiveModel(material)
        self._answers = Answers(StoredSweep.read(material), self._live)
        self._titles = {name: one.title for name, one in material.sets.items()}
        self._pictures: dict[int, CurvePicture] = {}
        self._details: dict[tuple[Fusion, str], tuple[str, str]] = {}
        self._lock = threading.RLock()
        self._controls = Controls(material, self._moved)
        self._view = self._controls.asked
        self._strip_of: tuple[str, int] | None = None
        self._work = Newest(self._progress, self._idle, self._failed)
        self._saves = ThreadPoolExecutor(1, thread_name_prefix="explorer-save")
        folder = saving.folder_of(material) / "own_videos"
        self.own = OwnVideosTab(self._live, folder, self._view.fusion)
        self.controls: dict[str, Any] = self._controls.by_name | {
            "save-figure": button("Save figure", "Write what is shown as PNG and PDF"),
            "save-checkpoint": button("Save fused weights", "Write the fused model's weights"),
        }
        self.shown: dict[str, Any] = {name: ipw.HTML() for name in _SHOWN}
        self.shown["progress"] = progress_bar()
        named(self.controls | self.shown)
        self.controls["save-figure"].on_click(lambda _: self._save_figure())
        self.controls["save-checkpoint"].on_click(lambda _: self._save_checkpoint())
        self.widget = self._lay_out()
        self._update(self._view)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the newest move is measured; false when `timeout` seconds were not enough."""
        return self._work.wait(timeout)

    def close(self) -> None:
        """End the background work and take the page away."""
        self._work.close()
        self.own.close()
        self._saves.shutdown()
        self.widget.close()

    def _ipython_display_(self) -> None:
        display(HTML(f"<script>{document.SCRIPT}</script>"), self.widget)

    # Moves

    def _moved(self) -> None:
        with self._lock:
            asked = self._controls.asked
            if asked == self._view:
                return
            try:
                self._update(asked)
            except Exception as error:  # Jupyter would write it where nobody looks
                self._failed(error)

    def _update(self, view: View) -> None:
        """Show what is known of a view and have the rest measured."""
        before, self._view = self._view, view
        show(self.shown["message"], "")
        if view.data_set != before.data_set:
            for name in ("classes", "strip", "probabilities", "gallery", "entered"):
                show(self.shown[name], "")
            self._strip_of = None
        if not view.query:
            for name in ("gallery", "entered"):
                show(self.shown[name], "")
        if view.fusion != before.fusion or not self.shown["curves"].value:
            self._show_numbers(view)
            self.own.follow(view.fusion)
        self._show_set(view)
        self._show_state(view, busy=True)
        self._work.submit(partial(self._measure, view))

    def _measure(self, view: View, stop: Stop, progress: Progress) -> None:
        """What a move does in the background."""
        missing = self._answers.missing(view.fusion, view.data_set)
        steps = [partial(self._show_clip, view)]
        if view.data_set not in missing:
            steps.insert(0, partial(self._show_details, view))
        if view.query:
            steps.append(partial(self._show_query, view))
        steps += [partial(self._measure_set, view, name) for name in missing]
        try:
            for place, step in enumerate(steps):
                step(stop, part(progress, place, len(steps)))
        finally:
            with suppress(Superseded):
                self._deliver(stop, partial(self._show_state, view, busy=False))

    def _measure_set(self, view: View, data_set: str, stop: Stop, progress: Progress) -> None:
        self._answers.measure(view.fusion, data_set, stop, progress)

        def show_it() -> None:
            self._show_numbers(view)
            self._show_state(view, busy=True)

        self._deliver(stop, show_it)
        if data_set == view.data_set:
            self._show_details(view, stop, progress)

    def _show_details(self, view: View, stop: Stop, progress: Progress) -> None:
        """The measured data set's differences: too many numbers to compute in a handler."""
        shown = (view.fusion, view.data_set)
        if shown not in self._details:
            clip_set = self._set_of(view)
            self._details[shown] = (
                panes.set_answer(self._answers, view.fusion, clip_set),
                panes.set_changes(self._answers, view.fusion, clip_set),
            )
        self._deliver(stop, partial(self._show_set, view))

    def _show_clip(self, view: View, stop: Stop, progress: Progress) -> None:
        clip_set, row = self._set_of(view), view.clip
        if self._strip_of != (view.data_set, row):
            strip, name = panes.clip_strip(clip_set, row), escape(panes.clip_name(clip_set, row))

            def show_strip() -> None:
                show(self.shown["strip"], f"{strip}<p>{name}</p>")
                self._strip_of = (view.data_set, row)

            self._deliver(stop, show_strip)
        asked = (self._live, view.fusion, clip_set, row)
        bars = panes.clip_probabilities(*asked, stop, progress)
        self._deliver(stop, partial(show, self.shown["probabilities"], bars))

    def _show_query(self, view: View, stop: Stop, progress: Progress) -> None:
        asked = (self._live, view.fusion, self._set_of(view), view.query)
        gallery, entered = panes.query_gallery(*asked, stop, progress)

        def show_it() -> None:
            show(self.shown["gallery"], gallery)
            show(self.shown["entered"], entered)

        self._deliver(stop, show_it)

    def _deliver(self, stop: Stop, show_it: Callable[[], None]) -> None:
        """Show a result of the background, unless a newer move came."""
        with self._lock:
            if stop():
                raise Superseded
            show_it()

    # What is shown; with the lock held

    def _show_numbers(self, view: View) -> None:
        fusion, sweep = view.fusion, self._answers.sweep
        if fusion.draw not in self._pictures:
            self._pictures[fusion.draw] = CurvePicture(sweep, fusion.draw, self._titles)
        picture, points = self._pictures[fusion.draw], self._answers.points(fusion)
        curves = picture.with_markers(points, fusion.vision, fusion.text)
        show(self.shown["curves"], curves + picture.legend())
        table = views.metrics_table(points, sweep, fusion.draw)
        show(self.shown["metrics"], html.metrics(table, fusion.title, self._titles))

    def _show_set(self, view: View) -> None:
        """The shown data set; what it gained and lost stays as it was until it is known."""
        if details := self._details.get((view.fusion, view.data_set)):
            for name, content in zip(("answer", "classes"), details, strict=True):
                show(self.shown[name], content)
        else:
            point = self._answers.point(view.fusion, view.data_set)
            show(self.shown["answer"], panes.at_a_glance(point, self._set_of(view).title))

    def _show_state(self, view: View, busy: bool) -> None:
        fusion, total = view.fusion, len(self._material.sets)
        point = self._answers.point(fusion, view.data_set)
        state = "unknown" if point is None else point.status
        missing = len(self._answers.missing(fusion, view.data_set))
        data = {
            "vision": f"{fusion.vision:.9g}",
            "text": f"{fusion.text:.9g}",
            "merge": fusion.merge,
            "student": fusion.draw,
            "data-set": view.data_set,
            "state": state,
            "busy": int(busy),
        }
        attributes = "".join(f' data-{key}="{escape(str(value))}"' for key, value in data.items())
        others = f"{total - missing} of {total} data sets measured" if missing else "all measured"
        title = self._set_of(view).title
        words = f"{fusion.title}: {title} is {_STATUS[state]}; {others}"
        doing = "; measuring…" if busy and missing else "; encoding…" if busy else ""
        show(
            self.shown["status"],
            f'<div class="fk-state"{attributes}>{escape(words + doing)}</div>',
        )
        if point is not None and (point.status != "interpolated" or not busy):
            measure = self._answers.sweep.measures[view.data_set].name
            said = f"{title}, {measure}: {percent_text(point.value)} percent, {_STATUS[state]}"
            show(self.shown["live"], escape(f"{fusion.title}: {said}"))

    def _set_of(self, view: View) -> ClipSet:
        return self._material.sets[view.data_set]

    def _progress(self, share: float) -> None:
        with self._lock:
            self.shown["progress"].value = share
            show_or_hide(self.shown["progress"], True)

    def _idle(self) -> None:
        with self._lock:
            show_or_hide(self.shown["progress"], False)

    def _failed(self, error: Exception) -> None:
        log_unless_told(error)
        with self._lock:
            show(self.shown["message"], html.notice(in_words(error)))

    # What is kept

    def _save_figure(self) -> None:
        view = self._view
        asked = (self._live, self._answers, view.fusion, self._set_of(view), view.clip)
        self._save(partial(saving.save_figure, *asked))

    def _save_checkpoint(self) -> None:
        self._save(partial(saving.save_checkpoint, self._live, self._view.fusion))

    def _save(self, save: Callable[[], list[Path]]) -> None:
        """Save in the background; unlike a move, a save is never superseded."""
        show(self.shown["saved"], "<p>Saving…</p>")
        self._saves.submit(save).add_done_callback(self._saved)

    def _saved(self, done: Future[list[Path]]) -> None:
        error = done.exception()
        with self._lock:
            if error is None:
                paths = "<br>".join(escape(str(path.resolve())) for path in done.result())
                show(self.shown["saved"], f"<p>Saved:<br>{paths}</p>")
            else:
                log_unless_told(error)
                show(self.shown["saved"], html.notice(f"Nothing was saved. {in_words(error)}"))

    def _lay_out(self) -> ipw.VBox:
        control, shown = self.controls, self.shown
        explore = [
            shown["curves"],
            heading("All data sets"),
            shown["metrics"],
            heading("The chosen data set"),
            shown["answer"],
            shown["classes"],
            heading("One clip"),
            row(control["clip"], control["previous"], control["next"]),
            shown["strip"],
            shown["probabilities"],
            heading("A query"),
            row(control["query"]),
            shown["entered"],
            shown["gallery"],
            heading("Keep this"),
            row(control["save-figure"], control["save-checkpoint"]),
            shown["saved"],
        ]
        tabs = ipw.Tab([ipw.VBox(explore), self.own.widget], titles=["Explore", "My videos"])
        head = ipw.VBox([self._controls.head, shown["status"], shown["progress"]])
        parts = [
            ipw.HTML(f"<style>{html.STYLE}{document.LAYOUT}</style>"),
            head.add_class("fk-controls"),
            shown["live"],
            shown["message"],
            tabs.add_class("fk-tabs"),
        ]
        return ipw.VBox(parts).add_class("fk-page")
