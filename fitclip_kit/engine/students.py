"""Students: each training described once, its student kept in a folder and read back from there.

What notebook 03, the subset-size study and the label-share study train is a list of `Training`.
Inside torchrun all processes call these functions together and must see the same folders: rank 0
looks for what is kept and writes, all compute, all read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, fit_student
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import distributed
from fitclip_kit.engine.measure import (
    EvaluationSet,
    State,
    Student,
    measure,
    sweep_cells,
)
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    atomic_path,
    json_digest,
    manifest_problems,
    read_manifest,
    write_manifest,
)
from fitclip_kit.store.results import Cell, ResultsStore
from fitclip_kit.weights import checkpoints
from fitclip_kit.weights.foreign_checkpoints import Checkpoint
from fitclip_kit.weights.models import LoadedModel

KIND = "student"
WEIGHTS_FILE, HISTORY_FILE = "student.safetensors", "history.csv"
TRAINED_BY = ("fitclip_core.distillation", "fitclip_kit.engine.distributed")
# Where the seeds of a way of sampling begin, of its subsets and its trainings: as many as there are
# between two.
_FIRST_SEEDS: Final = MappingProxyType({"main": 0, "independent": 500, "nested": 1000})
_DRAWS: Final = 500
_COORDINATES: Final = ("draw", "sampling", "labelled_clips")
# Of a study's table: what its students are, and what became of them.
_COLUMNS: Final = ("labelled_clips", "labelled_share", "sampling", "draw", "steps")
_RESULTS: Final = ("best_step", "loss_before", "loss_kept", "weights")


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """One student that is to be trained.

    Attributes:
        folder: where it is kept.
        draw, sampling, labelled_clips: which it is, as in `results.Cell`.
        recipe: how it is trained.
        labelled: its labelled clips; None where the recipe's labelled_share is 0.
        inputs: digests of what it is trained from: the teacher's weights, clips and frames.
        reused: it is another notebook's: it is read and never trained, and its code may be old.
    """

    folder: Path
    draw: int
    labelled_clips: int
    recipe: Recipe
    labelled: TrainingClips | None
    inputs: Mapping[str, str]
    sampling: str = "main"
    reused: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """What the student's manifest holds of it."""
        return {name: getattr(self, name) for name in _COORDINATES} | asdict(self.recipe)

    def problems(self) -> list[str]:
        """Why the student that is kept is not this one."""
        code = None if self.reused else code_digest(*TRAINED_BY)
        made: dict[str, Any] = {"parameters": self.parameters, "inputs": self.inputs, "code": code}
        return manifest_problems(self.folder, kind=KIND, **made)


class TrainedStudent(NamedTuple):
    """A student with its training history (`distillation.StudentFit.history`) and best step."""

    student: Student
    history: pd.DataFrame
    best_step: int


class Study(NamedTuple):
    """What a study measured: its cells, the teacher's first, and a row for each student.

    `loss_before` and `loss_kept` are the validation loss of the teacher's weights and of the kept
    ones, `weights` the latters' sha256.
    """

    cells: list[Cell]
    students: pd.DataFrame


def train(
    training: Training,
    teacher: ClipEncoder,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    micro_batch: int | None = None,
) -> TrainedStudent:
    """Train one student (`fit_student`) and keep it, or read back the one that is kept.

    What it was computed on (`StudentFit.computed`) is noted and not asked for: that changes
    rounding alone, and what a cluster trained is not trained again elsewhere.

    Raises: ValueError when a reused student is not there or was trained otherwise, weights are not
    finite, processes differ in code or inputs, or as `fit_student`; no student is kept then.
    """
    problems = distributed.on_first_rank(training.problems)
    if problems and training.reused:
        raise ValueError(
            f"the student in {training.folder} is not of this study ({'; '.join(problems)}); "
            "run the notebook that trains it again"
        )
    if problems:
        code = code_digest(*TRAINED_BY)
        distributed.check_same(code=code, inputs=dict(training.inputs))
        fitted = fit_student(
            copy.deepcopy(teacher),
            teacher,
            training.labelled,
            unlabelled,
            validation,
            training.recipe,
            micro_batch=micro_batch,
            processes=distributed.Processes(),
        )
        details = {"best_step": fitted.best_step, "material": dict(fitted.material)}
        _keep(
            training.folder,
            fitted.state,
            fitted.history,
            parameters=training.parameters,
            inputs=training.inputs,
            code=code,
            details={**details, **fitted.computed},
        )
    return _read(training.folder)


