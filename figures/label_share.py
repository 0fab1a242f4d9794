"""Figure 5 of the supplement: accuracy over the share of the pseudo-label loss in training."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from figures import alpha_curve, style
from figures.alpha_curve import IN_DOMAIN, ZERO_SHOT, Measure, panels_of
from figures.subset_size import (
    DRAW_DOT,
    TEACHER_LINE,
    check_same_draws,
    log_axis,
    log_places,
    point,
    study_hits,
)
from fitclip_kit.store.results import CLASSIFICATION

_ORDER: Final = ("mit", "ucf101", "msrvtt", "youcook2", "didemo")
MEAN: Final = "mean"

_COLUMNS: Final = 3
_ROW: Final = 1.65  # in
_LINE: Final[dict[str, Any]] = {
    "color": style.LINE,
    "linewidth": 1.2,
    "marker": "o",
    "markersize": 3.4,
}
# One data set's hits: the teacher's, and the fused model's by share; [items, draws] each.
_Hits = tuple[pd.DataFrame, dict[float, pd.DataFrame]]


def measures_of(data_sets: Collection[str]) -> tuple[Measure, ...]:
    """What figure 5 shows of some data sets: the zero-shot ones, in its order.

    Where there is none it is the student's own domain.
    """
    panels = {panel.name: panel.measures for panel in panels_of(data_sets)}
    if ZERO_SHOT.name not in panels:
        return panels.get(IN_DOMAIN.name, ())
    return tuple(sorted(panels[ZERO_SHOT.name], key=lambda one: _ORDER.index(one.data_set)))


MEASURES: Final = measures_of(_ORDER)


def left_out(data_sets: Collection[str]) -> list[str]:
    """What the study lacks where it is measured on some data sets (`measures_of`), a sentence
    each; none for the paper's five."""
    own = IN_DOMAIN.measures[0].data_set
    lines = alpha_curve.left_out([own, *(name for name in data_sets if name != own)])
    if own in data_sets and IN_DOMAIN.measures != measures_of(data_sets):
        lines.append(f"{own}, of the student's own domain, is left out of this study.")
    return lines


