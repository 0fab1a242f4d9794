"""What a run consists of, once: a list of work that the cluster, the plan and the early check walk.

It follows from the notebooks' parameters alone. What is done leaves the files that the notebooks
would leave, under the same digests: a notebook that runs later finds it done.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import numpy as np
import pandas as pd

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from fitclip_core.clips import TrainingClips, video_numbers
from fitclip_core.distillation import Recipe
from fitclip_kit.engine import sources, students
from fitclip_kit.engine.distributed import pick_device
from fitclip_kit.engine.measure import (
    EvaluationSet,
    Student,
    measure,
    sweep_cells,
    tower_cells,
    unmeasured,
)
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sources import POOL, SELECTION, TRAINED_ON, TRAINING_SETS, UNLABELLED
from fitclip_kit.engine.students import Training
from fitclip_kit.store.files import file_sha256, manifest_problems
from fitclip_kit.store.results import AVERAGE, Cell
from fitclip_kit.weights.models import LoadedModel

KIT_NOTEBOOKS: Final = (
    *("01_data_prep", "02_teacher_zero_shot", "03_student_distillation", "04_alpha_sweep"),
    *("05_subset_size", "06_label_share", "07_supplementary_figures", "08_supplementary_tables"),
)
DATA, ZERO_SHOT, STUDENTS, SWEEP, SIZES, SHARES, FIGURES, TABLES = KIT_NOTEBOOKS
PARTS: Final = ("frames", "teacher", "students", "sweep", "sizes", "shares")
"""What a cluster can be asked for: the work of notebooks 01 to 06; each needs those before it."""
_MERGES: Final = ("deeper", "shallower", "fisher")  # of notebook 07, which measures them itself
Size = Mapping[tuple[str, str], float]


@dataclass(frozen=True, eq=False)
class Run:
    """A run to work on, as its work carries it to other machines.

    Attributes:
        path, working_dir: its folder, and where the notebooks run, from which the paths in their
            parameters start; absolute.
        parameters: notebook stem -> its parameters, of all the kit's notebooks.
    """

    path: Path
    working_dir: Path
    parameters: Mapping[str, Mapping[str, Any]]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "working_dir", "parameters")}

    @property
    def folder(self) -> RunFolder:
        """Where the run keeps its things."""
        return RunFolder(self.path)

    @cached_property
    def sources(self) -> sources.Sources:
        """The data sets and models."""
        named = str(self.parameters[DATA]["sources_file"])
        return sources.read_sources(self.working_dir / named if named else "")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Clips of each data set; 0: all there are."""
        return self.sources.sizes(self.parameters[DATA])

    @cached_property
    def recipe(self) -> tuple[int, Recipe]:
        """Labelled clips and recipe of notebook 03's students, its seed still 0."""
        return sources.student_recipe(self.parameters[STUDENTS])

    def rule(self, data_set: str, image_size: int) -> FrameRule:
        """The frames that notebook 01 keeps of a data set's clips."""
        values = self.parameters[DATA]
        draws = values["training_draws"] if data_set in TRAINED_ON else 0
        return FrameRule(values["n_frames"], image_size, draws, values["data_seed"])

    def model(self, notebook: str, reference: str = "") -> LoadedModel:
        """The teacher or a reference, on the device that a notebook computes on."""
        return self._model(reference, pick_device(str(self.parameters[notebook]["device"])))

    @cache  # noqa: B019
    def _model(self, reference: str, device: str) -> LoadedModel:
        if not reference:
            return self.sources.load_teacher(device)
        return self.sources.load_reference(reference, self.parameters[DATA]["n_frames"], device)

    @cache  # noqa: B019
    def evaluation_set(self, name: str) -> EvaluationSet:
        """As the run folder's."""
        return self.folder.evaluation_set(name)

    @cache  # noqa: B019
    def all_clips(self, name: str) -> tuple[TrainingClips, dict[str, str]]:
        """All of a data set's clips to train or validate on, and digests."""
        return self.folder.training_clips(name)

    def student(self, draw: int) -> Training:
        """One of notebook 03's students, its clips not read."""
        clips, recipe = self.recipe
        folder, recipe = self.folder.student(draw), replace(recipe, seed=draw)
        told: dict[str, Any] = {"labelled_clips": clips, "labelled": None, "inputs": {}}
        return Training(folder=folder, draw=draw, recipe=recipe, **told)


