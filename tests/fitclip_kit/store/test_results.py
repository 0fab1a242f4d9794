import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fitclip_core.statistics import bootstrap_interval
from fitclip_kit.store import results
from fitclip_kit.store.results import (
    Cell,
    ResultsStore,
    coverage_note,
    metric_table,
)

PROTOCOL = {"captions": "first", "frames": {"n": 4, "size": 224}, "templates": ["a video of {}"]}


def key_at(alpha, draw=0, data_set="msrvtt", **changes):
    fields = {"labelled_share": 0.9999, "labelled_clips": 2500} | changes
    return Cell(data_set, alpha=alpha, draw=draw, **fields)


def retrieval(ranks, prefix="clip"):
    tables = [
        pd.DataFrame(
            {
                "item": [f"{prefix}{place}" for place in range(len(ranks))],
                "direction": direction,
                "rank": np.asarray(ranks, float),
            }
        )
        for direction in ("text_to_video", "video_to_text")
    ]
    return pd.concat(tables, ignore_index=True)


def classification(ranks):
    return pd.DataFrame(
        {
            "item": [f"clip{place}" for place in range(len(ranks))],
            "direction": "classification",
            "rank": np.asarray(ranks, float),
            "label": "run",
            "predicted": ["run" if rank == 1 else "jump" for rank in ranks],
        }
    )


def labelled(key, outcomes):
    return results.typed(outcomes.assign(**vars(key)))


def cell_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "cells").iterdir()}


# cells


def test_the_model_follows_from_alpha_and_the_teacher_is_shared():
    teachers = [key_at(0, draw=2), key_at(0, draw=1, labelled_share=1), Cell("msrvtt")]
    assert len({*teachers, key_at(0, sampling="nested", labelled_clips=9)}) == 1
    assert (teachers[0].model, teachers[0].draw, teachers[0].labelled_share) == (
        *("teacher", None, None),
    )
    assert (key_at(0.4).model, key_at(1).model, key_at(1 - 1e-12).model) == (
        *("fused", "student", "student"),
    )
    assert key_at(0, text_alpha=0).model == key_at(1, text_alpha=1).model == "fused"
    assert key_at(0, text_alpha=0).draw == 0
    reference = Cell("mit", "frozen_in_time_webvid")
    assert reference.is_reference and reference.is_plain and not key_at(0.4).is_reference


def test_cells_that_differ_by_rounding_are_one_and_others_are_apart():
    assert key_at(0.1 * 3) == key_at(0.3) and key_at(0.1 * 3).digest == key_at(0.3).digest
    assert key_at(np.float64(0.3), draw=np.int64(0)).digest == key_at(0.3).digest
    changes = [{}, {"merge": "fisher"}, {"text_alpha": 0.3}, {"renormalise": True}, {"draw": 1}]
    changes += [{"sampling": "nested"}, {"labelled_clips": 3}, {"labelled_share": 1}]
    cells = [key_at(0.3, **change) for change in changes]
    assert len({cell.digest for cell in cells}) == len(cells)
    assert [cell.is_plain for cell in cells[:5]] == [True, False, False, False, True]
    table = pd.DataFrame([vars(cell) for cell in [*cells, Cell("mit"), Cell("mit", "frozen")]])
    assert results.cells_of(pd.concat([table, results.typed(table)])) == [
        *(*cells, Cell("mit"), Cell("mit", "frozen")),
    ]


@pytest.mark.parametrize(
    ("alpha", "fields", "message"),
    [
        (0.4, {"data_set": ""}, "data_set is empty"),
        (math.nan, {}, "alpha is nan"),
        (0.4, {"text_alpha": -0.1}, "text_alpha is -0.1"),
        (0.4, {"labelled_share": 1.5}, "labelled_share is 1.5"),
        (0.4, {"labelled_clips": 5.5}, "labelled_clips is 5.5"),
        (0.4, {"draw": -1}, "draw is -1"),
        (0.4, {"draw": None}, "alpha 0.4 needs its student's draw"),
        (0.4, {"labelled_clips": None}, "needs its student's labelled_clips"),
        (0.4, {"labelled_share": None}, "needs its student's labelled_share"),
        (0.4, {"sampling": "some"}, "sampling is 'some'; use one of"),
        (0.4, {"merge": "Fisher"}, "'Fisher' is no name"),
        (0.0, {"model": "frozen\n", "draw": None}, "'frozen.n' is no name"),
        (0.0, {"merge": "fisher"}, "needs one alpha, above 0"),
        (0.4, {"merge": "fisher", "text_alpha": 0.2}, "needs one alpha, above 0"),
        (0.4, {"model": "fussed"}, "fussed is none of .* reference, without alpha or draw"),
        (0.0, {"model": "frozen"}, "reference, without alpha or draw"),
        (0.5, {"model": "student"}, "the model is the fused, not student"),
    ],
)
def test_a_cell_that_makes_no_sense_is_refused(alpha, fields, message):
    with pytest.raises(ValueError, match=message):
        key_at(alpha, **fields)


