import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fitclip_kit.store import results
from fitclip_kit.store.results import Cell, ResultsStore, coverage_note, metric_table

PROTOCOL = {"captions": "first", "frames": {"n": 4, "size": 224}, "templates": ["a video of {}"]}


def key_at(alpha, draw=0, data_set="msrvtt", **changes):
    fields = {"labelled_share": 0.9999, "labelled_clips": 2500} | changes
    return Cell(data_set, alpha=alpha, draw=draw, **fields)


def retrieval(ranks):
    items = [f"clip{place}" for place in range(len(ranks))]
    table = pd.DataFrame({"item": items, "rank": np.asarray(ranks, float)})
    both = [table.assign(direction=one) for one in ("text_to_video", "video_to_text")]
    return pd.concat(both, ignore_index=True)


def classification(ranks):
    table = retrieval(ranks).head(len(ranks)).assign(direction="classification", label="run")
    return table.assign(predicted=["run" if rank == 1 else "jump" for rank in ranks])


def covered(outcomes, asked, **more):
    outcomes.attrs["coverage"] = {"clips": asked, "measured": outcomes["item"].nunique(), **more}
    return outcomes


def table_of(of, ranks):
    """The metrics of one fused cell, by metric, of one direction."""
    outcomes = of(ranks)
    outcomes = outcomes[outcomes["direction"] == outcomes["direction"].iloc[0]]
    return metric_table(results.typed(outcomes.assign(**vars(key_at(0.4))))).set_index("metric")


# cells


def test_the_model_follows_from_alpha_and_the_teacher_is_shared():
    teachers = [key_at(0, draw=2), key_at(0, draw=1, labelled_share=1), Cell("msrvtt")]
    assert len({*teachers, key_at(0, sampling="nested", labelled_clips=9)}) == 1
    teacher = teachers[0]
    assert (teacher.model, teacher.draw, teacher.labelled_share) == ("teacher", None, None)
    models = [key_at(alpha).model for alpha in (0.4, 1, 1 - 1e-12)]
    assert models == ["fused", "student", "student"]
    assert key_at(0, text_alpha=0).model == key_at(1, text_alpha=1).model == "fused"
    assert key_at(0, text_alpha=0).draw == 0
    reference = Cell("mit", "frozen_in_time_webvid")
    assert reference.is_reference and reference.is_plain and not key_at(0.4).is_reference


def test_cells_that_differ_by_rounding_are_one_and_others_are_apart():
    assert key_at(0.1 * 3) == key_at(0.3) and key_at(0.1 * 3).digest == key_at(0.3).digest
    assert key_at(np.float64(0.3), draw=np.int64(0)).digest == key_at(0.3).digest
    changes: list[dict[str, Any]] = [{}, {"merge": "fisher"}, {"text_alpha": 0.3}, {"draw": 1}]
    changes += [{"renormalise": True}, {"sampling": "nested"}, {"labelled_clips": 3}]
    cells = [key_at(0.3, **change) for change in [*changes, {"labelled_share": 1}]]
    assert len({cell.digest for cell in cells}) == len(cells)
    assert [cell.is_plain for cell in cells[:5]] == [True, False, False, True, False]
    cells += [Cell("mit"), Cell("mit", "frozen")]
    table = pd.DataFrame([vars(cell) for cell in cells])
    assert results.cells_of(pd.concat([table, results.typed(table)])) == cells


