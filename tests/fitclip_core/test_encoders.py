"""ClipEncoder against slow encoding, one picture and one text at a time."""

import copy
import gzip
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fitclip_core import encoders
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine.sources import read_sources
from tests.make import HALF, Source

STRAY_BRACES = ["{", "}", "{}{}", "{name}", "{name} {}", "{{}}", "{ }", "{} {", "}{}"]
MERGES = ["t h", "th e</w>", "c a", "ca t</w>"]
VISION = {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
TEXT = {"context_length": 9, "width": 16, "heads": 2, "layers": 1}
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 12,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"vocab_size": 512 + len(MERGES) + 2},
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]},
}


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    (folder / "bpe_simple_vocab.txt.gz").write_bytes(
        gzip.compress("\n".join(["#version: 0.2", *MERGES]).encode())
    )
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG["model_cfg"])
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder.from_folder(folder)


def batches_of(patch: pytest.MonkeyPatch, size: int) -> None:
    """Batches of that many pictures or texts."""
    patch.setattr(encoders, "_LEAST", size)
    for name in ("_CPU_PIXELS", "_TOKENS"):
        patch.setattr(encoders, name, 0)


def random_frames(*shape: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, size, size, 3), np.uint8)


def tiny_model(kind: type[torch.nn.Module], layers: int, **vision: Any) -> Any:
    """open_clip's own, with weights far from those that it starts with, which are partly 0."""
    torch.manual_seed(layers)
    sizes = {"image_size": 8, "layers": layers, "width": 8, "patch_size": 4, "head_width": 4}
    text = {"context_length": 9, "vocab_size": 32, "width": 8, "heads": 2, "layers": layers}
    both = {"ls_init_value": vision.get("ls_init_value")}
    model = kind(embed_dim=6, vision_cfg=sizes | vision, text_cfg=text | both).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value), alpha=0.2)
    return model


def ended(texts: list[str]) -> torch.Tensor:
    """One token a letter, the highest id at the end and zeros behind it."""
    rows = [[ord(letter) % 30 + 1 for letter in text] + [31] for text in texts]
    return torch.tensor([row + [0] * (9 - len(row)) for row in rows])


def wrapped(model: torch.nn.Module) -> ClipEncoder:
    return ClipEncoder(model, ended, image_size=8, mean=HALF, std=HALF, name="tiny")


PICTURES = random_frames(2, 2, size=8)


# videos


def slow_video_feature(encoder: ClipEncoder, clip: np.ndarray) -> torch.Tensor:
    """One frame at a time, float64 normalisation of every pixel."""
    mean, std = (np.array(CONFIG["preprocess_cfg"][key]) for key in ("mean", "std"))
    features = []
    with torch.no_grad():
        for frame in clip:
            image = ((frame / 255 - mean) / std).transpose(2, 0, 1)[None]
            feature = encoder.model.encode_image(torch.tensor(image, dtype=torch.float32))[0]
            features.append(feature / feature.norm())
    return sum(features) / len(features)


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=7),
    batch_size=st.sampled_from([1, 2, 5, 100]),
)
def test_videos_equal_a_loop_over_frames(
    encoder: ClipEncoder, counts: list[int], batch_size: int
) -> None:
    frames = random_frames(len(counts), 3)
    with pytest.MonkeyPatch.context() as patch:
        batches_of(patch, batch_size)
        features = encoder.encode_videos(frames, np.array(counts))
    expected = [slow_video_feature(encoder, f[:c]) for f, c in zip(frames, counts, strict=True)]
    torch.testing.assert_close(features, torch.stack(expected), atol=2e-6, rtol=1e-5)


def test_features_are_ordinary_tensors_of_read_only_and_torch_frames(encoder: ClipEncoder) -> None:
    frames = random_frames(2, 2)
    locked = frames.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = encoder.encode_videos(locked)
    assert torch.equal(features, encoder.encode_videos(frames))
    assert torch.equal(features, encoder.encode_videos(torch.from_numpy(frames)))
    weight = torch.ones(12, requires_grad=True)
    (features * weight).sum().backward()
    assert weight.grad is not None
    assert not encoder.encode_texts(["a cat"]).is_inference()


