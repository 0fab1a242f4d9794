"""Measure models on data sets, cell by cell, into the results store: a sweep over alpha, other
merges of the same two models, or one model for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd
from fitclip_core.video_text import FrameSource, VideoTextEncoder
from torch import Tensor
from tqdm import tqdm

from fitclip_core import ensembling, zero_shot
from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import Schedule
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import json_digest
from fitclip_kit.store.results import CellKey, ResultsStore

State = Mapping[str, Tensor]
# The modules that a cell's numbers follow from; a change in one makes stored cells stale.
MEASURED_BY = (
    "fitclip_core.encoders",
    "fitclip_core.ensembling",
    "fitclip_core.zero_shot",
    "fitclip_kit.weights.foreign_checkpoints",
)
REFERENCE_MEASURED_BY = (*MEASURED_BY, "fitclip_kit.weights.frozen_in_time_encoder")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Student:
    """One trained student: its draw's number, weights, the weights' sha256, and for the protocol
    JSON data on how it was trained (`students.training_record`); empty: not known."""

    draw: int
    state: State
    sha256: str
    training: Mapping[str, Any] = field(default_factory=dict)


def sweep_alphas(
    encoder: ClipEncoder,
    teacher_sha256: str,
    students: Sequence[Student],
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    label_share: float = 0.0,
    subset_size: int = 0,
    model: Mapping[str, Any] = MappingProxyType({}),
    renormalise: bool = False,
) -> list[CellKey]:
    """Measure every fusion of the teacher and each student on every data set.

    A cell that the store holds under the same protocol is not measured again, so a sweep that was
    stopped goes on with the next cell. Alpha 0 is the teacher alone and is measured once for all
    students; without students only alpha 0 can be measured.

    Args:
        encoder: holds the teacher's weights; has them again on return.
        teacher_sha256: digest of the teacher's weights, for the protocol.
        students: weights of the draws; their `logit_scale` plays no part.
        alphas: shares of the student, each in [0, 1].
        data_sets: where to measure.
        results: receives one cell for each alpha, student and data set.
        label_share: weight of the labelled loss in the students' training.
        subset_size: number of labelled clips in the students' training.
        model: JSON data on the teacher (architecture, kind of weights, file), for the protocol.
        renormalise: measure with mean features that are renormalised, which the paper's are not,
            into cells of the variant "renormalised"; `results.variant_rows` gives them back.

    Returns:
        The keys of all cells of this sweep, measured now or before.

    Raises:
        ValueError: alphas above 0 without students, an alpha outside [0, 1], repeated data set
            names or draws, or weights that do not fit the encoder.

    Source: supplement, section 6 and figure 3.
    """
    teacher = encoder.state()
    training: dict[str, Any] = {"label_share": label_share, "subset_size": subset_size}
    made_by = (teacher_sha256, model, renormalise)
    points = _points(students, alphas, data_sets, *made_by, **training)
    keys: list[CellKey] = []
    with tqdm(total=len(points) * len(data_sets), desc="cells", unit="cell") as bar:
        for point in points:
            missing = point.missing(results)
            bar.update(len(point.cells) - len(missing))
            if missing:
                other = teacher if point.student is None else point.student.state
                with ensembling.AlphaSweep(encoder.model, teacher, other) as fused:
                    fused.set_alpha(point.alpha)
                    for cell in missing:
                        _measure(encoder, cell, results)
                        bar.set_postfix(alpha=point.alpha, draw=cell.key.seed, refresh=False)
                        bar.update()
            keys += [cell.key for cell in point.cells]
    return keys


def unmeasured(
    teacher_sha256: str,
    students: Sequence[Student],
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    label_share: float = 0.0,
    subset_size: int = 0,
    model: Mapping[str, Any] = MappingProxyType({}),
    renormalise: bool = False,
) -> list[CellKey]:
    """The cells that :func:`sweep_alphas` with the same arguments would measure.

    The students' `state` is not looked at. Raises ValueError as :func:`sweep_alphas`, but for
    weights that do not fit.
    """
    training: dict[str, Any] = {"label_share": label_share, "subset_size": subset_size}
    made_by = (teacher_sha256, model, renormalise)
    points = _points(students, alphas, data_sets, *made_by, **training)
    return [cell.key for point in points for cell in point.missing(results)]


def measure_reference(
    encoder: VideoTextEncoder,
    name: str,
    weights: Mapping[str, Any],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> list[CellKey]:
    """Measure a model that takes no part in the fusion on every data set.

    A cell that the store holds under the same protocol is not measured again.

    Args:
        encoder: the model.
        name: how results call it, such as "frozen_in_time_webvid": lower-case letters, digits, _.
        weights: JSON data that identify the weights, {"sha256": ...}, for the protocol.
        data_sets: where to measure.
        results: receives one cell for each data set.
        model: JSON data on the model (architecture, kind of weights, file), for the protocol.

    Returns:
        The keys of the cells, measured now or before, in the order of the data sets.

    Raises:
        ValueError: a name that does not fit, weights without sha256, no or repeated data sets.

    Source: supplement, tables 2 and 3.
    """
    cells = _reference_cells(name, weights, data_sets, model)
    for cell in tqdm(cells, desc=name, unit="cell"):
        if not cell.is_valid(results):
            _measure(encoder, cell, results)
    return [cell.key for cell in cells]


def unmeasured_reference(
    name: str,
    weights: Mapping[str, Any],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> list[CellKey]:
    """The cells that :func:`measure_reference` with the same arguments would measure.

    Raises: ValueError as :func:`measure_reference`.
    """
    cells = _reference_cells(name, weights, data_sets, model)
    return [cell.key for cell in cells if not cell.is_valid(results)]


def measure_merges(
    encoder: ClipEncoder,
    teacher_sha256: str,
    student: Student,
    merges: Mapping[tuple[str, float], Schedule],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    label_share: float = 0.0,
    subset_size: int = 0,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> list[CellKey]:
    """Measure teacher and student merged by other schedules than one alpha, on every data set.

    A cell that the store holds under the same protocol, which holds a digest of the schedule's
    alphas, is not measured again.

    Args:
        encoder: holds the teacher's weights; has them again on return.
        teacher_sha256: digest of the teacher's weights, for the protocol.
        student: weights of one draw.
        merges: (name, alpha) -> schedule. The cell is `CellKey.variant(name, alpha, ...)`; the
            alpha only says which share of the student the schedule goes by, for tables and curves.
        data_sets: where to measure.
        results: receives one cell for each merge and data set.
        label_share, subset_size, model: as in :func:`sweep_alphas`.

    Returns:
        The keys of the cells, merge by merge, measured now or before.

    Raises:
        ValueError: no or repeated merges, a name that does not fit, a schedule that does not fit
            the weights, no or repeated data sets, or weights that do not fit the encoder.
    """
    _check_data_sets(data_sets)
    if not merges:
        raise ValueError("there is no merge to measure; give at least one")
    made_by = _merged_by(teacher_sha256, student, model)
    draw: dict[str, Any] = {
        "label_share": label_share,
        "subset_size": subset_size,
        "seed": student.draw,
    }
    keys = [
        CellKey.variant(name, alpha, **draw, data_set=data_set.name)
        for name, alpha in merges
        for data_set in data_sets
    ]
    _check_distinct("merges", keys)
    teacher, waiting = encoder.state(), iter(keys)
    fused = ensembling.AlphaSweep(encoder.model, teacher, student.state)
    with fused, tqdm(total=len(keys), desc="merges", unit="cell") as bar:
        for schedule in merges.values():
            merge = {"schedule": ensembling.schedule_digest(schedule, teacher)}
            fused.set_alpha(schedule)
            for data_set in data_sets:
                protocol = _protocol(data_set, made_by | {"merge": merge})
                cell = _Cell(next(waiting), data_set, protocol)
                if not cell.is_valid(results):
                    _measure(encoder, cell, results)
                bar.update()
    return keys


def measure_tower_map(
    encoder: ClipEncoder,
    teacher_sha256: str,
    student: Student,
    vision_alphas: Sequence[float],
    text_alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    results: ResultsStore,
    *,
    label_share: float = 0.0,
    subset_size: int = 0,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> list[CellKey]:
    """Measure every pair of an alpha of the vision tower and one of the text tower.

    A video's features depend on the vision tower alone and a text's on the text tower alone, so
    the videos are encoded once for each vision alpha and the texts once for each text alpha. The
    outcomes are those of :func:`measure_merges` with `ensembling.per_tower`. Of a data set, the
    vision alphas whose cells the store holds under the same protocol are not measured again.

    Args:
        encoder: an open_clip `CLIP` or `CustomTextCLIP` with the teacher's weights; has them again
            on return.
        teacher_sha256: digest of the teacher's weights, for the protocol.
        student: weights of one draw.
        vision_alphas: the student's shares of the vision tower, each in [0, 1].
        text_alphas: the same of the text tower.
        data_sets: where to measure.
        results: receives one cell, `CellKey.towers`, for each pair and data set.
        label_share, subset_size, model: as in :func:`sweep_alphas`.

    Returns:
        The keys of the cells, data set by data set and vision alpha by vision alpha, measured now
        or before; `results.tower_rows` gives both alphas of their rows.

    Raises:
        ValueError: no alphas or one outside [0, 1], no or repeated data sets, or weights that do
            not fit the encoder or are of neither tower.
    """
    _check_data_sets(data_sets)
    _check_alphas(vision_alphas)
    _check_alphas(text_alphas)
    made_by = _merged_by(teacher_sha256, student, model)
    draw: dict[str, Any] = {
        "label_share": label_share,
        "subset_size": subset_size,
        "seed": student.draw,
    }
    visions, texts = _distinct_shares(vision_alphas), _distinct_shares(text_alphas)
    keys: list[CellKey] = []
    fused = ensembling.AlphaSweep(encoder.model, encoder.state(), student.state)
    total = len(data_sets) * len(visions) * len(texts)
    with fused, tqdm(total=total, desc="tower map", unit="cell") as bar:
        for data_set in data_sets:
            text_features: dict[float, Tensor] = {}
            for vision in visions:
                alphas = {"vision_alpha": vision}
                row = {
                    text: CellKey.towers(vision, text, **draw, data_set=data_set.name)
                    for text in texts
                }
                protocols = {
                    text: _protocol(data_set, made_by | {"merge": alphas | {"text_alpha": text}})
                    for text in texts
                }
                if not all(results.is_valid(row[text], protocols[text]) for text in texts):
                    trial = _trial(data_set)
                    text_features = text_features or _text_features(encoder, fused, texts, trial)
                    fused.set_alpha(ensembling.per_tower(vision, 0))
                    videos = zero_shot.video_side(encoder, trial)
                    for text, key in row.items():
                        outcomes = zero_shot.rank(trial, videos, text_features[text])
                        results.write(key, outcomes, protocols[text])
                keys += row.values()
                bar.update(len(row))
    return keys


@dataclass(frozen=True)
class _Cell:
    """What is measured on what, and how."""

    key: CellKey
    data_set: EvaluationSet
    protocol: Mapping[str, Any]

    def is_valid(self, results: ResultsStore) -> bool:
        return results.is_valid(self.key, self.protocol)


@dataclass(frozen=True)
class _Point:
    """One fusion of the sweep and its cells, one a data set; no student: the teacher alone."""

    student: Student | None
    alpha: float
    cells: list[_Cell]

    def missing(self, results: ResultsStore) -> list[_Cell]:
        return [cell for cell in self.cells if not cell.is_valid(results)]


def _points(
    students: Sequence[Student],
    alphas: Sequence[float],
    data_sets: Sequence[EvaluationSet],
    teacher_sha256: str,
    model: Mapping[str, Any],
    renormalise: bool,
    **training: Any,
) -> list[_Point]:
    """All that a sweep consists of, the teacher first, then student by student."""
    _check(students, alphas, data_sets)
    made_by = {"code": code_digest(*MEASURED_BY), "model": dict(model)}
    shares = _distinct_shares(alphas)
    fusions: list[tuple[Student | None, float]] = [(None, 0.0)] if 0 in shares else []
    fusions += [(student, alpha) for student in students for alpha in shares if alpha > 0]
    points = []
    for student, alpha in fusions:
        fused = {"weights": {"teacher": teacher_sha256}}
        if student is not None:
            fused = _fused_from(teacher_sha256, student)
        draw = 0 if student is None else student.draw
        cells = []
        for data_set in data_sets:
            key = CellKey.at(alpha, **training, seed=draw, data_set=data_set.name)
            protocol = _protocol(data_set, made_by | fused, renormalise)
            cells.append(_Cell(_renormalised(key) if renormalise else key, data_set, protocol))
        points.append(_Point(student, alpha, cells))
    return points


def _reference_cells(
    name: str,
    weights: Mapping[str, Any],
    data_sets: Sequence[EvaluationSet],
    model: Mapping[str, Any],
) -> list[_Cell]:
    _check_data_sets(data_sets)
    if not weights.get("sha256"):
        raise ValueError(f"the weights of {name} have no sha256; give at least that")
    code = code_digest(*REFERENCE_MEASURED_BY)
    made_by = {"code": code, "model": dict(model), "weights": dict(weights)}
    return [
        _Cell(CellKey.reference(name, data_set.name), data_set, _protocol(data_set, made_by))
        for data_set in data_sets
    ]


def _measure(encoder: VideoTextEncoder, cell: _Cell, results: ResultsStore) -> None:
    """Evaluate one cell and store it."""
    outcomes = zero_shot.evaluate(
        encoder,
        cell.data_set.clips,
        cell.data_set.frames,
        templates=cell.data_set.templates,
        classes=cell.data_set.classes or None,
        renormalise=cell.protocol["renormalise"],
    )
    results.write(cell.key, outcomes, cell.protocol)


def _protocol(
    data_set: EvaluationSet, made_by: Mapping[str, Any], renormalise: bool = False
) -> dict[str, Any]:
    """How a cell is measured; `made_by` is the part on the model."""
    return {
        **data_set.protocol,
        **made_by,
        "templates": list(data_set.templates),
        "classes": _class_protocol(data_set),
        "renormalise": renormalise,
    }


def _merged_by(teacher_sha256: str, student: Student, model: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's part on the model, for all merges of the teacher and a student."""
    fused = _fused_from(teacher_sha256, student)
    return {"code": code_digest(*MEASURED_BY), "model": dict(model), **fused}


