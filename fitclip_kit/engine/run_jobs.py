"""What the notebooks compute, counted from their parameters: the jobs that a plan adds up.

A cell that an earlier notebook measures is not measured again, and a student that an earlier one
trains is not trained again, as in a run. Notebooks 01 and 08 have no model at work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitclip_core.devices import pick_device
from fitclip_core.distillation import Recipe, TrainingClips
from fitclip_kit.engine import students
from fitclip_kit.engine.plan import Differentiating, Fitting, Job, Measuring
from fitclip_kit.engine.run_check import FIGURES, POOL, SELECTION, Run, problems
from fitclip_kit.engine.run_tasks import DATA, SHARES, SIZES, STUDENTS, SWEEP, ZERO_SHOT
from fitclip_kit.engine.sources import (
    TRAINED_ON,
    TRAINING_SETS,
    Sources,
    read_sources,
    share_study_sets,
    size_study_set,
    student_recipe,
)

_MERGES: Final = ("deeper", "shallower", "fisher")  # of notebook 07
_TEACHER: Final = ("teacher",)
Parameters = Mapping[str, Mapping[str, Any]]
Model = tuple[Hashable, ...]


def notebook_jobs(
    parameters: Parameters,
    clips: Mapping[str, int],
    *,
    references: int = 0,
    released: bool = True,
) -> tuple[list[Job], list[str]]:
    """What notebooks 02 to 07 compute, in their order.

    Args:
        parameters: notebook stem -> its parameters.
        clips: name -> clips, of every data set.
        references: further models that notebook 02 measures.
        released: whether there is a released student.

    Returns:
        The jobs, and what would stop a notebook, a sentence each (`run_check.problems`, or a subset
        larger than the pool). What such a notebook would do is not among the jobs.

    Raises: ValueError for a recipe that no student can be trained by.
    """
    walk = _Walk(parameters, clips)
    run = Run(parameters, clips, references, released)
    jobs: list[Job] = []
    found: list[str] = []
    steps: dict[str, Callable[[], Iterator[Job]]] = {
        ZERO_SHOT: partial(walk.zero_shot, references),
        STUDENTS: walk.students,
        SWEEP: walk.sweep,
        SIZES: walk.sizes,
        SHARES: walk.shares,
        FIGURES: walk.figures,
    }
    for notebook in parameters:
        stops = problems(notebook, run)
        if not stops and notebook in steps:
            try:
                jobs += list(steps[notebook]())
            except ValueError as error:
                stops.append(str(error))
        found += [f"{notebook} would stop: {one}" for one in stops]
    return jobs, found


def run_problems(parameters: Parameters, folder: Path, *, files: bool = False) -> list[str]:
    """What would stop a notebook, a sentence each that starts with its name; no data are opened.

    Where the sources file cannot be read, that alone is said.

    Args:
        parameters: of all the kit's notebooks, by stem.
        folder: where the notebooks run, which their relative paths start from.
        files: whether the models' files have to be there.
    """
    data, made = parameters[DATA], parameters[STUDENTS]
    try:
        labelled, _ = student_recipe(made)
    except ValueError as error:
        return [f"{STUDENTS} would stop: {error}"]
    named = str(data["sources_file"])
    try:
        sources = read_sources(folder / named if named else "")
    except ValueError as error:
        return [str(error)]
    # What "all there are" comes to is not known yet, and taken to be enough.
    taken = parameters[SIZES]["sizes"]
    enough = max([*taken, labelled, parameters[FIGURES]["fisher_clips"]])
    numbers = (data["labelled_clips"], data["unlabelled_clips"], data["selection_clips"])
    sizes = dict(zip(TRAINING_SETS, numbers, strict=True))
    there = sources.data_sets if sources.file else (*TRAINING_SETS, *sources.evaluated)
    clips = {name: sizes.get(name, data["evaluation_clips"]) or enough for name in there}
    found = list(_missing(sources, made["draws"])) if files else []
    for stem, values in parameters.items():
        try:
            pick_device(str(values.get("device", "cpu")))
        except ValueError as error:
            found.append(f"{stem} would stop: {error}")
    released = sources.student is not None
    references = len(sources.references)
    return found + notebook_jobs(parameters, clips, references=references, released=released)[1]


def _missing(sources: Sources, draws: Sequence[int]) -> Iterator[str]:
    """The models' files that are not there, by the first notebook that reads them."""
    student = sources.student if 0 in draws else None
    models = {"teacher": (DATA, sources.teacher), "student": (STUDENTS, student or {})}
    models |= {name: (ZERO_SHOT, entry) for name, entry in sources.references.items()}
    for model, (stem, entry) in models.items():
        for key in ("file", "vocabulary"):
            path = entry.get(key, "open_clip:")
            if not path.startswith("open_clip:") and not Path(path).exists():
                yield f"{stem} would stop: there is no {path}, the sources' {key} of {model}"


