"""The alpha slider's state as one figure: the curves with the marker, the numbers, clips."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import style
from figures.table_formats import BLANK
from figures.whole_curve import alpha_axis

SETTLED: Final = ("stored", "exact")  # statuses of measured points; any other is an estimate

_COLUMNS: Final = 3  # panels side by side
_PANEL: Final = 1.6  # in; height of a row of panels
_TITLE: Final = 0.24  # in
_LEGEND: Final = 0.34
_ROW: Final = 0.15  # of the table
_STRIP: Final = 0.72  # of a clip
_LINE: Final = 0.115  # of a clip's text
_GAP: Final = 0.12


class Reading(Protocol):
    """One measured or estimated number: fractions; the interval may be NaN where unknown."""

    @property
    def value(self) -> float: ...
    @property
    def ci_low(self) -> float: ...
    @property
    def ci_high(self) -> float: ...
    @property
    def status(self) -> str: ...


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """The curve of one data set.

    data_set: its name in the results. title: as it is printed. measure: what is measured, such as
    "text-to-video R@5". draw: one student's curve, columns alpha, value, ci_low, ci_high
    (fractions). mean: the same over all students, None where there is one. low, high: the range of
    the value axis, fractions.
    """

    data_set: str
    title: str
    measure: str
    draw: pd.DataFrame
    mean: pd.DataFrame | None
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Strip:
    """A clip: frames uint8 [frames, height, width, 3] in order of time, and what to say of it."""

    frames: np.ndarray
    title: str
    text: str


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
    points: Mapping[str, Reading],
    shares: tuple[float, float],
    numbers: pd.DataFrame,
    strips: Sequence[Strip] = (),
) -> Figure:
    """Draw a state of the slider at page width.

    title: what is shown, such as "α = 0.4 · student 1". panels, points: the curves, and the reading
    of each panel's data set, where there is one. shares: the student's share in the vision and in
    the text tower; where they differ the reading is a bar between the two, as it is on no curve.
    numbers: texts to print as they are, the first column to the left. strips: clips, a row each.

    Raises: ValueError when there is no panel, a reading is of no panel, a share is outside [0, 1],
    the numbers have no column or row, or a strip's frames are no uint8 [frames, height, width, 3].
    """
    _check(panels, points, shares, numbers, strips)
    rows = math.ceil(len(panels) / _COLUMNS)
    texts = [_wrapped(strip.text) for strip in strips]
    strip_heights = [max(_STRIP, (text.count("\n") + 3) * _LINE) for text in texts]
    heights = {
        "title": _TITLE,
        "curves": rows * _PANEL,
        "legend": _LEGEND,
        "numbers": (len(numbers) + 1) * _ROW + _GAP,
        "strips": sum(strip_heights),
        "footer": style.FOOTER,
    }
    height = sum(heights.values())
    tops = dict(zip(heights, 1 - np.cumsum([0, *heights.values()]) / height, strict=False))
    with style.theme():
        figure = style.Figure(style.PAGE_WIDTH, height)
        share = heights["curves"] / height
        figure.set_layout_engine(
            "constrained",
            rect=(0, tops["curves"] - share, 1, share),
            h_pad=0.03,
            hspace=0.06,
            wspace=0.04,
        )
        figure.text(0.01, tops["title"] - 0.06 / height, title, va="top", weight="bold", size=9)
        grid = figure.add_gridspec(rows, _COLUMNS)
        several = any(panel.mean is not None for panel in panels)
        for place, panel in enumerate(panels):
            ax = figure.add_subplot(grid[place // _COLUMNS, place % _COLUMNS])
            _draw_panel(ax, panel, points.get(panel.data_set), shares)
            title_text = f"({ascii_lowercase[place % 26]}) {panel.title}"
            ax.set_title(title_text, loc="left", weight="bold", pad=13, parse_math=False)
            said = _said(panel, points.get(panel.data_set))
            ax.text(0, 1.04, said, transform=ax.transAxes, size="small", parse_math=False)
        figure.legend(
            handles=_legend(several, any(p.status not in SETTLED for p in points.values())),
            loc="upper center",
            bbox_to_anchor=(0.5, tops["legend"] - 0.02 / height),
            ncols=3,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.3,
            columnspacing=1.2,
        )
        _draw_numbers(_bare(figure, tops["numbers"], heights["numbers"] / height), numbers)
        if strips:
            ax = _bare(figure, tops["strips"], heights["strips"] / height)
            _draw_strips(ax, strips, texts, strip_heights)
    return figure


def _check(
    panels: Sequence[CurvePanel],
    points: Mapping[str, Reading],
    shares: tuple[float, float],
    numbers: pd.DataFrame,
    strips: Sequence[Strip],
) -> None:
    if not panels:
        raise ValueError("there is no curve to draw; give at least one panel")
    if unknown := sorted(set(points) - {panel.data_set for panel in panels}):
        raise ValueError(f"readings of {unknown} have no panel; leave them out or add their curve")
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"the student's shares are {shares}; they must lie in [0, 1]")
    if not numbers.size:
        raise ValueError("the table of numbers is empty; give a row for each data set")
    for strip in strips:
        frames = strip.frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise ValueError(
                f"the frames of {strip.title!r} are {frames.dtype} {list(frames.shape)}; "
                "give uint8 [frames, height, width, 3]"
            )


def _draw_panel(
    ax: Axes, panel: CurvePanel, point: Reading | None, shares: tuple[float, float]
) -> None:
    if panel.mean is not None:
        ends = 100 * panel.mean[["ci_low", "ci_high"]]
        x = panel.mean["alpha"]
        ax.fill_between(x, ends["ci_low"], ends["ci_high"], color=style.BAND, linewidth=0)
        ax.plot(x, 100 * panel.mean["value"], color=style.DRAW, linewidth=0.7)
    ax.axhline(100 * panel.draw["value"].iloc[0], **_LEVEL)
    ax.plot(panel.draw["alpha"], 100 * panel.draw["value"], **_CURVE)
    ax.set_ylim(100 * panel.low, 100 * panel.high)
    if point is not None:
        _draw_point(ax, point, shares)
    alpha_axis(ax)
    ax.set_xlabel("α", labelpad=-6)  # the panels are too narrow for more


def _said(panel: CurvePanel, point: Reading | None) -> str:
    """What is measured and, where something is marked, its number."""
    if point is None:
        return f"{panel.measure} (%)"
    about = "" if point.status in SETTLED else "≈ "
    interval = interval_text(point.ci_low, point.ci_high)
    return f"{panel.measure} (%): {about}{percent_text(point.value)} {interval}".rstrip()


def _draw_point(ax: Axes, point: Reading, shares: tuple[float, float]) -> None:
    x, (low, high) = sum(shares) / 2, ax.get_ylim()
    settled = point.status in SETTLED
    look: dict[str, Any] = {"color": style.INK, "linewidth": 0.9, "zorder": 3}
    look["linestyle"] = "-" if settled else (0, (1.5, 1.5))
    ax.vlines(x, 100 * point.ci_low, 100 * point.ci_high, **look)
    if shares[0] != shares[1]:
        ax.hlines(100 * point.value, min(shares), max(shares), **look)
    inside = low <= 100 * point.value <= high
    ax.plot(
        x,
        float(np.clip(100 * point.value, low, high)),
        **_POINT | ({} if settled else {"markerfacecolor": "white"}),
        marker="o" if inside else "^" if 100 * point.value > high else "v",
        clip_on=False,
    )


_LEVEL: Final[dict[str, Any]] = {
    "color": style.INK,
    "linewidth": 0.7,
    "linestyle": (0, (4, 3)),
}
_CURVE: Final[dict[str, Any]] = {"color": style.LINE, "marker": ".", "markersize": 3.5}
_POINT: Final[dict[str, Any]] = {
    "linestyle": "none",
    "markersize": 4.5,
    "markerfacecolor": style.INK,
    "markeredgecolor": style.INK,
    "markeredgewidth": 0.7,
    "zorder": 4,
}


def _legend(several: bool, estimates: bool) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], **_CURVE, label="this student")]
    if several:
        handles.append(Line2D([], [], color=style.DRAW, linewidth=0.7, label="mean of students"))
        handles.append(Patch(color=style.BAND, label="its 95% interval (clips × students)"))
    handles.append(Line2D([], [], **_LEVEL, label="teacher's level"))
    handles.append(Line2D([], [], **_POINT, marker="o", label="here, 95% interval over clips"))
    if estimates:
        white = _POINT | {"markerfacecolor": "white"}
        handles.append(Line2D([], [], **white, marker="o", label="≈ estimated, not measured"))
    return handles


def _bare(figure: Figure, top: float, height: float) -> Axes:
    """Axes without axes, over the figure's width, in inches from its left and from the top down."""
    ax = figure.add_axes((0, top - height, 1, height))
    ax.set_in_layout(False)
    ax.axis("off")
    ax.set_xlim(0, style.PAGE_WIDTH)
    ax.set_ylim(height * figure.get_figheight(), 0)
    return ax


