"""Measure one live model at every alpha on every data set, cell by cell, into the results store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from fitclip_core import ensembling, zero_shot
from fitclip_core.artefacts import source_digest
from fitclip_core.encoders import ClipEncoder, FrameSource
from fitclip_core.results import CellKey, ResultsStore

State = Mapping[str, Tensor]
# The modules that a cell's numbers follow from; a change in one makes stored cells stale.
MEASURED_BY = tuple(
    f"fitclip_core.{module}" for module in ("encoders", "ensembling", "metrics", "zero_shot")
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
    """

    name: str
    clips: pd.DataFrame
    frames: FrameSource
    templates: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)


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

    Returns:
        The keys of all cells of this sweep, measured now or before.

    Raises:
        ValueError: alphas above 0 without students, an alpha outside [0, 1], repeated data set
            names or draws, or weights that do not fit the encoder.

    Source: supplement, section 6 and figure 3.
    """
    _check(students, alphas, data_sets)
    code = source_digest(*MEASURED_BY)
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
                    protocol = {**data_set.protocol, "code": code, "weights": weights}
                    protocol |= {"templates": list(data_set.templates), "renormalise": False}
                    if not results.is_valid(key, protocol):
                        outcomes = zero_shot.evaluate(
                            encoder, data_set.clips, data_set.frames, templates=data_set.templates
                        )
                        results.write(key, outcomes, protocol)
                    bar.set_postfix(alpha=alpha, draw=student.draw, refresh=False)
                    bar.update()
            keys += wanted
    return keys


def _check(
    students: Sequence[Student], alphas: Sequence[float], data_sets: Sequence[EvaluationSet]
) -> None:
    if not data_sets:
        raise ValueError("there is no data set to measure on; give at least one")
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside or not alphas:
        raise ValueError(f"alphas are {list(alphas)}; give shares of the student in [0, 1]")
    if not students and any(alpha > 0 for alpha in alphas):
        raise ValueError("alphas above 0 need at least one student; without one give [0.0]")
    for what, names in (
        ("draws", [student.draw for student in students]),
        ("data sets", [data_set.name for data_set in data_sets]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(f"{what} are repeated: {names}; give each once")
