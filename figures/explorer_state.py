"""The alpha slider's curves, drawn once for page and print, and its state as a printed figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from figures import style
from figures.whole_curve import alpha_axis

BLANK: Final = "–"
AXIS: Final = (-0.04, 1.04)  # of alpha

_COLUMNS: Final = 3  # panels side by side
_CAP: Final = 0.015  # of alpha; half the width of an interval's ends
# in
_PANEL, _TITLE, _LEGEND, _ROW, _STRIP, _LINE, _GAP = 1.6, 0.24, 0.34, 0.15, 0.72, 0.115, 0.12
_LOOK: Final[dict[str, dict[str, Any]]] = {
    "area": {"color": style.BAND, "linewidth": 0},
    "level": {"color": style.INK, "linewidth": 0.7, "linestyle": (0, (4, 3))},
    "mean": {"color": style.DRAW, "linewidth": 0.7},
    "curve": {"color": style.LINE, "marker": ".", "markersize": 3.5},
    "guide": {"color": style.INK, "linewidth": 0.25, "zorder": 3},
    "mark": {"color": style.INK, "linewidth": 0.9, "zorder": 3},
}
_POINT: Final = {"color": style.INK, "linestyle": "none", "markersize": 4.5, "zorder": 4}
_MARKERS: Final = {"point": "o", "above": "^", "below": "v"}


@dataclass(frozen=True)
class Point:
    """A measure's value at one alpha and its 95% interval, fractions in [0, 1].

    status: "stored" (in the sweep), "exact" (measured just now) or "interpolated" (linear between
    the two stored neighbours: no measurement). The ends are NaN for a data set of one item.
    """

    value: float
    ci_low: float
    ci_high: float
    status: Literal["stored", "exact", "interpolated"]

    @property
    def is_estimate(self) -> bool:
        """Whether it is no measurement."""
        return self.status == "interpolated"

    @property
    def interval(self) -> str:
        """In percent; "" where it is not known."""
        return interval_text(self.ci_low, self.ci_high)

    def __str__(self) -> str:
        return ("≈ " if self.is_estimate else "") + percent_text(self.value)


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """The curve of one data set.

    draw: one student's, columns alpha, value, ci_low, ci_high (fractions). mean: over all students,
    None where there is one. low, high: the value axis.
    """

    data_set: str
    title: str
    measure: str
    draw: pd.DataFrame
    mean: pd.DataFrame | None
    low: float
    high: float


@dataclass(frozen=True)
class Stroke:
    """What is drawn in a panel: a kind of line, area or marker, at alphas and fractions."""

    kind: str
    alphas: list[float]
    values: list[float]


@dataclass(frozen=True, eq=False)
class Strip:
    """A clip: frames uint8 [frames, height, width, 3] in order of time, and what to say of it."""

    frames: np.ndarray
    title: str
    text: str


def value_range(curves: Iterable[pd.DataFrame]) -> tuple[float, float]:
    """A value axis that holds all values and intervals of some curves, within [0, 1]."""
    values = np.concatenate([curve[["value", "ci_low", "ci_high"]].to_numpy() for curve in curves])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.04 * (high - low), 0.005)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def curve_strokes(panel: CurvePanel) -> list[Stroke]:
    """A panel's curves, those behind first."""
    alphas = panel.draw["alpha"].tolist()
    level = panel.draw["value"].iloc[0]
    strokes = [
        Stroke("level", list(AXIS), [level, level]),
        Stroke("curve", alphas, panel.draw["value"].tolist()),
    ]
    if panel.mean is not None:
        value = panel.mean["value"]
        low, high = (panel.mean[end].fillna(value).tolist() for end in ("ci_low", "ci_high"))
        area = Stroke("area", alphas + alphas[::-1], high + low[::-1])
        strokes = [area, strokes[0], Stroke("mean", alphas, value.tolist()), strokes[1]]
    return strokes


