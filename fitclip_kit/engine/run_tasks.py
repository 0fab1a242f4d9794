"""What a run consists of, as independent tasks, so that many machines can share its heavy work.

The tasks leave what notebooks 01 to 06 would leave, under the same digests: shards of the frame
stores, students, cells of the results. A notebook that runs later finds them done, reads them, and
measures only what is missing. What each notebook computes is said twice, there and here; a test
holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from data_prep.datasets.base import DataSet
from fitclip_core.devices import pick_device
from fitclip_core.distillation import Recipe, TrainingClips
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import students, studies
from fitclip_kit.engine.cluster import Task
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sources import (
    TRAINED_ON,
    TRAINING_SETS,
    Sources,
    prepare,
    read_sources,
    share_study_sets,
    size_study_set,
    student_recipe,
)
from fitclip_kit.engine.studies import Training
from fitclip_kit.engine.sweep import (
    EvaluationSet,
    measure_reference,
    sweep_alphas,
    unmeasured,
    unmeasured_reference,
)
from fitclip_kit.store.files import file_sha256, manifest_problems
from fitclip_kit.weights.models import LoadedModel

DATA, ZERO_SHOT, STUDENTS, SWEEP, SIZES, SHARES = (
    "01_data_prep",
    "02_teacher_zero_shot",
    "03_student_distillation",
    "04_alpha_sweep",
    "05_subset_size",
    "06_label_share",
)


@dataclass(frozen=True)
class Run:
    """A run to work on, as tasks carry it with them.

    Attributes:
        path: its folder, absolute.
        working_dir: where the notebooks run, from which their parameters' paths start; absolute.
        parameters: notebook stem -> its parameters.
    """

    path: Path
    working_dir: Path
    parameters: Mapping[str, Mapping[str, Any]]

    @property
    def folder(self) -> RunFolder:
        """Where the run keeps its things."""
        return RunFolder(self.path)

    @property
    def recipe(self) -> tuple[int, Recipe]:
        """Labelled clips and recipe of notebook 03's students, of any draw."""
        return student_recipe(self.parameters[STUDENTS])

    def sources(self, stem: str) -> Sources:
        """The data sets and models that a notebook reads."""
        named = str(self.parameters[stem]["sources_file"])
        return read_sources(self.working_dir / named if named else "")

    def teacher(self, stem: str) -> tuple[ClipEncoder, LoadedModel]:
        """The teacher, on the device that a notebook computes on."""
        device = pick_device(str(self.parameters[stem]["device"]))
        loaded = self.sources(stem).load_teacher(device)
        return cast(ClipEncoder, loaded.encoder), loaded

    def evaluation_sets(self, names: Sequence[str]) -> list[EvaluationSet]:
        """Data sets to measure on; notebook 01's stores have to be there."""
        return [self.folder.evaluation_set(name) for name in names]


def steps(run: Run, parts: Collection[str] = ()) -> dict[str, Callable[[], Iterator[Task]]]:
    """What lists the tasks that are not done of each step of some parts of a run, in order.

    parts: names of `PARTS`; none: all.

    Raises: ValueError for an unknown part.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    chosen = [step for part, inner in PARTS.items() if part in (parts or PARTS) for step in inner]
    return {title: partial(_STEPS[title], run) for title in chosen}


def shard_tasks(run: Run) -> Iterator[Task]:
    """A task for each shard that is missing of notebook 01's frame stores.

    The data sets' tables are made first, here and now, and so are the embedded benchmark's videos.
    """
    for one, folder, rule in _stores(run):
        for number, rows in frame_store.missing_shards(one.clips, folder, rule).items():
            call = partial(frame_store.build_shard, number, rows, one.root, folder, rule)
            yield Task(f"frames of {one.name}, shard {number}", call)


def store_tasks(run: Run) -> Iterator[Task]:
    """A task for each frame store that is not finished: it checks and joins the shards."""
    for one, folder, rule in _stores(run):
        if not frame_store.seems_built(one.clips, folder, rule):
            call = partial(frame_store.build, one.clips, one.root, folder, rule)
            yield Task(f"frame store of {one.name}", call)


def teacher_tasks(run: Run) -> Iterator[Task]:
    """A task for each data set that the teacher is not measured on, for all notebooks."""
    names = [*_evaluated(run, ZERO_SHOT), *_evaluated(run, SWEEP)]
    names += [name for study in (SIZES, SHARES) for name in _measured(run, study)[0]]
    teacher = run.sources(ZERO_SHOT).load_teacher()
    for data_set in run.evaluation_sets(list(dict.fromkeys(names))):
        digest, results = teacher.sha256, run.folder.results
        if unmeasured(digest, [], [0.0], [data_set], results, model=teacher.protocol):
            yield Task(f"teacher on {data_set.name}", partial(measure_teacher, run, data_set.name))


def reference_tasks(run: Run) -> Iterator[Task]:
    """A task for each reference model and data set that it is not measured on."""
    sources, results = run.sources(ZERO_SHOT), run.folder.results
    sets = run.evaluation_sets(_evaluated(run, ZERO_SHOT)) if sources.references else []
    for name in sources.references:
        model = _reference(run, name, "cpu")
        weights = {"sha256": model.sha256}
        for one in sets:
            if unmeasured_reference(name, weights, [one], results, model=model.protocol):
                yield Task(f"{name} on {one.name}", partial(measure_one, run, name, one.name))


def student_tasks(run: Run) -> Iterator[Task]:
    """A task for each of notebook 03's students that is missing."""
    material = _Material(run, STUDENTS)
    for training in studies.untrained(_draws(run, material)):
        yield Task(f"student of draw {training.seed}", partial(train_draw, run, training.seed))
    if 0 in run.parameters[STUDENTS]["draws"]:
        entry = run.sources(STUDENTS).student
        released = {"file": file_sha256(Path(entry["file"]))} if entry else None
        if manifest_problems(run.folder.student(0), kind=students.KIND, inputs=released):
            yield Task("student of draw 0", partial(keep_released, run))


