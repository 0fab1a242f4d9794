"""Measured numbers beside the paper's, from stores small enough to count by hand."""

import numpy as np
import pandas as pd
import pytest

from figures.paper import RESULT_TABLES, layout, paper_table, paper_values
from figures.paper_tables import beside_paper, protocol_table
from fitclip_core.statistics import bootstrap_interval, mean_interval, paired_difference
from fitclip_kit.store.results import Cell, ResultsStore

FIXED = "resizing, unreadable videos, padding of short clips, ties, median rank"
TEACHER = [1, 3, 6, 12]
FUSED = [1, 1, 4, 11]


def cell_at(alpha, draw=0, data_set="msrvtt", **changes):
    fields = {"labelled_share": 0.9999, "labelled_clips": 4500} | changes
    return Cell(data_set, alpha=alpha, draw=draw, **fields)


def write(store, cell, ranks, asked=None, protocol=None, first=0):
    """Store ranks (the paper's direction); the other direction's are all 99, which must not show.

    `first` numbers the first item."""
    items = [f"clip{first + place:03d}" for place in range(len(ranks))]
    outcomes = pd.DataFrame({"item": items, "direction": "text_to_video", "rank": ranks})
    if cell.data_set in ("ucf101", "mit"):
        outcomes = outcomes.assign(direction="classification", label="run", predicted="run")
    else:
        outcomes = pd.concat([outcomes, outcomes.assign(direction="video_to_text", rank=99.0)])
    asked = asked or len(ranks)
    outcomes.attrs["coverage"] = {"clips": asked, "measured": len(ranks), "missing": []}
    store.write(cell, outcomes, protocol or {})


@pytest.fixture
def store(tmp_path):
    """MSR-VTT with teacher, student and fusion, UCF101 with the teacher alone."""
    store = ResultsStore(tmp_path)
    write(store, cell_at(0), TEACHER)
    write(store, cell_at(1), [2, 3, 7, 13])
    write(store, cell_at(0.4), FUSED, asked=5)
    write(store, cell_at(0, data_set="ucf101"), [1, 1, 1, 9])
    return store


def table_of(name, beside):
    return layout(beside, name, "value")


def number(beside, table, model, metric, data_set="msrvtt"):
    where = {"table": table, "model": model, "metric": metric, "data_set": data_set}
    (row,) = beside[(beside[list(where)] == pd.Series(where)).all(axis=1)].to_dict("records")
    return row


def test_table_5a_by_hand(store):
    table = table_of("5a", beside_paper(store))
    assert table.index.equals(paper_table("5a").index)
    assert table.columns.equals(paper_table("5a").columns)
    assert list(table.loc["Teacher (CLIP)"]) == [25, 50, 75, 4.5]
    assert list(table.loc["Student"]) == [0, 50, 75, 5]
    assert list(table.loc["FitCLIP"]) == [50, 75, 75, 2.5]
    assert list(table.loc["Delta"]) == [25, 25, 0, 2]
    expected = [100 * 25 / 75, 100 * 25 / 50, 0, 100 * 2 / 4.5]
    np.testing.assert_allclose(table.loc["Error rate reduction (%)"], expected)


def test_what_was_not_measured_is_blank_in_every_table(store):
    beside = beside_paper(store)
    # Table 5a whole, UCF101's teacher in 4b, and CLIP's two and FitCLIP's one in table 6.
    filled = {name: table_of(name, beside).notna().sum().sum() for name in RESULT_TABLES}
    assert {name: n for name, n in filled.items() if n} == {"5a": 20, "4b": 2, "6": 3}
    assert list(table_of("4b", beside).loc["Teacher (CLIP)"]) == [75, 75]
    last = table_of("6", beside)
    assert last.columns.equals(paper_table("6").columns)
    assert last.loc["CLIP", ("MSR-VTT", "R@5")] == 50
    assert last.loc["WiSE-FT"].isna().all()
    blank = beside[beside["value"].isna()]
    counts = ["ci_low", "ci_high", "n", "clips", "draws", "difference"]
    assert blank[counts].isna().all(axis=None) and set(blank["differs"]) == {""}


