"""Measured cells against evaluations of models that are fused one by one."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch

from fitclip_core import ensembling, zero_shot
from fitclip_core.ensembling import interpolate
from fitclip_core.merges import MERGES, fisher, linear_in_depth, per_tower
from fitclip_kit.engine import measure as measuring
from fitclip_kit.engine.measure import (
    EvaluationSet,
    Student,
    measure,
    sweep_cells,
    tower_cells,
    unmeasured,
)
from fitclip_kit.store.results import Cell, ResultsStore
from fitclip_kit.weights.models import LoadedModel
from tests.make import RandomClips, tiny_encoder

ALPHAS = [0.0, 0.4, 1.0]
NAMES = ["msrvtt", "ucf101"]
STATE = tiny_encoder(0).state()
LINES = linear_in_depth(0.2, 0.6, STATE)


def retrieval_set(seed: int = 1, **columns: Any) -> EvaluationSet:
    frames = RandomClips(7, seed)
    texts = [f"{letter} clip" for letter in "abcdefg"]
    clips = pd.DataFrame({"clip_id": frames.clip_ids, "text": texts, **columns})
    return EvaluationSet("msrvtt", clips, frames, protocol={"clips_table": f"msrvtt {seed}"})


def action_set(*classes: str) -> EvaluationSet:
    frames = RandomClips(6, 2)
    labels = ["run", "sit", "run", "eat", "sit", "run"]
    clips = pd.DataFrame({"clip_id": frames.clip_ids, "label": labels})
    return EvaluationSet("ucf101", clips, frames, ("{}", "a {}"), classes=classes)


def student(draw: int, **changes: Any) -> Student:
    state = tiny_encoder(draw + 10).state()
    told = {"draw": draw, "labelled_clips": 50, "labelled_share": 0.9, "sha256": f"sha of {draw}"}
    return Student(**{**told, "state": state, **changes})


def teacher(**changes: Any) -> LoadedModel:
    given = {"encoder": tiny_encoder(0), "sha256": "sha of the teacher", "protocol": {}}
    return LoadedModel(**{**given, **changes})


ONE, TWO = student(1), student(2)
SETS = [retrieval_set(), action_set()]
PLAIN = sweep_cells(NAMES, [ONE, TWO], ALPHAS)
REFERENCES = [Cell(name, "frozen_in_time") for name in NAMES]
LINES_CELLS = [ONE.cell(name, 0.4, merge="lines") for name in NAMES]
TOWERS = tower_cells(NAMES, ONE, [1.0, 0.1 * 3, 0.0, 0.3])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Evaluated data sets, encoded sides and set weights, in order."""
    done: list[str] = []

    def noting(name: str, function: Any) -> Any:
        def call(first: Any, second: Any, *rest: Any, **options: Any) -> Any:
            kind = "run" if hasattr(second, "columns") and "label" in second else "msr"
            done.append(f"{name} {getattr(second, 'task', kind)[:3]}")
            return function(first, second, *rest, **options)

        return call

    for name in ("evaluate", "video_side", "text_side"):
        monkeypatch.setattr(zero_shot, name, noting(name, getattr(zero_shot, name)))
    return done


def run(results: ResultsStore, cells: list[Cell] = PLAIN, **changes: Any) -> None:
    given = {"model": teacher(), "data_sets": SETS, "students": [ONE, TWO]}
    measure(cells, **{**given, **changes}, results=results)


def expected_outcomes(state: Any, data_set: EvaluationSet, **options: Any) -> pd.DataFrame:
    """Of a model with these weights, in the order of the store."""
    encoder = tiny_encoder(99)
    encoder.load_state(state)
    options |= {"templates": data_set.templates, "classes": data_set.classes or None}
    outcomes = zero_shot.evaluate(encoder, data_set.clips, data_set.frames, **options)
    return outcomes.sort_values(["direction", "item"], ignore_index=True)


def assert_stored(results: ResultsStore, cell: Cell, expected: pd.DataFrame) -> None:
    stored = results.outcomes([cell])[list(expected.columns)].astype(expected.dtypes)
    pd.testing.assert_frame_equal(stored, expected)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("texts_of_a_video", [1, 2])
