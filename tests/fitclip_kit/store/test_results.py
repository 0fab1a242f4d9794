import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fitclip_core.statistics import bootstrap_interval
from fitclip_kit.store import results
from fitclip_kit.store.results import (
    CellKey,
    ResultsStore,
    coverage_note,
    metric_table,
    rank_table,
    sweep_rows,
    tower_rows,
    variant_rows,
)

PROTOCOL = {"captions": "first", "frames": {"n": 4, "size": 224}, "templates": ["a video of {}"]}


def key_at(alpha, seed=0, data_set="msrvtt", **changes):
    fields = {"label_share": 0.9999, "subset_size": 2500} | changes
    return CellKey.at(alpha, seed=seed, data_set=data_set, **fields)


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
    return outcomes.assign(**{name: getattr(key, name) for name in results.KEY_COLUMNS})


def cell_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "cells").iterdir()}


# keys


def test_the_model_follows_from_alpha_and_the_teacher_is_shared():
    assert key_at(0, seed=2) == key_at(0, seed=1, label_share=1) == key_at(0, subset_size=9)
    assert key_at(0).model == "teacher"
    assert key_at(0).seed == results.NO_DRAW
    assert key_at(0.4).model == "fused"
    assert key_at(1).model == "student"


def test_shares_that_differ_by_rounding_are_one_cell():
    assert key_at(0.1 * 3) == key_at(0.3)
    assert key_at(0.1 * 3).digest == key_at(0.3).digest
    assert key_at(np.float64(0.3)).digest == key_at(0.3, seed=np.int64(0)).digest
    assert key_at(1 - 1e-12).model == "student"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("CLIP", 0.0, 0.0, 0, -1, "a"), "model is 'CLIP'.*lower-case letters, digits and _"),
        (("", 0.0, 0.0, 0, -1, "a"), "model is ''"),
        (("frozen\n", 0.0, 0.0, 0, -1, "a"), "model is 'frozen"),
        (("fussed", 0.4, 1.0, 5, 0, "a"), "fussed is none of .* so it is a reference: alpha 0"),
        (("frozen", 0.0, 1.0, 0, -1, "a"), "CellKey.reference"),
        (("frozen", 0.0, 0.0, 0, 0, "a"), "CellKey.reference"),
        (("frozen", 0.0, 0.0, 0, -1, ""), "data_set is empty"),
        (("fused", 0.0, 1.0, 5, 0, "a"), "between 0 and 1, not 0"),
        (("student", 0.5, 1.0, 5, 0, "a"), "student cell has alpha 1"),
        (("teacher", 0.0, 0.0, 0, 0, "a"), "shared by all draws"),
        (("fused", 0.5, 1.0, 5, -1, "a"), "seed -1"),
        (("fused", 0.5, 1.0, -5, 0, "a"), "subset_size -5"),
        (("fused", math.nan, 1.0, 5, 0, "a"), "alpha is nan"),
        (("fused", 0.5, 1.5, 5, 0, "a"), "label_share is 1.5"),
        (("fused", 0.5, 1.0, 5.5, 0, "a"), "subset_size is 5.5"),
        (("fused", 0.5, 1.0, 5, 0, ""), "data_set is empty"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CellKey(*fields)


def test_a_reference_has_a_name_and_the_teachers_fields():
    key = CellKey.reference("frozen_in_time_webvid", "mit")
    assert key == CellKey("frozen_in_time_webvid", 0.0, 0.0, 0, results.NO_DRAW, "mit")
    assert key.is_reference
    assert not any(key_at(alpha).is_reference for alpha in (0, 0.4, 1))
    assert key.digest != key_at(0, data_set="mit").digest
    for name in ("teacher", "student", "fused"):
        with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
            CellKey.reference(name, "mit")
    with pytest.raises(ValueError, match="model is 'Frozen in Time'"):
        CellKey.reference("Frozen in Time", "mit")
    with pytest.raises(ValueError, match="cannot be called 'variant_fisher'"):
        CellKey.reference("variant_fisher", "mit")


DRAWN: dict[str, Any] = {"label_share": 0.9999, "subset_size": 2500, "seed": 0}
UNDRAWN: dict[str, Any] = {"label_share": 0, "subset_size": 0, "seed": results.NO_DRAW}


def variant(name, alpha, data_set="msrvtt", **fields):
    return CellKey.variant(name, alpha, data_set=data_set, **(fields or DRAWN))


def test_a_variant_has_the_draws_fields_or_at_alpha_0_the_teachers():
    key = variant("fisher", 0.1 * 3)
    assert key == CellKey("variant_fisher", 0.3, 0.9999, 2500, 0, "msrvtt")
    assert key.is_variant
    assert not key.is_reference
    assert not CellKey.reference("frozen", "mit").is_variant
    assert not any(key_at(alpha).is_variant for alpha in (0, 0.4, 1))
    assert variant("renormalised", 0, **UNDRAWN).seed == results.NO_DRAW
    assert variant("lines", 0).seed == 0
    wrong: list[tuple[str, float, dict[str, Any], str]] = [
        ("", 0.4, DRAWN, "model is 'variant_'"),
        ("Fisher", 0.4, DRAWN, "model is 'variant_Fisher'"),
        ("fisher", 1.1, DRAWN, "alpha is 1.1"),
        ("fisher", 0.4, UNDRAWN, "seed -1"),
        ("fisher", 0.0, UNDRAWN | {"subset_size": 5}, "seed -1"),
        ("fisher", 0.4, DRAWN | {"subset_size": -5}, "subset_size -5"),
    ]
    for name, alpha, fields, message in wrong:
        with pytest.raises(ValueError, match=message):
            variant(name, alpha, **fields)


@pytest.mark.parametrize(
    ("text_alpha", "model"),
    [
        (0, "variant_towers_t0"),
        (1, "variant_towers_t1"),
        (0.1 * 3, "variant_towers_t0_3"),
        (0.05, "variant_towers_t0_05"),
        (1e-12, "variant_towers_t0"),
        (1 / 3, "variant_towers_t0_333333333"),
    ],
)
def test_a_towers_key_holds_both_alphas(text_alpha, model):
    key = CellKey.towers(0.7, text_alpha, **DRAWN, data_set="mit")
    assert (key.model, key.alpha) == (model, 0.7)
    (row,) = tower_rows(pd.DataFrame([vars(key)])).to_dict("records")
    assert row["vision_alpha"] == 0.7
    assert row["text_alpha"] == pytest.approx(text_alpha, abs=1e-9)


def test_a_towers_key_with_an_alpha_outside_is_refused():
    for alphas in ((1.1, 0.5), (0.5, 1.1), (0.5, -0.1), (0.5, math.nan)):
        with pytest.raises(ValueError, match=r"alpha is .* between 0 and 1"):
            CellKey.towers(*alphas, **DRAWN, data_set="mit")


# the store


def test_outcomes_come_back_sorted_with_their_keys(tmp_path):
    store = ResultsStore(tmp_path)
    store.write(key_at(1, data_set="ucf101"), classification([1, 3.5]), PROTOCOL)
    store.write(key_at(0.4, seed=1), retrieval([2.5, 1]), PROTOCOL)
    store.write(key_at(0.4, seed=0), retrieval([7, 1]).sample(frac=1, random_state=0), PROTOCOL)
    store.write(key_at(0), retrieval([1, 4]), PROTOCOL)

    frame = store.outcomes()

    assert list(frame.columns) == [*results.KEY_COLUMNS, *results.OUTCOME_COLUMNS]
    order = ["data_set", "alpha", "seed", "direction", "item"]
    plain = frame.astype(dict.fromkeys(["data_set", "direction", "item"], "str"))
    pd.testing.assert_frame_equal(plain, plain.sort_values(order, ignore_index=True))
    chosen = frame[(frame["alpha"] == 0.4) & (frame["direction"] == "text_to_video")]
    assert chosen["rank"].tolist() == [7, 1, 2.5, 1]
    assert chosen["seed"].tolist() == [0, 0, 1, 1]
    assert chosen["label"].isna().all()
    classified = frame[frame["data_set"] == "ucf101"]
    assert classified["predicted"].tolist() == ["run", "jump"]
    assert classified["model"].tolist() == ["student"] * 2
    assert frame.loc[frame["model"] == "teacher", "seed"].unique().tolist() == [-1]
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
        "fused (alpha 0.4, draw 0) on msrvtt has not been evaluated"
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
    assert store.keys() == [key_at(0.4)]
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
    assert store.keys() == []
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
        store.keys()


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
    with pytest.raises(ValueError, match=r"alpha 0.4, draw 0\) on msrvtt has not been evaluated"):
        store.outcomes([key_at(0), key_at(0.4)])


def test_an_empty_store_has_the_columns_and_no_rows(tmp_path):
    frame = ResultsStore(tmp_path).outcomes()
    assert list(frame.columns) == [*results.KEY_COLUMNS, *results.OUTCOME_COLUMNS]
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
    assert store.keys() == []


def test_references_stand_beside_the_teacher_and_stay_apart_from_it(tmp_path):
    store = ResultsStore(tmp_path)
    frozen, other = (CellKey.reference(name, "msrvtt") for name in ("frozen", "zebra"))
    for key, rank in ((other, 9), (frozen, 7), (key_at(1), 3), (key_at(0), 5)):
        store.write(key, retrieval([rank, rank]), PROTOCOL)
    assert store.keys() == [key_at(0), frozen, other, key_at(1)]
    outcomes = store.outcomes()
    values = store.metrics().query("metric == 'MdR' and direction == 'text_to_video'")
    assert dict(zip(values["model"], values["value"], strict=True)) == {
        "teacher": 5,
        "frozen": 7,
        "zebra": 9,
        "student": 3,
    }
    assert store.problems(CellKey.reference("frozen", "mit")) == [
        "frozen on mit has not been evaluated"
    ]

    assert set(sweep_rows(outcomes)["model"]) == {"teacher", "student"}
    ranks = rank_table(outcomes, "msrvtt", "text_to_video")
    assert {place: set(ranks[place]) for place in ranks} == {(0.0, -1): {5}, (1.0, 0): {3}}
    with pytest.raises(ValueError, match="no outcomes of msrvtt, text_to_video; there are: noth"):
        rank_table(outcomes[outcomes["model"] == "frozen"], "msrvtt", "text_to_video")
    with pytest.raises(ValueError, match=r"no column \['model'\]"):
        sweep_rows(outcomes.drop(columns="model"))


def test_variants_stand_beside_the_sweep_and_stay_apart_from_it(tmp_path):
    store = ResultsStore(tmp_path)
    sweep = {key_at(0): 5, key_at(0.4): 2, key_at(1): 3}
    renormalised = {
        variant("renormalised", 0, **UNDRAWN): 15,
        variant("renormalised", 0.4): 12,
        variant("renormalised", 1): 13,
    }
    towers = {
        CellKey.towers(vision, text, **DRAWN, data_set="msrvtt"): 20 + vision + 2 * text
        for vision in (0, 1)
        for text in (0, 0.5)
    }
    others = {variant("renormalised_twice", 0.4): 30, CellKey.reference("frozen", "msrvtt"): 40}
    cells = {**towers, **others, **renormalised, **sweep}
    for key, rank in cells.items():
        store.write(key, retrieval([rank, rank]), PROTOCOL)
    assert set(store.keys()) == set(cells)
    assert store.problems(variant("fisher", 0.4)) == [
        "variant_fisher (alpha 0.4, draw 0) on msrvtt has not been evaluated"
    ]
    outcomes, metrics = store.outcomes(), store.metrics(n_resamples=10)

    def medians(table):
        return set(table.query("metric == 'MdR'")["value"])

    assert medians(sweep_rows(metrics)) == set(sweep.values())
    plain = rank_table(outcomes, "msrvtt", "text_to_video")
    assert plain.iloc[0].to_dict() == {(0.0, -1): 5, (0.4, 0): 2, (1.0, 0): 3}

    chosen = variant_rows(outcomes, "renormalised")
    assert set(chosen["model"]) == {"teacher", "fused", "student"}
    varied = rank_table(chosen, "msrvtt", "text_to_video")
    assert varied.iloc[0].to_dict() == {(0.0, -1): 15, (0.4, 0): 12, (1.0, 0): 13}
    assert medians(variant_rows(metrics, "renormalised")) == set(renormalised.values())
    with pytest.raises(ValueError, match=r"no rows of a variant 'fisher'; there are: \['renormal"):
        variant_rows(outcomes, "fisher")
    with pytest.raises(ValueError, match="there are: none"):
        variant_rows(sweep_rows(outcomes), "fisher")
    with pytest.raises(ValueError, match=r"no column \['alpha'\]"):
        variant_rows(outcomes.drop(columns="alpha"), "fisher")

    map_ = tower_rows(metrics).query("metric == 'MdR' and direction == 'text_to_video'")
    rows = zip(map_["vision_alpha"], map_["text_alpha"], map_["value"], strict=True)
    assert sorted(rows) == [(v, t, 20 + v + 2 * t) for v in (0, 1) for t in (0, 0.5)]
    assert not {"model", "alpha"} & set(map_)
    assert len(tower_rows(pd.concat([outcomes, outcomes]))) == 2 * 4 * 4
    assert tower_rows(sweep_rows(outcomes)).empty
    with pytest.raises(ValueError, match=r"no column \['model', 'alpha'\]"):
        tower_rows(map_)


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
    found = table[table["metric"] == "MdR"].groupby(["alpha", "seed"])["value"].unique()
    assert {place: list(value) for place, value in found.items()} == {
        (0.0, -1): [1],
        (0.4, 0): [2],
        (0.4, 1): [7],
    }


# the table of ranks


def test_rank_table_aligns_items_whatever_the_row_order():
    frames = [
        labelled(key_at(alpha, seed), retrieval(ranks))
        for alpha, seed, ranks in ((1, 0, [5, 6]), (0, 0, [1, 2]), (1, 1, [7, 8]))
    ]
    outcomes = pd.concat(frames).sample(frac=1, random_state=3)
    table = rank_table(outcomes, "msrvtt", "text_to_video")
    assert list(table.columns) == [(0.0, -1), (1.0, 0), (1.0, 1)]
    assert table.to_numpy().tolist() == [[1, 5, 7], [2, 6, 8]]
    assert list(table.index) == ["clip0", "clip1"]


def test_rank_table_refuses_what_it_cannot_align():
    student = labelled(key_at(1), retrieval([5, 6]))
    teacher = labelled(key_at(0), retrieval([1, 2]))
    other = labelled(key_at(1, subset_size=100), retrieval([5, 6]))

    def table(*frames, data_set="msrvtt"):
        return rank_table(pd.concat(frames), data_set, "text_to_video")

    with pytest.raises(ValueError, match="no outcomes of didemo, text_to_video; there are: msrvtt"):
        table(student, data_set="didemo")
    with pytest.raises(ValueError, match=r"trained in different ways.*100"):
        table(student, other)
    with pytest.raises(ValueError, match="'clip0' twice at alpha 1, draw 0"):
        table(student, student)
    with pytest.raises(ValueError, match="'clip1' has no rank at alpha 0, draw -1"):
        table(student, teacher[teacher["item"] == "clip0"])
    with pytest.raises(ValueError, match=r"no column \['seed'\]"):
        table(student.drop(columns="seed"))