def sweep_tasks(run: Run) -> Iterator[Task]:
    """A task for each student and alpha of notebook 04 of which a cell is missing."""
    values = run.parameters[SWEEP]
    teacher, sets = run.sources(SWEEP).load_teacher(), run.evaluation_sets(values["evaluated"])
    for draw in values["draws"]:
        student = students.load(run.folder.student(draw), draw).student
        for alpha in sorted({float(alpha) for alpha in values["alphas"]} - {0.0}):
            cells = (teacher.sha256, [student], [alpha], sets)
            if unmeasured(*cells, run.folder.results, **_trained_as(run), model=teacher.protocol):
                call = partial(measure_fused, run, draw, alpha)
                yield Task(f"draw {draw} at alpha {alpha:g}", call)


def size_tasks(run: Run) -> Iterator[Task]:
    """A task for each student of notebook 05 that is not trained and measured."""
    return _study_tasks(run, SIZES)


def share_tasks(run: Run) -> Iterator[Task]:
    """A task for each student of notebook 06 that is not trained and measured."""
    return _study_tasks(run, SHARES)


def measure_teacher(run: Run, data_set: str) -> None:
    """Measure the teacher on one data set."""
    (encoder, teacher), sets = run.teacher(ZERO_SHOT), run.evaluation_sets([data_set])
    results, model = run.folder.results, teacher.protocol
    sweep_alphas(encoder, teacher.sha256, [], [0.0], sets, results, model=model)


def measure_one(run: Run, name: str, data_set: str) -> None:
    """Measure a reference model on one data set."""
    model = _reference(run, name, pick_device(str(run.parameters[ZERO_SHOT]["device"])))
    sets, results = run.evaluation_sets([data_set]), run.folder.results
    weights = {"sha256": model.sha256}
    measure_reference(model.encoder, name, weights, sets, results, model=model.protocol)


def train_draw(run: Run, draw: int) -> None:
    """Train one of notebook 03's students."""
    material = _Material(run, STUDENTS)
    [training] = [one for one in _draws(run, material) if one.seed == draw]
    teacher, _ = run.teacher(STUDENTS)
    parts = _micro_batch(run, STUDENTS)
    studies.train(training, teacher, material.unlabelled, material.validation, parts)


def keep_released(run: Run) -> None:
    """Keep the released student as draw 0."""
    students.keep_released(run.folder.student(0), 0, run.sources(STUDENTS).load_student())


def measure_fused(run: Run, draw: int, alpha: float) -> None:
    """Measure one student at one alpha on all of notebook 04's data sets."""
    (encoder, teacher), sets = run.teacher(SWEEP), run.evaluation_sets(_evaluated(run, SWEEP))
    student = students.load(run.folder.student(draw), draw).student
    cells = ([student], [alpha], sets, run.folder.results)
    made = {**_trained_as(run), "model": teacher.protocol}
    sweep_alphas(encoder, teacher.sha256, *cells, **made)


def train_and_measure(run: Run, stem: str, name: str) -> None:
    """Train and measure one student of a study, by its folder's name."""
    material = _Material(run, stem)
    [training] = [one for one in _TRAININGS[stem](run, material) if one.folder.name == name]
    (encoder, teacher), (names, alphas) = run.teacher(stem), _measured(run, stem)
    studies.train_and_measure(
        [training],
        encoder,
        teacher.sha256,
        material.unlabelled,
        material.validation,
        alphas,
        run.evaluation_sets(names),
        run.folder.results,
        model=teacher.protocol,
        micro_batch=_micro_batch(run, stem),
    )


class _Material:
    """What a notebook trains on, and the digests that its students' manifests hold."""

    def __init__(self, run: Run, stem: str) -> None:
        sources, folder = run.sources(stem), run.folder
        teacher = sources.load_teacher()
        self.sha256, self.protocol = teacher.sha256, teacher.protocol
        self.inputs = {"teacher": teacher.sha256, "sources": sources.digest}
        self.validation, digests = folder.training_clips("webvid_selection")
        self.inputs |= digests
        self.unlabelled: TrainingClips | None = None
        if stem != SIZES:
            self.unlabelled, digests = folder.training_clips("webvid_unlabelled")
            self.inputs |= digests


