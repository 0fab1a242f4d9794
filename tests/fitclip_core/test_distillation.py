"""fit_student against a hand-written step, and the promises of its docstring."""

import copy
import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from fitclip_core.clips import TrainingClips, crop_and_flip, crop_boxes
from fitclip_core.distillation import Recipe, StudentFit
from fitclip_core.encoders import ClipEncoder, Precision
from fitclip_core.fast import attention_kernel
from fitclip_core.losses import contrastive_loss, distillation_loss, fitclip_loss
from tests.make import (
    CROP_SIZE,
    RECIPE,
    DoubleEncoder,
    Source,
    clips,
    fit,
    largest_difference,
    make_encoder,
    recorded_gradients,
    still,
)


def assert_same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_step_equals_a_hand_written_one() -> None:
    # The whole picture, one draw, whole sets as batches: only order and flips are random, and
    # neither losses nor features depend on the order. Frames are made symmetrical.
    def mirrored(n: int, seed: int) -> TrainingClips:
        made = clips(n, draws=1, seed=seed)
        frames = made.frames.frames(made.indices)
        frames[..., CROP_SIZE // 2 :, :] = frames[..., : CROP_SIZE // 2, :][..., ::-1, :]
        return TrainingClips(Source(frames), made.texts)

    labelled, unlabelled = mirrored(4, 0), mirrored(3, 1)
    recipe = replace(RECIPE, steps=1, crop_scale=(1.0, 1.0), labelled_share=0.7, weight_decay=0.1)
    torch.manual_seed(3)
    student, teacher = make_encoder(0), make_encoder(1)
    expected, teacher_model = copy.deepcopy(student.model), copy.deepcopy(teacher.model)

    def scores(model: Any, part: TrainingClips, scale: float) -> torch.Tensor:
        videos = []
        for clip in part.frames.frames(part.indices)[:, :, 0]:
            images = torch.tensor(clip / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
            frames = [F.normalize(model.encode_image(image[None])[0], dim=0) for image in images]
            videos.append(torch.stack(frames).mean(0))
        texts = F.normalize(model.encode_text(student.tokenizer(part.texts)), dim=1)
        return scale * torch.stack(videos) @ texts.T

    t_scale = teacher_model.logit_scale.exp().item()
    assert t_scale == pytest.approx(1 / 0.07)
    contrastive = contrastive_loss(scores(expected, labelled, 10))
    of_teacher = scores(teacher_model, unlabelled, t_scale)
    distillation = distillation_loss(scores(expected, unlabelled, 10), of_teacher, t_scale)
    trained = {name: p for name, p in expected.named_parameters() if name != "logit_scale"}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.1)
    (0.7 * contrastive + 0.3 * distillation).backward()
    optimiser.step()

    result = fit(recipe, student=student, teacher=teacher, labelled=labelled, unlabelled=unlabelled)
    row = result.history.iloc[1]
    assert row["labelled_loss"] == pytest.approx(contrastive.item(), rel=1e-4)
    assert row["distillation_loss"] == pytest.approx(distillation.item(), rel=1e-4)
    original = make_encoder(0).state()
    largest = max(p.grad.abs().max() for p in trained.values())
    compared = 0
    for name, parameter in trained.items():
        # Adam's first step is lr times the gradient's sign, which rounding decides where the
        # gradient is zero in theory (the biases of the attention's keys).
        clear = parameter.grad.abs() > 1e-4 * largest
        assert clear.any() or "embedding" in name
        compared += int(clear.sum())
        moved = parameter.detach() - original[name]
        found = result.state[name] - original[name]
        torch.testing.assert_close(found[clear], moved[clear], atol=3e-5, rtol=0)
        assert (moved[clear].abs() > 5e-4).all()
    assert compared > 0.5 * sum(p.numel() for n, p in trained.items() if "token" not in n)


def test_without_micro_batches_the_bits_are_those_of_the_plain_loop() -> None:
    # The order of every random draw and of every sum is part of what existing students rest on.
    student, teacher = make_encoder(0, patch_dropout=0.5), make_encoder(1)
    given = student.state()
    labelled_seed, unlabelled_seed, model_seed = (
        int(seed) for seed in np.random.SeedSequence(RECIPE.seed).generate_state(3)
    )

    def batches(part: TrainingClips, size: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(part), generator=generator).numpy()
            for start in range(0, len(part) - size + 1, size):
                rows = order[start : start + size]
                stored = part.frames.frames(rows)
                draws = torch.randint(stored.shape[2], (size, stored.shape[1]), generator=generator)
                frames = np.array(
                    [clip[[0, 1], of_clip] for clip, of_clip in zip(stored, draws, strict=True)]
                )
                boxes = crop_boxes(size, CROP_SIZE, CROP_SIZE, RECIPE.crop_scale, generator)
                flips = torch.rand(size, generator=generator) < 0.5
                crops = crop_and_flip(frames, boxes, flips, CROP_SIZE)
                yield crops.numpy(), [part.texts[row] for row in rows]

    def scores(encoder: ClipEncoder, batch: Any, scale: float) -> torch.Tensor:
        videos = encoder.video_features(*encoder.images(batch[0]))
        return scale * videos @ encoder.text_features(encoder.tokenize(batch[1])).T

    labelled = batches(clips(10), RECIPE.labelled_batch, labelled_seed)
    unlabelled = batches(clips(7, seed=1), RECIPE.unlabelled_batch, unlabelled_seed)
    optimiser = torch.optim.AdamW(
        student.model.parameters(),
        lr=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
        fused=True,
    )
    states, scale = [], 1 / RECIPE.temperature
    torch.manual_seed(model_seed)
    with attention_kernel(student.device):
        for _ in range(RECIPE.steps):
            student.model.train()
            ours = scores(student, next(labelled), scale)
            batch = next(unlabelled)
            new = scores(student, batch, scale)
            with torch.no_grad():
                old = scores(teacher, batch, teacher.logit_scale)
            share = RECIPE.labelled_share
            optimiser.zero_grad()
            fitclip_loss(ours, new, old, teacher.logit_scale, share).backward()
            optimiser.step()
            student.model.eval()
            states.append(student.state())

    student.load_state(given)
    result = fit(student=student, teacher=teacher)
    assert_same_state(result.state, states[result.best_step - 1])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("kind", "tolerance"), [(DoubleEncoder, 1e-12), (ClipEncoder, 1e-5)], ids=["double", "single"]
)
def test_micro_batches_give_the_whole_batchs_gradient(
    kind: type[ClipEncoder], tolerance: float, share: float
) -> None:
    recipe = replace(RECIPE, steps=2, labelled_share=share, labelled_batch=7, unlabelled_batch=5)
    found = {}
    for micro_batch in (None, 1, 3, 7, 64):  # 3 divides neither batch
        encoders: dict[str, Any] = {
            "student": make_encoder(0, kind=kind),
            "teacher": make_encoder(1, kind=kind),
        }
        with recorded_gradients() as steps:
            result = fit(recipe, micro_batch, **encoders)
        assert len(steps) == 2
        found[micro_batch] = steps[0], result.history.loc[[1]].drop(columns="validation_loss")
    gradients, losses = found.pop(None)
    for of_parts, losses_of_parts in found.values():
        assert largest_difference(of_parts, gradients) < tolerance
        pd.testing.assert_frame_equal(losses_of_parts, losses, rtol=1e-5)
    # The loss sees all pairs: the mean of the parts' own losses has another gradient.
    if share == 1:
        parts = replace(recipe, labelled_batch=3)
        with recorded_gradients() as small:
            fit(parts, student=make_encoder(0, kind=kind))
        assert largest_difference(small[0], gradients) > 0.01