@pytest.mark.parametrize(
    ("alpha", "fields", "message"),
    [
        (0.4, {"data_set": ""}, "at least 1 character"),
        (math.nan, {}, "alpha"),
        (0.4, {"text_alpha": -0.1}, "text_alpha"),
        (0.4, {"labelled_share": 1.5}, "labelled_share"),
        (0.4, {"labelled_clips": 5.5}, "labelled_clips"),
        (0.4, {"draw": -1}, "draw"),
        (0.4, {"draw": None}, "alpha 0.4 needs all of its student: .*'draw': None"),
        (0.4, {"labelled_clips": None}, "'labelled_clips': None"),
        (0.4, {"labelled_share": None}, "'labelled_share': None"),
        (0.4, {"sampling": "some"}, "sampling"),
        (0.4, {"merge": "Fisher"}, "merge"),
        (0.4, {"model": "frozen\n"}, "model"),
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


def test_outcomes_come_back_sorted_with_their_cells(tmp_path):
    store = ResultsStore(tmp_path)
    assert store.outcomes().empty and metric_table(store.outcomes()).empty
    store.write(key_at(1, data_set="ucf101"), classification([1, 3.5]), PROTOCOL)
    store.write(key_at(0.4, draw=1), retrieval([2**23 + 0.5, 1]), PROTOCOL)
    store.write(key_at(0.4, draw=0), retrieval([7, 1]).sample(frac=1, random_state=0), PROTOCOL)
    store.write(key_at(0), retrieval([1, 4]), PROTOCOL)
    frame = store.outcomes()
    columns = [*results.COORDINATES, *results.OUTCOME_COLUMNS]
    assert list(frame.columns) == list(store.outcomes([]).columns) == columns
    order = ["data_set", "alpha", "draw", "direction", "item"]
    plain = frame.astype(dict.fromkeys(["data_set", "direction", "item"], "str"))
    pd.testing.assert_frame_equal(plain, plain.sort_values(order, ignore_index=True))
    chosen = frame[(frame["alpha"] == 0.4) & (frame["direction"] == "text_to_video")]
    assert chosen["rank"].tolist() == [7, 1, 2**23 + 0.5, 1]  # the third is no float32
    assert chosen["draw"].tolist() == [0, 0, 1, 1]
    assert chosen["label"].isna().all()
    classified = frame[frame["data_set"] == "ucf101"]
    assert classified["predicted"].tolist() == ["run", "jump"]
    assert classified["model"].tolist() == ["student"] * 2
    assert frame.loc[frame["model"] == "teacher", ["draw", "sampling"]].isna().all(axis=None)
    assert list(frame["item"].cat.categories) == ["clip0", "clip1"]
    assert results.cells_of(frame) == store.cells()


def test_the_same_outcomes_give_the_same_bytes(tmp_path):
    one, other = ResultsStore(tmp_path / "one"), ResultsStore(tmp_path / "other")
    outcomes = retrieval([1, 2, 3.5, 3.5])
    one.write(key_at(0), retrieval([4, 3, 2, 1]), PROTOCOL)
    one.write(key_at(0.4), outcomes, PROTOCOL)
    shuffled = outcomes.sample(frac=1, random_state=1).astype({"item": "category"})
    other.write(key_at(0.4), shuffled, dict(reversed(PROTOCOL.items())))
    other.write(key_at(0), retrieval([4, 3, 2, 1]), PROTOCOL)
    files = [sorted((folder / "cells").iterdir()) for folder in (one.folder, other.folder)]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert one.digest() == other.digest()
    other.write(key_at(0), retrieval([4, 3, 1, 2]), PROTOCOL)
    assert one.digest() != other.digest()
    assert one.digest([key_at(0.4)]) == other.digest([key_at(0.4)])


def test_a_cell_is_valid_under_its_own_protocol_only(tmp_path):
    store, cell = ResultsStore(tmp_path), key_at(0.4)
    (said,) = store.problems(cell, PROTOCOL)
    assert said == f"{cell} has not been evaluated"
    assert str(cell).startswith("msrvtt (model fused, merge average, alpha 0.4, ")
    store.write(cell, covered(retrieval([1, 2]), 3), PROTOCOL)
    record = store.record(cell)
    assert (record["protocol"], record["rows"]) == (PROTOCOL, 4)
    assert record["coverage"] == {"clips": 3, "measured": 2}
    assert store.is_valid(cell, PROTOCOL) and not store.is_valid(key_at(0.5), PROTOCOL)
    assert store.is_valid(cell, PROTOCOL | {"templates": ("a video of {}",)})  # JSON has no tuples
    changed = PROTOCOL | {"captions": "all"}
    assert store.problems(cell, changed) == ["protocol: captions is 'first', expected 'all'"]
    assert len(store.problems(cell, {})) == 3
    store.write(cell, retrieval([5, 2]), changed)
    assert store.cells() == [cell] and store.is_valid(cell, changed)
    assert store.outcomes()["rank"].max() == 5
    with pytest.raises(ValueError, match=r"1 cells .*alpha 0\.5.* has not been evaluated"):
        store.outcomes([cell, key_at(0.5)])


def test_a_write_that_fails_leaves_no_wrong_cell(tmp_path, monkeypatch):
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), retrieval([1, 2]), PROTOCOL)
    with pytest.raises(ValueError, match="NaN"):
        store.write(key_at(0.4), retrieval([3, 4]), {"deadline": math.nan})
    assert store.is_valid(key_at(0.4), PROTOCOL)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(results, "write_json", lambda *_: 1 // 0)
        store.write(key_at(0.4), retrieval([9, 9]), PROTOCOL)
    assert store.cells() == [] and not store.is_valid(key_at(0.4), PROTOCOL)


@pytest.mark.parametrize("damage", ["change", "remove", "record", "name"])
def test_a_damaged_cell_is_never_read(tmp_path, damage):
    store = ResultsStore(tmp_path)
    for alpha in (0, 0.4):
        store.write(key_at(alpha), retrieval([1, 2]), PROTOCOL)
    data = tmp_path / "cells" / f"{key_at(0.4).digest}.parquet"
    record = data.with_suffix(".json")
    content = data.read_bytes()
    if damage == "change":
        data.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "remove":
        data.unlink()
    elif damage == "record":
        record.write_text("{")
        with pytest.raises(ValueError, match=record.name):
            store.cells()
    else:
        record.write_text(record.with_stem(key_at(0).digest).read_text())
    assert not store.is_valid(key_at(0.4), PROTOCOL)
    for read in (store.outcomes, store.metrics, store.digest):
        with pytest.raises(ValueError, match=r"missing or was|cannot be read|not the record"):
            read([key_at(0), key_at(0.4)])
    assert len(store.outcomes([key_at(0)])) == 4


def with_value(frame, column, value):
    return frame.assign(**{column: [value, *frame[column].iloc[1:]]})


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (retrieval([1]).drop(columns="rank"), r"no column \['rank'\]"),
        (retrieval([1]).iloc[:0], "no rows"),
        (retrieval([1, math.nan]), "rank is no mid-rank .*'clip1'.*nan"),
        (retrieval([1, math.inf]), "rank is no mid-rank .*'clip1'.*inf"),
        (retrieval([0.5, 1]), "rank is no mid-rank .*'clip0'"),
        (retrieval([1.25, 1]), r"rank is no mid-rank .*1\.25"),
        (pd.concat([retrieval([1])] * 2, ignore_index=True), "item occurs twice: .*'clip0'"),
        (with_value(retrieval([1]), "direction", "sideways"), "direction is none of .*'sideways'"),
        (with_value(retrieval([1]), "item", None), "item has no name"),
        (with_value(classification([1, 2]), "label", None), "label or prediction is missing"),
        (with_value(classification([1, 2]), "predicted", None), "prediction is missing: .*'clip0'"),
    ],
)
def test_outcomes_that_are_wrong_are_refused(tmp_path, outcomes, message):
    store = ResultsStore(tmp_path)
    with pytest.raises(ValueError, match=message):
        store.write(key_at(0.4), outcomes, PROTOCOL)
    assert store.cells() == []


