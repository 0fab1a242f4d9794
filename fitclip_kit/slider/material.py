"""What a finished run offers to explore: its models, its data sets and its stored cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from figures.paper import TITLES
from fitclip_core import zero_shot
from fitclip_core.devices import pick_device
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import students
from fitclip_kit.engine.measure import MEASURED_BY, EvaluationSet, Student
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sources import read_sources
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import read_manifest
from fitclip_kit.store.results import Cell

TRAINING, SWEEP = "03_student_distillation", "04_alpha_sweep"
MEASURED_AT: Final = {"retrieval": 5, "classification": 1}
"""The k of R@k and top-k that the curves of figure 3 show."""


@dataclass(frozen=True, eq=False)
class ClipSet:
    """Clips with the texts that they are scored against.

    Attributes:
        name: the results' name of it.
        title: its name for readers.
        trial: what is encoded and ranked.
        measure_k: the k of R@k or top-k.
        protocol: JSON data on how clips, captions and frames were made.
    """

    name: str
    title: str
    trial: zero_shot.Trial
    measure_k: int
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> zero_shot.Task:
        """Retrieval or classification."""
        return self.trial.task

    @property
    def texts(self) -> list[str]:
        """What the clips are scored against: their captions, in their order, or the classes."""
        if self.task == "retrieval":
            return self.trial.clips["text"].tolist()
        return list(self.trial.classes)

    @property
    def prompts(self) -> list[str]:
        """What the text tower reads: the captions, or each class in each template."""
        if self.task == "retrieval":
            return self.texts
        return [
            one.replace("{}", name) for name in self.trial.classes for one in self.trial.templates
        ]

    @property
    def clip_ids(self) -> list[str]:
        """The rows' ids, in the order of every feature matrix of this set; in retrieval a row is a
        clip with one of its captions."""
        return self.trial.clips["clip_id"].tolist()

    @property
    def first_rows(self) -> list[int]:
        """The first row of each distinct clip."""
        return self.trial.videos[0].tolist()

    def right_rows(self, row: int) -> list[int]:
        """The places in `texts` of all the captions of a row's clip; retrieval only."""
        numbers = self.trial.videos[1]
        return np.flatnonzero(numbers == numbers[row]).tolist()

    @property
    def candidates(self) -> int:
        """Among how many the right one is looked for: a caption's clip, or a clip's class."""
        return len(self.first_rows if self.task == "retrieval" else self.texts)

    @property
    def has_answers(self) -> bool:
        """Whether the right text of every clip is known, so that the set can be measured."""
        column = zero_shot.COLUMN_OF_TASK[self.task]
        return column in self.trial.clips and bool(self.trial.clips[column].notna().all())

    def frames_of(self, row: int) -> np.ndarray:
        """A clip's frames, uint8 `[valid frames, h, w, 3]`, RGB.

        row: the clip's place in `clip_ids`.

        Raises: ValueError when there is no such row.
        """
        if not 0 <= row < len(self.trial.indices):
            raise ValueError(
                f"{self.name} has no clip {row}; it has {len(self.trial.indices)}, from 0 on"
            )
        place = self.trial.indices[row]
        frames = self.trial.frames.frames(np.array([place]))[0]
        return frames[: self.trial.frames.frame_counts[place]]


@dataclass(frozen=True, eq=False)
class Material:
    """What a finished run offers to explore.

    Attributes:
        run: the run's folder.
        encoder: holds the teacher's weights; nobody changes them.
        teacher_sha256: digest of the teacher's weights.
        students: draw -> trained student.
        sets: name -> data set, in the sources' order.
        alphas: the sweep's, ascending.
        keys: the sweep's stored cells of these students, data set by data set and by alpha.
        model: JSON data on the teacher.
    """

    run: RunFolder
    encoder: ClipEncoder
    teacher_sha256: str
    students: dict[int, Student]
    sets: dict[str, ClipSet]
    alphas: tuple[float, ...]
    keys: list[Cell]
    model: Mapping[str, Any] = field(default_factory=dict)


