"""Frozen in Time's modules against loops over tokens and heads, and against DistilBERT itself."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DistilBertConfig, DistilBertModel

from fitclip_kit.weights.frozen_in_time import FrozenInTime, Sizes, fit_temporal

TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "hidden_dim": 16,
    "max_position_embeddings": 20,
}
TINY = Sizes(image_size=6, patch=2, width=12, depth=2, heads=3, projection=5, text=TEXT)
N_FRAMES, SIDE = 4, 3

Token = tuple[int, int]  # (frame, place); CLS is neither
CLS: Token = (-1, -1)


@pytest.fixture(scope="module")
def model() -> FrozenInTime:
    """All weights random, in float64; norms, biases and temporal embeddings too."""
    torch.manual_seed(0)
    model = FrozenInTime(N_FRAMES, TINY).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    return model


def random_clips(n: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(n, frames, 3, 6, 6, dtype=torch.float64, generator=generator)


def slow_clip_feature(model: FrozenInTime, clip: np.ndarray) -> np.ndarray:
    """The paper's equations for one clip `[frames, 3, 6, 6]`: one token, one head at a time."""
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        rows = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        return np.array([sum(row * x) + bias for row, bias in rows])

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        mean = sum(x) / len(x)
        variance = sum((x - mean) ** 2) / len(x)
        scaled = (x - mean) / math.sqrt(variance + 1e-6)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(
        name: str, inputs: dict[Token, np.ndarray], sees: Callable[[Token, Token], bool]
    ) -> dict[Token, np.ndarray]:
        # [query/key/value, head, head width] of every token
        qkv = {t: linear(f"{name}.qkv", x).reshape(3, TINY.heads, -1) for t, x in inputs.items()}
        outputs = {}
        for token in inputs:
            seen = [other for other in inputs if sees(token, other)]
            heads = []
            for head in range(TINY.heads):
                q = qkv[token][0, head]
                scores = [math.exp(sum(q * qkv[t][1, head]) / math.sqrt(len(q))) for t in seen]
                mixed = sum(s * qkv[t][2, head] for s, t in zip(scores, seen, strict=True))
                heads.append(mixed / sum(scores))
            outputs[token] = linear(f"{name}.proj", np.concatenate(heads))
        return outputs

    def same_place(a: Token, b: Token) -> bool:
        return a == CLS or b == CLS or a[1] == b[1]

    def same_frame(a: Token, b: Token) -> bool:
        return a == CLS or b == CLS or a[0] == b[0]

    place_embeddings = weights["video_model.pos_embed"][0]
    x = {CLS: weights["video_model.cls_token"][0, 0] + place_embeddings[0]}
    for frame, image in enumerate(clip):
        for place in range(SIDE**2):
            top, left = 2 * (place // SIDE), 2 * (place % SIDE)
            pixels = image[:, top : top + 2, left : left + 2]
            patch = [(w * pixels).sum() for w in weights["video_model.patch_embed.proj.weight"]]
            x[frame, place] = (
                np.array(patch)
                + weights["video_model.patch_embed.proj.bias"]
                + place_embeddings[1 + place]
                + weights["video_model.temporal_embed"][0, frame]
            )
    for number in range(TINY.depth):
        block = f"video_model.blocks.{number}"
        normed = {t: norm(f"{block}.norm3", v) for t, v in x.items()}
        over_time = attention(f"{block}.timeattn", normed, same_place)
        normed = {t: norm(f"{block}.norm1", v + over_time[t]) for t, v in x.items()}
        over_space = attention(f"{block}.attn", normed, same_frame)
        for t in x:
            y = x[t] + over_space[t]
            hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", y))
            gelu = np.array([h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden])
            x[t] = y + linear(f"{block}.mlp.fc2", gelu)
    return linear("vid_proj.0", norm("video_model.norm", x[CLS]))


@pytest.mark.parametrize("frames", range(1, N_FRAMES + 1))
def test_clips_equal_the_slow_equations(model: FrozenInTime, frames: int) -> None:
    clips = random_clips(2, frames)
    with torch.no_grad():
        features = model.encode_clips(clips).numpy()
    expected = [slow_clip_feature(model, clip) for clip in clips.numpy()]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-10)
    assert np.abs(features).min() > 1e-3  # nothing is hidden by being nought


def test_order_of_frames_matters_by_the_temporal_embeddings_alone(model: FrozenInTime) -> None:
    clips = random_clips(2, 4)
    mixed = clips[:, [2, 0, 3, 1]]
    timeless = FrozenInTime(N_FRAMES, TINY).double().eval()
    timeless.load_state_dict(model.state_dict())
    timeless.video_model.temporal_embed.data.zero_()
    with torch.no_grad():
        assert (model.encode_clips(clips) - model.encode_clips(mixed)).abs().max() > 1e-2
        torch.testing.assert_close(timeless.encode_clips(clips), timeless.encode_clips(mixed))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 3, 6, 6), "a clip has 5 frames.*1 to 4"),
        ((1, 0, 3, 6, 6), "a clip has 0 frames"),
        ((1, 2, 3, 8, 8), "shape .*give .clips, frames, 3, 6, 6"),
        ((1, 2, 1, 6, 6), "shape"),
        ((2, 3, 6, 6), "shape"),
    ],
)
def test_clips_of_another_form_are_refused(
    model: FrozenInTime, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode_clips(torch.zeros(shape, dtype=torch.float64))


def test_texts_equal_distilbert_without_padding(model: FrozenInTime) -> None:
    distilbert = DistilBertModel(DistilBertConfig(**TEXT)).double().eval()
    distilbert.load_state_dict(model.text_model.state_dict())
    texts = [[7, 3, 9, 1, 4], [5], [8, 2, 6]]
    tokens = torch.tensor([text + [0] * (5 - len(text)) for text in texts])
    attended = torch.tensor([[i < len(text) for i in range(5)] for text in texts])
    weight, bias = model.txt_proj[1].weight, model.txt_proj[1].bias
    with torch.no_grad():
        features = model.encode_tokens(tokens, attended)
        first = [distilbert(torch.tensor([text])).last_hidden_state[0, 0] for text in texts]
        expected = torch.stack([weight @ hidden.clamp_min(0) + bias for hidden in first])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)


