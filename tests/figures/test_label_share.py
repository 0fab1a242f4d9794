import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from figures import style
from figures.alpha_curve import ZERO_SHOT, Measure
from figures.label_share import MEASURES, label_share, share_draws, share_table
from fitclip_core.statistics import mean_interval
from fitclip_kit.store.results import CLASSIFICATION, Cell, typed
from tests.figure_layout import texts_are_apart

TWO = (Measure("a", "text_to_video", 5), Measure("b", CLASSIFICATION, 1))


def study(
    ranks_of, shares=(0, 1e-4), draws=(1, 2), measures=TWO, alpha=0.4, items=None, labelled_clips=9
):
    """Outcomes with ranks_of(data_set, pseudo_share or None of the teacher, draw) -> [items]."""
    tables = []
    for measure in measures:
        for share, draw in [(None, -1), *itertools.product(shares, draws)]:
            ranks = np.broadcast_to(ranks_of(measure.data_set, share, draw), items or 4)
            key = Cell(
                alpha=0 if share is None else alpha,
                labelled_share=1 - (share or 0),
                labelled_clips=labelled_clips,
                draw=draw,
                data_set=measure.data_set,
            )
            table = pd.DataFrame({"item": [f"clip{i:03d}" for i in range(len(ranks))]})
            table = table.assign(rank=ranks, direction=measure.direction, **vars(key))
            tables.append(table)
    return typed(pd.concat(tables, ignore_index=True)).astype({"rank": float})


def noisy(shares=(0, 1e-4), draws=(1, 2), measures=TWO, items=30, seed=0, **options):
    rng = np.random.default_rng(seed)
    return study(
        lambda *_: rng.integers(1, 9, items), shares, draws, measures, items=items, **options
    )


def test_the_measures_are_those_of_the_papers_panels():
    assert [measure.data_set for measure in MEASURES] == [
        "mit",
        "ucf101",
        "msrvtt",
        "youcook2",
        "didemo",
    ]
    assert set(MEASURES) == set(ZERO_SHOT.measures)


def test_table_by_hand():
    hits = {
        ("a", None, -1): 2,
        ("a", 0, 1): 4,
        ("a", 0, 2): 2,
        ("a", 1e-4, 1): 1,
        ("a", 1e-4, 2): 1,
        ("b", None, -1): 1,
        ("b", 0, 1): 0,
        ("b", 0, 2): 1,
        ("b", 1e-4, 1): 4,
        ("b", 1e-4, 2): 3,
    }

    def ranks_of(data_set, share, draw):
        hit, miss = (5, 5.5) if data_set == "a" else (1, 1.5)
        return np.where(np.arange(4) < hits[data_set, share, draw], hit, miss)

    outcomes = study(ranks_of)
    table = share_table(outcomes, measures=TWO, n_resamples=20)
    assert table["scope"].tolist() == ["a", "a", "b", "b", "mean", "mean"]
    assert table["pseudo_share"].tolist() == [0, 1e-4] * 3
    assert table["value"].tolist() == [0.75, 0.25, 0.125, 0.875, 0.4375, 0.5625]
    assert table["teacher"].tolist() == [0.5, 0.5, 0.25, 0.25, 0.375, 0.375]
    assert table["best"].tolist() == [True, False, False, True, False, True]
    assert table["draw_low"].tolist() == [0.5, 0.25, 0, 0.75, 0.375, 0.5]
    assert table["draw_high"].tolist() == [1, 0.25, 0.25, 1, 0.5, 0.625]
    assert table["n"].tolist() == [4, 4, 4, 4, 8, 8]
    assert set(table["draws"]) == {2}
    assert table["measure"].iloc[[0, 2, 4]].tolist() == [
        "text-to-video R@5",
        "top-1",
        "mean of text-to-video R@5 and top-1",
    ]
    draws = share_draws(outcomes, measures=TWO)
    assert draws.query("scope == 'mean'")[
        ["pseudo_share", "draw", "value"]
    ].to_numpy().tolist() == [
        [0, 1, 0.5],
        [0, 2, 0.375],
        [1e-4, 1, 0.625],
        [1e-4, 2, 0.5],
    ]
    without = share_table(outcomes, measures=TWO, mean=False, n_resamples=20)
    pd.testing.assert_frame_equal(without, table.iloc[:4])


def test_intervals_are_over_items_and_draws_of_all_data_sets():
    outcomes = noisy()
    table = share_table(outcomes, measures=TWO, n_resamples=100, seed=5)
    hits = [
        np.array(
            [
                outcomes[
                    (outcomes["data_set"] == measure.data_set)
                    & np.isclose(outcomes["labelled_share"], 1 - 1e-4)
                    & (outcomes["draw"] == draw)
                ].sort_values("item")["rank"]
                <= measure.k
                for draw in (1, 2)
            ],
            float,
        )
        for measure in TWO
    ]
    for scope, values in (("b", hits[1]), ("mean", hits)):
        row = table[(table["scope"] == scope) & (table["pseudo_share"] == 1e-4)].iloc[0]
        interval = mean_interval(values, n_resamples=100, seed=5, within=(0, 1))
        ends = pytest.approx((interval.low, interval.high), rel=1e-12)
        assert (row["ci_low"], row["ci_high"]) == ends


