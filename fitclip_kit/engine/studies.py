"""Studies: many students that differ in one thing, each trained, measured and kept by itself.

The subset-size study varies the number of labelled clips, the label-share study the weights of the
two losses. What a study trains is a list of `Training`; `train_and_measure` works it off.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd

from fitclip_core.distillation import Recipe, StudentFit, TrainingClips, fit_student
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import students
from fitclip_kit.engine.sweep import EvaluationSet, Student, sweep_alphas, unmeasured
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import (
    json_digest,
    manifest_problems,
    read_manifest,
)
from fitclip_kit.store.results import FIRST_SEEDS, CellKey, ResultsStore

STEPS: Final = ("proportional", "fixed")
_DRAWS: Final = 500  # of each way of sampling: as many seeds as there are between the two


@dataclass(frozen=True, kw_only=True)
class Training:
    """One student of a study.

    Attributes:
        folder: where it is kept.
        seed: its draw's number in the results and in `folder`.
        subset_size: labelled clips asked for.
        recipe: how it is trained.
        labelled: its labelled clips; None where the recipe's labelled_share is 0.
        inputs: digests of what it is trained from.
        reused: the student is another study's: it is read and never trained.
    """

    folder: Path
    seed: int
    subset_size: int
    recipe: Recipe
    labelled: TrainingClips | None
    inputs: Mapping[str, str]
    reused: bool = False


@dataclass(frozen=True)
class Study:
    """What a study measured.

    Attributes:
        keys: its cells in the results, the teacher's first.
        students: a row each: `subset_size`, `label_share`, `seed`, `steps`, `best_step`,
            `loss_before` and `loss_kept` (validation loss of the teacher's weights and of the kept
            ones) and `weights` (their sha256).
    """

    keys: list[CellKey]
    students: pd.DataFrame


def seed_of(draw: int, sampling: str) -> int:
    """The seed under which results keep a draw of a way of sampling.

    draw: 0 to 499. sampling: "independent" or "nested".

    Raises: ValueError for another draw or way of sampling.
    """
    if sampling not in FIRST_SEEDS:
        raise ValueError(f"sampling is {sampling!r}; use one of {', '.join(FIRST_SEEDS)}")
    if not 0 <= draw < _DRAWS:
        raise ValueError(f"draw {draw} is not among 0 to {_DRAWS - 1}")
    return FIRST_SEEDS[sampling] + draw


def subset_rows(pool: int, n: int, draw: int, sampling: str) -> np.ndarray:
    """The rows of a pool of clips that a subset takes.

    Args:
        pool: number of clips to draw from.
        n: number of clips to take.
        draw: the draw's number.
        sampling: "nested" takes the first n of one random order of the pool, so that a draw's
            subsets contain the smaller ones; "independent" draws each size anew.

    Returns:
        int64 `[n]`, ascending, each row once.

    Raises:
        ValueError: n is not in 1 to pool, or as `seed_of`.

    Source: supplement, section 7 (independent subsets of the training set).
    """
    if not 1 <= n <= pool:
        raise ValueError(f"{n} clips are wanted and there are {pool}; ask for 1 to {pool}")
    seed = seed_of(draw, sampling)
    rng = np.random.default_rng([seed] if sampling == "nested" else [seed, n])
    return np.sort(rng.permutation(pool)[:n]).astype(np.int64)


def kept_recipe(folder: Path) -> Recipe:
    """The recipe of the student that is kept in a folder.

    Raises: ValueError when the folder holds no student, or one that was trained elsewhere, whose
    recipe is not known.
    """
    parameters = dict(read_manifest(folder)["parameters"])
    if "released" in parameters:
        raise ValueError(
            f"the student in {folder} was not trained here, so its recipe is not known; name the "
            "folder of one that was"
        )
    del parameters["draw"]
    return Recipe(**parameters | {"crop_scale": tuple(parameters["crop_scale"])})


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
        pool: labelled clips to draw from.
        recipe: a recipe for `recipe_clips` labelled clips; its share and seed are replaced.
        recipe_clips: the number of labelled clips that the recipe's steps are meant for.
        sizes: numbers of labelled clips, above 0.
        draws: way of sampling -> numbers of its draws.
        inputs: digests of the teacher, the pool and the validation clips.
        steps: "proportional": as many for each clip as the recipe has for its own, at least 1, and
            validations spread likewise; "fixed": the recipe's at every size.

    Returns:
        One training for each way of sampling, draw and size, in this order.

    Raises:
        ValueError: a size is not in 1 to the pool's, sizes or draws are repeated, or steps or a way
            of sampling is unknown.

    Source: supplement, section 7 and figure 4.
    """
    if steps not in STEPS:
        raise ValueError(f"steps is {steps!r}; use one of {', '.join(STEPS)}")
    for what, numbers in {"sizes": sizes, **draws}.items():
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{what} are repeated: {list(numbers)}; give each once")
    trainings = []
    for sampling, numbers in draws.items():
        for draw in numbers:
            for size in sizes:
                rows = subset_rows(len(pool), size, draw, sampling)
                factor = size / recipe_clips if steps == "proportional" else 1.0
                trainings.append(
                    Training(
                        folder=folder / f"size_{size:05d}_{sampling}_{draw}",
                        seed=seed_of(draw, sampling),
                        subset_size=size,
                        recipe=replace(
                            recipe,
                            seed=seed_of(draw, sampling),
                            labelled_share=1.0,
                            steps=max(1, round(factor * recipe.steps)),
                            validate_every=max(1, round(factor * recipe.validate_every)),
                        ),
                        labelled=_taken(pool, rows),
                        inputs={**inputs, "labelled clips": json_digest(rows.tolist())},
                    )
                )
    return trainings


