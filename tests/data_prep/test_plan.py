"""The plan's sums against a slow count of every picture and text, and what it says."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import frame_store
from data_prep import plan as planning
from data_prep.clip_frames import FrameRule
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark.build import encode
from data_prep.plan import NOMINAL, Decoding, Material, Plan, in_time, plan, report, survey
from fitclip_core.calibration import Calibration, Rate
from fitclip_core.distillation import Recipe
from tests.paper_tree import ITEMS, build_tree

RULE = FrameRule(n_frames=4, size=8)
GB = 10**9


def rate(per_second: float) -> Rate:
    return Rate(per_second, 0.9 * per_second, 1.1 * per_second, 3, 2)


SPEED = Calibration(
    model="toy",
    device="CPU",
    threads=1,
    image_size=8,
    n_frames=4,
    parameters=1000,
    images=rate(50.0),
    texts=rate(20.0),
    training=rate(5.0),
    optimiser_seconds=0.25,
    activation_bytes=10**8,
    device_bytes=16 * GB,
    peak_bytes=None,
)
DECODING: dict[planning.Role, Decoding] = {
    "evaluation": Decoding(10.0, 2, "a made-up clip"),
    "training": Decoding(4.0, 2, "a made-up clip"),
    "validation": Decoding(10.0, 2, "a made-up clip"),
}
MATERIALS = (
    Material("pool", "training", 30, 30, basis="profile"),
    Material("chosen_on", "validation", 11, 10, basis="profile"),
    Material("captions", "evaluation", 100, 90, basis="counted", file_bytes=5 * GB),
    Material("actions", "evaluation", 40, 14, directions=1),
)
RECIPE = Recipe(steps=7, validate_every=3, seed=0, labelled_batch=6, unlabelled_batch=5)


def make(**changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "materials": MATERIALS,
        "rule": RULE,
        "training_draws": 3,
        "recipe": RECIPE,
        "calibration": SPEED,
        "decoding": DECODING,
        "alphas": [0.0, 0.5, 1.0],
        "trained": 2,
    }
    return plan(**(arguments | changes))


def hours(found: Plan, notebook: str) -> float:
    return found.by_notebook["device_hours"].to_dict()[notebook]


def seconds_of(clips: int, texts: int) -> float:
    """Picture by picture, text by text."""
    return math.fsum([1 / 50.0] * (4 * clips)) + math.fsum([1 / 20.0] * texts)


@settings(max_examples=20)
@given(
    steps=st.integers(1, 20),
    every=st.integers(1, 25),
    share=st.sampled_from([0.0, 0.9999, 1.0]),
    alphas=st.lists(st.sampled_from([0.0, 0.2, 0.4, 1.0]), min_size=1, unique=True),
    trained=st.integers(0, 3),
    references=st.integers(0, 2),
)
def test_device_hours_are_those_of_a_walk_through_the_run(
    steps: int, every: int, share: float, alphas: list[float], trained: int, references: int
) -> None:
    recipe = replace(RECIPE, steps=steps, validate_every=every, labelled_share=share)
    found = make(recipe=recipe, alphas=alphas, trained=trained, references=references)
    teacher = sweep = training = 0.0
    for _ in range(1 + references):
        teacher += seconds_of(100, 90) + seconds_of(40, 14)
    for _ in range(trained):
        training += seconds_of(11, 10)  # before the first step
        for step in range(1, steps + 1):
            if share > 0:
                training += 6 / 5.0
            if share < 1:
                training += 5 / 5.0 + seconds_of(5, 5)
            training += 0.25
            if step % every == 0 or step == steps:
                training += seconds_of(11, 10)
        for alpha in alphas:
            if alpha > 0:
                sweep += seconds_of(100, 90) + seconds_of(40, 14)
    assert hours(found, "02_teacher_zero_shot") == pytest.approx(teacher / 3600)
    assert hours(found, "04_alpha_sweep") == pytest.approx(sweep / 3600)
    assert ("03_student_distillation" in found.by_notebook.index) == (trained > 0)
    if trained:
        assert hours(found, "03_student_distillation") == pytest.approx(training / 3600)
    assert hours(found, "total") == pytest.approx((teacher + training + sweep) / 3600)


def test_decode_hours_and_disk() -> None:
    found = make()
    stores = found.steps[found.steps["notebook"] == "01_data_prep"].set_index("what")
    clip = 4 * 8 * 8 * 3
    expected = {"pool": 30 * 3 * clip, "chosen_on": 11 * clip, "captions": 100 * clip}
    assert stores["disk_bytes"].to_dict() == expected | {"actions": 40 * clip}
    assert stores.loc["pool", "decode_hours"] == pytest.approx(30 / 4 / 3600)
    assert stores.loc["captions", "decode_hours"] == pytest.approx(100 / 10 / 3600)
    students = found.steps.set_index("notebook").loc["03_student_distillation"]
    assert students["disk_bytes"] == 2 * 4 * SPEED.parameters
    cells = found.by_notebook["disk_bytes"]
    outcomes = (2 * 100 + 40) * planning.RESULT_BYTES
    assert cells["02_teacher_zero_shot"] == outcomes
    assert cells["04_alpha_sweep"] == 2 * 2 * outcomes
    assert cells["total"] == found.steps["disk_bytes"].sum()


def test_a_frame_store_takes_what_the_plan_says(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8)
    encode(tmp_path / "a.mp4", frames, crf=30)
    clips = pd.DataFrame({"clip_id": list("abc"), "path": "a.mp4"})
    for draws in (0, 2):
        rule = replace(RULE, draws_per_interval=draws)
        folder = tmp_path / f"store{draws}"
        frame_store.build(clips, tmp_path, folder, rule, workers=1, progress=False)
        role: planning.Role = "training" if draws else "evaluation"
        found = make(materials=[Material("x", role, 3, 3)], training_draws=2, trained=0)
        planned = found.by_notebook["disk_bytes"].to_dict()["01_data_prep"]
        (array,) = folder.glob("*.npy")
        assert array.stat().st_size - planned == 128, "the array's header"


def test_a_data_sets_own_decoding_speed_is_taken() -> None:
    own = replace(MATERIALS[2], decoding=Decoding(2.0, 2, "8 of its clips"))
    found = make(materials=[own])
    assert found.steps["decode_hours"].iloc[0] == pytest.approx(100 / 2 / 3600)
    assert "decoding captions: 2 clips a second (8 of its clips" in report(found)
    assert "none was tried" not in report(found)


def test_memory_of_a_training_step() -> None:
    found = make()
    assert found.state_bytes == 5 * 4 * 1000, "weights, gradients, two moments; the teacher"
    assert found.training_bytes == found.state_bytes + 11 * 10**8
    assert found.fits and "WILL NOT FIT" not in report(found)
    alone = make(recipe=replace(RECIPE, labelled_share=1.0))
    assert alone.training_bytes == 4 * 4 * 1000 + 6 * 10**8, "neither teacher nor unlabelled clips"
    tight = make(calibration=replace(SPEED, device_bytes=7 * 10**8))
    assert not tight.fits
    assert "WILL NOT FIT" in report(tight) and "about 6 clips in all would fit" in report(tight)
    tiny = make(calibration=replace(SPEED, device_bytes=10**4))
    assert "not even one clip would" in report(tiny)
    unknown = make(calibration=replace(SPEED, device_bytes=None))
    assert unknown.fits is None and "is not known" in report(unknown)


def test_a_released_student_is_fused_and_not_trained() -> None:
    found = make(trained=0, fused=1)
    assert "03_student_distillation" not in found.by_notebook.index
    assert found.training_bytes == 0 and "A training step" not in report(found)
    per_model = (seconds_of(100, 90) + seconds_of(40, 14)) / 3600
    assert hours(found, "04_alpha_sweep") == pytest.approx(2 * per_model)


def test_report_says_what_is_nominal_and_what_was_measured() -> None:
    text = " ".join(report(make()).split())
    assert "Nominal sizes, the files not being there: actions." in text
    assert "evaluation: 50 pictures a second (45 to 55, 3 timings)" in text
    assert "training 4" in text and "measured on a made-up clip with 2 workers" in text
    assert "captions evaluation 100 90 5 GB counted" in text
    assert all(len(line) <= 100 for line in report(make()).split("\n"))
    hostile = make(materials=[replace(MATERIALS[2], name="\x1b[2J", note="\x1b[2J\n")])
    assert all(line.isprintable() for line in report(hostile).split("\n"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": FrameRule(n_frames=4, size=9)}, "calibrate with the run's frames"),
        ({"rule": FrameRule(n_frames=3, size=8)}, "calibrate with the run's frames"),
        ({"trained": -1}, "none may be negative"),
        ({"references": -1}, "none may be negative"),
    ],
)
def test_wrong_use_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("given_hours", "text"),
    [
        (0, "-"),
        (30 / 3600, "30 s"),
        (1 / 60, "1.0 min"),
        (0.5, "30.0 min"),
        (47.9, "47.9 h"),
        (60, "2.5 days"),
    ],
)
def test_time_in_words(given_hours: float, text: str) -> None:
    assert in_time(given_hours) == text


def test_survey_without_files_is_nominal(tmp_path: Path) -> None:
    sets = {loader: {"loader": loader, "root": str(tmp_path / loader)} for loader in NOMINAL}
    sets["webvid_train"] = {"loader": "webvid", "root": str(tmp_path), "split": "train"}
    sizes = dict.fromkeys(sets, 0) | {"webvid_train": 50, "msrvtt": 20, "ucf101": 10}
    found = survey(sets, sizes, RULE, trained_on=["webvid_train"], selected_on=[])
    by_name = {one.name: one for one in found}
    assert by_name["webvid_train"] == Material("webvid_train", "training", 50, 50, basis="profile")
    for loader, (clips, texts) in NOMINAL.items():
        one = by_name[loader]
        assert one.basis == "nominal" and one.note.startswith("not counted: ")
        expected = {"msrvtt": (20, 20), "ucf101": (10, 101 * 48)}.get(loader, (clips, texts))
        assert (one.clips, one.texts) == expected
        assert one.directions == (1 if loader in ("ucf101", "moments_in_time") else 2)


def test_survey_refuses_what_it_cannot_size(tmp_path: Path) -> None:
    sets = {"mine": {"loader": "folder", "root": str(tmp_path / "gone")}}
    with pytest.raises(ValueError, match="mine cannot be counted and has no nominal size"):
        survey(sets, {"mine": 0}, RULE, trained_on=[], selected_on=[])
    with pytest.raises(ValueError, match="there is no size for mine"):
        survey(sets, {}, RULE, trained_on=[], selected_on=[])


def test_survey_counts_real_layouts(realdata: Path, tmp_path: Path) -> None:
    build_tree(realdata, tmp_path)
    sets = {
        "msrvtt": {"loader": "msrvtt", "root": str(tmp_path / "msrvtt")},
        "ucf101": {"loader": "ucf101", "root": str(tmp_path / "ucf101")},
    }
    msrvtt, ucf101 = survey(
        sets, {"msrvtt": 0, "ucf101": 2}, RULE, trained_on=[], selected_on=[], tries=2
    )
    assert (msrvtt.basis, msrvtt.clips, msrvtt.directions) == ("counted", ITEMS - 1, 2)
    assert msrvtt.note == "1 clip without a file"
    assert (ucf101.clips, ucf101.texts, ucf101.directions) == (2, 3 * 48, 1)
    for one in (msrvtt, ucf101):
        assert one.file_bytes and one.decoding and one.decoding.clips_per_second > 0


def test_decoding_is_measured_on_a_made_up_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_SYNTHETIC", (12, 64, 64))
    found = planning.measure_decoding(RULE, training_draws=2)
    assert set(found) == {"evaluation", "training", "validation"}
    assert found["validation"] == found["evaluation"]
    for one in found.values():
        assert one.clips_per_second > 0 and one.workers == available_cores()
        assert one.measured_on == "a made-up 64x64 H.264 clip of 12 frames"
