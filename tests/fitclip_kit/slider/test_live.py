import json
import threading
from collections.abc import Mapping
from itertools import count

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import Tensor

from fitclip_core import encoders, ensembling, merges, zero_shot
from fitclip_kit.engine.measure import measure, tower_cells
from fitclip_kit.engine.merge_distance import distance_taken, fisher_alpha
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.slider import merges as slider_merges
from fitclip_kit.slider.background import Superseded, Task
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.store.results import Cell, ResultsStore
from fitclip_kit.weights import checkpoints
from tests.fitclip_kit.slider.tiny_material import DATA_SETS, sweep_into, teacher_of, tiny_material
from tests.make import labelled_clips

LINEAR = "linear in depth"
FUSIONS = [
    Fusion.at(1, 0.3),
    Fusion.at(1, 0),
    Fusion.at(1, 1),
    Fusion(2, 0.3, 0.8),
    Fusion(1, 0, 0.25),
    Fusion.at(2, 0.4, LINEAR),
    Fusion(2, 0.9, 0.4, LINEAR),
]


@pytest.fixture
def material(tmp_path, monkeypatch) -> Material:
    """With held-out clips, which a run folder would have."""
    clips = labelled_clips(10, seed=5), {"webvid_selection: frames": "digest"}
    monkeypatch.setattr(RunFolder, "training_clips", lambda run, name: clips)
    return tiny_material(tmp_path)


def expected_state(material: Material, fusion: Fusion) -> dict[str, Tensor]:
    """The weights, tower by tower, from two whole models."""
    teacher, student = material.encoder.state(), material.students[fusion.draw].state

    def whole(alpha: float) -> dict[str, Tensor]:
        if fusion.merge == "average" or alpha in (0, 1):
            return ensembling.interpolate(teacher, student, alpha)
        if fusion.merge == LINEAR:
            first, last = (0, 2 * alpha) if alpha <= 0.5 else (2 * alpha - 1, 1)
            schedule = merges.linear_in_depth(first, last, teacher)
            return ensembling.interpolate(teacher, student, schedule)
        of_teacher, of_student = (expected_diagonal(material, one) for one in (teacher, student))
        weight = fisher_alpha(of_teacher, of_student, teacher, student, alpha)
        merge = merges.fisher(of_teacher, of_student, weight)
        return ensembling.interpolate(teacher, student, merge)

    vision, text = whole(fusion.vision), whole(fusion.text)
    return {name: (vision if name.startswith("visual.") else text)[name] for name in teacher}


