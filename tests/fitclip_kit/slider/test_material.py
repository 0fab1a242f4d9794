"""A run is opened, or it is said which notebook has to be run first."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from fitclip_core import zero_shot
from fitclip_kit.engine.measure import EvaluationSet
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.slider import views
from fitclip_kit.slider.background import Task
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, clip_set_of, open_material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.store.files import MANIFEST_NAME
from fitclip_kit.store.results import Cell
from tests.fitclip_kit.slider.small_run import DRAWS, EVALUATED, build_run
from tests.fitclip_kit.slider.tiny_material import tiny_material, uneven
from tests.make import RandomClips


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(finished, tmp_path / "small")


def test_a_finished_run_is_opened(finished):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        material = open_material(finished)
    assert material.run == RunFolder(finished)
    assert list(material.sets) == list(EVALUATED)  # in the embedded benchmark's order
    assert {draw: one.draw for draw, one in material.students.items()} == {1: 1, 2: 2}
    assert sorted(material.cells, key=str) == sorted(material.run.results.cells(), key=str)
    assert len(material.cells) == len(EVALUATED) * (1 + len(DRAWS) * 2)
    stored = material.run.results.record(material.cells[0])["protocol"]
    assert stored["model"] == material.model
    assert stored["weights"]["teacher"] == material.teacher_sha256


def test_its_sets_are_those_of_the_run(finished):
    sets = open_material(str(finished)).sets
    retrieval, actions = sets["msrvtt"], sets["ucf101"]
    assert (retrieval.title, retrieval.measure.name) == ("MSR-VTT", "text-to-video R@5")
    assert (actions.title, actions.measure.name) == ("UCF101", "top-1")
    clips = RunFolder(finished).clips("msrvtt")
    assert retrieval.texts == clips["text"].tolist()
    assert retrieval.clip_ids == clips["clip_id"].tolist()
    described = RunFolder(finished).described("ucf101")
    assert actions.texts == sorted(described["classes"])
    assert list(actions.trial.templates) == described["templates"]
    store = RunFolder(finished).store("msrvtt")
    np.testing.assert_array_equal(retrieval.frames_of(3), store.frames([3])[0])


def test_the_live_model_gives_what_is_stored(finished):
    """Through files: the folder's weights, frames and cells."""
    material = open_material(finished)
    live = LiveModel(material)
    for draw, alpha in [(1, 0.4), (2, 1.0)]:
        found = live.outcomes(Fusion.at(draw, alpha), material.sets["ucf101"], Task())
        key = material.students[draw].cell("ucf101", alpha)
        stored = material.run.results.outcomes([key]).set_index("item")
        found = found.set_index("item").loc[stored.index.astype("str")]
        assert found["rank"].tolist() == stored["rank"].tolist()
        assert found["predicted"].tolist() == stored["predicted"].tolist()


def test_cells_of_other_studies_and_draws_play_no_part(run):
    results = RunFolder(run).results
    cell = next(cell for cell in results.cells() if cell.model == "fused")
    outcomes, protocol = results.outcomes([cell]), results.record(cell)["protocol"]
    for other in (
        replace(cell, data_set="other", merge="fisher"),
        Cell("other", model="frozen_in_time"),
        replace(cell, data_set="other", sampling="independent"),
        replace(cell, data_set="other", labelled_share=1.0),
        replace(cell, data_set="other", draw=7),
        Cell("other"),
    ):
        results.write(other, outcomes, protocol)
    material = open_material(run)
    assert list(material.sets) == list(EVALUATED)
    assert len(material.cells) == 10


def without_a_cell(run: Path) -> None:
    key = next(cell for cell in RunFolder(run).results.cells() if cell.alpha == 0.4)
    (run / "results" / "cells" / f"{key.digest}.json").unlink()


def with_another_student(run: Path) -> None:
    first, second = (RunFolder(run).student(draw) for draw in (1, 2))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    manifest = json.loads((first / MANIFEST_NAME).read_text())
    manifest["parameters"]["draw"] = 1
    (first / MANIFEST_NAME).write_text(json.dumps(manifest))


def with_fewer_clips(run: Path) -> None:
    file = run / "01_data_prep" / "data" / "ucf101" / "clips.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


