"""Measure models on data sets, cell by cell, into the results store: a sweep over alpha, or one
model for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from fitclip_core import ensembling, zero_shot
from fitclip_core.artefacts import json_digest, source_digest
from fitclip_core.encoders import ClipEncoder
from fitclip_core.results import CellKey, ResultsStore
from fitclip_core.video_text import FrameSource, VideoTextEncoder

State = Mapping[str, Tensor]
# The modules that a cell's numbers follow from; a change in one makes stored cells stale.
MEASURED_BY = tuple(
    f"fitclip_core.{module}"
    for module in (
        "encoders",
        "ensembling",
        "foreign_checkpoints",
        "metrics",
        "models",
        "torch_archive",
        "video_text",
        "zero_shot",
    )
)
REFERENCE_MEASURED_BY = (
    *MEASURED_BY,
    "fitclip_core.frozen_in_time",
    "fitclip_core.frozen_in_time_encoder",
)


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
    """One trained student: its draw's number, weights, and the weights' sha256."""

    draw: int
    state: State
    sha256: str


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

    Returns:
        The keys of all cells of this sweep, measured now or before.

    Raises:
        ValueError: alphas above 0 without students, an alpha outside [0, 1], repeated data set
            names or draws, or weights that do not fit the encoder.

    Source: supplement, section 6 and figure 3.
    """
    _check(students, alphas, data_sets)
    made_by = {"code": source_digest(*MEASURED_BY), "model": dict(model)}
    teacher = encoder.state()
    shares = sorted({round(float(alpha), 9) for alpha in alphas})  # as CellKey keeps them
    cells = [(student, alpha) for student in students for alpha in shares if alpha > 0]
    if 0 in shares:
        cells.insert(0, (Student(0, teacher, teacher_sha256), 0.0))
    keys: list[CellKey] = []
    with tqdm(total=len(cells) * len(data_sets), desc="cells", unit="cell") as bar:
        for student, alpha in cells:
            fused = ensembling.AlphaSweep(encoder.model, teacher, student.state)
            wanted = {
                CellKey.at(
                    alpha,
                    label_share=label_share,
                    subset_size=subset_size,
                    seed=student.draw,
                    data_set=data_set.name,
                ): data_set
                for data_set in data_sets
            }
            weights = {"teacher": teacher_sha256} | ({"student": student.sha256} if alpha else {})
            with fused:
                fused.set_alpha(alpha)
                for key, data_set in wanted.items():
                    _measure(encoder, key, data_set, made_by | {"weights": weights}, results)
                    bar.set_postfix(alpha=alpha, draw=student.draw, refresh=False)
                    bar.update()
            keys += wanted
    return keys


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
    _check_data_sets(data_sets)
    if not weights.get("sha256"):
        raise ValueError(f"the weights of {name} have no sha256; give at least that")
    code = source_digest(*REFERENCE_MEASURED_BY)
    made_by = {"code": code, "model": dict(model), "weights": dict(weights)}
    keys = [CellKey.reference(name, data_set.name) for data_set in data_sets]
    pairs = list(zip(keys, data_sets, strict=True))
    for key, data_set in tqdm(pairs, desc=name, unit="cell"):
        _measure(encoder, key, data_set, made_by, results)
    return keys


def _measure(
    encoder: VideoTextEncoder,
    key: CellKey,
    data_set: EvaluationSet,
    made_by: Mapping[str, Any],
    results: ResultsStore,
) -> None:
    """Evaluate one cell unless it is stored; `made_by` is the protocol's part on the model."""
    protocol = {
        **data_set.protocol,
        **made_by,
        "templates": list(data_set.templates),
        "classes": _class_protocol(data_set),
        "renormalise": False,
    }
    if results.is_valid(key, protocol):
        return
    outcomes = zero_shot.evaluate(
        encoder,
        data_set.clips,
        data_set.frames,
        templates=data_set.templates,
        classes=data_set.classes or None,
    )
    results.write(key, outcomes, protocol)


def _class_protocol(data_set: EvaluationSet) -> dict[str, Any] | None:
    """The classes that labels are ranked among, in any order; None for retrieval."""
    labels = data_set.clips["label"].dropna() if "label" in data_set.clips else ()
    names = sorted(data_set.classes or set(labels))
    return {"number": len(names), "sha256": json_digest(names)} if names else None


def _check(
    students: Sequence[Student], alphas: Sequence[float], data_sets: Sequence[EvaluationSet]
) -> None:
    _check_data_sets(data_sets)
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside or not alphas:
        raise ValueError(f"alphas are {list(alphas)}; give shares of the student in [0, 1]")
    if not students and any(alpha > 0 for alpha in alphas):
        raise ValueError("alphas above 0 need at least one student; without one give [0.0]")
    _check_distinct("draws", [student.draw for student in students])


def _check_data_sets(data_sets: Sequence[EvaluationSet]) -> None:
    if not data_sets:
        raise ValueError("there is no data set to measure on; give at least one")
    _check_distinct("data sets", [data_set.name for data_set in data_sets])


def _check_distinct(what: str, names: Sequence[object]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what} are repeated: {list(names)}; give each once")