# the store


def test_outcomes_come_back_sorted_with_their_keys(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(1, data_set="ucf101"), classification([1, 3.5]), PROTOCOL)
    store.write(key_at(0.4, draw=1), retrieval([2.5, 1]), PROTOCOL)
    store.write(key_at(0.4, draw=0), retrieval([7, 1]).sample(frac=1, random_state=0), PROTOCOL)
    store.write(key_at(0), retrieval([1, 4]), PROTOCOL)

    frame = store.outcomes()

    assert list(frame.columns) == [*results.COORDINATES, *results.OUTCOME_COLUMNS]
    order = ["data_set", "alpha", "draw", "direction", "item"]
    plain = frame.astype(dict.fromkeys(["data_set", "direction", "item"], "str"))
    pd.testing.assert_frame_equal(plain, plain.sort_values(order, ignore_index=True))
    chosen = frame[(frame["alpha"] == 0.4) & (frame["direction"] == "text_to_video")]
    assert chosen["rank"].tolist() == [7, 1, 2.5, 1]
    assert chosen["draw"].tolist() == [0, 0, 1, 1]
    assert chosen["label"].isna().all()
    classified = frame[frame["data_set"] == "ucf101"]
    assert classified["predicted"].tolist() == ["run", "jump"]
    assert classified["model"].tolist() == ["student"] * 2
    assert frame.loc[frame["model"] == "teacher", "draw"].isna().all()
    assert list(frame["item"].cat.categories) == ["clip0", "clip1"]


@settings(max_examples=25, deadline=None)
@example([2**24 + 1, 2])  # 2^23 + 1/2 is not a float32
@given(st.lists(st.integers(2, 2**25), min_size=1, max_size=20))
def test_every_mid_rank_comes_back_exactly(tmp_path_factory, doubled):
    store = ResultsStore(tmp_path_factory.mktemp("store"))
    ranks = np.array(doubled) / 2
    store.write(key_at(0.4), retrieval(ranks), PROTOCOL)
    frame = store.outcomes()
    found = frame[frame["direction"] == "text_to_video"].set_index("item")["rank"]
    assert [found[f"clip{place}"] for place in range(len(ranks))] == ranks.tolist()


def test_the_same_outcomes_give_the_same_bytes(tmp_path):
    one, other = ResultsStore(tmp_path / "one"), ResultsStore(tmp_path / "other")
    outcomes = retrieval([1, 2, 3.5, 3.5])
    one.write(key_at(0), retrieval([4, 3, 2, 1]), PROTOCOL)
    one.write(key_at(0.4), outcomes, PROTOCOL)
    shuffled = outcomes.sample(frac=1, random_state=1).astype({"item": "category"})
    other.write(key_at(0.4), shuffled, dict(reversed(PROTOCOL.items())))
    other.write(key_at(0), retrieval([4, 3, 2, 1]), PROTOCOL)
    assert cell_files(one.folder) == cell_files(other.folder)
    assert one.digest() == other.digest()
    other.write(key_at(0), retrieval([4, 3, 1, 2]), PROTOCOL)
    assert one.digest() != other.digest()
    assert one.digest([key_at(0.4)]) == other.digest([key_at(0.4)])


