"""What the paper has no table of: both directions of retrieval, and other merges beside alpha."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import style
from figures.alpha_curve import ZERO_SHOT, Measure, Panel, PanelHits, panels_in, panels_of, shown_on
from figures.comparisons import decided, difference, measure_name, p_in_words, scopes_of
from figures.outcomes import Ranks, ranks_of, sweep_rows, variant_rows
from figures.table_formats import escape_markdown
from fitclip_kit.store.results import CLASSIFICATION

_MEAN: Final = "mean of"  # so begins the measure of a panel of several data sets
RENORMALISED: Final = "renormalised"
_DIRECTIONS: Final = ("text_to_video", "video_to_text")
# Of the comparisons in a plot; told apart in grey by their marks.
_LOOKS: Final = ((style.LINE, "o"), ("#b34700", "s"), (style.INK, "^"))


def left_out(data_sets: Collection[str], tower_sets: Collection[str]) -> list[str]:
    """Which of notebook 07's sections some data sets cannot fill, and why, a sentence each."""
    lines = []
    for preferred, kind, sections in (
        ("mit", "recognition", "Figure 1"),
        ("msrvtt", "retrieval", "Figure 2"),
    ):
        on = shown_on(preferred, data_sets)
        if on is None:
            also = ", and so are both directions" if kind == "retrieval" else ""
            lines.append(f"{sections} is left out{also}: no data set of {kind} is measured.")
        elif on != preferred:
            lines.append(f"{sections} is of {on}: {preferred}, the paper's, is not measured.")
    panels = {panel.name: panel.measures for panel in panels_of(data_sets)}
    if len(panels.get(ZERO_SHOT.name, ())) == 1:
        also = "" if len(panels) > 1 else ", and the section is left out"
        lines.append(f"With one zero-shot data set, alpha is chosen on no other{also}.")
    there = {one.data_set for measures in panels.values() for one in measures}
    if absent := [name for name in tower_sets if name not in there]:
        rest = [name for name in tower_sets if name in there]
        left = f"is of {', '.join(rest)} alone" if rest else "is left out"
        lines.append(
            f"The map of an alpha for each tower {left} (not measured: {', '.join(absent)})."
        )
    return lines