def mark_strokes(panel: CurvePanel, point: Point, shares: tuple[float, float]) -> list[Stroke]:
    """What marks a point in a panel; nothing where its value is NaN.

    shares: the student's, in the vision and in the text tower; where they differ the mark is a bar
    between the two, as it lies on no curve. What lies beyond the axis, as another merge may, is
    drawn at its end as a triangle.
    """
    if math.isnan(point.value):
        return []
    alpha = sum(shares) / 2
    value, low, high = (
        min(max(number, panel.low), panel.high)
        for number in (point.value, point.ci_low, point.ci_high)
    )
    strokes = [Stroke("guide", [alpha, alpha], [panel.low, panel.high])]
    if shares[0] != shares[1]:
        strokes = [Stroke("mark", sorted(shares), [value, value])]
    if not math.isnan(point.ci_low + point.ci_high):
        strokes.append(Stroke("mark", [alpha, alpha], [low, high]))
        for end in (point.ci_low, point.ci_high):
            if panel.low <= end <= panel.high:  # an interval that goes on has no cap
                strokes.append(Stroke("mark", [alpha - _CAP, alpha + _CAP], [end, end]))
    kind = "point" if value == point.value else "above" if value < point.value else "below"
    return [*strokes, Stroke(kind, [alpha], [value])]


def legend_entries(several: bool, estimates: bool) -> dict[str, str]:
    """Kind of stroke -> what it means. several: students; estimates: whether one is shown."""
    of_mean = {"mean": "mean of students", "area": "its 95% interval (clips × students)"}
    return {
        "curve": "this student, as measured",
        **(of_mean if several else {}),
        "level": "teacher's level",
        "point": "here, 95% interval over clips",
        **({"guess": "≈ estimated, not measured"} if estimates else {}),
    }


def percent_text(share: float) -> str:
    """A fraction as percent with one decimal; "–" where it is NaN."""
    return BLANK if math.isnan(share) else f"{_rounded(share):.1f}"


def points_text(difference: float) -> str:
    """A difference of fractions as percentage points with their sign; "–" where it is NaN."""
    return BLANK if math.isnan(difference) else f"{_rounded(difference):+.1f}".replace("-", "−")


def interval_text(low: float, high: float, *, signed: bool = False) -> str:
    """An interval of fractions in percent (signed: in points); "" where an end is NaN."""
    if math.isnan(low) or math.isnan(high):
        return ""
    text = points_text if signed else percent_text
    return f"[{text(low)}, {text(high)}]"


