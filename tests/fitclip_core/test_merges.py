"""Schedules against slow loops, and against what the towers of real (tiny) models do."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import AlphaSweep, interpolate
from fitclip_core.losses import contrastive_loss
from fitclip_core.merges import MERGES, fisher, fisher_diagonal, linear_in_depth, per_tower
from tests.make import SIZE, labelled_clips, letters, tiny_encoder

KINDS = (open_clip.CLIP, open_clip.CustomTextCLIP)
NAN, INF = float("nan"), float("inf")


# towers


@pytest.mark.parametrize("kind", KINDS)
def test_the_towers_are_those_that_the_features_depend_on(kind) -> None:
    model = tiny_encoder(0, (2, 2), kind).model
    names, parameters = zip(*model.named_parameters(), strict=True)
    features = {
        0.25: model.encode_image(torch.rand(1, 3, SIZE, SIZE)),
        0.75: model.encode_text(letters(["abc"])),
    }
    used = {
        alpha: torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
        for alpha, feature in features.items()
    }
    schedule = per_tower(0.25, 0.75)
    for name, vision, text in zip(names, used[0.25], used[0.75], strict=True):
        assert (vision is None) or (text is None)
        if name != "logit_scale":
            assert schedule(name) == (0.75 if vision is None else 0.25), name
    assert schedule("logit_bias") == 0


# linear in depth


def slow_depth(name: str, n_vision: int, n_text: int) -> float:
    """Depth from 0 to 1, by trying the names of each depth in turn."""
    vision = name.startswith("visual.")
    n = n_vision if vision else n_text
    for block in range(n):
        if f"resblocks.{block}." in name:
            return (block + 1) / (n + 1)
    embedding = ("class_emb", "positional_emb", "token_emb", "conv1", "ln_pre")
    return 0.0 if any(part in name for part in embedding) else 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_linear_in_depth_by_its_own_tower(kind) -> None:
    state = tiny_encoder(0, (3, 1), kind).state()
    shares = linear_in_depth(0.8, 0.2, state)
    assert list(shares) == [name for name in state if name != "logit_scale"]
    for name, share in shares.items():
        assert share == pytest.approx(0.8 - 0.6 * slow_depth(name, 3, 1)), name
    assert set(shares.values()) >= {0.8, 0.2}  # the ends are exact
    assert linear_in_depth(0.1, 1, ["visual.proj", "logit_bias"])["logit_bias"] == 0
    assert shares["visual.proj"] == 0.2
    block = "transformer.resblocks.0.ln_1.bias"
    assert shares[f"visual.{block}"] == pytest.approx(0.65)
    text_block = block if kind is open_clip.CLIP else f"text.{block}"
    assert shares[text_block] == pytest.approx(0.5)


OTHERS = ("video_model.norm.weight", "text_decoder.ln_final.weight", "logit_scale", "w")
STRANGE = ("visual.layer1.0.conv1.weight", "visual.trunk.blocks.0.norm1.weight", "text.proj2")


@pytest.mark.parametrize(
    ("schedule", "name", "problem"),
    [
        *[(per_tower(0.2, 0.6), name, "is of neither tower") for name in OTHERS],
        (lambda name: linear_in_depth(0.1, 0.5, [name]), "w", "is of neither tower"),
        *[
            (lambda name: linear_in_depth(0.1, 0.5, [name]), name, "depth of .* is not known")
            for name in STRANGE
        ],
    ],
)
def test_other_architectures_are_refused_by_name(schedule, name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        schedule(name)
    assert name in str(caught.value)


# Fisher merging


def random_fishers(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 2), "b": (4,), "c": ()}

    return tuple(  # type: ignore[return-value]
        {
            name: torch.tensor(rng.exponential(size=shape) * (rng.random(shape) > 0.3)).float()
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )


@pytest.mark.parametrize("seed", range(3))
def test_fisher_merging_weight_by_weight(seed: int) -> None:
    teachers, students = random_fishers(seed)
    # One model's values so small that the floor decides.
    teachers["a"] *= 1e-7
    teacher, student = ({n: torch.randn(f.shape) for n, f in teachers.items()} for _ in range(2))
    alpha = 0.3
    merged = interpolate(teacher, student, fisher(teachers, students, alpha))
    everything = [v for one in (teachers, students) for f in one.values() for v in f.flatten()]
    lowest = 1e-6 * float(sum(everything)) / len(everything)
    for name, tensor in merged.items():
        for place in np.ndindex(*tensor.shape):
            f_t = (1 - alpha) * max(float(teachers[name][place]), lowest)
            f_s = alpha * max(float(students[name][place]), lowest)
            t, s = float(teacher[name][place]), float(student[name][place])
            if f_t + f_s > 0:
                expected = (f_t * t + f_s * s) / (f_t + f_s)
            else:
                expected = (1 - alpha) * t + alpha * s
            assert float(tensor[place]) == pytest.approx(expected, abs=1e-6), (name, place)


@given(seed=st.integers(0, 99), alpha=st.floats(0.01, 0.99))
def test_fisher_shares_are_shares_and_have_the_ends(seed, alpha) -> None:
    teachers, students = random_fishers(seed)
    schedule = fisher(teachers, students, alpha)
    for name in teachers:
        share = schedule(name)
        assert share.shape == teachers[name].shape
        assert bool(((share >= 0) & (share <= 1)).all())
        assert bool((fisher(teachers, students, 0)(name) == 0).all())
        assert bool((fisher(teachers, students, 1)(name) == 1).all())
        mirrored = fisher(students, teachers, 1 - alpha)(name)
        torch.testing.assert_close(share + mirrored, torch.ones_like(share))
        # The unit of the Fisher plays no part.
        small, smaller = ({n: 1e-12 * f for n, f in one.items()} for one in (teachers, students))
        torch.testing.assert_close(fisher(small, smaller, alpha)(name), share)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "b is in the teacher's Fisher and not in the student's"),
        (torch.ones(5), r"b has shape \(4,\) in the teacher's Fisher and \(5,\)"),
        (-torch.ones(4), "diagonal of b is negative or not finite"),
        (torch.full((4,), NAN), "diagonal of b is negative or not finite"),
        (torch.full((4,), INF), "diagonal of b is negative or not finite"),
    ],
)
def test_wrong_fishers_are_refused_by_name(values, message) -> None:
    good, other = random_fishers(0)
    changed = {**other, "b": values}
    wrong = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        fisher(good, wrong, 0.5)


@pytest.mark.parametrize(
    ("alpha", "message"),
    [(1.1, "alpha is 1.1"), (NAN, "alpha is nan"), (0.5, "d has no Fisher diagonal")],
)
def test_wrong_settings_of_fisher_merging_are_refused(alpha, message) -> None:
    with pytest.raises(ValueError, match=message):
        fisher(*random_fishers(0), alpha)("d")


# merges by name


def random_pair(seed: int) -> tuple[dict, dict]:
    """Two states of three tensors: two to merge, and a logit scale that is the teacher's."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 6), "b": (5,), "logit_scale": ()}
    return tuple(  # type: ignore[return-value]
        {name: torch.tensor(rng.normal(size=shape)) for name, shape in shapes.items()}
        for _ in range(2)
    )


