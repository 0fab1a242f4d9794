import numpy as np
import pandas as pd
import pytest

from figures.label_share import MEASURES, share_table
from figures.study_comparisons import share_comparisons, size_comparisons
from figures.subset_size import IN_DOMAIN_R1, subset_table
from fitclip_core.statistics import paired_difference
from fitclip_kit.store.results import SAMPLINGS, Cell, typed

SEEDS = (501, 502, 1001, 1002)


def cell(hits, measure, alpha, size, share, seed):
    key = Cell(
        alpha=alpha,
        labelled_share=share,
        labelled_clips=size,
        draw=seed % 500,
        sampling=SAMPLINGS[max(seed, 0) // 500],
        data_set=measure.data_set,
    )
    table = pd.DataFrame({"item": [f"clip{i:04d}" for i in range(len(hits))]})
    table["rank"] = np.where(hits, float(measure.k), measure.k + 0.5)
    return typed(table.assign(direction=measure.direction, **vars(key)))


def sizes(hits_of, wanted=(10, 20, 40), seeds=SEEDS, items=40):
    """Outcomes with hits_of(size, seed) -> [items] of whether the text is a hit; 0: the teacher."""
    cells = [(0, -1), *((size, seed) for size in wanted for seed in seeds)]
    return pd.concat(
        [
            cell(
                np.broadcast_to(hits_of(size, seed), items),
                IN_DOMAIN_R1,
                0.4 if size else 0,
                size,
                1,
                seed,
            )
            for size, seed in cells
        ],
        ignore_index=True,
    )


def shares(hits_of, wanted=(0, 1e-4, 1e-2), seeds=(1, 2, 3), items=40, measures=MEASURES):
    """Outcomes with hits_of(data set, share or None, seed) -> [items]; None: the teacher."""
    cells = [(None, -1), *((share, seed) for share in wanted for seed in seeds)]
    return pd.concat(
        [
            cell(
                np.broadcast_to(hits_of(measure.data_set, share, seed), items),
                measure,
                0 if share is None else 0.4,
                7,
                1 - (share or 0),
                seed,
            )
            for measure in measures
            for share, seed in cells
        ],
        ignore_index=True,
    )


def first(count, items=40):
    return np.arange(items) < count


def noisy(*_, items=40, rng=np.random.default_rng(0)):  # noqa: B008 - one stream for all calls
    return rng.random(items) < 0.5


def test_sizes_by_hand():
    count = {0: 10, 10: 12, 20: 20, 40: 4}
    outcomes = sizes(lambda size, seed: first(count[size] + (seed == 1002)))
    table = size_comparisons(outcomes, 20, n_resamples=100)
    assert table["value"].tolist() == [0, 10, 40]
    assert (table["versus"] == 20).all() and (table["varied"] == "labelled clips").all()
    # The last draw of each size has one hit more; the teacher has no draws.
    expected = [-(10 + 0.25) / 40, -8 / 40, -16 / 40]
    assert table["difference"].to_numpy() == pytest.approx(expected)
    assert table["draws"].tolist() == [4] * 3 and table["draws_same_sign"].tolist() == [4] * 3
    assert table["n"].tolist() == [40] * 3
    assert table["verdict"].iloc[-1] == "lower"


def test_sizes_are_paired_by_item_and_draw():
    outcomes = sizes(noisy)
    table = size_comparisons(outcomes, 20, n_resamples=500, seed=3)
    rows = outcomes.fillna({"labelled_clips": 0, "draw": -1}).astype({"sampling": "str"})
    hits = {
        size: rows.pivot(index=["sampling", "draw"], columns="item", values="rank").to_numpy() <= 1
        for size, rows in rows.groupby("labelled_clips")
    }
    for row in table.to_dict("records"):
        found = paired_difference(
            hits[20].astype(float),
            hits[row["value"]].astype(float),
            n_resamples=500,
            seed=3,
        )
        expected = [found.estimate, found.low, found.high, found.p_value, found.sign_flip_p]
        columns = ["difference", "ci_low", "ci_high", "p_value", "sign_flip_p"]
        assert [row[name] for name in columns] == pytest.approx(expected)


def test_differences_are_those_of_the_figures_tables():
    outcomes = sizes(noisy)
    values = subset_table(outcomes, n_resamples=10).groupby("labelled_clips")["value"].mean()
    table = size_comparisons(outcomes, 10, n_resamples=10).set_index("value")["difference"]
    for size in (0, 20, 40):
        assert table[size] == pytest.approx(values[size] - values[10])

    outcomes = shares(noisy)
    means = share_table(outcomes, n_resamples=10)
    share_means = means.set_index(["scope", "pseudo_share"])["value"].to_dict()
    table = share_comparisons(outcomes, n_resamples=10).set_index("scope")["difference"]
    assert set(table.index) == {*(one.data_set for one in MEASURES), "mean"}
    for scope, difference in table.items():
        expected = share_means[scope, 1e-4] - share_means[scope, 0]
        assert difference == pytest.approx(expected)


def test_shares_by_hand():
    def hits(data_set, share, seed):
        better = {"mit": 20, "didemo": -8}.get(data_set, 0)
        return first(15 + (better if share == 1e-4 else 0) + (seed == 3))

    table = share_comparisons(shares(hits), n_resamples=200).set_index("scope")
    expected = {"mit": 0.5, "didemo": -0.2, "msrvtt": 0, "mean": 0.3 / 5}
    for scope, difference in expected.items():
        assert table.loc[scope, "difference"] == pytest.approx(difference, abs=1e-12)
    verdicts = {"mit": "higher", "didemo": "lower", "msrvtt": "undecided"}
    assert table["verdict"].to_dict().items() >= verdicts.items()
    assert table.loc["mean", "n"] == 200
    assert table.loc["msrvtt", "p_value"] == 1
    assert (table["value"] == 1e-4).all() and (table["versus"] == 0).all()


def test_p_values_are_corrected_for_all_rows():
    table = share_comparisons(shares(noisy), n_resamples=200)
    p = np.sort(table["p_value"])
    corrected = np.minimum(np.maximum.accumulate(p * np.arange(6, 0, -1)), 1)
    assert np.sort(table["p_holm"]) == pytest.approx(corrected)
    table = size_comparisons(sizes(noisy, (10, 20)), 10)
    assert (table["p_holm"] >= table["p_value"]).all()


def test_one_data_set_has_no_mean():
    outcomes = shares(noisy, seeds=(1,), measures=MEASURES[:1])
    table = share_comparisons(outcomes, measures=MEASURES[:1], n_resamples=50)
    assert table["scope"].tolist() == [MEASURES[0].data_set]
    assert table["draws"].tolist() == [1]


@pytest.mark.parametrize("reference", [0, 30])
def test_a_reference_that_was_not_measured_is_refused(reference):
    with pytest.raises(ValueError, match=f"compared with {reference}, and there are 10, 20, 40"):
        size_comparisons(sizes(noisy), reference)


def test_one_size_alone_is_compared_with_nothing():
    with pytest.raises(ValueError, match="there are 10; give one of them, and measure another"):
        size_comparisons(sizes(noisy, (10,)), 10)


@pytest.mark.parametrize("share", [0, 1e-3])
def test_a_share_that_was_not_measured_is_refused(share):
    with pytest.raises(ValueError, match=r"on mit, where there are 0, 0\.0001, 0\.01"):
        share_comparisons(shares(noisy), share)


def test_draws_that_differ_are_refused():
    outcomes = sizes(noisy)
    gone = (
        (outcomes["labelled_clips"] == 20)
        & (outcomes["draw"] == 1)
        & (outcomes["sampling"] == "independent")
    )
    with pytest.raises(ValueError, match="students of size 10 have the draws"):
        size_comparisons(outcomes[~gone], 10)
    outcomes = shares(noisy)
    gone = (outcomes["data_set"] == "mit") & (outcomes["draw"] == 2)
    with pytest.raises(ValueError, match="students measured on mit have the draws"):
        share_comparisons(outcomes[~gone])
