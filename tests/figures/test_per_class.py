import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from figures import style
from figures.per_class import per_class, per_class_table
from fitclip_core.statistics import per_class_differences
from fitclip_kit.store.results import Cell, typed
from tests.figure_layout import texts_are_apart


def outcomes_of(labels, right, data_set="mit", **training):
    """Outcomes with `right`: {(alpha, draw): [items] of whether top-1 is right}."""
    training = {"labelled_share": 0.9, "labelled_clips": 9} | training
    tables = []
    for (alpha, draw), column in right.items():
        key = Cell(alpha=alpha, draw=draw, data_set=data_set, **training)
        table = pd.DataFrame({"item": [f"clip{i:05d}" for i in range(len(labels))]})
        table["rank"] = np.where(column, 1.0, 1.5)  # tied for the first place is no hit
        tables.append(table.assign(label=labels, direction="classification", **vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def example(classes, n=12, draws=(0, 1), seed=0, gains=0.25):
    rng = np.random.default_rng(seed)
    labels = np.repeat([f"class {i:02d}" for i in range(classes)], n)
    share = np.repeat(rng.uniform(0.2, 0.6, classes), n)
    other = np.clip(share + np.repeat(rng.normal(0, gains, classes), n), 0, 1)
    luck = rng.random(len(labels))
    right: dict[tuple[float, int], np.ndarray] = {(0, -1): luck < share}
    right |= {(0.4, draw): (luck + rng.normal(0, 0.05, len(luck))) < other for draw in draws}
    return outcomes_of(rng.permutation(labels), right)


def test_table_by_hand():
    labels = ["a", "b", "a", "b", "b", "c", "c", "d"]
    right = {
        (0, -1): [1, 0, 0, 0, 1, 1, 1, 0],
        (0.4, 3): [1, 1, 1, 1, 0, 0, 0, 0],
        (0.4, 5): [1, 1, 0, 1, 1, 0, 1, 0],
    }
    table = per_class_table(outcomes_of(labels, right))
    assert table["class"].tolist() == ["b", "a", "d", "c"]
    assert table["n"].tolist() == [3, 2, 1, 2]
    # b: +1, then +2 of 3; a: +1, then 0 of 2; c: -2, then -1 of 2.
    assert table["difference"].tolist() == pytest.approx([1 / 2, 1 / 4, 0, -3 / 4])
    assert set(table["draws"]) == {2}
    assert set(table["alpha"]) == {0.4} and set(table["data_set"]) == {"mit"}


def test_numbers_are_those_of_the_statistics():
    outcomes = example(6)
    table = per_class_table(outcomes, level=0.9).set_index("class").sort_index()
    rows = outcomes.fillna({"draw": -1})
    wide = rows.pivot(index="item", columns=["alpha", "draw"], values="rank") == 1
    labels = outcomes.drop_duplicates("item").set_index("item")["label"].reindex(wide.index)
    slow = per_class_differences(
        wide[0.0].to_numpy().T * 1.0, wide[0.4].to_numpy().T * 1.0, labels.to_numpy(str), level=0.9
    ).set_index("class")
    np.testing.assert_allclose(
        table[["n", "difference", "ci_low", "ci_high", "p_value", "sign_flip_p", "q_value"]],
        slow[["n", "difference", "low", "high", "p_value", "sign_flip_p", "q_value"]],
    )
    for name in slow.index:
        mine = (labels == name).to_numpy()
        gain = wide[0.4].to_numpy()[mine].mean() - wide[0.0].to_numpy()[mine].mean()
        assert table.loc[name, "difference"] == pytest.approx(gain)


def test_a_verdict_is_of_new_students_too():
    n = 40
    labels = np.repeat(["gain", "loss", "same", "draws differ"], n)
    wrong, right = np.zeros(n), np.ones(n)
    outcomes = outcomes_of(
        labels,
        {
            (0, -1): np.concatenate([wrong, right, right, wrong]),
            (0.4, 0): np.concatenate([right, wrong, right, right]),
            (0.4, 1): np.concatenate([right, wrong, right, wrong]),
        },
    )
    table = per_class_table(outcomes).set_index("class")
    assert table["sign_flip_p"].to_dict()["draws differ"] < 1e-6
    assert table["q_value"].to_dict()["draws differ"] > 0.05
    assert table["verdict"].to_dict() == {
        "gain": "higher",
        "draws differ": "undecided",
        "same": "undecided",
        "loss": "lower",
    }


def test_equal_differences_are_in_order_of_name_whatever_the_rows_order():
    labels = ["z", "y", "x", "z", "y", "x"]
    outcomes = outcomes_of(labels, {(0, -1): [0] * 6, (0.4, 0): [1] * 6, (0.4, 1): [1, 1, 1] * 2})
    table = per_class_table(outcomes)
    assert table["class"].tolist() == ["x", "y", "z"]
    shuffled = outcomes.sample(frac=1, random_state=3).astype(
        {"item": "category", "label": "category", "data_set": "category", "direction": "category"}
    )
    pd.testing.assert_frame_equal(per_class_table(shuffled), table)


def test_what_cannot_be_compared_is_refused():
    outcomes = example(3)
    with pytest.raises(ValueError, match="no outcomes of ucf101, classification"):
        per_class_table(outcomes, data_set="ucf101")
    with pytest.raises(ValueError, match="alpha 1 was not measured"):
        per_class_table(outcomes, 1)
    with pytest.raises(ValueError, match="alpha 0 is the teacher"):
        per_class_table(outcomes, 0)
    with pytest.raises(ValueError, match="trained in different ways"):
        more = outcomes[outcomes["alpha"] > 0].assign(labelled_clips=7)
        per_class_table(pd.concat([outcomes, more]))
    with pytest.raises(ValueError, match="'clip00000' of mit has no label"):
        per_class_table(outcomes.assign(label=outcomes["label"].where(outcomes.index > 0)))
    changed = outcomes.astype({"label": "str"})
    changed.loc[len(changed) - 1, "label"] = "other"
    with pytest.raises(ValueError, match=r"'clip00035' of mit has several labels: .*other"):
        per_class_table(changed)
    with pytest.raises(ValueError, match="0 classes"):
        per_class(per_class_table(outcomes).iloc[:0])
    with pytest.raises(ValueError, match="count 0"):
        per_class(per_class_table(outcomes), count=0)


def drawn(figure):
    """Class names, bar lengths in points, and colours, panel by panel, from the top."""
    figure.draw_without_rendering()
    panels = []
    for ax in figure.axes:
        names = [label.get_text() for label in ax.get_yticklabels()]
        bars = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in ax.patches]
        low, high = sorted(ax.get_ylim())
        assert low < 0 and high > len(bars) - 1 and ax.yaxis_inverted()
        panels.append((names, [bar[0] for bar in bars], [bar[1] for bar in bars]))
    return panels


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [(1, [1]), (2, [1, 1]), (7, [4, 3]), (8, [4, 4]), (9, [4, 4]), (30, [4, 4])],
)
def test_panels_hold_the_extremes_and_no_class_twice(classes, sizes):
    table = per_class_table(example(classes))
    panels = drawn(per_class(table, count=4))
    assert [len(names) for names, _, _ in panels] == sizes
    shown = [name.removesuffix(" (12)") for names, _, _ in panels for name in names]
    assert len(set(shown)) == len(shown)
    expected = pd.concat([table.head(sizes[0]), table.tail(sum(sizes[1:]))])
    assert shown == expected["class"].tolist()
    lengths = [length for _, lengths, _ in panels for length in lengths]
    assert lengths == pytest.approx((100 * expected["difference"]).tolist())
    colours = [colour for _, _, colours in panels for colour in colours]
    settled = expected["verdict"] != "undecided"
    assert colours == [style.LINE if one else style.BAND for one in settled]


