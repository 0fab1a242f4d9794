"""Figure 4 of the supplement: accuracy in the training domain over the number of labelled clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from string import ascii_lowercase
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from figures import style
from figures.alpha_curve import Measure, panels_of
from figures.outcomes import ranks_of, sweep_rows
from fitclip_core.statistics import mean_interval

IN_DOMAIN_R1: Final = Measure("webvid_val", "text_to_video", 1)

_DODGE: Final = 0.011  # of the x axis; between the two samplings
_GAP: Final = 0.16  # of the x axis; between 0 and the smallest positive value
_MARGIN: Final = 0.05  # of the x axis; beyond both ends
# How Line2D draws them; told apart in grey by dashes, marker and its face.
_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "independent": {"color": style.LINE, "linestyle": "-", "marker": "o"},
    "nested": {
        "color": "#b34700",
        "linestyle": (0, (3, 1.5)),
        "marker": "s",
        "markerfacecolor": "white",
    },
}
_MEAN: Final[dict[str, Any]] = {"linewidth": 1.1, "markersize": 3.6, "markeredgewidth": 0.9}
_INTERVAL: Final[dict[str, Any]] = {
    "linestyle": "none",
    "color": style.INK,
    "marker": "|",
    "markersize": 8,
    "markeredgewidth": 0.8,
}
DRAW_DOT: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 2.2,
    "markerfacecolor": "white",
    "markeredgecolor": style.DRAW,
    "markeredgewidth": 0.6,
}
TEACHER_LINE: Final[dict[str, Any]] = {
    "color": style.INK,
    "linewidth": 0.7,
    "linestyle": (0, (4, 3)),
}


def measure_of(data_set: str) -> Measure:
    """R@1 or top-1 of one of the paper's data sets, for a study that cannot have `IN_DOMAIN_R1`.

    Raises: ValueError for another data set.
    """
    if not (panels := panels_of([data_set])):
        raise ValueError(f"{data_set!r} is none of the paper's data sets; give one of them")
    return replace(panels[0].measures[0], k=1)


def measured_in_words(measure: Measure) -> str:
    """Where the study is measured, in a sentence."""
    where = f"The study is measured by {measure.name} on {measure.data_set}"
    if measure.data_set == IN_DOMAIN_R1.data_set:
        return f"{where}, which is of the student's own domain, as in the paper."
    return (
        f"{where}, which is not of the student's own domain: there is no {IN_DOMAIN_R1.data_set}, "
        "which the paper measures, so its claims on subset sizes stay open."
    )


def left_out(data_set: str) -> list[str]:
    """What the study lacks where it is measured on a data set; nothing in the student's domain."""
    measure = measure_of(data_set)
    return [] if measure == IN_DOMAIN_R1 else [measured_in_words(measure)]


def subset_draws(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measure: Measure = IN_DOMAIN_R1
) -> pd.DataFrame:
    """Each single draw of the subset-size study: sampling, alpha, labelled_clips, draw, value.

    Values are fractions. Rows are sorted; the teacher, of size 0 and no draw, is repeated for each
    sampling.

    Raises: ValueError as `subset_table`.
    """
    rows = [
        (sampling, alpha, size, draw, value)
        for (sampling, size), hits in _study(outcomes, alpha, measure).items()
        for draw, value in hits.mean().items()
    ]
    columns = ["sampling", "alpha", "labelled_clips", "draw", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"draw": "Int64"})