def _fused_from(teacher_sha256: str, student: Student) -> dict[str, Any]:
    """The protocol's part on the weights: which, and how the student's were trained."""
    weights = {"teacher": teacher_sha256, "student": student.sha256}
    return {"weights": weights, "training": dict(student.training)}


def _trial(data_set: EvaluationSet) -> zero_shot.Trial:
    return zero_shot.prepare(
        data_set.clips,
        data_set.frames,
        templates=data_set.templates,
        classes=data_set.classes or None,
    )


def _text_features(
    encoder: ClipEncoder,
    fused: ensembling.AlphaSweep,
    alphas: Sequence[float],
    trial: zero_shot.Trial,
) -> dict[float, Tensor]:
    """The features of a trial's texts at each alpha of the text tower."""
    features = {}
    for alpha in alphas:
        fused.set_alpha(ensembling.per_tower(0, alpha))
        features[alpha] = zero_shot.text_side(encoder, trial)
    return features


def _renormalised(key: CellKey) -> CellKey:
    fields = {name: value for name, value in asdict(key).items() if name != "model"}
    return CellKey.variant("renormalised", **fields)


def _class_protocol(data_set: EvaluationSet) -> dict[str, Any] | None:
    """The classes that labels are ranked among, in any order; None for retrieval."""
    labels = data_set.clips["label"].dropna() if "label" in data_set.clips else ()
    names = sorted(data_set.classes or set(labels))
    return {"number": len(names), "sha256": json_digest(names)} if names else None


def _check(
    students: Sequence[Student], alphas: Sequence[float], data_sets: Sequence[EvaluationSet]
) -> None:
    _check_data_sets(data_sets)
    _check_alphas(alphas)
    if not students and any(alpha > 0 for alpha in alphas):
        raise ValueError("alphas above 0 need at least one student; without one give [0.0]")
    _check_distinct("draws", [student.draw for student in students])


def _check_alphas(alphas: Sequence[float]) -> None:
    if not len(alphas) or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ValueError(f"alphas are {list(alphas)}; give shares of the student in [0, 1]")


def _distinct_shares(alphas: Sequence[float]) -> list[float]:
    return sorted({round(float(alpha), 9) for alpha in alphas})  # as CellKey keeps them


def _check_data_sets(data_sets: Sequence[EvaluationSet]) -> None:
    if not data_sets:
        raise ValueError("there is no data set to measure on; give at least one")
    _check_distinct("data sets", [data_set.name for data_set in data_sets])


def _check_distinct(what: str, names: Sequence[object]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what} are repeated: {list(names)}; give each once")