TRAINING, SWEEP = "03_student_distillation", "04_alpha_sweep"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / TRAINING / MANIFEST_NAME).unlink(), f"run notebook {TRAINING} first"),
        (lambda run: (run / SWEEP / MANIFEST_NAME).unlink(), f"run notebook {SWEEP} first"),
        (lambda run: shutil.rmtree(run / "results"), f"no cell of a sweep; run notebook {SWEEP}"),
        (without_a_cell, f"not been evaluated; run notebook {SWEEP} again"),
        (with_another_student, r"at alpha 0\.4 was measured with other weights"),
        (with_fewer_clips, r"ucf101 .* was measured with other clips_table"),
    ],
)
def test_what_is_missing_or_changed_is_named(run, damage, says):
    damage(run)
    with pytest.raises(ValueError, match=says):
        open_material(run)


def test_another_sources_file_is_refused(finished, tmp_path):
    file = tmp_path / "sources.yaml"
    file.write_text(yaml.safe_dump({"models": {"teacher": {"file": "x.pt", "architecture": "B"}}}))
    with pytest.raises(ValueError, match=r"03_student_distillation .* another sources file"):
        open_material(finished, str(file))


def test_other_code_is_warned_of(run):
    record = next((run / "results" / "cells").glob("*.json"))
    content = json.loads(record.read_text())
    content["protocol"]["code"] = "older"
    record.write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match="1 of the sweep's 10 stored cells were measured by other code"
    ):
        open_material(run)


def test_frames_follow_the_sets_own_order_and_are_those_a_clip_has(tmp_path):
    material = tiny_material(tmp_path)
    actions, pairs = material.sets["actions"], material.sets["pairs"]
    assert actions.clip_ids[0] == "clip4"
    expected = actions.trial.frames.frames(np.array([4]))[0]
    np.testing.assert_array_equal(actions.frames_of(0), expected)
    assert actions.texts == ["eat", "jump", "run", "sit"]
    assert actions.prompts == [f"{a}{name}" for name in actions.texts for a in ("", "a ")]
    assert (actions.called(1), actions.right_texts(1)) == ("clip2: jump", [1])
    assert (actions.candidates, pairs.candidates) == (4, 9)
    clips = uneven(9)
    few = ClipSet("uneven", "Uneven", replace(pairs.trial, frames=clips))
    assert [len(few.frames_of(row)) for row in range(4)] == [2, 1, 2, 1]
    np.testing.assert_array_equal(few.frames_of(3), clips.data[3, :1])
    with pytest.raises(ValueError, match="pairs has no clip 9; it has 9, from 0 on"):
        pairs.frames_of(9)
    blind = ClipSet("x", "X", replace(actions.trial, clips=actions.trial.clips[["clip_id"]]))
    assert (blind.called(1), blind.right_texts(1)) == ("clip2", [])


def test_several_captions_of_one_clip(tmp_path):
    """Each clip is encoded and retrieved once, and all of its captions are right."""
    paths = ["3.mp4", "0.mp4", "3.mp4", "1.mp4", "0.mp4", "3.mp4"]
    ids = ["clip3", "clip0", "x2", "clip1", "x4", "x5"]
    clips = pd.DataFrame({"clip_id": ids, "path": paths, "text": [f"{one} z" for one in "abcdef"]})
    frames = RandomClips(5, seed=3)
    several = clip_set_of(EvaluationSet("many", clips, frames), "Many")
    assert several.first_rows == [0, 1, 3]
    rights = [several.right_texts(row) for row in (0, 1, 3, 5)]
    assert rights == [[0, 2, 5], [1, 4], [3], [0, 2, 5]]
    assert several.candidates == 3 and len(several.texts) == len(several.clip_ids) == 6
    assert np.array_equal(several.frames_of(0), several.frames_of(5))
    assert several.called(4) == "x4: e z"
    frames.read.clear()

    live, fusion = LiveModel(tiny_material(tmp_path)), Fusion.at(1, 0.4)
    outcomes = live.outcomes(fusion, several, Task())
    assert sorted(np.concatenate(frames.read)) == [0, 1, 3]
    sizes = outcomes.groupby("direction").size().to_dict()
    assert sizes == {"text_to_video": 6, "video_to_text": 3}
    pd.testing.assert_frame_equal(
        outcomes, zero_shot.evaluate(live._encoder, clips, several.trial.frames)
    )
    texts = live.text_features(fusion, several, Task())
    video = live.clip_features(fusion, several, 2, Task())
    rows = views.probabilities(video, texts, 10, several.texts, several.right_texts(2))
    assert sorted(row["name"] for row in rows if row["right"]) == ["a z", "c z", "f z"]
    assert torch.equal(video, live.clip_features(fusion, several, 5, Task()))
