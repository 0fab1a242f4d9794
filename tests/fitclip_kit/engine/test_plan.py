"""The plan's sums against a slow count of every picture and text, and what it says."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from data_prep.mini_benchmark.build import encode
from fitclip_core.distillation import Recipe
from fitclip_kit.engine import plan as planning
from fitclip_kit.engine.calibration import Calibration, Rate
from fitclip_kit.engine.plan import (
    Decoding,
    Differentiating,
    Fitting,
    Job,
    Material,
    Measuring,
    Plan,
    plan,
)
from fitclip_kit.engine.plan_report import in_time, report

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
    text_words=24.0,
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


def measuring(notebook: str, models: int) -> list[Job]:
    return [Measuring(notebook, name, models, models, models) for name in ("captions", "actions")]


def jobs(recipe: Recipe = RECIPE, students: int = 2) -> list[Job]:
    fitting: list[Job] = [Fitting("03", f"{students} students", students, recipe)]
    gradients: list[Job] = [Differentiating("07", 3, 12, 4)]
    tower: list[Job] = [Measuring("07", "captions", 3, 5, 15)]
    return [*measuring("02", 1), *fitting, *measuring("04", 2 * students), *tower, *gradients]


def make(**changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "materials": MATERIALS,
        "rule": RULE,
        "training_draws": 3,
        "jobs": jobs(),
        "calibration": SPEED,
        "decoding": DECODING,
    }
    return plan(**(arguments | changes))


def said(found: Plan, notes: Sequence[str] = ()) -> str:
    """The report without its line ends."""
    return " ".join(report(found, notes).split())


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
    students=st.integers(1, 3),
)
def test_device_hours_are_those_of_a_walk_through_the_run(
    steps: int, every: int, share: float, students: int
) -> None:
    recipe = replace(RECIPE, steps=steps, validate_every=every, labelled_share=share)
    found = make(jobs=jobs(recipe, students))
    once = seconds_of(100, 90) + seconds_of(40, 14)
    training = 0.0
    for _ in range(students):
        training += seconds_of(11, 10)  # before the first step
        for step in range(1, steps + 1):
            if share > 0:
                training += 6 / 5.0
            if share < 1:
                training += 5 / 5.0 + seconds_of(5, 5)
            training += 0.25
            if step % every == 0 or step == steps:
                training += seconds_of(11, 10)
    sweep = sum(once for _ in range(2 * students))
    figures = seconds_of(3 * 100, 5 * 90) + 3 * 12 / 5.0
    assert hours(found, "02") == pytest.approx(once / 3600)
    assert hours(found, "03") == pytest.approx(training / 3600)
    assert hours(found, "04") == pytest.approx(sweep / 3600)
    assert hours(found, "07") == pytest.approx(figures / 3600)
    assert hours(found, "total") == pytest.approx((once + training + sweep + figures) / 3600)


def test_decode_hours_and_disk() -> None:
    found = make()
    stores = found.steps[found.steps["notebook"] == "01_data_prep"].set_index("what")
    clip = 4 * 8 * 8 * 3
    expected = {"pool": 30 * 3 * clip, "chosen_on": 11 * clip, "captions": 100 * clip}
    assert stores["disk_bytes"].to_dict() == expected | {"actions": 40 * clip}
    assert stores.loc["pool", "decode_hours"] == pytest.approx(30 / 4 / 3600)
    assert stores.loc["captions", "decode_hours"] == pytest.approx(100 / 10 / 3600)
    students = found.steps.set_index("notebook").loc["03"]
    assert students["disk_bytes"] == 2 * 4 * SPEED.parameters
    cells = found.by_notebook["disk_bytes"]
    outcomes = (2 * 100 + 40) * planning.RESULT_BYTES
    assert cells["02"] == outcomes
    assert cells["04"] == 2 * 2 * outcomes
    assert cells["07"] == 15 * 2 * 100 * planning.RESULT_BYTES
    assert cells["total"] == found.steps["disk_bytes"].sum()


def test_a_frame_store_takes_what_the_plan_says(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8)
    for name in "abc":
        encode(tmp_path / f"{name}.mp4", frames, crf=30)
    clips = pd.DataFrame({"clip_id": list("abc"), "path": ["a.mp4", "b.mp4", "c.mp4"]})
    for draws in (0, 2):
        rule = replace(RULE, draws_per_interval=draws)
        folder = tmp_path / f"store{draws}"
        frame_store.build(clips, tmp_path, folder, rule, workers=1, progress=False)
        role: planning.Role = "training" if draws else "evaluation"
        found = make(materials=[Material("x", role, 3, 3)], training_draws=2, jobs=[])
        planned = found.by_notebook["disk_bytes"].to_dict()["01_data_prep"]
        (array,) = folder.glob("*.npy")
        assert array.stat().st_size - planned == 128, "the array's header"


def test_a_data_sets_own_decoding_speed_is_taken() -> None:
    own = replace(MATERIALS[2], decoding=Decoding(2.0, 2, "8 of its clips"))
    found = make(materials=[own], jobs=[], decoding={})
    assert found.steps["decode_hours"].iloc[0] == pytest.approx(100 / 2 / 3600)
    assert "decoding captions: 2 clips a second (8 of its clips" in report(found)
    assert "none was tried" not in report(found)
    made = make(materials=[replace(own, making_seconds=0.25)], jobs=[], decoding={})
    assert made.steps["decode_hours"].iloc[0] == pytest.approx(100 * (0.25 + 1 / 2) / 3600)
    assert "decoding captions: 250 ms to make one, 2 clips a second" in report(made)


def test_memory_of_a_training_step_and_of_a_gradient() -> None:
    found = make()
    assert found.state_bytes == 5 * 4 * 1000, "weights, gradients, two moments; the teacher"
    assert found.training_bytes == found.state_bytes + 11 * 10**8
    assert found.gradient_bytes == 3 * 4 * 1000 + 4 * 10**8, "weights, gradients, their squares"
    assert found.fits and "WILL NOT FIT" not in report(found)
    alone = make(jobs=jobs(replace(RECIPE, labelled_share=1.0)))
    assert alone.training_bytes == 4 * 4 * 1000 + 6 * 10**8, "neither teacher nor unlabelled clips"
    larger: list[Job] = [*jobs(), Fitting("05", "x", 1, replace(RECIPE, labelled_batch=9))]
    assert make(jobs=larger).training_clips == 9 + 5
    tight = make(calibration=replace(SPEED, device_bytes=7 * 10**8))
    assert not tight.fits
    assert "WILL NOT FIT" in report(tight) and "about 6 clips in all would fit" in said(tight)
    tiny = make(calibration=replace(SPEED, device_bytes=10**4))
    assert "not even one clip would" in said(tiny)
    unknown = make(calibration=replace(SPEED, device_bytes=None))
    assert unknown.fits is None and "is not known" in said(unknown)
    gradients = make(jobs=[Differentiating("07", 1, 32, 16)])
    assert "A Fisher gradient 1.6 GB (estimate). This device has 16 GB." in said(gradients)
    cramped = make(jobs=[Differentiating("07", 1, 512, 256)])
    assert not cramped.fits and "Take a smaller fisher_batch." in said(cramped)


def test_nothing_trained() -> None:
    found = make(jobs=measuring("04", 2))
    assert "03" not in found.by_notebook.index
    assert found.training_bytes == 0 and "A training step" not in report(found)
    assert hours(found, "04") == pytest.approx(
        2 * (seconds_of(100, 90) + seconds_of(40, 14)) / 3600
    )


def test_report_says_what_is_nominal_and_what_was_measured() -> None:
    text = said(make(), ["05 would stop: no clips"])
    assert "Nominal sizes, the files not being there: actions." in text
    assert "evaluation: 50 pictures a second (45 to 55, 3 timings)" in text
    assert "evaluation: 20 texts of 24 words on average a second" in text
    assert "training 4" in text and "measured on a made-up clip with 2 workers" in text
    assert "captions evaluation 100 90 5 GB counted" in text
    assert "2 students 8 kB - " in text and "gradients of 3 models - - 7 s" in text
    assert "05 would stop: no clips" in text
    assert all(len(line) <= 100 for line in report(make()).split("\n"))
    hostile = make(materials=[replace(MATERIALS[2], name="\x1b[2J", note="\x1b[2J\n")], jobs=[])
    assert all(line.isprintable() for line in report(hostile).split("\n"))


def other_jobs(*given: Job) -> dict[str, Sequence[Job]]:
    return {"jobs": given}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": FrameRule(n_frames=4, size=9)}, "calibrate with the run's frames"),
        ({"rule": FrameRule(n_frames=3, size=8)}, "calibrate with the run's frames"),
        ({"training_draws": -1}, "may not be negative"),
        (other_jobs(Measuring("04", "gone", 1, 1, 1)), "04 measures on gone, which is not among"),
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
