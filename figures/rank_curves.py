"""Figure 2 of the supplement: the ranks that each model gives to the right videos, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from figures import style
from figures.comparisons import LEVEL
from figures.hits import sweep_ranks
from figures.inference import simultaneous_band

DIRECTION: Final = "text_to_video"  # the paper's
# How the line and the band are drawn; told apart in grey by dashes, and by edges or filling.
_LINES: Final[dict[str, dict[str, Any]]] = {
    "teacher": {"color": style.INK, "linestyle": (0, (4, 2)), "linewidth": 1.0},
    "student": {"color": style.DRAW, "linestyle": (0, (1, 1.2)), "linewidth": 1.2},
    "fused": {"color": style.LINE, "linestyle": "-", "linewidth": 1.4},
}
_BANDS: Final[dict[str, dict[str, Any]]] = {
    "fused": {"facecolor": style.BAND, "linewidth": 0, "zorder": 0.5},
    "teacher": {
        "facecolor": "none",
        "edgecolor": style.INK,
        "linewidth": 0.5,
        "linestyle": ":",
        "zorder": 1,
    },
}


def rank_curve_table(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, data_set: str = "msrvtt"
) -> pd.DataFrame:
    """The sorted ranks of the teacher, the student and the model fused at `alpha`.

    Columns: data_set, direction, model, alpha, position (1 to n; texts in order of rank, each model
    in its own order), share (position / n), rank, ci_low, ci_high (1-based ranks), n, draws, level.

    The rank at position i is the smallest one that a share of i / n of the texts does not exceed,
    averaged over draws: where the curve crosses rank k, the share is the draws' mean R@k. The band
    is that of R@k at every k together (`inference.simultaneous_band`), read the other way round,
    so it covers the whole curve at once; it ends at the largest rank seen.

    Raises: ValueError when the outcomes lack the teacher, the student or this alpha, or alpha is
    not between 0 and 1.
    """
    models = {"teacher": 0.0, "student": 1.0, "fused": _fused(alpha)}
    tables = []
    found = sweep_ranks(outcomes, data_set, DIRECTION, list(models.values()))
    for (model, at), ranks in zip(models.items(), found.arrays, strict=True):
        cutoffs, (hits,) = _hits([ranks])
        band, n = simultaneous_band(hits), ranks.shape[1]
        # An upper band of a share that only grows: no end may exceed a later one.
        high = np.minimum.accumulate(band.high[::-1])[::-1]
        curves = {"rank": band.estimate, "ci_low": high, "ci_high": band.low}
        position = np.arange(1, n + 1)
        columns = {"data_set": data_set, "direction": DIRECTION, "model": model, "alpha": at}
        columns |= {"position": position, "share": position / n}
        columns |= {name: _first_reaching(curve, cutoffs, n) for name, curve in curves.items()}
        tables.append(pd.DataFrame(columns | {"n": n, "draws": len(ranks), "level": LEVEL}))
    return pd.concat(tables, ignore_index=True)


def curve_order(
    outcomes: pd.DataFrame, alpha: float = 0.4, *, data_set: str = "msrvtt"
) -> pd.Series:
    """How often the fused curve of figure 2 lies below the teacher's, that is, ranks better.

    Entries: positions (n), below, equal, above (shares of the positions, as in `rank_curve_table`;
    their sum is 1), cutoffs (distinct ranks k seen, less the largest), higher, lower (numbers of
    these k at which R@k of the fused model minus the teacher's, on the same texts, leaves out 0 on
    that side, by a 95% band for all k together).

    Raises: ValueError as `rank_curve_table`.
    Source: supplement, section 3 ("under the CLIP curve for virtually all points").
    """
    ranks = sweep_ranks(outcomes, data_set, DIRECTION, [0.0, _fused(alpha)])
    cutoffs, (teacher, fused) = _hits(ranks.arrays)
    n = len(ranks.items)
    curves = [_first_reaching(hits.mean(axis=(0, 1)), cutoffs, n) for hits in (teacher, fused)]
    gap = np.sign(curves[1] - curves[0])
    shares = {"below": -1, "equal": 0, "above": 1}
    band = simultaneous_band(fused - teacher)
    return pd.Series(
        {"positions": n}
        | {name: float(np.mean(gap == sign)) for name, sign in shares.items()}
        | {"cutoffs": len(cutoffs) - 1}  # at the largest rank seen every R@k is 1
        | {"higher": int(np.sum(band.low > 0)), "lower": int(np.sum(band.high < 0))},
        dtype=object,
    )


def order_in_words(order: pd.Series) -> str:
    """What `curve_order` found, as a sentence or two of Markdown."""
    return (
        f"The fused model's curve lies below the teacher's at {order['below']:.1%} of "
        f"{order['positions']} positions, on it at {order['equal']:.1%} and above it at "
        f"{order['above']:.1%}. Of {order['cutoffs']} cutoffs k, the fused model's R@k is higher "
        f"at {order['higher']} and lower at {order['lower']}, by a {LEVEL:.0%} band for "
        "all cutoffs together; the others are undecided."
    )


def rank_curves(table: pd.DataFrame) -> Figure:
    """Draw figure 2 from `rank_curve_table`: sorted ranks on a log axis, one column wide.

    Each curve is a staircase: the texts' share on the x axis, their ranks on the y axis, lower is
    better. The bands of teacher and fused model are shown; whether the two differ is answered by
    `curve_order`, where texts are paired.
    """
    largest = max(float(table["rank"].max()), 2)
    with style.theme():
        figure, (ax,) = style.new_figure(1, height=2.9, legend_rows=3)
        handles: list[Artist] = []
        for model, look in _LINES.items():
            rows = table[table["model"] == model]
            rows = pd.concat([rows.iloc[:1].assign(share=0), rows])
            if model in _BANDS:
                ends = rows["ci_low"], rows["ci_high"]
                ax.fill_between(rows["share"], *ends, step="pre", **_BANDS[model])
            label = _label(rows.iloc[0])
            handles += ax.step(rows["share"], rows["rank"], where="pre", label=label, **look)
        handles += [
            Patch(**look, label=f"{LEVEL:.0%} band, {model}") for model, look in _BANDS.items()
        ]
        ax.set_yscale("log")
        ax.set_ylim(0.9, 1.15 * largest)
        ax.set_xlim(-0.01, 1.01)
        ax.yaxis.set_major_locator(LogLocator(subs=(1,) if largest > 50 else (1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        sns.despine(ax=ax)
        ax.set_xlabel(f"Share of texts, sorted by rank (n = {table['n'].iloc[0]:,})")
        ax.set_ylabel("Rank of the right video")
        ax.set_title(str(table["data_set"].iloc[0]), loc="left", weight="bold")
        style.shared_legend(figure, handles, columns=2)
    return figure


def _fused(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha:g} is no fused model's; give one between 0 and 1")
    return alpha


def _hits(models: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The ranks seen in any model, ascending, and each model's hits: [draws, items, ranks]."""
    cutoffs = np.unique(np.concatenate([ranks.ravel() for ranks in models]))
    return cutoffs, [(ranks[:, :, None] <= cutoffs).astype(np.float64) for ranks in models]


def _first_reaching(shares: np.ndarray, cutoffs: np.ndarray, n: int) -> np.ndarray:
    """At 1/n, 2/n, ... 1: the first cutoff whose share is as large; the last where none is."""
    if np.isnan(shares).any():
        return np.full(n, np.nan)
    wanted = np.arange(1, n + 1) / n - 1e-9  # a sum of shares may fall short by rounding
    reached = shares >= wanted[:, None]
    reached[:, -1] = True
    return cutoffs[reached.argmax(axis=1)]


def _label(row: pd.Series) -> str:
    if row["model"] == "teacher":
        return "teacher"
    name = "student" if row["model"] == "student" else f"fused, α = {row['alpha']:g}"
    return f"{name}, {row['draws']} draws" if row["draws"] > 1 else name
