"""Measure cells into the results store: the teacher, its merges with students, references."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby, product
from types import MappingProxyType
from typing import Any, cast

import pandas as pd
import torch
from tqdm import tqdm

from fitclip_core import ensembling, merges, zero_shot
from fitclip_core.clips import FrameSource
from fitclip_core.ensembling import Schedule, State
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import json_digest
from fitclip_kit.store.results import AVERAGE, Cell, ResultsStore
from fitclip_kit.weights.models import LoadedModel

Schedules = Mapping[tuple[str, float], Schedule]  # (merge, alpha) -> shares of the student
# The modules that a cell's numbers follow from; a change in one makes stored cells stale.
MEASURED_BY = (
    "fitclip_core.encoders",
    "fitclip_core.merges",
    "fitclip_core.zero_shot",
    "fitclip_kit.weights.foreign_checkpoints",
)
_COORDINATES = ("draw", "sampling", "labelled_clips", "labelled_share")
_MODULES = {False: MEASURED_BY, True: (*MEASURED_BY, "fitclip_kit.weights.frozen_in_time")}


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """One data set to measure on.

    Attributes:
        clips: its clips table, with `text` or `label`.
        frames: its decoded clips, in evaluation form.
        templates, classes: an action data set's; without classes they are the labels of `clips`.
        protocol: JSON data on how clips, captions and frames were made, kept with every result.
    """

    name: str
    clips: pd.DataFrame
    frames: FrameSource
    templates: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What the zero-shot evaluation is told of it beside clips and frames."""
        return {"templates": self.templates, "classes": self.classes or None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """One trained student.

    Attributes:
        draw, sampling, labelled_clips, labelled_share: which it is, as in `Cell`.
        state, sha256: its weights and their digest.
        training: for the protocol, JSON data on how it was trained; empty: not known.
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
        student: dict[str, Any] = {name: getattr(self, name) for name in _COORDINATES}
        return Cell(data_set, alpha=alpha, **student, **others)


def sweep_cells(
    data_sets: Sequence[str], students: Sequence[Student], alphas: Sequence[float], **others: Any
) -> list[Cell]:
    """The cells of every fusion of the teacher and each student on every data set.

    At alpha 0 that is the teacher, once for all students. others: further coordinates of all cells.

    Raises: ValueError for none or repeated data sets, no alphas or one outside [0, 1], repeated
    students, or alphas above 0 without students.
    Source: supplement, section 6 and figure 3.
    """
    if not data_sets or not len(alphas):
        raise ValueError("there is no data set or no alpha to measure; give at least one")
    if not students and any(alpha > 0 for alpha in alphas):
        raise ValueError("alphas above 0 need at least one student; without one give [0.0]")
    shares = _shares(alphas)
    cells = [Cell(name, **others) for name in data_sets] if 0 in shares else []
    cells += [
        student.cell(name, alpha, **others)
        for student, alpha, name in product(students, shares, data_sets)
        if alpha != 0
    ]
    if len(set(cells)) < len(cells):
        draws = [student.draw for student in students]
        raise ValueError(f"data sets {list(data_sets)} or draws {draws} repeat; give each once")
    return cells


def tower_cells(data_sets: Sequence[str], student: Student, alphas: Sequence[float]) -> list[Cell]:
    """The cells of every pair of an alpha of the vision tower and one of the text tower."""
    pairs = product(data_sets, _shares(alphas), _shares(alphas))
    return [student.cell(name, vision, text_alpha=text) for name, vision, text in pairs]


def measure(
    cells: Iterable[Cell],
    model: LoadedModel,
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    students: Sequence[Student] = (),
    schedules: Schedules = MappingProxyType({}),
) -> list[Cell]:
    """Measure every cell that the store does not hold under its protocol; returns all, each once.

    Weights are set once for all data sets of a fusion. A video's features depend on the vision
    tower alone and a text's on the text tower alone: with an alpha for each tower, as in
    `merges.per_tower`, each is encoded once for each of its own alphas.

    Args:
        model: the teacher, whose encoder has its own weights again on return; or for cells of a
            reference that reference.
        data_sets, students: of which the cells are.
        schedules: (merge, alpha) -> schedule of the cells whose merge is not one of
            `merges.MERGES`; their alpha only says which share of the student it goes by.

    Raises: ValueError when a cell's data set, student or schedule is not given, names or students
    are repeated, or weights do not fit the encoder.
    Source: supplement, sections 2 and 6, and tables 2 and 3 for references.
    """
    jobs = list(_jobs(cells, model, data_sets, students, schedules))
    missing = [job for job in jobs if not results.is_valid(job.cell, job.protocol)]
    missing.sort(key=partial(_order, students=list(students)))
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="cells", unit="cell")
    with bar, closing(_outcomes(model, missing)) as measured:
        for job, outcomes in measured:
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
    schedules: Schedules = MappingProxyType({}),
) -> list[Cell]:
    """The cells that :func:`measure` would measure; the students' `state` is not looked at."""
    jobs = _jobs(cells, model, data_sets, students, schedules)
    return [job.cell for job in jobs if not results.is_valid(job.cell, job.protocol)]


@dataclass(frozen=True, eq=False)
class _Job:
    """A cell with what it is measured on, and how."""

    cell: Cell
    data_set: EvaluationSet
    student: Student | None
    alpha: float | Schedule
    protocol: Mapping[str, Any]


def schedule_digest(schedule: Schedule, state: State) -> str:
    """SHA-256 of the shares that a schedule gives a state's fused tensors; ValueError as
    `ensembling.interpolate`."""
    ensembling.check_alpha(schedule, state)
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if ensembling.is_fused(name, tensor):
            given = ensembling.share_of(schedule, name, tensor.shape)
            share = torch.as_tensor(given, dtype=torch.float64)
            digest.update(f"{name}\0{tuple(share.shape)}\0".encode())
            digest.update(share.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _jobs(
    cells: Iterable[Cell],
    model: LoadedModel,
    data_sets: Sequence[EvaluationSet],
    students: Sequence[Student],
    schedules: Schedules,
) -> Iterator[_Job]:
    sets = {data_set.name: data_set for data_set in data_sets}
    known = {_key(student): student for student in students}
    if len(sets) < len(data_sets) or len(known) < len(students):
        raise ValueError(
            f"data sets or students are repeated: {[*sets]}, {[*known]}; give one each"
        )
    codes = {reference: code_digest(*modules) for reference, modules in _MODULES.items()}
    digest = cache(lambda key: schedule_digest(schedules[key], cast(Any, model.encoder).state()))
    for cell in dict.fromkeys(cells):
        merge, student = (cell.merge, cell.alpha), known.get(_key(cell))
        if cell.data_set not in sets:
            raise ValueError(f"{cell} is of no given data set; there are {sorted(sets)}")
        if cell.draw is not None and student is None:
            raise ValueError(f"{cell} is of no given student; there are {sorted(known)}")
        if cell.merge not in merges.MERGES and merge not in schedules:
            raise ValueError(f"{cell} has no schedule; there are {sorted(schedules)}")
        data_set = sets[cell.data_set]
        protocol = {
            **data_set.protocol,
            "code": codes[cell.is_reference],
            "model": dict(model.protocol),
            "weights": {"sha256" if cell.is_reference else "teacher": model.sha256},
            "templates": list(data_set.templates),
            "classes": _class_protocol(data_set),
            "renormalise": cell.renormalise,
        }
        if student is not None:
            protocol["weights"]["student"] = student.sha256
            protocol["training"] = dict(student.training)
        if merge in schedules:
            protocol["merge"] = {"schedule": digest(merge)}
        elif cell.merge != AVERAGE:
            protocol["merge"] = {"name": cell.merge}
        elif cell.text_alpha is not None:
            protocol["merge"] = {"vision_alpha": cell.alpha, "text_alpha": cell.text_alpha}
        yield _Job(cell, data_set, student, schedules.get(merge, cell.alpha), protocol)


def _order(job: _Job, students: list[Student]) -> tuple[Any, ...]:
    """Puts together what shares weights, or features of a tower."""
    cell, towers = job.cell, job.cell.text_alpha is not None
    place = students.index(job.student) if job.student else -1
    return place, towers, cell.data_set if towers else "", cell.merge, cell.alpha, cell.renormalise


def _outcomes(model: LoadedModel, jobs: Iterable[_Job]) -> Generator[tuple[_Job, pd.DataFrame]]:
    """Each job with its outcomes; they come in `_order`."""
    encoder: Any = model.encoder
    for student, of_student in groupby(jobs, lambda job: job.student):
        if student is None:
            yield from ((job, _evaluated(model, job)) for job in of_student)
            continue
        with ensembling.AlphaSweep(encoder.model, encoder.state(), student.state) as fused:
            for key, group in groupby(of_student, _weights):
                if key is None:
                    yield from _of_towers(model, fused, group)
                    continue
                (name, alpha), of_fusion = key, list(group)
                if name == AVERAGE or name not in merges.MERGES:
                    fused.set_alpha(of_fusion[0].alpha)
                else:
                    fused.set_merge(merges.MERGES[name], alpha)
                yield from ((job, _evaluated(model, job)) for job in of_fusion)


def _weights(job: _Job) -> tuple[str, float] | None:
    """Merge and alpha of what is evaluated as a whole; None where each tower has an alpha."""
    return None if job.cell.text_alpha is not None else (job.cell.merge, job.cell.alpha)


def _evaluated(model: LoadedModel, job: _Job) -> pd.DataFrame:
    own, options = job.data_set, job.data_set.options | {"renormalise": job.cell.renormalise}
    return zero_shot.evaluate(model.encoder, own.clips, own.frames, **options)


def _of_towers(
    model: LoadedModel, fused: ensembling.AlphaSweep, jobs: Iterable[_Job]
) -> Iterator[tuple[_Job, pd.DataFrame]]:
    """From features of each tower by itself; texts' are kept while the data set is the same."""
    for data_set, of_set in groupby(jobs, lambda job: job.data_set):
        trial = zero_shot.prepare(data_set.clips, data_set.frames, **data_set.options)
        texts: dict[Any, torch.Tensor] = {}
        place = operator.attrgetter("cell.alpha", "cell.renormalise")
        for (vision, renormalise), group in groupby(of_set, place):
            of_vision = [((job.cell.text_alpha or 0.0, renormalise), job) for job in group]
            for key, _ in of_vision:
                if key not in texts:
                    fused.set_alpha(merges.per_tower(0, key[0]))
                    texts[key] = zero_shot.text_side(model.encoder, trial, renormalise=renormalise)
            fused.set_alpha(merges.per_tower(vision, 0))
            videos = zero_shot.video_side(model.encoder, trial, renormalise=renormalise)
            for key, job in of_vision:
                yield job, zero_shot.rank(trial, videos, texts[key])


def _shares(alphas: Sequence[float]) -> list[float]:
    return sorted({round(float(alpha), 9) for alpha in alphas})  # as Cell keeps them


def _key(one: Cell | Student) -> tuple[Any, ...]:
    return one.sampling, one.labelled_clips, round(one.labelled_share or 0.0, 9), one.draw


def _class_protocol(data_set: EvaluationSet) -> dict[str, Any] | None:
    """The classes that labels are ranked among, in any order; None for retrieval."""
    labels = data_set.clips["label"].dropna() if "label" in data_set.clips else ()
    names = sorted(data_set.classes or set(labels))
    return {"number": len(names), "sha256": json_digest(names)} if names else None
