"""What is known of a fused model on each data set: stored, measured just now, or estimated."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

import pandas as pd

from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel, Progress, Stop
from fitclip_kit.slider.stored import Point, StoredSweep, share_point

KEPT: Final = 120  # tables of outcomes, about 0.2 MB each for 1,000 clips


class Answers:
    """Answers at once what is stored or was measured before, and measures the rest.

    All methods but `measure` take well below a millisecond and may be called from any thread.

    Args:
        sweep: the stored cells.
        live: measures what is not stored.
    """

    def __init__(self, sweep: StoredSweep, live: LiveModel) -> None:
        self.sweep, self._live = sweep, live
        self._lock = threading.Lock()
        self._points: dict[tuple[Fusion, str], Point] = {}
        self._outcomes: OrderedDict[tuple[Fusion, str], pd.DataFrame] = OrderedDict()

    def outcomes(self, fusion: Fusion, data_set: str) -> pd.DataFrame | None:
        """The outcomes of a fusion on a data set, as `zero_shot.rank`; None until measured."""
        if fusion.is_plain:
            stored = self.sweep.outcomes(data_set, fusion.draw, fusion.alpha)
            if stored is not None:
                return stored
        with self._lock:
            return self._outcomes.get((fusion, data_set))

    def point(self, fusion: Fusion, data_set: str) -> Point | None:
        """The measure of a data set: stored, exact, or interpolated between stored alphas.

        None where nothing can be said before it is measured: fusions that are not of the sweep's
        kind lie on no stored curve.
        """
        with self._lock:
            measured = self._points.get((fusion, data_set))
        if measured is not None or not fusion.is_plain:
            return measured
        return self.sweep.at(data_set, fusion.draw, fusion.alpha)

    def points(self, fusion: Fusion) -> dict[str, Point]:
        """`point` on every data set that has one, in the sweep's order."""
        found = {name: self.point(fusion, name) for name in self.sweep.measures}
        return {name: point for name, point in found.items() if point is not None}

    def missing(self, fusion: Fusion, first: str) -> list[str]:
        """The data sets that are not measured at this fusion, `first` at the front."""
        lacking = [name for name in self.sweep.measures if self._lacks(fusion, name)]
        return sorted(lacking, key=lambda name: name != first)

    def measure(self, fusion: Fusion, data_set: str, stop: Stop, progress: Progress) -> None:
        """Measure a fusion on a data set and keep the result.

        Raises: Superseded when `stop()` turns true.
        """
        clip_set = self._live.material.sets[data_set]
        outcomes = self._live.outcomes(fusion, clip_set, stop=stop, progress=progress)
        point = share_point(outcomes, self.sweep.measures[data_set])
        with self._lock:
            self._points[fusion, data_set] = point
            self._outcomes[fusion, data_set] = outcomes
            if len(self._outcomes) > KEPT:
                oldest, _ = self._outcomes.popitem(last=False)
                del self._points[oldest]

    def _lacks(self, fusion: Fusion, data_set: str) -> bool:
        point = self.point(fusion, data_set)
        return point is None or point.status == "interpolated"