def test_a_cell_is_valid_under_its_own_protocol_only(tmp_path):
    store = ResultsStore(tmp_path)
    key = key_at(0.4)
    assert store.problems(key, PROTOCOL) == [
        "msrvtt (model fused, merge average, alpha 0.4, draw 0, sampling main, "
        "labelled_clips 2500, labelled_share 0.9999) has not been evaluated"
    ]
    store.write(key, retrieval([1, 2]), PROTOCOL)
    assert store.is_valid(key, PROTOCOL)
    assert store.is_valid(key, PROTOCOL | {"templates": ("a video of {}",)})  # JSON has no tuples
    assert not store.is_valid(key_at(0.5), PROTOCOL)
    changed = PROTOCOL | {"captions": "all"}
    assert not store.is_valid(key, changed)
    assert store.problems(key, changed) == ["protocol: captions was 'first', now 'all'"]
    assert not store.is_valid(key, {})


def test_a_rewritten_cell_is_the_new_one(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)
    store.write(key_at(0.4), retrieval([5, 2]), {"captions": "all"})
    assert store.cells() == [key_at(0.4)]
    assert store.outcomes()["rank"].max() == 5
    assert store.is_valid(key_at(0.4), {"captions": "all"})


def test_an_interrupted_write_leaves_no_cell(tmp_path, monkeypatch):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)

    def interrupted(path, obj):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(results, "write_json", interrupted)
        store.write(key_at(0.4), retrieval([9, 9]), PROTOCOL)
    assert store.cells() == []
    assert not store.is_valid(key_at(0.4), PROTOCOL)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_cell_is_never_read(tmp_path, damage):
    store = ResultsStore(tmp_path)
    store.write(key_at(0), retrieval([1, 2]), PROTOCOL)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)
    path = tmp_path / "cells" / f"{key_at(0.4).digest}.parquet"
    if damage == "change":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    assert not store.is_valid(key_at(0.4), PROTOCOL)
    for read in (store.outcomes, store.metrics, store.digest):
        with pytest.raises(ValueError, match=r"1 cells .* missing or was changed"):
            read()
    assert len(store.outcomes([key_at(0)])) == 4


def test_an_unreadable_record_is_named(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0), retrieval([1, 2]), PROTOCOL)
    path = tmp_path / "cells" / f"{key_at(0).digest}.json"
    path.write_text("{")
    assert "cannot be read" in store.problems(key_at(0), PROTOCOL)[0]
    with pytest.raises(ValueError, match=path.name):
        store.cells()


def test_a_record_under_another_cells_name_is_not_that_cell(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)
    for path in list((tmp_path / "cells").iterdir()):
        path.rename(path.with_name(key_at(0.5).digest + path.suffix))
    assert "is not the record of" in store.problems(key_at(0.5), PROTOCOL)[0]


def test_cells_that_are_asked_for_must_be_there(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0), retrieval([1, 2]), PROTOCOL)
    store.write(key_at(0.2), retrieval([1, 2]), PROTOCOL)  # of an earlier sweep
    assert set(store.outcomes([key_at(0)])["alpha"]) == {0}
    with pytest.raises(ValueError, match=r"msrvtt .*alpha 0\.4, draw 0.* has not been evaluated"):
        store.outcomes([key_at(0), key_at(0.4)])


def test_an_empty_store_has_the_columns_and_no_rows(tmp_path):
    frame = ResultsStore(tmp_path).outcomes()
    assert list(frame.columns) == [*results.COORDINATES, *results.OUTCOME_COLUMNS]
    assert frame.empty
    assert metric_table(frame).empty


def test_the_coverage_is_kept_in_the_record(tmp_path):
    store = ResultsStore(tmp_path)
    outcomes = retrieval([1, 2])
    outcomes.attrs["coverage"] = {"clips": 3, "measured": 2, "missing": ["clip2"]}
    store.write(key_at(0.4), outcomes, PROTOCOL)
    record = store.record(key_at(0.4))
    assert record["coverage"]["missing"] == ["clip2"]
    assert record["protocol"] == PROTOCOL
    assert record["rows"] == 4


def test_a_protocol_that_json_cannot_hold_costs_nothing(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)
    with pytest.raises(ValueError, match="NaN"):
        store.write(key_at(0.4), retrieval([3, 4]), {"deadline": math.nan})
    assert store.is_valid(key_at(0.4), PROTOCOL)


