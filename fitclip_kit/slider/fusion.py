"""Which fused model the page shows: a student, a share of it for each tower, and a way to merge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from fitclip_core import ensembling
from fitclip_core.ensembling import Schedule, State
from fitclip_core.merges import Share

AVERAGE, LINEAR, FISHER = "average", "linear in depth", "fisher"
MERGES: Final = (AVERAGE, LINEAR, FISHER)
"""Plain shares; `linear_at`; and Fisher-weighted merging that goes the part alpha of the way from
teacher to student, as notebook 07 sets it up."""


@dataclass(frozen=True)
class Fusion:
    """One fused model of a teacher and a student.

    Attributes:
        draw: the student's number.
        vision: the student's share of the vision tower, in [0, 1], kept to 9 decimals as results
            keep it.
        text: the same of the text tower.
        merge: one of `MERGES`.

    Raises: ValueError for a share outside [0, 1], a negative draw or an unknown merge.
    """

    draw: int
    vision: float
    text: float
    merge: str = AVERAGE

    def __post_init__(self) -> None:
        if int(self.draw) != self.draw or self.draw < 0:
            raise ValueError(f"the student's number is {self.draw!r}; give a whole one from 0 on")
        object.__setattr__(self, "draw", int(self.draw))
        for tower in ("vision", "text"):
            share = float(getattr(self, tower))
            if math.isnan(share) or not 0 <= share <= 1:
                raise ValueError(
                    f"the {tower} tower's share is {share}; the student's share must lie in [0, 1]"
                )
            object.__setattr__(self, tower, round(share, 9) + 0.0)  # -0.0 would be another title
        if self.merge not in MERGES:
            raise ValueError(f"merge is {self.merge!r}; use one of {', '.join(MERGES)}")

    @classmethod
    def at(cls, draw: int, alpha: float, merge: str = AVERAGE) -> Self:
        """The fusion with one alpha for both towers; errors as the class."""
        return cls(draw, alpha, alpha, merge)

    @property
    def locked(self) -> bool:
        """Whether both towers have one alpha."""
        return self.vision == self.text

    @property
    def alpha(self) -> float:
        """The one alpha of both towers.

        Raises: ValueError when they have two.
        """
        if not self.locked:
            raise ValueError(f"{self.title} has no single alpha; ask `vision` and `text`")
        return self.vision

    @property
    def is_plain(self) -> bool:
        """Whether the weights are those of the plain sweep at `alpha`; at 0 and 1 all merges are.

        Such a fusion's outcomes may be stored.
        """
        return self.locked and (self.merge == AVERAGE or self.vision in (0.0, 1.0))

    @property
    def scheduled(self) -> tuple[float, ...]:
        """The alphas at which the merge has to say what each parameter takes, each once."""
        if self.merge == AVERAGE:
            return ()
        return tuple(sorted({self.vision, self.text} - {0.0, 1.0}))

    @property
    def ends(self) -> tuple[Fusion, Fusion]:
        """The teacher and the student that are fused."""
        return Fusion.at(self.draw, 0), Fusion.at(self.draw, 1)

    @property
    def title(self) -> str:
        """Plain text for headings, such as "vision 0.4, text 0.7 · student 1"."""
        shares = f"α = {self.vision:.9g}"
        if not self.locked:
            shares = f"vision {self.vision:.9g}, text {self.text:.9g}"
        merge = "" if self.merge == AVERAGE else f"{self.merge}, "
        return f"{merge}{shares} · student {self.draw}"


def merged(fusion: Fusion, schedules: Mapping[float, Schedule]) -> Callable[[str], Share]:
    """The student's share of each parameter, as `ensembling.interpolate` takes it.

    A tower whose share is 0 is the teacher's and one whose share is 1 the student's, in any merge.
    With two shares the vision tower is that of the merge at the vision share and the text tower
    that of the merge at the text share.

    Args:
        fusion: the model that is wanted.
        schedules: the merge's schedule, for both towers, at each of `fusion.scheduled`.

    Returns:
        A parameter's name -> the student's share of it.
    """
    if fusion.is_plain:
        return lambda name: fusion.alpha
    towers = ensembling.per_tower(fusion.vision, fusion.text)

    def share(name: str) -> Share:
        alpha = towers(name)
        if alpha not in fusion.scheduled:
            return alpha
        schedule = schedules[alpha]
        return schedule[name] if isinstance(schedule, Mapping) else schedule(name)

    return share


def linear_at(alpha: float, state: State) -> dict[str, float]:
    """Shares that grow linearly with depth and are alpha in the middle of each tower.

    They start at 0 and end at 2 alpha, as notebook 07's `deeper`; above a half, where that would
    pass 1, they start at 2 alpha - 1 and end at 1.

    Args:
        alpha: in [0, 1].
        state: of the model.

    Returns:
        An alpha for each name, as `ensembling.linear_in_depth`, whose errors it has.
    """
    return ensembling.linear_in_depth(max(0.0, 2 * alpha - 1), min(1.0, 2 * alpha), state)