# metrics


def test_metrics_by_hand_of_each_cell_apart(tmp_path):
    store = ResultsStore(tmp_path)
    changes: list[dict[str, Any]] = [{"merge": "fisher"}, {"renormalise": True}, {"draw": 1}]
    changes += [{"text_alpha": 0.5}, {"sampling": "nested"}]
    cells = [Cell("a", "zebra"), key_at(0, data_set="a"), key_at(1, data_set="a")]
    cells += [key_at(0.4, data_set="a", **change) for change in changes]
    for rank, cell in enumerate(cells, 1):
        store.write(cell, retrieval([rank, rank]), PROTOCOL)
    assert set(store.cells()) == set(cells)
    metrics = store.metrics().query("metric == 'MdR' and direction == 'text_to_video'")
    found = dict(zip(results.cells_of(metrics), metrics["value"], strict=True))
    assert found == {cell: rank for rank, cell in enumerate(cells, 1)}

    store.write(key_at(0.4), retrieval([1, 1.5, 5, 5.5, 10, 30]), PROTOCOL)
    store.write(key_at(0.4, data_set="mit"), classification([1, 1, 2, 6]), PROTOCOL)
    table = store.metrics([key_at(0.4), key_at(0.4, data_set="mit")])
    values_of = table.set_index(["data_set", "direction", "metric"])["value"].to_dict()
    expected = {("mit", "classification", "top1"): 0.5, ("mit", "classification", "top5"): 0.75}
    for direction in ("text_to_video", "video_to_text"):
        values = {"R@1": 1 / 6, "R@5": 3 / 6, "R@10": 5 / 6, "MdR": 5.25}
        expected |= {("msrvtt", direction, metric): value for metric, value in values.items()}
    assert values_of == pytest.approx(expected)
    assert (table["ci_low"] <= table["value"]).all() and (table["value"] <= table["ci_high"]).all()
    assert dict(table.groupby("data_set")["n"].first()) == {"mit": 4, "msrvtt": 6}