def slow_merge(name: str, teacher: np.ndarray, student: np.ndarray, alpha: float) -> np.ndarray:
    way = (student - teacher).ravel()
    if name == "ties":  # the largest fifth of the changes, counted one by one
        kept = max(1, round(0.2 * way.size))
        threshold = sorted(abs(way), reverse=True)[kept - 1]
        way = np.array([change if abs(change) >= threshold else 0 for change in way])
    if name == "slerp":
        t, s = teacher.ravel(), student.ravel()
        angle = np.arccos(t @ s / np.sqrt((t @ t) * (s @ s)))
        turned = np.sin((1 - alpha) * angle) * t + np.sin(alpha * angle) * s
        return (turned / np.sin(angle)).reshape(teacher.shape)
    return teacher + alpha * way.reshape(teacher.shape)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_merges_by_name_equal_numpy(name: str, alpha: float) -> None:
    for seed in range(3):
        teacher, student = random_pair(seed)
        merged = MERGES[name](teacher, student, alpha)
        assert torch.equal(merged["logit_scale"], teacher["logit_scale"])
        for key in ("a", "b"):
            expected = slow_merge(name, teacher[key].numpy(), student[key].numpy(), alpha)
            np.testing.assert_allclose(merged[key].numpy(), expected, rtol=1e-9)