def test_every_parameter_gets_a_gradient(model: FrozenInTime) -> None:
    tokens = torch.arange(1, 21)[None]
    loss = (
        model.encode_clips(random_clips(1, 4)).square().sum()
        + model.encode_tokens(tokens, tokens > 0).square().sum()
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), name
        # The same number added to all keys' scores leaves a softmax as it is.
        assert gradient.abs().max() > 1e-9 or name.endswith("k_lin.bias"), name


def released_shapes() -> dict[str, list[int]]:
    """The tensors of the released checkpoints, by the sizes of ViT-B/16 and DistilBERT base."""
    norm = {"weight": [768], "bias": [768]}

    def linear(n_in: int, n_out: int) -> dict[str, list[int]]:
        return {"weight": [n_out, n_in], "bias": [n_out]}

    modules = {
        "text_model.embeddings.word_embeddings": {"weight": [30522, 768]},
        "text_model.embeddings.position_embeddings": {"weight": [512, 768]},
        "text_model.embeddings.LayerNorm": norm,
        "video_model.patch_embed.proj": {"weight": [768, 3, 16, 16], "bias": [768]},
        "video_model.norm": norm,
        "txt_proj.1": linear(768, 256),
        "vid_proj.0": linear(768, 256),
    }
    for i in range(6):
        layer = f"text_model.transformer.layer.{i}"
        modules |= {f"{layer}.attention.{x}_lin": linear(768, 768) for x in ("q", "k", "v", "out")}
        modules |= {f"{layer}.ffn.lin1": linear(768, 3072), f"{layer}.ffn.lin2": linear(3072, 768)}
        modules |= {f"{layer}.sa_layer_norm": norm, f"{layer}.output_layer_norm": norm}
    for i in range(12):
        block = f"video_model.blocks.{i}"
        modules |= {f"{block}.norm{j}": norm for j in (1, 2, 3)}
        for attention in ("attn", "timeattn"):
            modules[f"{block}.{attention}.qkv"] = linear(768, 3 * 768)
            modules[f"{block}.{attention}.proj"] = linear(768, 768)
        modules |= {f"{block}.mlp.fc1": linear(768, 3072), f"{block}.mlp.fc2": linear(3072, 768)}
    return {
        "video_model.cls_token": [1, 1, 768],
        "video_model.pos_embed": [1, 197, 768],
        "video_model.temporal_embed": [1, 4, 768],
    } | {f"{m}.{part}": shape for m, parts in modules.items() for part, shape in parts.items()}


def test_names_and_shapes_are_the_released_ones() -> None:
    with torch.device("meta"):
        model = FrozenInTime()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert len(shapes) == 327
    assert shapes == released_shapes()


def test_the_listing_of_released_tensors(realdata: Path) -> None:
    listing = realdata / "checkpoints" / "frozen_in_time_base_patch16_224_4f.json"
    assert released_shapes() == json.loads(listing.read_text())["shapes"]


def slow_temporal(embeddings: np.ndarray, n_frames: int, temporal: str) -> np.ndarray:
    m, width = embeddings.shape
    rows = []
    for i in range(n_frames):
        if i < m and (n_frames <= m or temporal == "zeros"):
            rows.append(embeddings[i])
        elif temporal == "zeros":
            rows.append(np.zeros(width))
        elif temporal == "interp":
            rows.append(embeddings[i * m // n_frames])
        else:
            place = min(max((i + 0.5) * m / n_frames - 0.5, 0), m - 1)
            before = math.floor(place)
            after = min(before + 1, m - 1)
            share = place - before
            rows.append((1 - share) * embeddings[before] + share * embeddings[after])
    return np.array(rows)


@given(
    m=st.integers(1, 9),
    n_frames=st.integers(1, 20),
    temporal=st.sampled_from(["zeros", "interp", "bilinear"]),
)
def test_temporal_embeddings_for_another_number_of_frames(
    m: int, n_frames: int, temporal: str
) -> None:
    embeddings = np.random.default_rng(m).normal(size=(m, 3))
    fitted = fit_temporal(torch.from_numpy(embeddings)[None], n_frames, temporal)
    assert fitted.shape == (1, n_frames, 3)
    expected = slow_temporal(embeddings, n_frames, temporal)
    np.testing.assert_allclose(fitted[0].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_frames", [2, 4, 6])
def test_an_unknown_rule_for_temporal_embeddings_is_refused(n_frames: int) -> None:
    with pytest.raises(ValueError, match="'linear'; give one of zeros, interp, bilinear"):
        fit_temporal(torch.zeros(1, 4, 3), n_frames, "linear")


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size 225 is no multiple of patch 16"):
        Sizes(image_size=225)
    with pytest.raises(ValueError, match="width 768 is no multiple of heads 7"):
        Sizes(heads=7)
    with pytest.raises(ValueError, match="n_frames is 0"):
        FrozenInTime(0, TINY)


def test_transformers_is_not_imported_before_a_model_is_built() -> None:
    code = (
        "import sys, fitclip_kit.weights.frozen_in_time_encoder\n"
        "sys.exit('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0
