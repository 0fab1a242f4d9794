"""What is exported is what other programs load."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml

from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import interpolate
from fitclip_kit.weights.export import export_open_clip, export_openai, write_card
from tests import foreign_formats as formats

TEACHER, STUDENT = formats.tiny_clip_state(0), formats.tiny_clip_state(1)
NAN = {"logit_scale": torch.tensor(float("nan"))}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    folder = formats.write_config(tmp_path_factory.mktemp("models") / "teacher")
    formats.write_safetensors(folder / "open_clip_model.safetensors", TEACHER)
    return ClipEncoder.from_folder(folder)


def test_an_exported_folder_gives_the_same_features(tmp_path: Path, encoder: ClipEncoder) -> None:
    fused = interpolate(TEACHER, STUDENT, 0.4)
    export_open_clip(tmp_path / "fused", encoder, fused, notes={"alpha": "0.4"})
    loaded = ClipEncoder.from_folder(tmp_path / "fused")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'fused'}").eval()
    assert theirs.visual.preprocess_cfg == encoder.model.visual.preprocess_cfg
    encoder.load_state(fused)
    try:
        frames = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 3), np.uint8)
        captions = ["a dog", "rain falls"]
        clips, texts = encoder.encode_videos(frames), encoder.encode_texts(captions)
        assert torch.equal(loaded.encode_videos(frames), clips)
        assert torch.equal(loaded.encode_texts(captions), texts)
        images, _ = encoder.images(frames)
        with torch.no_grad():
            features = theirs.encode_image(images, normalize=True).unflatten(0, (3, 2)).mean(1)
            theirs_of_texts = theirs.encode_text(encoder.tokenize(captions), normalize=True)
        torch.testing.assert_close(features, clips)
        torch.testing.assert_close(theirs_of_texts, texts)
    finally:
        encoder.load_state(TEACHER)
    # Again, from what was loaded: nothing is lost on the way.
    export_open_clip(tmp_path / "again", loaded, notes={"alpha": "0.4"})
    files = ["open_clip_config.json", "open_clip_model.safetensors"]
    for folder in ("fused", "again"):
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == files
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "fused" / name).read_bytes()


def test_a_model_by_name_is_exported_with_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.name_models(tmp_path, monkeypatch, tiny_named={})
    named = ClipEncoder.from_open_clip("tiny-named")
    export_open_clip(tmp_path / "out", named, dtype=torch.float16)
    loaded = ClipEncoder.from_folder(tmp_path / "out")
    assert loaded.model_config == formats.TINY_CLIP
    for name, value in named.state().items():
        assert torch.equal(loaded.state()[name], value.half().float())


def test_an_own_vocabulary_is_exported(tmp_path: Path, encoder: ClipEncoder) -> None:
    """A folder that had another one gets the right one, or none."""
    merges = gzip.compress(b"#version: 0.2\nt h\nth e</w>\n")
    words = copy.copy(encoder)
    words.merges = merges
    export_open_clip(tmp_path, words)
    assert (tmp_path / "bpe_simple_vocab.txt.gz").read_bytes() == merges
    export_open_clip(tmp_path, encoder)
    assert not (tmp_path / "bpe_simple_vocab.txt.gz").exists()


def test_states_that_do_not_fit_are_not_exported(tmp_path: Path, encoder: ClipEncoder) -> None:
    ready_made = ClipEncoder(
        encoder.model, encoder.tokenizer, image_size=16, mean=[0.5] * 3, std=[0.5] * 3, name="x"
    )
    partial = {name: value for name, value in TEACHER.items() if name != "ln_final.bias"}
    for model, state, problem in (
        (encoder, partial, r"ln_final\.bias is in teacher and not in the state"),
        (encoder, {**TEACHER, "ln_final.bias": torch.ones(3)}, r"ln_final\.bias has shape"),
        (encoder, {**TEACHER, "ln_final.biases": torch.ones(16)}, r"ln_final\.biases is in the st"),
        (encoder, TEACHER | NAN, "logit_scale holds NaN"),
        (ready_made, TEACHER, "x was given ready-made"),
    ):
        with pytest.raises(ValueError, match=problem):
            export_open_clip(tmp_path / "out", model, state)
    assert not list(tmp_path.rglob("*.*"))


def test_openai_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "fused.pt"
    fused = interpolate(TEACHER, STUDENT, 0.4)
    for dtype in (torch.float32, torch.float16):
        export_openai(path, fused, dtype)
        loaded = torch.load(path, weights_only=True)
        assert type(loaded) is dict and loaded.keys() == fused.keys()
        for name, value in fused.items():
            assert loaded[name].dtype == dtype and torch.equal(loaded[name], value.to(dtype))
        first = path.read_bytes()
        export_openai(path, fused, dtype)
        assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_openai_state_dict_has_the_released_names(tmp_path: Path, realdata: Path) -> None:
    listing = json.loads((realdata / "checkpoints/openai_clip_ViT-B-16.json").read_text())
    export_openai(tmp_path / "a.pt", {name: torch.ones(1) for name in listing["shapes"]})
    assert len(torch.load(tmp_path / "a.pt", weights_only=True)) == 302


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"logit_scale": None}, "missing: logit_scale"),
        (
            open_clip.CustomTextCLIP(**formats.TINY_CLIP).state_dict(),
            "foreign: .*text.token_embedding",
        ),
        ({"transformer.resblocks.0.ln_2.bias": None}, "missing: transformer.resblocks.0.ln_2.bias"),
        ({"transformer.resblocks.7.ln_2.bias": torch.ones(1)}, "foreign: .*resblocks.7"),
        (NAN, "logit_scale holds NaN"),
        ({"visual.proj": torch.full((16, 12), 1e30)}, "visual.proj holds .* as torch.float16"),
    ],
)
def test_other_names_are_no_openai_state(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    state = {name: value for name, value in (TEACHER | change).items() if value is not None}
    with pytest.raises(ValueError, match=problem):
        export_openai(tmp_path / "a.pt", state, torch.float16)
    assert not any(tmp_path.iterdir())


RESULTS = pd.DataFrame(
    {
        "data_set": ["MSR-VTT", "a|b <b>x</b> `c` [l](javascript:1)\nnext"],
        "R@1": [0.1234567, np.float32(0.25)],
        "n": np.array([1000, 3], np.int64),
    }
)
CARD: dict[str, Any] = {
    "title": "FitCLIP, fused",
    "license": "mit",
    "base_model": "openai/clip-vit-base-patch16",
    "protocol": {"alpha": 0.4, "note": "``` <script>"},
    "results": RESULTS,
}


def test_card(tmp_path: Path) -> None:
    path = write_card(tmp_path, **CARD, tags=["video-retrieval", "clip"])
    content = path.read_text()
    assert path == tmp_path / "README.md"
    _, front, body = content.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": "mit",
        "base_model": "openai/clip-vit-base-patch16",
        "tags": ["clip", "fitclip", "video", "video-retrieval"],
    }
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert table == [
        r"| data\_set | R@1 | n |",
        "| --- | --- | --- |",
        "| MSR-VTT | 0.123457 | 1000 |",
        r"| a\|b \<b\>x\</b\> \`c\` \[l\]\(javascript:1\) next | 0.25 | 3 |",
    ]
    fence = body[body.index("````json") :].removeprefix("````json\n")
    assert json.loads(fence[: fence.index("\n````")]) == CARD["protocol"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"license": " "}, "license is ' '"),
        ({"title": "a\nb"}, "one line"),
        ({"base_model": ""}, "base_model is ''"),
        ({"results": RESULTS[:0]}, "no results"),
        ({"results": pd.DataFrame({"R@1": [float("nan")]})}, "a result is nan"),
        ({"protocol": {"a": float("inf")}}, "not JSON"),
        ({"protocol": {"a": Path("x")}}, "not JSON"),
    ],
)
def test_wrong_cards(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        write_card(tmp_path, **(CARD | change))
    assert not any(tmp_path.iterdir())