def test_source_is_read_in_batches_and_in_the_asked_order(
    encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of(monkeypatch, 4)
    source = Source(random_frames(9, 2))
    source.frame_counts = np.array([1, 2] * 4 + [2])
    order = np.array([7, 0, 3, 8, 4])
    features = encoder.encode_source(source, order)
    assert source.read == [[7, 0], [3, 8], [4]]
    expected = encoder.encode_videos(source.data, source.frame_counts)[order]
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)
    assert len(encoder.encode_source(source)) == 9


def test_source_is_read_one_batch_ahead_and_its_error_is_told(
    encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(random_frames(7, 2))
    read_by_then: list[int] = []
    original, compute = source.frames, encoder.video_features

    def computing(images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        give_up = time.monotonic() + 60
        while len(source.read) < min(len(read_by_then) + 2, 4) and time.monotonic() < give_up:
            time.sleep(0.001)
        read_by_then.append(len(source.read))
        return compute(images, counts)

    def broken(indices: np.ndarray) -> np.ndarray:
        if indices[0] == 4:
            raise OSError("the disk is gone")
        return original(indices)

    batches_of(monkeypatch, 4)
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "video_features", computing)
        encoder.encode_source(source)
    assert [batch[0] for batch in source.read] == [0, 2, 4, 6]
    assert read_by_then == [2, 3, 4, 4]
    monkeypatch.setattr(source, "frames", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        encoder.encode_source(source)


@pytest.mark.parametrize(
    ("frames", "counts", "problem"),
    [
        (random_frames(1, 2).astype(np.float32), None, r"frames are float32 \[1, 2"),
        (random_frames(2), None, "give uint8"),
        (random_frames(1, 2)[..., :2], None, "of 2 colours"),
        (random_frames(1, 0), None, "give uint8"),
        (random_frames(1, 2)[:, :, :8], None, "8 x 16 pixels of 3 colours, but toy takes 16 x 16"),
        (random_frames(0, 2), None, "no clip"),
        (random_frames(2, 2), np.array([2]), "one a clip"),
        (random_frames(2, 2), np.array([2, 3]), "clip 1 has frame count 3"),
        (random_frames(2, 2), np.array([0, 2]), "clip 0 has frame count 0"),
    ],
)
def test_wrong_frames_are_refused(
    encoder: ClipEncoder, frames: np.ndarray, counts: np.ndarray | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        encoder.encode_videos(frames, counts)


# texts and classes


def slow_text_feature(encoder: ClipEncoder, text: str) -> torch.Tensor:
    with torch.no_grad():
        feature = encoder.model.encode_text(encoder.tokenizer([text]))[0]
    return feature / feature.norm()


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_texts_equal_a_loop(
    encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    batches_of(monkeypatch, batch_size)
    texts = ["a cat", "the cat", "a cat", "a text that is longer than nine tokens", "", "a cat"]
    features = encoder.encode_texts(texts)
    expected = torch.stack([slow_text_feature(encoder, text) for text in texts])
    torch.testing.assert_close(features, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(features[0], features[2])


def test_each_distinct_text_is_encoded_once_whatever_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the last bit, with batches of texts of several lengths."""
    batches_of(monkeypatch, 64)
    encoder = wrapped(tiny_model(open_clip.CLIP, 2))
    rows: list[int] = []
    encode = encoder.text_features

    def counting(tokens: torch.Tensor) -> torch.Tensor:
        rows.append(len(tokens))
        return encode(tokens)

    monkeypatch.setattr(encoder, "text_features", counting)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdef"), rng.integers(1, 9))) for _ in range(300)]
    distinct = len(set(texts))
    assert distinct < 300
    shuffled = rng.permutation(len(texts))
    features = encoder.encode_texts(texts)
    assert rows == [64] * (distinct // 64) + [distinct % 64]
    again = encoder.encode_texts([texts[place] for place in shuffled])
    assert torch.equal(again, features[shuffled])


def test_class_features_are_means_over_templates(encoder: ClipEncoder) -> None:
    features = encoder.encode_classes(["run {fast}", "sit"], ["a cat {}", "{} the [cat]"])
    for label, feature in zip(["run {fast}", "sit"], features, strict=True):
        prompts = [f"a cat {label}", f"{label} the [cat]"]
        expected = sum(slow_text_feature(encoder, prompt) for prompt in prompts) / 2
        torch.testing.assert_close(feature, expected, atol=2e-6, rtol=1e-5)
        assert feature.norm() < 1


@pytest.mark.parametrize(
    ("templates", "problem"),
    [
        *[
            ([text], f"template {text!r} must hold {{}} once, for the class name, and no other")
            for text in ("", "a video", *STRAY_BRACES)
        ],
        (["{}", "{"], "template '{' must hold {} once"),
        ([None], "template None must hold {} once"),
        ([], "needs a list of prompt templates"),
        ("a {}", "templates are 'a {}'; classification needs a list"),
    ],
)
def test_wrong_templates_are_refused(encoder: ClipEncoder, templates: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        encoder.encode_classes(["a"], templates)


def test_a_sources_file_refuses_the_same_templates(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    for prompt in ("{} a {}", "{}, 100% (sure)"):
        data_set = f'data_sets: {{mine: {{loader: folder, root: x, prompt: "{prompt}"}}}}'
        file.write_text(f"{data_set}\nmodels: {{teacher: {{file: x.pt}}}}\n")
        if prompt == "{} a {}":
            with pytest.raises(ValueError, match=r"must hold \{\} once, for the class name"):
                read_sources(file)
        else:
            read_sources(file)


def test_wrong_texts_are_refused(encoder: ClipEncoder) -> None:
    with pytest.raises(ValueError, match="no text"):
        encoder.encode_texts([])
    with pytest.raises(ValueError, match="text 1 is nan, not a string"):
        encoder.encode_texts(["a", float("nan")])  # type: ignore[list-item]


# models and weights


def test_folder_gives_the_stored_model(folder: Path, encoder: ClipEncoder) -> None:
    assert (encoder.name, encoder.image_size) == ("toy", 16)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert all(v.dtype == torch.float32 for v in encoder.state().values())
    # 512 characters, then the merges: "the" and "cat" are one token each.
    tokens = encoder.tokenize(["the cat"])[0].tolist()
    assert tokens == [512 + len(MERGES), 512 + 1, 512 + 3, 513 + len(MERGES), 0, 0, 0, 0, 0]
    # open_clip itself, given the same folder.
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        expected = model.encode_text(encoder.tokenize(["the cat"]), normalize=True)
    torch.testing.assert_close(encoder.encode_texts(["the cat"]), expected)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("open_clip_config.json", None, "is no folder in open_clip's layout"),
        ("open_clip_model.safetensors", None, "is no folder in open_clip's layout"),
        ("open_clip_config.json", b"{}", "broken: 'model_cfg'"),
        ("open_clip_model.safetensors", b"\x01\x02 no checkpoint", "or one of them is broken: "),
        ("bpe_simple_vocab.txt.gz", None, "tokenizer has 49408 tokens"),
        (
            "bpe_simple_vocab.txt.gz",
            gzip.compress("\n".join(["#version: 0.2", *MERGES, ""]).encode(), mtime=0),
            r"tokenizer has 519 tokens .* vocab_size is 518",
        ),
    ],
)
def test_broken_folders_are_refused(
    tmp_path: Path, file: str, content: bytes | None, problem: str
) -> None:
    folder = write_folder(tmp_path / "broken")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        ClipEncoder.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "pretrained", "problem"),
    [
        ("ViT-B-16", "openai", "were trained with QuickGELU, unlike ViT-B-16"),
        ("ViT-B-16-quickgelu", "laion2b_s34b_b88k", "has no tag"),
        ("ViT-B-32", "nowhere.safetensors", "has no tag 'nowhere.safetensors'; its tags: openai"),
        ("ViT-Z", None, "no model 'ViT-Z'"),
    ],
)
def test_unknown_models_and_wrong_activations_are_refused(name, pretrained, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        ClipEncoder.from_open_clip(name, pretrained)


def test_state_is_a_copy_that_loads_back(encoder: ClipEncoder) -> None:
    student = copy.deepcopy(encoder)
    state = student.state()
    state["text_projection"] += 1
    state["logit_scale"] += 1
    assert torch.equal(student.state()["text_projection"], encoder.state()["text_projection"])
    student.load_state({name: value.half() for name, value in state.items()})
    for name in ("text_projection", "logit_scale"):
        assert torch.equal(student.state()[name], state[name].half().float())


@pytest.mark.parametrize("scale", [None, torch.tensor(float("nan"))])
def test_fitclip_students_keep_the_logit_scale(
    encoder: ClipEncoder, scale: torch.Tensor | None
) -> None:
    student = copy.deepcopy(encoder)
    state = student.state()
    del state["logit_scale"]
    if scale is not None:
        state["logit_scale"] = scale
    with pytest.warns(UserWarning, match="no logit_scale"):
        student.load_state(state)
    assert student.logit_scale == encoder.logit_scale


def test_wrong_states_are_refused(encoder: ClipEncoder) -> None:
    state = encoder.state()
    bias = state.pop("ln_final.bias")
    for wrong, problem in [
        ({}, r"ln_final\.bias is in toy and not in the state"),
        ({"ln_final.bias": bias, "extra": torch.zeros(1)}, "extra is in the state and not in toy"),
        ({"ln_final.bias": torch.zeros(1, 16)}, r"ln_final\.bias has shape \(1, 16\) in the state"),
        ({"ln_final.bias": torch.full((16,), torch.inf)}, r"ln_final\.bias is not finite"),
        ({"ln_final.bias": bias.to(torch.float8_e4m3fn)}, "float8_e4m3fn, a type that is not"),
    ]:
        with pytest.raises(ValueError, match=problem):
            encoder.load_state({**state, "ln_final.weight": torch.zeros(16), **wrong})
    assert torch.equal(encoder.state()["ln_final.weight"], state["ln_final.weight"])


# the shortcuts of `fast`


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"ls_init_value": 0.5, "no_ln_pre": True},
        {"final_ln_after_pool": True, "patch_dropout": 0.5},
        {"pool_type": "avg"},
        {"attentional_pool": True, "attn_pooler_heads": 2},
        {"block_type": "custom", "qk_norm": True},
    ],
)
def test_features_and_gradients_are_those_of_open_clips_own_towers(
    kind: type[torch.nn.Module], layers: int, vision: dict[str, Any]
) -> None:
    whole = tiny_model(kind, layers, **vision)
    encoder = wrapped(copy.deepcopy(whole))
    assert list(encoder.model.state_dict()) == list(whole.state_dict())
    images, counts = torch.randn(5, 3, 8, 8), torch.tensor([2, 3])
    tokens = ended(["abc", "b", "longest!", ""])

    frames = whole.encode_image(images, normalize=True)
    expected = torch.stack([frames[:2].mean(0), frames[2:].mean(0)])
    found = encoder.video_features(images, counts)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    expected_texts = whole.encode_text(tokens, normalize=True)
    found_texts = encoder.text_features(tokens)
    torch.testing.assert_close(found_texts, expected_texts, atol=2e-6, rtol=1e-5)

    weights = torch.randn(6, 6)
    for both in ([found, found_texts], [expected, expected_texts]):
        (torch.cat(both) * weights).sum().backward()
    for (name, one), other in zip(
        encoder.model.named_parameters(), whole.parameters(), strict=True
    ):
        if name != "logit_scale":
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_wrapping_and_encoding_leave_the_model_as_it_was(kind: type[torch.nn.Module]) -> None:
    model = tiny_model(kind, 2, patch_dropout=0.5).train()
    model.visual.ln_post.eval()
    model.visual.conv1.weight.requires_grad_(False)
    model.visual.patch_dropout.prob = 0.0  # whose patches would be no square
    images = torch.randn(3, 3, 8, 8)

    def looks() -> list[Any]:
        """All of a model that wrapping might change, but for what it computes."""
        parts = model.named_modules(remove_duplicate=False)
        weights = model.state_dict(keep_vars=True)
        return [
            [
                (name, type(part), {key: id(value) for key, value in vars(part).items()})
                for name, part in parts
            ],
            [len(part._forward_pre_hooks) for part in model.modules()],
            [
                (name, value.data_ptr(), value.dtype, value.requires_grad)
                for name, value in weights.items()
            ],
        ]

    def own_outputs() -> list[torch.Tensor]:
        of_blocks = model.visual.forward_intermediates(images, indices=1)
        model.visual.output_tokens = True
        tokens = model.visual(images)
        model.visual.output_tokens = False
        return [*of_blocks["image_intermediates"], of_blocks["image_features"], *tokens]

    outputs, before = own_outputs(), looks()
    encoder = wrapped(model)
    encoder.encode_videos(PICTURES)
    encoder.encode_texts(["abc", "b"])
    encoder.video_features(*encoder.images(PICTURES))
    with pytest.raises(ValueError, match="give uint8"):
        encoder.encode_videos(PICTURES[0])
    assert looks() == before
    assert outputs[0].shape == (3, 8, 2, 2)
    assert all(torch.equal(one, other) for one, other in zip(own_outputs(), outputs, strict=True))


def test_a_model_in_training_mode_is_encoded_in_eval_mode_where_it_is() -> None:
    model = tiny_model(open_clip.CLIP, 2, patch_dropout=0.5)
    encoder = wrapped(model)
    expected = encoder.encode_videos(PICTURES)
    model.train()
    assert torch.equal(encoder.encode_videos(PICTURES), expected)
    assert not torch.equal(encoder.video_features(*encoder.images(PICTURES)), expected)
    assert all(module.training for module in model.modules())
    encoder = wrapped(model.to("meta"))
    assert encoder.device.type == model.logit_scale.device.type == "meta"


def test_hooks_see_what_they_do_without_the_encoder() -> None:
    model = tiny_model(open_clip.CLIP, 2)
    encoder = wrapped(model)
    expected = encoder.encode_videos(PICTURES)
    vision, tokens = model.visual.transformer.resblocks, (4, 5, 8)
    shapes: list[torch.Size] = []

    def of_input(module: torch.nn.Module, given: Any) -> None:
        shapes.append(given[0].shape)

    def of_output(module: torch.nn.Module, given: Any, out: torch.Tensor) -> None:
        shapes.append(out.shape)

    for register, see, shape in [
        (vision[0].register_forward_hook, of_output, tokens),
        (vision[1].mlp.register_forward_hook, of_output, tokens),
        (model.visual.register_forward_hook, of_output, (4, 6)),
        (vision[1].register_forward_pre_hook, of_input, tokens),
        (model.visual.register_forward_pre_hook, of_input, (4, 3, 8, 8)),
    ]:
        shapes.clear()
        hook = register(see)
        torch.testing.assert_close(encoder.encode_videos(PICTURES), expected)
        hook.remove()
        assert shapes == [shape]
    for register, see in [
        (model.transformer.register_forward_hook, of_output),
        (model.transformer.register_forward_pre_hook, of_input),
    ]:
        shapes.clear()
        hook = register(see)
        encoder.encode_texts(["ab", "c"])
        hook.remove()
        assert shapes == [(2, 9, 8)], "the whole context"


def test_a_models_own_ways_to_encode_are_taken() -> None:
    class Adapted(open_clip.CLIP):
        def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            return super().encode_image(image, normalize) + 1

    model = tiny_model(Adapted, 2)
    of_texts = model.encode_text
    model.encode_text = lambda texts: of_texts(texts) + 2
    encoder, images, tokens = wrapped(model), torch.randn(2, 3, 8, 8), ended(["ab", "c"])
    videos = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
    torch.testing.assert_close(encoder.video_features(images, torch.tensor([1, 1])), videos)
    texts = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(encoder.text_features(tokens), texts)


def test_bfloat16_is_near_and_only_without_gradients(folder: Path, encoder: ClipEncoder) -> None:
    reduced = ClipEncoder.from_folder(folder, precision="bfloat16")
    assert (encoder.precision, reduced.precision) == ("float32", "bfloat16")
    frames, texts = random_frames(6, 2), ["a cat", "the", "cat the"]
    for one, other in (
        (reduced.encode_videos(frames), encoder.encode_videos(frames)),
        (reduced.encode_texts(texts), encoder.encode_texts(texts)),
    ):
        assert one.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.02 * other.norm()
    images = encoder.images(frames)
    assert torch.equal(reduced.video_features(*images), encoder.video_features(*images))
    tokens = encoder.tokenize(texts)
    assert torch.equal(reduced.text_features(tokens), encoder.text_features(tokens))
    with pytest.raises(ValueError, match="precision is 'half'; choose one of float32, bfloat16"):
        ClipEncoder.from_folder(folder, precision="half")  # type: ignore[arg-type]