def _micro_batch(run: Run, stem: str) -> int | None:
    """What `fit_student` is told; notebooks say 0 for a whole batch at once."""
    return run.parameters[stem]["micro_batch"] or None


def _draws(run: Run, material: _Material) -> list[Training]:
    clips, recipe = run.recipe
    trainings = []
    for draw in run.parameters[STUDENTS]["draws"]:
        if draw > 0:
            labelled, digests = run.folder.training_clips("webvid_train", clips, draw)
            trainings.append(
                Training(
                    folder=run.folder.student(draw),
                    seed=draw,
                    subset_size=clips,
                    recipe=replace(recipe, seed=draw),
                    labelled=labelled,
                    inputs=material.inputs | digests,
                )
            )
    return trainings


def _size_trainings(run: Run, material: _Material) -> list[Training]:
    values, made = run.parameters[SIZES], run.parameters[STUDENTS]
    pool, digests = run.folder.training_clips("webvid_train")
    return studies.subset_trainings(
        run.path / SIZES / "students",
        pool,
        studies.kept_recipe(run.folder.student(max(made["draws"]))),
        run.recipe[0],
        values["sizes"],
        {"independent": values["independent_draws"], "nested": values["nested_draws"]},
        material.inputs | digests,
        steps=values["steps_rule"],
    )


def _share_trainings(run: Run, material: _Material) -> list[Training]:
    values, (clips, _) = run.parameters[SHARES], run.recipe
    trainings = []
    for draw in (one for one in values["draws"] if one > 0):
        labelled, digests = run.folder.training_clips("webvid_train", clips, draw)
        trainings += studies.share_trainings(
            run.path / SHARES / "students",
            run.folder.student(draw),
            draw,
            labelled,
            clips,
            values["pseudo_shares"],
            material.inputs | digests,
            teacher_temperature=values["teacher_temperature"] or None,
        )
    return trainings


def _study_tasks(run: Run, stem: str) -> Iterator[Task]:
    material, (names, alphas) = _Material(run, stem), _measured(run, stem)
    for training in studies.unfinished(
        _TRAININGS[stem](run, material),
        material.sha256,
        alphas,
        run.evaluation_sets(names),
        run.folder.results,
        model=material.protocol,
    ):
        name = training.folder.name
        yield Task(name, partial(train_and_measure, run, stem, name))


def _measured(run: Run, stem: str) -> tuple[list[str], list[float]]:
    """The data sets and alphas that a study measures."""
    values = run.parameters[stem]
    if stem == SIZES:
        return [size_study_set(run.sources(stem).evaluated)], list(values["alphas"])
    return share_study_sets(_evaluated(run, stem)), [values["fused_alpha"]]


def _evaluated(run: Run, stem: str) -> list[str]:
    return list(run.parameters[stem]["evaluated"])


def _trained_as(run: Run) -> dict[str, Any]:
    """How results tell the training of notebook 03's students."""
    clips, recipe = run.recipe
    return {"label_share": recipe.labelled_share, "subset_size": clips}


def _reference(run: Run, name: str, device: str) -> LoadedModel:
    n_frames = run.folder.store(_evaluated(run, ZERO_SHOT)[0]).rule.n_frames
    return run.sources(ZERO_SHOT).load_reference(name, n_frames, device)


def _stores(run: Run) -> Iterator[tuple[DataSet, Path, FrameRule]]:
    """Each data set with its frame store's folder and rule, as notebook 01 builds them."""
    values, sources = run.parameters[DATA], run.sources(DATA)
    numbers = (values["labelled_clips"], values["unlabelled_clips"], values["selection_clips"])
    sizes = dict(zip(TRAINING_SETS, numbers, strict=True))
    sizes |= dict.fromkeys(sources.evaluated, values["evaluation_clips"])
    size = sources.load_teacher().encoder.image_size
    seed = values["data_seed"]
    for name, one in prepare(sources, run.folder.data, sizes, seed).items():
        draws = values["training_draws"] if name in TRAINED_ON else 0
        rule = FrameRule(values["n_frames"], size=size, draws_per_interval=draws, seed=seed)
        yield one, run.folder.frames / name, rule


_TRAININGS: Final[Mapping[str, Callable[[Run, _Material], list[Training]]]] = MappingProxyType(
    {SIZES: _size_trainings, SHARES: _share_trainings}
)
_STEPS: Final[Mapping[str, Callable[[Run], Iterator[Task]]]] = MappingProxyType(
    {
        "shards": shard_tasks,
        "frame stores": store_tasks,
        "teacher": teacher_tasks,
        "references": reference_tasks,
        "students": student_tasks,
        "sweep": sweep_tasks,
        "subset sizes": size_tasks,
        "label shares": share_tasks,
    }
)
# What can be asked for -> its steps. A later part needs the earlier ones.
PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "frames": ("shards", "frame stores"),
        "teacher": ("teacher", "references"),
        "students": ("students",),
        "sweep": ("sweep",),
        "sizes": ("subset sizes",),
        "shares": ("label shares",),
    }
)