@dataclass(frozen=True, eq=False)
class Work(ABC):
    """One piece of a run.

    Attributes:
        notebook: the stem of the first notebook that needs it.
        name: what it is, for people; no two pieces of a run share it.
        after: names of the work that has to be done before.
    """

    kind: ClassVar[str]
    run: Run
    notebook: str
    name: str
    after: tuple[str, ...]

    @abstractmethod
    def is_done(self) -> bool:
        """Whether its results are there; ValueError where what it needs is not."""

    @abstractmethod
    def do(self) -> None:
        """Do it, but for what is there already; it may be repeated at any time."""

    def size(self) -> Size:
        """How often it does what takes time: ("decode", "videos" or "texts", data set) -> times
        that it goes through all of them; ("train", "") -> clips through training steps."""
        return {}


@dataclass(frozen=True, eq=False)
class Frames(Work):
    """The frame store of a data set."""

    kind = "frame stores"
    data_set: str

    def is_done(self) -> bool:
        clips = self.run.folder.clips(self.data_set)
        as_asked = self.run.sizes[self.data_set] in (0, int(video_numbers(clips).max()) + 1)
        return as_asked and frame_store.seems_built(clips, *self._store())

    def do(self) -> None:
        frame_store.build(self.run.folder.clips(self.data_set), self._root(), *self._store())

    def size(self) -> Size:
        return {("decode", self.data_set): 1}

    def shards(self) -> list[Shard]:
        """Those that are missing; the clips table has to be there."""
        folder, rule = self._store()
        shards = frame_store.missing_shards(self.run.folder.clips(self.data_set), folder, rule)
        return [
            Shard(self.run, DATA, f"{self.name}, shard {n}", (), self.data_set, n, rows, rule)
            for n, rows in shards.items()
        ]

    def _store(self) -> tuple[Path, FrameRule]:
        size = self.run.model(ZERO_SHOT).encoder.image_size
        return self.run.folder.frames / self.data_set, self.run.rule(self.data_set, size)

    def _root(self) -> Path:
        entry = self.run.sources.data_sets.get(self.data_set)
        return Path(entry.root) if entry else self.run.folder.data / self.data_set


@dataclass(frozen=True, eq=False)
class Shard(Frames):
    """A part of a frame store that is missing, for a machine of its own."""

    kind = "shards"
    number: int
    rows: pd.DataFrame
    rule: FrameRule

    def do(self) -> None:
        folder = self.run.folder.frames / self.data_set
        frame_store.build_shard(self.number, self.rows, self._root(), folder, self.rule)


@dataclass(frozen=True, eq=False)
class Trained(Work):
    """A student that is trained here; its training is without clips until it is done."""

    kind = "students"
    training: Training

    def is_done(self) -> bool:
        return not self._training().problems()

    def do(self) -> None:
        teacher: Any = self.run.model(self.notebook).encoder
        unlabelled = None if self.notebook == SIZES else self.run.all_clips(UNLABELLED)[0]
        validation, _ = self.run.all_clips(SELECTION)
        students.train(self._training(), teacher, unlabelled, validation, self.micro_batch)

    def size(self) -> Size:
        recipe = self.training.recipe
        validations = 1 + math.ceil(recipe.steps / recipe.validate_every)
        validated = dict.fromkeys((("videos", SELECTION), ("texts", SELECTION)), validations)
        return {("train", ""): recipe.steps * self.batch, **validated}

    @property
    def micro_batch(self) -> int | None:
        """What `fit_student` is told; notebooks say 0 for a whole batch at once."""
        return self.run.parameters[self.notebook]["micro_batch"] or None

    @property
    def batch(self) -> int:
        """Clips of a step; a loss without a share reads none."""
        recipe, there = self.training.recipe, self.run.sizes.get(UNLABELLED) or math.inf
        labelled = min(recipe.labelled_batch, self.training.labelled_clips)
        unlabelled = min(recipe.unlabelled_batch, there)
        share = recipe.labelled_share
        return (labelled if share > 0 else 0) + int(unlabelled if share < 1 else 0)

    def _training(self) -> Training:
        own = self.training.folder
        return next(one for one in _trainings(self.run, self.notebook, True) if one.folder == own)