def with_value(frame, column, value):
    return frame.assign(**{column: [value, *frame[column].iloc[1:]]})


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (retrieval([1]).drop(columns="rank"), r"no column \['rank'\]"),
        (retrieval([1]).iloc[:0], "no rows"),
        (retrieval([1, math.nan]), "'clip1' has rank nan"),
        (retrieval([1, math.inf]), "'clip1' has rank inf"),
        (retrieval([0, 1]), "'clip0' has rank 0"),
        (retrieval([1.25, 1]), r"'clip0' has rank 1\.25"),
        (pd.concat([retrieval([1])] * 2, ignore_index=True), "'clip0' occurs twice"),
        (with_value(retrieval([1]), "direction", "sideways"), r"unknown direction \['sideways'\]"),
        (with_value(retrieval([1]), "item", None), "no name"),
        (with_value(classification([1, 2]), "predicted", None), "'clip0' has no label or pred"),
    ],
)
def test_outcomes_that_are_wrong_are_refused(tmp_path, outcomes, message):
    store = ResultsStore(tmp_path)
    with pytest.raises(ValueError, match=message):
        store.write(key_at(0.4), outcomes, PROTOCOL)
    assert store.cells() == []


def test_references_and_merges_stand_beside_the_sweep_and_stay_apart_from_it(tmp_path):
    store = ResultsStore(tmp_path)
    cells = {
        Cell("msrvtt", "zebra"): 9,
        key_at(1): 3,
        key_at(0.4, merge="fisher"): 4,
        key_at(0.4, renormalise=True): 8,
        key_at(0, text_alpha=0.5): 6,
        key_at(0): 5,
    }
    for cell, rank in cells.items():
        store.write(cell, retrieval([rank, rank]), PROTOCOL)
    assert set(store.cells()) == set(cells) and len(store.cells()) == 6
    metrics = store.metrics().query("metric == 'MdR' and direction == 'text_to_video'")
    found = dict(zip(results.cells_of(metrics), metrics["value"], strict=True))
    assert found == cells


# metrics


def covered(ranks, asked, of=retrieval):
    outcomes = of(ranks)
    missing = [f"lost{place}" for place in range(asked - len(ranks))]
    outcomes.attrs["coverage"] = {"clips": asked, "measured": len(ranks), "missing": missing}
    return outcomes


def test_metrics_say_how_many_clips_were_asked_for(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0), covered([1, 2], 1500), PROTOCOL)
    store.write(key_at(0.4), covered([1, 2], 1500), PROTOCOL)
    store.write(key_at(0, data_set="mit"), covered([1, 2, 3], 3, classification), PROTOCOL)
    store.write(key_at(0, data_set="old"), retrieval([1, 2, 3, 4]), PROTOCOL)  # no coverage
    table = store.metrics(n_resamples=10)
    assert list(table.columns).index("clips") == list(table.columns).index("n") + 1
    found = table.groupby("data_set")[["n", "clips"]].agg(set).to_dict("index")
    assert found == {
        "msrvtt": {"n": {2}, "clips": {1500}},
        "mit": {"n": {3}, "clips": {3}},
        "old": {"n": {4}, "clips": {4}},
    }
    assert coverage_note(table) == (
        "msrvtt: 2 of 1,500 clips measured; the others could move its shares by -100.0 to +49.9 "
        "points"
    )
    assert coverage_note(table[table["data_set"] != "msrvtt"]) == "all clips measured"
    assert store.metrics([]).columns.equals(table.columns)


@pytest.mark.parametrize("of", [retrieval, classification])
@pytest.mark.parametrize("asked", [3, 4, 5])
def test_how_far_the_clips_that_were_not_measured_could_move_a_metric(tmp_path, of, asked):
    """Every outcome that they could have had, and in retrieval every way to come before others."""
    ranks, missing = [1, 2.5, 5], asked - 3
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), covered(ranks, asked, of), PROTOCOL)
    table = store.metrics(n_resamples=10)
    before = range(missing + 1) if of is retrieval else [0]
    worst = asked if of is retrieval else 30  # of 30 classes
    all_ranks = [
        [rank + more for rank, more in zip(ranks, mores, strict=True)] + list(others)
        for mores in itertools.product(before, repeat=3)
        for others in itertools.product(range(1, worst + 1), repeat=missing)
    ]
    for metric, least, most in zip(table["metric"], table["least"], table["most"], strict=True):
        values = [float(np.median(one)) for one in all_ranks]
        if metric != "MdR":
            k = int(metric.removeprefix("R@").removeprefix("top"))
            values = [float(np.mean(np.array(one) <= k)) for one in all_ranks]
        assert (least, most) == pytest.approx((min(values), max(values)), abs=1e-12)
    assert table["least"].equals(table["most"]) == (asked == 3)


