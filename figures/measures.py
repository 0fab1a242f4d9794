"""Which data sets are measured by what, and which panels and studies they make: the only list.

The panels are the paper's; a run with other data sets has the panels of those that it has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from fitclip_kit.store.results import CLASSIFICATION


@dataclass(frozen=True)
class Measure:
    """The share of a data set's items whose right target has rank <= k."""

    data_set: str
    direction: str
    k: int

    @property
    def name(self) -> str:
        """How the field writes it: top-1, or text-to-video R@5."""
        if self.direction == CLASSIFICATION:
            return f"top-{self.k}"
        return f"{self.direction.replace('_', '-')} R@{self.k}"


@dataclass(frozen=True)
class Panel:
    """A curve to draw: the mean, with equal weights, of one or more data sets' measures."""

    name: str
    measures: tuple[Measure, ...]

    @property
    def title(self) -> str:
        """Of which data sets it is: "In-domain (webvid_val)"."""
        number, name = len(self.measures), self.name.replace("_", "-").capitalize()
        if number == 1:
            return f"{name} ({self.measures[0].data_set})"
        return f"{name}, mean of {number} data sets"


def measures_in_words(measures: Sequence[Measure]) -> str:
    """What is measured, as an axis says it: "Text-to-video R@5", or "Mean of R@5 and top-1"."""
    if len(measures) == 1:
        return measures[0].name[0].upper() + measures[0].name[1:]
    return f"Mean of {' and '.join(sorted({one.name.split()[-1] for one in measures}))}"


def measure_name(measures: Sequence[Measure]) -> str:
    """What is measured, in a table: of one data set, or the mean over several."""
    if len(measures) == 1:
        return f"{measures[0].data_set} {measures[0].name}"
    names = " and ".join(sorted({one.name for one in measures}))
    return f"mean of {names} over {len(measures)} data sets"


IN_DOMAIN: Final = Panel("in_domain", (Measure("webvid_val", "text_to_video", 5),))
ZERO_SHOT: Final = Panel(
    "zero_shot",
    (
        *(Measure(name, "text_to_video", 5) for name in ("didemo", "msrvtt", "youcook2")),
        *(Measure(name, CLASSIFICATION, 1) for name in ("mit", "ucf101")),
    ),
)
PANELS: Final = (IN_DOMAIN, ZERO_SHOT)
OWN: Final = IN_DOMAIN.measures[0].data_set
SIZE_MEASURE: Final = Measure(OWN, "text_to_video", 1)  # of the study of subset sizes
_KNOWN: Final = {one.data_set: one for panel in PANELS for one in panel.measures}
_SHARE_ORDER: Final = ("mit", "ucf101", "msrvtt", "youcook2", "didemo")  # of figure 5


def panels_of(data_sets: Collection[str]) -> tuple[Panel, ...]:
    """The panels of some data sets, each of those of its sets that are there; none without any."""
    kept = (
        replace(panel, measures=tuple(one for one in panel.measures if one.data_set in data_sets))
        for panel in PANELS
    )
    return tuple(panel for panel in kept if panel.measures)


def panels_in(outcomes: pd.DataFrame) -> tuple[Panel, ...]:
    """`panels_of` the data sets that outcomes hold. Raises: ValueError when there is none."""
    there = sorted(set(outcomes["data_set"].astype(str)))
    if not (panels := panels_of(there)):
        raise ValueError(
            f"outcomes of {', '.join(there) or 'no data set'} make no panel; measure one of "
            f"{', '.join(_KNOWN)}"
        )
    return panels


def scopes_of(panels: Sequence[Panel]) -> dict[str, tuple[Measure, ...]]:
    """What is compared: each panel, then each data set of it, by name; no name twice."""
    several = [panel.measures for panel in panels if len(panel.measures) > 1]
    alone = {measure.data_set: (measure,) for measures in several for measure in measures}
    return {panel.name: panel.measures for panel in panels} | alone


def shown_on(preferred: str, data_sets: Collection[str]) -> str | None:
    """Where to draw a figure that the paper draws of one data set, of those that are there.

    That set, or else the first of its kind (retrieval or recognition), the zero-shot ones before
    the student's own domain; None where there is none.
    """
    kind = _KNOWN[preferred].direction
    known = [one for panel in PANELS[::-1] for one in panel.measures]
    alike = (one.data_set for one in known if one.direction == kind)
    return next((name for name in (preferred, *alike) if name in data_sets), None)