def test_each_number_stands_beside_the_papers(store):
    beside = beside_paper(store)
    expected = paper_values().rename(columns={"value": "paper"})
    pd.testing.assert_frame_equal(beside[list(expected.columns)], expected)
    assert list(beside.columns) == [
        *("table", "data_set", "model", "metric", "value", "ci_low", "ci_high"),
        *("n", "clips", "draws", "paper", "difference", "differs"),
    ]
    fused = number(beside, "5a", "FitCLIP", "R@1")
    columns = ("value", "paper", "n", "clips", "draws")
    assert [fused[name] for name in columns] == [50, 33.8, 4, 5, 1]
    assert fused["difference"] == pytest.approx(16.2)
    assert number(beside, "5a", "Teacher (CLIP)", "R@1")["clips"] == 4
    assert number(beside, "5a", "Delta", "MdR")["difference"] == 1
    assert beside["differs"].str.contains(FIXED)[beside["value"].notna()].all()
    assert "clips measured" in fused["differs"]
    assert "not recorded: data set, split, captions" in fused["differs"]


def test_one_draws_interval_is_its_cells(store):
    beside = beside_paper(store)
    metrics = store.metrics([cell_at(0.4)])
    metrics = metrics[metrics["direction"] == "text_to_video"].set_index("metric")
    for metric, scale in (("R@1", 100), ("MdR", 1)):
        row = number(beside, "5a", "FitCLIP", metric)
        for end in ("ci_low", "ci_high"):
            assert row[end] == scale * metrics.loc[metric, end]


def test_several_draws_are_averaged_and_resampled(store):
    second = [1, 6, 6, 6]
    write(store, cell_at(0.4), FUSED)
    write(store, cell_at(0.4, 3), second)
    beside = beside_paper(store)
    both = np.array([FUSED, second])
    share = number(beside, "5a", "FitCLIP", "R@5")
    assert (share["value"], share["draws"]) == (50, 2)
    ends = mean_interval((both <= 5) * 1.0, within=(0, 1))
    assert [share["ci_low"], share["ci_high"]] == pytest.approx([100 * ends.low, 100 * ends.high])
    median = number(beside, "5a", "FitCLIP", "MdR")
    assert median["value"] == (2.5 + 6) / 2
    slow = bootstrap_interval(both, statistic="median")
    assert [median["ci_low"], median["ci_high"]] == [slow.low, slow.high]

    delta = number(beside, "5a", "Delta", "R@5")
    pair = paired_difference((np.array(TEACHER) <= 5) * 100.0, (both <= 5) * 100.0)
    assert delta["value"] == pair.estimate == 0
    assert [delta["ci_low"], delta["ci_high"]] == pytest.approx([pair.low, pair.high])
    assert delta["ci_low"] < 0 < delta["ci_high"]
    for name, metric in (("Delta", "MdR"), ("Error rate reduction (%)", "R@5")):
        row = number(beside, "5a", name, metric)
        assert np.isnan([row["ci_low"], row["ci_high"]]).all() and row["draws"] == 2
    assert number(beside, "5a", "Delta", "MdR")["value"] == 4.5 - 4.25


def test_rivals_of_table_6_have_the_same_draws(store):
    write(store, cell_at(0.4), FUSED)
    write(store, cell_at(0.4, 3), [1, 6, 6, 6])
    write(store, cell_at(0.4, 5), [6, 6, 6, 6])
    for draw in (3, 4):
        write(store, cell_at(0.4, draw, labelled_share=1), [1, 1, draw, 9])
    beside = beside_paper(store)
    assert number(beside, "5a", "FitCLIP", "R@5")["draws"] == 3
    for name, value in (("FitCLIP", 25), ("WiSE-FT", 75)):  # draw 3 alone
        row = number(beside, "6", name, "R@5")
        assert (row["value"], row["draws"], row["n"]) == (value, 1, 4)
    assert number(beside, "6", "CLIP", "R@5")["value"] == 50


