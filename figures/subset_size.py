"""Figure 4 of the supplement: accuracy in the training domain over the number of labelled clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style
from figures.hits import StudyHits, point_numbers, study_hits, with_best
from figures.log_axis import log_axis, log_places
from figures.measures import OWN, SIZE_MEASURE, Measure, measures_in_words
from figures.outcomes import same_draws

_DODGE: Final = {"independent": -0.011, "nested": 0.011}  # of the x axis, where both are drawn
# How Line2D draws them; told apart in grey by dashes, marker and its face.
_MEAN: Final[dict[str, Any]] = {"linewidth": 1.1, "markersize": 3.6, "markeredgewidth": 0.9}
_LOOKS: Final[dict[Any, dict[str, Any]]] = {
    "independent": {**_MEAN, "color": style.LINE, "linestyle": "-", "marker": "o"},
    "nested": {
        **_MEAN,
        "color": style.SECOND,
        "linestyle": (0, (3, 1.5)),
        "marker": "s",
        "markerfacecolor": "white",
    },
}
_INTERVAL: Final[dict[str, Any]] = {
    "linestyle": "none",
    "color": style.INK,
    "marker": "|",
    "markersize": 8,
    "markeredgewidth": 0.8,
}


def subset_hits(outcomes: pd.DataFrame, alpha: float, measure: Measure) -> StudyHits:
    """Hits at each (sampling, labelled clips) of the study.

    Raises: ValueError as `hits.study_hits`, or when a sampling has not the same draws at each size.
    """
    study = study_hits(outcomes, alpha, measure, by=("sampling", "labelled_clips"))
    for wanted in {sampling for sampling, _ in study.draws}:
        draws = {size: found for (one, size), found in study.draws.items() if one == wanted}
        same_draws(draws, f"{wanted} subsets of size")
    return study


def subset_draws(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measure: Measure = SIZE_MEASURE
) -> pd.DataFrame:
    """Each single draw of the study: sampling, alpha, labelled_clips, draw, value (fraction)."""
    study = subset_hits(outcomes, alpha, measure)
    rows = [
        (sampling, alpha, size, draw, value)
        for (sampling, size), hits in study.hits.items()
        for draw, value in zip(study.draws[sampling, size], hits.mean(axis=1), strict=True)
    ]
    return pd.DataFrame(rows, columns=["sampling", "alpha", "labelled_clips", "draw", "value"])


def subset_table(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measure: Measure = SIZE_MEASURE
) -> pd.DataFrame:
    """The study's numbers: one row per way of sampling and subset size, 0 being the teacher.

    Columns: sampling (independent or nested), alpha, labelled_clips, those of `hits.point_numbers`
    and best (highest of its sampling in hindsight; of equal ones the smallest size).

    Raises: ValueError as `subset_hits`.
    """
    study = subset_hits(outcomes, alpha, measure)
    points = {(sampling, 0): study.teacher for sampling, _ in study.hits} | dict(study.hits)
    rows = [
        {"sampling": sampling, "alpha": alpha, "labelled_clips": size}
        | point_numbers([points[sampling, size]])
        for sampling, size in sorted(points)
    ]
    return with_best(pd.DataFrame(rows), "sampling")


def subset_size(
    outcomes: pd.DataFrame, alphas: Sequence[float] = (0.4,), *, measure: Measure = SIZE_MEASURE
) -> Figure:
    """Draw figure 4: a panel for each alpha, where 1 is the student alone.

    Sizes are on a log axis with the teacher, 0, set apart. Each way of sampling has a line through
    the means over draws, an interval at each size, and its draws as dots.

    Raises: ValueError when alphas is empty, or as `subset_table`.
    """
    tables = [subset_table(outcomes, alpha, measure=measure) for alpha in alphas]
    if not tables:
        raise ValueError("there is no alpha to draw; give at least one")
    handles, columns = _legend(tables[0]), 2 if len(tables) == 1 else 3
    rows = math.ceil(len(handles) / columns)
    titles = [f"Fused, α = {alpha:g}" if alpha != 1 else "Student (α = 1)" for alpha in alphas]
    with style.theme():
        figure, axes = style.new_figure(len(tables), height=2.9, legend_rows=rows)
        panels = zip(alphas, tables, style.lettered(titles), axes, strict=True)
        for alpha, table, title, ax in panels:
            _draw_panel(ax, table, subset_draws(outcomes, alpha, measure=measure))
            ax.set_title(title, loc="left", weight="bold")
            ax.set_xlabel("Labelled clips (0: the teacher)")
        on = "" if measure.data_set == OWN else f", {measure.data_set}"
        axes[0].set_ylabel(f"{measures_in_words([measure])}{on} (%)")
        style.shared_legend(figure, handles, columns)
    return figure


def _draw_panel(ax: Axes, table: pd.DataFrame, singles: pd.DataFrame) -> None:
    places = log_places(list(table["labelled_clips"]))
    both = table["sampling"].nunique() > 1

    def x(rows: pd.DataFrame) -> pd.Series:
        sizes = rows["labelled_clips"]
        return sizes.map(places) + rows["sampling"].map(_DODGE) * (sizes > 0) * both

    def interval(rows: pd.DataFrame, colour: str) -> None:
        low, high = 100 * rows["ci_low"], 100 * rows["ci_high"]
        ax.vlines(x(rows), low, high, color=colour, linewidth=0.8)

    for sampling, rows in table.groupby("sampling", sort=False):
        interval(rows[rows["labelled_clips"] > 0], _LOOKS[sampling]["color"])
        if rows["draws"].max() > 1:
            dots = singles[singles["sampling"] == sampling]
            ax.plot(x(dots), 100 * dots["value"], **style.DRAW_DOT, zorder=2.5)
        ax.plot(x(rows), 100 * rows["value"], **_LOOKS[sampling], label=sampling, zorder=3)
    teacher = table.iloc[:1]
    interval(teacher, style.INK)
    ax.plot(0, 100 * teacher["value"], "D", color=style.INK, markersize=4, zorder=4)
    ax.axhline(100 * teacher["value"].iloc[0], **style.TEACHER)
    ax.margins(y=0.08)
    style.round_steps(ax.yaxis)
    log_axis(ax, places, {size: f"{size:,}" for size in places}, turn=True)
    sns.despine(ax=ax)


def _legend(table: pd.DataFrame) -> list[Artist]:
    """Handles for each way of sampling, with its number of draws, and for what they share."""
    handles: list[Artist] = []
    for sampling, number in table.groupby("sampling", sort=False)["draws"].max().items():
        name = f"{sampling} subsets, {number} draw{'s' if number > 1 else ''}"
        handles.append(Line2D([], [], **_LOOKS[sampling], label=name))
    draws = table["draws"].max()
    handles.append(Line2D([], [], **_INTERVAL, label=style.interval_label(draws)))
    if draws > 1:
        handles.append(Line2D([], [], **style.DRAW_DOT, label="each draw"))
    handles.append(Line2D([], [], **style.TEACHER, label="teacher's level"))
    return handles
