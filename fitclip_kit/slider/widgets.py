"""The page of the alpha slider: binds the pure functions of this package to ipywidgets.

Each of a part's `controls` and `shown` carries the class `fk-` and its name; so do the whole page,
the controls and the tabs. `.fk-state` in `fk-status` says as data what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import ipywidgets as ipw
from IPython.display import HTML, display

from figures import style
from figures.explorer_state import Strip, percent_text, state_figure
from fitclip_kit.slider import own_videos, views
from fitclip_kit.slider.answers import Sweep
from fitclip_kit.slider.background import Task
from fitclip_kit.slider.controls import AUTO, WIDE, Controls, Part, View, button, in_words, row
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.slider.own_videos import OwnVideos

_NAMED: Final = 3  # classes or captions that are printed beside a clip
_STATUS: Final = {
    "stored": "stored in the sweep",
    "exact": "measured exactly",
    "interpolated": "≈ interpolated between stored α",
    "unknown": "not measured yet",
}
_HELP: Final = (
    "Name a folder of videos on the computer that runs this page, or upload files; then type one "
    f"label or caption a line. At most {own_videos.MOST_FILES} files and "
    f"{own_videos.MOST_MB:.0f} MB are taken; a browser's upload goes through the notebook server, "
    "which may allow less (JupyterLab: 10 MB), so use a folder for more."
)
_NOTHING: Final = "There are no videos yet: name a folder, or upload some."


class ExplorerPage(Part):
    """The page; show it as the last value of a notebook's cell.

    A move is answered in its handler with what is stored, was measured before, or lies between two
    stored alphas. A background thread then encodes the shown clip and the query and measures what
    is not known, the shown data set first; the next move supersedes it.

    Attributes:
        widget: the whole page.
        own: the tab of one's own videos.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._live = LiveModel(material)
        self._sweep = Sweep.read(material)
        self._panels = {
            draw: views.curve_panels(self._sweep, draw, material.titles)
            for draw in self._sweep.draws
        }
        self._details: dict[tuple[Fusion, str], tuple[str, str]] = {}
        self._asking = Controls(material, self._moved)
        self._view = self._asking.asked
        self._saves = ThreadPoolExecutor(1, thread_name_prefix="explorer-save")
        saves = {
            "save-figure": button("Save figure", "Write what is shown as PNG and PDF"),
            "save-checkpoint": button("Save fused weights", "Write the fused model's weights"),
        }
        shown = ["status", "live", "curves", "metrics", "answer", "classes", "strip"]
        shown += ["probabilities", "entered", "gallery", "saved"]
        super().__init__(self._asking.by_name | saves, shown)
        self.own = OwnVideosTab(self._live, self._view.fusion)
        self.controls["save-figure"].on_click(lambda _: self._save(self._save_figure))
        self.controls["save-checkpoint"].on_click(lambda _: self._save(self._save_checkpoint))
        self.widget = self._lay_out()
        self._update(self._view)

    def close(self) -> None:
        """End the background work and take the page away."""
        super().close()
        self.own.close()
        self._saves.shutdown()
        self.widget.close()

    def _ipython_display_(self) -> None:
        display(HTML(f"<script>{views.SCRIPT}</script>"), self.widget)

    # Moves

    def _moved(self) -> None:
        with self.lock:
            asked = self._asking.asked
            if asked == self._view:
                return
            try:
                self._update(asked)
            except Exception as error:  # Jupyter would write it where nobody looks
                self.failed(error)

    def _update(self, view: View) -> None:
        """Show what is known of a view and have the rest measured."""
        before, self._view = self._view, view
        self.show("message")
        if view.data_set != before.data_set:
            for name in ("classes", "strip", "probabilities", "gallery", "entered"):
                self.show(name)
        if not view.query:
            for name in ("gallery", "entered"):
                self.show(name)
        if view.fusion != before.fusion or not self.shown["curves"].value:
            self._show_numbers(view.fusion)
            self.own.follow(view.fusion)
        self._show_set(view)
        self._show_state(view, busy=True)
        self.work.submit(partial(self._measure, view))

    def _measure(self, view: View, task: Task) -> None:
        """What a move does in the background."""
        missing = self._sweep.missing(view.fusion, view.data_set)
        steps = [partial(self._show_clip, view)]
        if view.data_set not in missing:
            steps.insert(0, partial(self._show_details, view))
        if view.query:
            steps.append(partial(self._show_query, view))
        steps += [partial(self._measure_set, view, name) for name in missing]
        try:
            for place, step in enumerate(steps):
                step(task.part(place / len(steps), (place + 1) / len(steps)))
        finally:
            with self.lock:
                if not task.stop():
                    self._show_state(view, busy=False)

    def _measure_set(self, view: View, data_set: str, task: Task) -> None:
        outcomes = self._live.outcomes(view.fusion, self._material.sets[data_set], task)
        self._sweep.keep(view.fusion, data_set, outcomes)
        with self.lock:
            task.check()
            self._show_numbers(view.fusion)
            self._show_state(view, busy=True)
        if data_set == view.data_set:
            self._show_details(view, task)

    def _show_details(self, view: View, task: Task) -> None:
        """The measured data set's differences: too many numbers to compute in a handler."""
        shown, fusion = (view.fusion, view.data_set), view.fusion
        if shown not in self._details:
            clip_set, measure = self._set_of(view), self._sweep.measures[view.data_set]
            now, teacher, student = (
                self._sweep.outcomes(side, view.data_set) for side in (fusion, *fusion.ends)
            )
            point = self._sweep.point(fusion, view.data_set)
            numbers = views.answer(now, teacher, student, measure, point)
            changes = views.changes(clip_set, now, teacher, measure)
            self._details[shown] = (
                views.render("answer", title=clip_set.title, **numbers),
                views.render("since", title=fusion.title, changes=changes),
            )
        answer, classes = self._details[shown]
        self.deliver(task, answer=answer, classes=classes)

    def _show_clip(self, view: View, task: Task) -> None:
        clip_set = self._set_of(view)
        frames, name = views.strip(clip_set, view.clip), clip_set.called(view.clip)
        self.deliver(task, strip=views.render("clip", strip=frames, name=name))
        rows = self._scores(view, task)
        things = "captions" if clip_set.task == "retrieval" else "classes"
        caption = f"Most probable of {len(clip_set.texts):,} {things} · {view.fusion.title}"
        bars = views.render("probabilities", caption=caption, rows=rows)
        self.deliver(task, probabilities=bars)

    def _scores(self, view: View, task: Task) -> list[dict[str, Any]]:
        """`views.probabilities` of the shown clip."""
        clip_set = self._set_of(view)
        texts = self._live.text_features(view.fusion, clip_set, task.part(0, 0.9))
        video = self._live.clip_features(view.fusion, clip_set, view.clip, task.part(0.9, 1))
        right = clip_set.right_texts(view.clip)
        return views.probabilities(video, texts, self._live.logit_scale, clip_set.texts, right)

    def _show_query(self, view: View, task: Task) -> None:
        clip_set, (teacher, _) = self._set_of(view), view.fusion.ends
        rows = clip_set.first_rows
        ids = [clip_set.clip_ids[row] for row in rows]
        now, before = (
            views.retrieved(
                self._live.query_features(side, view.query, task.part(start, start)),
                self._live.video_features(side, clip_set, task.part(start, start + 0.5))[rows],
                ids,
            )
            for side, start in ((view.fusion, 0), (teacher, 0.5))
        )
        caption = f"“{view.query}” in {clip_set.title} · {view.fusion.title}"
        gallery, entered = views.gallery(clip_set, now, before, caption)
        self.deliver(task, gallery=gallery, entered=entered)

    # What is shown; with the lock held

    def _numbers(self, fusion: Fusion) -> tuple[Any, Any]:
        """Points and the table of them."""
        points = self._sweep.points(fusion)
        return points, views.numbers(points, self._sweep, fusion.draw, self._material.titles)

    def _show_numbers(self, fusion: Fusion) -> None:
        points, table = self._numbers(fusion)
        panels, shares = self._panels[fusion.draw], (fusion.vision, fusion.text)
        self.show("curves", views.curves(panels, fusion.draw, [(points, shares, {})]))
        self.show("metrics", views.texts_table(table, fusion.title))

    def _show_set(self, view: View) -> None:
        """The shown data set; what it gained and lost stays as it was until it is known."""
        if details := self._details.get((view.fusion, view.data_set)):
            for name, content in zip(("answer", "classes"), details, strict=True):
                self.show(name, content)
        else:
            point = self._sweep.point(view.fusion, view.data_set)
            title = self._set_of(view).title
            self.show("answer", views.render("glance", title=title, point=point))

    def _show_state(self, view: View, busy: bool) -> None:
        fusion, total = view.fusion, len(self._material.sets)
        point = self._sweep.point(fusion, view.data_set)
        state = "unknown" if point is None else point.status
        missing = len(self._sweep.missing(fusion, view.data_set))
        data = {
            "data-vision": f"{fusion.vision:.9g}",
            "data-text": f"{fusion.text:.9g}",
            "data-merge": fusion.merge,
            "data-student": fusion.draw,
            "data-data-set": view.data_set,
            "data-state": state,
            "data-busy": int(busy),
        }
        others = f"{total - missing} of {total} data sets measured" if missing else "all measured"
        title = self._set_of(view).title
        words = f"{fusion.title}: {title} is {_STATUS[state]}; {others}"
        words += "; measuring…" if busy and missing else "; encoding…" if busy else ""
        self.show("status", views.render("status", data=data, words=words))
        if point is not None and (point.status != "interpolated" or not busy):
            measure = self._sweep.measures[view.data_set].name
            said = f"{title}, {measure}: {percent_text(point.value)} percent, {_STATUS[state]}"
            self.show("live", views.render("words_only", text=f"{fusion.title}: {said}"))

    def _set_of(self, view: View) -> ClipSet:
        return self._material.sets[view.data_set]

    # What is kept

    def _save(self, save: Callable[[View], list[Path]]) -> None:
        """Save in the background; unlike a move, a save is never superseded."""
        self.show("saved", views.render("words_only", text="Saving…"))
        self._saves.submit(save, self._view).add_done_callback(self._saved)

    def _saved(self, done: Future[list[Path]]) -> None:
        with self.lock:
            if (error := done.exception()) is None:
                paths = [str(path.resolve()) for path in done.result()]
                self.show("saved", views.render("saved", paths=paths))
            else:
                text = f"Nothing was saved. {in_words(error)}"
                self.show("saved", views.render("notice", text=text))

    def _save_figure(self, view: View) -> list[Path]:
        """The state as PNG and PDF: every curve with its mark, the numbers, and the shown clip with
        what it is most probably; what is not measured yet as an estimate, or left out."""
        fusion, clip_set, material = view.fusion, self._set_of(view), self._material
        named = [
            f"{percent_text(row['probability'])}% {row['name']}{' (right)' * row['right']}"
            for row in self._scores(view, Task())[:_NAMED]
        ]
        about = "\n".join([clip_set.called(view.clip), *named])
        title = f"{clip_set.title}, clip {view.clip + 1}"
        points, table = self._numbers(fusion)
        figure = state_figure(
            fusion.title,
            self._panels[fusion.draw],
            points,
            (fusion.vision, fusion.text),
            table,
            [Strip(clip_set.frames_of(view.clip), title, about)],
        )
        name = f"{_plain(fusion.title)}_{_plain(clip_set.name)}_clip_{view.clip + 1}"
        provenance = {
            "results": material.run.results.digest(material.cells),
            "teacher": material.teacher_sha256,
            "student": material.students[fusion.draw].sha256,
        }
        return style.save(figure, material.folder / name, provenance)

    def _save_checkpoint(self, view: View) -> list[Path]:
        path = self._material.folder / f"{_plain(view.fusion.title)}.safetensors"
        return [self._live.save_checkpoint(view.fusion, path)]

    def _lay_out(self) -> ipw.VBox:
        control, shown = self.controls, self.shown
        explore = [
            shown["curves"],
            ipw.HTML("<h2>All data sets</h2>"),
            shown["metrics"],
            ipw.HTML("<h2>The chosen data set</h2>"),
            shown["answer"],
            shown["classes"],
            ipw.HTML("<h2>One clip</h2>"),
            row(control["clip"], control["previous"], control["next"]),
            shown["strip"],
            shown["probabilities"],
            ipw.HTML("<h2>A query</h2>"),
            row(control["query"]),
            shown["entered"],
            shown["gallery"],
            ipw.HTML("<h2>Keep this</h2>"),
            row(control["save-figure"], control["save-checkpoint"]),
            shown["saved"],
        ]
        tabs = ipw.Tab([ipw.VBox(explore), self.own.widget], titles=["Explore", "My videos"])
        head = ipw.VBox([self._asking.head, shown["status"], shown["progress"]])
        parts = [
            ipw.HTML(f"<style>{views.STYLE}</style>"),
            head.add_class("fk-controls"),
            shown["live"],
            shown["message"],
            tabs.add_class("fk-tabs"),
        ]
        return ipw.VBox(parts).add_class("fk-page")