def test_of_equal_values_the_smallest_share_is_best_and_order_does_not_matter():
    outcomes = study(lambda *_: 1, shares=(1e-2, 0, 1e-3))
    table = share_table(outcomes, measures=TWO, n_resamples=5)
    assert table.loc[table["best"], "pseudo_share"].tolist() == [0, 0, 0]
    assert table["pseudo_share"].tolist() == [0, 1e-3, 1e-2] * 3
    shuffled = outcomes.sample(frac=1, random_state=1).astype(
        {name: "category" for name in ("item", "data_set", "direction", "model")}
    )
    pd.testing.assert_frame_equal(share_table(shuffled, measures=TWO, n_resamples=5), table)


def test_what_is_no_such_study_is_refused():
    outcomes = noisy(items=4)

    def refused(table, match, alpha=0.4, measures=TWO):
        with pytest.raises(ValueError, match=match):
            share_table(table, alpha, measures=measures, n_resamples=5)

    refused(outcomes, "no outcomes of mit, classification", measures=MEASURES)
    refused(outcomes, r"alpha 0\.3 was not measured on a", alpha=0.3)
    refused(outcomes, "alpha is 0", alpha=0)
    refused(outcomes, "no measure to draw", measures=())
    refused(outcomes[outcomes["alpha"] > 0], "alpha 0 was not measured on a")
    refused(outcomes[outcomes["alpha"] == 0], r"alpha 0\.4 was not measured on a")
    refused(
        pd.concat([outcomes, noisy(items=4, labelled_clips=10)]),
        r"mix students trained in different ways: labelled_clips \[9, 10\]",
    )
    of_b = outcomes["data_set"] == "b"
    labels_alone = outcomes["labelled_share"] == 1
    refused(outcomes[~(of_b & labels_alone)], r"b at pseudo-label share 0 has \[\]")
    refused(
        outcomes[~(of_b & labels_alone & (outcomes["draw"] == 2))],
        r"a at pseudo-label share 0 have the draws \[1, 2\], but b at .* share 0 has \[1\]",
    )


def test_lines_dots_and_bands_are_the_tables():
    shares = (0, 1e-5, 1e-4, 1e-2)
    outcomes = noisy(shares)
    table = share_table(outcomes, measures=TWO, n_resamples=20)
    draws = share_draws(outcomes, measures=TWO)
    figure = label_share(outcomes, measures=TWO, n_resamples=20)
    panels = [ax for ax in figure.axes if ax.lines]
    for ax, (scope, rows) in zip(panels, table.groupby("scope", sort=False), strict=True):
        lines = [line for line in ax.lines if line.get_color() == style.LINE]
        values = [100 * rows["value"].iloc[:1], 100 * rows["value"].iloc[1:]]
        for line, expected in zip(lines, values, strict=True):  # labels alone are not joined
            np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
        (teacher,) = (line for line in ax.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(np.asarray(teacher.get_ydata()), 100 * rows["teacher"].iloc[0])
        (dots,) = (line for line in ax.lines if line.get_markersize() == 2.2)
        np.testing.assert_allclose(
            np.asarray(dots.get_ydata()), 100 * draws[draws["scope"] == scope]["value"]
        )
        ends = np.concatenate(
            [path.vertices for part in ax.collections for path in part.get_paths()]
        )
        drawn = {round(value, 6) for value in ends[:, 1]}
        assert {
            round(100 * value, 6) for value in rows[["ci_low", "ci_high"]].to_numpy().ravel()
        } <= drawn


def words_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize(
    ("shares", "draws", "mean"),
    [
        ((0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2), (1, 2, 3), True),
        ((0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1), (1,), False),
        ((1e-4,), (1,), True),
    ],
)
def test_no_text_is_clipped_or_covered(shares, draws, mean):
    outcomes = noisy(shares, draws, MEASURES, items=5)
    figure = label_share(outcomes, mean=mean, n_resamples=5)
    texts_are_apart(figure)
    words = words_of(figure)
    assert {"(a) mit", "(e) didemo", "Top-1 (%)", "R@5 (%)", "10⁻⁴", "teacher's level"} <= set(
        words
    )
    assert ("(f) mean of 5 data sets" in words) is mean
    assert ("each draw" in words) is (len(draws) > 1)


@pytest.mark.parametrize(
    ("shares", "shown", "hidden"),
    [
        ((0, 1e-5, 3e-5, 1e-4, 1e-3), {"0", "10⁻⁵", "10⁻⁴", "10⁻³"}, {"3·10⁻⁵"}),
        ((0, 2.5e-4, 0.5), {"0", "2.5·10⁻⁴", "5·10⁻¹"}, set()),
    ],
)
def test_shares_are_named_by_powers_of_ten_or_as_they_are(shares, shown, hidden):
    outcomes = noisy(shares, (1,), TWO[:1])
    words = set(words_of(label_share(outcomes, measures=TWO[:1], mean=False, n_resamples=5)))
    assert shown <= words and not hidden & words