def test_micro_batches_drop_the_same_patches_in_both_passes() -> None:
    # One micro batch as large as the batch draws its random numbers in the same order.
    recipe = replace(RECIPE, labelled_share=1.0)
    results = [
        fit(recipe, micro_batch, student=make_encoder(0, patch_dropout=0.5))
        for micro_batch in (None, RECIPE.labelled_batch)
    ]
    pd.testing.assert_frame_equal(results[0].history, results[1].history)
    assert_same_state(results[0].state, results[1].state)


def test_micro_batches_hold_no_activations_of_the_first_pass() -> None:
    held: list[int] = []
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.is_floating_point()  # the clips themselves are held
        return tensor

    for micro_batch in (None, 2):
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            fit(replace(RECIPE, steps=1), micro_batch)
        held.append(kept)
    assert held[1] < held[0] / 100


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_teacher_sees_unlabelled_clips_alone(micro_batch: int | None) -> None:
    teacher, labelled, unlabelled = make_encoder(1), clips(10), clips(7, seed=1)
    frames, texts = [], []
    teacher.model.visual.register_forward_hook(lambda _, given, __: frames.append(len(given[0])))
    teacher.model.token_embedding.register_forward_hook(
        lambda _, given, __: texts.append(len(given[0]))
    )
    arguments: dict[str, Any] = {"labelled": labelled, "unlabelled": unlabelled}
    fit(replace(RECIPE, labelled_share=1.0), micro_batch, teacher=teacher, **arguments)
    assert frames == texts == []
    fit(RECIPE, micro_batch, teacher=teacher, **arguments)
    # Once a step, two frames a clip.
    assert sum(texts) == RECIPE.steps * RECIPE.unlabelled_batch
    assert sum(frames) == 2 * sum(texts)