@dataclass(frozen=True, eq=False)
class Released(Work):
    """The student that the sources name, draw 0."""

    kind = "students"

    def is_done(self) -> bool:
        entry, folder = self.run.sources.models.student, self.run.folder.student(0)
        inputs = {"file": file_sha256(Path(entry.file))} if entry else None
        return not manifest_problems(folder, kind=students.KIND, inputs=inputs)

    def do(self) -> None:
        (clips, recipe), weights = self.run.recipe, self.run.sources.load_student()
        students.keep_released(self.run.folder.student(0), weights, clips, recipe.labelled_share)


@dataclass(frozen=True, eq=False)
class Measured(Work):
    """Cells of one model: a reference, or the teacher, by itself or with a student."""

    kind = "cells"
    cells: tuple[Cell, ...]
    student: Training | None = None
    reference: str = ""

    def is_done(self) -> bool:
        if any(cell.merge != AVERAGE for cell in self.cells):
            return set(self.cells) <= set(self.run.folder.results.cells())
        own = self.student
        known = [students.described(own.folder, own.draw)] if own else []
        return not unmeasured(*self._told(), students=known)

    def do(self) -> None:
        own = self.student
        known = [students.load(own.folder, own.draw).student] if own else []
        measure(*self._told(), students=known)

    def _told(self) -> tuple[Any, ...]:
        names = dict.fromkeys(cell.data_set for cell in self.cells)
        model = self.run.model(self.notebook, self.reference)
        sets = [self.run.evaluation_set(name) for name in names]
        return self.cells, model, sets, self.run.folder.results

    def size(self) -> Size:
        """A tower's features are computed once for each of its alphas."""
        passes = set()
        for cell in self.cells:
            text_alpha = cell.alpha if cell.text_alpha is None else cell.text_alpha
            for what, alpha in (("videos", cell.alpha), ("texts", text_alpha)):
                passes.add((what, cell.data_set, cell.merge, alpha))
        return Counter((what, name) for what, name, *_ in passes)


def of_run(run: Run, notebooks: Collection[str] = KIT_NOTEBOOKS) -> list[Work]:
    """All work of a run, or of some of its notebooks, in order; cells that an earlier notebook
    measures are not measured again. Nothing is read but the sources file.

    Raises: ValueError for parameters of which no work follows, as a subset larger than the pool.
    """
    listed: list[Work] = []
    known: set[Cell] = set()
    for work in (work for stem in notebooks if stem in _LISTED for work in _LISTED[stem](run)):
        if isinstance(work, Measured):
            cells = tuple(cell for cell in dict.fromkeys(work.cells) if cell not in known)
            if not cells:
                continue
            known.update(cells)
            read = [frames_of(name) for name in dict.fromkeys(cell.data_set for cell in cells)]
            work = replace(work, cells=cells, after=(*read, *work.after))
        listed.append(work)
    return listed


