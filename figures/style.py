"""One look for every figure: sizes, colours, and files with the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final

import matplotlib.figure
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator

from figures.provenance import line as provenance_line
from figures.provenance import with_commit
from fitclip_kit.store.files import atomic_path

COLUMN_WIDTH: Final = 3.35  # in; one column of the paper
PAGE_WIDTH: Final = 6.9  # in; both columns and the gap
DPI: Final = 300
FOOTER: Final = 0.13  # in; kept free at the bottom for the provenance line
_LEGEND_ROW: Final = 0.15  # in

# seaborn's colour-blind-safe blue, its tint and two greys: in grey they differ in lightness too.
LINE: Final = sns.color_palette("colorblind").as_hex()[0]
BAND: Final = "#c5dcea"
DRAW: Final = "#7a7a7a"
INK: Final = "#1a1a1a"
SECOND: Final = "#b34700"  # beside LINE
GRID: Final = "#e2e2e2"
TEACHER: Final[dict[str, Any]] = {"color": INK, "linewidth": 0.7, "linestyle": (0, (4, 3))}
DRAW_DOT: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 2.2,
    "markerfacecolor": "white",
    "markeredgecolor": DRAW,
    "markeredgewidth": 0.6,
}
# Where a legend over its axes stands.
ABOVE: Final[dict[str, Any]] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}

_FONT: Final = 7.5  # pt at final size
_RC: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same on every machine
    "font.size": _FONT,
    "axes.labelsize": _FONT,
    "axes.titlesize": _FONT + 0.5,
    "xtick.labelsize": _FONT,
    "ytick.labelsize": _FONT,
    "legend.fontsize": _FONT - 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2,
    "lines.linewidth": 1.4,
    "text.color": INK,
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "svg.hashsalt": "fitclip",
}


@contextmanager
def theme() -> Iterator[None]:
    """Draw with the kit's theme inside the block, whatever the user's settings; they come back."""
    look = sns.axes_style("ticks") | sns.plotting_context("paper") | _RC
    with matplotlib.style.context(["default", look]):
        yield


class Figure(matplotlib.figure.Figure):
    """A figure without window and pyplot; notebooks show it as it is saved, but cropped."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI / 2)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        with theme():
            self.savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
        return picture.getvalue()


def new_figure(panels: int, height: float, legend_rows: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` axes side by side and `height` inches; column width for one, else page.

    `legend_rows` lines of text are kept free under the axes for `shared_legend`.
    """
    if panels < 1:
        raise ValueError(f"a figure needs at least one panel, not {panels}")
    with theme():
        figure = Figure(COLUMN_WIDTH if panels == 1 else PAGE_WIDTH, height)
        axes = figure.subplots(1, panels, squeeze=False)
        share = (FOOTER + legend_rows * _LEGEND_ROW) / height
        figure.set_layout_engine("constrained", rect=(0, share, 1, 1 - share), wspace=0.04)
    return figure, list(np.ravel(axes))


def shared_legend(
    figure: matplotlib.figure.Figure, handles: Sequence[Artist], columns: int
) -> None:
    """Put one legend for all panels above the provenance line, in the rows kept free for it."""
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, FOOTER / figure.get_figheight()),
        ncols=columns,
        frameon=False,
        columnspacing=1.2,
        borderpad=0,
        borderaxespad=0.1,
        labelspacing=0.3,
    )


def lettered(titles: Sequence[str]) -> list[str]:
    """Titles of panels: "(a) ..." where there are several."""
    several = len(titles) > 1
    return [
        f"({letter}) {title}" if several else title
        for letter, title in zip(ascii_lowercase, titles, strict=False)
    ]


def mean_label(draws: int) -> str:
    """What a curve is the mean of, in a legend."""
    return f"mean of {draws} draws" if draws > 1 else "the one draw"


def interval_label(draws: int, level: float = 0.95, items: str = "items") -> str:
    """What an interval is over, in a legend: "95% interval (items × draws)"."""
    return f"{level:.0%} interval ({items}{' × draws' if draws > 1 else ''})"


def alpha_axis(ax: Axes) -> None:
    """An x axis of alpha from teacher to student, and a y axis with round steps."""
    names = ["0\nteacher", "0.2", "0.4", "0.6", "0.8", "1\nstudent"]
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], names)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xlabel("α, weight of the student", labelpad=-6)
    round_steps(ax.yaxis)
    sns.despine(ax=ax)


def round_steps(axis: Axis, most: int = 6) -> None:
    """Ticks at 1, 2 or 5 of a power of ten, at most this many steps of them."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))


def save(
    figure: matplotlib.figure.Figure, stem: Path | str, provenance: Mapping[str, str]
) -> list[Path]:
    """Write `stem`.png (300 dpi) and `stem`.pdf with a provenance line; returns the two paths.

    `provenance` maps names to values, say {"results": digest}; the commit of this code is added.
    The line shows 12 characters of each value and the files' metadata the whole. The same figure
    gives the same bytes: no date, no program version. Each file is replaced atomically.
    """
    provenance, stem = with_commit(provenance), Path(stem)
    whole = "; ".join(f"{name}: {value}" for name, value in provenance.items())
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None, "Description": whole},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": whole},
    }
    paths = []
    with theme():
        where, line = (0.99, 0.02 / figure.get_figheight()), provenance_line(provenance)
        footer = figure.text(*where, line, ha="right", fontsize=5.5, color=DRAW)
        try:
            for kind, content in metadata.items():
                path = stem.with_name(f"{stem.name}.{kind}")
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format=kind, dpi=DPI, metadata=content)
                paths.append(path)
        finally:
            footer.remove()
    return paths