def test_how_and_on_what_it_was_trained_is_told() -> None:
    both = clips(10, draws=3)
    unlabelled = TrainingClips(both.frames, both.texts[7:], np.arange(7, 10))
    counts = {"validation_clips": 5, "frames": 2, "stored_draws": 3}
    for micro_batch, share, expected in (
        (None, 0.5, {"labelled_clips": 10, "unlabelled_clips": 3, "shared_clips": 3}),
        (2, 1.0, {"labelled_clips": 10, "unlabelled_clips": 0, "shared_clips": 0}),
        (None, 0.0, {"labelled_clips": 0, "unlabelled_clips": 3, "shared_clips": 0}),
    ):
        recipe = replace(RECIPE, steps=1, labelled_share=share)
        result = fit(recipe, micro_batch, labelled=both, unlabelled=unlabelled)
        assert result.material == expected | counts, share
        assert result.computed == {"device": "cpu", "processes": 1, "micro_batch": micro_batch}


def test_a_student_that_is_the_teacher_has_no_distillation_loss_at_the_defaults() -> None:
    recipe = Recipe(steps=1, validate_every=1, seed=0)
    student, teacher = make_encoder(0), make_encoder(0)
    assert_same_state(student.state(), teacher.state())
    assert teacher.logit_scale == pytest.approx(1 / 0.07)  # not the student's, which is 1 / 0.015
    loss = fit(recipe, student=student, teacher=teacher).history["distillation_loss"][1]
    assert abs(loss) / (1 / 0.015) ** 2 < 1e-5
    # With the teacher's own scale it is one of two temperatures, and pushes equal models apart.
    own = replace(recipe, teacher_temperature=None)
    loss = fit(own, student=make_encoder(0), teacher=teacher).history["distillation_loss"][1]
    assert loss / teacher.logit_scale**2 > 1e-3


def test_same_seed_same_result_whatever_the_global_state_or_precision() -> None:
    results: list[StudentFit] = []
    for precision in get_args(Precision):  # of encoding: training is in float32
        student = make_encoder(0, patch_dropout=0.5, precision=precision)
        teacher = make_encoder(1, precision=precision)
        torch.manual_seed(len(results))
        before = torch.get_rng_state()
        results.append(fit(student=student, teacher=teacher))
        assert torch.equal(torch.get_rng_state(), before)
        assert student.precision == precision
    assert_same_state(results[0].state, results[1].state)
    pd.testing.assert_frame_equal(results[0].history, results[1].history)
    other = fit(replace(RECIPE, seed=6), student=make_encoder(0, patch_dropout=0.5))
    assert not torch.equal(other.state["visual.proj"], results[0].state["visual.proj"])


def test_best_validation_state_is_kept() -> None:
    # A high rate, so that the loss goes up as well as down.
    recipe = replace(RECIPE, steps=12, validate_every=1, learning_rate=0.05)
    student, validation = make_encoder(0), still(clips(5, seed=2))
    result = fit(recipe, student=student, validation=validation)
    losses = result.history["validation_loss"][1:]
    assert result.best_step == int(losses.argmin()) + 1
    assert result.best_step < 12
    assert_same_state(student.state(), result.state)
    scores = (
        10 * student.encode_source(validation.frames) @ student.encode_texts(validation.texts).T
    )
    right = torch.arange(5)
    loss = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
    assert loss.item() == pytest.approx(losses.min(), rel=1e-5)
    # Of equal losses the first is the best; step 0, whose loss they equal as well, is none.
    assert fit(replace(RECIPE, learning_rate=1e-30, weight_decay=0.0)).best_step == 2
    # The state does not change when the student trains on.
    before = {name: value.clone() for name, value in result.state.items()}
    fit(recipe, student=student)
    assert_same_state(before, result.state)


def test_history_says_which_steps_were_validated() -> None:
    history = fit(replace(RECIPE, steps=5, validate_every=2)).history
    columns = ["step", "labelled_loss", "distillation_loss", "validation_loss"]
    assert history.columns.tolist() == columns
    assert history["step"].tolist() == list(range(6))
    assert history["validation_loss"].notna().tolist() == [
        step in (0, 2, 4, 5) for step in range(6)
    ]
    assert history["labelled_loss"].notna().tolist() == [False] + [True] * 5