def keep_released(
    folder: Path, checkpoint: Checkpoint, labelled_clips: int, labelled_share: float
) -> TrainedStudent:
    """Keep a student that somebody else trained as draw 0, its history empty and its best step 0.

    labelled_clips, labelled_share: what results say of its training. `logit_scale` is left out: it
    is NaN in FitCLIP's released student. Raises ValueError when a weight is not finite.
    """
    told = {"labelled_clips": labelled_clips, "labelled_share": labelled_share}
    made: dict[str, Any] = {
        "parameters": {"draw": 0, "sampling": "main", **told, "released": checkpoint.kind},
        "inputs": {"file": checkpoint.sha256},
        "code": code_digest("fitclip_kit.weights.foreign_checkpoints"),
    }
    if distributed.on_first_rank(partial(manifest_problems, folder, kind=KIND, **made)):
        weights = {name: value for name, value in checkpoint.state.items() if name != "logit_scale"}
        nothing = pd.DataFrame({"step": pd.Series(dtype="int64")})
        _keep(folder, weights, nothing, **made, details={"best_step": 0})
    return _read(folder)


def load(folder: Path, draw: int) -> TrainedStudent:
    """A draw's student; ValueError when the folder holds no whole one, or another draw's."""
    described(folder, draw)
    return _read(folder)


def described(folder: Path, draw: int) -> Student:
    """A draw's student without its weights; ValueError as `load`."""
    if problems := manifest_problems(folder, kind=KIND):
        raise ValueError(f"no student in {folder} ({problems[0]}); run the training again")
    student = _student(folder, {})
    if student.draw != draw:
        raise ValueError(f"{folder} holds draw {student.draw}, not {draw}; give that draw's folder")
    return student


def kept_recipe(folder: Path) -> Recipe:
    """The recipe of a folder's student; ValueError for none, or one that was trained elsewhere."""
    recipe = dict(_student(folder, {}).training)
    if "released" in recipe:
        raise ValueError(
            f"the student in {folder} was not trained here, so its recipe is not known; name the "
            "folder of one that was"
        )
    del recipe["best_step"], recipe["material"]
    return Recipe(**recipe | {"crop_scale": tuple(recipe["crop_scale"])})


def seed_of(draw: int, sampling: str) -> int:
    """The seed of a draw's subset and training; ValueError for a wrong draw or way of sampling."""
    if sampling not in _FIRST_SEEDS:
        raise ValueError(f"sampling is {sampling!r}; use one of {', '.join(_FIRST_SEEDS)}")
    if not 0 <= draw < _DRAWS:
        raise ValueError(f"draw {draw} is not among 0 to {_DRAWS - 1}")
    return _FIRST_SEEDS[sampling] + draw


def subset_rows(pool: int, n: int, draw: int, sampling: str) -> np.ndarray:
    """The rows of a pool of clips that a subset of n takes: int64 `[n]`, ascending, each once.

    sampling: "nested" takes the first n of one random order of the pool, so that a draw's subsets
    contain the smaller ones; "independent" draws each size anew (supplement, section 7).

    Raises: ValueError when n is not in 1 to pool, or as `seed_of`.
    """
    if not 1 <= n <= pool:
        raise ValueError(f"{n} clips are wanted and there are {pool}; ask for 1 to {pool}")
    seed = seed_of(draw, sampling)
    rng = np.random.default_rng([seed] if sampling == "nested" else [seed, n])
    return np.sort(rng.permutation(pool)[:n]).astype(np.int64)


def subset_trainings(
    folder: Path,
    pool: TrainingClips,
    recipe: Recipe,
    recipe_clips: int,
    sizes: Sequence[int],
    draws: Mapping[str, Sequence[int]],
    inputs: Mapping[str, str],
    *,
    steps: str = "proportional",
) -> list[Training]:
    """The students of the subset-size study: trained on labels alone, on n clips of a pool.

    Args:
        folder: each student gets a folder in it.
        recipe: a recipe for `recipe_clips` labelled clips; its share and seed are replaced.
        draws: way of sampling -> numbers of its draws.
        inputs: digests of the teacher, the pool and the validation clips.
        steps: "proportional" to the clips, at least 1, validations likewise; or "fixed".

    Raises: ValueError when sizes or draws are repeated, steps is unknown, or as `subset_rows`.
    Source: supplement, section 7 and figure 4.
    """
    if steps not in ("proportional", "fixed"):
        raise ValueError(f"steps is {steps!r}; use proportional or fixed")
    for what, numbers in {"sizes": sizes, **draws}.items():
        _check_distinct(what, numbers)
    trainings = []
    pairs = [(sampling, draw) for sampling, numbers in draws.items() for draw in numbers]
    for (sampling, draw), size in product(pairs, sizes):
        rows = subset_rows(len(pool), size, draw, sampling)
        factor = size / recipe_clips if steps == "proportional" else 1.0
        captions = [pool.captions[row] for row in rows]
        training = Training(
            folder=folder / f"size_{size:05d}_{sampling}_{draw}",
            draw=draw,
            sampling=sampling,
            labelled_clips=size,
            recipe=replace(
                recipe,
                seed=seed_of(draw, sampling),
                labelled_share=1.0,
                steps=max(1, round(factor * recipe.steps)),
                validate_every=max(1, round(factor * recipe.validate_every)),
            ),
            labelled=TrainingClips(pool.frames, captions, pool.indices[rows]),
            inputs={**inputs, "labelled clips": json_digest(rows.tolist())},
        )
        trainings.append(training)
    return trainings


