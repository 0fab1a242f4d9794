import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from figures.alpha_curve import Measure
from figures.tower_choice import tower_comparison, tower_values, towers_in_words
from figures.tower_map import tower_grid
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import Cell, typed

MEASURES = (Measure("texts", "text_to_video", 5), Measure("acts", "classification", 1))
ALPHAS = (0.0, 0.4, 1.0)


def towers(ranks_of, *, draws=(1,), items=30, vision=ALPHAS, text=ALPHAS):
    """Outcomes with ranks_of(data_set, vision, text, draw) -> [items]."""
    tables = []
    for measure, one, other, draw in itertools.product(MEASURES, vision, text, draws):
        key = Cell(
            alpha=one,
            text_alpha=other,
            labelled_share=1,
            labelled_clips=9,
            draw=draw,
            data_set=measure.data_set,
        )
        table = pd.DataFrame({"item": [f"clip{i:03d}" for i in range(items)]})
        table["rank"] = np.broadcast_to(ranks_of(measure.data_set, one, other, draw), items)
        tables.append(table.assign(direction=measure.direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True)).sample(frac=1, random_state=0)


def noisy(seed=0, items=30):
    rng = np.random.default_rng(seed)
    return lambda *_: rng.integers(1, 10, items).astype(float)


def hits(outcomes, measure, cell, draws):
    """[draws, items], by looking each value up."""
    vision, text = cell
    rows = outcomes[
        (outcomes["data_set"] == measure.data_set)
        & (outcomes["alpha"] == vision)
        & (outcomes["text_alpha"] == text)
    ].set_index(["draw", "item"])["rank"]
    items = sorted(set(outcomes["item"]))
    return np.array([[rows[draw, item] <= measure.k for item in items] for draw in draws]) * 1.0


@pytest.mark.parametrize("draws", [(1,), (3, 8)])
def test_values_are_the_looked_up_shares(draws):
    outcomes = towers(noisy(), draws=draws)
    values = tower_values(outcomes, MEASURES)
    assert len(values) == 2 * len(draws) * 9
    for row in values.to_dict("records"):
        measure = next(one for one in MEASURES if one.data_set == row["data_set"])
        cell = (row["vision_alpha"], row["text_alpha"])
        assert row["value"] == pytest.approx(hits(outcomes, measure, cell, [row["draw"]]).mean())
    assert tower_grid(values).shape == (3, 3)


@pytest.mark.parametrize("draws", [(1,), (3, 8)])
def test_the_comparison_is_the_slow_search(draws):
    outcomes = towers(noisy(1), draws=draws, text=(0.0, 0.2, 1.0))
    table = tower_comparison(outcomes, MEASURES, n_resamples=400, seed=2)
    order = np.random.default_rng(2).permutation(30)
    sides = ((slice(None), slice(None)), (order[:15], order[15:]))
    for (chosen, test), (_, row) in zip(sides, table.iterrows(), strict=True):
        best: dict[bool, Any] = {}
        for cell in itertools.product(ALPHAS, (0.0, 0.2, 1.0)):
            means = [hits(outcomes, one, cell, draws)[:, chosen].mean() for one in MEASURES]
            value, kind = round(np.mean(means), 12), cell[0] == cell[1]
            if kind not in best or value > best[kind][0]:
                best[kind] = (value, cell)
        pair, same = best[False][1], best[True][1]
        assert (row["vision_alpha"], row["text_alpha"], row["same_alpha"]) == (*pair, same[0])
        first, second = (
            [hits(outcomes, one, cell, draws)[:, test] for one in MEASURES] for cell in (same, pair)
        )
        found = paired_difference(first, second, n_resamples=400, seed=2)
        assert (row["difference"], row["ci_low"]) == pytest.approx((found.estimate, found.low))
        assert row["n"] == found.n and row["draws"] == len(draws)
    assert np.isnan(table["p_value"][0]) and table["verdict"][0] == "no test"
    assert table["p_value"][1] == found.p_value


@pytest.mark.parametrize(
    ("better", "verdict"), [((0.0, 1.0), "higher"), ((0.4, 0.4), "lower"), (None, "undecided")]
)
def test_verdicts_are_of_the_other_half(better, verdict):
    def ranks_of(data_set, vision, text, draw):
        return 1.0 if (vision, text) == better else 9.0

    table = tower_comparison(towers(ranks_of), MEASURES)
    assert table["verdict"].tolist() == ["no test", verdict]
    assert table["n"].tolist() == [60, 30]
    words = towers_in_words(table)
    assert f": {verdict}." in words and "this is no test" in words
    assert words.endswith("nothing is known of other students.")
    if better == (0.0, 1.0):
        assert "vision 0 and text 1 against 0 in both, +100.0 [" in words
    both = tower_comparison(towers(ranks_of, draws=(1, 2)), MEASURES)
    assert "other students" not in towers_in_words(both)


def test_maps_must_be_whole_and_have_equal_and_unequal_alphas():
    outcomes = towers(noisy())
    with pytest.raises(ValueError, match=r"no tower map of other; there are: .*'acts', 'texts'"):
        tower_values(outcomes, [Measure("other", "text_to_video", 5)])
    cell = (outcomes["alpha"] == 1) & (outcomes["text_alpha"] == 0.4)
    with pytest.raises(ValueError, match="map of texts is not whole"):
        tower_comparison(outcomes[~cell], MEASURES)
    with pytest.raises(ValueError, match="other draws or alphas"):
        tower_comparison(
            outcomes[(outcomes["data_set"] == "texts") | (outcomes["alpha"] < 1)], MEASURES
        )
    with pytest.raises(ValueError, match="equal and unequal"):
        tower_comparison(towers(noisy(), vision=(0.0,), text=(0.0,)), MEASURES)
    with pytest.raises(ValueError, match="equal and unequal"):
        tower_comparison(towers(noisy(), vision=(0.0,), text=(1.0,)), MEASURES)
    with pytest.raises(ValueError, match="no measure"):
        tower_comparison(outcomes, [])
    with pytest.raises(ValueError, match="one item"):
        tower_comparison(towers(noisy(items=1), items=1), MEASURES)
