import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.measures import Measure
from fitclip_core import metrics
from fitclip_core.statistics import per_class_differences
from fitclip_kit.slider import views
from fitclip_kit.slider.stored import Point, StoredSweep, share_point
from fitclip_kit.store.results import Cell, typed

RETRIEVAL = Measure("clips", "text_to_video", 5)
TOP_1 = Measure("actions", "classification", 1)


def retrieval(ranks, names=None):
    """Both directions, as `zero_shot.rank`; the other direction's ranks are all 1."""
    names = names or [f"c{place}" for place in range(len(ranks))]
    forth = pd.DataFrame({"item": names, "direction": "text_to_video", "rank": ranks})
    back = forth.assign(direction="video_to_text", rank=1.0)
    return pd.concat([back, forth], ignore_index=True).astype({"rank": float})


def classified(ranks, labels):
    names = [f"c{place}" for place in range(len(ranks))]
    table = pd.DataFrame({"item": names, "direction": "classification", "rank": ranks})
    return table.assign(label=labels, predicted="x").astype({"rank": float})


# --- metrics_table ---------------------------------------------------------------------------


def small_sweep():
    tables = []
    for alpha, ranks in ((0, [1, 9, 9, 9]), (0.5, [1, 1, 9, 9]), (1, [1, 1, 1, 9])):
        key = Cell(alpha=alpha, labelled_share=1, labelled_clips=5, draw=3, data_set="clips")
        table = retrieval(ranks)
        tables.append(table.assign(**vars(key)))
    return StoredSweep(typed(pd.concat(tables, ignore_index=True)), {"clips": RETRIEVAL})


def test_the_metrics_table_puts_a_point_beside_teacher_and_student():
    point = Point(0.6, 0.4, 0.8, "interpolated")
    (row,) = views.metrics_table({"clips": point}, small_sweep(), 3).to_dict("records")
    assert row == {
        "data_set": "clips",
        "measure": "text-to-video R@5",
        "value": 0.6,
        "ci_low": 0.4,
        "ci_high": 0.8,
        "teacher": 0.25,
        "student": 0.75,
        "difference": pytest.approx(0.35),
        "status": "interpolated",
    }


def test_the_metrics_table_of_no_points_is_empty_and_has_its_columns():
    table = views.metrics_table({}, small_sweep(), 3)
    assert table.empty and table.columns[:2].tolist() == ["data_set", "measure"]


def test_the_metrics_table_refuses_what_the_sweep_lacks():
    point = Point(0.6, 0.4, 0.8, "exact")
    with pytest.raises(ValueError, match="no draw 1"):
        views.metrics_table({"clips": point}, small_sweep(), 1)
    with pytest.raises(ValueError, match="no data set 'other'"):
        views.metrics_table({"other": point}, small_sweep(), 3)


# --- set_answer ------------------------------------------------------------------------------


def test_an_answer_by_hand():
    now, teacher = retrieval([1, 5, 5.5, 2, 30]), retrieval([1, 6, 5, 9, 30])
    (row,) = views.set_answer(now, teacher, retrieval([5] * 5), RETRIEVAL).to_dict("records")
    assert row["data_set"] == "clips" and row["measure"] == "text-to-video R@5"
    assert row["value"] == pytest.approx(3 / 5)  # 5 counts, 5.5 does not
    assert row["teacher"] == pytest.approx(2 / 5)
    assert row["student"] == 1
    assert row["difference"] == pytest.approx(1 / 5)
    # Bonett and Price by hand: 2 won, 1 lost, each plus 1, of 5 + 2.
    won, lost = 3 / 7, 2 / 7
    half = 1.959964 * math.sqrt((won + lost - (won - lost) ** 2) / 7)
    assert row["diff_low"] == pytest.approx(won - lost - half, abs=1e-6)
    assert row["diff_high"] == pytest.approx(won - lost + half, abs=1e-6)
    point = share_point(now, RETRIEVAL)
    assert (row["ci_low"], row["ci_high"]) == (point.ci_low, point.ci_high)
    assert row["n"] == 5 and pd.isna(row["clips"]) and row["status"] == "exact"