def test_where_videos_have_several_texts_each_direction_has_its_own_items(tmp_path):
    """5 texts of 3 videos were asked for, 3 of 2 measured; every outcome that they could have."""
    to_video, to_text = [1.0, 2.0, 1.5], [1.0, 2.0]
    outcomes = pd.concat(
        [
            pd.DataFrame({"item": list("abc"), "direction": "text_to_video", "rank": to_video}),
            pd.DataFrame({"item": list("ab"), "direction": "video_to_text", "rank": to_text}),
        ]
    )
    coverage = {"clips": 5, "measured": 3, "missing": list("de")}
    outcomes.attrs["coverage"] = coverage | {"videos": 3, "videos_measured": 2}
    store = ResultsStore(tmp_path)
    store.write(key_at(0), outcomes, PROTOCOL)
    table = store.metrics(n_resamples=10)
    assert store.record(key_at(0))["coverage"]["videos"] == 3
    found = table.groupby("direction")[["n", "clips"]].agg(set).to_dict("index")
    assert found == {
        "text_to_video": {"n": {3}, "clips": {5}},
        "video_to_text": {"n": {2}, "clips": {3}},
    }
    sizes: dict[str, tuple[list[float], int, int, int]] = {
        "text_to_video": (to_video, 1, 2, 3),
        "video_to_text": (to_text, 2, 1, 5),
    }
    for row in table.to_dict("records"):
        ranks, before, missing, targets = sizes[row["direction"]]
        possible = [
            [rank + more for rank, more in zip(ranks, mores, strict=True)] + list(others)
            for mores in itertools.product(range(before + 1), repeat=len(ranks))
            for others in itertools.product(range(1, targets + 1), repeat=missing)
        ]
        if row["metric"] == "MdR":
            values = [float(np.median(one)) for one in possible]
        else:
            k = int(row["metric"].removeprefix("R@"))
            values = [float(np.mean(np.array(one) <= k)) for one in possible]
        assert (row["least"], row["most"]) == pytest.approx((min(values), max(values)), abs=1e-12)
    texts, videos, both = coverage_note(table).split("\n")
    assert texts.startswith("msrvtt: 3 of 5 texts measured; the others could move its shares by -")
    assert videos.startswith("msrvtt: 2 of 3 videos measured; ")
    assert both.startswith("msrvtt: 5 texts of 3 videos; the intervals take texts of one video for")


def test_outcomes_alone_do_not_say_how_many_clips_were_asked_for():
    table = metric_table(labelled(key_at(0.4), retrieval([3] * 1200)), n_resamples=10)
    assert table["clips"].isna().all()
    assert coverage_note(table) == "msrvtt: 1,200 clips measured, of an unknown number"
    with pytest.raises(ValueError, match="nothing was measured"):
        coverage_note(table.iloc[:0])
    with pytest.raises(ValueError, match=r"no column \['clips'\]"):
        coverage_note(table.drop(columns="clips"))


def test_another_annotation_is_said_beside_the_numbers(tmp_path):
    store = ResultsStore(tmp_path)
    said = "20 rows in val; officially there are about 5,000"
    for name, size in {"webvid_val": said, "didemo": "official", "own": None}.items():
        protocol = PROTOCOL | ({} if size is None else {"annotation_size": size})
        store.write(key_at(0.4, data_set=name), covered([1, 2, 3], 3), protocol)
    table = store.metrics(n_resamples=10)
    note = f"webvid_val: the annotation has {said}"
    assert coverage_note(table) == f"all clips measured\n{note}"
    assert coverage_note(table[table["data_set"] != "webvid_val"]) == "all clips measured"
    store.write(
        key_at(0.4, data_set="webvid_val"),
        covered([1, 2, 3], 4),
        protocol | {"annotation_size": said},
    )
    assert coverage_note(store.metrics(n_resamples=10)).splitlines()[1] == note


