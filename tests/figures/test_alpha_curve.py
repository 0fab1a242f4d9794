"""Figure 3 and the hits that it is made of, against hand-counted shares."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from figures import style
from figures.alpha_curve import alpha_curve, alpha_table
from figures.hits import PanelHits, sweep_ranks
from figures.measures import IN_DOMAIN, ZERO_SHOT
from fitclip_core.statistics import mean_interval
from tests.figure_layout import texts_are_apart
from tests.figures.made import SWEPT, first, hits, noisy, sweep, swept_hits

ALPHAS = tuple(place / 10 for place in range(11))
SHAPES = {
    "rising": lambda alpha: 0.3 + 0.5 * alpha,
    "falling": lambda alpha: 0.6 - 0.5 * alpha,
    "hump": lambda alpha: 0.4 + 0.8 * alpha - alpha**2,
    "flat": lambda alpha: 0.5,
    "bottom": lambda alpha: 0.0,
    "top": lambda alpha: 1.0,
}


def realistic(shape, *, items=40, alphas=ALPHAS, **options):
    rng = np.random.default_rng(0)
    luck = {measure.data_set: rng.random((8, items)) for measure in SWEPT}

    def hits_of(data_set, alpha, draw):
        mixed = (1 - alpha) * luck[data_set][0] + alpha * luck[data_set][draw or 0]
        return mixed < SHAPES[shape](alpha)

    return swept_hits(hits_of, alphas=alphas, items=items, **options)


def test_table_by_hand():
    # In-domain ranks: teacher 1 hit of 4; at 0.5 the draws have 2 and 4; students 1 and 3 of 4.
    right = {(0, None): 1, (0.5, 1): 2, (0.5, 2): 4, (1, 1): 1, (1, 2): 3}

    def ranks_of(data_set, alpha, draw):
        if data_set in ("ucf101", "mit"):
            return 2.0 if alpha == 0 else 1.0  # top-1: rank 2 is a miss
        if data_set != "webvid_val":
            return 5.0 if alpha == 0 else 5.5  # R@5: 5 is a hit, the mid-rank 5.5 is none
        return np.where(first(right[alpha, draw], 4), 3.0, 9.0)

    table = alpha_table(sweep(ranks_of, alphas=(0, 0.5, 1), draws=(1, 2), items=4))
    in_domain, zero_shot = (rows for _, rows in table.groupby("panel"))
    assert in_domain["value"].tolist() == [0.25, 0.75, 0.5]
    assert in_domain["draw_low"].tolist() == [0.25, 0.5, 0.25]
    assert in_domain["draw_high"].tolist() == [0.25, 1.0, 0.75]
    assert in_domain["best"].tolist() == [False, True, False]
    assert zero_shot["value"].tolist() == pytest.approx([3 / 5, 2 / 5, 2 / 5])
    assert zero_shot["best"].tolist() == [True, False, False]
    assert set(zero_shot["n"]) == {20} and set(table["draws"]) == {2}
    assert zero_shot["alpha"].tolist() == [0, 0.5, 1]
    # Data sets count equally whatever their size, and of equal values the smallest alpha is best.
    small = sweep(lambda *_: 1.0, items=2, measures=ZERO_SHOT.measures[:1])
    large = sweep(lambda *_: 9.0, items=8, measures=ZERO_SHOT.measures[1:2])
    table = alpha_table(pd.concat([small, large]))
    assert table["value"].tolist() == [0.5] * 3 and table["best"].tolist() == [True, False, False]


def test_the_band_has_items_at_the_teacher_and_items_and_draws_elsewhere():
    outcomes = realistic("hump", alphas=(0, 0.6, 1))
    table = alpha_table(outcomes.sample(frac=1, random_state=5).astype({"data_set": "category"}))
    for panel in (IN_DOMAIN, ZERO_SHOT):
        for alpha, draws in ((0.0, (None,)), (0.6, (1, 2, 3))):
            values = [hits(outcomes, one, draws, alpha=alpha) for one in panel.measures]
            interval = mean_interval(values, within=(0, 1))
            row = table[(table["panel"] == panel.name) & (table["alpha"] == alpha)].iloc[0]
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))


def test_a_sweep_with_holes_is_refused():
    outcomes = sweep(noisy())
    measures = ZERO_SHOT.measures

    def without(**fields):
        chosen = np.ones(len(outcomes), bool)
        for name, value in fields.items():
            chosen &= (outcomes[name] == value).fillna(False).to_numpy(bool)
        return outcomes[~chosen]

    with pytest.raises(ValueError, match=r"alpha 0\.3 is not in the sweep.*: 0, 0\.4, 1"):
        alpha_curve(outcomes, 0.3)
    with pytest.raises(ValueError, match=r"needs the teacher \(alpha 0\)"):
        PanelHits(without(model="teacher"), measures)
    with pytest.raises(ValueError, match=r"and the student \(alpha 1\)"):
        PanelHits(without(model="student"), measures)
    with pytest.raises(ValueError, match=r"have the draws \[1, 3\].*\[1, 2, 3\]"):
        PanelHits(without(alpha=0.4, draw=2), measures)
    with pytest.raises(ValueError, match=r"mit and didemo do not have the same .*\(0\.4, 1\)"):
        PanelHits(without(alpha=0.4, draw=1, data_set="mit"), measures)
    with pytest.raises(ValueError, match="no outcomes of ucf101, classification"):
        PanelHits(without(data_set="ucf101"), measures)
    with pytest.raises(ValueError, match=r"alpha 0\.3 was not measured on msrvtt"):
        sweep_ranks(outcomes, "msrvtt", "text_to_video", [0, 0.3])
    with pytest.raises(ValueError, match="finish the sweep"):
        sweep_ranks(without(alpha=0.4, draw=2), "msrvtt", "text_to_video", [0.4, 1])
    found = sweep_ranks(without(alpha=0.4, draw=2), "msrvtt", "text_to_video", [0, 0.4])
    assert found.same_draws() == [1, 3] and [len(array) for array in found.arrays] == [1, 2]


@pytest.mark.parametrize("measures", [SWEPT, ZERO_SHOT.measures], ids=["page", "column"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ("rising", {}),
        ("falling", {"draws": (1,)}),
        ("hump", {"items": 7}),
        ("flat", {"alphas": (0, 0.4, 1)}),
        ("bottom", {"items": 1, "draws": (1,)}),
        ("top", {}),
    ],
)
def test_no_text_is_clipped_tiny_or_covered(shape, options, measures):
    figure = alpha_curve(realistic(shape, measures=measures, **options))
    texts_are_apart(figure)
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert all(float(text.get_fontsize()) >= 7 for text in texts)
    words = "\n".join(text.get_text() for text in texts)
    several = options.get("draws") != (1,)
    over, mean = ("items × draws", "mean of 3 draws") if several else ("items", "the one draw")
    titles = ["(a) In-domain (webvid_val)", "(b) Zero-shot, mean of 5 data sets"]
    for expected in (
        *(titles if measures == SWEPT else ["Zero-shot, mean of 5 data sets"]),
        *("Mean of R@5 and top-1 (%)", "α, weight of the student", "0\nteacher", "1\nstudent"),
        *("chosen beforehand: α = 0.4, ", "best in hindsight: α = ", mean),
        f"95% interval ({over})",
    ):
        assert expected in words
    assert ("each draw" in words) == several


def test_lines_and_marks_lie_at_the_measured_values(tmp_path):
    outcomes = realistic("hump", measures=IN_DOMAIN.measures)
    table = alpha_table(outcomes)
    figure = alpha_curve(outcomes)
    points = {
        str(line.get_label()).split(":")[0]: np.asarray(line.get_xydata())
        for line in figure.axes[0].lines
    }
    drawn = table[["alpha", "value"]].mul([1, 100])
    np.testing.assert_allclose(points["mean of 3 draws"], drawn)
    np.testing.assert_allclose(points["chosen beforehand"], drawn[table["alpha"] == 0.4])
    np.testing.assert_allclose(points["best in hindsight"], drawn[table["best"]])
    band = np.concatenate([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    ends = 100 * table[["ci_low", "ci_high"]].to_numpy().ravel()
    assert set(np.round(ends, 9)) <= set(np.round(band[:, 1], 9))
    saved = [style.save(alpha_curve(outcomes), tmp_path / stem, {"a": "1"}) for stem in "ab"]
    one, other = ([path.read_bytes() for path in paths] for paths in saved)
    assert one == other
