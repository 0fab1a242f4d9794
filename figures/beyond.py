"""What the paper has no table of: both directions of retrieval, and other merges beside alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from figures import style
from figures.comparisons import decided, difference, difference_in_words, differences_are
from figures.hits import PanelHits, as_hits
from figures.measures import Measure, Panel, measure_name, panels_in, scopes_of
from figures.outcomes import ranks_of, sweep_rows, variant_rows
from figures.table_formats import escape_markdown
from fitclip_kit.store.results import CLASSIFICATION

RENORMALISED: Final = "renormalised"
_MEAN: Final = "mean of"  # so begins the measure of a panel of several data sets
_DIRECTIONS: Final = ("text_to_video", "video_to_text")
# Of the comparisons in a plot; told apart in grey by their marks.
_LOOKS: Final = ((style.LINE, "o"), (style.SECOND, "s"), (style.INK, "^"))


def direction_comparisons(outcomes: pd.DataFrame, alpha: float = 0.4) -> pd.DataFrame:
    """Fused at `alpha` minus teacher in both directions of retrieval, and whether they differ.

    Three rows per panel and data set: the gain in text-to-video, in video-to-text, and the second
    less the first, where a clip and its text are one pair (where a clip has several texts, its
    first one: the first two rows are of all). The panels are those of the data sets in the
    outcomes, without action data sets; one that then holds fewer sets is called "<name>_retrieval".

    Columns: scope (panel or data set), measure, comparison (in words), alpha, first and second (the
    two compared values), and those of `comparisons.difference` and `comparisons.decided`.

    Raises: ValueError when alpha is not in the sweep or the panels have no retrieval.
    Source: the paper's tables 2 and 4 have text-to-video alone.
    """
    panels = []
    for panel in panels_in(outcomes):
        kept = tuple(one for one in panel.measures if one.direction != CLASSIFICATION)
        if kept:
            name = panel.name + "_retrieval" * (len(kept) < len(panel.measures))
            panels.append(Panel(name, kept))
    if not panels:
        raise ValueError("the panels have no retrieval; directions are of retrieval alone")
    rows = []
    for scope, measures in scopes_of(panels).items():
        gains, items = [], []
        for direction in _DIRECTIONS:
            turned = tuple(replace(measure, direction=direction) for measure in measures)
            hits = PanelHits(outcomes, turned)
            sides = hits.at(0.0), hits.at(alpha)
            gains.append([after - before for before, after in zip(*sides, strict=True)])
            items.append(hits.items)
            comparison = f"fused − teacher, {direction.replace('_', '-')}"
            rows.append(_row(scope, measure_name(turned), comparison, alpha, *sides))
        of_texts = [
            gain[:, texts.isin(videos)]
            for gain, texts, videos in zip(gains[0], *items, strict=True)
        ]
        comparison = "gain in video-to-text − gain in text-to-video"
        measure = measure_name(measures).replace("text-to-video ", "")
        rows.append(_row(scope, measure, comparison, alpha, of_texts, gains[1]))
    return decided(rows)


def variant_comparisons(outcomes: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Variants of the sweep minus the plain sweep at the same alpha, for the variants' draws.

    names: of merges, such as "fisher", or "renormalised"; each is compared at every alpha that it
    was measured at. The panels are those of the data sets in the outcomes.

    Columns: as `direction_comparisons`; first is the plain sweep's value, second the variant's.

    Raises: ValueError when a variant was not measured on the panels' data sets, or the plain sweep
    lacks its alphas, draws or items.
    """
    variants = {
        name: variant_rows(outcomes, renormalise=True)
        if name == RENORMALISED
        else variant_rows(outcomes, name)
        for name in names
    }
    plain, panels = sweep_rows(outcomes), panels_in(outcomes)
    several = any(variant["alpha"].nunique() > 1 for variant in variants.values())
    rows = []
    for name, variant in variants.items():
        for alpha in sorted(variant["alpha"].unique()):
            words = f"{name.replace('_', ' ')} − plain" + (f", α = {alpha:g}" if several else "")
            for scope, measures in scopes_of(panels).items():
                pairs = [_plain_and_variant(plain, variant, one, alpha) for one in measures]
                sides = map(list, zip(*pairs, strict=True))
                rows.append(_row(scope, measure_name(measures), words, alpha, *sides))
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
        counts = rows["verdict"].value_counts()
        told = ", ".join(f"{counts.get(one, 0)} {one}" for one in ("higher", "lower", "undecided"))
        # Only where no item differs in any draw is there no spread at all.
        same = int(((rows["ci_low"] == 0) & (rows["ci_high"] == 0)).sum())
        told += f" ({same} of them with equal outcomes throughout)" if same else ""
        lines.append(f"- **{words}**: {told}.")
        shown = rows[rows["measure"].str.startswith(_MEAN) | (rows["verdict"] != "undecided")]
        for row in shown.to_dict("records"):
            scope, measure = row["scope"], row["measure"]
            where = measure if measure.startswith(f"{scope} ") else f"{scope} ({measure})"
            lines.append(f"  - {where}: {difference_in_words(row)}")
    notes = "What is not listed is undecided, which does not mean equal."
    lines.append(f"\n{differences_are(table)} {notes}")
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
            look: dict[str, Any] = {"marker": mark, "markersize": 3.8, "color": colour}
            for settled, face in ((False, "white"), (True, colour)):
                chosen = (rows["verdict"] != "undecided").to_numpy() == settled
                points = (percent[chosen, 0], places[chosen])
                ax.plot(*points, linestyle="none", markerfacecolor=face, **look)
            handles += ax.plot([], [], label=name, **look)
        ax.axvline(0, color=style.INK, linewidth=0.6)
        for place in np.arange(len(scopes) - 1) + 0.5:
            ax.axhline(place, color=style.GRID, linewidth=0.4)
        ax.set_yticks(range(len(scopes)), [_label(table, scope) for scope in scopes])
        ax.set_ylim(len(scopes) - 0.45, -0.55)
        ax.tick_params(axis="y", length=0)
        style.round_steps(ax.xaxis, 8)
        kinds = [kind for kind in ("R@5", "top-1") if table["measure"].str.contains(kind).any()]
        unit = f"Difference in {' or '.join(kinds)} (points)"
        ax.set_xlabel(f"{unit}\nfilled: not 0, by the test")
        sns.despine(ax=ax, left=True)
        style.shared_legend(figure, handles, columns=1)
    return figure