def test_an_answer_tells_the_coverage_and_status():
    now = retrieval([1, 2])
    now.attrs["coverage"] = {"clips": 3, "measured": 2, "missing": ["c9"]}
    table = views.set_answer(now, now, now, RETRIEVAL, "stored")
    assert table["clips"].tolist() == [3] and table["status"].tolist() == ["stored"]


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_items_are_paired_by_name_in_any_order(data):
    n = data.draw(st.integers(1, 9))
    rank = st.integers(2, 16).map(lambda double: double / 2)
    now, teacher = (data.draw(st.lists(rank, min_size=n, max_size=n)) for _ in range(2))
    order = data.draw(st.permutations(range(n)))
    shuffled = retrieval([teacher[at] for at in order], [f"c{at}" for at in order])
    answers = [
        views.set_answer(retrieval(now), side, retrieval(now), RETRIEVAL)
        for side in (retrieval(teacher), shuffled)
    ]
    pd.testing.assert_frame_equal(answers[0], answers[1])
    changes = [
        views.retrieval_changes(retrieval(now), side, RETRIEVAL)
        for side in (retrieval(teacher), shuffled)
    ]
    pd.testing.assert_frame_equal(changes[0], changes[1])


def test_one_item_and_models_that_agree_still_have_an_interval_of_the_difference():
    one = retrieval([1])
    row = views.set_answer(one, one, one, RETRIEVAL).iloc[0]
    assert row["value"] == 1 and np.isnan(row["ci_low"])
    assert row["difference"] == 0
    assert row["diff_low"] < 0 < row["diff_high"]


def test_answers_it_refuses():
    good = retrieval([1, 2])
    with pytest.raises(ValueError, match="teacher: item 'c1' has no finite rank"):
        views.set_answer(good, retrieval([1, np.nan]), good, RETRIEVAL)
    with pytest.raises(ValueError, match="student: 1 items differ from the others', such as 'c2'"):
        views.set_answer(good, good, retrieval([1, 2, 3]), RETRIEVAL)
    with pytest.raises(ValueError, match="now: item 'a' occurs twice"):
        views.set_answer(retrieval([1, 2], ["a", "a"]), good, good, RETRIEVAL)
    with pytest.raises(ValueError, match="no outcomes of direction 'classification'"):
        views.set_answer(good, good, good, TOP_1)


# --- class_changes ---------------------------------------------------------------------------

LABELS = ["dig"] * 4 + ["eat"] * 2 + ["fly"] * 2 + ["run"] * 4 + ["sit"]
TEACHER = [9, 9, 9, 9, 9, 1, 1, 9, 1, 1, 1, 1, 1]
NOW = [1, 1, 1.5, 9, 1, 1, 1, 9, 9, 9, 9, 1, 1]


def test_winners_and_losers_by_hand():
    table = views.class_changes(classified(NOW, LABELS), classified(TEACHER, LABELS))
    shown = table[["change", "class", "n", "teacher", "now", "difference"]]
    assert shown.to_numpy().tolist() == [
        ["gained", "dig", 4, 0.0, 0.5, 0.5],  # the mid-rank 1.5 is not top-1
        ["gained", "eat", 2, 0.5, 1.0, 0.5],
        ["lost", "run", 4, 1.0, 0.25, -0.75],
    ]
    assert table.attrs["counts"] == {"gained": 2, "lost": 1, "same": 2}


def test_the_classes_intervals_are_those_of_per_class_differences():
    shown = views.class_changes(classified(NOW, LABELS), classified(TEACHER, LABELS))
    everything = per_class_differences(np.array(TEACHER) <= 1, np.array(NOW) <= 1, LABELS)
    expected = everything.set_index("class").loc[shown["class"]]
    for name in ("difference", "low", "high"):
        np.testing.assert_allclose(shown[name], expected[name])


def test_more_classes_are_asked_for_than_there_are():
    shown = [
        views.class_changes(classified(NOW, LABELS), classified(TEACHER, LABELS), count=count)
        for count in (3, 99)
    ]
    pd.testing.assert_frame_equal(shown[0], shown[1])


def test_fewer_classes_are_shown_than_changed_and_all_are_counted():
    table = views.class_changes(classified(NOW, LABELS), classified(TEACHER, LABELS), count=1)
    assert table["class"].tolist() == ["dig", "run"]  # dig and eat gain the same: by name
    assert table.attrs["counts"] == {"gained": 2, "lost": 1, "same": 2}