def test_wise_ft_and_frozen_in_time_have_their_rows(store):
    alone = beside_paper(store)
    write(store, cell_at(0.4, labelled_share=1), [1, 1, 1, 1])
    write(store, cell_at(1, labelled_share=1), [9, 9, 9, 9])  # the paper has no row for it
    for rank, name in enumerate(("webvid", "cc3m_webvid", "cc3m_webvid_coco"), 1):
        for data_set in ("msrvtt", "mit"):
            write(store, Cell(data_set, model=f"frozen_in_time_{name}"), [rank] * 3)
    write(store, Cell("msrvtt", model="another"), [50] * 4)
    write(store, cell_at(0, data_set="webvid_val"), [50] * 4)
    write(store, cell_at(0.3), [50] * 4)
    write(store, cell_at(0.4, merge="fisher"), [50] * 4)
    write(store, cell_at(0.4, text_alpha=0.4), [50] * 4)
    beside = beside_paper(store)
    assert table_of("3a", beside)["MdR"].tolist() == [1, 2, 3]
    assert table_of("3a", beside)["R@1"].tolist() == [100, 0, 0]
    assert table_of("2a", beside)["top1"].tolist() == [100, 0, 0]
    assert table_of("2b", beside).isna().all(axis=None)
    assert table_of("6", beside).loc["WiSE-FT", ("MSR-VTT", "R@5")] == 100
    pd.testing.assert_frame_equal(table_of("5a", beside), table_of("5a", alone))
    frozen = number(beside, "3a", "Frozen in Time WebVid", "R@1")["differs"]
    assert frozen.startswith("clips")
    assert "interpolation" in frozen and "teacher" not in frozen


def test_only_the_given_cells_are_taken(store):
    beside = beside_paper(store, [cell_at(0)])
    assert set(beside.loc[beside["value"].notna(), "model"]) == {"Teacher (CLIP)", "CLIP"}
    nothing = beside_paper(store, [])
    assert nothing["value"].isna().all()
    assert list(nothing.columns) == list(beside.columns)
    assert len(protocol_table(store, [])) == 0
    without = beside_paper(store, [cell_at(0.4)])  # no teacher, so no Delta
    assert set(without.loc[without["value"].notna(), "model"]) == {"FitCLIP"}


def test_what_cannot_be_one_number_is_refused(store):
    with pytest.raises(ValueError, match=r"no fused model at alpha 0\.5; alphas there are: 0\.4"):
        beside_paper(store, alpha=0.5)
    write(store, cell_at(0.4, labelled_clips=9000), FUSED)
    with pytest.raises(ValueError, match=r"trained in different ways.*9000"):
        beside_paper(store)
    cells = [cell_at(0), cell_at(0.4), cell_at(1)]
    beside_paper(store, cells)
    write(store, cell_at(0.4, 1), FUSED, first=1)
    with pytest.raises(ValueError, match=r"not cover the same items: 'clip00\d' has no rank"):
        beside_paper(store, [*cells, cell_at(0.4, 1)])
    write(store, cell_at(0.4), FUSED, first=1)
    with pytest.raises(ValueError, match="teacher and fused model were not measured on the same c"):
        beside_paper(store, cells)


def test_a_data_set_of_another_kind_under_the_papers_name_is_refused(store):
    outcomes = store.outcomes([cell_at(0)])[["item", "direction", "rank"]]
    store.write(cell_at(0, data_set="mit"), outcomes, {})
    with pytest.raises(ValueError, match=r"teacher on mit was measured in R@1, .*paper's in top1"):
        beside_paper(store)


def test_the_protocol_of_each_measured_number(store):
    protocol = {"data_set": "embedded: msrvtt", "split": "1ka_test"}
    write(store, cell_at(0.4), FUSED, protocol=protocol)
    table = protocol_table(store)
    assert list(table.columns) == ["model", "data_set", "item", "paper", "here", "status"]
    assert table.index.is_unique
    places = set(table[["model", "data_set"]].itertuples(index=False, name=None))
    msrvtt = {(model, "msrvtt") for model in ("fused", "student", "teacher")}
    assert places == msrvtt | {("teacher", "ucf101")}
    fused = table[(table["model"] == "fused")].set_index("item")
    sides = ["MSR-VTT", "embedded: msrvtt", "differs"]
    assert list(fused.loc["data set", ["paper", "here", "status"]]) == sides
    assert fused.loc["split", "status"] == "same"
    differs = number(beside_paper(store), "5a", "FitCLIP", "R@1")["differs"]
    named = differs.split("; not recorded: ")
    for status, names in zip(("differs", "not recorded"), named, strict=True):
        assert ", ".join(fused.index[fused["status"] == status]) == names
