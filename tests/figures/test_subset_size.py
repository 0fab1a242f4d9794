import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from figures.subset_size import (
    check_same_draws,
    log_places,
    subset_draws,
    subset_size,
    subset_table,
)
from fitclip_core.statistics import mean_interval
from fitclip_kit.store.results import Cell, typed
from tests.figure_layout import texts_are_apart

PAPER = (563, 1125, 1688, 2250, 3375, 4500, 9000, 18000, 36000)
BOTH = (0, 1, 2, 1000, 1001, 1002)


def study(hits_of, sizes=(10, 20), draws=BOTH, alphas=(0.4, 1), items=4, labelled_share=1):
    """Outcomes with hits_of(size, draw, alpha) -> [items] of whether the rank is 1."""
    tables = []
    cells = [(0, 0, -1), *itertools.product(alphas, sizes, draws)]
    for alpha, size, draw in cells:
        key = Cell(
            alpha=alpha,
            labelled_share=labelled_share,
            labelled_clips=size,
            draw=draw % 1000,
            sampling="nested" if draw >= 1000 else "independent",
            data_set="webvid_val",
        )
        table = pd.DataFrame({"item": [f"clip{i:04d}" for i in range(items)]})
        table["rank"] = np.where(np.broadcast_to(hits_of(size, draw, alpha), items), 1.0, 1.5)
        tables.append(table.assign(direction="text_to_video", **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def noisy(sizes=(10, 20), draws=BOTH, items=50, seed=0, **options):
    rng = np.random.default_rng(seed)
    return study(lambda *_: rng.random(items) < 0.4, sizes, draws, items=items, **options)


def test_table_by_hand():
    hits = {
        (0, -1): 1,
        (10, 3): 2,
        (10, 4): 3,
        (20, 3): 4,
        (20, 4): 0,
        (10, 1003): 1,
        (20, 1003): 0,
    }
    place = np.arange(4)
    outcomes = pd.concat(
        [
            study(lambda size, draw, _: place < hits[size, draw], draws=(3, 4), alphas=(0.4,)),
            study(
                lambda size, draw, _: place < hits[size, draw], draws=(1003,), alphas=(0.4,)
            ).query("alpha > 0"),
        ]
    )
    table = subset_table(outcomes, n_resamples=20).set_index(["sampling", "labelled_clips"])
    independent, nested = table.loc["independent"], table.loc["nested"]
    assert independent.index.tolist() == nested.index.tolist() == [0, 10, 20]
    assert independent["value"].tolist() == [0.25, 0.625, 0.5]
    assert independent["draw_low"].tolist() == [0.25, 0.5, 0]
    assert independent["draw_high"].tolist() == [0.25, 0.75, 1]
    assert independent["draws"].tolist() == [1, 2, 2]
    assert independent["best"].tolist() == [False, True, False]
    assert nested["value"].tolist() == [0.25, 0.25, 0]
    assert nested["best"].tolist() == [True, False, False]  # of equal ones the smallest
    assert set(table["n"]) == {4}
    draws = subset_draws(outcomes).fillna({"draw": -1})
    draws = draws.set_index(["sampling", "labelled_clips", "draw"])["value"]
    assert draws["independent"].to_dict() == {
        (size, draw): count / 4 for (size, draw), count in hits.items() if draw < 1000
    }
    assert draws["nested"].to_dict() == {(0, -1): 0.25, (10, 3): 0.25, (20, 3): 0}


def test_intervals_are_over_items_and_draws():
    outcomes = noisy()
    table = subset_table(outcomes, n_resamples=200, seed=3)
    for sampling, size, draws in (("independent", 0, [-1]), ("nested", 20, [0, 1, 2])):
        hits = [
            outcomes[
                (outcomes["labelled_clips"].fillna(0) == size)
                & (outcomes["draw"].fillna(-1) == draw)
                & (outcomes["sampling"].isna() | (outcomes["sampling"] == sampling))
                & outcomes["alpha"].isin([0, 0.4])
            ].sort_values("item")["rank"]
            == 1
            for draw in draws
        ]
        interval = mean_interval(np.array(hits, float), n_resamples=200, seed=3, within=(0, 1))
        row = table[(table["sampling"] == sampling) & (table["labelled_clips"] == size)]
        ends = row[["ci_low", "ci_high"]].to_numpy()[0]
        assert ends == pytest.approx([interval.low, interval.high], rel=1e-12)


def test_row_order_categories_and_references_do_not_matter():
    outcomes = noisy()
    reference = outcomes[outcomes["model"] == "teacher"].assign(model="frozen_in_time", rank=1.0)
    shuffled = (
        pd.concat([outcomes, reference])
        .sample(frac=1, random_state=1)
        .astype({name: "category" for name in ("item", "data_set", "direction", "model")})
    )
    pd.testing.assert_frame_equal(
        subset_table(shuffled, n_resamples=20), subset_table(outcomes, n_resamples=20)
    )


def test_what_is_no_such_study_is_refused():
    outcomes = noisy(items=4)
    with pytest.raises(ValueError, match="trained in different ways: labelled_share"):
        subset_table(pd.concat([outcomes, noisy(items=4, labelled_share=0.9)]))
    with pytest.raises(ValueError, match="no outcomes of webvid_val, text_to_video"):
        subset_table(outcomes.assign(data_set="msrvtt"))
    with pytest.raises(ValueError, match=r"alpha 0\.3 was not measured .*: 0, 0\.4, 1"):
        subset_table(outcomes, 0.3)
    with pytest.raises(ValueError, match="alpha 0 was not measured"):
        subset_table(outcomes[outcomes["alpha"] > 0])
    with pytest.raises(ValueError, match=r"alpha 0\.4 was not measured"):
        subset_table(outcomes[outcomes["alpha"] == 0])
    with pytest.raises(ValueError, match="alpha is 0"):
        subset_table(outcomes, 0)
    with pytest.raises(ValueError, match="no alpha to draw"):
        subset_size(outcomes, ())
    hole = ~(
        (outcomes["draw"] == 1)
        & (outcomes["sampling"] == "nested")
        & (outcomes["labelled_clips"] == 20)
    )
    with pytest.raises(
        ValueError, match=r"nested subsets of size 10 .* \[0, 1, 2\], but 20 has \[0, 2"
    ):
        subset_table(outcomes[hole])
    with pytest.raises(ValueError, match="'clip0003' has no rank"):
        subset_table(outcomes.drop(outcomes.index[-1]), 1)
    with pytest.raises(ValueError, match="no labelled clips"):
        subset_table(noisy((0, 10), items=4))


def test_the_same_draws_are_asked_of_all_places():
    check_same_draws({1: [1, 2], 2: [1, 2]}, "sizes")
    with pytest.raises(ValueError, match=r"sizes 1 have the draws \[1, 2\], but 3 has \[2\]"):
        check_same_draws({1: [1, 2], 2: [1, 2], 3: [2]}, "sizes")


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=12))
def test_places_keep_order_and_ratios(values):
    places = log_places(list(values))
    assert list(places) == sorted(values)
    ordered = list(places.values())
    assert (
        all(0 <= one < other <= 1 for one, other in itertools.pairwise(ordered))
        or len(ordered) == 1
    )
    positive = [value for value in places if value > 0]
    if len(positive) > 2:
        low, middle, high = positive[0], positive[1], positive[-1]
        share = (places[middle] - places[low]) / (places[high] - places[low])
        assert share == pytest.approx(np.log(middle / low) / np.log(high / low))