def classes_in_words(table: pd.DataFrame) -> str:
    """What `per_class.per_class_table` shows: Markdown, classes with a verdict by name."""
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
        shown = table[table["verdict"] == verdict]
        names = ", ".join(
            f"{escape_markdown(row['class'])} ({100 * row['difference']:+.0f})"
            for row in shown.to_dict("records")
        )
        parts.append(f"Shown to be {verdict}: {len(shown)}{f' — {names}' if names else ''}.")
    parts.append(
        f"That is with the classes wrongly marked held to {1 - first['level']:.0%} of those marked "
        f"(false-discovery rate, over new {'clips and students' if first['draws'] > 1 else 'clips'}"
        "); all other classes are undecided."
    )
    return " ".join(parts)


def _plain_and_variant(
    plain: pd.DataFrame, variant: pd.DataFrame, measure: Measure, alpha: float
) -> list[np.ndarray]:
    """Hits of the plain sweep and of a variant, [draws, items], the variant's draws."""
    ranks = [ranks_of(rows, measure.data_set, measure.direction) for rows in (plain, variant)]
    of_plain, draws = (one.draws[one.known(alpha)] for one in ranks)
    lacking = [draw for draw in draws if draw not in of_plain]
    if lacking or not ranks[0].items.equals(ranks[1].items):
        raise ValueError(
            f"the plain sweep on {measure.data_set} at alpha {alpha:g} lacks draws {lacking} or "
            "has other items than the variant; measure both on the same"
        )
    rows = [of_plain.index(draw) for draw in draws] or [0]  # the teacher has no draw
    return [as_hits(array, measure) for array in (ranks[0].at(alpha)[rows], ranks[1].at(alpha))]


def _row(
    scope: str,
    measure: str,
    comparison: str,
    alpha: float,
    first: list[np.ndarray],
    second: list[np.ndarray],
) -> dict[str, Any]:
    where = {"scope": scope, "measure": measure, "comparison": comparison, "alpha": alpha}
    values = [float(np.mean([hits.mean() for hits in side])) for side in (first, second)]
    return where | {"first": values[0], "second": values[1]} | difference(first, second)


def _label(table: pd.DataFrame, scope: str) -> str:
    measure = table.loc[table["scope"] == scope, "measure"].iloc[0]
    name = scope.replace("in_domain", "in-domain").replace("zero_shot", "zero-shot")
    return name.replace("_", " ") + (",\nmean" if measure.startswith(_MEAN) else "")
