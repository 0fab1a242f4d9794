"""The plan for all of WebVid against a count by hand, and what it says of its numbers."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitclip_kit.engine.webvid_plan import NUMBERS, UnitCosts, WebVidPlan, report, webvid_plan

COSTS = UnitCosts(
    decode_core_seconds=0.5,
    training_core_seconds=0.8,
    image_seconds=0.25,
    text_seconds=0.1,
    rank_core_seconds=1e-8,
    parameters=150_000_000,
    measured_on="made-up films",
)


def rows(found: WebVidPlan) -> dict[str, Any]:
    return {str(row["what"]).split()[0]: row for row in found.steps.to_dict("records")}


def test_hours_disk_and_money_by_hand() -> None:
    found = webvid_plan(COSTS)
    by_verb = rows(found)
    assert by_verb["download"]["hours"] == pytest.approx(2_500_000 / 230 / 3600)
    assert found.steps["hours"][1] == pytest.approx(2_500_000 * 0.5 / 16 / 3600)
    assert found.steps["hours"][2] == pytest.approx(2_500_000 * 0.8 / 16 / 3600)
    a_model = 2_500_000 * (4 / 1387) * (1 + 0.1 / (4 * 0.25)) / 3600
    assert by_verb["encode"]["hours"] == pytest.approx(31 * a_model), "the teacher and 3 x 10"
    an_epoch = 2_500_000 * (4 / 391) * 1.1 / 3600
    assert by_verb["train"]["hours"] == pytest.approx(3 * an_epoch)
    assert by_verb["rank"]["hours"] == pytest.approx(2_500_000**2 * 1e-8 * 31 / 16 / 3600)
    disk = found.steps["disk_bytes"]
    assert disk[1] == 2_500_000 * 602_112, "raw frames of a clip"
    assert disk[2] == 3 * disk[1]
    assert by_verb["encode"]["disk_bytes"] == 31 * 2_500_000 * 2 * 512 * 4
    assert by_verb["train"]["disk_bytes"] == 3 * 600_000_000
    dollars = found.steps["hours"][1] * 0.68 + disk[1] / 1e12 * 23
    assert found.steps["dollars"][1] == pytest.approx(dollars)
    assert by_verb["rank"]["dollars"] == pytest.approx(by_verb["rank"]["hours"] * 0.68)


@settings(max_examples=20)
@given(st.sampled_from([2.0, 4.0, 8.0]))
def test_all_grows_with_the_clips_and_the_ranks_with_their_square(times: float) -> None:
    once = webvid_plan(COSTS, {"clips": 1e5})
    more = webvid_plan(COSTS, {"clips": times * 1e5})
    growth = (more.steps["hours"] / once.steps["hours"]).tolist()
    assert growth[:-1] == pytest.approx([times] * 5)
    assert growth[-1] == pytest.approx(times**2)


def test_nodes_do_it_in_the_days_given() -> None:
    found = webvid_plan(COSTS)
    hours = found.steps.groupby("on")["hours"].sum().to_dict()
    for days in (0.5, 1, 7):
        for on, count in found.nodes(days).items():
            assert (count - 1) * 24 * days < hours[on] <= count * 24 * days
    with pytest.raises(ValueError, match="days is 0"):
        found.nodes(0)


def test_report_says_where_every_number_comes_from() -> None:
    text = report(webvid_plan(COSTS, {"gpu_price": 2.0}))
    flat = " ".join(text.split())
    assert "clips = 2,500,000: clips (the paper's supplement" in flat
    assert "decode into a frame store 21.7 h CPU node measured 1.5 TB" in flat
    assert "no GPU was measured" in flat and "made-up films" in flat
    given_part = flat[flat.index("Given:") :]
    assert "gpu_price = 2: dollars an hour of a GPU" in given_part
    for name in NUMBERS:
        assert f"{name} = " in flat
    sources = flat[flat.index("From sources:") : flat.index("Assumed:")]
    assert "gpu_images = 1,387" in sources and "timm" in sources
    assert "Features instead of frames: 317 GB in place of 1.5 TB" in flat
    assert "347 times as long as on one" in flat
    assert all(len(line) <= 100 for line in text.split("\n"))


def test_every_number_says_its_basis() -> None:
    for name, one in NUMBERS.items():
        assert one.basis in ("source", "assumption"), name
        assert one.why or one.basis == "assumption", f"{name} names no source"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_wrong_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"clips is .*above 0"):
        webvid_plan(COSTS, {"clips": value})
    with pytest.raises(ValueError, match=r"image_seconds is .*above 0"):
        replace(COSTS, image_seconds=value)
    with pytest.raises(ValueError, match="there is no number 'clip'; there are clips"):
        webvid_plan(COSTS, {"clip": 1.0})