def test_places_need_values_of_at_least_0():
    for values in ([], [-1, 2]):
        with pytest.raises(ValueError, match="at least 0"):
            log_places(values)


@pytest.mark.parametrize("draws", [(5,), BOTH])
def test_lines_and_dots_are_the_tables(draws):
    outcomes = noisy((12, 25, 50), draws)
    figure = subset_size(outcomes, (0.4, 1), n_resamples=20)
    for alpha, ax in zip((0.4, 1), figure.axes, strict=True):
        table = subset_table(outcomes, alpha, n_resamples=20)
        lines = {line.get_label(): line for line in ax.lines}
        for sampling, rows in table.groupby("sampling"):
            np.testing.assert_allclose(
                np.asarray(lines[str(sampling)].get_ydata()), 100 * rows["value"]
            )
        dots = [line for line in ax.lines if line.get_markersize() == 2.2]
        single = subset_draws(outcomes, alpha).query("labelled_clips > 0")
        drawn = np.sort(np.concatenate([[], *(line.get_ydata() for line in dots)]))
        if len(draws) == 1:
            assert not dots
        else:
            np.testing.assert_allclose(drawn, np.sort(100 * single["value"]))
        ends = [
            np.asarray(path.vertices)[:, 1] for part in ax.collections for path in part.get_paths()
        ]
        expected = 100 * table[["ci_low", "ci_high"]].drop_duplicates().to_numpy()
        assert {tuple(np.round(one, 9)) for one in ends} == {
            tuple(np.round(one, 9)) for one in expected
        }


@pytest.mark.parametrize(
    ("sizes", "draws", "alphas"),
    [
        (PAPER, BOTH, (0.4,)),
        (PAPER, BOTH, (0.4, 1)),
        ((12, 25, 50, 100, 150, 300), (1, 2, 3), (0.4,)),
        ((7,), (0,), (1,)),
        ((100, 101, 102, 36000), (0, 1000), (0.4,)),
    ],
)
def test_no_text_is_clipped_or_covered(sizes, draws, alphas):
    figure = subset_size(noisy(sizes, draws, items=5), alphas, n_resamples=10)
    texts_are_apart(figure)
    words = [text.get_text() for text in figure.findobj(Text)]
    for expected in ("Text-to-video R@1 (%)", "Labelled clips (0: the teacher)", "0"):
        assert expected in words
    if sizes == PAPER:
        assert {f"{size:,}" for size in sizes} <= set(words)
