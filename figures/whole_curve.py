"""A sweep's curve as a whole: bands for all alphas together, and what choosing one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style
from figures.comparisons import LEVEL, off_zero
from figures.hits import PanelHits, stacked
from figures.inference import compared_with_best, selection_gap, simultaneous_band
from figures.measures import IN_DOMAIN, Measure, Panel, measure_name, panels_in
from figures.style import alpha_axis
from fitclip_core.statistics import crossed_interval

_SELECTION: Final = [
    *("scope", "measure", "chosen_on", "chosen", "hindsight", "gap", "low", "high"),
    *("beforehand", "beforehand_gap", "n", "draws", "level"),
]

# Tested on, by what, chosen on; and the curves that alpha is chosen and tested on.
_Trial = tuple[str, Sequence[Measure], str, list[np.ndarray], list[np.ndarray]]


def band_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Each alpha's value and its difference to the teacher, with bands for all alphas together.

    Columns: panel (of `measures.panels_in`), alpha, value, value_low, value_high (band of the
    curve), difference (to the teacher, on the same items), ci_low, ci_high (this alpha by itself),
    band_low, band_high (band of all differences), n (items), draws, level, alone and together
    ("higher", "lower" or "undecided", by the interval and by the band). Values are fractions.

    Raises: ValueError when the outcomes do not hold the panels' sweep.
    Source: Montiel Olea and Plagborg-Møller 2019; figure 3 has neither.
    """
    tables = []
    for panel in panels_in(outcomes):
        hits = PanelHits(outcomes, panel.measures)
        curves = hits.curves()
        gains = [curve - curve[:, :, :1] for curve in curves]
        whole, band = simultaneous_band(curves), simultaneous_band(gains)
        alone = [
            crossed_interval([gain[:, :, point] for gain in gains])
            for point in range(len(hits.alphas))
        ]
        points = pd.DataFrame(
            {
                "panel": panel.name,
                "alpha": hits.alphas,
                "value": whole.estimate,
                "value_low": whole.low,
                "value_high": whole.high,
                "difference": band.estimate,
                "ci_low": [interval.low for interval in alone],
                "ci_high": [interval.high for interval in alone],
                "band_low": band.low,
                "band_high": band.high,
                "n": hits.n_items,
                "draws": len(hits.draws),
                "level": LEVEL,
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
    """
    columns = 2 if len(panels) == 1 else 4
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.5, legend_rows=4 // columns)
        for letter, panel, ax in zip(ascii_lowercase, panels, axes, strict=False):
            handles = _draw_band(ax, table[table["panel"] == panel.name])
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
            f"{verdict} at α = {_listed(shown['alpha'])}"
            for verdict, shown in points.groupby("together")
        ]
        only = points[(points["alone"] != "undecided") & (points["together"] == "undecided")]
        decided = f"Each α by itself would have decided {_listed(only['alpha'])} as well."
        lines.append(
            f"**{panel}**: against the teacher, all {len(points)} alphas together at {LEVEL:.0%}: "
            f"{'; '.join(parts)}.{f' {decided}' if len(only) else ''}"
        )
    return "\n\n".join(lines)


def best_table(hits: Mapping[float, Sequence[np.ndarray]]) -> pd.DataFrame:
    """Each value of a curve against the best of the others, for all values together.

    hits: value (an alpha, a number of clips) -> hits of each data set, [draws, items] each; one
    draw goes with any number.

    Columns: value, lead (its mean less the best of the others'), ci_low, ci_high, reach, left
    (not shown worse than the best; `inference.compared_with_best`), n (items), draws. All but
    value, n and draws are fractions.

    Raises: ValueError as `inference.compared_with_best`.
    Source: Hsu 1984; the paper picks the highest.
    """
    curves = stacked(list(hits.values()))
    best = pd.DataFrame({"value": list(hits)} | vars(compared_with_best(curves)))
    return best.rename(columns={"low": "ci_low", "high": "ci_high"}).assign(draws=len(curves[0]))


def selection_table(outcomes: pd.DataFrame, beforehand: float = 0.4) -> pd.DataFrame:
    """What an alpha chosen on other data loses to the best one in hindsight.

    For a zero-shot data set alpha is chosen on the other ones: labels of the set itself would make
    it another task. In the student's domain it is chosen on a random half of the items and tested
    on the other. One zero-shot set alone has no row, as there is no other to choose on.

    Columns: scope (tested on), measure, chosen_on, chosen, hindsight (alphas), gap (fraction),
    ci_low, ci_high (`inference.selection_gap`; the high end may be quoted), beforehand,
    beforehand_gap (of the alpha fixed beforehand), n (test items), draws, level.

    Raises: ValueError when `beforehand` is not in the sweep, there are fewer than two in-domain
    items, or the outcomes do not hold the panels' sweep.
    """
    rows = []
    for panel in panels_in(outcomes):
        hits = PanelHits(outcomes, panel.measures)
        curves = hits.curves()
        trials: list[_Trial] = []
        if panel.name == IN_DOMAIN.name:
            split = [halves(curve) for curve in curves]
            firsts, seconds = ([pair[side] for pair in split] for side in (0, 1))
            trials.append((panel.name, panel.measures, "half of the items", firsts, seconds))
        elif len(curves) > 1:
            several = f"{len(curves) - 1} other zero-shot sets"
            on = f"the {several if len(curves) > 2 else 'other zero-shot set'}"
            for place, measure in enumerate(panel.measures):
                others = curves[:place] + curves[place + 1 :]
                trials.append((measure.data_set, (measure,), on, others, [curves[place]]))
        for scope, measures, on, validation, test in trials:
            means = np.mean([curve.mean(axis=(0, 1)) for curve in test], axis=0)
            rows.append(
                {"scope": scope, "measure": measure_name(measures), "chosen_on": on}
                | vars(selection_gap(validation, test, hits.alphas))
                | {"beforehand": beforehand, "draws": len(hits.draws), "level": LEVEL}
                | {"beforehand_gap": means.max() - means[hits.place(beforehand)]}
            )
    table = pd.DataFrame(rows, columns=_SELECTION)
    return table.rename(columns={"low": "ci_low", "high": "ci_high"})


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


def halves(data: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of the items of [draws, items, ...]; the second has the odd one.

    Raises: ValueError when there is one item.
    """
    items = data.shape[1]
    if items < 2:
        raise ValueError("a data set has one item; choosing and testing need at least two")
    order = np.random.default_rng(seed).permutation(items)
    return data[:, order[: items // 2]], data[:, order[items // 2 :]]


def _draw_band(ax: Axes, rows: pd.DataFrame) -> list[Artist]:
    percent = 100 * rows[["difference", "ci_low", "ci_high", "band_low", "band_high"]]
    x = rows["alpha"].to_numpy()
    ends, label = (percent["band_low"], percent["band_high"]), f"{LEVEL:.0%} band, all α together"
    band = ax.fill_between(x, *ends, color=style.BAND, linewidth=0, label=label)
    ax.plot(x, percent["difference"], color=style.LINE, linewidth=1)
    look: dict[str, Any] = {"color": style.INK, "linewidth": 0.8}
    ax.vlines(x, percent["ci_low"], percent["ci_high"], **look)
    bar = Line2D([], [], **look, label=f"{LEVEL:.0%} interval, each α by itself")
    marks = []
    for settled, face, label in (
        (True, style.LINE, "differs from the teacher, by the band"),
        (False, "white", "undecided"),
    ):
        chosen = (rows["together"].ne("undecided").to_numpy() == settled) & (x > 0)
        marks += ax.plot(
            x[chosen],
            percent.loc[chosen, "difference"],
            linestyle="none",
            marker="o",
            markersize=3.6,
            color=style.LINE,
            markerfacecolor=face,
            label=label,
        )
    ax.axhline(0, **style.TEACHER)
    alpha_axis(ax)
    return [bar, band, *marks]


def _listed(alphas: pd.Series) -> str:
    return ", ".join(f"{alpha:g}" for alpha in alphas)
