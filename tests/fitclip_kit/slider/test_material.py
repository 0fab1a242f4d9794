import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, open_material
from fitclip_kit.store.files import MANIFEST_NAME
from fitclip_kit.store.results import Cell
from tests.fitclip_kit.slider.small_run import ALPHAS, DRAWS, EVALUATED, TRAINING, build_run
from tests.fitclip_kit.slider.tiny_material import tiny_material, uneven


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
    assert material.alphas == ALPHAS
    assert {draw: one.draw for draw, one in material.students.items()} == {1: 1, 2: 2}
    trained = {(one.labelled_share, one.labelled_clips) for one in material.students.values()}
    assert trained == {(TRAINING["labelled_share"], TRAINING["labelled_clips"])}
    assert sorted(material.keys, key=str) == sorted(material.run.results.cells(), key=str)
    assert len(material.keys) == len(EVALUATED) * (1 + len(DRAWS) * 2)
    stored = material.run.results.record(material.keys[0])["protocol"]
    assert stored["model"] == material.model
    assert stored["weights"]["teacher"] == material.teacher_sha256


def test_its_sets_are_those_of_the_run(finished):
    sets = open_material(str(finished)).sets
    retrieval, actions = sets["msrvtt"], sets["ucf101"]
    assert (retrieval.title, retrieval.measure_k) == ("MSR-VTT", 5)
    assert (actions.title, actions.measure_k) == ("UCF101", 1)
    clips = RunFolder(finished).clips("msrvtt")
    assert retrieval.texts == clips["text"].tolist()
    assert retrieval.clip_ids == clips["clip_id"].tolist()
    described = RunFolder(finished).described("ucf101")
    assert actions.texts == sorted(described["classes"])
    assert list(actions.trial.templates) == described["templates"]
    assert retrieval.has_answers and actions.has_answers
    store = RunFolder(finished).store("msrvtt")
    np.testing.assert_array_equal(retrieval.frames_of(3), store.frames([3])[0])


def test_the_live_model_gives_what_is_stored(finished):
    """Through files: the folder's weights, frames and cells."""
    material = open_material(finished)
    live = LiveModel(material)
    for draw, alpha in [(1, 0.4), (2, 1.0)]:
        found = live.outcomes(Fusion.at(draw, alpha), material.sets["ucf101"])
        key = material.students[draw].cell("ucf101", alpha)
        stored = material.run.results.outcomes([key]).set_index("item")
        found = found.set_index("item").loc[stored.index.astype("str")]
        assert found["rank"].tolist() == stored["rank"].tolist()
        assert found["predicted"].tolist() == stored["predicted"].tolist()


def test_cells_of_other_studies_and_draws_play_no_part(run):
    results = RunFolder(run).results
    key = next(filter(lambda key: key.model == "fused", results.cells()))
    outcomes, protocol = results.outcomes([key]), results.record(key)["protocol"]
    training: dict[str, Any] = {
        "labelled_share": key.labelled_share,
        "labelled_clips": key.labelled_clips,
    }
    for other in (
        Cell(merge="fisher", alpha=0.4, **training, draw=1, data_set="other"),
        Cell(model="frozen_in_time", data_set="other"),
        Cell(alpha=0.4, **training, draw=1, sampling="independent", data_set="other"),
        Cell(alpha=0.4, labelled_share=1.0, labelled_clips=32, draw=1, data_set="other"),
        Cell(alpha=0.0, **training, draw=1, data_set="other"),
    ):
        results.write(other, outcomes, protocol)
    material = open_material(run)
    assert list(material.sets) == list(EVALUATED)
    assert len(material.keys) == 10


@pytest.mark.parametrize("notebook", ["03_student_distillation", "04_alpha_sweep"])
def test_an_unfinished_run_names_the_notebook(run, notebook):
    (run / notebook / MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match=f"run notebook {notebook} first"):
        open_material(run)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="run notebook 03_student_distillation first"):
        open_material(tmp_path / "nothing")


def test_a_run_without_a_sweep(run):
    shutil.rmtree(run / "results")
    with pytest.raises(ValueError, match="holds no cell of a sweep; run notebook 04_alpha_sweep"):
        open_material(run)


def test_another_sources_file_is_refused(run, tmp_path):
    file = tmp_path / "sources.yaml"
    file.write_text(yaml.safe_dump({"models": {"teacher": {"file": "x.pt", "architecture": "B"}}}))
    with pytest.raises(ValueError, match=r"03_student_distillation .* another sources file"):
        open_material(run, str(file))


def test_a_missing_cell_is_named(run):
    results = RunFolder(run).results
    key = next(filter(lambda key: key.alpha == 0.4, results.cells()))
    next((run / "results" / "cells").glob(f"{key.digest}.json")).unlink()
    with pytest.raises(ValueError, match="not been evaluated; run notebook 04_alpha_sweep again"):
        open_material(run)


def test_a_student_trained_again_since_is_refused(run):
    first, second = (RunFolder(run).student(draw) for draw in (1, 2))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    manifest = json.loads((first / MANIFEST_NAME).read_text())
    manifest["parameters"]["draw"] = 1
    (first / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"at alpha 0\.4 was measured with other weights"):
        open_material(run)


def test_clips_changed_since_are_refused(run):
    file = run / "01_data_prep" / "data" / "ucf101" / "clips.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"ucf101 .* was measured with other clips_table"):
        open_material(run)


def test_other_code_is_warned_of(run):
    record = next((run / "results" / "cells").glob("*.json"))
    content = json.loads(record.read_text())
    content["protocol"]["code"] = "older"
    record.write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match="1 of the sweep's 10 stored cells were measured by other code"
    ):
        open_material(run)


def test_frames_are_those_that_a_clip_has(tmp_path):
    pairs = tiny_material(tmp_path).sets["pairs"]
    clips = uneven(9)
    trial = pairs.trial.__class__(**{**vars(pairs.trial), "frames": clips})
    clip_set = ClipSet("uneven", "Uneven", trial, 5)
    assert [len(clip_set.frames_of(row)) for row in range(4)] == [2, 1, 2, 1]
    np.testing.assert_array_equal(clip_set.frames_of(3), clips.data[3, :1])


def test_frames_follow_the_sets_own_order(tmp_path):
    actions = tiny_material(tmp_path).sets["actions"]
    assert actions.clip_ids[0] == "clip4"
    np.testing.assert_array_equal(
        actions.frames_of(0), actions.trial.frames.frames(np.array([4]))[0]
    )
    assert actions.texts == ["eat", "jump", "run", "sit"]
    assert actions.prompts == [f"{a}{name}" for name in actions.texts for a in ("", "a ")]


@pytest.mark.parametrize("row", [-1, 9])
def test_a_clip_that_is_not_there_is_refused(tmp_path, row):
    with pytest.raises(ValueError, match=f"pairs has no clip {row}; it has 9, from 0 on"):
        tiny_material(tmp_path).sets["pairs"].frames_of(row)
