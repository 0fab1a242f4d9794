from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from figures import per_class as module
from figures import style
from figures.beyond import classes_in_words
from figures.inference import per_class_differences
from figures.per_class import per_class, per_class_table
from fitclip_kit.store.results import CLASSIFICATION, Cell
from tests.figure_layout import texts_are_apart
from tests.figures.made import BY_NAME, TRAINING, hits, of, together


def outcomes_of(labels, right, **training):
    """Outcomes with `right`: {(alpha, draw): [items] of whether top-1 is right}."""
    return together(
        of(
            Cell("mit", alpha=alpha, draw=draw, **(TRAINING | training if alpha else {})),
            np.where(column, 1.0, 1.5),  # tied for the first place is no hit
            CLASSIFICATION,
            labels,
        )
        for (alpha, draw), column in right.items()
    )


def example(classes, n=12, draws=(0, 1), seed=0, gains=0.25):
    rng = np.random.default_rng(seed)
    labels = np.repeat([f"class {i:02d}" for i in range(classes)], n)
    share = np.repeat(rng.uniform(0.2, 0.6, classes), n)
    other = np.clip(share + np.repeat(rng.normal(0, gains, classes), n), 0, 1)
    luck = rng.random(len(labels))
    right: dict[Any, np.ndarray] = {(0, None): luck < share}
    right |= {(0.4, draw): (luck + rng.normal(0, 0.05, len(luck))) < other for draw in draws}
    return outcomes_of(rng.permutation(labels), right)


def test_table_by_hand():
    labels = ["a", "e", "b", "a", "b", "b", "c", "c", "d"]
    right = {
        (0, None): [1, 1, 0, 0, 0, 1, 1, 1, 0],
        (0.4, 3): [1, 1, 1, 1, 1, 0, 0, 0, 0],
        (0.4, 5): [1, 1, 1, 0, 1, 1, 0, 1, 0],
    }
    shuffled = outcomes_of(labels, right).sample(frac=1, random_state=3)
    names = ["item", "label", "data_set", "direction"]
    table = per_class_table(shuffled.astype(dict.fromkeys(names, "category")))
    assert table["class"].tolist() == ["b", "a", "d", "e", "c"]  # equal ones by name
    assert table["n"].tolist() == [3, 2, 1, 1, 2]
    # b: +1, then +2 of 3; a: +1, then 0 of 2; c: -2, then -1 of 2.
    assert table["difference"].tolist() == pytest.approx([1 / 2, 1 / 4, 0, 0, -3 / 4])
    assert set(table["draws"]) == {2}
    assert set(table["alpha"]) == {0.4} and set(table["data_set"]) == {"mit"}


def test_numbers_are_those_of_the_statistics():
    outcomes = example(6)
    table = per_class_table(outcomes, level=0.9).set_index("class").sort_index()
    teacher, other = (
        hits(outcomes, BY_NAME["mit"], draws, alpha=alpha)
        for alpha, draws in ((0, [None]), (0.4, [0, 1]))
    )
    labels = outcomes.drop_duplicates("item").sort_values("item")["label"].to_numpy(str)
    slow = per_class_differences(teacher, other, labels, level=0.9).set_index("class")
    np.testing.assert_allclose(
        table[["n", "difference", "ci_low", "ci_high", "p_value", "sign_flip_p", "q_value"]],
        slow[["n", "difference", "low", "high", "p_value", "sign_flip_p", "q_value"]],
    )


def test_a_verdict_is_of_new_students_too():
    n = 40
    labels = np.repeat(["gain", "loss", "same", "draws differ"], n)
    wrong, right = np.zeros(n), np.ones(n)
    outcomes = outcomes_of(
        labels,
        {
            (0, None): np.concatenate([wrong, right, right, wrong]),
            (0.4, 0): np.concatenate([right, wrong, right, right]),
            (0.4, 1): np.concatenate([right, wrong, right, wrong]),
        },
    )
    table = per_class_table(outcomes).set_index("class")
    assert table["sign_flip_p"].to_dict()["draws differ"] < 1e-6
    assert table["q_value"].to_dict()["draws differ"] > 0.05
    assert table["verdict"].to_dict() == {
        **{"gain": "higher", "draws differ": "undecided"},
        **{"same": "undecided", "loss": "lower"},
    }
    words = classes_in_words(table.reset_index())
    assert "rises in 2 of 4 classes, falls in 1 and stays in 1" in words
    assert "clips in a class: 40)" in words
    assert "Shown to be higher: 1 — gain (+100)." in words
    assert "Shown to be lower: 1 — loss (-100)." in words
    nothing = classes_in_words(table.reset_index().assign(verdict="undecided"))
    assert "Shown to be higher: 0. " in nothing


def test_what_cannot_be_compared_is_refused():
    outcomes = example(3)
    changed = outcomes.copy()
    changed.loc[len(changed) - 1, "label"] = "other"
    unlabelled = outcomes.assign(label=outcomes["label"].where(outcomes.index > 0))
    for table, options, match in (
        (outcomes, {"data_set": "ucf101"}, "no outcomes of ucf101, classification"),
        (outcomes, {"alpha": 1}, "alpha 1 was not measured"),
        (outcomes, {"alpha": 0}, "alpha 0 is the teacher"),
        (unlabelled, {}, "'clip0000' of mit has no label"),
        (changed, {}, r"'clip0035' of mit has several labels: .*other"),
    ):
        with pytest.raises(ValueError, match=match):
            per_class_table(table, **options)


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [(1, [1]), (2, [1, 1]), (7, [4, 3]), (8, [4, 4]), (9, [4, 4]), (30, [4, 4])],
)
def test_panels_hold_the_extremes_and_no_class_twice(classes, sizes, monkeypatch):
    monkeypatch.setattr(module, "_COUNT", 4)
    table = per_class_table(example(classes))
    figure = per_class(table)
    assert figure.axes[0].get_ylabel() == "Class (clips)"
    figure.draw_without_rendering()
    shown = pd.concat([table.head(sizes[0]), table.tail(sum(sizes[1:]))])
    names, lengths, colours, intervals = [], [], [], []
    for ax, size in zip(figure.axes, sizes, strict=True):
        names += [label.get_text() for label in ax.get_yticklabels()]
        bars: list[Any] = [*ax.patches]
        lengths += [bar.get_width() for bar in bars]
        colours += [to_hex(bar.get_facecolor()) for bar in bars]
        paths = ax.collections[0].get_paths()
        intervals += [np.asarray(path.vertices)[:, 0] for path in paths]
        low, high = sorted(ax.get_ylim())
        assert low < 0 and high > size - 1 and ax.yaxis_inverted()
        left, right = ax.get_xlim()
        assert left <= np.min(intervals[-size:]) and right >= np.max(intervals[-size:])
        assert left <= 0 <= right
    scales = [np.ptp(ax.get_xlim()) / ax.get_window_extent().width for ax in figure.axes]
    assert scales == pytest.approx(scales[:1] * len(sizes), rel=0.02)  # an inch is as much in both
    assert names == [f"{name} (12)" for name in shown["class"]]
    assert lengths == pytest.approx((100 * shown["difference"]).tolist())
    settled = shown["verdict"] != "undecided"
    assert colours == [style.LINE if one else style.BAND for one in settled]
    np.testing.assert_allclose(intervals, 100 * shown[["ci_low", "ci_high"]])


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