def share_trainings(
    folder: Path,
    kept: Path,
    draw: int,
    labelled: TrainingClips,
    subset_size: int,
    pseudo_shares: Sequence[float],
    inputs: Mapping[str, str],
    *,
    teacher_temperature: float | None = 0.015,
) -> list[Training]:
    """One draw's students of the label-share study: all as a kept one, but for the losses' weights.

    Args:
        folder: each student that has to be trained gets a folder in it.
        kept: the folder of the student whose recipe all have; it is reused for its own share.
        draw: the draw's number.
        labelled: the labelled clips that the kept one was trained on.
        subset_size: labelled clips asked for.
        pseudo_shares: weights of the distillation loss, 1 - labelled_share; 0 is training on labels
            alone, as WiSE-FT does.
        inputs: digests of what the kept one was trained from.
        teacher_temperature: as `Recipe`, of those that have to be trained.

    Returns:
        One training for each share.

    Raises:
        ValueError: a share is outside [0, 1] or repeated, the kept one was trained at one of the
            shares with another teacher temperature, or as `kept_recipe`.

    Source: supplement, section 8 and figure 5.
    """
    if len(set(pseudo_shares)) < len(pseudo_shares):
        raise ValueError(f"shares are repeated: {list(pseudo_shares)}; give each once")
    recipe = kept_recipe(kept)
    others = replace(recipe, teacher_temperature=teacher_temperature)
    trainings = []
    for share in pseudo_shares:
        labelled_share = round(1 - share, 9)
        reused = labelled_share == round(recipe.labelled_share, 9)
        if reused and recipe != others:
            raise ValueError(
                f"the student in {kept} has teacher_temperature {recipe.teacher_temperature} and "
                f"the study asks for {teacher_temperature} at the same share, {share:g}, which is "
                "one cell of the results; give notebooks 03 and 06 the same (under `common` in a "
                "profile), or leave this share out"
            )
        trainings.append(
            Training(
                folder=kept if reused else folder / f"share_{share:g}_draw_{draw}",
                seed=draw,
                subset_size=subset_size,
                recipe=recipe if reused else replace(others, labelled_share=labelled_share),
                labelled=labelled,
                inputs=inputs,
                reused=reused,
            )
        )
    return trainings


