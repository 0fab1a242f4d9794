"""Figure 5 of the supplement: accuracy over the share of the pseudo-label loss in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import style
from figures.hits import point_numbers, study_hits, with_best
from figures.log_axis import log_axis, log_places
from figures.measures import Measure, measure_name, share_measures
from figures.outcomes import same_draws

MEAN: Final = "mean"
MEASURES: Final = share_measures()  # the paper's
_COLUMNS: Final = 3
_ROW: Final = 1.65  # in
_LINE: Final[dict[str, Any]] = {
    "color": style.LINE,
    "linewidth": 1.2,
    "marker": "o",
    "markersize": 3.4,
}
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class ShareHits:
    """Hits of some data sets: the teacher's, [1, items] each, and by pseudo-label share the fused
    model's, [draws, items] each."""

    measures: Sequence[Measure]
    teacher: list[np.ndarray]
    hits: Mapping[float, list[np.ndarray]]
    draws: list[int]


def share_hits(
    outcomes: pd.DataFrame, alpha: float, measures: Sequence[Measure]
) -> dict[str, ShareHits]:
    """Hits of the study by scope: each data set, and "mean" of all where there are several.

    Raises: ValueError as `hits.study_hits`, when there is no measure, or when the data sets have
    not the same shares and draws.
    """
    if not measures:
        raise ValueError("there is no measure of the study; give at least one")
    studies = {one: study_hits(outcomes, alpha, one, by="labelled_share") for one in measures}
    shares = sorted({share for study in studies.values() for share in study.hits}, reverse=True)
    places = {}
    for (measure, study), share in product(studies.items(), shares):
        place = f"{measure.data_set} at pseudo-label share {1 - share:.9g}"
        if share not in study.draws:
            raise ValueError(f"there are no outcomes of {place}; finish the study")
        places[place] = study.draws[share]
    draws = same_draws(places, "outcomes of")
    scopes = {measure.data_set: [measure] for measure in measures}
    if len(measures) > 1:
        scopes[MEAN] = list(measures)
    return {
        scope: ShareHits(
            chosen,
            [studies[one].teacher for one in chosen],
            {round(1 - share, 9): [studies[one].hits[share] for one in chosen] for share in shares},
            draws,
        )
        for scope, chosen in scopes.items()
    }


def share_table(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measures: Sequence[Measure] = MEASURES
) -> pd.DataFrame:
    """The numbers of the label-share study: one row per data set and share of the pseudo-labels.

    Columns: scope (data set, or "mean": of all with equal weights, where there are several),
    measure, alpha, pseudo_share (weight of the distillation loss, 1 - labelled_share; 0 is training
    on labels alone, as WiSE-FT does), those of `hits.point_numbers`, teacher (its value), best
    (highest of its scope in hindsight; of equal ones the smallest share).

    Raises: ValueError as `share_hits`.
    """
    rows = [
        {"scope": scope, "measure": measure_name(study.measures), "alpha": alpha}
        | {"pseudo_share": share}
        | point_numbers(hits)
        | {"teacher": float(np.mean([teacher.mean() for teacher in study.teacher]))}
        for scope, study in share_hits(outcomes, alpha, measures).items()
        for share, hits in study.hits.items()
    ]
    return with_best(pd.DataFrame(rows), "scope")


def share_draws(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measures: Sequence[Measure] = MEASURES
) -> pd.DataFrame:
    """Each single draw of the study: scope, alpha, pseudo_share, draw, value (fraction)."""
    rows = []
    for scope, study in share_hits(outcomes, alpha, measures).items():
        for share, hits in study.hits.items():
            values = np.mean([of_set.mean(axis=1) for of_set in hits], axis=0)
            for draw, value in zip(study.draws, values, strict=True):
                rows.append((scope, alpha, share, draw, value))
    return pd.DataFrame(rows, columns=["scope", "alpha", "pseudo_share", "draw", "value"])