def test_intervals_are_the_tables():
    table = per_class_table(example(5))
    figure = per_class(table)
    intervals = [
        np.asarray(path.vertices)[:, 0]
        for ax in figure.axes
        for path in ax.collections[0].get_paths()
    ]
    np.testing.assert_allclose(intervals, 100 * table[["ci_low", "ci_high"]])
    for ax, rows in zip(figure.axes, (table.head(3), table.tail(2)), strict=True):
        low, high = ax.get_xlim()
        assert low <= min(0, 100 * rows["ci_low"].min())
        assert high >= max(0, 100 * rows["ci_high"].max())


def test_an_inch_is_as_much_in_both_panels():
    figure = per_class(per_class_table(example(20, gains=0.05)))
    figure.draw_without_rendering()
    scales = [np.ptp(ax.get_xlim()) / ax.get_window_extent().width for ax in figure.axes]
    assert scales[0] == pytest.approx(scales[1], rel=0.02)


@pytest.mark.parametrize(("classes", "n"), [(1, 1), (2, 3), (7, 12), (60, 5)])
def test_no_text_is_tiny_clipped_or_covered(classes, n):
    table = per_class_table(example(classes, n))
    table.loc[0, "class"] = "a name that is so long that nobody would print it all"
    figure = per_class(table)
    texts_are_apart(figure)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert f"a name that is so long … ({n})" in words
    assert "Difference in top-1 (points):\nα = 0.4 minus the teacher" in words
    assert f"(a) mit: {min(25, -(-classes // 2))} largest" in words
    for text in figure.findobj(Text):
        assert float(text.get_fontsize()) >= 7
