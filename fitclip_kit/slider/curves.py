"""The curves of the explorer: one small picture a data set, with a marker that moves.

Each panel is an SVG of its own, so the page decides how many stand beside each other. A panel is
drawn once for a student; a move only puts in a few elements, at places that follow from the
panel's axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from figures.explorer_state import (
    SETTLED,
    CurvePanel,
    Reading,
    interval_text,
    percent_text,
)
from fitclip_kit.slider.stored import StoredSweep

# px of the SVG's own coordinates
_WIDTH: Final = 360
_HEIGHT: Final = 205
_LEFT, _RIGHT, _TOP, _BOTTOM = 36.0, 350.0, 8.0, 168.0
_INSET: Final = 8.0  # between the axes and alpha 0 and 1
_CAP: Final = 4.5  # half the width of an interval's ends
_ALPHAS: Final = {0.0: "0", 0.2: "0.2", 0.4: "0.4", 0.6: "0.6", 0.8: "0.8", 1.0: "1"}
_CURVE_KEY: Final = (
    '<path class="fk-curve" d="M0 6H26"/><circle class="fk-dot" cx="13" cy="6" r="2.6"/>'
)
_MEAN_KEY: Final = (
    '<rect class="fk-area" width="26" height="12"/><path class="fk-mean" d="M0 6H26"/>'
)
_LEVEL_KEY: Final = '<path class="fk-level" d="M0 6H26"/>'
_MARK_KEY: Final = (
    '<path class="fk-mark" d="M13 0V12M9 0H17M9 12H17"/>'
    '<circle class="fk-mark-point" cx="13" cy="6" r="3.5"/>'
)


class CurvePicture:
    """The curves of one student, a panel a data set, drawn once.

    sweep: the stored sweep. draw: which student. titles: data set -> how it is printed, by default
    its name.

    draw: the student. panels: what is drawn, as `figures.explorer_state.state_figure` takes it.

    Raises: ValueError when the sweep has no such draw.
    """

    def __init__(
        self, sweep: StoredSweep, draw: int, titles: Mapping[str, str] | None = None
    ) -> None:
        self.draw = draw
        named = titles or {}
        several = len(sweep.draws) > 1
        panels = []
        for data_set, measure in sweep.measures.items():
            students = {one: sweep.curve(data_set, one) for one in sweep.draws}
            if draw not in students:
                raise ValueError(f"no student {draw} in the sweep; there are {sweep.draws}")
            mean = sweep.curve(data_set) if several else None
            low, high = _range([*students.values(), *([mean] if mean is not None else [])])
            title = named.get(data_set, data_set)
            panels.append(
                CurvePanel(data_set, title, measure.name, students[draw], mean, low, high)
            )
        self.panels = tuple(panels)
        self._drawn = {panel.data_set: self._framed(panel) for panel in panels}

    def with_markers(
        self, points: Mapping[str, Reading], vision: float, text: float | None = None
    ) -> str:
        """HTML of all panels with their markers; `html.STYLE` gives it its look.

        points: data set -> what to mark (`stored.Point`); a panel without a point has no marker.
        vision, text: the student's share in each tower; text as vision where it is None. Where
        they differ the marker is a bar between the two, as it lies on no curve.
        """
        other = vision if text is None else text
        panels = [
            self.panel(
                panel.data_set,
                markers(panel, points[panel.data_set], vision, other),
                reading(points[panel.data_set]),
            )
            if panel.data_set in points
            else self.panel(panel.data_set, "", "")
            for panel in self.panels
        ]
        return f'<div class="fk-panels">{"".join(panels)}</div>'

    def panel(self, data_set: str, marks: str, said: str) -> str:
        """One panel with these marks (of `markers`) and readings (of `reading`), as a figure."""
        head, drawn = self._drawn[data_set]
        return (
            f'<figure class="fk-panel" data-panel="{escape(data_set)}"><figcaption>{head}'
            f'<span class="fk-reading">{said}</span></figcaption>{drawn}{marks}</svg></figure>'
        )

    def legend(self) -> str:
        """What the lines mean, as a list; once for all panels."""
        entries = [(_CURVE_KEY, f"student {self.draw}, a dot for each measured α")]
        if self.panels[0].mean is not None:
            entries.append(
                (_MEAN_KEY, "mean of the students, 95% interval over clips and students")
            )
        entries.append((_LEVEL_KEY, "teacher"))
        entries.append((_MARK_KEY, "here: value and 95% interval over clips"))
        items = "".join(
            f'<li><svg viewBox="0 0 26 12" aria-hidden="true">{drawn}</svg>{escape(words)}</li>'
            for drawn, words in entries
        )
        return f'<ul class="fk-legend">{items}</ul>'

    def _framed(self, panel: CurvePanel) -> tuple[str, str]:
        """A panel's caption, and its picture as an element that is still open."""
        head = (
            f'<b>{escape(panel.title)}</b> <span class="fk-soft">{escape(panel.measure)}, %</span>'
        )
        drawn = (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(self._spoken(panel))}">{_draw(panel)}'
        )
        return head, drawn

    def _spoken(self, panel: CurvePanel) -> str:
        curve = panel.draw
        best = curve.iloc[int(curve["value"].round(12).argmax())]
        ends = [percent_text(curve["value"].iloc[place]) for place in (0, -1)]
        return (
            f"{panel.title}, {panel.measure} over alpha, student {self.draw}: teacher {ends[0]}%, "
            f"student {ends[1]}%, highest {percent_text(best['value'])}% at alpha "
            f"{best['alpha']:g}"
        )