def expected_diagonal(material: Material, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """10 clips make one whole batch of 8."""
    encoder = tiny_material(material.run.path).encoder
    encoder.load_state(state)
    clips, _ = material.run.training_clips("webvid_selection")
    return merges.fisher_diagonal(encoder, clips, n=8, batch_size=8, temperature=0.015, seed=0)


def expected_outcomes(material: Material, fusion: Fusion, name: str) -> pd.DataFrame:
    data_set = next(one for one in DATA_SETS if one.name == name)
    encoder = tiny_material(material.run.path).encoder
    encoder.load_state(expected_state(material, fusion))
    return zero_shot.evaluate(
        encoder,
        data_set.clips,
        data_set.frames,
        templates=data_set.templates,
        classes=data_set.classes or None,
    )


def both_sides(live: LiveModel, fusion: Fusion, clip_set: ClipSet) -> tuple[Tensor, Tensor]:
    return live.video_features(fusion, clip_set, Task()), live.text_features(
        fusion, clip_set, Task()
    )


def expected_sides(material: Material, fusion: Fusion, clip_set: ClipSet) -> tuple[Tensor, Tensor]:
    encoder = tiny_material(material.run.path).encoder
    encoder.load_state(expected_state(material, fusion))
    trial = clip_set.trial
    return zero_shot.video_side(encoder, trial), zero_shot.text_side(encoder, trial)


def assert_exact(live: LiveModel, fusion: Fusion, clip_set: ClipSet) -> None:
    sides = zip(
        both_sides(live, fusion, clip_set),
        expected_sides(live.material, fusion, clip_set),
        strict=True,
    )
    for found, expected in sides:
        assert torch.equal(found, expected), fusion.title


@pytest.mark.parametrize("name", ["pairs", "actions"])
@pytest.mark.parametrize(
    "fusion", [*FUSIONS, Fusion.at(2, 0.4, "fisher")], ids=lambda one: one.title
)
def test_outcomes_are_those_of_a_model_with_the_fused_weights(material, fusion, name):
    found = LiveModel(material).outcomes(fusion, material.sets[name], Task())
    expected = expected_outcomes(material, fusion, name)
    assert_frame_equal(found, expected)
    assert found.attrs == expected.attrs


def test_outcomes_are_those_that_the_sweep_and_the_tower_map_store(material, tmp_path):
    results, live, student = ResultsStore(tmp_path), LiveModel(material), material.students[1]
    cells = tower_cells(["pairs"], student, [0.0, 0.2, 0.6])
    measure(cells, teacher_of(material), DATA_SETS, results, students=[student])
    for cell in (*cells, *sweep_into(results, material, [0.0, 0.3, 1.0])):
        text = cell.alpha if cell.text_alpha is None else cell.text_alpha
        fusion = Fusion(cell.draw or 1, cell.alpha, text)  # for the teacher any student will do
        clip_set = material.sets[cell.data_set]
        assert_stored(results, cell, live.outcomes(fusion, clip_set, Task()))


def assert_stored(results: ResultsStore, key: Cell, found: pd.DataFrame) -> None:
    columns = ["direction", "item", "rank", "label", "predicted"]
    stored, now = (
        table[columns].astype("str").sort_values(columns).reset_index(drop=True)
        for table in (results.outcomes([key]), found)
    )
    assert_frame_equal(stored, now)


def test_any_order_of_moves_gives_the_same(material):
    """What is kept, what the model holds and what was given up must not show."""
    live = LiveModel(material, cache_mb=0.001)  # a few matrices fit
    fusions = [*FUSIONS, Fusion.at(2, 0.3), Fusion(2, 0.8, 0.3), Fusion(2, 1, 0.3, "fisher")]
    fusions += [Fusion.at(draw, 0.2 + 0.1 * draw, "fisher") for draw in (1, 2)]
    rng = np.random.default_rng(0)
    for fusion in (fusions[place] for place in rng.integers(0, len(fusions), 25)):
        with pytest.raises(Superseded):
            live.outcomes(
                Fusion.at(1, 0.55), material.sets["pairs"], after(int(rng.integers(0, 40)))
            )
        assert_exact(live, fusion, material.sets[rng.choice(["pairs", "actions"])])


def after(calls: int) -> Task:
    """A task that is useless from one look on."""
    asked = count()
    return Task(stop=lambda: next(asked) >= calls)


@pytest.mark.parametrize("fusion", [Fusion.at(1, 0.5), Fusion(1, 0.5, 0.2, "fisher")])
def test_work_may_be_given_up_at_any_point(material, fusion):
    """And begun again: the same model then gives the right answer."""
    clip_set = material.sets["actions"]
    expected = expected_outcomes(material, fusion, "actions")
    other = expected_outcomes(material, Fusion.at(2, 0.5), "actions")
    calls, given_up = 1, 0
    while True:
        live = LiveModel(material)
        try:
            found = live.outcomes(fusion, clip_set, after(calls))
        except Superseded:
            given_up += 1
            assert_frame_equal(live.outcomes(Fusion.at(2, 0.5), clip_set, Task()), other)
            calls += max(1, calls // 4)
        else:
            break
    assert_frame_equal(found, expected)
    assert given_up > 10


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_stop_is_asked_before_each_block_of_the_tower(tmp_path, kind):
    live = LiveModel(tiny_material(tmp_path, layers=(4, 3), kind=kind))
    clip_set, fusion = live.material.sets["pairs"], Fusion.at(1, 0.5)
    live.clip_features(fusion, clip_set, 0, Task())  # the weights are set
    for side, blocks in ((live.video_features, 4), (live.text_features, 3)):
        asked = count()
        side(fusion, clip_set, Task(stop=lambda asked=asked: next(asked) < 0))  # type: ignore[misc]
        assert next(asked) > blocks


def test_progress_counts_what_went_in(material, monkeypatch):
    """In batches of two clips of two frames, of nine."""
    monkeypatch.setattr(encoders, "_LEAST", 4)
    monkeypatch.setattr(encoders, "_CPU_PIXELS", 0)
    seen: list[float] = []
    live, clip_set = LiveModel(material), material.sets["pairs"]
    live.video_features(Fusion.at(1, 0.5), clip_set, Task(progress=seen.append))
    expected = [*(pytest.approx(done / 18) for done in (0, 4, 8, 12, 16)), 1]
    assert list(dict.fromkeys(seen)) == expected
    seen.clear()
    live.outcomes(Fusion.at(1, 0.5), clip_set, Task(progress=seen.append))
    assert seen == sorted(seen) and seen[0] == 0.9 and seen[-1] == 1


def test_an_unknown_student_is_named(material):
    with pytest.raises(ValueError, match=r"there is no student 7; the run has \[1, 2\]"):
        LiveModel(material).outcomes(Fusion.at(7, 0.5), material.sets["pairs"], Task())


def test_what_is_kept_is_not_encoded_again(material, monkeypatch):
    """By tower: the teacher is one for all students and merges."""
    live, clip_set = LiveModel(material), material.sets["pairs"]
    both_sides(live, Fusion(1, 0.5, 0.2), clip_set)
    both_sides(live, Fusion(1, 0.1, 0.7), clip_set)
    for end in (0, 1):
        both_sides(live, Fusion.at(1, end), clip_set)
    monkeypatch.setattr(zero_shot, "video_side", refuse)
    monkeypatch.setattr(zero_shot, "text_side", refuse)
    videos, texts = both_sides(live, Fusion(1, 0.5, 0.7), clip_set)
    assert videos is live.video_features(Fusion(1, 0.5, 0.2), clip_set, Task())
    assert texts is live.text_features(Fusion(1, 0.1, 0.7), clip_set, Task())
    both_sides(live, Fusion.at(2, 0, "fisher"), clip_set)
    both_sides(live, Fusion.at(1, 1, "fisher"), clip_set)
    for other in (Fusion.at(2, 1), Fusion.at(2, 0.5), Fusion.at(1, 0.5, LINEAR)):
        with pytest.raises(Refused):
            live.video_features(other, clip_set, Task())
    with pytest.raises(Refused):
        live.text_features(Fusion.at(1, 0), material.sets["actions"], Task())


class Refused(Exception):
    pass


def refuse(*_):
    raise Refused


def test_the_materials_own_encoder_keeps_the_teachers_weights(material):
    before = material.encoder.state()
    first = LiveModel(material)
    first.outcomes(Fusion.at(1, 0.8), material.sets["pairs"], Task())
    assert first.logit_scale == material.encoder.logit_scale
    after_it = material.encoder.state()
    assert all(torch.equal(after_it[name], tensor) for name, tensor in before.items())
    assert_exact(LiveModel(material), Fusion.at(1, 0.2), material.sets["pairs"])


def test_what_is_kept_is_answered_while_another_thread_computes(material):
    live, clip_set, kept = LiveModel(material), material.sets["pairs"], Fusion.at(1, 0.1)
    expected = live.outcomes(kept, clip_set, Task())
    computing, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        computing.set()
        return not go_on.wait(60)

    other = Fusion.at(2, 0.6), clip_set, Task(stop=wait)
    work = threading.Thread(target=live.outcomes, args=other)
    work.start()
    assert computing.wait(60)
    assert_frame_equal(live.outcomes(kept, clip_set, Task()), expected)
    assert work.is_alive()
    go_on.set()
    work.join()


def test_many_threads_get_the_right_features(material):
    live, wrong = LiveModel(material, cache_mb=0.001), []

    def explore(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for place in rng.integers(0, len(FUSIONS), 5):
            try:
                assert_exact(live, FUSIONS[place], material.sets["pairs"])
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=explore, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_clip_is_the_whole_sets_where_that_is_kept(material):
    live, clip_set, fusion = LiveModel(material), material.sets["actions"], Fusion.at(1, 0.4)
    alone = live.clip_features(fusion, clip_set, 3, Task())
    whole = live.video_features(fusion, clip_set, Task())
    torch.testing.assert_close(alone, whole[3])
    assert torch.equal(live.clip_features(fusion, clip_set, 3, Task()), whole[3])


def test_a_query_is_encoded_by_the_fused_text_tower(material):
    live, clip_set, fusion = LiveModel(material), material.sets["pairs"], Fusion(1, 0.9, 0.4)
    expected = live.text_features(fusion, clip_set, Task())[2]
    torch.testing.assert_close(live.query_features(fusion, clip_set.texts[2], Task()), expected)
    other = live.query_features(Fusion(1, 0.1, 0.4), clip_set.texts[2], Task())
    assert torch.equal(other, live.query_features(fusion, clip_set.texts[2], Task()))


@pytest.mark.parametrize(
    "fusion", [*FUSIONS, Fusion(1, 0.2, 0.6, "fisher")], ids=lambda one: one.title
)
def test_a_checkpoint_holds_the_fused_weights_and_what_they_are(material, tmp_path, fusion):
    live = LiveModel(material)
    path = live.save_checkpoint(fusion, tmp_path / "new" / "fused.safetensors")
    stored = checkpoints.load(path)
    expected = expected_state(material, fusion)
    assert stored.keys() == expected.keys()
    for name, tensor in stored.items():
        assert torch.equal(tensor, expected[name]), name
    notes = checkpoints.metadata(path)
    assert Fusion(**json.loads(notes["fusion"])) == fusion
    assert notes["title"] == fusion.title
    assert (notes["teacher_sha256"], notes["student_sha256"]) == (
        "teacher",
        f"student{fusion.draw}",
    )
    assert json.loads(notes["model"]) == {"architecture": "tiny"}


def test_fisher_goes_as_far_as_plain_alpha(material):
    ends = material.encoder.state(), material.students[1].state
    merged = LiveModel(material).state(Fusion.at(1, 0.3, "fisher"))
    along = whole = 0.0
    for name, teacher in ends[0].items():
        if name != "logit_scale":
            way = ends[1][name].double() - teacher.double()
            along += float(((merged[name].double() - teacher) * way).sum())
            whole += float((way**2).sum())
    assert along / whole == pytest.approx(0.3, abs=1e-4)
    assert distance_taken(*ends, 0.3) == pytest.approx(0.3)


def test_fisher_diagonals_are_kept_and_made_again_where_damaged(material, monkeypatch):
    fusion, clip_set = Fusion.at(1, 0.3, "fisher"), material.sets["actions"]

    def outcomes() -> pd.DataFrame:
        return LiveModel(material).outcomes(fusion, clip_set, Task())

    expected = outcomes()
    folder = material.run.path / "explore_alpha" / "fisher"
    names = ["student1.safetensors", "teacher.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    file = folder / names[0]
    whole, wrong = (
        file.read_bytes(),
        {name: one + 1 for name, one in checkpoints.load(file).items()},
    )
    for damage in (b"", b"no safetensors", None):
        if damage is None:
            checkpoints.save(file, wrong, {"key": "of other clips"})
        else:
            file.write_bytes(damage)
        assert_frame_equal(outcomes(), expected)
        assert file.read_bytes() == whole
    monkeypatch.setattr(slider_merges, "fisher_diagonal", refuse)
    assert_frame_equal(outcomes(), expected)


def test_fisher_takes_notebook_07s_numbers_where_it_was_run(material):
    material.run.finish(
        "07_supplementary_figures", {"n": 4, "batch_size": 2, "temperature": 0.5}, {}
    )
    _, _, settings = slider_merges.fisher_inputs(material)
    assert settings == {"n": 4, "batch_size": 2, "temperature": 0.5}