def test_metrics_say_how_many_clips_were_asked_for(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(0), covered(retrieval([1, 2]), 1500), PROTOCOL)
    store.write(key_at(0.4), covered(retrieval([1, 2]), 1500), PROTOCOL)
    store.write(key_at(0, data_set="mit"), covered(classification([1, 2, 3]), 3), PROTOCOL)
    store.write(key_at(0, data_set="old"), retrieval([1, 2, 3, 4]), PROTOCOL)  # no coverage
    table = store.metrics()
    found = table.groupby("data_set")[["n", "clips"]].agg(set).to_dict("index")
    sizes = {"msrvtt": (2, 1500), "mit": (3, 3), "old": (4, 4)}
    assert found == {name: {"n": {n}, "clips": {asked}} for name, (n, asked) in sizes.items()}
    assert coverage_note(table) == (
        "msrvtt: 2 of 1,500 clips measured; the others could move its shares by -100.0 to +49.9 "
        "points"
    )
    assert coverage_note(table[table["data_set"] != "msrvtt"]) == "all clips measured"
    said = "20 rows in val; officially there are about 5,000"
    for name, size in (("mit", "official"), ("old", said)):
        store.write(key_at(0, data_set=name), retrieval([1]), {"annotation_size": size})
    cells = [key_at(0, data_set=name) for name in ("mit", "old")]
    note = coverage_note(store.metrics(cells))
    assert note == f"all clips measured\nold: the annotation has {said}"

    table = table_of(retrieval, [3] * 1200).reset_index()
    assert table[["clips", "least", "most"]].isna().all(axis=None)
    assert coverage_note(table) == "msrvtt: 1,200 clips measured, of an unknown number"
    with pytest.raises(ValueError, match="nothing was measured"):
        coverage_note(table.iloc[:0])
    with pytest.raises(ValueError, match=r"no column \['clips'\]"):
        coverage_note(table.drop(columns="clips"))