def test_what_is_not_trained_stays() -> None:
    student, teacher = make_encoder(0), make_encoder(1)
    before, teacher_before = student.state(), teacher.state()
    result = fit(student=student, teacher=teacher)
    assert_same_state(teacher_before, teacher.state())
    assert all(p.grad is None for p in teacher.model.parameters())
    changed = {n for n in before if not torch.equal(before[n], result.state[n])}
    assert before.keys() - changed == {"logit_scale"}
    assert not student.model.training
    assert all(p.grad is None for p in student.model.parameters())


def test_distillation_acts_by_its_share_alone() -> None:
    labelled_only = replace(RECIPE, labelled_share=1.0)
    unlabelled = clips(7, seed=1)
    alone = fit(labelled_only, teacher=None, unlabelled=None)
    ignored = fit(labelled_only, unlabelled=unlabelled)
    assert_same_state(alone.state, ignored.state)
    assert unlabelled.frames.read == []  # type: ignore[attr-defined]
    assert alone.history["distillation_loss"].isna().all()
    # The labelled clips and crops are the same ones beside a distillation loss.
    joined = fit(replace(RECIPE, labelled_share=0.9999))
    assert joined.history["labelled_loss"][1] == alone.history["labelled_loss"][1]
    assert not torch.equal(joined.state["visual.proj"], alone.state["visual.proj"])
    unread = clips(10)
    distilled = fit(replace(RECIPE, labelled_share=0.0), labelled=unread)
    assert unread.frames.read == []  # type: ignore[attr-defined]
    assert distilled.history["labelled_loss"].isna().all()


def test_epochs_are_shuffled_without_replacement() -> None:
    labelled, few = clips(10), clips(3)
    fit(replace(RECIPE, labelled_share=1.0), labelled=labelled)
    batches = labelled.frames.read  # type: ignore[attr-defined]
    assert [len(batch) for batch in batches] == [4] * 6
    for epoch in (batches[0:2], batches[2:4], batches[4:6]):
        assert len({clip for batch in epoch for clip in batch}) == 8
    assert batches[0] + batches[1] != batches[2] + batches[3]
    fit(replace(RECIPE, labelled_share=1.0), labelled=few)
    assert all(sorted(batch) == [0, 1, 2] for batch in few.frames.read)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        *[({name: 0}, "at least 1") for name in ("steps", "validate_every", "labelled_batch")],
        ({"unlabelled_batch": 0}, "at least 1"),
        *[({"learning_rate": value}, "a number above 0") for value in (math.nan, math.inf, 0.0)],
        *[({name: 0.0}, "above 0") for name in ("temperature", "teacher_temperature")],
        *[({name: -0.1}, "give a") for name in ("weight_decay", "labelled_share")],
        ({"labelled_share": 1.1}, "a share in"),
        ({"crop_scale": (0.8, 0.5)}, "0 < low <= high <= 1"),
        ({"crop_scale": (0.0, 0.5)}, "0 < low <= high <= 1"),
        ({"seed": -1}, "a number from 0"),
    ],
)
def test_wrong_recipes_are_refused(change: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(change))}(?s:.*){problem}"):
        replace(RECIPE, **change)


SAME, ENDLESS, SMALL, NORMALISED = (make_encoder(seed) for seed in (0, 1, 1, 0))
SMALL.image_size = 8
TWIN = copy.copy(SAME)
ENDLESS.model.logit_scale.data.fill_(math.nan)
NORMALISED.model.visual.bn = torch.nn.BatchNorm2d(3)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"labelled": None}, "needs labelled clips"),
        ({"teacher": None}, "needs unlabelled clips and a teacher"),
        ({"unlabelled": None}, "needs unlabelled clips and a teacher"),
        ({"student": SAME, "teacher": SAME}, "same model"),
        ({"student": SAME, "teacher": TWIN}, "same model"),
        ({"labelled": still(clips(4))}, "draws_per_interval"),
        ({"validation": clips(4)}, "give uint8"),
        ({"teacher": SMALL}, "8 px"),
        ({"teacher": ENDLESS}, "teacher_temperature"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"micro_batch": 2, "student": NORMALISED}, "batch normalisation"),
        (  # a diverged student stops with its step
            {"recipe": replace(RECIPE, learning_rate=1e38, validate_every=6)},
            r"step \d",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fit(**arguments)