def state_figure(
    title: str,
    panels: Sequence[CurvePanel],
    points: Mapping[str, Point],
    shares: tuple[float, float],
    numbers: pd.DataFrame,
    strips: Sequence[Strip] = (),
) -> Figure:
    """Draw a state of the slider at page width.

    points: by data set, where there is one. shares: as in `mark_strokes`. numbers: texts.
    """
    rows = math.ceil(len(panels) / _COLUMNS)
    texts = [_wrapped(strip.text) for strip in strips]
    strip_heights = [max(_STRIP, (text.count("\n") + 3) * _LINE) for text in texts]
    heights = [_TITLE + rows * _PANEL + _LEGEND, (len(numbers) + 1) * _ROW + _GAP]
    heights += [sum(strip_heights)] if strips else []
    height = sum(heights) + style.FOOTER
    with style.theme():
        figure = style.Figure(style.PAGE_WIDTH, height)
        below = style.FOOTER / height
        room = {"h_pad": 0.03, "hspace": 0.06, "wspace": 0.04}
        figure.set_layout_engine("constrained", rect=(0, below, 1, 1 - below), **room)
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        curves, table, *rest = parts[:, 0]
        curves.suptitle(title, x=0.01, ha="left", weight="bold", size=9)
        grid = curves.add_gridspec(rows, _COLUMNS)
        for place, panel in enumerate(panels):
            ax = curves.add_subplot(grid[place // _COLUMNS, place % _COLUMNS])
            letter = ascii_lowercase[place % 26]
            _draw_panel(ax, f"({letter}) {panel.title}", panel, points.get(panel.data_set), shares)
        estimates = any(point.is_estimate for point in points.values())
        entries = legend_entries(panels[0].mean is not None, estimates)
        handles = [_handle(kind, words) for kind, words in entries.items()]
        look = {"frameon": False, "borderpad": 0, "labelspacing": 0.3, "columnspacing": 1.2}
        curves.legend(handles=handles, loc="outside lower center", ncols=3, **look)
        _draw_numbers(table.subplots(), numbers)
        for part in rest:
            sizes = {"width_ratios": (55, 45), "height_ratios": strip_heights}
            axes = part.subplots(len(strips), 2, squeeze=False, gridspec_kw=sizes)
            for (picture, words), strip, text in zip(axes, strips, texts, strict=True):
                picture.imshow(side_by_side(strip.frames, (255, 255, 255)))
                picture.set_anchor("NW")
                plain: dict[str, Any] = {"va": "top", "parse_math": False}  # captions hold dollars
                words.text(0, 1, strip.title, size=7, weight="bold", **plain)
                words.text(0, 1, f"\n{text}", size=6.5, **plain)
                picture.axis("off")
                words.axis("off")
    return figure


def _draw_panel(
    ax: Axes, title: str, panel: CurvePanel, point: Point | None, shares: tuple[float, float]
) -> None:
    said = f"{panel.measure} (%)"
    strokes = curve_strokes(panel)
    if point is not None:
        strokes += mark_strokes(panel, point, shares)
        said = f"{said}: {point} {point.interval}".rstrip()
    for stroke in strokes:
        percent = [100 * value for value in stroke.values]
        if stroke.kind == "area":
            ax.fill(stroke.alphas, percent, **_LOOK["area"])
            continue
        look = _LOOK.get(stroke.kind) or _POINT | {"marker": _MARKERS[stroke.kind]}
        if point and point.is_estimate and stroke.kind not in ("level", "mean", "curve"):
            look = {"linestyle": (0, (1.5, 1.5)), "markerfacecolor": "white"} | look
        ax.plot(stroke.alphas, percent, clip_on=stroke.kind not in _MARKERS, **look)
    ax.set_ylim(100 * panel.low, 100 * panel.high)
    alpha_axis(ax)
    ax.set_xlabel("α", labelpad=-6)  # the panels are too narrow for more
    ax.set_title(title, loc="left", weight="bold", pad=13, parse_math=False)
    ax.text(0, 1.04, said, transform=ax.transAxes, size="small", parse_math=False)


def _handle(kind: str, words: str) -> Line2D | Patch:
    if kind == "area":
        return Patch(**_LOOK["area"], label=words)
    face = {"markerfacecolor": "white"} if kind == "guess" else {}
    return Line2D([], [], label=words, **(_LOOK.get(kind) or _POINT | {"marker": "o"} | face))


def _draw_numbers(ax: Axes, numbers: pd.DataFrame) -> None:
    """A table with three rules; words to the left, numbers to the right."""
    ax.axis("off")
    texts = numbers.astype(str).to_numpy().tolist()  # none where nothing is measured
    heads = numbers.columns.astype(str).tolist()
    table = ax.table([heads, *texts], bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.auto_set_column_width(list(range(len(numbers.columns))))
    for (row, column), cell in table.get_celld().items():
        words = any(map(str.isalpha, "".join(line[column] for line in texts)))
        look = {"ha": "left" if words else "right", "weight": "normal" if row else "bold"}
        cell.set_text_props(**look, parse_math=False)  # titles may hold dollar signs
        cell.visible_edges = "" if 0 < row < len(texts) else "B" if row else "BT"
        cell.set(edgecolor=style.INK, linewidth=0.8, capstyle="projecting")


def _wrapped(text: str) -> str:
    """A strip's lines, each wrapped and cut where it is long."""
    lines = [textwrap.shorten(line, 150, placeholder=" …") for line in text.split("\n")]
    return "\n".join(textwrap.fill(line, 58) for line in lines)


def side_by_side(frames: np.ndarray, gap: Sequence[int]) -> np.ndarray:
    """Frames [n, height, width, channels] as one picture, with gaps of a colour between."""
    columns = np.empty((frames.shape[1], max(1, frames.shape[2] // 20), len(gap)), np.uint8)
    columns[:] = gap
    parts = [part for frame in frames for part in (frame, columns)][:-1]
    return np.concatenate(parts, axis=1)


def _rounded(share: float) -> float:
    return round(100 * share, 1) + 0.0  # no minus before 0.0