def _draw_numbers(ax: Axes, numbers: pd.DataFrame) -> None:
    """A table with rules above, below and under its head; words to the left, numbers to the right.

    Columns are as wide as their longest texts.
    """
    lines = [[str(name) for name in numbers.columns], *numbers.astype(str).to_numpy().tolist()]
    widths = np.array([max(len(line[column]) for line in lines) for column in range(len(lines[0]))])
    ends = np.cumsum(widths) + 2 * np.arange(len(widths))
    left, right = 0.08, style.PAGE_WIDTH - 0.08
    scale = (right - left) / ends[-1]
    for column, end in enumerate(ends):
        words = any(letter.isalpha() for line in lines[1:] for letter in line[column])
        for row, line in enumerate(lines):
            ax.text(
                left + scale * (end - widths[column] if words else end),
                (row + 0.55) * _ROW,
                line[column],
                ha="left" if words else "right",
                va="center",
                size=7,
                weight="bold" if row == 0 else "normal",
                parse_math=False,  # titles may hold dollar signs
            )
    for y, width in ((0.0, 0.8), (_ROW, 0.5), (len(lines) * _ROW, 0.8)):
        ax.plot([left, right], [y + 0.005, y + 0.005], color=style.INK, linewidth=width)


def _wrapped(text: str) -> str:
    """A strip's lines, each wrapped and cut where it is long."""
    lines = [textwrap.shorten(line, 150, placeholder=" …") for line in text.split("\n")]
    return "\n".join(textwrap.fill(line, 58) for line in lines)