def subset_table(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    measure: Measure = IN_DOMAIN_R1,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The study's numbers: one row per way of sampling and subset size, 0 being the teacher.

    Columns: sampling, alpha, labelled_clips, value (mean over draws),
    ci_low, ci_high (over items and draws; over items with one draw), n (items), draws,
    draw_low, draw_high (the extreme draws), best (highest of its sampling in hindsight; of equal
    ones the smallest size). Values are fractions.

    Raises: ValueError when the outcomes lack the teacher or this alpha, mix students of several
    labelled_share, have a student of size 0, or have not the same draws at each size of a sampling.
    Source: supplement, section 7 and figure 4.
    """
    rows = [
        {"sampling": sampling, "alpha": alpha, "labelled_clips": size}
        | point([hits.to_numpy().T], level, n_resamples, seed)
        for (sampling, size), hits in _study(outcomes, alpha, measure).items()
    ]
    table = pd.DataFrame(rows)
    best = table["value"].round(12).groupby(table["sampling"]).idxmax()
    return table.assign(best=table.index.isin(best))


def subset_size(
    outcomes: pd.DataFrame,
    alphas: Sequence[float] = (0.4,),
    *,
    measure: Measure = IN_DOMAIN_R1,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Figure:
    """Draw figure 4: a panel for each alpha, where 1 is the student alone.

    Sizes are on a log axis with the teacher, 0, set apart. Each way of sampling has a line through
    the means over draws, an interval at each size, and its draws as dots.

    Raises: ValueError when alphas is empty, or as `subset_table`.
    Source: supplement, figure 4.
    """
    tables = [
        subset_table(
            outcomes, alpha, measure=measure, level=level, n_resamples=n_resamples, seed=seed
        )
        for alpha in alphas
    ]
    if not tables:
        raise ValueError("there is no alpha to draw; give at least one")
    handles = _legend(tables[0], level)
    columns = 2 if len(alphas) == 1 else 3
    with style.theme():
        figure, axes = style.new_figure(
            len(alphas), height=2.9, legend_rows=math.ceil(len(handles) / columns)
        )
        for letter, alpha, table, ax in zip(ascii_lowercase, alphas, tables, axes, strict=False):
            _draw_panel(ax, table, subset_draws(outcomes, alpha, measure=measure))
            name = "Student (α = 1)" if alpha == 1 else f"Fused, α = {alpha:g}"
            title = name if len(alphas) == 1 else f"({letter}) {name}"
            ax.set_title(title, loc="left", weight="bold")
            ax.set_xlabel("Labelled clips (0: the teacher)")
        name = f"{measure.name[0].upper()}{measure.name[1:]}"
        own = measure.data_set == IN_DOMAIN_R1.data_set
        axes[0].set_ylabel(f"{name} (%)" if own else f"{name}, {measure.data_set} (%)")
        style.shared_legend(figure, handles, columns)
    return figure


def study_hits(
    outcomes: pd.DataFrame, alpha: float, measure: Measure, by: str | tuple[str, ...]
) -> tuple[pd.DataFrame, dict[Any, pd.DataFrame]]:
    """Hits (0 or 1) of the teacher, and of the model at `alpha` for each training of its students.

    by: the coordinate, or coordinates, that the study varies. Tables have a row per item, the same
    ones in all, and a column per draw; where `by` is not of the sampling, the draws of all
    samplings. The trainings are in ascending order.

    Raises: ValueError when alpha is not in (0, 1] or was not measured, another coordinate varies,
    or as `ranks_of`.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}; give one above 0 (the teacher), up to 1")
    rows = sweep_rows(outcomes)
    there = rows.loc[rows["data_set"] == measure.data_set, "alpha"].drop_duplicates()
    for needed in (0.0, alpha):
        if len(there) and not np.isclose(there, needed, atol=1e-9).any():
            known = ", ".join(f"{one:g}" for one in sorted(there))
            raise ValueError(
                f"alpha {needed:g} was not measured on {measure.data_set}; alphas there are: "
                f"{known}"
            )
    rows = rows[np.isclose(rows["alpha"], alpha, atol=1e-9) | rows["draw"].isna()]
    names = (by,) if isinstance(by, str) else by
    extra = () if "sampling" in names else ("sampling",)
    ranks = ranks_of(rows, measure.data_set, measure.direction, [*names, *extra])
    several = extra and len({point[-1] for point in ranks.points if point[-1]}) > 1
    parts: dict[Any, list[pd.DataFrame]] = {}
    for point, values in ranks.points.items():
        draws: list[Any] = ranks.draws[point] or [None]
        if several:
            draws = [f"{point[-1]} {draw}" for draw in draws]
        hits = pd.DataFrame((values <= measure.k).astype(np.float64).T, ranks.items, draws)
        training = point[0] if isinstance(by, str) else point
        parts.setdefault(training, []).append(hits)
    (of_teacher,) = parts.pop(None if isinstance(by, str) else (None,) * len(by))
    of_teacher.columns = pd.Index([None])
    return of_teacher, {training: pd.concat(found, axis=1) for training, found in parts.items()}


def check_same_draws(draws: Mapping[Any, Iterable[Any]], what: str) -> None:
    """Refuse a study whose places do not all have the same draws; `draws` holds them by place.

    Raises: ValueError naming a place that differs from the first.
    """
    places = iter(draws.items())
    first, expected = next(places)
    for place, found in places:
        if list(found) != list(expected):
            raise ValueError(
                f"{what} {first} have the draws {list(expected)}, but {place} has {list(found)}; "
                "finish the study or leave draws out"
            )


def point(
    data_sets: Sequence[np.ndarray], level: float, n_resamples: int, seed: int
) -> dict[str, Any]:
    """A study's numbers at one place: hits [draws, items] of data sets that count equally.

    value (mean over draws), ci_low, ci_high, n (items of all data sets), draws, draw_low,
    draw_high (the extreme draws); all fractions.
    """
    means = np.mean([hits.mean(axis=1) for hits in data_sets], axis=0)
    interval = mean_interval(
        data_sets, level=level, n_resamples=n_resamples, seed=seed, within=(0, 1)
    )
    return {
        "value": float(means.mean()),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "n": interval.n,
        "draws": len(means),
        "draw_low": float(means.min()),
        "draw_high": float(means.max()),
    }


