"""A log axis with 0, which has no place on it, set apart on the left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from figures import style

_GAP: Final = 0.16  # of the x axis; between 0 and the smallest positive value
_MARGIN: Final = 0.05  # of the x axis; beyond both ends


def log_places(values: Sequence[float]) -> dict[float, float]:
    """Places in [0, 1] of distinct values of at least 0, ascending."""
    ordered = sorted(set(values))
    positive = [value for value in ordered if value > 0]
    places = dict.fromkeys(ordered, 0.0)
    if positive:
        start = _GAP if len(ordered) > len(positive) else 0.0
        logs = np.log(positive)
        spans = (logs - logs[0]) / (logs[-1] - logs[0]) if len(logs) > 1 else np.ones(1)
        places |= dict(zip(positive, start + (1 - start) * spans, strict=True))
    return places


def log_axis(
    ax: Axes, places: Mapping[float, float], labels: Mapping[float, str], *, turn: bool
) -> None:
    """Make an x axis of `log_places`, broken between 0 and the smallest positive value.

    Each place has a tick, and each one in `labels` a name. Names that would touch are turned by a
    quarter if `turn` says so; those that touch even so are left out.
    """
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    inches = box.width / (1.05 + 2 * _MARGIN)  # some is lost to names not laid out yet
    size = matplotlib.rcParams["xtick.labelsize"]
    widths = {  # in, with the space between two names
        value: TextPath((0, 0), name, size=size).get_extents().width / 72 + 0.04
        for value, name in labels.items()
    }
    named = [value for value in places if value in labels]

    def apart(one: float, other: float) -> bool:
        return (places[other] - places[one]) * inches >= (widths[one] + widths[other]) / 2

    turned = turn and not all(apart(*pair) for pair in pairwise(named))
    if turned:
        widths = dict.fromkeys(widths, size / 72 + 0.01)
    kept: list[float] = []
    for value in named:
        if not kept or apart(kept[-1], value):
            kept.append(value)
    at, names = [places[value] for value in kept], [labels[value] for value in kept]
    ax.set_xticks(at, names, rotation=90 if turned else 0)
    ax.set_xticks([place for value, place in places.items() if value not in kept], minor=True)
    ax.set_xlim(-_MARGIN, 1 + _MARGIN)
    if 0 in places and len(places) > 1:
        ax.plot(
            _GAP / 2 + np.array([-0.006, 0.006]),
            [0, 0],
            transform=ax.get_xaxis_transform(),
            linestyle="none",
            marker=[(-0.4, -1), (0.4, 1)],
            markersize=5,
            color=style.INK,
            markeredgewidth=0.6,
            clip_on=False,
        )