def test_equal_changes_that_differ_by_rounding_are_in_order_of_name():
    # 0.8 - 0.4 and 0.6 - 0.2 are not the same floating-point number.
    labels = ["b"] * 5 + ["a"] * 5
    teacher = [1, 1, 9, 9, 9, 1, 9, 9, 9, 9]
    now = [1, 1, 1, 1, 9, 1, 1, 1, 9, 9]
    for order in (labels, ["c"] * 5 + ["d"] * 5):
        table = views.class_changes(classified(now, order), classified(teacher, order))
        assert table["class"].tolist() == sorted(set(order))


def test_a_class_counts_by_k():
    table = views.class_changes(classified([5, 6], ["a", "a"]), classified([9, 6], ["a", "a"]), k=5)
    assert table[["class", "teacher", "now"]].to_numpy().tolist() == [["a", 0.0, 0.5]]


def test_one_class_and_no_change():
    same = classified([1, 9], ["a", "a"])
    table = views.class_changes(same, same)
    columns = ["change", "class", "n", "teacher", "now", "difference", "low", "high"]
    assert table.empty and table.columns.tolist() == columns
    assert table.attrs["counts"] == {"gained": 0, "lost": 0, "same": 1}


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_swapping_the_models_swaps_winners_and_losers(data):
    n = data.draw(st.integers(1, 12))
    labels = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    ranks = st.lists(st.sampled_from([1.0, 1.5, 2.0]), min_size=n, max_size=n)
    sides = [classified(data.draw(ranks), labels) for _ in range(2)]
    forth, back = (views.class_changes(one, two, 9) for one, two in (sides, sides[::-1]))
    for one, other in (("gained", "lost"), ("lost", "gained")):
        changed = forth[forth["change"] == one]
        undone = back[back["change"] == other]
        assert changed["class"].tolist() == undone["class"].tolist()
        np.testing.assert_allclose(changed["difference"], -undone["difference"])
        np.testing.assert_allclose(changed["low"], -undone["high"], atol=1e-12)
        assert forth.attrs["counts"][one] == back.attrs["counts"][other] == len(changed)


def test_class_changes_it_refuses():
    good = classified([1, 9], ["a", "a"])
    with pytest.raises(ValueError, match="count is 0"):
        views.class_changes(good, good, count=0)
    with pytest.raises(ValueError, match="no outcomes of direction 'classification'"):
        views.class_changes(retrieval([1]), retrieval([1]))
    with pytest.raises(ValueError, match="teacher: 1 items differ"):
        views.class_changes(good, classified([1], ["a"]))


# --- retrieval_changes -----------------------------------------------------------------------


def test_items_that_entered_and_left_the_top_by_hand():
    teacher = retrieval([9, 50, 1, 5.5, 3, 5, 80, 6])
    now = retrieval([3, 5, 9, 5, 4, 10, 90, 2])
    table = views.retrieval_changes(now, teacher, RETRIEVAL)
    assert table.to_numpy().tolist() == [
        ["entered", "c1", 50.0, 5.0],  # ten times
        ["entered", "c0", 9.0, 3.0],  # three times, as the next: by name
        ["entered", "c7", 6.0, 2.0],
        ["entered", "c3", 5.5, 5.0],
        ["left", "c2", 1.0, 9.0],
        ["left", "c5", 5.0, 10.0],
    ]
    assert table.attrs["counts"] == {"entered": 4, "left": 2, "stayed": 1, "outside": 1}
    fewer = views.retrieval_changes(now, teacher, RETRIEVAL, count=1)
    assert fewer["item"].tolist() == ["c1", "c2"]
    assert fewer.attrs["counts"] == table.attrs["counts"]


def test_no_item_entered_or_left():
    same = retrieval([1, 9])
    table = views.retrieval_changes(same, same, RETRIEVAL)
    assert table.empty and table.columns.tolist() == ["change", "item", "teacher", "now"]
    assert table.attrs["counts"] == {"entered": 0, "left": 0, "stayed": 1, "outside": 1}
    with pytest.raises(ValueError, match="count is 0"):
        views.retrieval_changes(same, same, RETRIEVAL, count=0)


# --- probabilities ---------------------------------------------------------------------------


def features(rows, seed=0, columns=24):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 5


def test_probabilities_by_hand():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    table = views.probabilities(torch.tensor([0.5, 0.25]), targets, 4.0, ["a", "b", "c"], right=1)
    assert table["name"].tolist() == ["c", "a", "b"]
    assert table["score"].tolist() == [0.75, 0.5, 0.25]  # not divided by any length
    exponents = [math.exp(4 * score) for score in (0.75, 0.5, 0.25)]
    np.testing.assert_allclose(table["probability"], np.array(exponents) / sum(exponents))
    assert table["right"].tolist() == [False, False, True]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["place"].tolist() == [2, 0, 1]