def size_measure(data_set: str) -> Measure:
    """R@1 or top-1 of one of the paper's data sets, for a study that cannot have `SIZE_MEASURE`.

    Raises: ValueError for another data set.
    """
    if data_set not in _KNOWN:
        raise ValueError(f"{data_set!r} is none of the paper's data sets; give one of them")
    return replace(_KNOWN[data_set], k=1)


def share_measures(data_sets: Collection[str] = _SHARE_ORDER) -> tuple[Measure, ...]:
    """What the study of label shares shows of some data sets: the zero-shot ones, in the order of
    figure 5, or the student's own domain where there is none."""
    zero_shot = tuple(_KNOWN[name] for name in _SHARE_ORDER if name in data_sets)
    return zero_shot or (IN_DOMAIN.measures if OWN in data_sets else ())


# What a run goes without, a sentence each; nothing where all of the paper's data sets are there


def size_study_in_words(measure: Measure) -> str:
    """Where the study of subset sizes is measured."""
    where = f"The study is measured by {measure.name} on {measure.data_set}"
    if measure.data_set == OWN:
        return f"{where}, which is of the student's own domain, as in the paper."
    return (
        f"{where}, which is not of the student's own domain: there is no {OWN}, "
        "which the paper measures, so its claims on subset sizes stay open."
    )


def left_out(data_sets: Collection[str]) -> list[str]:
    """What the panels of some data sets lack."""
    lines = []
    if OWN not in data_sets:
        lines.append(f"{OWN} is not measured, so nothing is said of the student's own domain.")
    zero_shot = [one.data_set for one in ZERO_SHOT.measures]
    there = [name for name in zero_shot if name in data_sets]
    if not there:
        lines.append("No zero-shot data set is measured, so nothing is said of any.")
    elif absent := [name for name in zero_shot if name not in there]:
        lines.append(
            f"Not measured: {', '.join(absent)}. What is said of all zero-shot data sets is said "
            f"of {len(there)} ({', '.join(there)}), where the paper has {len(zero_shot)}."
        )
    if own := [name for name in data_sets if name not in _KNOWN]:
        lines.append(
            f"{', '.join(own)}: measured and in the tables of metrics, but in no figure or test, "
            "which are of the paper's data sets."
        )
    return lines


def left_out_of_sizes(data_set: str) -> list[str]:
    """What the study of subset sizes lacks where it is measured on a data set."""
    return [] if data_set == OWN else [size_study_in_words(size_measure(data_set))]


def left_out_of_shares(data_sets: Collection[str]) -> list[str]:
    """What the study of label shares lacks where it is measured on some data sets."""
    lines = left_out([OWN, *(name for name in data_sets if name != OWN)])
    if OWN in data_sets and share_measures(data_sets) != IN_DOMAIN.measures:
        lines.append(f"{OWN}, of the student's own domain, is left out of this study.")
    return lines


def left_out_of_figures(data_sets: Collection[str], tower_sets: Collection[str]) -> list[str]:
    """Which of notebook 07's sections some data sets cannot fill, and why."""
    lines = []
    for section, preferred, kind, also in (
        ("Figure 1", "mit", "recognition", ""),
        ("Figure 2", "msrvtt", "retrieval", ", and so are both directions"),
    ):
        on = shown_on(preferred, data_sets)
        if on is None:
            lines.append(f"{section} is left out{also}: no data set of {kind} is measured.")
        elif on != preferred:
            lines.append(f"{section} is of {on}: {preferred}, the paper's, is not measured.")
    there = [name for name in _KNOWN if name in data_sets]
    if len(set(there) - {OWN}) == 1:
        also = "" if OWN in there else ", and the section is left out"
        lines.append(f"With one zero-shot data set, alpha is chosen on no other{also}.")
    if absent := [name for name in tower_sets if name not in there]:
        rest = ", ".join(name for name in tower_sets if name in there)
        left = f"is of {rest} alone" if rest else "is left out"
        lines.append(
            f"The map of an alpha for each tower {left} (not measured: {', '.join(absent)})."
        )
    return lines
