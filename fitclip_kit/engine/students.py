"""Students on disk: one folder a draw, trained once and read back as long as nothing changed.

Inside torchrun all processes call these functions together and must see the same folders: rank 0
looks for what is kept and writes, all compute, all read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fitclip_kit.engine import distributed
from fitclip_core.distillation import Recipe, StudentFit
from fitclip_kit.engine.sweep import State, Student
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    atomic_path,
    file_sha256,
    manifest_problems,
    read_manifest,
    write_manifest,
)
from fitclip_kit.weights import checkpoints
from fitclip_kit.weights.foreign_checkpoints import Checkpoint

KIND = "student"
WEIGHTS_FILE, HISTORY_FILE = "student.safetensors", "history.csv"
TRAINED_BY = "fitclip_core.distillation"


@dataclass(frozen=True)
class TrainedStudent:
    """A student with its training history (`distillation.StudentFit.history`) and best step."""

    student: Student
    history: pd.DataFrame
    best_step: int
    trained_now: bool


def fit_or_load(
    folder: Path,
    draw: int,
    recipe: Recipe,
    inputs: Mapping[str, str],
    fit: Callable[[], StudentFit],
) -> TrainedStudent:
    """Return the student kept in `folder`, or fit one and keep it there.

    The kept one is taken only if it is whole and was made with this recipe, these inputs and this
    code; otherwise `fit()` runs and replaces it. What it was computed on (`StudentFit.computed`)
    is noted in its manifest and not asked for: that changes rounding alone, and a student that a
    cluster trained is not trained again elsewhere.

    Args:
        folder: one draw's folder.
        draw: the draw's number.
        recipe: how it is trained.
        inputs: digests of what it is trained from: the teacher's weights, clips and frames.
        fit: calls `distillation.fit_student`.

    Returns:
        The student, read back from the folder.

    Raises:
        ValueError: the fitted weights are not finite, processes differ in their code or inputs,
            and whatever `fit` raises; the folder then holds no valid student.
    """
    parameters = {"draw": draw, **asdict(recipe)}
    code = code_digest(TRAINED_BY)
    stale = _stale(folder, parameters, inputs, code)
    if stale:
        distributed.check_same(code=code, inputs=dict(inputs))
        fitted = fit()
        made = {"best_step": fitted.best_step, "material": dict(fitted.material)}
        details = {**made, **fitted.computed}
        _keep(folder, fitted.state, fitted.history, parameters, inputs, code, details)
    return _load(folder, draw, trained_now=stale)


def keep_released(folder: Path, draw: int, checkpoint: Checkpoint) -> TrainedStudent:
    """Keep a student that somebody else trained in `folder`, as `fit_or_load` keeps its own.

    Args:
        folder: one draw's folder.
        draw: the number that the sweep gives it.
        checkpoint: its weights. A `logit_scale`, which plays no part in a fusion, is left out: it
            is NaN in FitCLIP's released student.

    Returns:
        The student, read back from the folder, with an empty history and best step 0.

    Raises:
        ValueError: a weight is not finite.
    """
    parameters = {"draw": draw, "released": checkpoint.kind}
    inputs = {"file": checkpoint.sha256}
    code = code_digest("fitclip_kit.weights.foreign_checkpoints")
    if _stale(folder, parameters, inputs, code):
        weights = {name: value for name, value in checkpoint.state.items() if name != "logit_scale"}
        nothing = pd.DataFrame({"step": pd.Series(dtype="int64")})
        _keep(folder, weights, nothing, parameters, inputs, code, {"best_step": 0})
    return _load(folder, draw, trained_now=False)


def training_record(folder: Path) -> dict[str, Any]:
    """How a kept student was trained, for the protocol of its results: JSON data.

    Its recipe, `best_step` and `material` (see `distillation.StudentFit`); of one that was trained
    elsewhere only the kind of its file, `released`.

    Raises: ValueError when the folder holds no student.
    """
    manifest = read_manifest(folder)
    recipe = {name: value for name, value in manifest["parameters"].items() if name != "draw"}
    if "released" in recipe:
        return recipe
    return recipe | {name: manifest["details"].get(name) for name in ("best_step", "material")}


def load(folder: Path, draw: int) -> TrainedStudent:
    """Read a draw's student back.

    Args:
        folder: where `fit_or_load` kept it.
        draw: the draw's number.

    Raises:
        ValueError: the folder holds no whole student, or another draw's.
    """
    problems = manifest_problems(folder, kind=KIND)
    if problems:
        raise ValueError(f"no student in {folder} ({problems[0]}); run the training again")
    kept = read_manifest(folder)["parameters"]["draw"]
    if kept != draw:
        raise ValueError(f"{folder} holds draw {kept}, not {draw}; give that draw's folder")
    return _load(folder, draw, trained_now=False)


def _stale(
    folder: Path, parameters: Mapping[str, Any], inputs: Mapping[str, str], code: str
) -> bool:
    def problems() -> list[str]:
        return manifest_problems(folder, kind=KIND, parameters=parameters, inputs=inputs, code=code)

    return bool(distributed.on_first_rank(problems))


def _keep(
    folder: Path,
    state: State,
    history: pd.DataFrame,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: str,
    details: Mapping[str, Any],
) -> None:
    def write() -> None:
        checkpoints.save(folder / WEIGHTS_FILE, state)
        with atomic_path(folder / HISTORY_FILE) as temporary:
            history.to_csv(temporary, index=False)
        write_manifest(
            folder,
            kind=KIND,
            parameters=parameters,
            inputs=inputs,
            code=code,
            outputs=[folder / WEIGHTS_FILE, folder / HISTORY_FILE],
            details=details,
        )

    distributed.on_first_rank(write)


def _load(folder: Path, draw: int, *, trained_now: bool) -> TrainedStudent:
    weights = folder / WEIGHTS_FILE
    training = training_record(folder)
    student = Student(draw, checkpoints.load(weights), file_sha256(weights), training)
    history = pd.read_csv(folder / HISTORY_FILE)
    best_step = int(read_manifest(folder)["details"]["best_step"])
    return TrainedStudent(student, history, best_step, trained_now)
