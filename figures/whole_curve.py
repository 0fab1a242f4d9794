"""A sweep's curve as a whole: bands for all alphas together, and what choosing one costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from figures import style
from figures.alpha_curve import IN_DOMAIN, Panel, PanelHits, panels_in
from figures.comparisons import measure_name
from figures.subset_size import TEACHER_LINE
from fitclip_core.statistics import (
    compared_with_best,
    crossed_interval,
    selection_gap,
    simultaneous_band,
)

_SELECTION: Final = [
    *("scope", "measure", "chosen_on", "chosen", "hindsight", "gap", "ci_low", "ci_high"),
    *("beforehand", "beforehand_gap", "n", "draws", "level"),
]


def band_table(
    outcomes: pd.DataFrame,
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Each alpha's value and its difference to the teacher, with bands for all alphas together.

    Panels are by default those of the data sets in the outcomes (`alpha_curve.panels_in`).

    Columns: panel, alpha, value, value_low, value_high (simultaneous band of the curve),
    difference (to the teacher, on the same items), ci_low, ci_high (interval of this alpha by
    itself, `statistics.crossed_interval`), band_low, band_high (simultaneous band of all
    differences), n (items), draws, level, alone and together (verdicts by the interval and by the
    band: "higher", "lower" or "undecided"). Values are fractions. Alpha 0 is the teacher.

    Raises: ValueError when the outcomes do not hold the panels' sweep.
    Source: Montiel Olea and Plagborg-Møller 2019; figure 3 has neither.
    """
    tables = []
    for panel in panels or panels_in(outcomes):
        hits = PanelHits(outcomes, panel.measures)
        curves = _curves(hits)
        gains = [data - data[:, :, :1] for data in curves]
        settings: dict[str, Any] = {"level": level, "n_resamples": n_resamples, "seed": seed}
        whole = simultaneous_band(curves, **settings)
        band = simultaneous_band(gains, **settings)
        alone = [
            crossed_interval([data[:, :, place] for data in gains], level=level)
            for place in range(len(hits.alphas))
        ]
        points = pd.DataFrame(
            {
                "panel": panel.name,
                "alpha": hits.alphas,
                "value": whole.estimate,
                "value_low": whole.low,
                "value_high": whole.high,
                "difference": band.estimate,
                "ci_low": [one.low for one in alone],
                "ci_high": [one.high for one in alone],
                "band_low": band.low,
                "band_high": band.high,
                "n": hits.n_items,
                "draws": len(hits.draws),
                "level": level,
            }
        )
        points["alone"] = off_zero(points["ci_low"], points["ci_high"])
        points["together"] = off_zero(points["band_low"], points["band_high"])
        tables.append(points)
    return pd.concat(tables, ignore_index=True)


def band_curve(table: pd.DataFrame, panels: Sequence[Panel]) -> Figure:
    """Draw `band_table`: what each alpha gains over the teacher, with both kinds of interval.

    Filled marks are alphas at which the band for all alphas together leaves out 0. One panel is one
    column wide, two are a page wide. `panels` are those of the table, for their titles.

    Raises: ValueError when a panel is not in the table.
    """
    columns = 2 if len(panels) == 1 else 4
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.5, legend_rows=4 // columns)
        for letter, panel, ax in zip(ascii_lowercase, panels, axes, strict=False):
            rows = table[table["panel"] == panel.name]
            if rows.empty:
                raise ValueError(f"the table has no panel {panel.name}; give those that it has")
            handles = _draw_band(ax, rows)
            title = panel.title if len(panels) == 1 else f"({letter}) {panel.title}"
            ax.set_title(title, loc="left", weight="bold")
        axes[0].set_ylabel("Gain over the teacher (points)")
        style.shared_legend(figure, handles, columns)
    return figure