def test_every_kind_of_cell_equals_a_model_fused_by_itself(
    tmp_path: Path, renormalise: bool, texts_of_a_video: int
) -> None:
    paths = [f"{place // texts_of_a_video}.mp4" for place in range(7)]
    sets = {"msrvtt": retrieval_set(path=paths), "ucf101": action_set("sit", "run", "eat", "fly")}
    options: dict[str, Any] = {"renormalise": renormalise}
    plain = [replace(cell, **options) for cell in PLAIN]
    towers = [replace(cell, **options) for cell in TOWERS]
    threes = {name: torch.full_like(value, 3) for name, value in STATE.items()}
    quarter = fisher({name: torch.ones_like(value) for name, value in STATE.items()}, threes, 0.5)
    schedules: dict[Any, Any] = {("lines", 0.4): LINES, ("fisher", 0.5): quarter}
    merged = [replace(cell, **options) for cell in LINES_CELLS]
    merged += [ONE.cell(name, 0.5, merge="fisher", **options) for name in NAMES]
    named = ["task_arithmetic", "ties", "slerp"]
    merged += [ONE.cell("msrvtt", 0.4, merge=merge, **options) for merge in named]
    cells, results, model = [*towers, *plain[::-1], *merged], ResultsStore(tmp_path), teacher()
    run(results, cells, model=model, data_sets=list(sets.values()), schedules=schedules)
    assert all(torch.equal(model.encoder.state()[name], STATE[name]) for name in STATE)
    assert set(results.cells()) == set(cells) and len(cells) == 10 + 18 + 7
    students = {None: ONE, 1: ONE, 2: TWO}
    for cell in cells:
        alpha: Any = {"lines": LINES, "fisher": 0.75}.get(cell.merge, cell.alpha)
        if cell.text_alpha is not None:
            alpha = per_tower(cell.alpha, cell.text_alpha)
        if cell.merge in named:
            state = MERGES[cell.merge](STATE, ONE.state, cell.alpha)
            assert results.record(cell)["protocol"]["merge"] == {"name": cell.merge}
        else:
            state = interpolate(STATE, students[cell.draw].state, alpha)
        expected = expected_outcomes(state, sets[cell.data_set], **options)
        assert_stored(results, cell, expected)
    ranks = results.outcomes(plain).groupby(["alpha", "draw"], dropna=False)["rank"].agg(tuple)
    assert ranks.nunique() > 2  # the models differ, so equality says something


def test_weights_are_set_once_and_towers_encode_once(tmp_path: Path, calls: list[str]) -> None:
    results = ResultsStore(tmp_path)
    sweep = ensembling.AlphaSweep
    with mock.patch.object(sweep, "set_alpha", autospec=True, side_effect=sweep.set_alpha) as fused:
        run(results, [*PLAIN, *PLAIN[::-1]])
    assert [call.args[1] for call in fused.call_args_list] == [0.4, 1.0] * 2
    assert sum(call.startswith("evaluate") for call in calls) == 10
    calls.clear()
    run(results, TOWERS)
    sides = [*["text_side ret"] * 3, *["video_side ret"] * 3]
    assert sorted(calls[:6]) == sorted(sides)
    assert sorted(calls) == sorted(sides + [side.replace("ret", "cla") for side in sides])
    calls.clear()
    for path in tmp_path.rglob(f"{TOWERS[4].digest}*"):
        path.unlink()
    run(results, TOWERS)
    assert calls == ["text_side ret", "video_side ret"]


def test_only_missing_cells_are_measured_and_known_without_weights(
    tmp_path: Path, calls: list[str]
) -> None:
    results = ResultsStore(tmp_path)
    weightless = [replace(one, state={}) for one in (ONE, TWO)]

    def left(**changes: Any) -> list[Cell]:
        given: dict[str, Any] = {"cells": PLAIN, "model": teacher(), "data_sets": SETS}
        return unmeasured(**{**given, "students": weightless, **changes}, results=results)

    assert left() == PLAIN
    run(results)
    calls.clear()
    run(results)
    assert left() == calls == []
    assert len(left(cells=sweep_cells(NAMES, [ONE, TWO], [*ALPHAS, 0.7]))) == 4
    (tmp_path / "cells" / f"{PLAIN[3].digest}.json").unlink()
    assert left() == [PLAIN[3]]
    run(results)
    assert calls[0] == "evaluate run" and len(calls) == 3


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"data_sets": [retrieval_set(5), SETS[1]]}, 5),
        ({"model": teacher(sha256="another")}, 10),
        ({"model": teacher(protocol={"architecture": "another"})}, 10),
        ({"students": [ONE, student(2, sha256="another")]}, 4),
        ({"students": [student(1, training={"steps": 3}), TWO]}, 4),
        ({"data_sets": [SETS[0], action_set("run", "sit", "eat", "jump")]}, 5),
        ({"data_sets": [SETS[0], action_set("sit", "run", "eat")]}, 0),  # these are the labels
        ({"cells": LINES_CELLS, "schedules": {("lines", 0.4): LINES}}, 0),
        ({"cells": LINES_CELLS, "schedules": {("lines", 0.4): lambda name: 0.1}}, 2),
    ],
)
def test_what_changed_is_measured_again(tmp_path: Path, change: Any, again: int) -> None:
    results = ResultsStore(tmp_path)
    schedules = {("lines", 0.4): LINES}
    run(results, [*PLAIN, *LINES_CELLS], schedules=schedules)
    given = {"cells": PLAIN, "model": teacher(), "data_sets": SETS, "students": [ONE, TWO]}
    assert len(unmeasured(**{**given, **change}, results=results)) == again


