"""The sweep's cells against evaluations of models that are fused one by one."""

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from fitclip_core import zero_shot
from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import fisher, interpolate, linear_in_depth, per_tower
from fitclip_kit.engine import sweep
from fitclip_kit.engine.sweep import (
    EvaluationSet,
    Student,
    measure_merges,
    measure_reference,
    measure_tower_map,
    sweep_alphas,
)
from fitclip_kit.store.results import CellKey, ResultsStore, rank_table, tower_rows, variant_rows

ALPHAS = [0.0, 0.4, 1.0]
SIZE = 8


def letters(texts: list[str]) -> torch.Tensor:
    """One token a letter; the highest id ends the text, as CLIP's models expect."""
    rows = [[*[ord(c) % 30 + 1 for c in text[:5]], 31] for text in texts]
    return torch.tensor([row + [0] * (6 - len(row)) for row in rows])


def new_encoder(seed: int = 0) -> ClipEncoder:
    torch.manual_seed(seed)
    vision = {"image_size": SIZE, "layers": 1, "width": 16, "patch_size": 4, "head_width": 8}
    text = {"context_length": 6, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    return ClipEncoder(
        model, letters, image_size=SIZE, mean=(0.5,) * 3, std=(0.3,) * 3, name="tiny"
    )


class Clips:
    """Random clips of two frames."""

    def __init__(self, name: str, n: int, seed: int) -> None:
        self.clip_ids = [f"{name}_{i}" for i in range(n)]
        self.frame_counts = np.full(n, 2)
        shape = (n, 2, SIZE, SIZE, 3)
        self.data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.data[indices]


def retrieval_set(name: str = "msrvtt", seed: int = 1) -> EvaluationSet:
    frames = Clips(name, 7, seed)
    texts = [f"{letter} clip" for letter in "abcdefg"]
    clips = pd.DataFrame({"clip_id": frames.clip_ids, "text": texts})
    return EvaluationSet(name, clips, frames, protocol={"clips_table": f"{name} {seed}"})


def action_set(*classes: str) -> EvaluationSet:
    frames = Clips("ucf101", 6, 2)
    labels = ["run", "sit", "run", "eat", "sit", "run"]
    clips = pd.DataFrame({"clip_id": frames.clip_ids, "label": labels})
    return EvaluationSet("ucf101", clips, frames, ("{}", "a {}"), classes=classes)


def student(draw: int) -> Student:
    return Student(draw, new_encoder(seed=draw + 10).state(), f"sha of {draw}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The measured data sets' first clips, in order."""
    measured: list[str] = []
    evaluate = zero_shot.evaluate

    def counting(encoder: ClipEncoder, clips: pd.DataFrame, *rest: Any, **options: Any) -> Any:
        measured.append(clips["clip_id"].iloc[0])
        return evaluate(encoder, clips, *rest, **options)

    monkeypatch.setattr(sweep.zero_shot, "evaluate", counting)
    return measured


def run(results: ResultsStore, **changes: Any) -> list[CellKey]:
    given: dict[str, Any] = {
        "encoder": new_encoder(),
        "teacher_sha256": "sha of the teacher",
        "students": [student(1), student(2)],
        "alphas": ALPHAS,
        "data_sets": [retrieval_set(), action_set()],
        "label_share": 0.9,
        "subset_size": 50,
    }
    return sweep_alphas(**{**given, **changes}, results=results)


def test_cells_equal_models_fused_one_by_one(tmp_path: Path) -> None:
    results = ResultsStore(tmp_path)
    keys = run(results)
    teacher = new_encoder().state()
    expected = []
    for draw, alpha in ((-1, 0.0), (1, 0.4), (1, 1.0), (2, 0.4), (2, 1.0)):
        fused = new_encoder(seed=99)
        state = teacher if draw < 0 else interpolate(teacher, student(draw).state, alpha)
        fused.load_state(state)
        for data_set in (retrieval_set(), action_set()):
            key = CellKey.at(
                alpha, label_share=0.9, subset_size=50, seed=draw, data_set=data_set.name
            )
            outcomes = zero_shot.evaluate(
                fused, data_set.clips, data_set.frames, templates=data_set.templates
            )
            expected.append(outcomes.assign(**vars(key)))
    assert len(keys) == len(set(keys)) == len(expected) == 10
    columns = ["data_set", "alpha", "seed", "direction", "item"]

    def comparable(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype({name: str for name in table if table[name].dtype != float})
        return table[sorted(table.columns)].sort_values(columns, ignore_index=True)

    stored = comparable(results.outcomes())
    pd.testing.assert_frame_equal(stored, comparable(pd.concat(expected)), check_dtype=False)
    ranks = stored[stored["data_set"] == "msrvtt"].groupby(["alpha", "seed"])["rank"].agg(tuple)
    assert ranks.nunique() > 2  # the models differ, so equality says something


def test_only_missing_cells_are_measured(tmp_path: Path, calls: list[str]) -> None:
    results = ResultsStore(tmp_path)
    first = run(results)
    assert len(calls) == 10
    calls.clear()
    assert run(results) == first
    assert calls == []

    lost = first[3]
    for path in tmp_path.rglob(f"{lost.digest}*"):
        path.unlink()
    run(results)
    assert calls == [f"{lost.data_set}_0"]
    calls.clear()
    run(results, alphas=[*ALPHAS, 0.7])
    assert len(calls) == 4


def left(results: ResultsStore, **changes: Any) -> list[CellKey]:
    """The cells that `run` would still measure; the weights are not given."""
    weightless = [Student(one.draw, {}, one.sha256) for one in (student(1), student(2))]
    given: dict[str, Any] = {
        "teacher_sha256": "sha of the teacher",
        "students": weightless,
        "alphas": ALPHAS,
        "data_sets": [retrieval_set(), action_set()],
        "label_share": 0.9,
        "subset_size": 50,
    }
    return sweep.unmeasured(**{**given, **changes}, results=results)


def test_what_is_missing_is_known_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ResultsStore(tmp_path)
    missing = left(results)
    assert missing == run(results) and len(missing) == 10
    assert left(results) == []
    assert len(left(results, alphas=[*ALPHAS, 0.7])) == 4
    assert len(left(results, renormalise=True)) == 10
    assert len(left(results, model={"architecture": "another"})) == 10
    assert len(left(results, data_sets=[retrieval_set(seed=5), action_set()])) == 5
    lost = missing[3]
    for path in tmp_path.rglob(f"{lost.digest}.json"):
        path.unlink()
    assert left(results) == [lost]
    fused: list[float] = []
    set_alpha = sweep.ensembling.AlphaSweep.set_alpha

    def counting(line: Any, alpha: float) -> None:
        fused.append(alpha)
        set_alpha(line, alpha)

    monkeypatch.setattr(sweep.ensembling.AlphaSweep, "set_alpha", counting)
    run(results)
    assert fused == [lost.alpha]  # what is done is not fused again
    with pytest.raises(ValueError, match="alphas are"):
        left(results, alphas=[2.0])


WRITER = """
import sys
import pandas as pd
from fitclip_kit.store.results import CellKey, ResultsStore
own, results = int(sys.argv[1]), ResultsStore(sys.argv[2])
ranks = [1.0 + own] * 200
for round in range(15):
    for data_set in ("one", "two"):
        key = CellKey.at(0.0, label_share=0, subset_size=0, seed=0, data_set=data_set)
        items = [f"item{place}" for place in range(200)]
        table = pd.DataFrame({"item": items, "direction": "text_to_video", "rank": ranks})
        results.write(key, table, {"code": "the same"})
"""


def test_processes_that_write_one_store_at_once_do_no_harm(tmp_path: Path) -> None:
    """The worst case, writers of unequal outcomes: a cell is one writer's, or it is not valid."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(number), str(tmp_path)])
        for number in range(3)
    ]
    results, seen = ResultsStore(tmp_path), set()
    cells = [
        CellKey.at(0.0, label_share=0, subset_size=0, seed=0, data_set=name)
        for name in ("one", "two")
    ]
    while any(writer.poll() is None for writer in writers):
        for key in cells:
            try:
                ranks = results.outcomes([key])["rank"]
            except ValueError as error:  # missing or unequal at this moment, and said to be
                assert "cannot be used; evaluate them again" in str(error)
            else:
                assert len(ranks) == 200 and ranks.nunique() == 1
                seen.add(ranks.iloc[0])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {1.0, 2.0, 3.0} and seen
    assert sorted(path.suffix for path in (tmp_path / "cells").iterdir()) == [
        *(".json", ".json"),
        *(".parquet", ".parquet"),
    ]
    for key in cells:
        mended = pd.DataFrame({"item": ["a"], "direction": "text_to_video", "rank": [1.0]})
        results.write(key, mended, {"code": "the same"})
        assert results.is_valid(key, {"code": "the same"})


@pytest.mark.parametrize(
    ("change", "measured"),
    [
        ({"data_sets": [retrieval_set(seed=5), action_set()]}, 5),
        ({"teacher_sha256": "another teacher"}, 10),
        ({"students": [student(1), Student(2, student(2).state, "another")]}, 4),
        ({"students": [replace(student(1), training={"steps": 3}), student(2)]}, 4),
        ({"subset_size": 60}, 8),
        ({"label_share": 0.5}, 8),
        ({"model": {"architecture": "another"}}, 10),
        ({"data_sets": [retrieval_set(), action_set("run", "sit", "eat", "jump")]}, 5),
        ({"data_sets": [retrieval_set(), action_set("sit", "run", "eat")]}, 0),  # the labels
    ],
)
def test_what_changed_is_measured_again(
    tmp_path: Path, calls: list[str], change: dict[str, Any], measured: int
) -> None:
    results = ResultsStore(tmp_path)
    run(results)
    calls.clear()
    run(results, **change)
    assert len(calls) == measured


def test_a_students_training_is_in_the_protocol_of_all_that_it_is_part_of(tmp_path: Path) -> None:
    results, recipe = ResultsStore(tmp_path), {"steps": 3, "crop_scale": (0.5, 1.0)}
    own = replace(student(1), training=recipe)
    keys = run(results, students=[own, student(2)], data_sets=[retrieval_set()])
    merges = {("towers", 0.4): per_tower(0.4, 0.2)}
    pair = (new_encoder(), "sha of the teacher", own)
    keys += measure_merges(*pair, merges, [retrieval_set()], results)
    keys += measure_tower_map(*pair, [0.2], [0.4], [retrieval_set()], results)
    kept = {"steps": 3, "crop_scale": [0.5, 1.0]}
    found = [results.record(key)["protocol"].get("training") for key in keys]
    assert found == [None, kept, kept, {}, {}, kept, kept]


def test_changed_code_makes_cells_stale(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ResultsStore(tmp_path)
    run(results, students=[], alphas=[0.0])
    monkeypatch.setattr(sweep, "code_digest", lambda *modules: "other code")
    run(results, students=[], alphas=[0.0])
    assert len(calls) == 4


def test_classes_and_model_are_in_the_protocol_and_at_work(tmp_path: Path) -> None:
    results, model = ResultsStore(tmp_path), {"architecture": "tiny", "file": "a.pt"}
    chosen: dict[str, Any] = {"students": [], "alphas": [0.0], "model": model}
    texts, actions = run(results, **chosen, data_sets=[retrieval_set(), action_set()])
    assert results.record(texts)["protocol"]["classes"] is None
    assert results.record(texts)["protocol"]["model"] == model
    assert results.record(actions)["protocol"]["classes"]["number"] == 3
    few = results.outcomes([actions])["rank"].tolist()

    names = ("jump", "run", "eat", "sit", "wave")
    run(results, **chosen, data_sets=[action_set(*names)])
    digest = results.record(actions)["protocol"]["classes"]
    expected = zero_shot.evaluate(
        new_encoder(),
        action_set().clips,
        action_set().frames,
        templates=action_set().templates,
        classes=sorted(names),
    )
    assert results.outcomes([actions])["rank"].tolist() == expected["rank"].tolist() != few
    run(results, **chosen, data_sets=[action_set(*names[::-1])])
    assert results.record(actions)["protocol"]["classes"] == digest
    assert digest["number"] == 5


REFERENCE = "frozen_in_time_webvid"


def measure(results: ResultsStore, **changes: Any) -> list[CellKey]:
    given: dict[str, Any] = {
        "encoder": new_encoder(seed=7),
        "name": REFERENCE,
        "weights": {"sha256": "sha of the reference"},
        "data_sets": [retrieval_set(), action_set()],
    }
    return measure_reference(**{**given, **changes}, results=results)


def test_a_reference_is_measured_once_on_every_data_set(tmp_path: Path, calls: list[str]) -> None:
    results = ResultsStore(tmp_path)
    keys = measure(results, model={"architecture": "tiny"})
    assert keys == [CellKey.reference(REFERENCE, name) for name in ("msrvtt", "ucf101")]
    for key, data_set in zip(keys, (retrieval_set(), action_set()), strict=True):
        outcomes = zero_shot.evaluate(
            new_encoder(seed=7), data_set.clips, data_set.frames, templates=data_set.templates
        ).sort_values(["direction", "item"])
        assert results.outcomes([key])["rank"].tolist() == outcomes["rank"].tolist()
        protocol = results.record(key)["protocol"]
        assert protocol.items() >= data_set.protocol.items()
        assert protocol["weights"] == {"sha256": "sha of the reference"}
        assert protocol["model"] == {"architecture": "tiny"}
    calls.clear()
    measure(results, model={"architecture": "tiny"})
    assert calls == []
    given: dict[str, Any] = {"name": REFERENCE, "data_sets": [retrieval_set(), action_set()]}
    given |= {"results": results, "weights": {"sha256": "sha of the reference"}}
    assert sweep.unmeasured_reference(**given, model={"architecture": "tiny"}) == []
    assert sweep.unmeasured_reference(**given) == keys
    measure(results, weights={"sha256": "another"})
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("frozen_in_time_encoder", 2),
        ("zero_shot", 4),
        ("ensembling", 4),
        ("students", 0),
    ],
)
def test_changed_code_of_references_leaves_the_teacher_alone(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch, changed: str, again: int
) -> None:
    results = ResultsStore(tmp_path)
    monkeypatch.setattr(sweep, "code_digest", lambda *modules: "the same")
    measure(results)
    run(results, students=[], alphas=[0.0])
    calls.clear()
    monkeypatch.setattr(
        sweep,
        "code_digest",
        lambda *modules: (
            "other" if any(name.endswith(f".{changed}") for name in modules) else "the same"
        ),
    )
    measure(results)
    run(results, students=[], alphas=[0.0])
    assert len(calls) == again


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"name": "teacher"}, "a reference cannot be called 'teacher'"),
        ({"name": "Frozen"}, "lower-case letters"),
        ({"weights": {}}, f"weights of {REFERENCE} have no sha256"),
        ({"data_sets": []}, "no data set"),
        ({"data_sets": [action_set(), action_set()]}, "data sets are repeated"),
    ],
)
def test_a_wrong_reference_is_refused(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        measure(ResultsStore(tmp_path), **wrong)
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_interrupted_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = zero_shot.evaluate
    left = 4

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    results, encoder = ResultsStore(tmp_path), new_encoder()
    with monkeypatch.context() as patch:
        patch.setattr(sweep.zero_shot, "evaluate", failing)
        with pytest.raises(KeyboardInterrupt):
            run(results, encoder=encoder)
    assert_weights(encoder, new_encoder().state())
    left = 6
    with monkeypatch.context() as patch:
        patch.setattr(sweep.zero_shot, "evaluate", failing)
        run(results, encoder=encoder)
    assert left == 0


def assert_weights(encoder: ClipEncoder, expected: dict[str, torch.Tensor]) -> None:
    state = encoder.state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_the_encoder_has_the_teachers_weights_again(tmp_path: Path) -> None:
    encoder = new_encoder()
    run(ResultsStore(tmp_path), encoder=encoder)
    assert_weights(encoder, new_encoder().state())


def test_two_sweeps_give_equal_files(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "other"):
        run(ResultsStore(tmp_path / name))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert contents[0]


def test_without_students_the_teacher_is_measured(tmp_path: Path, calls: list[str]) -> None:
    results = ResultsStore(tmp_path)
    keys = run(results, students=[], alphas=[0])
    assert [key.model for key in keys] == ["teacher", "teacher"]
    calls.clear()
    run(results)
    assert len(calls) == 8  # the teacher's cells are there


def test_equal_alphas_are_one(tmp_path: Path) -> None:
    keys = run(ResultsStore(tmp_path), alphas=[0.1 * 3, 0.3, 1e-12], students=[student(1)])
    assert [key.alpha for key in keys] == [0.0, 0.0, 0.3, 0.3]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"data_sets": []}, "no data set"),
        ({"alphas": []}, r"alphas are \[\]"),
        ({"alphas": [0.0, 1.1]}, "shares of the student"),
        ({"alphas": [-0.1]}, "shares of the student"),
        ({"alphas": [float("nan")]}, "shares of the student"),
        ({"students": []}, "at least one student"),
        ({"students": [student(1), student(1)]}, r"draws are repeated: \[1, 1\]"),
        ({"data_sets": [action_set(), action_set()]}, "data sets are repeated"),
    ],
)
def test_wrong_input_is_refused(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    encoder = new_encoder()
    with pytest.raises(ValueError, match=problem):
        run(ResultsStore(tmp_path), encoder=encoder, **wrong)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_student_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = student(1).state
    misfit = Student(1, {name: value for name, value in state.items() if "proj" not in name}, "x")
    encoder = new_encoder()
    with pytest.raises(ValueError, match="text_projection is in the teacher and not"):
        run(ResultsStore(tmp_path), encoder=encoder, students=[misfit])
    assert_weights(encoder, new_encoder().state())


# variants

TRAINED: dict[str, Any] = {"label_share": 0.9, "subset_size": 50}


def ranks(results: ResultsStore, key: CellKey) -> list[float]:
    return results.outcomes([key])["rank"].tolist()


def evaluated(state: Any, data_set: EvaluationSet, **options: Any) -> pd.DataFrame:
    """Outcomes of a model with these weights, in the order of the store."""
    encoder = new_encoder(seed=99)
    encoder.load_state(state)
    outcomes = zero_shot.evaluate(
        encoder, data_set.clips, data_set.frames, templates=data_set.templates, **options
    )
    return outcomes.sort_values(["direction", "item"], ignore_index=True)


def assert_outcomes(results: ResultsStore, key: CellKey, expected: pd.DataFrame) -> None:
    stored = results.outcomes([key])[list(expected.columns)].astype(expected.dtypes)
    pd.testing.assert_frame_equal(stored, expected)


def test_a_renormalised_sweep_is_a_variant(tmp_path: Path, calls: list[str]) -> None:
    results = ResultsStore(tmp_path)
    plain = run(results)
    calls.clear()
    keys = run(results, renormalise=True)
    assert len(calls) == 10
    assert [(key.alpha, key.seed, key.data_set) for key in keys] == [
        (key.alpha, key.seed, key.data_set) for key in plain
    ]
    assert {key.model for key in keys} == {"variant_renormalised"}
    for key in keys:
        data_set = retrieval_set() if key.data_set == "msrvtt" else action_set()
        state = new_encoder().state()
        if key.alpha:
            state = interpolate(state, student(key.seed).state, key.alpha)
        assert_outcomes(results, key, evaluated(state, data_set, renormalise=True))
        assert results.record(key)["protocol"]["renormalise"] is True
    assert [ranks(results, key) for key in keys] != [ranks(results, key) for key in plain]
    one = rank_table(results.outcomes(plain), "msrvtt", "text_to_video")
    other = rank_table(variant_rows(results.outcomes(), "renormalised"), "msrvtt", "text_to_video")
    assert one.columns.equals(other.columns)
    assert results.digest(plain) == results.digest(run(results))
    calls.clear()
    run(results, renormalise=True)
    assert calls == []


def merge(results: ResultsStore, **changes: Any) -> list[CellKey]:
    names = new_encoder().state()
    ones = {name: torch.ones_like(value) for name, value in names.items()}
    threes = {name: torch.full_like(value, 3) for name, value in names.items()}
    given: dict[str, Any] = {
        "encoder": new_encoder(),
        "teacher_sha256": "sha of the teacher",
        "student": student(1),
        "merges": {
            ("lines", 0.4): linear_in_depth(0.2, 0.6, names),
            ("fisher", 0.5): fisher(ones, threes, 0.5),  # 0.75 everywhere
            ("fisher", 0.0): fisher(ones, threes, 0.0),
        },
        "data_sets": [retrieval_set(), action_set()],
        **TRAINED,
    }
    return measure_merges(**{**given, **changes}, results=results)


def test_merges_are_measured_as_any_model(tmp_path: Path, calls: list[str]) -> None:
    results, encoder = ResultsStore(tmp_path), new_encoder()
    keys = merge(results, encoder=encoder, model={"architecture": "tiny"})
    assert_weights(encoder, new_encoder().state())
    teacher, ours = new_encoder().state(), student(1).state
    lines = interpolate(teacher, ours, linear_in_depth(0.2, 0.6, teacher))
    expected = [("lines", 0.4, lines), ("fisher", 0.5, interpolate(teacher, ours, 0.75))]
    expected += [("fisher", 0.0, teacher)]
    places = [(*one, data_set) for one in expected for data_set in (retrieval_set(), action_set())]
    for key, (name, alpha, state, data_set) in zip(keys, places, strict=True):
        assert key == CellKey.variant(name, alpha, **TRAINED, seed=1, data_set=data_set.name)
        assert_outcomes(results, key, evaluated(state, data_set))
        protocol = results.record(key)["protocol"]
        assert protocol.items() >= data_set.protocol.items()
        assert protocol["weights"] == {"teacher": "sha of the teacher", "student": "sha of 1"}
        assert protocol["model"] == {"architecture": "tiny"}
    assert ranks(results, keys[0]) != ranks(results, keys[4])
    calls.clear()
    assert merge(results, model={"architecture": "tiny"}) == keys
    assert calls == []
    (lost,) = tmp_path.rglob(f"{keys[3].digest}.json")
    lost.unlink()
    merge(results, model={"architecture": "tiny"})
    assert calls == ["ucf101_0"]


@pytest.mark.parametrize(
    ("change", "measured"),
    [
        ({"merges": {("lines", 0.4): lambda name: 0.1}}, 2),
        ({"merges": {("lines", 0.5): lambda name: 0.4}}, 2),
        ({"merges": {("other", 0.4): lambda name: 0.4}}, 2),
        ({"merges": {("lines", 0.4): dict.fromkeys(new_encoder().state(), 0.4)}}, 0),
        ({"student": Student(1, student(1).state, "another")}, 2),
        ({"student": student(2)}, 2),
        ({"teacher_sha256": "another"}, 2),
        ({"data_sets": [retrieval_set(seed=5), action_set()]}, 1),
    ],
)
def test_a_changed_merge_is_measured_again(
    tmp_path: Path, calls: list[str], change: dict[str, Any], measured: int
) -> None:
    results, given = ResultsStore(tmp_path), {"merges": {("lines", 0.4): lambda name: 0.4}}
    merge(results, **given)
    calls.clear()
    merge(results, **{**given, **change})
    assert len(calls) == measured


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"merges": {}}, "no merge"),
        ({"merges": {("Lines", 0.4): lambda name: 0.4}}, "model is 'variant_Lines'"),
        ({"merges": {("lines", 1.4): lambda name: 0.4}}, "alpha is 1.4"),
        ({"merges": {("lines", a): lambda name: 0.4 for a in (0.1 * 3, 0.3)}}, "merges are repea"),
        ({"merges": {("lines", 0.4): lambda name: 1.4}}, "alpha of .* is 1.4"),
        ({"data_sets": []}, "no data set"),
        ({"student": Student(1, {}, "x")}, "names differ"),
    ],
)
def test_a_wrong_merge_is_refused(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    encoder = new_encoder()
    with pytest.raises(ValueError, match=problem):
        merge(ResultsStore(tmp_path), encoder=encoder, **wrong)
    assert_weights(encoder, new_encoder().state())
    assert not list(tmp_path.rglob("*.parquet"))


def tower_map(results: ResultsStore, **changes: Any) -> list[CellKey]:
    given: dict[str, Any] = {
        "encoder": new_encoder(),
        "teacher_sha256": "sha of the teacher",
        "student": student(1),
        "vision_alphas": [1.0, 0.1 * 3, 0.0, 0.3],
        "text_alphas": [0.0, 0.6],
        "data_sets": [retrieval_set(), action_set()],
        **TRAINED,
    }
    return measure_tower_map(**{**given, **changes}, results=results)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which sides of which tasks were encoded, in order."""
    done: list[str] = []
    for name in ("video_side", "text_side"):
        side = getattr(zero_shot, name)

        def noting(
            encoder: ClipEncoder, trial: Any, _side: Any = side, _name: str = name, **options: Any
        ) -> Any:
            done.append(f"{trial.task[:3]} {_name[:-5]}")
            return _side(encoder, trial, **options)

        monkeypatch.setattr(sweep.zero_shot, name, noting)
    return done


def test_a_tower_map_is_that_of_the_merged_models_and_encodes_each_side_once(
    tmp_path: Path, encoded: list[str]
) -> None:
    results, encoder = ResultsStore(tmp_path), new_encoder()
    keys = tower_map(results, encoder=encoder)
    assert encoded == [*["ret text"] * 2, *["ret video"] * 3, *["cla text"] * 2, *["cla video"] * 3]
    assert_weights(encoder, new_encoder().state())
    teacher, ours, places = new_encoder().state(), student(1).state, []
    for data_set in (retrieval_set(), action_set()):
        for vision in (0.0, 0.3, 1.0):
            for text in (0.0, 0.6):
                places.append((vision, text, data_set))
    for key, (vision, text, data_set) in zip(keys, places, strict=True):
        assert key == CellKey.towers(vision, text, **TRAINED, seed=1, data_set=data_set.name)
        merged = interpolate(teacher, ours, per_tower(vision, text))
        assert_outcomes(results, key, evaluated(merged, data_set))
        record = results.record(key)
        assert record["protocol"]["merge"] == {"vision_alpha": vision, "text_alpha": text}
        assert record["coverage"]["measured"] == len(data_set.clips)
    found = tower_rows(results.metrics(n_resamples=2))
    assert set(zip(found["vision_alpha"], found["text_alpha"], strict=True)) == {
        (vision, text) for vision, text, _ in places
    }
    assert len({tuple(ranks(results, key)) for key in keys[:6]}) > 3  # the models differ
    plain = run(ResultsStore(tmp_path / "plain"), students=[], alphas=[0.0])
    stored = ResultsStore(tmp_path / "plain")
    assert ranks(stored, plain[0]) == ranks(results, keys[0])


def test_clips_with_several_texts_are_measured_as_one_by_every_way(tmp_path: Path) -> None:
    plain = retrieval_set()
    paths = [f"{place}.mp4" for place in (0, 1, 0, 3, 1, 0, 6)]
    several = replace(plain, clips=plain.clips.assign(path=paths))
    results = ResultsStore(tmp_path)
    keys = run(results, data_sets=[several], students=[student(1)])
    towers = tower_map(results, data_sets=[several])
    teacher, ours = new_encoder().state(), student(1).state
    for key, alpha in zip(keys, (0.0, 0.4, 1.0), strict=True):
        assert_outcomes(results, key, evaluated(interpolate(teacher, ours, alpha), several))
    for key, (vision, text) in zip(towers, product((0.0, 0.3, 1.0), (0.0, 0.6)), strict=True):
        merged = interpolate(teacher, ours, per_tower(vision, text))
        assert_outcomes(results, key, evaluated(merged, several))
    counts = results.outcomes().groupby(["model", "alpha", "direction"], observed=True).size()
    assert set(counts.xs("text_to_video", level="direction")) == {7}
    assert set(counts.xs("video_to_text", level="direction")) == {4}
    coverage = results.record(towers[0])["coverage"]
    assert (coverage["clips"], coverage["videos"], coverage["videos_measured"]) == (7, 4, 4)


def test_a_tower_map_goes_on_with_the_rows_that_are_missing(
    tmp_path: Path, encoded: list[str]
) -> None:
    results = ResultsStore(tmp_path)
    keys = tower_map(results)
    before = results.digest()
    encoded.clear()
    assert tower_map(results) == keys
    assert encoded == []
    for path in tmp_path.rglob(f"{keys[3].digest}*"):
        path.unlink()
    tower_map(results)
    assert encoded == ["ret text", "ret text", "ret video"]
    assert results.digest() == before
    encoded.clear()
    tower_map(results, vision_alphas=[0.0, 0.7], data_sets=[action_set()])
    assert encoded == ["cla text", "cla text", "cla video"]
    encoded.clear()
    tower_map(results, student=Student(1, student(1).state, "another"))
    assert len(encoded) == 10


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"vision_alphas": []}, r"alphas are \[\]"),
        ({"text_alphas": [1.1]}, "shares of the student"),
        ({"vision_alphas": [float("nan")]}, "shares of the student"),
        ({"data_sets": [action_set(), action_set()]}, "data sets are repeated"),
        ({"student": Student(1, {}, "x")}, "names differ"),
    ],
)
def test_a_wrong_tower_map_is_refused(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        tower_map(ResultsStore(tmp_path), **wrong)
    assert not list(tmp_path.rglob("*.parquet"))