def log_places(values: Sequence[float]) -> dict[float, float]:
    """Places in [0, 1] on a log axis, with 0, which has none, set apart on the left.

    values: distinct, not negative; ascending in the result.

    Raises: ValueError when there is none or one is negative.
    """
    ordered = sorted(set(values))
    if not ordered or ordered[0] < 0:
        raise ValueError(f"places on a log axis need values of at least 0, not {list(values)}")
    positive = [value for value in ordered if value > 0]
    places = dict.fromkeys(ordered, 0.0)
    if positive:
        start = _GAP if ordered[0] == 0 else 0.0
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
    widths = {
        value: TextPath((0, 0), name, size=size).get_extents().width / 72
        for value, name in labels.items()
    }

    def apart(one: float, other: float) -> float:
        return (places[other] - places[one]) * inches - (widths[one] + widths[other]) / 2

    space = 0.04  # in; between two names
    named = [value for value in places if value in labels]
    turned = turn and any(apart(*pair) < space for pair in pairwise(named))
    if turned:
        widths = dict.fromkeys(widths, size / 72)
        space = 0.01
    kept: list[float] = []
    for value in named:
        if not kept or apart(kept[-1], value) >= space:
            kept.append(value)
    ax.set_xticks(
        [places[value] for value in kept],
        [labels[value] for value in kept],
        rotation=90 if turned else 0,
    )
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


def _study(
    outcomes: pd.DataFrame, alpha: float, measure: Measure
) -> dict[tuple[str, int], pd.DataFrame]:
    """Hits at each (sampling, subset size), the teacher's at size 0: [items, draws] each."""

    by = ("sampling", "labelled_clips")
    teacher, found = study_hits(outcomes, alpha, measure, by)
    study: dict[tuple[str, int], pd.DataFrame] = {}
    draws: dict[str, dict[int, Iterable[Any]]] = {}
    for (sampling, size), hits in found.items():
        if size == 0:
            raise ValueError(
                "a student of no labelled clips is no point of this study; leave it out"
            )
        study.setdefault((sampling, 0), teacher)
        study[sampling, size] = hits
        draws.setdefault(sampling, {})[size] = hits.columns
    for sampling, seeds in draws.items():
        check_same_draws(seeds, f"{sampling} subsets of size")
    return study


def _draw_panel(ax: Axes, table: pd.DataFrame, draws: pd.DataFrame) -> None:
    samplings = list(table["sampling"].unique())
    places = log_places(list(table["labelled_clips"]))
    for sampling in samplings:
        side = 0 if len(samplings) == 1 else {"independent": -1, "nested": 1}[sampling]
        rows = table[table["sampling"] == sampling]
        look = _LOOKS[sampling]
        trained = rows[rows["labelled_clips"] > 0]
        _draw_interval(ax, _dodged(trained, places, side), trained, look["color"])
        if trained["draws"].iloc[0] > 1:
            single = draws[(draws["sampling"] == sampling) & (draws["labelled_clips"] > 0)]
            ax.plot(_dodged(single, places, side), 100 * single["value"], **DRAW_DOT, zorder=2.5)
        x = _dodged(rows, places, side)
        ax.plot(x, 100 * rows["value"], **look, **_MEAN, label=sampling, zorder=3)
    teacher = table.iloc[:1]
    _draw_interval(ax, np.zeros(1), teacher, style.INK)
    ax.plot(0, 100 * teacher["value"], "D", color=style.INK, markersize=4, zorder=4)
    ax.axhline(100 * teacher["value"].iloc[0], **TEACHER_LINE)
    ax.margins(y=0.08)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    log_axis(ax, places, {size: f"{size:,}" for size in places}, turn=True)
    sns.despine(ax=ax)


def _draw_interval(ax: Axes, x: np.ndarray, rows: pd.DataFrame, colour: str) -> None:
    ax.vlines(x, 100 * rows["ci_low"], 100 * rows["ci_high"], color=colour, linewidth=0.8)


def _dodged(rows: pd.DataFrame, places: Mapping[float, float], side: int) -> np.ndarray:
    """Places of the rows' sizes, each sampling on its side; the teacher is one for both."""
    sizes = rows["labelled_clips"]
    return (sizes.map(places) + side * _DODGE * (sizes > 0)).to_numpy()


def _legend(table: pd.DataFrame, level: float) -> list[Artist]:
    """Handles for each way of sampling, with its number of draws, and for what they share."""
    handles: list[Artist] = []
    for sampling, number in table.groupby("sampling", sort=False)["draws"].max().items():
        name = f"{sampling} subsets, {number} draw{'s' if number > 1 else ''}"
        handles.append(Line2D([], [], **_LOOKS[str(sampling)], **_MEAN, label=name))
    several = table["draws"].max() > 1
    over = "items × draws" if several else "items"
    handles.append(Line2D([], [], **_INTERVAL, label=f"{level:.0%} interval ({over})"))
    if several:
        handles.append(Line2D([], [], **DRAW_DOT, label="each draw"))
    handles.append(Line2D([], [], **TEACHER_LINE, label="teacher's level"))
    return handles