def open_material(run_dir: Path | str, sources_file: str = "", device: str = "cpu") -> Material:
    """Open a run of which notebooks 01, 03 and 04 are finished.

    The data sets are those that the sweep measured. A warning says so when the measuring code has
    changed since, because what is stored may then differ from what the live model gives.

    Args:
        run_dir: the run's folder.
        sources_file: what the run was made with; empty: the embedded benchmark.
        device: where models compute: cpu, cuda, mps, or auto.

    Raises:
        ValueError: a notebook has to be run first (it is named), the sources are not those of the
            run, or stored cells are missing or were measured with other weights or clips.
    """
    run, sources = RunFolder(Path(run_dir)), read_sources(sources_file)
    trained, swept = _finished(run, TRAINING), _finished(run, SWEEP)
    for notebook, manifest in ((TRAINING, trained), (SWEEP, swept)):
        if manifest["inputs"].get("sources") != sources.digest:
            raise ValueError(
                f"notebook {notebook} of {run.path} was run with another sources file than "
                f"{sources_file or 'the embedded one'}; give its file, or run the notebook again"
            )
    teacher = sources.load_teacher(pick_device(device))
    draws = [int(draw) for draw in swept["parameters"]["draws"]]
    known = {draw: students.load(run.student(draw), draw).student for draw in draws}
    alphas = sorted({round(float(alpha), 9) for alpha in swept["parameters"]["alphas"]})
    swept_sets = {
        cell.data_set
        for cell in run.results.cells()
        if cell.draw in known and cell == known[cell.draw].cell(cell.data_set, cell.alpha)
    }
    if not swept_sets:
        raise ValueError(f"{run.path} holds no cell of a sweep; run notebook {SWEEP} first")
    order = {name: place for place, name in enumerate(sources.evaluated)}
    by_set = {  # the teacher's cell is one for all draws
        name: list(
            dict.fromkeys(
                student.cell(name, alpha) for alpha in alphas for student in known.values()
            )
        )
        for name in sorted(swept_sets, key=lambda name: (order.get(name, len(order)), name))
    }
    weights = {draw: student.sha256 for draw, student in known.items()}
    data_sets = {name: run.evaluation_set(name) for name in by_set}
    stale = sum(
        _stale_cells(run, keys, data_sets[name], teacher.sha256, weights)
        for name, keys in by_set.items()
    )
    if stale:
        warnings.warn(
            f"{stale} of the sweep's {sum(map(len, by_set.values()))} stored cells were measured "
            f"by other code than there is now; run notebook {SWEEP} again where stored and live "
            "answers should agree exactly",
            stacklevel=2,
        )
    return Material(
        run=run,
        encoder=cast(ClipEncoder, teacher.encoder),  # a teacher is one
        teacher_sha256=teacher.sha256,
        students=known,
        sets={name: _clip_set(one) for name, one in data_sets.items()},
        alphas=tuple(alphas),
        keys=list(chain.from_iterable(by_set.values())),
        model=dict(teacher.protocol),
    )


def _finished(run: RunFolder, notebook: str) -> dict[str, Any]:
    try:
        return read_manifest(run.path / notebook)
    except ValueError as error:
        raise ValueError(f"{error}; run notebook {notebook} first") from error


def _stale_cells(
    run: RunFolder,
    keys: Sequence[Cell],
    data_set: EvaluationSet,
    teacher_sha256: str,
    students_sha256: Mapping[int, str],
) -> int:
    """Refuse cells that are not of these models and clips; count those measured by other code."""
    code = code_digest(*MEASURED_BY)
    stale = 0
    for key in keys:
        try:
            protocol = run.results.record(key)["protocol"]
        except ValueError as error:
            raise ValueError(f"{error}; run notebook {SWEEP} again") from error
        weights = {"teacher": teacher_sha256}
        if key.draw is not None:
            weights["student"] = students_sha256[key.draw]
        expected = {**data_set.protocol, "weights": weights}
        if wrong := [name for name, value in expected.items() if protocol.get(name) != value]:
            raise ValueError(
                f"{key.data_set} at alpha {key.alpha:g} was measured with other {wrong[0]} than "
                f"the run has now; run notebook {SWEEP} again"
            )
        stale += protocol.get("code") != code
    return stale


def _clip_set(data_set: EvaluationSet) -> ClipSet:
    trial = zero_shot.prepare(
        data_set.clips,
        data_set.frames,
        templates=data_set.templates,
        classes=data_set.classes or None,
    )
    return ClipSet(
        name=data_set.name,
        title=TITLES.get(data_set.name, data_set.name),
        trial=trial,
        measure_k=MEASURED_AT[trial.task],
        protocol=data_set.protocol,
    )
