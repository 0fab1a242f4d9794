"""Students on disk: trained once, and again when something they follow from changed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fitclip_core.distillation import Recipe, StudentFit
from fitclip_kit.engine import students
from fitclip_kit.engine.students import (
    TrainedStudent,
    fit_or_load,
    keep_released,
    load,
    training_record,
)
from fitclip_kit.store.files import file_sha256, read_manifest
from fitclip_kit.weights.foreign_checkpoints import Checkpoint

RECIPE = Recipe(steps=4, validate_every=2, seed=1)
INPUTS = {"teacher": "abc", "clips": "def"}
HISTORY = pd.DataFrame(
    {
        "step": [0, 1, 2],
        "labelled_loss": [np.nan, 1 / 3, 0.1 + 0.2],
        "distillation_loss": [np.nan, np.nan, np.nan],
        "validation_loss": [np.pi, np.nan, np.e],
    }
)


class Fits:
    """Counts its calls; each gives other weights."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> StudentFit:
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        state = {"weight": torch.randn(3, 2, generator=generator), "steps": torch.tensor(7)}
        return StudentFit(state, HISTORY, best_step=2)


def run(
    folder: Path, fit: Fits, recipe: Recipe = RECIPE, inputs: dict[str, str] = INPUTS
) -> TrainedStudent:
    return fit_or_load(folder / "draw_1", 1, recipe, inputs, fit)


def same_weights(one: TrainedStudent, other: TrainedStudent) -> bool:
    states = one.student.state, other.student.state
    return all(torch.equal(states[0][name], states[1][name]) for name in ("weight", "steps"))


def test_a_student_is_fitted_once(tmp_path: Path) -> None:
    fit = Fits()
    first, second = run(tmp_path, fit), run(tmp_path, fit)
    assert fit.calls == 1
    assert (first.trained_now, second.trained_now) == (True, False)
    assert first.student.sha256 == file_sha256(tmp_path / "draw_1" / "student.safetensors")
    expected = Fits()()
    for trained in (first, second, load(tmp_path / "draw_1", 1)):
        assert trained.student.draw == 1
        assert trained.best_step == 2
        assert trained.student.sha256 == first.student.sha256
        pd.testing.assert_frame_equal(trained.history, HISTORY, check_exact=True)
        assert torch.equal(trained.student.state["weight"], expected.state["weight"])
        assert trained.student.state["steps"] == 7


def test_what_it_was_computed_on_is_noted_and_not_asked_for(tmp_path: Path) -> None:
    fit = Fits()
    elsewhere = replace(fit(), computed={"device": "cuda", "processes": 8, "micro_batch": 4})
    fit_or_load(tmp_path / "draw_1", 1, RECIPE, INPUTS, lambda: elsewhere)
    details = read_manifest(tmp_path / "draw_1")["details"]
    assert details.pop("material") == {}
    assert details == {"best_step": 2, "device": "cuda", "processes": 8, "micro_batch": 4}
    assert not run(tmp_path, fit).trained_now
    assert fit.calls == 1


def test_how_it_was_trained_goes_with_it(tmp_path: Path) -> None:
    made = replace(Fits()(), material={"labelled_clips": 9}, computed={"device": "cuda"})
    fit_or_load(tmp_path / "draw_1", 1, RECIPE, INPUTS, lambda: made)
    expected = {**asdict(RECIPE), "best_step": 2, "material": {"labelled_clips": 9}}
    found = load(tmp_path / "draw_1", 1).student.training
    assert found == training_record(tmp_path / "draw_1") == json.loads(json.dumps(expected))
    keep_released(tmp_path / "draw_0", 0, released(1.0))
    assert load(tmp_path / "draw_0", 0).student.training == {"released": "fitclip_student"}


def test_another_folder_has_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "one", Fits())
    run(tmp_path / "other", Fits())
    for name in ("student.safetensors", "history.csv", "manifest.json"):
        files = [tmp_path / folder / "draw_1" / name for folder in ("one", "other")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list((tmp_path / "one" / "draw_1").iterdir())) == 3


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 1e-4}, {"seed": 2}, {"crop_scale": (0.6, 1.0)}, {"teacher_temperature": 1}],
)
def test_another_recipe_is_fitted(tmp_path: Path, change: dict) -> None:
    fit = Fits()
    first = run(tmp_path, fit)
    second = run(tmp_path, fit, replace(RECIPE, **change))
    assert fit.calls == 2
    assert second.trained_now
    assert not same_weights(first, second)
    run(tmp_path, fit, replace(RECIPE, **change))
    assert fit.calls == 2


