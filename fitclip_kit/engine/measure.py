"""Measure cells into the results store: the teacher, its merges with students, references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from fitclip_core import ensembling, zero_shot
from fitclip_core.ensembling import Schedule
from fitclip_core.video_text import FrameSource
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import json_digest
from fitclip_kit.store.results import AVERAGE, Cell, ResultsStore
from fitclip_kit.weights.models import LoadedModel

State = Mapping[str, Tensor]
# The modules that a cell's numbers follow from; a change in one makes stored cells stale.
MEASURED_BY = (
    "fitclip_core.encoders",
    "fitclip_core.ensembling",
    "fitclip_core.zero_shot",
    "fitclip_kit.weights.foreign_checkpoints",
)
_MODULES = {False: MEASURED_BY, True: (*MEASURED_BY, "fitclip_kit.weights.frozen_in_time_encoder")}


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """One data set to measure on.

    Attributes:
        name: how results call it.
        clips: its clips table, with `text` or `label`.
        frames: its decoded clips, in evaluation form.
        templates: prompts of an action data set; empty for retrieval.
        protocol: JSON data on how clips, captions and frames were made, kept with every result.
        classes: names of all classes of an action data set; empty: the labels of `clips`.
    """

    name: str
    clips: pd.DataFrame
    frames: FrameSource
    templates: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """One trained student.

    Attributes:
        draw, sampling, labelled_clips, labelled_share: which it is, as in `Cell`.
        state: its weights; their `logit_scale` plays no part.
        sha256: the weights' digest.
        training: for the protocol, JSON data on how it was trained (`students.training_record`);
            empty: not known.
    """

    draw: int
    labelled_clips: int
    labelled_share: float
    state: State
    sha256: str
    sampling: str = "main"
    training: Mapping[str, Any] = field(default_factory=dict)

    def cell(self, data_set: str, alpha: float, **others: Any) -> Cell:
        """The cell of its fusion at alpha; others: further coordinates."""
        return Cell(
            data_set,
            alpha=alpha,
            draw=self.draw,
            sampling=self.sampling,
            labelled_clips=self.labelled_clips,
            labelled_share=self.labelled_share,
            **others,
        )


def sweep_cells(
    data_sets: Sequence[str], students: Sequence[Student], alphas: Sequence[float], **others: Any
) -> list[Cell]:
    """The cells of every fusion of the teacher and each student on every data set.

    At alpha 0 that is the teacher, once for all students; without students only alpha 0 can be
    measured. others: further coordinates, such as `renormalise`, of all cells.

    Raises: ValueError for no or repeated data sets, alphas or students, an alpha outside [0, 1], or
    alphas above 0 without students.

    Source: supplement, section 6 and figure 3.
    """
    for what, names in {"data set": data_sets, "alpha": alphas}.items():
        if not len(names):
            raise ValueError(f"there is no {what} to measure; give at least one")
    if not students and any(alpha > 0 for alpha in alphas):
        raise ValueError("alphas above 0 need at least one student; without one give [0.0]")
    shares = sorted({round(float(alpha), 9) for alpha in alphas})
    teacher = [Cell(name, **others) for name in data_sets] if 0 in shares else []
    fused = [
        student.cell(name, alpha, **others)
        for student in students
        for alpha in shares
        if alpha != 0
        for name in data_sets
    ]
    if len(set(cells := [*teacher, *fused])) < len(cells):
        draws = [student.draw for student in students]
        raise ValueError(f"data sets {list(data_sets)} or draws {draws} repeat; give each once")
    return cells


def tower_cells(data_sets: Sequence[str], student: Student, alphas: Sequence[float]) -> list[Cell]:
    """The cells of every pair of an alpha of the vision tower and one of the text tower.

    Raises: ValueError when an alpha is outside [0, 1].
    """
    shares = sorted({round(float(alpha), 9) for alpha in alphas})
    return [
        student.cell(name, vision, text_alpha=text)
        for name in data_sets
        for vision in shares
        for text in shares
    ]


def measure(
    cells: Iterable[Cell],
    model: LoadedModel,
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    students: Sequence[Student] = (),
    schedules: Mapping[tuple[str, float], Schedule] | None = None,
) -> list[Cell]:
    """Measure every cell that is not measured yet; returns all of them, each once.

    A cell that the store holds under the same protocol is not measured again, so what was stopped
    goes on with the next cell. Weights are set once for all data sets of a fusion. A video's
    features depend on the vision tower alone and a text's on the text tower alone, so with an
    alpha for each tower videos are encoded once for each vision alpha and texts once for each text
    alpha; the outcomes are those of `ensembling.per_tower`.

    Args:
        cells: what to measure.
        model: the teacher, whose encoder has its own weights again on return; or for cells of a
            reference that reference.
        data_sets: where to measure; the cells' are among them.
        results: receives the cells.
        students: the students of the cells, as far as they have one.
        schedules: (merge, alpha) -> schedule of the cells with another merge than the average;
            their alpha only says which share of the student the schedule goes by.

    Raises:
        ValueError: a cell's data set, student or schedule is not given, repeated names or students,
            or weights that do not fit the encoder.

    Source: supplement, sections 2 and 6, and tables 2 and 3 for references.
    """
    jobs = list(_jobs(cells, model, data_sets, students, schedules or {}))
    missing = [job for job in jobs if not results.is_valid(job.cell, job.protocol)]
    missing.sort(key=partial(_order, students=list(students)))
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="cells", unit="cell") as bar:
        for student, of_student in groupby(missing, lambda job: job.student):
            if student is None:
                for job in of_student:
                    results.write(job.cell, _evaluated(model, job), job.protocol)
                    bar.update()
                continue
            encoder: Any = model.encoder
            with ensembling.AlphaSweep(encoder.model, encoder.state(), student.state) as fused:
                for whole, group in groupby(of_student, lambda job: job.cell.text_alpha is None):
                    outcomes_of = _whole if whole else _towers
                    for job, outcomes in outcomes_of(model, fused, group):
                        results.write(job.cell, outcomes, job.protocol)
                        bar.update()
    return [job.cell for job in jobs]


def unmeasured(
    cells: Iterable[Cell],
    model: LoadedModel,
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    students: Sequence[Student] = (),
    schedules: Mapping[tuple[str, float], Schedule] | None = None,
) -> list[Cell]:
    """The cells that :func:`measure` with the same arguments would measure.

    The students' `state` is not looked at. Raises ValueError as :func:`measure`, but for weights
    that do not fit.
    """
    jobs = _jobs(cells, model, data_sets, students, schedules or {})
    return [job.cell for job in jobs if not results.is_valid(job.cell, job.protocol)]


@dataclass(frozen=True, eq=False)
class _Job:
    """A cell with what it is measured on, and how."""

    cell: Cell
    data_set: EvaluationSet
    student: Student | None
    alpha: float | Schedule
    protocol: Mapping[str, Any]


def _jobs(
    cells: Iterable[Cell],
    model: LoadedModel,
    data_sets: Sequence[EvaluationSet],
    students: Sequence[Student],
    schedules: Mapping[tuple[str, float], Schedule],
) -> Iterator[_Job]:
    sets = {data_set.name: data_set for data_set in data_sets}
    known = {_student_key(student): student for student in students}
    for what, there, given in (("data sets", sets, data_sets), ("students", known, students)):
        if len(there) < len(given):
            raise ValueError(f"{what} are repeated: {list(there)}; give each once")
    digests: dict[tuple[str, float], str] = {}
    codes = {reference: code_digest(*modules) for reference, modules in _MODULES.items()}
    for cell in dict.fromkeys(cells):
        if cell.data_set not in sets:
            raise ValueError(f"{cell} is of no given data set; there are {sorted(sets)}")
        student, alpha, merge = None, cell.alpha, {}
        weights: dict[str, Any] = {"teacher": model.sha256}
        if cell.is_reference:
            weights = {"sha256": model.sha256}
        elif cell.draw is not None:
            if (student := known.get(_student_key(cell))) is None:
                raise ValueError(f"{cell} is of no given student; there are {sorted(known)}")
            weights["student"] = student.sha256
        schedule = alpha
        if cell.merge != AVERAGE:
            key = (cell.merge, cell.alpha)
            if key not in schedules:
                raise ValueError(f"{cell} has no schedule; there are {sorted(schedules)}")
            schedule = schedules[key]
            if key not in digests:
                encoder: Any = model.encoder
                digests[key] = ensembling.schedule_digest(schedule, encoder.state())
            merge = {"merge": {"schedule": digests[key]}}
        elif cell.text_alpha is not None:
            merge = {"merge": {"vision_alpha": cell.alpha, "text_alpha": cell.text_alpha}}
        data_set = sets[cell.data_set]
        protocol = {
            **data_set.protocol,
            "code": codes[cell.is_reference],
            "model": dict(model.protocol),
            "weights": weights,
            **({"training": dict(student.training)} if student else {}),
            **merge,
            "templates": list(data_set.templates),
            "classes": _class_protocol(data_set),
            "renormalise": cell.renormalise,
        }
        yield _Job(cell, data_set, student, schedule, protocol)


def _order(job: _Job, students: list[Student]) -> tuple[Any, ...]:
    """Puts together what shares weights, or features of a tower."""
    cell, towers = job.cell, job.cell.text_alpha is not None
    place = students.index(job.student) if job.student else -1
    return place, towers, cell.data_set if towers else "", cell.merge, cell.alpha, cell.renormalise


def _evaluated(model: LoadedModel, job: _Job) -> pd.DataFrame:
    return zero_shot.evaluate(
        model.encoder,
        job.data_set.clips,
        job.data_set.frames,
        templates=job.data_set.templates,
        classes=job.data_set.classes or None,
        renormalise=job.cell.renormalise,
    )


def _whole(
    model: LoadedModel, fused: ensembling.AlphaSweep, jobs: Iterable[_Job]
) -> Iterator[tuple[_Job, pd.DataFrame]]:
    """Outcomes of fusions of all weights; the weights are set where they change."""
    for _, group in groupby(jobs, lambda job: (job.cell.merge, job.cell.alpha)):
        for place, job in enumerate(group):
            if place == 0:
                fused.set_alpha(job.alpha)
            yield job, _evaluated(model, job)


def _towers(
    model: LoadedModel, fused: ensembling.AlphaSweep, jobs: Iterable[_Job]
) -> Iterator[tuple[_Job, pd.DataFrame]]:
    """Outcomes of fusions with an alpha for each tower, from features of each tower by itself."""
    encoder = model.encoder
    for data_set, of_set in groupby(jobs, lambda job: job.data_set):
        trial = zero_shot.prepare(
            data_set.clips,
            data_set.frames,
            templates=data_set.templates,
            classes=data_set.classes or None,
        )
        texts: dict[tuple[float | None, bool], Tensor] = {}
        for (vision, renormalise), of_vision in groupby(
            of_set, lambda job: (job.cell.alpha, job.cell.renormalise)
        ):
            row = list(of_vision)
            for job in row:
                key = (job.cell.text_alpha, renormalise)
                if key not in texts:
                    fused.set_alpha(ensembling.per_tower(0, job.cell.text_alpha))
                    texts[key] = zero_shot.text_side(encoder, trial, renormalise=renormalise)
            fused.set_alpha(ensembling.per_tower(vision, 0))
            videos = zero_shot.video_side(encoder, trial, renormalise=renormalise)
            for job in row:
                key = (job.cell.text_alpha, renormalise)
                yield job, zero_shot.rank(trial, videos, texts[key])


def _student_key(one: Cell | Student) -> tuple[Any, ...]:
    return one.sampling, one.labelled_clips, round(one.labelled_share or 0.0, 9), one.draw


def _class_protocol(data_set: EvaluationSet) -> dict[str, Any] | None:
    """The classes that labels are ranked among, in any order; None for retrieval."""
    labels = data_set.clips["label"].dropna() if "label" in data_set.clips else ()
    names = sorted(data_set.classes or set(labels))
    return {"number": len(names), "sha256": json_digest(names)} if names else None