def share_table(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    measures: Sequence[Measure] = MEASURES,
    mean: bool = True,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The numbers of the label-share study: one row per data set and share of the pseudo-labels.

    Columns: scope (data set, or "mean": of all with equal weights, where there are several),
    measure, alpha, pseudo_share (weight of the distillation loss, 1 - labelled_share; 0 is training
    on labels alone, as WiSE-FT does), value (mean over draws), ci_low, ci_high (over items and
    draws; over items with one draw), n (items), draws, draw_low, draw_high (the extreme draws),
    teacher (its value), best (highest of its scope in hindsight; of equal ones the smallest share).
    Values are fractions.

    Raises: ValueError when the outcomes lack a data set, the teacher or this alpha, mix students of
    several labelled_clips, or have not the same draws at each share of each data set.
    Source: supplement, section 8 and figure 5.
    """
    rows = [
        {"scope": scope, "measure": name, "alpha": alpha, "pseudo_share": share}
        | point([hits[share].to_numpy().T for _, hits in parts], level, n_resamples, seed)
        | {"teacher": float(np.mean([teacher.to_numpy().mean() for teacher, _ in parts]))}
        for scope, name, parts in _scopes(outcomes, alpha, measures, mean)
        for share in parts[0][1]
    ]
    table = pd.DataFrame(rows)
    best = table["value"].round(12).groupby(table["scope"]).idxmax()
    return table.assign(best=table.index.isin(best))


def share_draws(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    measures: Sequence[Measure] = MEASURES,
    mean: bool = True,
) -> pd.DataFrame:
    """Each single draw of the study: scope, alpha, pseudo_share, draw, value (fraction).

    Raises: ValueError as `share_table`.
    """
    rows = [
        (scope, alpha, share, draw, value)
        for scope, _, parts in _scopes(outcomes, alpha, measures, mean)
        for share in parts[0][1]
        for draw, value in pd.concat([hits[share].mean() for _, hits in parts], axis=1)
        .mean(axis=1)
        .items()
    ]
    return pd.DataFrame(rows, columns=["scope", "alpha", "pseudo_share", "draw", "value"])


def label_share(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    measures: Sequence[Measure] = MEASURES,
    mean: bool = True,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Figure:
    """Draw figure 5: a panel for each data set and, if wanted, one for their mean; a page wide.

    The pseudo-labels' share is on a log axis with 0, labels alone, set apart and not joined to the
    others. The band is of the level at each share; the teacher is a dashed line.

    Raises: ValueError as `share_table`.
    Source: supplement, figure 5.
    """
    table = share_table(
        outcomes,
        alpha,
        measures=measures,
        mean=mean,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
    draws = share_draws(outcomes, alpha, measures=measures, mean=mean)
    scopes = list(table["scope"].unique())
    with style.theme():
        figure, axes, spare = _grid(len(scopes))
        for place, (scope, ax) in enumerate(zip(scopes, axes, strict=True)):
            _draw_panel(ax, table[table["scope"] == scope], draws[draws["scope"] == scope])
            title = f"mean of {len(measures)} data sets" if scope == MEAN else scope
            ax.set_title(f"({ascii_lowercase[place]}) {title}", loc="left", weight="bold")
            ax.set_ylabel(_axis_name(measures, scope))
            if place + _COLUMNS >= len(scopes):
                ax.set_xlabel("Share of the pseudo-label loss")
        handles = _legend(int(table["draws"].iloc[0]), level)
        if spare is None:
            style.shared_legend(figure, handles, columns=len(handles))
        else:
            spare.legend(handles=handles, loc="center", frameon=False, labelspacing=0.8)
    return figure


def share_hits(outcomes: pd.DataFrame, alpha: float, measure: Measure) -> _Hits:
    """`subset_size.study_hits` by the share of the pseudo-labels, ascending."""
    teacher, found = study_hits(outcomes, alpha, measure, "labelled_share")
    shares = sorted(found, reverse=True)
    return teacher, {round(1 - share, 9): found[share] for share in shares}


def _scopes(
    outcomes: pd.DataFrame, alpha: float, measures: Sequence[Measure], mean: bool
) -> list[tuple[str, str, list[_Hits]]]:
    """What has a panel: its name, its measure, and the hits of its data sets."""
    if not measures:
        raise ValueError("there is no measure to draw; give at least one")

    study = {measure: share_hits(outcomes, alpha, measure) for measure in measures}
    shares = sorted({share for _, found in study.values() for share in found})
    check_same_draws(
        {
            f"{measure.data_set} at pseudo-label share {share:g}": (
                found[share].columns if share in found else ()
            )
            for measure, (_, found) in study.items()
            for share in shares
        },
        "outcomes of",
    )
    scopes = [(measure.data_set, measure.name, [one]) for measure, one in study.items()]
    if mean and len(study) > 1:
        names = sorted({measure.name for measure in measures})
        scopes.append((MEAN, f"mean of {' and '.join(names)}", list(study.values())))
    return scopes


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


def _axis_name(measures: Sequence[Measure], scope: str) -> str:
    kinds = {
        measure.data_set: f"{'top-' if measure.direction == CLASSIFICATION else 'R@'}{measure.k}"
        for measure in measures
    }
    if scope == MEAN:
        return f"{' and '.join(sorted(set(kinds.values())))} (%)"
    return f"{kinds[scope].capitalize()} (%)"


def _draw_panel(ax: Axes, rows: pd.DataFrame, draws: pd.DataFrame) -> None:
    places = log_places(list(rows["pseudo_share"]))
    ax.axhline(100 * rows["teacher"].iloc[0], **TEACHER_LINE)
    alone = rows["pseudo_share"] == 0
    for part in (rows[alone], rows[~alone]):
        x = part["pseudo_share"].map(places)
        low, high = 100 * part["ci_low"], 100 * part["ci_high"]
        if len(part) == 1:  # where a band would have no width
            ax.vlines(x, low, high, color=style.BAND, linewidth=5, zorder=1)
        else:
            ax.fill_between(x, low, high, color=style.BAND, linewidth=0)
        ax.plot(x, 100 * part["value"], **_LINE, zorder=3)
    if rows["draws"].iloc[0] > 1:
        ax.plot(draws["pseudo_share"].map(places), 100 * draws["value"], **DRAW_DOT, zorder=2.5)
    ax.margins(y=0.08)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    names = _share_names(list(places))
    log_axis(ax, places, names, turn=any("·" in name for name in names.values()))
    sns.despine(ax=ax)


def _share_names(shares: Sequence[float]) -> dict[float, str]:
    """Names for 0 and the powers of ten; for all shares where there are too few of these."""
    powers = [share for share in shares if share == 0 or math.log10(share).is_integer()]
    return {share: _share_name(share) for share in (powers if len(powers) > 2 else shares)}


def _share_name(share: float) -> str:
    """0, 1, 10⁻⁴ or 3·10⁻⁴."""
    if share in (0, 1):
        return f"{share:g}"
    digits, exponent = f"{share:.1e}".split("e")
    power = f"10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return power if float(digits) == 1 else f"{float(digits):g}·{power}"


def _legend(draws: int, level: float) -> list[Artist]:
    several = draws > 1
    handles: list[Artist] = [
        Line2D([], [], **_LINE, label=f"mean of {draws} draws" if several else "the one draw"),
        Line2D([], [], **TEACHER_LINE, label="teacher's level"),
        Patch(
            color=style.BAND,
            label=f"{level:.0%} interval ({'items × draws' if several else 'items'})",
        ),
    ]
    if several:
        handles.insert(1, Line2D([], [], **DRAW_DOT, label="each draw"))
    return handles
