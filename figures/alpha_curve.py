"""Figure 3 of the paper: accuracy over alpha, the student's weight, with draws and intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from figures import style
from figures.outcomes import ranks_of, sweep_rows
from fitclip_core.statistics import mean_interval
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
    title: str
    axis: str
    measures: tuple[Measure, ...]


def measures_in_words(measures: Sequence[Measure]) -> str:
    """What is measured, as an axis says it: "Text-to-video R@5", or "Mean of R@5 and top-1"."""
    if len(measures) == 1:
        return measures[0].name[0].upper() + measures[0].name[1:]
    kinds = sorted({one.name.split()[-1] for one in measures})
    return f"Mean of {' and '.join(kinds)}"


def _panel(name: str, measures: Sequence[Measure]) -> Panel:
    of = f", mean of {len(measures)} data sets"
    if len(measures) == 1:
        of = f" ({measures[0].data_set})"
    title = name.replace("_", "-").capitalize() + of
    return Panel(name, title, f"{measures_in_words(measures)} (%)", tuple(measures))


IN_DOMAIN: Final = _panel("in_domain", [Measure("webvid_val", "text_to_video", 5)])
ZERO_SHOT: Final = _panel(
    "zero_shot",
    [
        Measure("didemo", "text_to_video", 5),
        Measure("msrvtt", "text_to_video", 5),
        Measure("youcook2", "text_to_video", 5),
        Measure("mit", CLASSIFICATION, 1),
        Measure("ucf101", CLASSIFICATION, 1),
    ],
)
PANELS: Final = (IN_DOMAIN, ZERO_SHOT)


def panels_of(data_sets: Collection[str]) -> tuple[Panel, ...]:
    """The panels that can be drawn of some data sets; of all of the paper's they are `PANELS`.

    The zero-shot panel is the mean of the sets that are there, and its title says of how many. A
    panel none of whose sets is there is left out, and so are sets of no panel.
    """
    kept = ([one for one in panel.measures if one.data_set in data_sets] for panel in PANELS)
    return tuple(
        _panel(panel.name, measures)
        for panel, measures in zip(PANELS, kept, strict=True)
        if measures
    )


def panels_in(outcomes: pd.DataFrame) -> tuple[Panel, ...]:
    """`panels_of` the data sets that outcomes hold.

    Raises: ValueError when there is none.
    """
    there = sorted(set(outcomes["data_set"].astype(str)))
    if not (found := panels_of(there)):
        raise ValueError(
            f"outcomes of {', '.join(there) or 'no data set'} make no panel; measure one of "
            f"{', '.join(one.data_set for panel in PANELS for one in panel.measures)}"
        )
    return found


def shown_on(preferred: str, data_sets: Collection[str]) -> str | None:
    """Where to draw a figure that the paper draws of one data set, of those that are there.

    That set, or else the first of its kind (retrieval or recognition), the zero-shot ones before
    the student's own domain; None where there is none.

    Raises: ValueError when the preferred one is in no panel.
    """
    kinds = {one.data_set: one.direction for panel in PANELS[::-1] for one in panel.measures}
    if preferred not in kinds:
        raise ValueError(f"no data set {preferred!r} in the panels; there are {', '.join(kinds)}")
    alike = (name for name, kind in kinds.items() if kind == kinds[preferred])
    return next((name for name in (preferred, *alike) if name in data_sets), None)


def left_out(data_sets: Collection[str]) -> list[str]:
    """What the panels of some data sets lack, a sentence each; none where all of the paper's are
    there."""
    panels = {panel.name: panel for panel in panels_of(data_sets)}
    lines = []
    if IN_DOMAIN.name not in panels:
        lines.append("webvid_val is not measured, so nothing is said of the student's own domain.")
    absent = [one.data_set for one in ZERO_SHOT.measures if one.data_set not in data_sets]
    if ZERO_SHOT.name not in panels:
        lines.append("No zero-shot data set is measured, so nothing is said of any.")
    elif absent:
        there = [one.data_set for one in panels[ZERO_SHOT.name].measures]
        lines.append(
            f"Not measured: {', '.join(absent)}. What is said of all zero-shot data sets is said "
            f"of {len(there)} ({', '.join(there)}), where the paper has {len(ZERO_SHOT.measures)}."
        )
    known = {one.data_set for panel in PANELS for one in panel.measures}
    if own := [name for name in data_sets if name not in known]:
        lines.append(
            f"{', '.join(own)}: measured and in the tables of metrics, but in no figure or test, "
            "which are of the paper's data sets."
        )
    return lines


class PanelHits:
    """Per-item hits (0 or 1) of a panel's data sets, at every alpha and draw of a sweep.

    Raises: ValueError when the sweep lacks alpha 0 or 1, or when its data sets and alphas do not
    have the same draws.
    """

    def __init__(self, outcomes: pd.DataFrame, measures: Sequence[Measure]) -> None:
        rows = sweep_rows(outcomes)
        self._ranks = [ranks_of(rows, one.data_set, one.direction) for one in measures]
        self._k = [one.k for one in measures]
        first = self._ranks[0]
        for one, ranks in zip(measures, self._ranks, strict=True):
            if ranks.draws != first.draws:
                raise ValueError(
                    f"{one.data_set} and {measures[0].data_set} do not have the same alphas and "
                    f"draws: {ranks.draws} and {first.draws}; finish the sweep or leave them out"
                )
        self.alphas: list[float] = list(first.points)
        if not {0.0, 1.0} <= set(self.alphas):
            raise ValueError(
                f"the sweep needs the teacher (alpha 0) and the student (alpha 1); alphas there "
                f"are: {self.alphas}"
            )
        self.draws: list[int] = first.same_draws()

    def at(self, alpha: float) -> list[np.ndarray]:
        """Hits at one alpha, one array [draws, items] per data set; the teacher is one draw.

        Raises: ValueError naming the alphas there are when this one is not among them.
        """
        both = zip(self._ranks, self._k, strict=True)
        return [(ranks.at(alpha) <= k).astype(np.float64) for ranks, k in both]

    @property
    def items(self) -> list[pd.Index]:
        """The items of each data set, in the arrays' order."""
        return [ranks.items for ranks in self._ranks]

    def place(self, alpha: float) -> int:
        """Where alpha stands in `alphas`.

        Raises: ValueError naming the alphas there are when this one is not among them.
        """
        return self.alphas.index(self._ranks[0].known(alpha))

    def draw_means(self, alpha: float) -> np.ndarray:
        """The measures' mean per draw, a fraction: [draws]; the teacher's repeats for each draw."""
        means = np.mean([hits.mean(axis=1) for hits in self.at(alpha)], axis=0)
        return np.broadcast_to(means, len(self.draws))

    @property
    def n_items(self) -> int:
        """Items of all data sets together."""
        return sum(map(len, self.items))