def test_probabilities_are_torchs_softmax_over_all_names():
    targets, video = features(30), features(1, seed=1)[0]
    table = views.probabilities(video, targets, 2.0, [str(at) for at in range(30)], count=4)
    expected = torch.softmax(2 * targets.double() @ video.double(), 0)
    assert len(table) == 4 and table["probability"].sum() < 0.5
    np.testing.assert_allclose(table["probability"], expected[table["place"].tolist()], rtol=1e-4)
    assert table["probability"].is_monotonic_decreasing


@given(seed=st.integers(0, 999), rows=st.integers(1, 12), kind=st.sampled_from(["random", "ties"]))
@settings(max_examples=40, deadline=None)
def test_the_right_targets_rank_is_the_kits(seed, rows, kind):
    targets, video = features(rows, seed), features(1, seed + 1)
    if kind == "ties":
        targets = targets[torch.randint(0, rows, (rows,))]
    names = ["same name"] * rows
    for right in range(rows):
        table = views.probabilities(video[0], targets, 10.0, names, right=right, count=2)
        (rank,) = table.loc[table["right"], "rank"]
        assert rank == metrics.retrieval_ranks(video, targets, [right]).item()


def test_the_right_target_is_shown_wherever_it_stands():
    targets, video = torch.eye(6), torch.tensor([6.0, 5, 4, 3, 2, 1]) / 10
    names = list("abcdef")
    table = views.probabilities(video, targets, 10.0, names, right=5, count=2)
    assert table["name"].tolist() == ["a", "b", "f"]
    assert table["right"].tolist() == [False, False, True]
    assert table["rank"].tolist() == [1, 2, 6]
    inside = views.probabilities(video, targets, 10.0, names, right=1, count=2)
    assert inside["name"].tolist() == ["a", "b"]


def test_several_right_targets_are_all_marked_and_the_best_is_shown():
    targets, video = torch.eye(6), torch.tensor([6.0, 5, 4, 3, 2, 1]) / 10
    names = list("abcdef")
    table = views.probabilities(video, targets, 10.0, names, right=[5, 3], count=2)
    assert table["name"].tolist() == ["a", "b", "d"]
    assert table["right"].tolist() == [False, False, True]
    inside = views.probabilities(video, targets, 10.0, names, right=[5, 1, 0], count=3)
    assert inside["right"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"right is \[0, 6\]; with 6 targets it is 0 to 5"):
        views.probabilities(video, targets, 10.0, names, right=[0, 6])


def test_nothing_is_right_where_it_is_not_known():
    table = views.probabilities(torch.ones(2), torch.ones(3, 2), 5.0, ["a", "b", "c"])
    assert table["right"].isna().all()


def test_ties_share_rank_and_probability_and_keep_their_order():
    table = views.probabilities(torch.ones(2), torch.ones(4, 2), 5.0, list("dcba"), count=99)
    assert table["name"].tolist() == list("dcba")
    assert table["rank"].tolist() == [2.5] * 4
    np.testing.assert_allclose(table["probability"], 0.25)
    many = torch.ones(200, 1)
    many[::3] = 2
    table = views.probabilities(torch.ones(1), many, 5.0, ["x"] * 200, count=200)
    assert table["place"].tolist() == sorted(range(200), key=lambda place: place % 3 > 0)


def test_scores_that_are_one_float32_tie_as_in_the_kit():
    targets, video = torch.tensor([[1.0, 0.0], [1.0, 1e-9]]), torch.ones(1, 2)
    table = views.probabilities(video[0], targets, 5.0, ["a", "b"], right=1)
    assert table["rank"].tolist() == [1.5, 1.5]
    assert metrics.retrieval_ranks(video, targets, [1]).item() == 1.5


def test_one_class_is_certain():
    table = views.probabilities([0.1, 0.2], [[0.3, 0.4]], 100.0, ["only"], right=0)
    assert table["probability"].tolist() == [1.0] and table["rank"].tolist() == [1.0]


def test_large_scales_do_not_overflow():
    table = views.probabilities([1.0, 0.0], [[1.0, 0.0], [-1.0, 0.0]], 1e5, ["a", "b"])
    assert table["probability"].tolist() == [1.0, 0.0]