def steps(run: Run, parts: Collection[str]) -> dict[str, Callable[[], list[Work]]]:
    """What a cluster does for some parts of a run: title of a step -> what lists its work that is
    not done, once the steps before are.

    Raises: ValueError for an unknown part; from a step where what it needs is not done.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    found: dict[str, Callable[[], list[Work]]] = {}
    for number, part in enumerate(PARTS):
        if part not in parts:
            continue
        listed = of_run(run, KIT_NOTEBOOKS[: number + 1])
        works = [work for work in listed if work.notebook == KIT_NOTEBOOKS[number]]
        if part == "frames":
            found["frames: shards"] = partial(_missing_shards, run)
        for kind in dict.fromkeys(work.kind for work in works):
            found[f"{part}: {kind}"] = partial(_undone, [one for one in works if one.kind == kind])
    return found


def missing_students(run: Run) -> list[Work]:
    """Those of notebook 03's students that are not kept, or were trained otherwise."""
    return _undone(of_run(run, [STUDENTS]))


def frames_of(data_set: str) -> str:
    """The name of the work that decodes a data set."""
    return f"frames of {data_set}"


def student_of(draw: int) -> str:
    """The name of the work that makes one of notebook 03's students."""
    return f"student of draw {draw}"


def _undone(works: Sequence[Work]) -> list[Work]:
    return [work for work in works if not work.is_done()]


def _missing_shards(run: Run) -> list[Work]:
    """The data sets' tables are made first, here and now, and so are the embedded videos."""
    sources.prepare(run.sources, run.folder.data, run.sizes, run.parameters[DATA]["data_seed"])
    return [shard for store in _data(run) for shard in store.shards()]


def _data(run: Run) -> Iterator[Frames]:
    for name in run.sources.names:
        yield Frames(run, DATA, frames_of(name), (), name)


def _teacher(run: Run, notebook: str, names: Sequence[str]) -> Iterator[Work]:
    for name in names:
        yield Measured(run, notebook, f"teacher on {name}", (), (Cell(name),))


def _zero_shot(run: Run) -> Iterator[Work]:
    evaluated = run.parameters[ZERO_SHOT]["evaluated"]
    yield from _teacher(run, ZERO_SHOT, evaluated)
    for model in run.sources.references:
        for name in evaluated:
            told = ((Cell(name, model),), None, model)
            yield Measured(run, ZERO_SHOT, f"{model} on {name}", (), *told)


def _students(run: Run) -> Iterator[Work]:
    read = tuple(map(frames_of, TRAINING_SETS))
    for training in _trainings(run, STUDENTS):
        yield Trained(run, STUDENTS, student_of(training.draw), read, training)
    if 0 in run.parameters[STUDENTS]["draws"]:
        yield Released(run, STUDENTS, student_of(0), ())


def _sweep(run: Run, notebook: str = SWEEP) -> Iterator[Work]:
    names, values = run.parameters[notebook]["evaluated"], run.parameters[SWEEP]
    alphas = sorted({round(float(alpha), 9) for alpha in values["alphas"]})
    yield from _teacher(run, notebook, names if 0 in alphas else ())
    for draw in values["draws"]:
        for alpha in (alpha for alpha in alphas if alpha != 0):
            cells = sweep_cells(names, [_described(run.student(draw))], [alpha])
            more = "" if notebook == SWEEP else ", further data sets"
            yield _fused(run, notebook, f"draw {draw} at alpha {alpha:g}{more}", draw, cells)


def _fused(run: Run, notebook: str, name: str, draw: int, cells: Sequence[Cell]) -> Measured:
    return Measured(run, notebook, name, (student_of(draw),), tuple(cells), run.student(draw))


def _study(notebook: str, run: Run) -> Iterator[Work]:
    values = run.parameters[notebook]
    if sizes := notebook == SIZES:
        names, alphas = [sources.size_study_set(run.sources.evaluated)], values["alphas"]
    else:
        names, alphas = sources.share_study_sets(values["evaluated"]), [values["fused_alpha"]]
    yield from _teacher(run, notebook, names)
    read = tuple(map(frames_of, (POOL, SELECTION) if sizes else TRAINING_SETS))
    last = max(run.parameters[STUDENTS]["draws"], default=0)
    for training in _trainings(run, notebook):
        made = student_of(last if sizes else training.draw)
        if not training.reused:
            after, made = (*read, made), training.folder.name
            yield Trained(run, notebook, made, after, training)
        cells = tuple(sweep_cells(names, [_described(training)], alphas))
        yield Measured(run, notebook, f"{made}, fused", (made,), cells, training)