def band_in_words(table: pd.DataFrame) -> str:
    """Where `band_table` shows the fused model above or below the teacher: Markdown."""
    lines = []
    for panel, rows in table.groupby("panel", sort=False):
        points = rows[rows["alpha"] > 0]
        parts = [
            f"{verdict} at α = {_listed(found['alpha'])}"
            for verdict, found in points.groupby("together")
        ]
        only = points[(points["alone"] != "undecided") & (points["together"] == "undecided")]
        more = (
            f" Each α by itself would have decided {_listed(only['alpha'])} as well."
            if len(only)
            else ""
        )
        lines.append(
            f"**{panel}**: against the teacher, all {len(points)} alphas together at "
            f"{points['level'].iloc[0]:.0%}: {'; '.join(parts)}.{more}"
        )
    return "\n\n".join(lines)


def best_table(
    hits: Mapping[float, Sequence[np.ndarray]],
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Each value of a curve against the best of the others, for all values together.

    hits: value (an alpha, a number of clips) -> hits of each data set, [draws, items] each; one
    draw goes with any number.

    Columns: value, lead (its mean less the best of the others'), ci_low, ci_high, reach, left
    (not shown worse than the best; `statistics.compared_with_best`), n (items), draws. All but
    value, n and draws are fractions.

    Raises: ValueError as `statistics.compared_with_best`.
    Source: Hsu 1984; the paper picks the highest.
    """
    curves = _stacked(hits.values())
    found = compared_with_best(curves, level=level, n_resamples=n_resamples, seed=seed)
    table = pd.DataFrame({"value": list(hits), "lead": found.lead})
    return table.assign(
        ci_low=found.low,
        ci_high=found.high,
        reach=found.reach,
        left=found.left,
        n=found.n,
        draws=len(curves[0]),
    )


def selection_table(
    outcomes: pd.DataFrame,
    beforehand: float = 0.4,
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """What an alpha chosen on other data loses to the best one in hindsight.

    For each zero-shot data set alpha is chosen on the other zero-shot sets: labels of the set
    itself would make it another task. In the student's domain it is chosen on a random half of each
    data set's items and tested on the other half. Panels are by default those of the data sets in
    the outcomes; one zero-shot set alone has no row, as there is no other to choose on.

    Columns: scope (tested on), measure, chosen_on, chosen, hindsight (alphas), gap (fraction, never
    negative), ci_low, ci_high (`statistics.selection_gap`; the high end is what may be quoted),
    beforehand, beforehand_gap (the same gap of the alpha fixed beforehand), n (test items), draws,
    level. `seed` is of the halves too.

    Raises: ValueError when `beforehand` is not in the sweep, there are fewer than two in-domain
    items, or the outcomes do not hold the panels' sweep.
    """
    trials = []
    for panel in panels or panels_in(outcomes):
        hits = PanelHits(outcomes, panel.measures)
        curves = _curves(hits)
        if panel.name == IN_DOMAIN.name:
            split = [halves(data, seed) for data in curves]
            validation, test = ([pair[side] for pair in split] for side in (0, 1))
            where = (panel.name, panel.measures, "half of the items")
            trials.append((*where, hits, validation, test))
            continue
        for place, one in enumerate(panel.measures if len(curves) > 1 else ()):
            others = curves[:place] + curves[place + 1 :]
            several = f"{len(others)} other zero-shot sets"
            chosen_on = f"the {several if len(others) > 1 else 'other zero-shot set'}"
            trials.append((one.data_set, (one,), chosen_on, hits, others, [curves[place]]))
    rows = []
    for scope, measures, chosen_on, hits, validation, test in trials:
        found = selection_gap(
            validation, test, hits.alphas, level=level, n_resamples=n_resamples, seed=seed
        )
        curve = np.mean([data.mean(axis=(0, 1)) for data in test], axis=0)
        rows.append(
            {
                "scope": scope,
                "measure": measure_name(measures),
                "chosen_on": chosen_on,
                "chosen": found.chosen,
                "hindsight": found.hindsight,
                "gap": found.gap,
                "ci_low": found.low,
                "ci_high": found.high,
                "beforehand": beforehand,
                "beforehand_gap": curve.max() - curve[hits.place(beforehand)],
                "n": found.n,
                "draws": len(hits.draws),
                "level": level,
            }
        )
    return pd.DataFrame(rows, columns=_SELECTION)


def selection_in_words(table: pd.DataFrame) -> str:
    """What `selection_table` found: Markdown, a line per data set and a sentence on all."""
    if table.empty:
        return "Nothing was chosen: one zero-shot data set alone leaves nothing to choose alpha on."
    lines = [
        f"- **{row['scope']}**, α chosen on {row['chosen_on']}: {row['chosen']:g}; best in "
        f"hindsight: {row['hindsight']:g}. The choice loses {100 * row['gap']:.1f} "
        f"[{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}] points to it, and "
        f"{row['beforehand']:g}, fixed beforehand, {100 * row['beforehand_gap']:.1f}"
        for row in table.to_dict("records")
    ]
    gaps = table[["gap", "beforehand_gap"]].round(12)
    better = int((gaps["gap"] < gaps["beforehand_gap"]).sum())
    worse = int((gaps["gap"] > gaps["beforehand_gap"]).sum())
    lines.append(
        f"\nThe chosen α loses less than the one fixed beforehand in {better} of {len(table)} "
        f"cases, more in {worse}, the same in {len(table) - better - worse}. The largest of the "
        f"intervals' high ends is {100 * table['ci_high'].max():.1f} points; each "
        "interval holds for its case by itself."
    )
    return "\n".join(lines)


def halves(data: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of the items of [draws, items, ...]; the second has the odd one.

    Raises: ValueError when there is one item.
    """
    items = data.shape[1]
    if items < 2:
        raise ValueError("a data set has one item; choosing and testing need at least two")
    order = np.random.default_rng(seed).permutation(items)
    return data[:, order[: items // 2]], data[:, order[items // 2 :]]


def off_zero(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Verdicts by intervals' ends: "higher" or "lower" where they leave out 0, else "undecided"."""
    above, below = np.asarray(low) > 0, np.asarray(high) < 0
    return np.where(above, "higher", np.where(below, "lower", "undecided"))


def alpha_axis(ax: Axes) -> None:
    """An x axis of alpha from teacher to student."""
    names = ["0\nteacher", "0.2", "0.4", "0.6", "0.8", "1\nstudent"]
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], names)
    ax.set_xlim(-0.04, 1.04)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_xlabel("α, weight of the student", labelpad=-6)
    sns.despine(ax=ax)


def _curves(hits: PanelHits) -> list[np.ndarray]:
    """Each data set's hits, [draws, items, alphas]; the teacher's repeat for each draw."""
    return _stacked([hits.at(alpha) for alpha in hits.alphas])


def _stacked(points: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Points' hits of each data set, [draws, items] each, as [draws, items, points] a data set."""
    return [
        np.stack(np.broadcast_arrays(*data_set), axis=-1) for data_set in zip(*points, strict=True)
    ]


def _draw_band(ax: Axes, rows: pd.DataFrame) -> list[Artist]:
    percent = 100 * rows[["difference", "ci_low", "ci_high", "band_low", "band_high"]]
    x, level = rows["alpha"].to_numpy(), rows["level"].iloc[0]
    band = ax.fill_between(
        x,
        percent["band_low"],
        percent["band_high"],
        color=style.BAND,
        linewidth=0,
        label=f"{level:.0%} band, all α together",
    )
    ax.plot(x, percent["difference"], color=style.LINE, linewidth=1)
    look: dict[str, Any] = {"color": style.INK, "linewidth": 0.8}
    ax.vlines(x, percent["ci_low"], percent["ci_high"], **look)
    bar = Line2D([], [], **look, label=f"{level:.0%} interval, each α by itself")
    marks = []
    for settled, face in ((True, style.LINE), (False, "white")):
        chosen = rows["together"].ne("undecided").to_numpy() == settled
        chosen &= x > 0
        marks += ax.plot(
            x[chosen],
            percent.loc[chosen, "difference"],
            linestyle="none",
            marker="o",
            markersize=3.6,
            color=style.LINE,
            markerfacecolor=face,
            label="differs from the teacher, by the band" if settled else "undecided",
        )
    ax.axhline(0, **TEACHER_LINE)
    alpha_axis(ax)
    return [bar, band, *marks]


def _listed(alphas: pd.Series) -> str:
    return ", ".join(f"{alpha:g}" for alpha in alphas)
