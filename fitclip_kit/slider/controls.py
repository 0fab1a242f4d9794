"""The controls of the page, what they ask for, and what shows a background thread's answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ipywidgets as ipw

from fitclip_kit.slider import views
from fitclip_kit.slider.background import Newest, Task
from fitclip_kit.slider.material import Material
from fitclip_kit.slider.merges import MERGES, Fusion

START: Final = 0.4  # the paper's alpha
WIDE: Final = {"flex": "1 1 300px", "width": "auto", "max_width": "720px"}
AUTO: Final = {"width": "auto"}


@dataclass(frozen=True)
class View:
    """What is to be shown: a fusion, a data set, a row of its clips and a query."""

    fusion: Fusion
    data_set: str
    clip: int
    query: str


class Controls:
    """Sliders, menus, the clip picker and the query; `moved` is called after each change.

    Attributes:
        by_name: control by its class without `fk-`.
        head: the rows of the fusion and the data set.
        text_row: the text tower's slider, displayed while the towers are separate.
    """

    def __init__(self, material: Material, moved: Callable[[], None]) -> None:
        self._clips = {name: len(clips.clip_ids) for name, clips in material.sets.items()}
        self._moved, self._quiet = moved, False
        self.by_name = _controls(material)
        control = self.by_name
        self.text_row = row(control["text"], control["text-number"])
        display(self.text_row, False)
        menus = (control[name] for name in ("student", "data-set", "merge", "separate"))
        self.head = ipw.VBox(
            [row(control["alpha"], control["alpha-number"]), self.text_row, row(*menus)]
        )
        self._fit_clip()
        for name in ("alpha", "text"):
            ipw.link((control[name], "value"), (control[f"{name}-number"], "value"))
        control["separate"].observe(lambda _: self._split(), "value")
        control["data-set"].observe(lambda _: self._fit_clip(), "value")
        for name in ("alpha", "text", "separate", "merge", "student", "data-set", "clip", "query"):
            control[name].observe(lambda _: self._change(), "value")
        control["previous"].on_click(lambda _: self._step(-1))
        control["next"].on_click(lambda _: self._step(+1))

    @property
    def asked(self) -> View:
        """What the controls ask for now; spaces around and between a query's words do not count."""
        value: dict[str, Any] = {
            name: getattr(control, "value", None) for name, control in self.by_name.items()
        }
        text = value["text"] if value["separate"] else value["alpha"]
        fusion = Fusion(value["student"], value["alpha"], text, value["merge"])
        return View(fusion, value["data-set"], value["clip"] - 1, " ".join(value["query"].split()))

    def _change(self) -> None:
        if not self._quiet:
            self._moved()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Let controls follow another one without that being a move of its own."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _split(self) -> None:
        """Begin a share of its own where the common one is."""
        with self._quietly():
            self.by_name["text"].value = self.by_name["alpha"].value
        display(self.text_row, self.by_name["separate"].value)

    def _fit_clip(self) -> None:
        """Begin at a data set's first clip."""
        clip = self.by_name["clip"]
        with self._quietly():
            clip.value = 1
            clip.max = self._clips[self.by_name["data-set"].value]

    def _step(self, step: int) -> None:
        clip = self.by_name["clip"]
        clip.value = (clip.value - 1 + step) % clip.max + 1


