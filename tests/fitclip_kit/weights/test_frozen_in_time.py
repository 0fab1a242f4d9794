"""Frozen in Time's video tower against loops over tokens and heads."""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fitclip_kit.weights.frozen_in_time import FrozenInTime, Sizes

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
DIGEST = "c50fe7c410d7fa83b1daa6fc6f7bcb5a6802fd75c920e60cc14e7ccb4ab89128"

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


def test_clips_of_too_many_or_no_frames_are_refused(model: FrozenInTime) -> None:
    for frames in (0, 5):
        with pytest.raises(ValueError, match=f"a clip has {frames} frames.*1 to 4"):
            model.encode_clips(random_clips(1, frames))


def test_names_and_shapes_are_the_released_ones() -> None:
    """The digest is that of the released checkpoints' listing."""
    with torch.device("meta"):
        state = FrozenInTime().state_dict()
    listed = sorted((name, list(value.shape)) for name, value in state.items())
    assert len(listed) == 327
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest() == DIGEST