def test_half_precision_and_arrays_are_taken():
    targets, video = features(5), features(1, seed=3)[0]
    for kind in (torch.bfloat16, torch.float16):
        half = views.probabilities(video.to(kind), targets.to(kind), 10.0, list("abcde"))
        assert len(half) == 5
    arrays = views.probabilities(video.numpy(), targets.numpy(), 10.0, list("abcde"))
    pd.testing.assert_frame_equal(
        arrays, views.probabilities(video.requires_grad_(), targets, 10.0, list("abcde"))
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"video_feature": torch.tensor([1.0, math.nan])}, "video_feature holds NaN"),
        ({"target_features": torch.tensor([[1.0, math.inf]] * 2)}, "target_features holds NaN"),
        ({"target_features": torch.full((2, 2), 3e38)}, "scores overflow float32"),
        ({"video_feature": torch.ones(3)}, "video_feature has 3 numbers and target_features 2"),
        ({"video_feature": torch.ones(1, 2)}, r"video_feature has shape \(1, 2\)"),
        ({"target_features": torch.ones(0, 2), "names": []}, r"target_features \(0, 2\)"),
        ({"names": ["a"]}, "there are 1 names and 2 features"),
        ({"right": 2}, "right is 2; with 2 targets it is 0 to 1"),
        ({"right": -1}, "right is -1"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"logit_scale": math.nan}, "logit_scale is nan"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_probabilities_it_refuses(change, says):
    given = {
        "video_feature": torch.ones(2),
        "target_features": torch.ones(2, 2),
        "logit_scale": 10.0,
        "names": ["a", "b"],
    }
    with pytest.raises(ValueError, match=says):
        views.probabilities(**(given | change))


# --- retrieved and entered_left --------------------------------------------------------------


def test_retrieved_clips_by_hand():
    videos = torch.tensor([[0.1, 0.0], [0.5, 0.0], [0.5, 9.0], [0.3, 0.0]])
    table = views.retrieved(torch.tensor([2.0, 0.0]), videos, list("abcd"), count=3)
    assert table["clip_id"].tolist() == ["b", "c", "d"]
    np.testing.assert_allclose(table["score"], [1.0, 1.0, 0.6], rtol=1e-6)
    assert table["place"].tolist() == [1.5, 1.5, 3]


@given(seed=st.integers(0, 999), rows=st.integers(1, 10), count=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_retrieved_clips_are_the_first_by_the_kits_ranks(seed, rows, count):
    query, videos = features(1, seed), features(rows, seed + 1)
    names = [f"v{place}" for place in range(rows)]
    table = views.retrieved(query[0], videos, names, count)
    ranks = [metrics.retrieval_ranks(query, videos, [place]).item() for place in range(rows)]
    expected = sorted(range(rows), key=lambda place: ranks[place])[:count]
    assert table["clip_id"].tolist() == [names[place] for place in expected]
    assert table["place"].tolist() == [ranks[place] for place in expected]


def test_retrieved_clips_it_refuses():
    with pytest.raises(ValueError, match="clip_id 'a' occurs twice"):
        views.retrieved(torch.ones(2), torch.ones(2, 2), ["a", "a"])
    with pytest.raises(ValueError, match="there are 3 clip_ids and 2 features"):
        views.retrieved(torch.ones(2), torch.ones(2, 2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="video_features holds NaN"):
        views.retrieved(torch.ones(2), torch.full((2, 2), math.nan), ["a", "b"])
    with pytest.raises(ValueError, match="count is -1"):
        views.retrieved(torch.ones(2), torch.ones(2, 2), ["a", "b"], count=-1)


def test_what_entered_and_left():
    query, names = torch.tensor([1.0]), list("abcde")
    before = views.retrieved(query, torch.tensor([[5.0], [4], [3], [2], [1]]), names, count=3)
    now = views.retrieved(query, torch.tensor([[1.0], [4], [2], [5], [3]]), names, count=3)
    entered, left = views.entered_left(now, before)
    assert entered.to_numpy().tolist() == [["d", 5.0, 1.0], ["e", 3.0, 3.0]]
    assert left.to_numpy().tolist() == [["a", 5.0, 1.0], ["c", 3.0, 3.0]]
    assert [one.empty for one in views.entered_left(now, now)] == [True, True]