@pytest.mark.parametrize("inputs", [{"teacher": "other"}, {"frames": "new"}])
def test_other_inputs_are_fitted(tmp_path: Path, inputs: dict[str, str]) -> None:
    fit = Fits()
    run(tmp_path, fit)
    run(tmp_path, fit, inputs={**INPUTS, **inputs})
    run(tmp_path, fit, inputs={**INPUTS, **inputs})
    assert fit.calls == 2


def test_another_draw_or_code_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fits()
    run(tmp_path, fit)
    fit_or_load(tmp_path / "draw_1", 2, RECIPE, INPUTS, fit)
    assert fit.calls == 2
    monkeypatch.setattr(students, "code_digest", lambda *modules: "other code")
    fit_or_load(tmp_path / "draw_1", 2, RECIPE, INPUTS, fit)
    assert fit.calls == 3


@pytest.mark.parametrize("name", ["student.safetensors", "history.csv", "manifest.json"])
def test_damaged_students_are_fitted_again(tmp_path: Path, name: str) -> None:
    fit = Fits()
    run(tmp_path, fit)
    file = tmp_path / "draw_1" / name
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    with pytest.raises(ValueError, match=r"no student in .*run the training again"):
        load(tmp_path / "draw_1", 1)
    run(tmp_path, fit)
    assert fit.calls == 2
    file.unlink()
    with pytest.raises(ValueError, match="no student in"):
        load(tmp_path / "draw_1", 1)


def test_a_failed_fit_leaves_no_student(tmp_path: Path) -> None:
    def broken() -> StudentFit:
        return StudentFit({"weight": torch.tensor([torch.nan])}, HISTORY, 2)

    with pytest.raises(ValueError, match="weight holds NaN"):
        fit_or_load(tmp_path, 1, RECIPE, INPUTS, broken)
    with pytest.raises(ValueError, match="no student"):
        load(tmp_path, 1)


def test_an_interruption_between_the_files_leaves_no_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Fits()
    run(tmp_path, fit)

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(students, "write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, fit, replace(RECIPE, seed=5))
    with pytest.raises(ValueError, match="other bytes"):
        load(tmp_path / "draw_1", 1)
    run(tmp_path, fit)
    assert fit.calls == 3


def test_another_draws_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Fits())
    with pytest.raises(ValueError, match="holds draw 1, not 3"):
        load(tmp_path / "draw_1", 3)
    with pytest.raises(ValueError, match=r"no student in .*nowhere"):
        load(tmp_path / "nowhere", 1)


def released(number: float, **further: torch.Tensor) -> Checkpoint:
    state = {"weight": torch.full((2,), number), "logit_scale": torch.tensor(torch.nan), **further}
    return Checkpoint(kind="fitclip_student", state=state, left_out={}, sha256=f"sha of {number}")


def test_a_released_student_is_kept_without_its_logit_scale(tmp_path: Path) -> None:
    kept = keep_released(tmp_path / "draw_0", 0, released(1.0))
    for one in (kept, load(tmp_path / "draw_0", 0)):
        assert one.student.draw == 0
        assert one.student.state.keys() == {"weight"}
        assert torch.equal(one.student.state["weight"], torch.ones(2))
        assert one.history.empty
        assert one.best_step == 0
    assert kept.student.sha256 == file_sha256(tmp_path / "draw_0" / "student.safetensors")


def test_another_released_student_takes_its_place(tmp_path: Path) -> None:
    keep_released(tmp_path, 0, released(1.0))
    before = (tmp_path / "student.safetensors").stat().st_mtime_ns
    keep_released(tmp_path, 0, released(1.0))
    assert (tmp_path / "student.safetensors").stat().st_mtime_ns == before
    assert torch.equal(
        keep_released(tmp_path, 0, released(2.0)).student.state["weight"], torch.full((2,), 2.0)
    )
    with pytest.raises(ValueError, match="bias"):
        keep_released(tmp_path, 0, released(3.0, bias=torch.tensor([torch.inf])))