def reading(point: Reading) -> str:
    """The value and interval of a marker, as HTML; estimates say so."""
    about = "" if point.status in SETTLED else "≈ "
    interval = interval_text(point.ci_low, point.ci_high)
    shown = f' <span class="fk-soft">{interval}</span>' if interval else ""
    return f"<b>{about}{percent_text(point.value)}</b>{shown}"


def markers(panel: CurvePanel, point: Reading, vision: float, text: float) -> str:
    """The SVG elements that mark a point in a panel's picture; no more than drawn coordinates.

    What lies beyond the axis, as another merge may, is drawn at its end as a triangle.
    """
    if math.isnan(point.value):
        return ""
    x, y = _x((vision + text) / 2), _y(panel, point.value)
    parts = []
    if vision != text:
        low, high = sorted((_x(vision), _x(text)))
        parts.append(f'<path class="fk-mark" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
    else:
        parts.append(f'<path class="fk-mark-guide" d="M{x:.1f} {_TOP}V{_BOTTOM}"/>')
    if not math.isnan(point.ci_low) and not math.isnan(point.ci_high):
        bar = f"M{x:.1f} {_y(panel, point.ci_high):.1f}V{_y(panel, point.ci_low):.1f}"
        for end in (point.ci_low, point.ci_high):
            if panel.low <= end <= panel.high:  # an interval that goes on has no cap
                bar += f"M{x - _CAP:.1f} {_y(panel, end):.1f}H{x + _CAP:.1f}"
        parts.append(f'<path class="fk-mark" d="{bar}"/>')
    if panel.low <= point.value <= panel.high:
        parts.append(f'<circle class="fk-mark-point" cx="{x:.1f}" cy="{y:.1f}" r="4.4"/>')
    else:
        tip = y - 7 if point.value > panel.high else y + 7
        parts.append(
            f'<path class="fk-mark-point" d="M{x - 5:.1f} {y:.1f}H{x + 5:.1f}L{x:.1f} {tip:.1f}Z"/>'
        )
    kind = "" if point.status in SETTLED else ' class="fk-guess"'
    return f"<g{kind}>{''.join(parts)}</g>"


def _range(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """The value axis: all values and intervals of all students, so that it stays as they change."""
    values = np.concatenate(
        [curve[["value", "ci_low", "ci_high"]].to_numpy(np.float64).ravel() for curve in curves]
    )
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.04 * (high - low), 0.005)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def _x(alpha: float) -> float:
    return _LEFT + _INSET + alpha * (_RIGHT - _LEFT - 2 * _INSET)


def _y(panel: CurvePanel, value: float) -> float:
    share = (value - panel.low) / (panel.high - panel.low)
    return _BOTTOM - min(max(share, 0.0), 1.0) * (_BOTTOM - _TOP)


def _draw(panel: CurvePanel) -> str:
    """A panel's picture without markers."""
    low, high = 100 * panel.low, 100 * panel.high
    ticks = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high))
    parts = []
    for tick in ticks[(ticks >= low) & (ticks <= high)]:
        y = _y(panel, tick / 100)
        parts.append(f'<path class="fk-grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>')
        parts.append(_words(_LEFT - 6, y + 4, "end", f"{tick:g}"))
    if panel.mean is not None:
        above = _points(panel, panel.mean, "ci_high")
        below = _points(panel, panel.mean, "ci_low")
        parts.append(f'<polygon class="fk-area" points="{" ".join(above + below[::-1])}"/>')
    level = _y(panel, panel.draw["value"].iloc[0])
    parts.append(f'<path class="fk-level" d="M{_LEFT} {level:.1f}H{_RIGHT}"/>')
    if panel.mean is not None:
        mean = " ".join(_points(panel, panel.mean, "value"))
        parts.append(f'<polyline class="fk-mean" points="{mean}"/>')
    dots = _points(panel, panel.draw, "value")
    parts.append(f'<polyline class="fk-curve" points="{" ".join(dots)}"/>')
    for dot in dots:
        x_text, y_text = dot.split(",")
        parts.append(f'<circle class="fk-dot" cx="{x_text}" cy="{y_text}" r="2.6"/>')
    parts.append(f'<path class="fk-axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    for alpha, name in _ALPHAS.items():
        x = _x(alpha)
        parts.append(f'<path class="fk-axis" d="M{x:.1f} {_BOTTOM}v4"/>')
        parts.append(_words(x, _BOTTOM + 16, "middle", name))
    parts.append(_words(_x(0) - 8, _BOTTOM + 30, "start", "teacher"))
    parts.append(_words((_LEFT + _RIGHT) / 2, _BOTTOM + 30, "middle", "α"))
    parts.append(_words(_x(1) + 8, _BOTTOM + 30, "end", "student"))
    return "".join(parts)


def _points(panel: CurvePanel, curve: pd.DataFrame, column: str) -> list[str]:
    return [
        f"{_x(alpha):.1f},{_y(panel, value):.1f}"
        for alpha, value in zip(curve["alpha"], curve[column].fillna(curve["value"]), strict=True)
    ]


def _words(x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="fk-tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