def extremes(ranks, metric, before, missing, worst):
    """The least and most of a metric over every outcome that `missing` more items could have, and
    every way in which up to `before` more targets come before the right ones."""
    values = []
    for mores in itertools.product(range(before + 1), repeat=len(ranks)):
        for others in itertools.product(range(1, worst + 1), repeat=missing):
            found = np.array([*np.add(ranks, mores), *others])
            k = int(metric.lstrip("R@top")) if metric != "MdR" else 0
            values.append(np.mean(found <= k) if k else np.median(found))
    return min(values), max(values)


@pytest.mark.parametrize("of", [retrieval, classification])
@pytest.mark.parametrize("asked", [3, 4, 5])
def test_how_far_the_clips_that_were_not_measured_could_move_a_metric(tmp_path, of, asked):
    ranks, missing = [1, 2.5, 5], asked - 3
    store = ResultsStore(tmp_path)
    store.write(key_at(0.4), covered(of(ranks), asked), PROTOCOL)
    table = store.metrics()
    before, worst = (missing, asked) if of is retrieval else (0, 30)  # of 30 classes
    for row in table.to_dict("records"):
        expected = extremes(ranks, row["metric"], before, missing, worst)
        assert (row["least"], row["most"]) == pytest.approx(expected, abs=1e-12)
    assert table["least"].equals(table["most"]) == (asked == 3)


def test_where_videos_have_several_texts_each_direction_has_its_own_items(tmp_path):
    """5 texts of 3 videos were asked for, 3 of 2 measured."""
    both = retrieval([1.0, 2.0, 1.5]).drop(index=5)  # the third is a text more
    outcomes = covered(both, 5, videos=3, videos_measured=2)
    store = ResultsStore(tmp_path)
    store.write(key_at(0), outcomes, PROTOCOL)
    table = store.metrics()
    sizes: dict[str, tuple[list[float], int, int, int]] = {
        "text_to_video": ([1.0, 2.0, 1.5], 1, 2, 3),
        "video_to_text": ([1.0, 2.0], 2, 1, 5),
    }
    for row in table.to_dict("records"):
        ranks, before, missing, targets = sizes[row["direction"]]
        assert (row["n"], row["clips"]) == (len(ranks), len(ranks) + missing)
        expected = extremes(ranks, row["metric"], before, missing, targets)
        assert (row["least"], row["most"]) == pytest.approx(expected, abs=1e-12)
    texts, videos, several = coverage_note(table).split("\n")
    assert texts.startswith("msrvtt: 3 of 5 texts measured; the others could move its shares by -")
    assert videos.startswith("msrvtt: 2 of 3 videos measured; ")
    assert several.startswith("msrvtt: 5 texts of 3 videos; the intervals take texts of one video")


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_intervals_are_those_of_all_resamples(monkeypatch, n):
    monkeypatch.setattr(results, "_RESAMPLES", 20_000)
    ranks = np.array([1, 2.5, 6, 11, 30, 5])[:n]
    every = np.array(list(itertools.product(ranks, repeat=n)))
    values = {"MdR": np.median(every, axis=1)}
    values |= {f"R@{k}": (every <= k).mean(axis=1) for k in (1, 5, 10)}
    for level in (0.97, 0.7, 0.4):
        monkeypatch.setattr(results, "_LEVEL", level)
        table, tails = table_of(retrieval, ranks), [(1 - level) / 2, (1 + level) / 2]
        for metric, of_all in values.items():
            found = table.loc[metric, ["ci_low", "ci_high"]].tolist()
            assert found == np.quantile(of_all, tails, method="inverted_cdf").tolist(), metric


def test_one_item_has_no_interval_and_equal_items_have_no_width():
    assert table_of(retrieval, [3])[["ci_low", "ci_high"]].isna().all(axis=None)
    table = table_of(retrieval, [3] * 9)
    assert table["ci_low"].equals(table["value"]) and table["ci_high"].equals(table["value"])