def _draw_strips(
    ax: Axes, strips: Sequence[Strip], texts: Sequence[str], heights: Sequence[float]
) -> None:
    """Clips below each other: frames on the left, what is said of them beside."""
    top = 0.0
    for strip, text, height in zip(strips, texts, heights, strict=True):
        gap = np.full(
            (strip.frames.shape[1], max(1, strip.frames.shape[2] // 20), 3), 255, np.uint8
        )
        parts = [part for frame in strip.frames for part in (frame, gap)][:-1]
        pixels = np.concatenate(parts, axis=1)
        inch = min((_STRIP - 0.06) / pixels.shape[0], 0.55 * style.PAGE_WIDTH / pixels.shape[1])
        right, bottom = 0.08 + inch * pixels.shape[1], top + inch * pixels.shape[0]
        ax.imshow(pixels, extent=(0.08, right, bottom, top), aspect="auto")
        look: dict[str, Any] = {"va": "top", "parse_math": False}  # captions may hold dollar signs
        ax.text(right + 0.12, top, strip.title, size=7, weight="bold", **look)
        ax.text(right + 0.12, top + 0.14, text, size=6.5, **look)
        top += height
    ax.set_xlim(0, style.PAGE_WIDTH)  # imshow has changed them
    ax.set_ylim(top, 0)


def _rounded(share: float) -> float:
    return round(100 * share, 1) + 0.0  # no minus before 0.0
