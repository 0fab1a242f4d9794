import itertools

import numpy as np
import pandas as pd
import pytest

from figures.alpha_curve import Measure, Panel
from figures.whole_curve import (
    band_curve,
    band_in_words,
    band_table,
    halves,
    off_zero,
    selection_in_words,
    selection_table,
)
from fitclip_core.statistics import crossed_interval, selection_gap, simultaneous_band
from fitclip_kit.store.results import Cell, typed

ALPHAS = (0.0, 0.2, 0.4, 1.0)
DRAWS = (1, 2, 3)
OWN = Panel("in_domain", "Own", "R@5", (Measure("own", "text_to_video", 5),))
OTHERS = Panel(
    "zero_shot",
    "Others",
    "Mean",
    (
        Measure("a", "text_to_video", 5),
        Measure("b", "text_to_video", 5),
        Measure("c", "classification", 1),
    ),
)
SIZES = {"own": 41, "a": 40, "b": 30, "c": 20}


def sweep(hits_of, sizes=SIZES, draws=DRAWS):
    """Outcomes with hits_of(data_set, alpha, draw) -> [items]; the teacher's draw is -1."""
    tables = []
    for measure, alpha in itertools.product((*OWN.measures, *OTHERS.measures), ALPHAS):
        for draw in draws if alpha else (-1,):
            key = Cell(
                alpha=alpha,
                labelled_share=1,
                labelled_clips=9,
                draw=draw,
                data_set=measure.data_set,
            )
            size = sizes[measure.data_set]
            found = np.broadcast_to(hits_of(measure.data_set, alpha, draw), size)
            table = pd.DataFrame({"item": [f"clip{i:03d}" for i in range(size)]})
            table["rank"] = np.where(found, 1.0, 6.0)
            tables.append(table.assign(direction=measure.direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def noisy(chances, seed=0):
    rng = np.random.default_rng(seed)
    return lambda data_set, alpha, _: rng.random(SIZES[data_set]) < chances(data_set, alpha)


def curve_of(outcomes, data_set):
    """[draws, items, alphas], looked up one by one."""
    rows = (
        outcomes[outcomes["data_set"] == data_set]
        .fillna({"draw": -1})
        .set_index(["alpha", "draw", "item"])["rank"]
    )
    items = sorted(set(rows.index.get_level_values("item")))
    return np.array(
        [
            [[rows[alpha, draw if alpha else -1, item] == 1 for alpha in ALPHAS] for item in items]
            for draw in DRAWS
        ],
        dtype=float,
    )


def test_bands_are_those_of_the_curve_and_of_its_paired_differences():
    outcomes = sweep(noisy(lambda _, alpha: 0.3 + 0.5 * alpha))
    table = band_table(
        outcomes.sample(frac=1, random_state=0), panels=(OWN, OTHERS), n_resamples=200, seed=5
    )
    assert table["panel"].tolist() == ["in_domain"] * 4 + ["zero_shot"] * 4
    for panel, (_, rows) in zip((OWN, OTHERS), table.groupby("panel"), strict=True):
        curves = [curve_of(outcomes, one.data_set) for one in panel.measures]
        gains = [one - one[:, :, [0]] for one in curves]
        whole = simultaneous_band(curves, n_resamples=200, seed=5)
        band = simultaneous_band(gains, n_resamples=200, seed=5)
        np.testing.assert_allclose(rows["alpha"], ALPHAS)
        means = np.mean([one.mean(axis=(0, 1)) for one in curves], axis=0)
        np.testing.assert_allclose(rows["value"], means)
        np.testing.assert_allclose(rows["value_low"], whole.low)
        np.testing.assert_allclose(rows["value_high"], whole.high)
        np.testing.assert_allclose(rows["difference"], means - means[0], atol=1e-12)
        np.testing.assert_allclose(rows["band_low"], band.low, atol=1e-12)
        np.testing.assert_allclose(rows["band_high"], band.high, atol=1e-12)
        alone = crossed_interval([one[:, :, 2] for one in gains])
        assert rows[["ci_low", "ci_high"]].iloc[2].tolist() == pytest.approx(
            [alone.low, alone.high]
        )
        assert set(rows["n"]) == {sum(one.shape[1] for one in curves)}
    assert (table["band_low"] <= table["ci_low"]).all()
    assert (table["band_high"] >= table["ci_high"]).all()
    teacher = table[table["alpha"] == 0]
    assert (teacher[["difference", "band_low", "band_high"]] == 0).all(axis=None)
    assert set(teacher["together"]) == {"undecided"}


def test_words_name_the_alphas_that_differ():
    def hits_of(data_set, alpha, draw):
        return alpha in (0.2, 0.4) if data_set == "own" else alpha in (0.0, 0.2)

    words = band_in_words(band_table(sweep(hits_of), panels=(OWN, OTHERS), n_resamples=50))
    first, second = words.split("\n\n")
    assert first == (
        "**in_domain**: against the teacher, all 3 alphas together at 95%: higher at α = 0.2, 0.4; "
        "undecided at α = 1."
    )
    assert "lower at α = 0.4, 1; undecided at α = 0.2." in second
    table = band_table(sweep(hits_of), panels=(OWN,), n_resamples=50)
    doubtful = table.assign(together="undecided")
    assert "Each α by itself would have decided 0.2, 0.4 as well." in band_in_words(doubtful)


def test_verdicts_by_ends():
    low, high = [0.1, -0.3, -0.1, 0.0, 0.0, np.nan], [0.2, -0.1, 0.1, 0.1, 0.0, np.nan]
    undecided = ["undecided"] * 4
    assert off_zero(low, high).tolist() == ["higher", "lower", *undecided]


def test_the_figure_is_the_table():
    table = band_table(
        sweep(noisy(lambda _, alpha: 0.2 + 0.6 * alpha)), panels=(OWN, OTHERS), n_resamples=50
    )
    figure = band_curve(table, panels=(OWN, OTHERS))
    for ax, panel in zip(figure.axes, (OWN, OTHERS), strict=True):
        rows = table[table["panel"] == panel.name].reset_index(drop=True)
        np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), 100 * rows["difference"])
        decided, undecided = ax.lines[1], ax.lines[2]
        shown = rows[(rows["together"] != "undecided")]["alpha"]
        there, elsewhere = (np.asarray(line.get_xdata()) for line in (decided, undecided))
        assert there.tolist() == shown.tolist()
        assert len(there) + len(elsewhere) == len(ALPHAS) - 1
        assert undecided.get_markerfacecolor() == "white"
        assert panel.title in ax.get_title(loc="left")
    texts = [one.get_text() for one in figure.legends[0].get_texts()]
    assert len(texts) == 4 and not [one for one in texts if one.startswith("_")]
    assert len(band_curve(table, panels=(OWN,)).axes) == 1
    with pytest.raises(ValueError, match="no panel zero_shot"):
        band_curve(table[table["panel"] == "in_domain"], panels=(OWN, OTHERS))