def test_metrics_by_hand(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 1.5, 5, 5.5, 10, 30]), PROTOCOL)
    store.write(key_at(0.4, data_set="mit"), classification([1, 1, 2, 6]), PROTOCOL)
    table = store.metrics(n_resamples=50)
    assert len(table) == 2 * 4 + 2
    found = table.set_index(["data_set", "direction", "metric"])["value"]
    for direction in ("text_to_video", "video_to_text"):
        assert found["msrvtt", direction, "R@1"] == pytest.approx(1 / 6)
        assert found["msrvtt", direction, "R@5"] == pytest.approx(3 / 6)
        assert found["msrvtt", direction, "R@10"] == pytest.approx(5 / 6)
        assert found["msrvtt", direction, "MdR"] == 5.25
    assert found["mit", "classification", "top1"] == 0.5
    assert found["mit", "classification", "top5"] == 0.75
    assert (table["ci_low"] <= table["value"]).all()
    assert (table["value"] <= table["ci_high"]).all()
    assert dict(table.groupby("data_set", observed=True)["n"].first()) == {"mit": 4, "msrvtt": 6}


@pytest.mark.parametrize("n", [2, 3, 40, 41])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_are_those_of_the_resampling_bootstrap(n, level):
    ranks = np.random.default_rng(n).integers(2, 60, n) / 2
    outcomes = labelled(key_at(0.4), retrieval(ranks))
    table = metric_table(outcomes, level=level, n_resamples=10_000)
    table = table[table["direction"] == "text_to_video"].set_index("metric")
    for metric, k in (("R@5", 5), ("R@10", 10), ("MdR", None)):
        values = ranks if k is None else (ranks <= k) * 1.0
        slow = bootstrap_interval(
            values,
            statistic="median" if k is None else "mean",
            level=level,
            n_resamples=10_000,
        )
        # One step of the discrete distribution may fall on either side of the tail.
        step = max(np.diff(np.sort(ranks))) if k is None else 1 / n
        assert table.loc[metric, "ci_low"] == pytest.approx(slow.low, abs=step + 1e-9)
        assert table.loc[metric, "ci_high"] == pytest.approx(slow.high, abs=step + 1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_medians_interval_is_that_of_all_resamples(n):
    ranks = np.array([1, 2.5, 6, 11, 30])[:n]
    resamples = list(itertools.product(ranks, repeat=n))
    every = np.median(resamples, axis=1)
    for level in (0.97, 0.7, 0.4):
        table = metric_table(
            labelled(key_at(0.4), retrieval(ranks)), level=level, n_resamples=20_000
        )
        found = table[table["metric"] == "MdR"].iloc[0]
        tails = [(1 - level) / 2, (1 + level) / 2]
        ends = np.quantile(every, tails, method="inverted_cdf")
        assert [found["ci_low"], found["ci_high"]] == ends.tolist()


@pytest.mark.parametrize("n", [1000, 1001])
def test_intervals_of_a_large_set_agree_closely(n):
    ranks = np.maximum(1, np.round(np.random.default_rng(n).lognormal(1.7, 1.5, n) * 2) / 2)
    table = metric_table(labelled(key_at(0.4), retrieval(ranks)), n_resamples=4000)
    table = table[table["direction"] == "text_to_video"].set_index("metric")
    hits = bootstrap_interval((ranks <= 5) * 1.0, n_resamples=4000)
    median = bootstrap_interval(ranks, statistic="median", n_resamples=4000)
    ends = dict(zip(table.index, table[["ci_low", "ci_high"]].to_numpy(), strict=True))
    assert ends["R@5"] == pytest.approx(np.array([hits.low, hits.high]), abs=0.002)
    assert ends["MdR"] == pytest.approx(np.array([median.low, median.high]), abs=0.5)


def test_one_item_has_no_interval_and_equal_items_have_no_width():
    table = metric_table(labelled(key_at(0.4), retrieval([3])))
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)
    table = metric_table(labelled(key_at(0.4), retrieval([3] * 9)))
    pd.testing.assert_series_equal(table["ci_low"], table["value"], check_names=False)
    pd.testing.assert_series_equal(table["ci_high"], table["value"], check_names=False)


def test_metrics_of_cells_are_apart():
    frames = [
        labelled(key_at(alpha, seed), retrieval([rank] * 3))
        for alpha, seed, rank in ((0, 0, 1), (0.4, 0, 2), (0.4, 1, 7))
    ]
    table = metric_table(pd.concat(frames), n_resamples=10)
    found = table[table["metric"] == "MdR"].groupby(["alpha", "draw"])["value"].unique()
    assert {place: list(value) for place, value in found.items()} == {
        (0.4, 0): [2],
        (0.4, 1): [7],
    }
