"""Frozen in Time against loops over tokens and heads, one clip and one text at a time, and
transformers' tokenizer."""

import hashlib
import json
import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import DistilBertTokenizer

from fitclip_kit.weights.frozen_in_time import (
    FrozenInTime,
    FrozenInTimeEncoder,
    Sizes,
    wordpiece_tokenizer,
)

TEXT = {"dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 16}
TINY = Sizes(image_size=6, patch=2, width=12, depth=2, heads=3, projection=5, text=TEXT)
N_FRAMES, SIDE = 4, 3
DIGEST = "c50fe7c410d7fa83b1daa6fc6f7bcb5a6802fd75c920e60cc14e7ccb4ab89128"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
POSITIONS = "text_model.embeddings.position_ids"
TEMPORAL = "video_model.temporal_embed"

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


def test_names_and_shapes_are_the_released_ones() -> None:
    """The digest is that of the released checkpoints' listing."""
    with torch.device("meta"):
        state = FrozenInTime().state_dict()
    listed = sorted((name, list(value.shape)) for name, value in state.items())
    assert len(listed) == 327
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest() == DIGEST


# The encoder


def vocabulary_tokens() -> list[str]:
    """30,522 tokens with the special ones at BERT's places and some pieces of English."""
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation, "ß", "中", "文"]
    pieces = [
        *characters,
        *(f"##{character}" for character in characters if character.isalnum()),
        *("cook", "##ing", "##ed", "the", "cat", "play", "handstand", "##stand", "cafe"),
    ]
    tokens = [special.get(i, f"[unused{i}]") for i in range(999)] + pieces
    return tokens + [f"filler{i}" for i in range(30522 - len(tokens))]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("distilbert") / "vocab.txt"
    file.write_text("\n".join(vocabulary_tokens()) + "\n", encoding="utf-8")
    return file


def random_state(n_frames: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    shapes = FrozenInTime(n_frames, TINY).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) * 0.5 for k, v in shapes.items()}


@pytest.fixture(scope="module")
def encoder(vocabulary: Path) -> FrozenInTimeEncoder:
    return FrozenInTimeEncoder.from_state(random_state(), vocabulary, sizes=TINY)


def random_frames(n: int, frames: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, frames, 6, 6, 3), np.uint8)


def one_clip(encoder: FrozenInTimeEncoder, clip: np.ndarray) -> torch.Tensor:
    images = ((clip / 255 - MEAN) / STD).transpose(0, 3, 1, 2)[None]
    with torch.no_grad():
        feature = encoder.model.encode_clips(torch.tensor(images, dtype=torch.float32))[0]
    return feature / feature.norm()


@settings(max_examples=15)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_videos_equal_one_clip_at_a_time(encoder: FrozenInTimeEncoder, counts: list[int]) -> None:
    frames = random_frames(len(counts), 4)
    features = encoder.encode_videos(frames, np.array(counts))
    expected = [one_clip(encoder, f[:c]) for f, c in zip(frames, counts, strict=True)]
    torch.testing.assert_close(features, torch.stack(expected), atol=1e-5, rtol=0)


def test_a_feature_of_nought_stays_nought(encoder: FrozenInTimeEncoder, vocabulary: Path) -> None:
    state = {
        name: torch.zeros_like(value) if "_proj" in name else value
        for name, value in encoder.state().items()
    }
    empty = FrozenInTimeEncoder.from_state(state, vocabulary, sizes=TINY)
    assert torch.equal(empty.encode_videos(random_frames(1, 2)), torch.zeros(1, 5))
    assert torch.equal(empty.encode_texts(["the cat"]), torch.zeros(1, 5))


TEXTS = ["the cat", "", "cooking the cat, PLAYED!", "Café 中文 ß", "x " * 90, "the [PAD] cat"]