def test_alpha_is_chosen_without_the_tested_set():
    best = {"own": 0.2, "a": 0.2, "b": 0.4, "c": 0.4}

    def hits_of(data_set, alpha, draw):
        return np.arange(SIZES[data_set]) % 2 == 0 if alpha != best[data_set] else True

    table = selection_table(sweep(hits_of), 0.4, panels=(OWN, OTHERS), n_resamples=50).set_index(
        "scope"
    )
    assert table["hindsight"].to_dict() == {"in_domain": 0.2, "a": 0.2, "b": 0.4, "c": 0.4}
    # a's own best is 0.2; the other two say 0.4. Without b, a and c are level: the smaller alpha.
    assert table["chosen"].to_dict() == {"in_domain": 0.2, "a": 0.4, "b": 0.2, "c": 0.2}
    assert table["gap"].round(12).tolist() == [0, 0.5, 0.5, 0.5]
    assert table.loc[["a", "b", "c"], "beforehand_gap"].tolist() == [0.5, 0, 0]
    assert table["n"].to_dict() == {"in_domain": 21, "a": 40, "b": 30, "c": 20}
    assert set(table.loc[["a", "b", "c"], "chosen_on"]) == {"the 2 other zero-shot sets"}
    words = selection_in_words(table.reset_index())
    assert "- **a**, α chosen on the 2 other zero-shot sets: 0.4; best in hindsight: 0.2." in words
    assert "loses 50.0 [" in words and "and 0.4, fixed beforehand, 50.0" in words
    assert "loses less than the one fixed beforehand in 1 of 4 cases, more in 2, the same in 1" in (
        words
    )


def test_gaps_and_intervals_are_those_of_selection_gap():
    outcomes = sweep(noisy(lambda data_set, alpha: 0.4 + 0.3 * alpha - 0.3 * alpha**2, seed=3))
    settings = {"n_resamples": 100, "seed": 6}
    table = selection_table(outcomes, 0.2, panels=(OWN, OTHERS), **settings)
    curves = {name: curve_of(outcomes, name) for name in SIZES}
    order = np.random.default_rng(6).permutation(41)
    pairs = [([curves["own"][:, order[:20]]], [curves["own"][:, order[20:]]])]
    pairs += [([curves[o] for o in "abc" if o != name], [curves[name]]) for name in "abc"]
    for (validation, test), row in zip(pairs, table.to_dict("records"), strict=True):
        found = selection_gap(validation, test, ALPHAS, **settings)
        assert [row[name] for name in ("chosen", "hindsight", "gap", "ci_low", "ci_high")] == (
            pytest.approx([found.chosen, found.hindsight, found.gap, found.low, found.high])
        )
        means = test[0].mean(axis=(0, 1))
        assert row["beforehand_gap"] == pytest.approx(means.max() - means[1])


def test_choosing_needs_other_sets_items_and_the_alpha():
    outcomes = sweep(noisy(lambda *_: 0.5))
    alone = Panel("zero_shot", "", "", OTHERS.measures[:1])
    nothing = selection_table(outcomes, panels=(alone,))
    assert nothing.empty and "nothing to choose" in selection_in_words(nothing)
    own = selection_table(outcomes, panels=(OWN, alone), n_resamples=5)
    assert own["scope"].tolist() == ["in_domain"]
    assert own.columns.equals(nothing.columns)
    with pytest.raises(ValueError, match=r"alpha 0\.3 was not measured"):
        selection_table(outcomes, 0.3, panels=(OWN, OTHERS), n_resamples=5)
    single = sweep(lambda *_: True, sizes=SIZES | {"own": 1})
    with pytest.raises(ValueError, match="one item"):
        selection_table(single, panels=(OWN, OTHERS))


@pytest.mark.parametrize("items", [2, 3, 10])
def test_halves_split_the_items_of_all_draws_alike(items):
    data = np.arange(2 * items * 3).reshape(2, items, 3)
    first, second = halves(data, seed=1)
    assert (first.shape[1], second.shape[1]) == (items // 2, items - items // 2)
    both = np.concatenate([first, second], axis=1)
    order = both[0, :, 0].argsort()
    np.testing.assert_array_equal(both[:, order], data)
    np.testing.assert_array_equal(halves(data, seed=1)[0], first)
    if items == 10:
        assert not np.array_equal(halves(data, seed=2)[0], first)
