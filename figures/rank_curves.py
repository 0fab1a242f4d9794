"""Figure 2 of the supplement: the ranks that each model gives to the right videos, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from figures import style
from figures.outcomes import ranks_of, same_draws, sweep_rows
from fitclip_core.statistics import simultaneous_band

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


def model_ranks(
    outcomes: pd.DataFrame, data_set: str, direction: str, alphas: Sequence[float]
) -> list[pd.DataFrame]:
    """Ranks of one data set and direction at each alpha: a row per item, a column per draw.

    Values are 1-based mid-ranks; rows are the same items in the same order in all tables. The
    teacher, alpha 0, has the one column None.

    Raises: ValueError when an alpha was not measured, alphas above 0 do not have the same draws, or
    as `outcomes.ranks_of`.
    """
    ranks = ranks_of(sweep_rows(outcomes), data_set, direction)
    known = [ranks.known(alpha) for alpha in alphas]
    same_draws({alpha: ranks.draws[alpha] for alpha in known}, f"{data_set}, {direction}: alpha")
    return [
        pd.DataFrame(ranks.points[alpha].T, ranks.items, ranks.draws[alpha] or [None])
        for alpha in known
    ]


def rank_curve_table(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    data_set: str = "msrvtt",
    direction: str = "text_to_video",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The sorted ranks of the teacher, the student and the model fused at `alpha`.

    Columns: data_set, direction, model, alpha, position (1 to n; texts in order of rank, each model
    in its own order), share (position / n), rank, ci_low, ci_high (1-based ranks), n, draws, level.

    The rank at position i is the smallest one that a share of i / n of the texts does not exceed,
    averaged over draws: where the curve crosses rank k, the share is the draws' mean R@k. The band
    is that of R@k at every k together (`statistics.simultaneous_band`), read the other way round,
    so it covers the whole curve at once; it ends at the largest rank seen.

    Raises: ValueError when the outcomes lack the teacher, the student or this alpha, or as
    `model_ranks`.
    Source: supplement, figure 2.
    """
    alphas = _alphas(alpha)
    tables = []
    for model, ranks in zip(
        alphas, model_ranks(outcomes, data_set, direction, list(alphas.values())), strict=True
    ):
        cutoffs, hits = _hits([ranks])
        band = simultaneous_band(hits[0], level=level, n_resamples=n_resamples, seed=seed)
        n = len(ranks)
        curves = {
            "rank": _first_reaching(band.estimate, cutoffs, n),
            "ci_low": _first_reaching(_rising(band.high), cutoffs, n),
            "ci_high": _first_reaching(band.low, cutoffs, n),
        }
        position = np.arange(1, n + 1)
        tables.append(
            pd.DataFrame(
                {
                    "data_set": data_set,
                    "direction": direction,
                    "model": model,
                    "alpha": alphas[model],
                    "position": position,
                    "share": position / n,
                    **curves,
                    "n": n,
                    "draws": ranks.shape[1],
                    "level": level,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def curve_order(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    data_set: str = "msrvtt",
    direction: str = "text_to_video",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.Series:
    """How often the fused curve of figure 2 lies below the teacher's, that is, ranks better.

    Entries: positions (n), below, equal, above (shares of the positions, as in `rank_curve_table`;
    their sum is 1), cutoffs (distinct ranks k seen, less the largest), higher, lower (numbers of
    these k at which R@k of the fused model minus the teacher's, on the same texts, leaves out 0 on
    that side, with the given level for all k together), level.

    Raises: ValueError as `rank_curve_table`.
    Source: supplement, section 3 ("under the CLIP curve for virtually all points").
    """
    _alphas(alpha)
    both = model_ranks(outcomes, data_set, direction, [0.0, alpha])
    cutoffs, (teacher, fused) = _hits(both)
    n = len(both[0])
    curves = [_first_reaching(hits.mean(axis=(0, 1)), cutoffs, n) for hits in (teacher, fused)]
    gap = np.sign(curves[1] - curves[0])
    band = simultaneous_band(fused - teacher, level=level, n_resamples=n_resamples, seed=seed)
    return pd.Series(
        {
            "positions": n,
            "below": float(np.mean(gap < 0)),
            "equal": float(np.mean(gap == 0)),
            "above": float(np.mean(gap > 0)),
            "cutoffs": len(cutoffs) - 1,  # at the largest rank seen every R@k is 1
            "higher": int(np.sum(band.low > 0)),
            "lower": int(np.sum(band.high < 0)),
            "level": level,
        },
        dtype=object,
    )


def order_in_words(order: pd.Series) -> str:
    """What `curve_order` found, as a sentence or two of Markdown."""
    return (
        f"The fused model's curve lies below the teacher's at {order['below']:.1%} of "
        f"{order['positions']} positions, on it at {order['equal']:.1%} and above it at "
        f"{order['above']:.1%}. Of {order['cutoffs']} cutoffs k, the fused model's R@k is higher "
        f"at {order['higher']} and lower at {order['lower']}, by a {order['level']:.0%} band for "
        "all cutoffs together; the others are undecided."
    )


def rank_curves(table: pd.DataFrame) -> Figure:
    """Draw figure 2 from `rank_curve_table`: sorted ranks on a log axis, one column wide.

    Each curve is a staircase: the texts' share on the x axis, their ranks on the y axis, lower is
    better. The bands of teacher and fused model are shown; whether the two differ is answered by
    `curve_order`, where texts are paired.

    Raises: ValueError when the table is empty or holds more than one data set or direction.
    Source: supplement, figure 2.
    """
    scopes = table[["data_set", "direction"]].drop_duplicates()
    if len(scopes) != 1:
        raise ValueError(
            f"the table holds {len(scopes)} data sets and directions; give that of one"
        )
    scope = scopes.iloc[0]
    with style.theme():
        figure, (ax,) = style.new_figure(1, height=2.9, legend_rows=3)
        handles: list[Artist] = []
        for model, look in _LINES.items():
            rows = table[table["model"] == model]
            share = np.concatenate([[0], rows["share"]])
            steps = {
                name: np.concatenate([rows[name].iloc[:1], rows[name]])
                for name in ("rank", "ci_low", "ci_high")
            }
            if model in _BANDS:
                ax.fill_between(
                    share, steps["ci_low"], steps["ci_high"], step="pre", **_BANDS[model]
                )
            handles += ax.plot(
                share, steps["rank"], drawstyle="steps-pre", label=_label(rows.iloc[0]), **look
            )
        first = table.iloc[0]
        handles += [
            Patch(**look, label=f"{first['level']:.0%} band, {model}")
            for model, look in _BANDS.items()
        ]
        _finish(ax, float(table["rank"].max()))
        asked, ranked = str(scope["direction"]).split("_to_")
        ax.set_xlabel(f"Share of {asked}s, sorted by rank (n = {first['n']:,})")
        ax.set_ylabel(f"Rank of the right {ranked}")
        ax.set_title(str(scope["data_set"]), loc="left", weight="bold")
        style.shared_legend(figure, handles, columns=2)
    return figure


def _alphas(alpha: float) -> dict[str, float]:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha:g} is no fused model's; give one between 0 and 1")
    return {"teacher": 0.0, "student": 1.0, "fused": float(alpha)}


def _hits(models: Sequence[pd.DataFrame]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The ranks seen in any model, ascending, and each model's hits: [draws, items, ranks]."""
    ranks = [one.to_numpy(np.float64).T for one in models]
    cutoffs = np.unique(np.concatenate([one.ravel() for one in ranks]))
    return cutoffs, [(one[:, :, None] <= cutoffs).astype(np.float64) for one in ranks]


def _first_reaching(shares: np.ndarray, cutoffs: np.ndarray, n: int) -> np.ndarray:
    """At 1/n, 2/n, ... 1: the first cutoff whose share is as large; the last where none is."""
    if np.isnan(shares).any():
        return np.full(n, np.nan)
    wanted = np.arange(1, n + 1) / n - 1e-9  # a sum of shares may fall short by rounding
    reached = shares >= wanted[:, None]
    reached[:, -1] = True
    return cutoffs[reached.argmax(axis=1)]


def _rising(high: np.ndarray) -> np.ndarray:
    """An upper band of a share that only grows: no end may exceed a later one."""
    return np.minimum.accumulate(high[::-1])[::-1]


def _label(row: pd.Series) -> str:
    if row["model"] == "teacher":
        return "teacher"
    name = "student" if row["model"] == "student" else f"fused, α = {row['alpha']:g}"
    return f"{name}, {row['draws']} draws" if row["draws"] > 1 else name


def _finish(ax: Axes, largest: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(0.9, 1.15 * max(largest, 2))
    ax.set_xlim(-0.01, 1.01)
    subs = (1.0,) if largest > 50 else (1.0, 2.0, 5.0)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    sns.despine(ax=ax)