def test_texts_equal_one_text_without_padding(encoder: FrozenInTimeEncoder) -> None:
    together = encoder.encode_texts(TEXTS)
    for text, feature in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(encoder.encode_texts([text])[0], feature, atol=1e-6, rtol=0)
        tokens = encoder.tokenize([text])
        tokens = tokens[:, : 1 + int(tokens.nonzero()[-1, 1])]
        with torch.no_grad():
            hidden = encoder.model.text_model(tokens).last_hidden_state[:, 0]
            expected = encoder.model.txt_proj(hidden)[0]
        torch.testing.assert_close(feature, expected / expected.norm(), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def reference(vocabulary: Path) -> DistilBertTokenizer:
    return DistilBertTokenizer(vocab=str(vocabulary))


@given(
    st.text(alphabet=st.sampled_from([*"abcxyzTHE 019.,'-#[]", "é", "ß", "中", "\n", "\t"]))
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.lists(
        st.sampled_from(["cooking", "handstands", "The", "CAT", "[SEP]", "[unused5]", "y" * 150])
    ).map(" ".join)
)
@example("x " * 90)
@example("the [SEP] cat [PAD] [MASK]")
def test_tokens_equal_those_of_transformers(
    encoder: FrozenInTimeEncoder, reference: DistilBertTokenizer, text: str
) -> None:
    expected = reference(text, truncation=True, max_length=77, padding="max_length")["input_ids"]
    tokens = encoder.tokenizer([text])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [expected]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tokens: tokens[:-1], "30521 tokens, 30521 of them different"),
        (lambda tokens: [*tokens, ""], "30523 tokens"),
        (lambda tokens: [*tokens[:-1], "cat"], "30522 tokens, 30521 of them different"),
        (lambda tokens: [*tokens[:103], "mask", *tokens[104:]], r"and \[MASK\] elsewhere"),
        (lambda tokens: tokens[1:102] + tokens[:1] + tokens[102:], r"\[PAD\], \[UNK\], \[CLS\] "),
        (lambda _: ["\udcff\udcfe[PAD]"], "1 tokens"),
    ],
)
def test_another_vocabulary_is_refused(tmp_path: Path, change: Any, problem: str) -> None:
    file = tmp_path / "vocab.txt"
    content = "\n".join(change(vocabulary_tokens())) + "\n"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"vocab\.txt is not .*{problem}"):
        wordpiece_tokenizer(file)


@pytest.mark.parametrize("shape", [(4, 12), (1, 0, 12), (2, 4, 12), ()])
def test_temporal_embeddings_of_another_form_are_named(
    vocabulary: Path, shape: tuple[int, ...]
) -> None:
    state = random_state() | {TEMPORAL: torch.zeros(shape)}
    with pytest.raises(ValueError, match=TEMPORAL):
        FrozenInTimeEncoder.from_state(state, vocabulary, sizes=TINY)


@pytest.mark.parametrize("shape", [(1, 512), (512,)])
def test_positions_of_old_checkpoints_are_checked(
    encoder: FrozenInTimeEncoder, vocabulary: Path, shape: tuple[int, ...]
) -> None:
    state = encoder.state() | {POSITIONS: torch.arange(512).reshape(shape)}
    if shape == (1, 512):
        again = FrozenInTimeEncoder.from_state(state, vocabulary, sizes=TINY)
        assert torch.equal(again.encode_texts(TEXTS), encoder.encode_texts(TEXTS))
        state[POSITIONS][0, 3] = 7
    with pytest.raises(ValueError, match="position_ids is not 0 to 511"):
        FrozenInTimeEncoder.from_state(state, vocabulary, sizes=TINY)


@pytest.mark.parametrize(("n_frames", "expected"), [(1, [5]), (2, [5, 9]), (4, [5, 9, 0, 0])])
def test_temporal_embeddings_follow_n_frames(
    vocabulary: Path, n_frames: int, expected: list[float]
) -> None:
    state = random_state(2) | {TEMPORAL: torch.tensor([5.0, 9.0]).repeat(1, 12, 1).mT.contiguous()}
    encoder = FrozenInTimeEncoder.from_state(state, vocabulary, n_frames, sizes=TINY)
    assert encoder.state()[TEMPORAL][0, :, 0].tolist() == expected
    with pytest.raises(ValueError, match="frames"):
        encoder.encode_videos(random_frames(1, n_frames + 1))
