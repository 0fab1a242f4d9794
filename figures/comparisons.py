"""What fusion gains or loses against its two ends, tested on the same items, and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from figures.hits import PanelHits
from figures.measures import Panel, measure_name, panels_in, scopes_of
from fitclip_core.statistics import paired_difference

LEVEL: Final = 0.95  # of every interval, as of fitclip_core.statistics
_FLIPS: Final = 10_000
_ENDS: Final = {"teacher": 0.0, "student": 1.0}


def fusion_comparisons(
    outcomes: pd.DataFrame, alpha: float = 0.4, panels: Sequence[Panel] | None = None
) -> pd.DataFrame:
    """Fused at `alpha` minus teacher and minus student, per panel and per data set of it.

    Panels are by default those of the data sets in the outcomes. A panel of one data set is that
    data set and is listed once. Columns: scope (panel or data set), measure, versus, alpha, and
    those of `difference` and `decided`; positive is in favour of fusion.

    Raises: ValueError when alpha is not in the sweep, or is 0 or 1.
    Source: tables 4 and 5 compare the same models, without a test.
    """
    rows = []
    for scope, measures in scopes_of(panels or panels_in(outcomes)).items():
        hits = PanelHits(outcomes, measures)
        fused = hits.at(alpha)
        if hits.alphas[hits.place(alpha)] in _ENDS.values():
            raise ValueError(f"alpha {alpha:g} is an end of the sweep; compare one between 0 and 1")
        where = {"scope": scope, "measure": measure_name(measures)}
        rows += [
            where | {"versus": end, "alpha": alpha} | difference(hits.at(end_alpha), fused)
            for end, end_alpha in _ENDS.items()
        ]
    return decided(rows)


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, Any]:
    """A comparison's row: hits second - first of data sets that count equally, [draws, items] each.

    difference, ci_low, ci_high (fractions; `statistics.paired_difference`), p_value (of the
    interval's t), sign_flip_p (sign flips over items, given these draws; not corrected), n (items),
    draws, draws_same_sign (draws whose own difference has the mean's sign), level.
    """
    found = paired_difference(list(first), list(second), level=LEVEL, n_resamples=_FLIPS)
    by_draw = np.mean(
        [other.mean(axis=1) - one.mean(axis=1) for one, other in zip(first, second, strict=True)],
        axis=0,
    )
    signs = np.sign(np.round([found.estimate, *by_draw], 12))  # 0 is a sign of its own
    numbers = {"difference": found.estimate, "ci_low": found.low, "ci_high": found.high}
    tests = {"p_value": found.p_value, "sign_flip_p": found.sign_flip_p, "n": found.n}
    same = int(np.sum(signs[1:] == signs[0]))
    return numbers | tests | {"draws": len(by_draw), "draws_same_sign": same, "level": LEVEL}


def decided(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table of comparisons with p_holm, corrected for all of its rows, and the verdicts.

    The verdict is "higher" or "lower" when p_holm <= 1 - level, else "undecided".
    """
    table = pd.DataFrame(list(rows))
    corrected = holm(table["p_value"].to_numpy())
    table.insert(list(table.columns).index("p_value") + 1, "p_holm", corrected)
    return table.assign(verdict=[decision(row) for row in table.to_dict("records")])


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of a family of p-values, in the order given: [tests].

    NaN, of what could not be tested, stays NaN and is not counted.

    Raises: ValueError when a p-value is outside [0, 1].
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"p-values must lie in [0, 1]; got {values.tolist()}")
    order = np.argsort(values, kind="stable")  # NaN comes last
    factors = np.count_nonzero(~np.isnan(values)) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return corrected


def decision(row: Mapping[Any, Any]) -> str:
    """The verdict of a row by its p_holm, level, ci_low and ci_high: higher, lower or undecided.

    Where p_holm is at most 1 - level, so is the p-value, and the interval of the same t lies on one
    side of 0.
    """
    if row["p_holm"] > 1 - row["level"]:
        return "undecided"
    return str(off_zero(row["ci_low"], row["ci_high"]))


def off_zero(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Verdicts by intervals' ends: "higher" or "lower" where they leave out 0, else "undecided"."""
    above, below = np.asarray(low) > 0, np.asarray(high) < 0
    return np.where(above, "higher", np.where(below, "lower", "undecided"))


def verdict(comparisons: pd.DataFrame) -> str:
    """What `fusion_comparisons` shows, in Markdown: whether fusion is higher than both ends of each
    scope, and a line per row. Raises: ValueError when the table is empty."""
    if comparisons.empty:
        raise ValueError("no comparisons to put in words; call fusion_comparisons first")
    paragraphs = []
    for scope, rows in comparisons.groupby("scope", sort=False):
        against = ", ".join(
            f"undecided against the {row.versus}"
            if row.verdict == "undecided"
            else f"{row.verdict} than the {row.versus}"
            for row in rows.itertuples()
        )
        said = f"{against}; it is not shown to beat both ends."
        said = "higher than both ends." if (rows["verdict"] == "higher").all() else said
        measured = f"{rows['measure'].iloc[0]}, n = {rows['n'].iloc[0]}"
        lines = [f"**{scope}** ({measured}): fusion is {said}"]
        for row in rows.to_dict("records"):
            compared = f"fused (α = {row['alpha']:g}) − {row['versus']}"
            lines.append(f"- {compared}: {difference_in_words(row)}")
        paragraphs.append("\n".join(lines))
    paragraphs.append(
        f"{differences_are(comparisons)} Undecided means that these data do not settle the sign, "
        "not that the two are equal."
    )
    return "\n\n".join(paragraphs)


def difference_in_words(row: Mapping[Any, Any]) -> str:
    """A comparison's difference, interval, p-value, draws of its sign and verdict."""
    draws = f", {row['draws_same_sign']} of {row['draws']} draws of this sign"
    draws = draws if row["draws"] > 1 else ""
    return f"{in_points(row)}, {p_in_words(row['p_holm'])}{draws}: {row['verdict']}"


def in_points(row: Mapping[Any, Any]) -> str:
    """A comparison's difference with its interval, in percentage points: "+3.1 [-1.0, +7.2]"."""
    value, low, high = (100 * row[name] for name in ("difference", "ci_low", "ci_high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def differences_are(table: pd.DataFrame) -> str:
    """What the numbers of a table of comparisons are, in two sentences."""
    one_draw = " (one draw: nothing is known of others)"
    return (
        f"Differences are in percentage points, with {LEVEL:.0%} intervals over items"
        f"{' and draws' if table['draws'].max() > 1 else one_draw}. p-values are of the same t, "
        f"Holm-corrected for {len(table)} comparisons, as the intervals are not."
    )


def p_in_words(p_value: float) -> str:
    """A p-value to read: "p < 0.001", "p = 0.012", or "no test" for NaN."""
    if np.isnan(p_value):
        return "no test"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