def _controls(material: Material) -> dict[str, Any]:
    share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01, "value": START}
    wide = {"flex": "1 1 300px", "width": "auto", "min_width": "240px"}
    slider = partial(ipw.FloatSlider, readout=False, layout=wide, **share)
    number = partial(ipw.BoundedFloatText, layout={"width": "200px"}, **share)
    menu = partial(ipw.Dropdown, layout=AUTO)
    return {
        "alpha": slider(
            description="α", tooltip="The student's share: 0 is the teacher, 1 the student"
        ),
        "alpha-number": number(description="α in numbers"),
        "separate": ipw.Checkbox(
            description="separate text tower",
            tooltip="Give the text tower a share of its own; α is then the vision tower's",
            indent=False,
            layout=AUTO,
        ),
        "text": slider(description="text", tooltip="The student's share of the text tower"),
        "text-number": number(description="text in numbers"),
        "student": menu(
            description="Student",
            options={f"student {draw}": draw for draw in material.students},
            tooltip="Which of the trained students is fused with the teacher",
        ),
        "data-set": menu(
            description="Data set",
            options={title: name for name, title in material.titles.items()},
            tooltip="The data set to look into",
        ),
        "merge": menu(
            description="Merge",
            options=MERGES,
            tooltip="How the weights are merged: average; with a share that grows with depth; "
            "or weighed by Fisher information",
        ),
        "clip": ipw.BoundedIntText(
            description="Clip", min=1, max=1, value=1, tooltip="The clip's number in the set"
        ),
        "previous": button("Previous clip", "Show the clip before this one"),
        "next": button("Next clip", "Show the clip after this one"),
        "query": ipw.Text(
            description="Query",
            placeholder="what a clip should show",
            tooltip="Text to retrieve clips of the data set with, answered while you type",
            layout=WIDE,
        ),
    }


class Part:
    """A part of the page that shows what a background thread of its own finds.

    Widgets change while the lock is held: by handlers, which JupyterLab runs in a thread of their
    own, and by the background thread once it has seen that no newer move came.

    Attributes:
        controls, shown: widgets by their class without `fk-`; every part shows, under its prefix, a
            `message` and a `progress`.
    """

    def __init__(self, controls: Mapping[str, Any], shown: Sequence[str], prefix: str = "") -> None:
        self.controls: dict[str, Any] = dict(controls)
        self.shown: dict[str, Any] = {name: ipw.HTML() for name in (*shown, f"{prefix}message")}
        layout = {"width": "auto", "height": "6px", "display": "none"}
        self.shown[f"{prefix}progress"] = ipw.FloatProgress(min=0.0, max=1.0, layout=layout)
        for name, widget in (self.controls | self.shown).items():
            widget.add_class(f"fk-{name}")
            style = getattr(widget, "style", None)
            if style is not None and style.has_trait("description_width"):
                style.description_width = "initial"
        self.lock = threading.RLock()
        self._prefix, self._bar = prefix, self.shown[f"{prefix}progress"]
        self.work = Newest(self._progress, lambda: self._progress(None), self.failed)

    def show(self, name: str, content: str = "") -> None:
        """Put HTML of `views` into the page; nothing is sent when it is the same."""
        self.shown[name].value = f'<div class="fk">{content}</div>' if content else ""

    def deliver(self, task: Task, **contents: str) -> None:
        """Show results of the background, by their names with _ for -.

        Raises: Superseded when a newer move came.
        """
        with self.lock:
            task.check()
            for name, content in contents.items():
                self.show(name.replace("_", "-"), content)

    def failed(self, error: Exception) -> None:
        """Tell a user of an error."""
        with self.lock:
            self.show(f"{self._prefix}message", views.render("notice", text=in_words(error)))

    def close(self) -> None:
        """End the background work."""
        self.work.close()

    def _progress(self, share: float | None) -> None:
        """Show the share that is done; None: nothing is left to do."""
        with self.lock:
            if share is not None:
                self._bar.value = share
            display(self._bar, share is not None)


def button(text: str, tooltip: str) -> ipw.Button:
    """A button as wide as its text; icons would need a font from the network."""
    return ipw.Button(description=text, tooltip=tooltip, layout=AUTO)


def display(widget: ipw.DOMWidget, displayed: bool) -> None:
    """Take a widget out of the page, or put it back."""
    widget.layout.display = None if displayed else "none"


def row(*children: ipw.Widget) -> ipw.HBox:
    """Widgets beside each other, wrapped where the page is narrow."""
    layout = {"flex_flow": "row wrap", "align_items": "center", "overflow": "visible"}
    return ipw.HBox(children, layout=ipw.Layout(**layout, grid_gap="4px 20px"))


def in_words(error: BaseException) -> str:
    """What to tell a user of an error: a ValueError says all; of others the kind helps, and where
    they come from is written to the kernel's log."""
    if isinstance(error, ValueError):
        return str(error)
    logging.getLogger(__name__).error("the explorer's page failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
