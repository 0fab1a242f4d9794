"""Measured numbers beside the paper's, from stores small enough to count by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from figures.paper import RESULT_TABLES, paper_table, paper_values
from figures.paper_tables import beside_paper, measured_table, protocol_table
from fitclip_core.statistics import bootstrap_interval, mean_interval, paired_difference
from fitclip_kit.store.results import Cell, ResultsStore

FIXED = "resizing, unreadable videos, padding of short clips, ties, median rank"


def key_at(alpha, seed=0, data_set="msrvtt", **changes):
    fields = {"labelled_share": 0.9999, "labelled_clips": 4500} | changes
    return Cell(alpha=alpha, draw=seed, data_set=data_set, **fields)


def write(store, key, ranks, asked=None, protocol=None, first=0):
    """Store ranks (the paper's direction); the other direction's are all 99, which must not show.

    `first` numbers the first item."""
    actions = key.data_set in ("ucf101", "mit")
    items = [f"clip{first + place:03d}" for place in range(len(ranks))]
    if actions:
        outcomes = pd.DataFrame(
            {"item": items, "direction": "classification", "rank": ranks}
            | {"label": "run", "predicted": "run"}
        )
    else:
        there = pd.DataFrame({"item": items, "direction": "text_to_video", "rank": ranks})
        back = there.assign(direction="video_to_text", rank=99.0)
        outcomes = pd.concat([there, back])
    asked = asked or len(ranks)
    outcomes.attrs["coverage"] = {"clips": asked, "measured": len(ranks), "missing": []}
    store.write(key, outcomes, protocol or {})


TEACHER = [1, 3, 6, 12]
FUSED = [1, 1, 4, 11]


@pytest.fixture
def store(tmp_path):
    """MSR-VTT with teacher, student and fusion, UCF101 with the teacher alone."""
    store = ResultsStore(tmp_path)
    write(store, key_at(0), TEACHER)
    write(store, key_at(1), [2, 3, 7, 13])
    write(store, key_at(0.4), FUSED, asked=5)
    write(store, key_at(0, data_set="ucf101"), [1, 1, 1, 9])
    return store


def number(beside, table, model, metric, data_set="msrvtt"):
    place = (beside["table"] == table) & (beside["model"] == model)
    place &= (beside["metric"] == metric) & (beside["data_set"] == data_set)
    assert place.sum() == 1
    return beside[place].iloc[0]


def test_table_5a_by_hand(store):
    table = measured_table("5a", beside_paper(store, n_resamples=50))
    assert table.index.equals(paper_table("5a").index)
    assert table.columns.equals(paper_table("5a").columns)
    assert list(table.loc["Teacher (CLIP)"]) == [25, 50, 75, 4.5]
    assert list(table.loc["Student"]) == [0, 50, 75, 5]
    assert list(table.loc["FitCLIP"]) == [50, 75, 75, 2.5]
    assert list(table.loc["Delta"]) == [25, 25, 0, 2]
    expected = [100 * 25 / 75, 100 * 25 / 50, 0, 100 * 2 / 4.5]
    np.testing.assert_allclose(table.loc["Error rate reduction (%)"], expected)


def test_what_was_not_measured_is_blank_in_every_table(store):
    beside = beside_paper(store, n_resamples=50)
    for name in RESULT_TABLES:
        assert measured_table(name, beside).shape == paper_table(name).shape
    # Table 5a whole, UCF101's teacher in 4b, and CLIP's two and FitCLIP's one in table 6.
    filled = {name: measured_table(name, beside).notna().sum().sum() for name in RESULT_TABLES}
    assert {name: n for name, n in filled.items() if n} == {"5a": 20, "4b": 2, "6": 3}
    assert list(measured_table("4b", beside).loc["Teacher (CLIP)"]) == [75, 75]
    last = measured_table("6", beside)
    assert last.columns.equals(paper_table("6").columns)
    assert last.loc["CLIP", ("MSR-VTT", "R@5")] == 50
    assert last.loc["WiSE-FT"].isna().all()
    blank = beside[beside["value"].isna()]
    counts = ["ci_low", "ci_high", "n", "clips", "draws", "difference"]
    assert blank[counts].isna().all(axis=None)
    assert set(blank["differs"]) == {""}
    with pytest.raises(ValueError, match="no table '1a'"):
        measured_table("1a", beside)


def test_each_number_stands_beside_the_papers(store):
    beside = beside_paper(store, n_resamples=50)
    expected = paper_values().rename(columns={"value": "paper"})
    pd.testing.assert_frame_equal(beside[list(expected.columns)], expected)
    one = number(beside, "5a", "FitCLIP", "R@1")
    assert one[["value", "paper", "n", "clips", "draws"]].tolist() == [50, 33.8, 4, 5, 1]
    assert one["difference"] == pytest.approx(16.2)
    assert number(beside, "5a", "Teacher (CLIP)", "R@1")["clips"] == 4
    assert number(beside, "5a", "Delta", "MdR")["difference"] == 1
    assert beside["differs"].str.contains(FIXED)[beside["value"].notna()].all()
    assert "clips measured" in one["differs"]
    assert "not recorded: data set, split, captions" in one["differs"]


def test_one_draws_interval_is_its_cells(store):
    beside = beside_paper(store, n_resamples=300, seed=4)
    metrics = store.metrics([key_at(0.4)], n_resamples=300, seed=4)
    metrics = metrics[metrics["direction"] == "text_to_video"].set_index("metric")
    for metric in ("R@1", "R@5", "R@10", "MdR"):
        scale = 1 if metric == "MdR" else 100
        one = number(beside, "5a", "FitCLIP", metric)
        assert one["ci_low"] == scale * metrics.loc[metric, "ci_low"]
        assert one["ci_high"] == scale * metrics.loc[metric, "ci_high"]


def test_several_draws_are_averaged_and_resampled(store):
    second = [1, 6, 6, 6]
    write(store, key_at(0.4), FUSED)
    write(store, key_at(0.4, seed=3), second)
    options: dict[str, Any] = {"n_resamples": 300, "level": 0.9, "seed": 4}
    beside = beside_paper(store, **options)
    both = np.array([FUSED, second])
    share = number(beside, "5a", "FitCLIP", "R@5")
    assert share["value"] == 50
    assert share["draws"] == 2
    ends = mean_interval((both <= 5) * 1.0, within=(0, 1), level=0.9)
    assert [share["ci_low"], share["ci_high"]] == pytest.approx([100 * ends.low, 100 * ends.high])
    median = number(beside, "5a", "FitCLIP", "MdR")
    assert median["value"] == (2.5 + 6) / 2
    slow = bootstrap_interval(both, statistic="median", **options)
    assert [median["ci_low"], median["ci_high"]] == [slow.low, slow.high]

    delta = number(beside, "5a", "Delta", "R@5")
    sides = (np.array(TEACHER) <= 5) * 100.0, (both <= 5) * 100.0
    pair = paired_difference(*sides, **options)
    assert delta["value"] == pair.estimate == 0
    assert [delta["ci_low"], delta["ci_high"]] == pytest.approx([pair.low, pair.high])
    assert delta["ci_low"] < 0 < delta["ci_high"]
    for row, metric in (("Delta", "MdR"), ("Error rate reduction (%)", "R@5")):
        one = number(beside, "5a", row, metric)
        assert one[["ci_low", "ci_high"]].isna().all()
        assert one["draws"] == 2
    assert number(beside, "5a", "Delta", "MdR")["value"] == 4.5 - 4.25


def test_rivals_of_table_6_have_the_same_draws(store):
    write(store, key_at(0.4), FUSED)
    write(store, key_at(0.4, seed=3), [1, 6, 6, 6])
    write(store, key_at(0.4, seed=5), [6, 6, 6, 6])
    for seed in (3, 4):
        write(store, key_at(0.4, seed=seed, labelled_share=1), [1, 1, seed, 9])
    beside = beside_paper(store, n_resamples=50)
    assert number(beside, "5a", "FitCLIP", "R@5")["draws"] == 3
    for row, value in (("FitCLIP", 25), ("WiSE-FT", 75)):  # draw 3 alone
        one = number(beside, "6", row, "R@5")
        assert one[["value", "draws", "n"]].tolist() == [value, 1, 4]
    assert number(beside, "6", "CLIP", "R@5")["value"] == 50


def test_wise_ft_and_frozen_in_time_have_their_rows(store):
    alone = beside_paper(store, n_resamples=50)
    write(store, key_at(0.4, labelled_share=1), [1, 1, 1, 1])
    write(store, key_at(1, labelled_share=1), [9, 9, 9, 9])  # the paper has no row for it
    names = ("webvid", "cc3m_webvid", "cc3m_webvid_coco")
    for rank, name in enumerate(names, 1):
        write(store, Cell(model=f"frozen_in_time_{name}", data_set="msrvtt"), [rank] * 3)
        write(store, Cell(model=f"frozen_in_time_{name}", data_set="mit"), [rank] * 3)
    write(store, Cell(model="another", data_set="msrvtt"), [50] * 4)
    write(store, key_at(0, data_set="webvid_val"), [50] * 4)
    write(store, key_at(0.3), [50] * 4)
    beside = beside_paper(store, n_resamples=50)
    assert measured_table("3a", beside)["MdR"].tolist() == [1, 2, 3]
    assert measured_table("3a", beside)["R@1"].tolist() == [100, 0, 0]
    assert measured_table("2a", beside)["top1"].tolist() == [100, 0, 0]
    assert measured_table("2b", beside).isna().all(axis=None)
    assert measured_table("6", beside).loc["WiSE-FT", ("MSR-VTT", "R@5")] == 100
    pd.testing.assert_frame_equal(measured_table("5a", beside), measured_table("5a", alone))
    frozen = number(beside, "3a", "Frozen in Time WebVid", "R@1")
    assert frozen["differs"].startswith("clips")
    assert "interpolation" in frozen["differs"]
    assert "teacher" not in frozen["differs"]


def test_only_the_given_cells_are_taken(store):
    beside = beside_paper(store, [key_at(0)], n_resamples=50)
    assert set(beside.loc[beside["value"].notna(), "model"]) == {"Teacher (CLIP)", "CLIP"}
    nothing = beside_paper(store, [], n_resamples=50)
    assert nothing["value"].isna().all()
    assert list(nothing.columns) == list(beside.columns)
    assert len(protocol_table(store, [])) == 0
    without = beside_paper(store, [key_at(0.4)], n_resamples=50)  # no teacher, so no Delta
    assert set(without.loc[without["value"].notna(), "model"]) == {"FitCLIP"}


def test_what_cannot_be_one_number_is_refused(store):
    with pytest.raises(ValueError, match=r"no fused model at alpha 0\.5; alphas there are: 0\.4"):
        beside_paper(store, alpha=0.5)
    write(store, key_at(0.4, labelled_clips=9000), FUSED)
    with pytest.raises(ValueError, match=r"trained in different ways.*9000"):
        beside_paper(store)
    keys = [key_at(0), key_at(0.4), key_at(1)]
    beside_paper(store, keys, n_resamples=50)
    write(store, key_at(0.4, seed=1), FUSED, first=1)
    with pytest.raises(ValueError, match=r"outcomes of msrvtt, .* 'clip000' has no rank"):
        beside_paper(store, [*keys, key_at(0.4, seed=1)])
    write(store, key_at(0.4), FUSED, first=1)
    with pytest.raises(ValueError, match="teacher and fused model were not measured on the same c"):
        beside_paper(store, keys)


def test_a_data_set_of_another_kind_under_the_papers_name_is_refused(store):
    outcomes = store.outcomes([key_at(0)])[["item", "direction", "rank"]]
    store.write(key_at(0, data_set="mit"), outcomes, {})
    with pytest.raises(ValueError, match=r"teacher on mit was measured in R@1, .*paper's in top1"):
        beside_paper(store)


def test_the_protocol_of_each_measured_number(store):
    protocol = {"data_set": "embedded: msrvtt", "split": "1ka_test"}
    write(store, key_at(0.4), FUSED, protocol=protocol)
    table = protocol_table(store)
    assert list(table.columns) == ["model", "data_set", "item", "paper", "here", "status"]
    places = table[["model", "data_set"]].drop_duplicates().to_numpy().tolist()
    assert sorted(places) == [
        ["fused", "msrvtt"],
        ["student", "msrvtt"],
        ["teacher", "msrvtt"],
        ["teacher", "ucf101"],
    ]
    fused = table[(table["model"] == "fused")].set_index("item")
    assert list(fused.loc["data set", ["paper", "here", "status"]]) == [
        "MSR-VTT",
        "embedded: msrvtt",
        "differs",
    ]
    assert fused.loc["split", "status"] == "same"
    differs = number(beside_paper(store, n_resamples=50), "5a", "FitCLIP", "R@1")["differs"]
    named = differs.split("; not recorded: ")
    for status, names in zip(("differs", "not recorded"), named, strict=True):
        assert ", ".join(fused.index[fused["status"] == status]) == names
