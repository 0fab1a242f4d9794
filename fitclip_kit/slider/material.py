"""What a finished run offers to explore: its models, its data sets and its stored cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from figures.measures import Measure
from figures.paper import TITLES
from fitclip_core import zero_shot
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import students
from fitclip_kit.engine.distributed import pick_device
from fitclip_kit.engine.measure import MEASURED_BY, EvaluationSet, Student
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sources import read_sources
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import read_manifest
from fitclip_kit.store.results import Cell

TRAINING, SWEEP = "03_student_distillation", "04_alpha_sweep"
DIRECTIONS: Final = {"retrieval": "text_to_video", "classification": "classification"}
MEASURED_AT: Final = {"retrieval": 5, "classification": 1}
"""The k of R@k and top-k that the curves of figure 3 show."""


@dataclass(frozen=True, eq=False)
class ClipSet:
    """Clips with the texts that they are scored against.

    name: the results' name. title: for readers. trial: what is encoded and ranked. protocol: how
    clips, captions and frames were made.
    """

    name: str
    title: str
    trial: zero_shot.Trial
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> zero_shot.Task:
        """Retrieval or classification."""
        return self.trial.task

    @property
    def measure(self) -> Measure:
        """What its curve shows."""
        return Measure(self.name, DIRECTIONS[self.task], MEASURED_AT[self.task])

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
        trial = self.trial
        return [form.replace("{}", name) for name in trial.classes for form in trial.templates]

    @property
    def clip_ids(self) -> list[str]:
        """The rows' ids, as in every feature matrix; in retrieval a row is a clip's caption."""
        return self.trial.clips["clip_id"].tolist()

    @property
    def first_rows(self) -> list[int]:
        """The first row of each distinct clip."""
        return self.trial.videos[0].tolist()

    @property
    def candidates(self) -> int:
        """Among how many the right one is looked for: a caption's clip, or a clip's class."""
        return len(self.first_rows if self.task == "retrieval" else self.texts)

    @property
    def answers(self) -> list[str] | None:
        """Each row's caption or class; None where one is not known, so nothing can be measured."""
        column = zero_shot.COLUMN_OF_TASK[self.task]
        if column not in self.trial.clips or self.trial.clips[column].isna().any():
            return None
        return self.trial.clips[column].astype(str).tolist()

    def right_texts(self, row: int) -> list[int]:
        """Places in `texts` of a row's class, or of all captions of its clip, where known."""
        if (answers := self.answers) is None:
            return []
        if self.task == "classification":
            return [self.texts.index(answers[row])]
        numbers = self.trial.videos[1]
        return np.flatnonzero(numbers == numbers[row]).tolist()

    def called(self, row: int) -> str:
        """A clip in words: its id and, where it is known, its caption or class."""
        answers, clip_id = self.answers, self.clip_ids[row]
        return clip_id if answers is None else f"{clip_id}: {answers[row]}"

    def frames_of(self, row: int) -> np.ndarray:
        """A clip's frames, uint8 `[valid frames, h, w, 3]`. Raises: ValueError for no such row."""
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

    encoder: holds the teacher's weights; nobody changes them. students: by draw. sets: by name, in
    the sources' order. cells: the sweep's stored ones. model: JSON data on the teacher.
    """

    run: RunFolder
    encoder: ClipEncoder
    teacher_sha256: str
    students: dict[int, Student]
    sets: dict[str, ClipSet]
    cells: list[Cell]
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where what is made by the page is kept."""
        return self.run.path / "explore_alpha"

    @property
    def titles(self) -> dict[str, str]:
        """Data set -> its name for readers."""
        return {name: clip_set.title for name, clip_set in self.sets.items()}


def open_material(run_dir: Path | str, sources_file: str = "", device: str = "cpu") -> Material:
    """Open a run of which notebooks 01, 03 and 04 are finished, with the data sets of its sweep.

    Warns when the measuring code has changed since. sources_file: what the run was made with;
    empty: the embedded benchmark. device: cpu, cuda, mps, or auto.

    Raises: ValueError when a notebook has to be run first (it is named), the sources are not those
        of the run, or stored cells are missing or were measured with other weights or clips.
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
    alphas = sorted({round(float(alpha), 9) for alpha in swept["parameters"]["alphas"]})
    trained_students = {draw: students.load(run.student(draw), draw).student for draw in draws}
    stored = {
        cell.data_set
        for cell in run.results.cells()
        if cell.draw in trained_students
        and cell == trained_students[cell.draw].cell(cell.data_set, cell.alpha)
    }
    if not stored:
        raise ValueError(f"{run.path} holds no cell of a sweep; run notebook {SWEEP} first")
    known = [name for name in sources.evaluated if name in stored]
    data_sets = [run.evaluation_set(name) for name in (*known, *sorted(stored - set(known)))]
    cells = {  # the teacher's cell is one for all draws
        student.cell(data_set.name, alpha): data_set
        for data_set in data_sets
        for alpha in alphas
        for student in trained_students.values()
    }
    weights = {draw: student.sha256 for draw, student in trained_students.items()}
    stale = sum(_is_stale(run, cell, one, teacher.sha256, weights) for cell, one in cells.items())
    if stale:
        warnings.warn(
            f"{stale} of the sweep's {len(cells)} stored cells were measured by other code than "
            f"there is now; run notebook {SWEEP} again where stored and live answers should agree "
            "exactly",
            stacklevel=2,
        )
    return Material(
        run=run,
        encoder=cast(ClipEncoder, teacher.encoder),  # a teacher is one
        teacher_sha256=teacher.sha256,
        students=trained_students,
        sets={one.name: clip_set_of(one, TITLES.get(one.name, one.name)) for one in data_sets},
        cells=list(cells),
        model=dict(teacher.protocol),
    )


def _finished(run: RunFolder, notebook: str) -> dict[str, Any]:
    try:
        return read_manifest(run.path / notebook)
    except ValueError as error:
        raise ValueError(f"{error}; run notebook {notebook} first") from error


def _is_stale(
    run: RunFolder,
    cell: Cell,
    data_set: EvaluationSet,
    teacher_sha256: str,
    students_sha256: Mapping[int, str],
) -> bool:
    """Whether other code measured a cell. Raises: ValueError for other models or clips."""
    try:
        protocol = run.results.record(cell)["protocol"]
    except ValueError as error:
        raise ValueError(f"{error}; run notebook {SWEEP} again") from error
    weights = {"teacher": teacher_sha256}
    if cell.draw is not None:
        weights["student"] = students_sha256[cell.draw]
    expected = {**data_set.protocol, "weights": weights}
    if wrong := [name for name, value in expected.items() if protocol.get(name) != value]:
        raise ValueError(
            f"{cell.data_set} at alpha {cell.alpha:g} was measured with other {wrong[0]} than the "
            f"run has now; run notebook {SWEEP} again"
        )
    return bool(protocol.get("code") != _measuring_code())


@cache
def _measuring_code() -> str:
    return code_digest(*MEASURED_BY)


def clip_set_of(data_set: EvaluationSet, title: str) -> ClipSet:
    """An evaluation set, ready to be explored."""
    trial = zero_shot.prepare(
        data_set.clips,
        data_set.frames,
        templates=data_set.templates,
        classes=data_set.classes or None,
    )
    return ClipSet(data_set.name, title, trial, data_set.protocol)