class OwnVideosTab(Part):
    """Takes a folder or uploads and texts, and shows how probable each model finds them.

    After a comparison, each move of the page's sliders is followed; only the newest one.

    Attributes:
        widget: the whole tab.
    """

    def __init__(self, live: LiveModel, fusion: Fusion) -> None:
        self._live, self._fusion = live, fusion
        self._own: OwnVideos | None = None
        self._uploads_last = False
        controls = {
            "folder": ipw.Text(
                description="Folder",
                placeholder="/path/to/videos",
                tooltip="A folder of videos on the computer that runs this page",
                continuous_update=False,
                layout=WIDE,
            ),
            "upload": ipw.FileUpload(
                description="Upload videos",
                multiple=True,
                accept="video/*,image/*",
                icon="",
                tooltip="Choose files of this computer",
                layout=AUTO,
            ),
            "kind": ipw.Dropdown(
                description="They are",
                options={"labels of actions": "labels", "captions": "captions"},
                tooltip="Labels are put into the run's prompts; captions are taken as they are",
                layout=AUTO,
            ),
            "texts": ipw.Textarea(
                description="Texts",
                placeholder="one label or caption a line",
                tooltip="What the clips are scored against, one a line",
                rows=5,
                layout=WIDE,
            ),
            "compare": button("Compare", "Decode the videos and score them against the texts"),
        }
        super().__init__(controls, ("own-uploads", "own-table", "own-failures"), "own-")
        self.controls["folder"].observe(lambda _: self._choose(uploads=False), "value")
        self.controls["upload"].observe(lambda _: self._choose(uploads=True), "value")
        self.controls["compare"].on_click(lambda _: self._compare())
        control, shown = self.controls, self.shown
        self.widget = ipw.VBox(
            [
                ipw.HTML(f"<p>{_HELP}</p>"),
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

    def follow(self, fusion: Fusion) -> None:
        """Compare at this fusion from now on."""
        with self.lock:
            self._fusion = fusion
            # A load goes on, and compares at the newest fusion when it has ended.
            if self._own is not None:
                self.work.submit(self._score)

    def _choose(self, uploads: bool) -> None:
        """Take what was chosen last, a folder or uploads."""
        with self.lock:
            self._uploads_last = uploads
            files = [
                f"{file['name']} ({file['size'] / 1e6:.1f} MB)"
                for file in self.controls["upload"].value
            ]
            said = views.render("words_only", text=f"{len(files)} uploaded: {', '.join(files)}")
            self.show("own-uploads", said if uploads else "")

    def _compare(self) -> None:
        with self.lock:
            texts, folder = self.controls["texts"].value, self.controls["folder"].value.strip()
            files = self.controls["upload"].value if self._uploads_last else ()
            if not files and not folder:
                self.failed(ValueError(_NOTHING))
                return
            templates: tuple[str, ...] = ("{}",)
            if self.controls["kind"].value == "labels":
                # The prompts of the run's first action data set; without one, the label alone.
                every = (one.trial.templates for one in self._live.material.sets.values())
                templates = next(map(tuple, filter(None, every)), ("{}",))
            self._own = None
            self.show("own-message", views.render("words_only", text="Decoding…"))
            self.show("own-table")
            self.show("own-failures")
            uploads = [(file["name"], bytes(file["content"])) for file in files]
            self.work.submit(partial(self._load, uploads, folder, texts, templates))

    def _load(
        self,
        uploads: list[tuple[str, bytes]],
        folder: str,
        texts: str,
        templates: tuple[str, ...],
        task: Task,
    ) -> None:
        material = self._live.material
        work_dir = material.folder / "own_videos"
        if uploads:
            own = own_videos.from_uploads(uploads, material, work_dir)
        else:
            own = own_videos.from_folder(folder, material, work_dir)
        own = own.with_texts(texts, templates)
        with self.lock:
            task.check()
            self._own = own
        self.deliver(task, own_message="", own_failures=views.own_failures(own.failures))
        self._score(task)

    def _score(self, task: Task) -> None:
        with self.lock:
            own, fusion = self._own, self._fusion
        if own is None or own.clip_set is None:
            return
        scores = own_videos.compare(self._live, own, fusion, task)
        self.deliver(task, own_table=views.own_clips(own.clip_set, scores, fusion.title))


def _plain(text: str) -> str:
    """A title as a part of a file's name, such as alpha_0.4_student_1."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text.replace("α", "alpha")).strip("_.")