def _figures(run: Run) -> Iterator[Work]:
    values, swept = run.parameters[FIGURES], run.parameters[SWEEP]
    yield from _sweep(run, FIGURES)
    names, alpha = values["evaluated"], swept["fused_alpha"]
    for draw in swept["draws"][: values["single_draws"]]:
        student = _described(run.student(draw))
        mapped = [name for name in names if name in values["tower_sets"]]
        cells = tower_cells(mapped, student, values["tower_alphas"])
        yield _fused(run, FIGURES, f"tower map of draw {draw}", draw, cells)
        cells = sweep_cells(names, [student], [0.0, alpha, 1.0], renormalise=True)
        yield _fused(run, FIGURES, f"draw {draw}, renormalised", draw, cells)
    for draw in swept["draws"][: values["merged_draws"]]:
        student = _described(run.student(draw))
        cells = [student.cell(name, alpha, merge=merge) for name in names for merge in _MERGES]
        merged = _fused(run, FIGURES, f"draw {draw}, other merges", draw, cells)
        yield replace(merged, after=(frames_of(SELECTION), *merged.after))


_LISTED: Final[Mapping[str, Callable[[Run], Iterator[Work]]]] = {
    DATA: _data,
    ZERO_SHOT: _zero_shot,
    STUDENTS: _students,
    SWEEP: _sweep,
    SIZES: partial(_study, SIZES),
    SHARES: partial(_study, SHARES),
    FIGURES: _figures,
}


def _described(training: Training) -> Student:
    """A student without its weights."""
    names = ("draw", "sampling", "labelled_clips")
    told: dict[str, Any] = {name: getattr(training, name) for name in names}
    share = training.recipe.labelled_share
    return Student(**told, labelled_share=share, state={}, sha256="")


@cache
def _trainings(run: Run, notebook: str, read: bool = False) -> list[Training]:
    """What a notebook trains; unless `read` without the clips, which need not be there then."""
    (clips, recipe), values = run.recipe, run.parameters[notebook]
    folder, inputs = run.path / notebook / "students", {}
    if read:
        inputs = {"teacher": run.model(notebook).sha256, "sources": run.sources.digest}
        for name in (SELECTION,) if notebook == SIZES else (SELECTION, UNLABELLED):
            inputs |= run.all_clips(name)[1]
    if notebook == SIZES:
        draws = {"independent": values["independent_draws"], "nested": values["nested_draws"]}
        n = run.sizes.get(POOL) or max(values["sizes"], default=1)
        pool, digests = TrainingClips(cast(Any, None), [""] * n, np.arange(n)), dict[str, str]()
        if read:
            pool, digests = run.all_clips(POOL)
        told = (pool, recipe, clips, values["sizes"], draws, inputs | digests)
        return students.subset_trainings(folder, *told, steps=values["steps_rule"])
    found: list[Training] = []
    for training in (run.student(draw) for draw in values["draws"] if draw > 0):
        if read:
            labelled, digests = run.folder.training_clips(POOL, clips, training.draw)
            training = replace(training, labelled=labelled, inputs=inputs | digests)
        if notebook == STUDENTS:
            found.append(training)
        else:
            kept = (training.folder, training.draw, cast(TrainingClips, training.labelled), clips)
            found += students.share_trainings(
                folder,
                *kept,
                values["pseudo_shares"],
                training.inputs,
                teacher_temperature=values["teacher_temperature"] or None,
                recipe=training.recipe,
            )
    return found
