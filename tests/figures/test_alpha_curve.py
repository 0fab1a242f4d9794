import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from figures import style
from figures.alpha_curve import (
    IN_DOMAIN,
    PANELS,
    ZERO_SHOT,
    Measure,
    Panel,
    PanelHits,
    alpha_curve,
    alpha_table,
)
from fitclip_core.statistics import mean_interval
from fitclip_kit.store.results import Cell, typed

ALPHAS = tuple(place / 10 for place in range(11))
SHAPES = {
    "rising": lambda alpha: 0.3 + 0.5 * alpha,
    "falling": lambda alpha: 0.6 - 0.5 * alpha,
    "hump": lambda alpha: 0.4 + 0.8 * alpha - alpha**2,
    "flat": lambda alpha: 0.5,
    "bottom": lambda alpha: 0.0,
    "top": lambda alpha: 1.0,
}


def sweep(rank_of, *, alphas=ALPHAS, draws=(0, 1, 2), items=4, panels=PANELS):
    """Outcomes with ranks rank_of(data_set, alpha, draw) -> [items]; the teacher's draw is -1."""
    tables = []
    for measure in itertools.chain.from_iterable(panel.measures for panel in panels):
        for alpha in alphas:
            for draw in (-1,) if alpha == 0 else draws:
                key = Cell(
                    alpha=alpha,
                    labelled_share=1,
                    labelled_clips=9,
                    draw=draw,
                    data_set=measure.data_set,
                )
                ranks = np.broadcast_to(rank_of(measure.data_set, alpha, draw), items)
                table = pd.DataFrame({"item": [f"clip{i}" for i in range(items)], "rank": ranks})
                tables.append(table.assign(direction=measure.direction, **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def realistic(shape, *, items=40, draws=(0, 1, 2), alphas=ALPHAS):
    rng = np.random.default_rng(0)
    chance = {(name, -1): rng.random(items) for name in SETS}
    chance |= {(name, draw): rng.random(items) for name in SETS for draw in draws}

    def rank_of(data_set, alpha, draw):
        luck = (1 - alpha) * chance[data_set, -1] + alpha * chance[data_set, draw]
        return np.where(luck < SHAPES[shape](alpha), 1.0, 50.0)

    return sweep(rank_of, items=items, draws=draws, alphas=alphas)


SETS = [measure.data_set for panel in PANELS for measure in panel.measures]


def test_the_panels_are_the_papers():
    assert IN_DOMAIN.measures == (Measure("webvid_val", "text_to_video", 5),)
    names = {measure.data_set: measure.name for measure in ZERO_SHOT.measures}
    assert names == {
        "didemo": "text-to-video R@5",
        "msrvtt": "text-to-video R@5",
        "youcook2": "text-to-video R@5",
        "mit": "top-1",
        "ucf101": "top-1",
    }


def test_table_by_hand():
    # In-domain ranks: teacher 1 hit of 4; at 0.5 the draws have 2 and 4; students 1 and 3 of 4.
    hits = {(0, -1): 1, (0.5, 0): 2, (0.5, 1): 4, (1, 0): 1, (1, 1): 3}

    def rank_of(data_set, alpha, draw):
        if data_set in ("ucf101", "mit"):
            return 2.0 if alpha == 0 else 1.0  # top-1: rank 2 is a miss
        if data_set != "webvid_val":
            return 5.0 if alpha == 0 else 5.5  # R@5: 5 is a hit, the mid-rank 5.5 is none
        return np.where(np.arange(4) < hits[alpha, draw], 3.0, 9.0)

    table = alpha_table(sweep(rank_of, alphas=(0, 0.5, 1), draws=(0, 1)), n_resamples=200)
    table = table.set_index(["panel", "alpha"])
    in_domain, zero_shot = table.loc["in_domain"], table.loc["zero_shot"]
    assert in_domain["value"].tolist() == [0.25, 0.75, 0.5]
    assert in_domain["draw_low"].tolist() == [0.25, 0.5, 0.25]
    assert in_domain["draw_high"].tolist() == [0.25, 1.0, 0.75]
    assert in_domain["best"].tolist() == [False, True, False]
    assert zero_shot["value"].tolist() == pytest.approx([3 / 5, 2 / 5, 2 / 5])
    assert zero_shot["best"].tolist() == [True, False, False]
    assert set(zero_shot["n"]) == {20}
    assert set(table["draws"]) == {2}


def test_data_sets_count_equally_whatever_their_size():
    small, large = Measure("a", "text_to_video", 1), Measure("b", "text_to_video", 1)
    panel = Panel("both", "Both", "R@1 (%)", (small, large))
    frames = [
        sweep(lambda *_: 1.0, items=2, panels=(Panel("", "", "", (small,)),)),
        sweep(lambda *_: 2.0, items=8, panels=(Panel("", "", "", (large,)),)),
    ]
    table = alpha_table(pd.concat(frames), panels=(panel,), n_resamples=10)
    assert set(table["value"]) == {0.5}


def test_of_equal_values_the_smallest_alpha_is_best():
    table = alpha_table(
        sweep(lambda data_set, alpha, draw: 1.0 if alpha >= 0.3 else 9.0), n_resamples=10
    )
    assert table.loc[table["best"], "alpha"].tolist() == [0.3, 0.3]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_the_band_has_items_at_the_teacher_and_items_and_draws_elsewhere(panel):
    outcomes = realistic("hump", alphas=(0, 0.6, 1))
    table = alpha_table(outcomes, panels=(panel,), n_resamples=300, seed=3)

    def hits(measure, alpha, draw):
        cell = outcomes[
            (outcomes["data_set"] == measure.data_set)
            & (outcomes["alpha"] == alpha)
            & (outcomes["draw"].fillna(-1) == draw)
        ]
        return (cell.sort_values("item")["rank"].to_numpy() <= measure.k) * 1.0

    for alpha, draws in ((0.0, (-1,)), (0.6, (0, 1, 2))):
        values = [
            np.stack([hits(measure, alpha, draw) for draw in draws]) for measure in panel.measures
        ]
        interval = mean_interval(values, n_resamples=300, seed=3, within=(0, 1))
        row = table[table["alpha"] == alpha].iloc[0]
        assert (row["ci_low"], row["ci_high"]) == (interval.low, interval.high)


def test_row_order_and_categories_do_not_matter():
    outcomes = realistic("hump")
    shuffled = outcomes.sample(frac=1, random_state=5).astype(
        {"item": "category", "data_set": "category", "direction": "category"}
    )
    pd.testing.assert_frame_equal(
        alpha_table(outcomes, n_resamples=20), alpha_table(shuffled, n_resamples=20)
    )


def test_an_alpha_that_was_not_measured_is_refused_with_those_that_were():
    outcomes = sweep(lambda *_: 1.0, alphas=(0, 0.5, 1))
    with pytest.raises(ValueError, match=r"alpha 0\.4 was not measured.*: 0, 0\.5, 1"):
        alpha_curve(outcomes)
    alpha_curve(outcomes, alpha=0.5)


def test_a_sweep_with_holes_is_refused():
    outcomes = sweep(lambda *_: 1.0)
    measures = ZERO_SHOT.measures

    def without(**fields):
        chosen = np.ones(len(outcomes), bool)
        for name, value in fields.items():
            chosen &= (outcomes[name] == value).fillna(False).to_numpy(bool)
        return outcomes[~chosen]

    with pytest.raises(ValueError, match=r"needs the teacher \(alpha 0\)"):
        PanelHits(without(model="teacher"), measures)
    with pytest.raises(ValueError, match=r"and the student \(alpha 1\)"):
        PanelHits(without(model="student"), measures)
    with pytest.raises(ValueError, match=r"0\.1 have the draws \[0, 1, 2\], but 0\.4 has \[0, 2\]"):
        PanelHits(without(alpha=0.4, draw=1), measures)
    with pytest.raises(
        ValueError, match=r"mit and didemo do not have the same alphas and draws: .*0\.4: \[0, 2\]"
    ):
        PanelHits(without(alpha=0.4, draw=1, data_set="mit"), measures)
    with pytest.raises(ValueError, match="no outcomes of ucf101, classification"):
        PanelHits(without(data_set="ucf101"), measures)


def texts_of(figure):
    """Every text that is drawn, with its box in inches and its size in points."""
    figure.draw_without_rendering()
    hidden = {  # ticks beyond the axis exist but are not drawn
        label
        for ax in figure.axes
        for place, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        if not ax.get_ylim()[0] <= place <= ax.get_ylim()[1]
    }
    found = []
    for text in figure.findobj(Text):
        box = text.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            found.append((text.get_text(), box, text.get_fontsize()))
    return found


@pytest.mark.parametrize("panels", [PANELS, (ZERO_SHOT,)], ids=["page", "column"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ("rising", {}),
        ("falling", {"draws": (0,)}),
        ("hump", {"items": 7}),
        ("flat", {"alphas": (0, 0.4, 1)}),
        ("bottom", {"items": 1, "draws": (0,)}),
        ("top", {}),
    ],
)
def test_no_text_is_clipped_tiny_or_covered(shape, options, panels):
    figure = alpha_curve(realistic(shape, **options), panels=panels, n_resamples=20)
    texts = texts_of(figure)
    width, height = figure.get_size_inches()
    assert len(texts) > 10
    for text, box, size in texts:
        assert size >= 7, text
        assert box.x0 >= 0 and box.x1 <= width, text
        assert box.y0 >= style.FOOTER - 0.02 and box.y1 <= height, text
    for (one, box, _), (other, other_box, _) in itertools.combinations(texts, 2):
        apart = (
            box.x1 <= other_box.x0
            or other_box.x1 <= box.x0
            or box.y1 <= other_box.y0 + 0.02
            or other_box.y1 <= box.y0 + 0.02
        )
        assert apart, (one, other)


def test_the_figure_says_what_it_shows():
    figure = alpha_curve(realistic("hump"), n_resamples=20)
    words = "\n".join(text for text, _, _ in texts_of(figure))
    for expected in (
        "(a) In-domain (webvid_val)",
        "(b) Zero-shot, mean of 5 data sets",
        "Text-to-video R@5 (%)",
        "Mean of R@5 and top-1 (%)",
        "α, weight of the student",
        "0\nteacher",
        "1\nstudent",
        "chosen beforehand: α = 0.4, ",
        "best in hindsight: α = ",
        "mean of 3 draws",
        "95% interval (items × draws)",
    ):
        assert expected in words


def test_one_draw_is_called_one_draw():
    figure = alpha_curve(realistic("hump", draws=(4,)), n_resamples=20)
    words = "\n".join(text for text, _, _ in texts_of(figure))
    assert "the one draw" in words
    assert "95% interval (items)" in words
    assert "each draw" not in words


def test_lines_and_marks_lie_at_the_measured_values():
    outcomes = realistic("hump")
    table = alpha_table(outcomes, panels=(IN_DOMAIN,), n_resamples=20)
    figure = alpha_curve(outcomes, panels=(IN_DOMAIN,), n_resamples=20)
    points = {
        str(line.get_label()).split(":")[0]: np.asarray(line.get_xydata())
        for line in figure.axes[0].lines
    }
    table["value"] *= 100
    drawn = table[["alpha", "value"]]
    np.testing.assert_allclose(points["mean of 3 draws"], drawn)
    np.testing.assert_allclose(points["chosen beforehand"], drawn[table["alpha"] == 0.4])
    np.testing.assert_allclose(points["best in hindsight"], drawn[table["best"]])


def test_the_figures_files_are_the_same_each_time(tmp_path):
    outcomes = realistic("hump", items=10, alphas=(0, 0.4, 1))
    saved = []
    for stem in ("a", "b"):
        figure = alpha_curve(outcomes, panels=(IN_DOMAIN,), n_resamples=20)
        paths = style.save(figure, tmp_path / stem, {"results": "1"})
        saved.append([path.read_bytes() for path in paths])
    assert saved[0] == saved[1]
