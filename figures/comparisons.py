"""What fusion gains or loses against its two ends, tested on the same items, and said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from figures.alpha_curve import Measure, Panel, PanelHits, panels_in
from fitclip_core.statistics import paired_difference

_ENDS: Final = {"teacher": 0.0, "student": 1.0}


def fusion_comparisons(
    outcomes: pd.DataFrame,
    alpha: float = 0.4,
    *,
    panels: Sequence[Panel] | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Fused at `alpha` minus teacher and minus student, per panel and per data set of it.

    Panels are by default those of the data sets in the outcomes (`alpha_curve.panels_in`). A panel
    of one data set is that data set and is listed once. Columns: scope (panel or data set),
    measure, versus, alpha, difference, ci_low, ci_high (fractions; positive is in favour of fusion;
    `statistics.paired_difference`), p_value (of the interval's t), p_holm (corrected for all rows
    of this table), sign_flip_p (sign flips over items, given these draws; not corrected), n
    (items), draws, draws_same_sign (draws whose own difference has the mean's sign), level,
    verdict.

    The verdict is "higher" or "lower" when p_holm <= 1 - level, else "undecided".

    Raises: ValueError when alpha is not in the sweep, or is 0 or 1.
    Source: tables 4 and 5 compare the same models, without a test; Holm (1979) for the correction.
    """
    rows = []
    for scope, measures in scopes_of(panels or panels_in(outcomes)):
        hits = PanelHits(outcomes, measures)
        fused = hits.at(alpha)
        if hits.alphas[hits.place(alpha)] in _ENDS.values():
            raise ValueError(f"alpha {alpha:g} is an end of the sweep; compare one between 0 and 1")
        for end, end_alpha in _ENDS.items():
            rows.append(
                {"scope": scope, "measure": measure_name(measures), "versus": end, "alpha": alpha}
                | difference(hits.at(end_alpha), fused, level, n_resamples, seed)
            )
    return decided(rows)


def difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    level: float,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """A comparison's row: hits second - first of data sets that count equally, [draws, items] each.

    Its entries are the columns of `fusion_comparisons` from difference on, without p_holm and
    verdict, which `decided` adds.
    """
    found = paired_difference(
        list(first), list(second), level=level, n_resamples=n_resamples, seed=seed
    )
    by_draw = np.mean(
        [other.mean(axis=1) - one.mean(axis=1) for one, other in zip(first, second, strict=True)],
        axis=0,
    )
    signs = np.sign(np.round([found.estimate, *by_draw], 12))  # 0 is a sign of its own
    return {
        "difference": found.estimate,
        "ci_low": found.low,
        "ci_high": found.high,
        "p_value": found.p_value,
        "sign_flip_p": found.sign_flip_p,
        "n": found.n,
        "draws": len(by_draw),
        "draws_same_sign": int(np.sum(signs[1:] == signs[0])),
        "level": level,
    }


def decided(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table of comparisons with p_holm, corrected for all of its rows, and the verdicts."""
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


def verdict(comparisons: pd.DataFrame) -> str:
    """What `fusion_comparisons` shows, in words: Markdown, a sentence per panel, a line per row.

    A scope's sentence says whether fusion is higher than both ends. Everything comes from the
    numbers in the table.

    Raises: ValueError when the table is empty.
    """
    if comparisons.empty:
        raise ValueError("no comparisons to put in words; call fusion_comparisons first")
    paragraphs = []
    for scope, rows in comparisons.groupby("scope", sort=False):
        measured = f"{rows['measure'].iloc[0]}, n = {rows['n'].iloc[0]}"
        lines = [f"**{scope}** ({measured}): {_summary(rows)}"]
        lines += [_sentence(row) for row in rows.to_dict("records")]
        paragraphs.append("\n".join(lines))
    first = comparisons.iloc[0]
    paragraphs.append(
        f"Differences are in percentage points, with {first['level']:.0%} intervals over items"
        f"{' and draws' if first['draws'] > 1 else ' (one draw: nothing is known of others)'}. "
        f"p-values are of the same t, Holm-corrected for {len(comparisons)} comparisons, as the "
        "intervals are not. Undecided means that these data do not settle the sign, not that the "
        "two are equal."
    )
    return "\n\n".join(paragraphs)


def scopes_of(panels: Sequence[Panel]) -> list[tuple[str, tuple[Measure, ...]]]:
    """What is compared: each panel, then each data set of it; name and measures, no name twice."""
    scopes = [(panel.name, panel.measures) for panel in panels]
    return scopes + [
        (measure.data_set, (measure,))
        for panel in panels
        if len(panel.measures) > 1
        for measure in panel.measures
    ]


def measure_name(measures: Sequence[Measure]) -> str:
    """What is measured, in words: of one data set, or the mean over several."""
    if len(measures) == 1:
        return f"{measures[0].data_set} {measures[0].name}"
    names = sorted({measure.name for measure in measures})
    return f"mean of {' and '.join(names)} over {len(measures)} data sets"


def decision(row: dict) -> str:
    """The verdict of a comparison's row: "higher", "lower" or "undecided".

    row: p_holm, level, ci_low and ci_high, as in `fusion_comparisons`. Where p_holm is at most
    1 - level, so is the p-value, and the interval of the same t lies on one side of 0.
    """
    if row["p_holm"] > 1 - row["level"]:
        return "undecided"
    if row["ci_low"] > 0:
        return "higher"
    return "lower" if row["ci_high"] < 0 else "undecided"


def p_in_words(p_value: float) -> str:
    """A p-value to read: "p < 0.001", "p = 0.012", or "no test" for NaN."""
    if np.isnan(p_value):
        return "no test"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _summary(rows: pd.DataFrame) -> str:
    found = dict(zip(rows["versus"], rows["verdict"], strict=True))
    if set(found.values()) == {"higher"}:
        return "fusion is higher than both ends."
    parts = [
        f"undecided against the {end}" if word == "undecided" else f"{word} than the {end}"
        for end, word in found.items()
    ]
    return f"fusion is {', '.join(parts)}; it is not shown to beat both ends."


def _sentence(row: dict) -> str:
    return (
        f"- fused (α = {row['alpha']:g}) − {row['versus']}: {100 * row['difference']:+.1f} "
        f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}], "
        f"{p_in_words(row['p_holm'])}, {row['draws_same_sign']} of {row['draws']} draws of this "
        f"sign: {row['verdict']}"
    )