def label_share(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, measures: Sequence[Measure] = MEASURES
) -> Figure:
    """Draw figure 5: a panel for each data set and one for their mean; a page wide.

    The pseudo-labels' share is on a log axis with 0, labels alone, set apart and not joined to the
    others. The band is of 95% at each share; the teacher is a dashed line.

    Raises: ValueError as `share_table`.
    """
    table = share_table(outcomes, alpha, measures=measures)
    singles = share_draws(outcomes, alpha, measures=measures)
    names = {one.data_set: one.name.split()[-1].capitalize() for one in measures}
    names[MEAN] = " and ".join(sorted({one.name.split()[-1] for one in measures}))
    scopes = list(table["scope"].unique())
    titles = [f"mean of {len(measures)} data sets" if one == MEAN else one for one in scopes]
    with style.theme():
        handles = _legend(int(table["draws"].iloc[0]))
        figure, axes, spare = _grid(len(scopes))
        for place, (scope, title) in enumerate(zip(scopes, style.lettered(titles), strict=True)):
            ax = axes[place]
            _draw_panel(ax, table[table["scope"] == scope], singles[singles["scope"] == scope])
            ax.set_title(title, loc="left", weight="bold")
            ax.set_ylabel(f"{names[scope]} (%)")
            if place + _COLUMNS >= len(scopes):
                ax.set_xlabel("Share of the pseudo-label loss")
        if spare is None:
            style.shared_legend(figure, handles, columns=len(handles))
        else:
            spare.legend(handles=handles, loc="center", frameon=False, labelspacing=0.8)
    return figure


def _grid(panels: int) -> tuple[Figure, list[Axes], Axes | None]:
    """A page-wide figure of axes in rows of three, and the cell left for the legend, if any."""
    rows, columns = math.ceil(panels / _COLUMNS), min(panels, _COLUMNS)
    free = rows * columns > panels
    figure, _ = style.new_figure(2, _ROW * rows + 0.3, legend_rows=0 if free else 1)
    figure.clear()
    cells = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for cell in cells[panels:]:
        cell.axis("off")
    return figure, cells[:panels], cells[panels] if free else None


def _draw_panel(ax: Axes, rows: pd.DataFrame, singles: pd.DataFrame) -> None:
    places = log_places(list(rows["pseudo_share"]))
    ax.axhline(100 * rows["teacher"].iloc[0], **style.TEACHER)
    for _, part in rows.groupby(rows["pseudo_share"] > 0):
        x = part["pseudo_share"].map(places)
        low, high = 100 * part["ci_low"], 100 * part["ci_high"]
        if len(part) == 1:  # where a band would have no width
            ax.vlines(x, low, high, color=style.BAND, linewidth=5, zorder=1)
        else:
            ax.fill_between(x, low, high, color=style.BAND, linewidth=0)
        ax.plot(x, 100 * part["value"], **_LINE, zorder=3)
    if rows["draws"].iloc[0] > 1:
        x = singles["pseudo_share"].map(places)
        ax.plot(x, 100 * singles["value"], **style.DRAW_DOT, zorder=2.5)
    ax.margins(y=0.08)
    style.round_steps(ax.yaxis, 5)
    # 0 and the powers of ten have names; all shares have where there are too few of these.
    powers = [share for share in places if share == 0 or math.log10(share).is_integer()]
    names = {share: _share_name(share) for share in (powers if len(powers) > 2 else places)}
    log_axis(ax, places, names, turn=any("·" in name for name in names.values()))
    sns.despine(ax=ax)


def _share_name(share: float) -> str:
    """0, 1, 10⁻⁴ or 3·10⁻⁴."""
    if share in (0, 1):
        return f"{share:g}"
    digits, exponent = f"{share:.1e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if float(digits) == 1 else f"{float(digits):g}·{power}"


def _legend(draws: int) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], **_LINE, label=style.mean_label(draws)),
        Line2D([], [], **style.DRAW_DOT, label="each draw"),
        Line2D([], [], **style.TEACHER, label="teacher's level"),
        Patch(color=style.BAND, label=style.interval_label(draws)),
    ]
    return handles if draws > 1 else [handles[0], *handles[2:]]