def alpha_table(
    outcomes: pd.DataFrame,
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The numbers of the alpha curve: one row per panel and alpha, all fractions.

    panels: by default those of the data sets in the outcomes, `panels_in`.

    Columns: panel, alpha, value (mean over draws), ci_low, ci_high (over items and draws;
    over items only at alpha 0, where all draws share the teacher, and with one draw), n (items),
    draws, draw_low, draw_high (the extreme draws), best (highest value of its panel in hindsight;
    of equal ones the smallest alpha).

    Raises: ValueError when the outcomes do not hold the panels' sweep.
    Source: figure 3.
    """
    tables = []
    for panel in panels or panels_in(outcomes):
        points = _points(PanelHits(outcomes, panel.measures), level, n_resamples, seed)
        points.insert(0, "panel", panel.name)
        tables.append(points)
    return pd.concat(tables, ignore_index=True)


def alpha_curve(
    outcomes: pd.DataFrame,
    *,
    alpha: float = 0.4,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Figure:
    """Draw figure 3: each panel's mean over draws, the draws, and the interval at each alpha.

    `alpha` is the value chosen beforehand (0.4 in the paper); it and the best one in hindsight are
    marked. The band is of the level at each alpha; whether two alphas differ is answered by
    `comparisons`, where items are paired. One panel is one column wide, two are a page wide; by
    default they are those of the data sets in the outcomes, `panels_in`.

    Raises: ValueError when alpha is not in the sweep or the outcomes do not hold it.
    Source: figure 3.
    """
    panels = panels or panels_in(outcomes)
    columns = 2 if len(panels) == 1 else 4
    legend_rows = 4 // columns
    with style.theme():
        figure, axes = style.new_figure(len(panels), height=2.9, legend_rows=legend_rows)
        for letter, panel, ax in zip(ascii_lowercase, panels, axes, strict=False):
            hits = PanelHits(outcomes, panel.measures)
            points = _points(hits, level, n_resamples, seed)
            curve = _draw_curve(ax, points, hits, level)
            marks = _draw_marks(ax, points, alpha, hits)
            ax.legend(
                handles=marks,
                title=panel.title if len(panels) == 1 else f"({letter}) {panel.title}",
                alignment="left",
                loc="lower left",
                bbox_to_anchor=(0, 1),
                borderaxespad=0.2,
                borderpad=0,
                handletextpad=0.3,
                handlelength=1.4,
                frameon=False,
                title_fontproperties={"weight": "bold", "size": "medium"},
            )
            ax.set_ylabel(panel.axis)
        style.shared_legend(figure, curve, columns)
    return figure


def _points(hits: PanelHits, level: float, n_resamples: int, seed: int) -> pd.DataFrame:
    rows = []
    for alpha in hits.alphas:
        means = hits.draw_means(alpha)
        interval = mean_interval(
            hits.at(alpha), level=level, n_resamples=n_resamples, seed=seed, within=(0, 1)
        )
        rows.append(
            {
                "alpha": alpha,
                "value": float(np.mean(means)),
                "ci_low": interval.low,
                "ci_high": interval.high,
                "n": hits.n_items,
                "draws": len(means),
                "draw_low": float(np.min(means)),
                "draw_high": float(np.max(means)),
            }
        )
    points = pd.DataFrame(rows)
    # Rounded, so that equal shares do not differ by the order of a sum.
    return points.assign(best=points.index == points["value"].round(12).idxmax())


def _draw_curve(ax: Axes, points: pd.DataFrame, hits: PanelHits, level: float) -> list[Artist]:
    x = points["alpha"].to_numpy()
    percent = 100 * points[["value", "ci_low", "ci_high"]]
    several = len(hits.draws) > 1
    band = ax.fill_between(
        x,
        percent["ci_low"],
        percent["ci_high"],
        color=style.BAND,
        linewidth=0,
        label=f"{level:.0%} interval ({'items × draws' if several else 'items'})",
    )
    teacher = ax.axhline(
        percent["value"].iloc[0],
        color=style.INK,
        linewidth=0.7,
        linestyle=(0, (4, 3)),
        label="teacher's level",
    )
    handles: list[Artist] = [band, teacher]
    if several:
        curves = 100 * np.stack([hits.draw_means(alpha) for alpha in hits.alphas])
        handles.append(ax.plot(x, curves, color=style.DRAW, linewidth=0.6, label="each draw")[0])
    label = f"mean of {len(hits.draws)} draws" if several else "the one draw"
    handles += ax.plot(x, percent["value"], color=style.LINE, marker=".", markersize=4, label=label)
    ax.set_xlim(-0.04, 1.04)
    ax.margins(y=0.08)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0), min(high, 100 + 0.04 * (high - low)))  # room for a mark at 100%
    names = ["0\nteacher", "0.2", "0.4", "0.6", "0.8", "1\nstudent"]
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], names)
    ax.xaxis.set_minor_locator(MultipleLocator(0.1))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_xlabel("α, weight of the student", labelpad=-6)
    sns.despine(ax=ax)
    return handles[::-1]


def _draw_marks(ax: Axes, points: pd.DataFrame, alpha: float, hits: PanelHits) -> list[Artist]:
    chosen = points.iloc[hits.place(alpha)]
    best = points[points["best"]].iloc[0]
    marks: list[Artist] = []
    for row, marker, size, name in (
        (best, "*", 8.5, "best in hindsight"),
        (chosen, "o", 4.5, "chosen beforehand"),
    ):
        marks += ax.plot(
            row["alpha"],
            100 * row["value"],
            marker=marker,
            markersize=size,
            linestyle="none",
            clip_on=False,
            zorder=3,
            markerfacecolor="white" if marker == "*" else style.INK,
            markeredgecolor=style.INK,
            markeredgewidth=0.7,
            label=f"{name}: α = {row['alpha']:g}, {100 * row['value']:.1f}%",
        )
    return marks[::-1]
