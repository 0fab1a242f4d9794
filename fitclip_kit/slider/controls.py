"""The controls of the page, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ipywidgets as ipw

from fitclip_kit.slider.fusion import MERGES, Fusion
from fitclip_kit.slider.material import Material
from fitclip_kit.slider.parts import button, display, named, row

START: Final = 0.4  # the paper's alpha


@dataclass(frozen=True)
class View:
    """What is to be shown: a fusion, a data set, a row of its clips and a query."""

    fusion: Fusion
    data_set: str
    clip: int
    query: str


class Controls:
    """Sliders, menus, the clip picker and the query; `asked` is what they ask for.

    Args:
        material: gives the students, the data sets and their clips.
        moved: called after a change of what is asked for.

    Attributes:
        by_name: control by its class without `fk-`.
        head: the rows of the fusion and the data set.
    """

    def __init__(self, material: Material, moved: Callable[[], None]) -> None:
        self._clips = {name: len(one.clip_ids) for name, one in material.sets.items()}
        self._moved, self._quiet = moved, False
        self.by_name: dict[str, Any] = {
            **_sliders(),
            **_menus(material),
            "clip": ipw.BoundedIntText(
                description="Clip", min=1, max=1, value=1, tooltip="The clip's number in the set"
            ),
            "previous": button("Previous clip", "Show the clip before this one"),
            "next": button("Next clip", "Show the clip after this one"),
            "query": ipw.Text(
                description="Query",
                placeholder="what a clip should show",
                tooltip="Text to retrieve clips of the data set with, answered while you type",
                layout=ipw.Layout(flex="1 1 300px", width="auto", max_width="720px"),
            ),
        }
        named(self.by_name)
        self.head = self._lay_out()
        self._fit_clip()
        for number in ("alpha", "text"):
            pair = (self.by_name[number], self.by_name[f"{number}-number"])
            ipw.link(*((widget, "value") for widget in pair))
        self.by_name["separate"].observe(lambda _: self._split(), "value")
        self.by_name["data-set"].observe(lambda _: self._fit_clip(), "value")
        for name in ("alpha", "text", "separate", "merge", "student", "data-set", "clip", "query"):
            self.by_name[name].observe(lambda _: self._change(), "value")
        self.by_name["previous"].on_click(lambda _: self._step(-1))
        self.by_name["next"].on_click(lambda _: self._step(+1))

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
        display(self._text_row, self.by_name["separate"].value)

    def _fit_clip(self) -> None:
        """Begin at a data set's first clip."""
        clip = self.by_name["clip"]
        with self._quietly():
            clip.value = 1
            clip.max = self._clips[self.by_name["data-set"].value]

    def _step(self, step: int) -> None:
        clip = self.by_name["clip"]
        clip.value = (clip.value - 1 + step) % clip.max + 1

    def _lay_out(self) -> ipw.VBox:
        by_name = self.by_name
        self._text_row = row(by_name["text"], by_name["text-number"])
        display(self._text_row, False)
        menus = (by_name[name] for name in ("student", "data-set", "merge", "separate"))
        return ipw.VBox(
            [row(by_name["alpha"], by_name["alpha-number"]), self._text_row, row(*menus)]
        )


def _sliders() -> dict[str, Any]:
    share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01, "value": START}
    wide = partial(ipw.Layout, flex="1 1 300px", width="auto", min_width="240px")
    slider = partial(ipw.FloatSlider, readout=False, **share)
    number = partial(ipw.BoundedFloatText, **share)
    return {
        "alpha": slider(
            description="α",
            tooltip="The student's share: 0 is the teacher, 1 the student",
            layout=wide(),
        ),
        "alpha-number": number(description="α in numbers", layout=ipw.Layout(width="200px")),
        "separate": ipw.Checkbox(
            description="separate text tower",
            tooltip="Give the text tower a share of its own; α is then the vision tower's",
            indent=False,
            layout=ipw.Layout(width="auto"),
        ),
        "text": slider(
            description="text", tooltip="The student's share of the text tower", layout=wide()
        ),
        "text-number": number(description="text in numbers", layout=ipw.Layout(width="200px")),
    }


def _menus(material: Material) -> dict[str, Any]:
    sets = {one.title: name for name, one in material.sets.items()}
    menu = partial(ipw.Dropdown, layout=ipw.Layout(width="auto"))
    return {
        "student": menu(
            description="Student",
            options={f"student {draw}": draw for draw in material.students},
            tooltip="Which of the trained students is fused with the teacher",
        ),
        "data-set": menu(description="Data set", options=sets, tooltip="The data set to look into"),
        "merge": menu(
            description="Merge",
            options=MERGES,
            tooltip="How the weights are merged: average; with a share that grows with depth; "
            "or weighed by Fisher information",
        ),
    }
