"""Widgets that every part of the page is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import ipywidgets as ipw


def named(widgets: Mapping[str, ipw.DOMWidget]) -> None:
    """Give each widget the class `fk-<name>` and room for its description."""
    for name, widget in widgets.items():
        widget.add_class(f"fk-{name}")
        style = getattr(widget, "style", None)
        if style is not None and style.has_trait("description_width"):
            style.description_width = "initial"


def button(text: str, tooltip: str) -> ipw.Button:
    """A button as wide as its text; icons would need a font from the network."""
    return ipw.Button(description=text, tooltip=tooltip, layout=ipw.Layout(width="auto"))


def progress_bar() -> ipw.FloatProgress:
    """A bar from 0 to 1 that is not displayed yet."""
    layout = ipw.Layout(width="auto", height="6px", display="none")
    return ipw.FloatProgress(min=0.0, max=1.0, layout=layout)


def display(widget: ipw.DOMWidget, displayed: bool) -> None:
    """Take a widget out of the page, or put it back."""
    widget.layout.display = None if displayed else "none"


def row(*children: ipw.Widget) -> ipw.HBox:
    """Widgets beside each other, wrapped where the page is narrow."""
    layout = ipw.Layout(
        flex_flow="row wrap", align_items="center", overflow="visible", grid_gap="4px 20px"
    )
    return ipw.HBox(children, layout=layout)


def show(widget: ipw.HTML, content: str) -> None:
    """Put HTML of `fitclip_kit.slider.html` into the page; nothing is sent when it is the same."""
    widget.value = f'<div class="fk">{content}</div>' if content else ""


def heading(text: str) -> ipw.HTML:
    """A heading of the kit's own words."""
    return ipw.HTML(f"<h2>{text}</h2>")


def in_words(error: BaseException) -> str:
    """What to tell a user of an error: a ValueError says all; of others the kind helps."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def log_unless_told(error: BaseException) -> None:
    """Write where an error comes from to the kernel's log, unless `in_words` says what to do."""
    if not isinstance(error, ValueError):
        logging.getLogger(__name__).error("the explorer's page failed", exc_info=error)