def train_and_measure(
    trainings: Sequence[Training],
    encoder: ClipEncoder,
    teacher_sha256: str,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    model: Mapping[str, Any] = MappingProxyType({}),
    micro_batch: int | None = None,
) -> Study:
    """Train each student, or read it back, and measure it fused with the teacher.

    A student is measured as soon as it is trained. Students and cells that are there under the same
    recipe, inputs, code and protocol are not made again, so a study that was stopped goes on where
    it was.

    Args:
        trainings: the students.
        encoder: holds the teacher's weights; has them again on return.
        teacher_sha256: digest of the teacher's weights.
        unlabelled: clips to distil on; not needed where all labelled shares are 1.
        validation: clips on which the step to keep is chosen.
        alphas: shares of the student, above 0; the teacher is measured too.
        data_sets: where to measure.
        results: receives one cell for each alpha, student and data set, and the teacher's.
        model: JSON data on the teacher, for the protocol.
        micro_batch: as `fit_student`.

    Returns:
        The cells' keys and a row for each student.

    Raises:
        ValueError: two trainings have one folder or one cell, a reused student is not there or was
            trained otherwise, or as `fit_student` and `sweep_alphas`.
    """
    _check_distinct(trainings)
    measure = partial(sweep_alphas, encoder, teacher_sha256, results=results, model=model)
    keys = measure([], [0.0], data_sets)
    rows = []
    for training in trainings:
        trained = train(training, encoder, unlabelled, validation, micro_batch)
        keys += measure(
            [trained.student],
            alphas,
            data_sets,
            label_share=training.recipe.labelled_share,
            subset_size=training.subset_size,
        )
        losses = trained.history["validation_loss"]
        rows.append(
            {
                "subset_size": training.subset_size,
                "label_share": training.recipe.labelled_share,
                "seed": training.seed,
                "steps": training.recipe.steps,
                "best_step": trained.best_step,
                "loss_before": losses.iloc[0],
                "loss_kept": losses.iloc[trained.best_step],
                "weights": trained.student.sha256,
            }
        )
    return Study(keys, pd.DataFrame(rows))


def train(
    training: Training,
    teacher: ClipEncoder,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    micro_batch: int | None = None,
) -> students.TrainedStudent:
    """Train one student and keep it, or read back the one that is kept.

    micro_batch: as `fit_student`.

    Raises: ValueError for a reused student that is not there or was trained otherwise, or as
    `fit_student`.
    """
    if training.reused:
        if problems := _problems(training):
            raise ValueError(
                f"the student in {training.folder} is not of this study ({'; '.join(problems)}); "
                "run the notebook that trains it again"
            )
        return students.load(training.folder, training.seed)
    fit = partial(_fit, training, teacher, unlabelled, validation, micro_batch)
    return students.fit_or_load(
        training.folder, training.seed, training.recipe, training.inputs, fit
    )


def untrained(trainings: Sequence[Training]) -> list[Training]:
    """Those of the trainings whose student is not kept, or was trained otherwise."""
    return [training for training in trainings if _problems(training)]


def unfinished(
    trainings: Sequence[Training],
    teacher_sha256: str,
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> list[Training]:
    """Those of the trainings that :func:`train_and_measure` would train or measure.

    Raises: ValueError as `sweep_alphas`.
    """
    left = partial(unmeasured, teacher_sha256, data_sets=data_sets, results=results, model=model)

    def missing(training: Training) -> list[CellKey]:
        weights = read_manifest(training.folder)["outputs"][students.WEIGHTS_FILE]["sha256"]
        record = students.training_record(training.folder)
        return left(
            [Student(training.seed, {}, weights, record)],
            alphas,
            label_share=training.recipe.labelled_share,
            subset_size=training.subset_size,
        )

    return [training for training in trainings if _problems(training) or missing(training)]


def _problems(training: Training) -> list[str]:
    """Why the student that is kept is not this training's; of a reused one the code may be old."""
    return manifest_problems(
        training.folder,
        kind=students.KIND,
        parameters={"draw": training.seed, **asdict(training.recipe)},
        inputs=training.inputs,
        code=None if training.reused else code_digest(students.TRAINED_BY),
    )


def _fit(
    training: Training,
    teacher: ClipEncoder,
    unlabelled: TrainingClips | None,
    validation: TrainingClips,
    micro_batch: int | None,
) -> StudentFit:
    return fit_student(
        copy.deepcopy(teacher),
        teacher,
        training.labelled,
        unlabelled,
        validation,
        training.recipe,
        micro_batch=micro_batch,
    )


def _taken(pool: TrainingClips, rows: np.ndarray) -> TrainingClips:
    return TrainingClips(pool.frames, [pool.captions[row] for row in rows], pool.indices[rows])


def _check_distinct(trainings: Sequence[Training]) -> None:
    if not trainings:
        raise ValueError("there is nothing to train; give at least one training")
    for what, name in {
        "folder": lambda one: str(one.folder),
        "cell": lambda one: str((one.recipe.labelled_share, one.subset_size, one.seed)),
    }.items():
        repeated, times = Counter(map(name, trainings)).most_common(1)[0]
        if times > 1:
            raise ValueError(f"two trainings have one {what}, {repeated}; each needs its own")
