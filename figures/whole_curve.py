"""A sweep's curve as a whole: bands for all alphas together, and what choosing one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from figures.measures import IN_DOMAIN, Panel, measure_name, panels_in
from figures.style import alpha_axis
from fitclip_core.statistics import crossed_interval

_SELECTION: Final = [
    *("scope", "measure", "chosen_on", "chosen", "hindsight", "gap", "ci_low", "ci_high"),
    *("beforehand", "beforehand_gap", "n", "draws", "level"),
]


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
        by_alpha = zip(*(np.moveaxis(gain, 2, 0) for gain in gains), strict=True)
        alone = [crossed_interval(list(point)) for point in by_alpha]
        low, high = [one.low for one in alone], [one.high for one in alone]
        columns: dict[str, Any] = {"panel": panel.name, "alpha": hits.alphas}
        columns |= {"value": whole.estimate, "value_low": whole.low, "value_high": whole.high}
        columns |= {"difference": band.estimate, "ci_low": low, "ci_high": high}
        columns |= {"band_low": band.low, "band_high": band.high}
        columns |= {"n": hits.n_items, "draws": len(hits.draws), "level": LEVEL}
        verdicts = {"alone": off_zero(low, high), "together": off_zero(band.low, band.high)}
        tables.append(pd.DataFrame(columns | verdicts))
    return pd.concat(tables, ignore_index=True)


def band_curve(table: pd.DataFrame, panels: Sequence[Panel]) -> Figure:
    """Draw `band_table`: what each alpha gains over the teacher, with both kinds of interval.

    Filled marks are alphas at which the band for all alphas together leaves out 0. `panels` are
    those of the table, for their titles.
    """
    titles = style.lettered([panel.title for panel in panels])
    columns = 2 if len(panels) == 1 else 4
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.5, legend_rows=4 // columns)
        for title, panel, ax in zip(titles, panels, axes, strict=True):
            handles = _draw_band(ax, table[table["panel"] == panel.name])
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
        several = f"the {len(curves) - 1} other zero-shot sets"
        for place, measure in enumerate(panel.measures):
            if panel.name == IN_DOMAIN.name:
                first, test = halves(curves[place])
                scope, on, others = panel.name, "half of the items", [first]
            else:
                others, test = curves[:place] + curves[place + 1 :], curves[place]
                on = several if len(others) > 1 else "the other zero-shot set"
                scope = measure.data_set
            if not others:
                continue
            means = test.mean(axis=(0, 1))
            found = selection_gap(others, [test], hits.alphas)
            rows.append(
                {"scope": scope, "measure": measure_name([measure]), "chosen_on": on}
                | vars(found)
                | {"ci_low": found.low, "ci_high": found.high, "beforehand": beforehand}
                | {"beforehand_gap": means.max() - means[hits.place(beforehand)]}
                | {"draws": len(hits.draws), "level": LEVEL}
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
    gain, low, high, band_low, band_high = percent.to_numpy().T
    x, settled = rows["alpha"].to_numpy(), rows["together"].ne("undecided").to_numpy()
    look: dict[str, Any] = {"color": style.BAND, "linewidth": 0}
    label = f"{LEVEL:.0%} band, all α together"
    band = ax.fill_between(x, band_low, band_high, **look, label=label)
    ax.plot(x, gain, color=style.LINE, linewidth=1)
    look = {"color": style.INK, "linewidth": 0.8}
    ax.vlines(x, low, high, **look)
    handles = [Line2D([], [], **look, label=f"{LEVEL:.0%} interval, each α by itself"), band]
    mark = {"linestyle": "none", "marker": "o", "markersize": 3.6, "color": style.LINE}
    for chosen, face, label in (
        (settled, style.LINE, "differs from the teacher, by the band"),
        (~settled, "white", "undecided"),
    ):
        at = chosen & (x > 0)
        handles += ax.plot(x[at], gain[at], **mark, markerfacecolor=face, label=label)
    ax.axhline(0, **style.TEACHER)
    alpha_axis(ax)
    return handles


def _listed(alphas: pd.Series) -> str:
    return ", ".join(f"{alpha:g}" for alpha in alphas)
