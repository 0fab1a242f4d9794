"""Whether an alpha for each tower beats the same alpha in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from figures.alpha_curve import Measure
from figures.outcomes import Ranks, ranks_of, tower_rows
from figures.whole_curve import halves, off_zero
from fitclip_core.statistics import paired_difference

_CELL: Final = ["vision_alpha", "text_alpha"]


def tower_values(outcomes: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """The values of a tower map, as `tower_map.tower_grid` takes them.

    outcomes: holds cells with a text_alpha; others are left out.

    Returns: columns data_set, draw, vision_alpha, text_alpha, value (fraction).

    Raises: ValueError when a measure's data set has no such cells.
    """
    rows = [
        (one.data_set, draw, *cell, (ranks <= one.k).mean())
        for one, found in zip(measures, _tower_ranks(outcomes, measures), strict=True)
        for cell, by_draw in found.points.items()
        for draw, ranks in zip(found.draws[cell], by_draw, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["data_set", "draw", *_CELL, "value"])
    return table.sort_values(["data_set", "draw", *_CELL], ignore_index=True)


def tower_comparison(
    outcomes: pd.DataFrame,
    measures: Sequence[Measure],
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Whether two alphas, one for each tower, beat the same alpha in both.

    Compared are the best cell off the map's diagonal and the best one on it, by the mean of the
    measures with equal weights. Chosen and compared on the same items, both are the best of many,
    and the off-diagonal one of more: that row has no test. In the second row they are chosen on a
    random half of each set's items and compared on the other half. Both halves have the same
    draws, whom the choice may suit.

    Columns: chosen_on, vision_alpha, text_alpha (the best pair of unequal alphas), same_alpha (the
    best of the equal ones), difference (pair minus same), ci_low, ci_high (fractions), p_value
    (NaN without test), n (items compared), draws, level, verdict ("higher", "lower", "undecided",
    or "no test").

    Raises: ValueError when the map was not measured whole, holds no equal or no unequal alphas, or
    a data set has one item.
    """
    arrays, cells = _tower_hits(outcomes, measures)
    same = np.isclose(cells.get_level_values(0), cells.get_level_values(1), atol=1e-9)
    if same.all() or not same.any():
        raise ValueError(f"the map's cells are {list(cells)}; it needs equal and unequal alphas")
    split = [halves(data, seed) for data in arrays]
    firsts, seconds = ([pair[side] for pair in split] for side in (0, 1))
    rows = []
    for chosen_on, chosen, test in (
        ("the same items", arrays, arrays),
        ("half of the items", firsts, seconds),
    ):
        # Rounded, so that equal shares do not differ by the order of a sum.
        means = np.mean([data.mean(axis=(0, 1)) for data in chosen], axis=0).round(12)
        equal, pair = (np.flatnonzero(group)[means[group].argmax()] for group in (same, ~same))
        found = paired_difference(
            [data[:, :, equal] for data in test],
            [data[:, :, pair] for data in test],
            level=level,
            n_resamples=n_resamples,
            seed=seed,
        )
        # The p-value is of the interval's own t: it is small where the interval leaves out 0.
        verdict = "no test" if test is chosen else str(off_zero(found.low, found.high))
        rows.append(
            {
                "chosen_on": chosen_on,
                "vision_alpha": cells[pair][0],
                "text_alpha": cells[pair][1],
                "same_alpha": cells[equal][0],
                "difference": found.estimate,
                "ci_low": found.low,
                "ci_high": found.high,
                "p_value": np.nan if test is chosen else found.p_value,
                "n": found.n,
                "draws": test[0].shape[0],
                "level": level,
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows)


def towers_in_words(table: pd.DataFrame) -> str:
    """What `tower_comparison` found, in two sentences of Markdown."""
    lines = []
    for row in table.to_dict("records"):
        test = (
            "both are the best of many on these items, so this is no test"
            if row["verdict"] == "no test"
            else f"p = {row['p_value']:.3f}: {row['verdict']}"
        )
        lines.append(
            f"Chosen on {row['chosen_on']}: vision {row['vision_alpha']:g} and text "
            f"{row['text_alpha']:g} against {row['same_alpha']:g} in both, "
            f"{100 * row['difference']:+.1f} "
            f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}] points on "
            f"{row['n']:,} items; {test}."
        )
    several = table["draws"].iloc[0] > 1
    lines.append(
        "Both halves are of the same students, whom the choice may suit."
        if several
        else "With one draw, nothing is known of other students."
    )
    return " ".join(lines)


def _tower_ranks(outcomes: pd.DataFrame, measures: Sequence[Measure]) -> list[Ranks]:
    towers = tower_rows(outcomes)
    there = sorted(set(towers["data_set"].astype(str)))
    for one in measures:
        if one.data_set not in there:
            raise ValueError(f"no tower map of {one.data_set}; there are: {there or 'none'}")
    by = ("alpha", "text_alpha")
    return [ranks_of(towers, one.data_set, one.direction, by) for one in measures]


def _tower_hits(
    outcomes: pd.DataFrame, measures: Sequence[Measure]
) -> tuple[list[np.ndarray], pd.MultiIndex]:
    """Each measure's hits, [draws, items, cells], and the cells' two alphas."""
    if not measures:
        raise ValueError("there is no measure; give at least one")
    arrays, maps = [], []
    for one, ranks in zip(measures, _tower_ranks(outcomes, measures), strict=True):
        grid = pd.MultiIndex.from_product(
            [sorted({cell[axis] for cell in ranks.points}) for axis in (0, 1)], names=_CELL
        )
        if len(grid) != len(ranks.points) or len(set(map(tuple, ranks.draws.values()))) > 1:
            raise ValueError(f"the map of {one.data_set} is not whole; measure all its cells")
        arrays.append(np.stack([ranks.at(cell) <= one.k for cell in grid], -1).astype(np.float64))
        maps.append(ranks.draws)
    if any(draws != maps[0] for draws in maps):
        raise ValueError("the data sets' maps have other draws or alphas; measure the same ones")
    return arrays, grid
