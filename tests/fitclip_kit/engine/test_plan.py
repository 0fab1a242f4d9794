"""The plan's sums against a slow walk through a run, its timings, and what it says."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from data_prep import check
from data_prep.clip_frames import FrameRule
from data_prep.mini_benchmark import build
from fitclip_kit.engine import plan as module
from fitclip_kit.engine.plan import (
    NOMINAL,
    Counted,
    Timed,
    counted,
    in_time,
    memory,
    plan,
    table,
    timed,
)
from fitclip_kit.engine.plan import each as each_of
from fitclip_kit.engine.work import Run, Trained, Work, of_run
from tests.kit_run import run_of
from tests.make import tiny_encoder
from tests.paper_tree import ITEMS, build_tree

RULE = FrameRule(n_frames=4, size=8)
SECONDS = {"videos": 0.5, "texts": 0.25, "train": 2.0}
SPEED = Timed(SECONDS, dict.fromkeys(SECONDS, 1), kept=10**8, weights=4000)
GB = 10**9


def small_run(tmp_path: Path) -> Run:
    """One student of each notebook, two alphas, two data sets to measure on."""
    changes: dict[str, dict[str, Any]] = {
        "03": {"steps": 5, "validate_every": 2, "labelled_batch": 6, "unlabelled_batch": 4},
        "04": {"alphas": [0.0, 0.4, 1.0]},
        "05": {"sizes": [75], "independent_draws": [1], "nested_draws": [], "alphas": [0.4]},
        "06": {"pseudo_shares": [0.0, 0.0001]},
        "07": {"tower_sets": ["mit"], "tower_alphas": [0.0, 1.0]},
    }
    run = run_of("mini", changes, {"draws": [1], "evaluated": ["msrvtt", "mit"]})
    return replace(run, path=tmp_path)


def test_the_sums_are_those_of_a_walk_through_the_run(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    names = run.sources.names
    sets = {name: Counted(100, 90, 190, "", 0.1) for name in names}
    sets |= {"mit": Counted(40, 14, 40, "", 0.2), "webvid_selection": Counted(11, 10, 22, "", 0.3)}
    once, of_mit = 100 * 0.5 + 90 * 0.25, 40 * 0.5 + 14 * 0.25
    validation = 11 * 0.5 + 10 * 0.25

    def training(steps: int, every: int, clips: int) -> float:
        seconds = validation
        for step in range(1, steps + 1):
            seconds += clips * 2.0 + (validation if step % every == 0 or step == steps else 0)
        return seconds

    found = table(of_run(run), sets, SPEED, RULE)
    device = found["device"].to_dict()
    assert device["02_teacher_zero_shot", "cells"] == pytest.approx(once + of_mit)
    assert device["03_student_distillation", "students"] == pytest.approx(training(5, 2, 10))
    assert device["04_alpha_sweep", "cells"] == pytest.approx(2 * (once + of_mit))
    # half as many clips, so half the steps (2.5 rounds to 2)
    assert device["05_subset_size", "students"] == pytest.approx(training(2, 1, 6))
    assert device["05_subset_size", "cells"] == pytest.approx(2 * once), "teacher and fused"
    assert device["06_label_share", "students"] == pytest.approx(training(5, 2, 6))
    assert device["06_label_share", "cells"] == pytest.approx(once + of_mit), "the other is swept"
    figures = 2 * of_mit + 3 * (once + of_mit) + 3 * (once + of_mit)
    assert device["07_supplementary_figures", "cells"] == pytest.approx(figures)
    assert device["total", ""] == pytest.approx(sum(device.values()) / 2)

    assert found["decoding"].to_dict()["01_data_prep", "frame stores"] == pytest.approx(
        7 * 100 * 0.1 + 40 * 0.2 + 11 * 0.3
    )
    disk = found["disk"].to_dict()
    clip = 4 * 8 * 8 * 3
    stores = (5 * 100 + 40 + 11) * clip + 2 * 100 * 3 * clip
    assert disk["01_data_prep", "frame stores"] == stores, "three draws of the training clips"
    assert disk["03_student_distillation", "students"] == SPEED.weights
    assert disk["04_alpha_sweep", "cells"] == 2 * (190 + 40) * 6
    assert disk["07_supplementary_figures", "cells"] == (4 * 40 + 6 * 230) * 6
    assert found["all"].to_dict()["total", ""] == found["left"].sum() / 2 == len(of_run(run))


def test_what_is_done_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path)
    sets = {name: Counted(100, 90, 190, "", 0.1) for name in run.sources.names}
    monkeypatch.setattr(Trained, "is_done", lambda self: True)
    found = table(of_run(run), sets, SPEED, RULE)
    assert found.T.to_dict("list")["03_student_distillation", "students"] == [1, 0, 0, 0, 0]
    for kind in {type(work) for work in of_run(run)}:
        monkeypatch.setattr(kind, "is_done", lambda self: True)
    found = table(of_run(run), sets, SPEED, RULE)
    assert (found.drop(columns="all") == 0).all(axis=None)


def trained(**changes: Any) -> Sequence[Work]:
    run = run_of("mini", {"03": {"draws": [1], "labelled_batch": 6, **changes}})
    return [work for work in of_run(run) if isinstance(work, Trained)][:1]


def test_memory_of_a_training_step() -> None:
    works = trained(unlabelled_batch=5)
    needed = 5 * 4000 + 11 * 10**8  # weights, gradients, two moments; the teacher
    said = memory(works, SPEED, 16 * GB)
    assert f"needs about {check.in_bytes(needed)}, by" in said and said.endswith(" 16 GB.")
    assert "1.1 GB: IT WILL NOT FIT" in memory(works, SPEED, needed - 1)
    assert "NOT FIT" not in memory(works, SPEED, needed)
    alone = SPEED._replace(weights=GB)
    said = memory(trained(labelled_share=1.0), alone, GB)
    assert "needs about 4.6 GB" in said, "neither teacher nor unlabelled clips"
    said = memory(trained(unlabelled_batch=5, micro_batch=4), alone, GB)
    assert "needs about 5.4 GB" in said


def test_time_in_words() -> None:
    said = {0: "-", 59.4: "59 s", 60: "1.0 min", 47.9 * 3600: "47.9 h", 60 * 3600: "2.5 days"}
    assert {seconds: in_time(seconds) for seconds in said} == said


@pytest.mark.parametrize(
    ("fixed", "each", "n", "expected"),
    [
        (0.0, 1e-3, 64, 1e-3),
        (1.0, 0.0, 64, 1 / 64),
        (0.0, 0.5, 4, 0.5),  # 8 times the time of 4 is more than fits, of 2 it is not
        (0.0, 2.0, 1, 2.0),
    ],
)
def test_as_many_are_timed_at_once_as_fit(
    fixed: float, each: float, n: int, expected: float
) -> None:
    calls: list[int] = []

    def took(number: int) -> float:
        calls.append(number)
        return fixed + each * number

    assert each_of(took) == (pytest.approx(expected), n)
    assert calls[-3:] == [n] * 3 if n > 1 else calls == [1], "what is slow is timed once"


def test_a_model_is_timed_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 1e-3)
    encoder = tiny_encoder(0)
    before = encoder.state()
    torch.manual_seed(3)
    random = torch.random.get_rng_state()
    rules = [FrameRule(n_frames=n, size=encoder.image_size) for n in (2, 4, 6)]
    found = [timed(encoder, rule) for rule in rules]
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in encoder.state().items())
    assert all(one.grad is None for one in encoder.model.parameters())
    assert all(0 < value < 10 for one in found for value in one.seconds.values())
    assert {n for one in found for n in one.batches.values()} <= {1, 2, 4, 8, 16, 32, 64}
    weights = sum(4 * value.numel() for value in encoder.state().values())
    assert [one.weights for one in found] == [weights] * 3
    two, four, six = (one.kept for one in found)
    assert four - two == pytest.approx(six - four, rel=0.01) and two > 0
    assert two < weights, "the weights, which autograd keeps too, are left out"


def count(folder: Path, entry: dict[str, Any], name: str = "mine", clips: int = 0) -> Counted:
    content = {"data_sets": {name: entry}, "models": {"teacher": {"file": "x"}}}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    changes = {"01": {"evaluation_clips": clips, "labelled_clips": clips}}
    run = run_of("mini", changes, {"sources_file": "data.yaml"}, working_dir=folder)
    return counted(run, name, RULE, math.nan)


def test_what_is_not_there_has_its_known_size(tmp_path: Path) -> None:
    for loader, (clips, texts, _) in NOMINAL.items():
        once = loader in ("ucf101", "moments_in_time")
        entry = {"loader": loader, "root": "gone"}
        for asked in (0, 20):
            found = count(tmp_path, entry, clips=asked)
            number = asked or clips
            expected = (number, texts if once else min(texts, number), number * (2 - once))
            assert (found.clips, found.texts, found.outcomes) == expected
            assert found.said.startswith("nominal, not counted: ") and math.isnan(found.decode)
    found = count(tmp_path, {"loader": "webvid", "root": "gone"}, "webvid_train", 50)
    assert (found.clips, found.texts) == (50, 50) and "there is no folder" in found.said
    with pytest.raises(ValueError, match="mine cannot be counted and has no known size"):
        count(tmp_path, {"loader": "folder", "root": "gone"})


@pytest.mark.slow
def test_real_layouts_are_counted(realdata: Path, tmp_path: Path) -> None:
    build_tree(realdata, tmp_path)
    msrvtt = count(tmp_path, {"loader": "msrvtt", "root": "msrvtt"})
    assert (msrvtt.clips, msrvtt.outcomes) == (ITEMS - 1, 2 * (ITEMS - 1))
    assert re.match(r"counted, .* 1 without a file", msrvtt.said) and msrvtt.decode > 0
    ucf101 = count(tmp_path, {"loader": "ucf101", "root": "ucf101"}, clips=2)
    assert (ucf101.clips, ucf101.texts, ucf101.outcomes) == (2, 3 * 48, 2)


def test_a_video_with_several_texts_is_decoded_once(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    rows = [("a.png", "x"), ("b.png", "y"), ("a.png", "z"), ("gone.png", "v")]
    text = "path,caption\n" + "".join(f"{path},{caption}\n" for path, caption in rows)
    (tmp_path / "clips.csv").write_text(text)
    found = count(tmp_path, {"loader": "folder", "root": str(tmp_path)})
    assert (found.clips, found.texts, found.outcomes) == (2, 4, 2 + 3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The whole plan of a profile, its timings made in a moment."""
    monkeypatch.setattr(module, "_TRIED", 2)
    for one in (build, check, module):
        monkeypatch.setattr(one, "available_cores", lambda: 1)  # fewer processes to start
    monkeypatch.setattr(module, "timed", lambda encoder, rule: SPEED)
    monkeypatch.setattr(module.os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    return lambda run, left_out=(): plan(run, left_out)


@pytest.mark.slow
def test_the_embedded_run_needs_nothing_but_time(
    quick: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = quick(small_run(tmp_path), ["Figure 1 is left out\x1b[2J."])
    assert "webvid_unlabelled: 600 clips, 600 texts; made here" in text
    assert "2 clips of 4 frames encoded a second, 1 at once" in text
    assert "ucf101: 1,000 clips, 420 texts" in text
    assert re.search(r"04_alpha_sweep +cells +2 +2 +", text) and re.search(r"total +\d+ +\d+", text)
    assert "not there" not in text and "Other programs" not in text
    assert "Left out:\n  Figure 1 is left out\\x1b[2J." in text
    assert max(map(len, text.splitlines())) <= 100
    monkeypatch.setattr(module.os, "getloadavg", lambda: (0.9, 0.0, 0.0))
    assert "Other programs were at work" in quick(small_run(tmp_path))


def test_the_papers_run_is_planned_before_anything_is_there(
    quick: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ARCHITECTURE", "ViT-S-32-alt")  # made in a moment
    monkeypatch.setenv("FITCLIP_DATA", str(tmp_path / "nothing"))
    text = " ".join(quick(replace(run_of("paper"), path=tmp_path)).split())
    assert "mit: 33,900 clips, 339 texts; nominal, not counted: " in text
    assert "ViT-B-16.pt are not there: timed with a random ViT-S-32-alt" in text
    assert "as a made-up clip of 320 x 240" in text and "Left out" not in text
    assert "05_subset_size students 54 54" in text
    monkeypatch.delenv("FITCLIP_DATA")
    with pytest.raises(ValueError, match="holds a variable that is not set"):
        quick(run_of("paper"))
