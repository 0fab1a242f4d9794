"""A run's tasks do what the notebooks would, and the notebooks then find it done."""

import contextlib
import io
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from data_prep import frame_store
from data_prep.mini_benchmark.data_sets import EVALUATED
from figures.measures import SIZE_MEASURE, share_measures, size_measure
from fitclip_core import zero_shot
from fitclip_kit.engine import students
from fitclip_kit.engine.cluster import fan_out_steps
from fitclip_kit.engine.settings import (
    ClusterSettings,
    cell_source,
    cell_tags,
    merge_profile,
    read_notebooks,
)
from fitclip_kit.engine.sources import share_study_sets, size_study_set
from fitclip_kit.engine.work import PARTS, Run, missing_students, steps

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
BOOKS = {book.stem: book for book in read_notebooks(NOTEBOOKS)}
TINY: dict[str, dict[str, Any]] = {
    "common": {"draws": [1]},
    "01_data_prep": {
        **dict.fromkeys(("evaluation_clips", "labelled_clips"), 8),
        **dict.fromkeys(("unlabelled_clips", "selection_clips"), 4),
        **{"n_frames": 2, "training_draws": 1},
    },
    "03_student_distillation": {
        **{"labelled_clips": 6, "steps": 2, "validate_every": 1},
        **{"labelled_batch": 3, "unlabelled_batch": 2},
    },
    "04_alpha_sweep": {"alphas": [0.0, 0.4, 1.0]},
    "05_subset_size": {"sizes": [3], "independent_draws": [1], "nested_draws": []},
    "06_label_share": {"pseudo_shares": [0.0, 0.0001]},
}
# What each notebook computes with; the cells after these only show it.
LAST = {
    "01_data_prep": "frame_store.build(",
    "02_teacher_zero_shot": "measure(of_model,",
    "03_student_distillation": "run.finish(",
    "04_alpha_sweep": "measure(swept,",
    "05_subset_size": "train_and_measure(",
    "06_label_share": "train_and_measure(",
}
HEAVY = {
    "decoded": (frame_store, "killable_map"),
    "trained": (students, "fit_student"),
    "measured": (zero_shot, "evaluate"),
}
# 6 data sets; one student at 2 alphas, 1 subset of which 2 alphas are measured on one set, 1 share
# more than the sweep has.
TASKS = {
    "frames: shards": 9,
    "frames: frame stores": 9,
    "teacher: cells": 6,
    "students: students": 1,
    "sweep: cells": 2,
    "sizes: students": 1,
    "sizes: cells": 1,
    "shares: students": 1,
    "shares: cells": 1,
}


def new_run(path: Path) -> Run:
    parameters = merge_profile(TINY, {stem: book.defaults for stem, book in BOOKS.items()})
    return Run(path.resolve(), NOTEBOOKS, parameters)


def fan_out_run(run: Run, parts: Any, executor: Any = "inline") -> list[tuple[str, int, Any]]:
    settings = ClusterSettings(executor=executor)
    return list(fan_out_steps(steps(run, parts), settings, run.path / "fan_out"))


def run_notebooks(run: Run) -> None:
    """Execute notebooks 01 to 06 here, each up to the last cell that computes."""
    for stem, last in LAST.items():
        names: dict[str, Any] = {}
        for cell in BOOKS[stem].content["cells"]:
            source = cell_source(cell)
            if cell["cell_type"] != "code":
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, stem, "exec"), names)
            if "parameters" in cell_tags(cell):
                names |= {**run.parameters[stem], "run_dir": str(run.path)}
            if last in source:
                break
        else:
            raise AssertionError(f"{stem} has no cell with {last!r}")


def contents(run: Run) -> dict[str, bytes]:
    """Every file that tasks or notebooks leave, but for logs, and what notebook 03 makes of its
    students: its figure and manifest."""
    files = {path.relative_to(run.path): path for path in run.path.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in files.items()
        if name.parts[0] != "fan_out" and name.parent.name != "03_student_distillation"
    }


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The heavy calls, by name, as they are made."""
    made: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            return function(*arguments, **options)

        return call

    for name, (module, function) in HEAVY.items():
        monkeypatch.setattr(module, function, counting(name, getattr(module, function)))
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run, Mapping[str, int]]:
    """A run that was fanned out inline, and one by the notebooks alone; the former's tasks."""
    matplotlib.use("agg")
    folder = tmp_path_factory.mktemp("runs")
    shared, alone = new_run(folder / "shared"), new_run(folder / "alone")
    counts = {title: tasks for title, tasks, _ in fan_out_run(shared, PARTS)}
    shutil.copytree(shared.folder.data, alone.folder.data)  # both would make the same videos
    run_notebooks(alone)
    return shared, alone, counts


def test_the_tasks_leave_what_the_notebooks_would(runs: tuple[Run, Run, Mapping[str, int]]) -> None:
    shared, alone, counts = runs
    assert counts == TASKS
    ours, theirs = contents(shared), contents(alone)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert len(shared.folder.results.cells()) == 6 + 6 * 2 + 2 + 5


def test_nothing_is_done_again(runs: tuple[Run, Run, Mapping[str, int]], heavy: list[str]) -> None:
    before = contents(runs[0])
    run_notebooks(runs[0])
    for run in runs[:2]:
        left = {title: tasks for title, tasks, _ in fan_out_run(run, PARTS)}
        assert left == dict.fromkeys(TASKS, 0)
    assert heavy == [] and contents(runs[0]) == before


def test_lost_things_are_made_again_by_a_fresh_process(
    runs: tuple[Run, Run, Mapping[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, _, _ = runs
    before = contents(shared)
    cells = shared.folder.results.cells()
    own = {"draw": 1, "alpha": 0.4, "data_set": "mit", "labelled_share": 0.9999}
    [lost] = [cell for cell in cells if own.items() <= asdict(cell).items()]
    (shared.path / "results" / "cells" / f"{lost.digest}.json").unlink()
    assert fan_out_run(shared, ["sweep"], "local") == [("sweep: cells", 1, [])]
    assert contents(shared) == before
    (shared.folder.student(1) / students.HISTORY_FILE).write_text("")
    [student] = missing_students(shared)
    pickle.loads(pickle.dumps(student)).do()
    assert contents(shared) == before


def test_every_shard_is_a_small_task_of_its_own(runs: tuple[Run, Run, Mapping[str, int]]) -> None:
    shared, _, _ = runs
    data = {**shared.parameters["01_data_prep"], "n_frames": 3}
    run = replace(shared, parameters={**shared.parameters, "01_data_prep": data})
    shards = steps(run, ["frames"])["frames: shards"]()
    assert len({shard.name for shard in shards}) == len(shards) == TASKS["frames: shards"]
    assert max(len(pickle.dumps(shard)) for shard in shards) < 20_000
    assert set(run.__getstate__()) == {"path", "working_dir", "parameters"}, "nothing that was read"


def test_the_studies_are_measured_where_the_figures_look() -> None:
    assert size_study_set(EVALUATED) == SIZE_MEASURE.data_set
    for evaluated in (EVALUATED, EVALUATED[:1], EVALUATED[1:3]):
        measures = share_measures(evaluated)
        assert {one.data_set for one in measures} == set(share_study_sets(evaluated))
        assert size_measure(size_study_set(evaluated)).k == 1