def direction_comparisons(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Fused at `alpha` minus teacher in both directions of retrieval, and whether they differ.

    Three rows per panel and data set: the gain in text-to-video, in video-to-text, and the second
    less the first, where a clip and its text are one pair (where a clip has several texts, its
    first one: the first two rows are of all). Panels are by default those of the data sets in the
    outcomes. Action data sets are left out of them; a panel that then holds fewer sets is called
    "<name>_retrieval".

    Columns: scope (panel or data set), measure, comparison (in words), alpha, first and second (the
    two compared values), and from difference to verdict those of `comparisons.fusion_comparisons`.

    Raises: ValueError when alpha is not in the sweep or the panels have no retrieval.
    Source: the paper's tables 2 and 4 have text-to-video alone.
    """
    settings: dict[str, Any] = {"level": level, "n_resamples": n_resamples, "seed": seed}
    rows = []
    for scope, measures in scopes_of(_retrieval(panels or panels_in(outcomes))):
        gains, items = {}, {}
        for direction in _DIRECTIONS:
            turned = tuple(replace(one, direction=direction) for one in measures)
            hits = PanelHits(outcomes, turned)
            teacher, fused = hits.at(0.0), hits.at(alpha)
            gains[direction] = [
                after - before for before, after in zip(teacher, fused, strict=True)
            ]
            items[direction] = hits.items
            comparison = f"fused − teacher, {direction.replace('_', '-')}"
            where = (scope, measure_name(turned), comparison, alpha)
            rows.append(_compared(where, teacher, fused, **settings))
        comparison = "gain in video-to-text − gain in text-to-video"
        measure = measure_name(measures).replace("text-to-video ", "")
        where = (scope, measure, comparison, alpha)
        firsts = [
            gained[:, texts.isin(videos)]
            for gained, texts, videos in zip(
                gains["text_to_video"], *(items[one] for one in _DIRECTIONS), strict=True
            )
        ]
        rows.append(_compared(where, firsts, gains["video_to_text"], **settings))
    return decided(rows)


def variant_comparisons(
    outcomes: pd.DataFrame,
    names: Sequence[str],
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Variants of the sweep minus the plain sweep at the same alpha, for the variants' draws.

    names: of merges, such as "fisher", or "renormalised"; each is compared at every alpha that it
    was measured at. Panels are by default those of the data sets in the outcomes.

    Columns: as `direction_comparisons`; first is the plain sweep's value, second the variant's.

    Raises: ValueError when a variant was not measured on the panels' data sets, or the plain sweep
    lacks its alphas, draws or items.
    """
    settings: dict[str, Any] = {"level": level, "n_resamples": n_resamples, "seed": seed}
    variants = {
        name: variant_rows(outcomes, renormalise=True)
        if name == RENORMALISED
        else variant_rows(outcomes, name)
        for name in names
    }
    panels = panels or panels_in(outcomes)
    several = any(rows["alpha"].nunique() > 1 for rows in variants.values())
    rows = []
    for name, variant in variants.items():
        for alpha in sorted(variant["alpha"].unique()):
            pairs = {
                one: _plain_and_variant(outcomes, variant, one, alpha)
                for panel in panels
                for one in panel.measures
            }
            words = f"{name.replace('_', ' ')} − plain" + (f", α = {alpha:g}" if several else "")
            for scope, measures in scopes_of(panels):
                plain, other = zip(*(pairs[one] for one in measures), strict=True)
                where = (scope, measure_name(measures), words, alpha)
                rows.append(_compared(where, list(plain), list(other), **settings))
    return decided(rows)


def comparisons_in_words(table: pd.DataFrame) -> str:
    """What `direction_comparisons` or `variant_comparisons` show: Markdown, a line per comparison.

    Of data sets, only those with a verdict are listed; the others are counted.

    Raises: ValueError when the table is empty.
    """
    if table.empty:
        raise ValueError("there are no comparisons to put in words")
    lines = []
    for words, rows in table.groupby("comparison", sort=False):
        shared = rows["measure"].str.startswith(_MEAN)
        shown = rows[shared | (rows["verdict"] != "undecided")]
        lines.append(f"- **{words}**: {_counts(rows)}.")
        lines += [f"  - {_sentence(row)}" for row in shown.to_dict("records")]
    first = table.iloc[0]
    several = table["draws"].max() > 1
    lines.append(
        f"\nDifferences are in percentage points, with {first['level']:.0%} intervals over items"
        f"{' and draws' if several else ' (one draw: nothing is known of others)'}; p-values are "
        f"of the same t, Holm-corrected for {len(table)} comparisons, as the intervals are not. "
        "What is not listed is undecided, which does not mean equal."
    )
    return "\n".join(lines)


def difference_plot(table: pd.DataFrame) -> Figure:
    """Draw `direction_comparisons` or `variant_comparisons`: a row per scope, one column wide.

    Filled marks have a verdict, white ones are undecided; lines are the table's intervals, each by
    itself.

    Raises: ValueError when the table is empty or has more than three comparisons.
    """
    names = list(dict.fromkeys(table["comparison"]))
    if not 1 <= len(names) <= len(_LOOKS):
        raise ValueError(f"the table has {len(names)} comparisons; give 1 to {len(_LOOKS)} of them")
    scopes = list(dict.fromkeys(table["scope"]))
    with style.theme():
        height = 0.75 + len(scopes) * (0.12 + 0.11 * len(names)) + 0.15 * len(names)
        figure, (ax,) = style.new_figure(1, height, legend_rows=len(names))
        handles: list[Artist] = []
        for number, (name, (colour, mark)) in enumerate(zip(names, _LOOKS, strict=False)):
            rows = table[table["comparison"] == name]
            offset = (number - (len(names) - 1) / 2) * 0.66 / len(names)
            places = rows["scope"].map(scopes.index).to_numpy() + offset
            percent = 100 * rows[["difference", "ci_low", "ci_high"]].to_numpy(np.float64)
            ax.hlines(places, percent[:, 1], percent[:, 2], color=colour, linewidth=1)
            for settled in (False, True):
                chosen = (rows["verdict"] != "undecided").to_numpy() == settled
                look = {"marker": mark, "markersize": 3.8, "linestyle": "none", "color": colour}
                face = colour if settled else "white"
                ax.plot(percent[chosen, 0], places[chosen], markerfacecolor=face, **look)
            handles += ax.plot([], [], marker=mark, markersize=3.8, color=colour, label=name)
        ax.axvline(0, color=style.INK, linewidth=0.6)
        for place in np.arange(len(scopes) - 1) + 0.5:
            ax.axhline(place, color="#e2e2e2", linewidth=0.4)
        ax.set_yticks(range(len(scopes)), [_label(table, scope) for scope in scopes])
        ax.set_ylim(len(scopes) - 0.45, -0.55)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        kinds = [kind for kind in ("R@5", "top-1") if table["measure"].str.contains(kind).any()]
        unit = f"Difference in {' or '.join(kinds)} (points)"
        ax.set_xlabel(f"{unit}\nfilled: not 0, by the test")
        sns.despine(ax=ax, left=True)
        style.shared_legend(figure, handles, columns=1)
    return figure


def classes_in_words(table: pd.DataFrame) -> str:
    """What `per_class.per_class_table` shows: Markdown, classes with a verdict by name.

    Raises: ValueError when the table is empty.
    """
    if table.empty:
        raise ValueError("there are no classes to put in words")
    first = table.iloc[0]
    signs = np.sign(table["difference"].round(12))
    fewest, most = table["n"].min(), table["n"].max()
    clips = f"{fewest} to {most}" if fewest < most else f"{most}"
    parts = [
        f"Top-1 rises in {(signs > 0).sum()} of {len(table)} classes, falls in {(signs < 0).sum()} "
        f"and stays in {(signs == 0).sum()} (α = {first['alpha']:g} against the teacher; clips in "
        f"a class: {clips})."
    ]
    for verdict in ("higher", "lower"):
        found = table[table["verdict"] == verdict]
        names = ", ".join(
            f"{escape_markdown(row['class'])} ({100 * row['difference']:+.0f})"
            for row in found.to_dict("records")
        )
        parts.append(f"Shown to be {verdict}: {len(found)}{f' — {names}' if names else ''}.")
    parts.append(
        f"That is with the classes wrongly marked held to {1 - first['level']:.0%} of those marked "
        f"(false-discovery rate, over new {'clips and students' if first['draws'] > 1 else 'clips'}"
        "); all other classes are undecided."
    )
    return " ".join(parts)


def _retrieval(panels: Sequence[Panel]) -> list[Panel]:
    kept = []
    for panel in panels:
        measures = tuple(one for one in panel.measures if one.direction != CLASSIFICATION)
        whole = len(measures) == len(panel.measures)
        if measures:
            name = panel.name if whole else f"{panel.name}_retrieval"
            kept.append(replace(panel, name=name, measures=measures))
    if not kept:
        raise ValueError("the panels have no retrieval; directions are of retrieval alone")
    return kept


def _plain_and_variant(
    outcomes: pd.DataFrame, variant: pd.DataFrame, measure: Measure, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hits of the plain sweep and of a variant, [draws, items], the variant's draws."""
    plain, other = (
        ranks_of(rows, measure.data_set, measure.direction)
        for rows in (sweep_rows(outcomes), variant)
    )
    draws, plain_draws = (_draws_at(ranks, alpha) for ranks in (other, plain))
    lacking = [draw for draw in draws if draw not in plain_draws]
    if lacking or not plain.items.equals(other.items):
        raise ValueError(
            f"the plain sweep on {measure.data_set} at alpha {alpha:g} lacks draws {lacking} or "
            "has other items than the variant; measure both on the same"
        )
    rows = [plain_draws.index(draw) for draw in draws]
    plain_hits, other_hits = (
        (ranks <= measure.k).astype(np.float64)
        for ranks in (plain.at(alpha)[rows], other.at(alpha))
    )
    return plain_hits, other_hits


def _draws_at(ranks: Ranks, alpha: float) -> list[int | None]:
    return [*ranks.draws[ranks.known(alpha)]] or [None]


def _compared(
    where: tuple[str, str, str, float],
    first: list[np.ndarray],
    second: list[np.ndarray],
    **settings: Any,
) -> dict[str, Any]:
    values = [float(np.mean([data.mean() for data in side])) for side in (first, second)]
    names = ("scope", "measure", "comparison", "alpha", "first", "second")
    return dict(zip(names, (*where, *values), strict=True)) | difference(first, second, **settings)


def _counts(rows: pd.DataFrame) -> str:
    parts = [
        f"{(rows['verdict'] == word).sum()} {word}" for word in ("higher", "lower", "undecided")
    ]
    # Only where no item differs in any draw is there no spread at all.
    same = int(((rows["ci_low"] == 0) & (rows["ci_high"] == 0)).sum())
    return ", ".join(parts) + (f" ({same} of them with equal outcomes throughout)" if same else "")


def _label(table: pd.DataFrame, scope: str) -> str:
    measure = table.loc[table["scope"] == scope, "measure"].iloc[0]
    several = measure.startswith(_MEAN)
    name = scope.replace("in_domain", "in-domain").replace("zero_shot", "zero-shot")
    return name.replace("_", " ") + (",\nmean" if several else "")


def _sentence(row: dict) -> str:
    draws = (
        f", {row['draws_same_sign']} of {row['draws']} draws of this sign"
        if row["draws"] > 1
        else ""
    )
    scope, measure = row["scope"], row["measure"]
    name = measure if measure.startswith(f"{scope} ") else f"{scope} ({measure})"
    return (
        f"{name}: {100 * row['difference']:+.1f} "
        f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}], "
        f"{p_in_words(row['p_holm'])}{draws}: {row['verdict']}"
    )
