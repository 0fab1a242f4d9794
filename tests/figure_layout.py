"""What every figure's layout must hold, at its printed size."""

import itertools
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from figures import style


def texts_are_apart(figure: Figure) -> None:
    """No text leaves the figure or lies on another."""
    figure.draw_without_rendering()
    ticks: list[tuple[Any, list[float]]] = [
        (tick, sorted(axis.get_view_interval()))
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    ]
    outside = [tick for tick, (low, high) in ticks if not low <= tick.get_loc() <= high]
    hidden = {label for tick in outside for label in (tick.label1, tick.label2)}
    boxes = {
        text: text.get_window_extent().padded(-1)
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    }
    width, height = figure.bbox.size
    bottom = (style.FOOTER - 0.02) * figure.dpi  # for the provenance line
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= bottom and box.y1 <= height, text
    for (one, box), (other, other_box) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(other_box), (one, other)