def share_trainings(
    folder: Path,
    kept: Path,
    draw: int,
    labelled: TrainingClips,
    labelled_clips: int,
    pseudo_shares: Sequence[float],
    inputs: Mapping[str, str],
    *,
    teacher_temperature: float | None = 0.015,
    recipe: Recipe | None = None,
) -> list[Training]:
    """One draw's students of the label-share study: all as a kept one, but for the losses' weights.

    Args:
        folder: each student that has to be trained gets a folder in it.
        kept: the folder of the student whose recipe all have; it is reused for its own share.
        draw, labelled, labelled_clips, inputs: the kept one's, as in `Training`.
        pseudo_shares: weights of the distillation loss, 1 - labelled_share; 0: labels alone.
        teacher_temperature: as `Recipe`, of those that have to be trained.
        recipe: the kept one's; None: read from its folder.

    Raises: ValueError when a share is outside [0, 1] or repeated, the kept one was trained at one
    of the shares with another teacher temperature, or as `kept_recipe`.
    Source: supplement, section 8 and figure 5.
    """
    _check_distinct("shares", pseudo_shares)
    recipe = recipe or kept_recipe(kept)
    others = replace(recipe, teacher_temperature=teacher_temperature)
    trainings = []
    for share in pseudo_shares:
        labelled_share = round(1 - share, 9)
        reused = labelled_share == round(recipe.labelled_share, 9)
        if reused and recipe != others:
            raise ValueError(
                f"the student in {kept} has teacher_temperature {recipe.teacher_temperature} and "
                f"the study asks for {teacher_temperature} at the same share, {share:g}; give "
                "notebooks 03 and 06 the same (under `common`), or leave this share out"
            )
        training = Training(
            folder=kept if reused else folder / f"share_{share:g}_draw_{draw}",
            draw=draw,
            labelled_clips=labelled_clips,
            recipe=recipe if reused else replace(others, labelled_share=labelled_share),
            labelled=labelled,
            inputs=inputs,
            reused=reused,
        )
        trainings.append(training)
    return trainings


def train_and_measure(
    trainings: Sequence[Training],
    teacher: LoadedModel,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    micro_batch: int | None = None,
) -> Study:
    """Train each student, or read it back, and measure it at once, fused with the teacher.

    The teacher is measured too. What is there already is not made again (`train`, `measure`), so a
    study that was stopped goes on where it was.

    Raises: ValueError when two trainings have one folder or one cell, or as `train` and `measure`.
    """
    if not trainings:
        raise ValueError("there is nothing to train; give at least one training")
    _check_distinct("folders of trainings", [str(one.folder) for one in trainings])
    keys = [tuple(one.parameters[name] for name in _COLUMNS[:4]) for one in trainings]
    _check_distinct("cells of trainings", keys)
    encoder: Any = teacher.encoder
    names = [data_set.name for data_set in data_sets]
    cells = sweep_cells(names, [], [0.0])
    measure(cells, teacher, data_sets, results)
    rows = []
    for training in trainings:
        trained = train(training, encoder, unlabelled, validation, micro_batch)
        fused = sweep_cells(names, [trained.student], alphas)
        measure(fused, teacher, data_sets, results, students=[trained.student])
        cells += fused
        losses, best = trained.history["validation_loss"], trained.best_step
        made = [training.parameters[name] for name in _COLUMNS]
        rows.append([*made, best, losses.iloc[0], losses.iloc[best], trained.student.sha256])
    return Study(cells, pd.DataFrame(rows, columns=[*_COLUMNS, *_RESULTS]))


def _keep(folder: Path, state: State, history: pd.DataFrame, **made: Any) -> None:
    def write() -> None:
        checkpoints.save(folder / WEIGHTS_FILE, state)
        with atomic_path(folder / HISTORY_FILE) as temporary:
            history.to_csv(temporary, index=False)
        outputs = [folder / WEIGHTS_FILE, folder / HISTORY_FILE]
        write_manifest(folder, kind=KIND, outputs=outputs, **made)

    distributed.on_first_rank(write)


def _read(folder: Path) -> TrainedStudent:
    student = _student(folder, checkpoints.load(folder / WEIGHTS_FILE))
    history = pd.read_csv(folder / HISTORY_FILE)
    return TrainedStudent(student, history, int(read_manifest(folder)["details"]["best_step"]))


def _student(folder: Path, state: State) -> Student:
    manifest = read_manifest(folder)
    parameters, details = manifest["parameters"], manifest["details"]
    told = {name: parameters[name] for name in (*_COORDINATES, "labelled_share")}
    training = {name: value for name, value in parameters.items() if name not in _COORDINATES}
    training |= {name: details.get(name) for name in ("best_step", "material")}
    if "released" in parameters:
        training = {"released": parameters["released"]}
    sha256 = manifest["outputs"][WEIGHTS_FILE]["sha256"]
    return Student(**told, state=state, sha256=sha256, training=training)


def _check_distinct(what: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what} are repeated: {list(values)}; give each once")