def test_merges_at_their_limits() -> None:
    teacher, student = random_pair(0)
    further = MERGES["task_arithmetic"](teacher, student, 2.0)["a"]
    torch.testing.assert_close(further, 2 * student["a"] - teacher["a"])
    for parallel in (teacher["a"] * 2, teacher["a"] * -2, torch.zeros(3, 6, dtype=torch.float64)):
        arc = MERGES["slerp"](teacher, student | {"a": parallel}, 0.25)["a"]
        torch.testing.assert_close(arc, 0.75 * teacher["a"] + 0.25 * parallel)
    half = {name: tensor.half() for name, tensor in student.items()}
    assert all(MERGES[name](half, half, 0.5)["a"].dtype == torch.float16 for name in MERGES)


@pytest.mark.parametrize("name", MERGES)
def test_wrong_merges_are_refused(name: str) -> None:
    teacher, student = random_pair(0)
    for other, alpha, message in (
        (student, -0.1, r"alpha is -0\.1"),
        (student, INF, "alpha is inf"),
        (student | {"a": torch.full((3, 6), NAN)}, 0.5, "a is not finite"),
        ({"a": student["a"]}, 0.5, "b is in the teacher and not"),
    ):
        with pytest.raises(ValueError, match=message):
            MERGES[name](teacher, other, alpha)


# the Fisher diagonal


def diagonal(encoder: ClipEncoder, n_clips: int = 4, **changes: Any) -> dict[str, torch.Tensor]:
    settings: dict[str, Any] = {"n": 4, "seed": 0, "temperature": 0.1, "batch_size": 2}
    return fisher_diagonal(encoder, labelled_clips(n_clips), **(settings | changes))


def test_fisher_diagonal_equals_squared_gradients_of_batches() -> None:
    encoder, clips = tiny_encoder(3), labelled_clips(9)
    before = encoder.state()
    values = diagonal(encoder, 9, n=6, seed=5, temperature=0.5, batch_size=3)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state().items())
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    order = np.random.default_rng(5).permutation(9)
    expected = {name: torch.zeros_like(value) for name, value in before.items()}
    for batch in (order[:3], order[3:6]):
        encoder.model.zero_grad()
        pictures, counts = encoder.images(clips.frames.frames(batch), np.full(3, 2))
        videos = encoder.video_features(pictures, counts)
        texts = torch.cat([encoder.text_features(letters([clips.texts[i]])) for i in batch])
        contrastive_loss(2 * videos @ texts.T).backward()
        for name, parameter in encoder.model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad**2 / 2
    assert values.keys() == expected.keys() - {"logit_scale"}
    for name, of_weights in values.items():
        torch.testing.assert_close(of_weights, expected[name], rtol=1e-3, atol=1e-9)
    assert sum(bool((of_weights > 0).any()) for of_weights in values.values()) > len(values) / 2
    unseen = values["token_embedding.weight"].sum(1) == 0
    assert 0 < int(unseen.sum()) < len(unseen)


def test_fisher_merge_of_two_models_from_end_to_end() -> None:
    encoder = tiny_encoder(3)
    teacher, student = encoder.state(), tiny_encoder(4).state()
    with AlphaSweep(encoder.model, teacher, student) as fused:
        fishers = []
        for alpha in (0, 1):
            fused.set_alpha(alpha)
            fishers.append(diagonal(encoder))
        schedule = fisher(fishers[0], fishers[1], 0.5)
        fused.set_alpha(schedule)
        merged = encoder.state()
    expected = interpolate(teacher, student, schedule)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    plain = interpolate(teacher, student, 0.5)
    assert any(not torch.allclose(merged[name], plain[name], atol=1e-3) for name in plain)
    again, other = diagonal(encoder), diagonal(encoder, seed=2)
    assert all(torch.equal(again[name], fishers[0][name]) for name in again)
    assert any(not torch.equal(other[name], again[name]) for name in again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 5}, "n is 5 and batch_size 2 with 6 clips"),
        ({"n": 8}, "n is 8"),
        ({"n": 0}, "n is 0"),
        ({"batch_size": 1}, "batch_size 1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": NAN}, "temperature is nan"),
        ({}, r"1 parameters are frozen, the first is visual\.proj"),
    ],
)
def test_wrong_settings_of_the_diagonal_are_refused(change, message) -> None:
    encoder = tiny_encoder(0)
    encoder.model.visual.proj.requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        diagonal(encoder, 6, **change)