@pytest.mark.parametrize(
    ("changed", "again"),
    [("frozen_in_time", 2), ("zero_shot", 4), ("merges", 4), ("students", 0)],
)
def test_changed_code_makes_cells_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, again: int
) -> None:
    results = ResultsStore(tmp_path)
    cells = [*PLAIN[:2], *REFERENCES]

    def code(*modules: str) -> str:
        return "other" if any(name.endswith(f".{changed}") for name in modules) else "the same"

    monkeypatch.setattr(measuring, "code_digest", lambda *modules: "the same")
    run(results, cells)
    monkeypatch.setattr(measuring, "code_digest", code)
    assert len(unmeasured(cells, teacher(), SETS, results)) == again


def test_the_protocol_tells_the_weights_the_training_and_the_merge(tmp_path: Path) -> None:
    results, told = ResultsStore(tmp_path), student(1, training={"crop_scale": (0.5, 1.0)})
    reference, model = teacher(sha256="of the reference"), teacher(protocol={"file": "a.pt"})
    measure(REFERENCES, reference, SETS, results)
    cells = [PLAIN[0], ONE.cell("ucf101", 1.0), TOWERS[1], LINES_CELLS[0]]
    run(results, cells, model=model, students=[told], schedules={("lines", 0.4): LINES})
    found = [results.record(cell)["protocol"] for cell in (REFERENCES[0], *cells)]
    own, pair = {"teacher": "sha of the teacher"}, {"student": "sha of 1"}
    weights = [{"sha256": "of the reference"}, own, own | pair, own | pair, own | pair]
    assert [one["weights"] for one in found] == weights
    training = {"crop_scale": [0.5, 1.0]}
    assert [one.get("training") for one in found] == [None, None, training, training, training]
    assert [one["model"] for one in found] == [{}, *[{"file": "a.pt"}] * 4]
    assert found[3]["merge"] == {"vision_alpha": 0.0, "text_alpha": 0.3}
    assert found[4]["merge"] == {"schedule": measuring.schedule_digest(LINES, STATE)}
    assert [one["classes"] and one["classes"]["number"] for one in found] == [
        *(None, None, 3, None, None)
    ]
    assert found[0].items() >= SETS[0].protocol.items()
    assert found[2]["templates"] == ["{}", "a {}"]


def test_an_interrupted_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, left = zero_shot.evaluate, 4

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    results, model = ResultsStore(tmp_path), teacher()
    monkeypatch.setattr(zero_shot, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        run(results, model=model)
    assert all(torch.equal(model.encoder.state()[name], STATE[name]) for name in STATE)
    left = 6
    run(results, model=model)
    assert left == 0
    whole = ResultsStore(tmp_path / "whole")
    monkeypatch.setattr(zero_shot, "evaluate", evaluate)
    run(whole)
    assert whole.digest() == results.digest()


def test_cells_of_a_sweep_and_of_a_tower_map() -> None:
    places = [(cell.draw, cell.alpha, cell.data_set) for cell in PLAIN]
    fused = list(product((1, 2), (0.4, 1.0), NAMES))
    assert places == [*((None, 0.0, name) for name in NAMES), *fused]
    assert [cell.alpha for cell in sweep_cells(["a"], [ONE], [0.1 * 3, 0.3, 1e-12])] == [0, 0.3]
    assert [cell.renormalise for cell in sweep_cells(["a"], [], [0], renormalise=True)] == [True]
    pairs = [(cell.data_set, cell.alpha, cell.text_alpha) for cell in TOWERS]
    assert pairs == list(product(NAMES, (0.0, 0.3, 1.0), (0.0, 0.3, 1.0)))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([], [ONE], [0.4]), "no data set or no alpha"),
        ((["a"], [ONE], []), "no data set or no alpha"),
        ((["a"], [], [0.4]), "at least one student"),
        ((["a"], [ONE], [float("nan")]), "less than or equal to 1"),
        ((["a"], [ONE, ONE], [0.4]), r"draws \[1, 1\] repeat"),
        ((["a", "a"], [ONE], [0.0]), "repeat"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        sweep_cells(*arguments)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"data_sets": SETS[:1]}, "ucf101 .* is of no given data set"),
        ({"data_sets": [*SETS, SETS[0]]}, "data sets or students are repeated"),
        ({"students": [TWO]}, "is of no given student"),
        ({"students": [replace(ONE, labelled_clips=60), TWO]}, "is of no given student"),
        ({"students": [ONE, ONE, TWO]}, "data sets or students are repeated"),
        ({"students": [student(1, state={}), TWO]}, "names differ|is in the teacher and not"),
        ({"cells": LINES_CELLS}, "has no schedule"),
        ({"cells": LINES_CELLS, "schedules": {("lines", 0.4): lambda name: 1.4}}, "is 1.4"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, wrong: Any, problem: str) -> None:
    results, model = ResultsStore(tmp_path), teacher()
    with pytest.raises(ValueError, match=problem):
        run(results, **{"cells": PLAIN[2:], "model": model, **wrong})
    assert all(torch.equal(model.encoder.state()[name], STATE[name]) for name in STATE)
    assert not list(tmp_path.rglob("*.parquet"))