class _Walk:
    """The notebooks in their order; `measured` holds the (model, data set) pairs done so far."""

    def __init__(self, parameters: Parameters, clips: Mapping[str, int]) -> None:
        self.parameters, self.clips = parameters, clips
        self.measured: set[tuple[Model, str]] = set()
        made = parameters[STUDENTS]
        self.fitted = [draw for draw in made["draws"] if draw > 0]
        self.size, recipe = student_recipe(made)
        self.batch = recipe.labelled_batch
        unlabelled = clips.get(TRAINED_ON[1], recipe.unlabelled_batch)
        self.recipe = replace(
            recipe,
            labelled_batch=min(self.batch, self.size),
            unlabelled_batch=min(recipe.unlabelled_batch, unlabelled),
        )

    def zero_shot(self, references: int) -> Iterator[Job]:
        models: list[Model] = [_TEACHER, *(("reference", number) for number in range(references))]
        yield from self._measuring(ZERO_SHOT, models, self.parameters[ZERO_SHOT]["evaluated"])

    def students(self) -> Iterator[Job]:
        if self.fitted:
            what = _students(len(self.fitted), f"of {self.size:,} clips")
            yield Fitting(STUDENTS, what, len(self.fitted), self.recipe)

    def sweep(self) -> Iterator[Job]:
        yield from self._measuring(SWEEP, self._swept(), self.parameters[SWEEP]["evaluated"])

    def sizes(self) -> Iterator[Job]:
        values, pool = self.parameters[SIZES], self.clips.get(POOL, 0)
        trainings = students.subset_trainings(
            Path(),
            TrainingClips(_Unread(pool), [""] * pool),
            replace(self.recipe, labelled_batch=self.batch),
            self.size,
            values["sizes"],
            {"independent": values["independent_draws"], "nested": values["nested_draws"]},
            {},
            steps=values["steps_rule"],
        )
        models: list[Model] = [_TEACHER]
        groups: dict[int, list[Recipe]] = {}
        for one in trainings:
            groups.setdefault(one.labelled_clips, []).append(one.recipe)
            models += _fused(1.0, one.labelled_clips, (one.sampling, one.draw), values["alphas"])
        for size, recipes in groups.items():
            batch = min(recipes[0].labelled_batch, size)
            what = _students(len(recipes), f"of {size:,} clips")
            yield Fitting(SIZES, what, len(recipes), replace(recipes[0], labelled_batch=batch))
        yield from self._measuring(SIZES, models, [size_study_set(self.clips)])

    def shares(self) -> Iterator[Job]:
        values = self.parameters[SHARES]
        draws = [draw for draw in values["draws"] if draw > 0]
        others = replace(self.recipe, teacher_temperature=values["teacher_temperature"] or None)
        models: list[Model] = [_TEACHER]
        for pseudo_share in values["pseudo_shares"]:
            share = round(1 - pseudo_share, 9)
            if draws and share != round(self.recipe.labelled_share, 9):
                what = _students(len(draws), f"at a share of {pseudo_share:g}")
                yield Fitting(SHARES, what, len(draws), replace(others, labelled_share=share))
            for draw in draws:
                models += _fused(share, self.size, draw, [values["fused_alpha"]])
        yield from self._measuring(SHARES, models, share_study_sets(values["evaluated"]))

    def figures(self) -> Iterator[Job]:
        values, swept = self.parameters[FIGURES], self.parameters[SWEEP]
        merged = swept["draws"][: values["merged_draws"]]
        single = swept["draws"][: values["single_draws"]]
        evaluated = values["evaluated"]
        yield from self._measuring(FIGURES, self._swept(), evaluated)
        steps = len(_distinct(values["tower_alphas"])) * len(single)
        cells = len(_distinct(values["tower_alphas"])) * steps
        for name in (name for name in evaluated if name in values["tower_sets"]):
            yield Measuring(FIGURES, name, steps, steps, cells)
        yield Differentiating(
            FIGURES, 1 + len(merged), values["fisher_clips"], values["fisher_batch"]
        )
        yield from self._measuring(FIGURES, list(product(_MERGES, merged)), evaluated)
        passes = len(_distinct(swept["alphas"])) * len(merged)
        yield Measuring(FIGURES, SELECTION, passes, passes, 0)
        ends = _distinct([0.0, swept["fused_alpha"], 1.0])
        renormalised: list[Model] = [("renormalised", *_TEACHER)]
        renormalised += [
            ("renormalised", draw, alpha) for draw in single for alpha in ends if alpha > 0
        ]
        yield from self._measuring(FIGURES, renormalised, evaluated)

    def _swept(self) -> list[Model]:
        values = self.parameters[SWEEP]
        models: list[Model] = [_TEACHER] if 0 in _distinct(values["alphas"]) else []
        for draw in values["draws"]:
            models += _fused(self.recipe.labelled_share, self.size, draw, values["alphas"])
        return models

    def _measuring(
        self, notebook: str, models: Iterable[Model], data_sets: Sequence[str]
    ) -> Iterator[Job]:
        cells = [one for one in product(models, data_sets) if one not in self.measured]
        self.measured.update(cells)
        for name, number in Counter(name for _, name in dict.fromkeys(cells)).items():
            yield Measuring(notebook, name, number, number, number)


class _Unread:
    """Stands for decoded clips that nobody reads: only their number is needed."""

    def __init__(self, n: int) -> None:
        self.clip_ids = [str(number) for number in range(n)]
        self.frame_counts = np.zeros(n, np.int64)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        raise RuntimeError("a plan reads no frames")


def _fused(share: float, size: int, draw: object, alphas: Sequence[float]) -> list[Model]:
    shares = [alpha for alpha in _distinct(alphas) if alpha > 0]
    return [("fused", round(share, 9), size, draw, alpha) for alpha in shares]


def _distinct(alphas: Sequence[float]) -> list[float]:
    return sorted({round(float(alpha), 9) for alpha in alphas})  # as the results keep them


def _students(number: int, which: str) -> str:
    return f"{number} student{'' if number == 1 else 's'} {which}"
