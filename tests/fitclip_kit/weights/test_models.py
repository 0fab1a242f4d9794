"""Models load from every source with the right architecture, digest and protocol."""

import json
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from fitclip_core.encoders import ClipEncoder
from fitclip_kit.store.files import file_sha256
from fitclip_kit.weights import models
from fitclip_kit.weights.models import CLIP_ARCHITECTURES, infer_architecture, load_clip
from tests import foreign_formats as formats

CLIP = formats.tiny_clip_state()
NAN = torch.tensor(float("nan"))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models that open_clip knows by name, with and without QuickGELU."""
    plain = {"quick_gelu": False}
    custom = {**plain, "custom_text": True}
    formats.name_models(tmp_path, monkeypatch, tiny=plain, tiny_quickgelu={}, tiny_custom=custom)
    monkeypatch.setattr(models, "CLIP_ARCHITECTURES", ("ViT-B-32", "tiny"))


def meta_state(name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()


@pytest.mark.parametrize("name", CLIP_ARCHITECTURES)
def test_architectures_are_known_by_their_shapes(name: str) -> None:
    assert infer_architecture(meta_state(name)) == name
    assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"]


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32"])
def test_openai_listings(realdata: Path, name: str) -> None:
    listing = json.loads((realdata / f"checkpoints/openai_clip_{name}.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in listing["shapes"].items()}
    assert len(state) == 302
    assert infer_architecture(state) == name
    half = formats.openai_precision(state)
    assert {key: str(value.dtype) for key, value in half.items()} == {
        key: f"torch.{dtype}" for key, dtype in listing["dtype_release"].items()
    }


def test_unknown_architectures_are_refused() -> None:
    state = meta_state("ViT-B-16")
    for changed, problem in (
        (CLIP, "nearest, ViT-B-32, differs in 301 tensors"),
        ({name: state[name] for name in state if name != "visual.proj"}, "1 tensors, .* visual.pr"),
    ):
        with pytest.raises(ValueError, match=problem):
            infer_architecture(changed)


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore:.*no logit_scale")
def test_files_that_come_from_openai_say_all(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    writers: dict[str, Any] = {
        "openai_torchscript": lambda: formats.write_openai_torchscript(path, CLIP),
        "fitclip_student": lambda: formats.write_fitclip_student(path, CLIP, True),
        "fitclip_lightning": lambda: formats.write_lightning(path, CLIP, CLIP),
    }
    for kind, write in writers.items():
        write()
        loaded = load_clip(path)
        assert isinstance(loaded.encoder, ClipEncoder)
        assert loaded.sha256 == file_sha256(path)
        assert loaded.protocol | {"left_out": 0} == {
            "architecture": "tiny-quickgelu", "weights": kind, "file": "weights.pt", "left_out": 0,
        }  # fmt: skip
        json.dumps(loaded.protocol, allow_nan=False)
        gelu = loaded.encoder.model.visual.transformer.resblocks[0].mlp.gelu
        assert isinstance(gelu, QuickGELU)
        state = loaded.encoder.state()
        exact = kind != "openai_torchscript"
        expected = CLIP if exact else formats.openai_precision(CLIP)
        for name in CLIP.keys() - {"logit_scale"}:
            assert torch.equal(state[name], expected[name].float()), name
        with pytest.raises(ValueError, match="use the model tiny-quickgelu"):
            load_clip(path, "tiny")
    assert loaded.protocol["left_out"]["the teacher's weights"] == len(CLIP)


@pytest.mark.usefixtures("tiny")
def test_plain_files_need_the_architecture(tmp_path: Path) -> None:
    pickled, plain = tmp_path / "weights.pt", tmp_path / "weights.safetensors"
    formats.write_state_dict(pickled, CLIP)
    save_file(CLIP, plain)
    for file in (pickled, plain):
        with pytest.raises(ValueError, match=r"give architecture='tiny-quickgelu' .* 'tiny' for"):
            load_clip(file)
        for name in ("tiny", "tiny-quickgelu"):
            loaded = load_clip(file, name)
            assert loaded.protocol["architecture"] == loaded.encoder.name == name
            assert torch.equal(loaded.encoder.state()["visual.proj"], CLIP["visual.proj"])
    with pytest.raises(ValueError, match="no model 'ViT-Z'"):
        load_clip(plain, "ViT-Z")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("architecture", ["tiny", "tiny-custom"])
@pytest.mark.parametrize("prefix", ["", "text."])
def test_text_towers_of_both_forms_fit_both(tmp_path: Path, architecture: str, prefix: str) -> None:
    """open_clip's CustomTextCLIP has `text.` before the text tower's names."""
    path = tmp_path / "weights.pt"
    outside = ("visual.", "logit_scale")
    torch.save({n if n.startswith(outside) else f"{prefix}{n}": v for n, v in CLIP.items()}, path)
    state = load_clip(path, architecture).encoder.state()
    assert any(name.startswith("text.") for name in state) == (architecture == "tiny-custom")
    for name, value in state.items():
        assert torch.equal(value, CLIP[name.removeprefix("text.")]), name
    with pytest.raises(ValueError, match="'tiny' for others"):
        load_clip(path)


@pytest.mark.usefixtures("tiny")
def test_what_does_not_fit_is_said_before_the_temperature(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    without = {name: value for name, value in CLIP.items() if name != "logit_scale"}
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        ({f"clip.{n}": v for n, v in without.items()}, r"clip\.ln_final"),
        ({n: v for n, v in without.items() if n != "visual.proj"}, r"visual\.proj"),
        ({**CLIP, "positional_embedding": torch.ones(248, 16)}, r"248, .* \(77, .* another len"),
        (
            {**CLIP, "visual.positional_embedding": torch.ones(26, 16)},
            r'\(5, .*_size"\)$',
        ),
        ({**CLIP, "visual.proj": torch.ones(16, 12).char()}, r"visual\.proj .*int8"),
        ({**CLIP, "visual.proj": CLIP["visual.proj"] * float("nan")}, "not finite"),
    ]
    for state, problem in cases:
        torch.save(state, path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=problem):
                load_clip(path, "tiny-quickgelu")
    torch.save(without, path)
    with pytest.warns(UserWarning, match="no logit_scale"):
        load_clip(path, "tiny-quickgelu")


@pytest.mark.filterwarnings("ignore:.*no logit_scale")
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_folders(tmp_path: Path, name: str) -> None:
    folder = formats.write_config(tmp_path / "tiny")
    for file, problem in (
        ("", r"has no open_clip_model\.safetensors; give a folder"),
        ("config.json", "looks like transformers'"),
        ("model.safetensors.index.json", "several files: join the parts"),
    ):
        (folder / (file or "README.md")).write_text("{}")
        with pytest.raises(ValueError, match=problem):
            load_clip(folder)
    weights = folder / name
    if name.endswith(".bin"):  # a pickle of tensors
        state = {f"module.{n}": v for n, v in CLIP.items()} | {"module.logit_scale": NAN}
        torch.save({"state_dict": state, "epoch": 1}, weights)
    else:
        save_file(CLIP, weights)
    loaded = load_clip(folder, precision="bfloat16")
    assert loaded.encoder.name == "tiny"
    assert loaded.encoder.model.visual.preprocess_cfg["mean"] == [0.1, 0.2, 0.3]
    assert torch.equal(loaded.encoder.state()["visual.proj"], CLIP["visual.proj"])
    assert loaded.sha256 == file_sha256(weights)
    assert loaded.protocol == {
        "architecture": "tiny",
        "weights": "open_clip_folder",
        "file": f"tiny/{name}",
        "config_sha256": file_sha256(folder / "open_clip_config.json"),
        "precision": "bfloat16",
    }
    with pytest.raises(ValueError, match="says its own architecture"):
        load_clip(folder, "ViT-B-32")


@pytest.mark.parametrize("name", ["openai.safetensors", "openai/b/c/weights.bin"])
def test_weights_named_openai_need_quick_gelu(tmp_path: Path, tiny: None, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(CLIP, file)
    assert load_clip(file, "tiny-quickgelu").protocol["file"] == file.name
    with pytest.raises(ValueError, match="trained with QuickGELU, but tiny computes without it"):
        load_clip(file, "tiny")
    folder = formats.write_config(tmp_path / "openai" / "folder", quick_gelu=False)
    save_file(CLIP, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match='in a config: "quick_gelu": true'):
        load_clip(folder)
    (folder / "open_clip_config.json").write_text("[]")
    with pytest.raises(ValueError, match="no JSON object with model_cfg"):
        load_clip(folder)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("hf-hub:org/name", "download the model and give its folder"),
        ("open_clip:hf-hub:org/name", "download the model and give its folder"),
        ("open_clip:ViT-B/32", "did you mean ViT-B-32 "),
        ("open_clip:vit-b-32/openai", "did you mean ViT-B-32 "),
        ("ViT-B-32", "open_clip has ViT-B-32 with the tags openai, "),
        ("~/absent.pt", "no file or folder /home/somebody/absent.pt"),
        ("open_clip:ViT-B-16", "has no tag"),
        ("open_clip:ViT-B-16/", "has no tag"),
        ("open_clip:ViT-B-16/opnai", "its tags: openai, "),
        ("open_clip:ViT-B-16/openai", "trained with QuickGELU"),
    ],
)
def test_sources_that_are_refused(
    source: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    with pytest.raises(ValueError, match=problem):
        load_clip(source)


def test_tags_are_given_to_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = mock.Mock(**{"return_value.state.return_value": {"w": torch.ones(2, 3).T}})
    monkeypatch.setattr(ClipEncoder, "from_open_clip", fetched)
    loaded = load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k")
    fetched.assert_called_once_with("ViT-B-16", "laion2b_s34b_b88k", "cpu", precision="float32")
    assert len(loaded.sha256) == 64
    assert loaded.protocol["file"] == "laion2b_s34b_b88k"
    with pytest.raises(ValueError, match="says its own architecture"):
        load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k", "ViT-B-16")


def test_frozen_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = mock.Mock()
    monkeypatch.setattr(models, "FrozenInTimeEncoder", made)
    path, vocabulary = tmp_path / "cc-webvid.pth.tar", tmp_path / "vocab.txt"
    state = formats.tiny_frozen_in_time_state()
    formats.write_frozen_in_time(path, state)
    vocabulary.write_text("[PAD]\n")
    loaded = models.load_frozen_in_time(path, vocabulary, n_frames=8)
    (read, found), settings = made.from_state.call_args
    assert read.keys() == state.keys() and found == vocabulary and settings["n_frames"] == 8
    assert loaded.sha256 == file_sha256(path)
    assert loaded.protocol == {
        "architecture": "frozen_in_time",
        "weights": "frozen_in_time",
        "file": "cc-webvid.pth.tar",
        "left_out": {"no tensor": 4, "the training's optimizer": 4},
        "n_frames": 8,
        "vocabulary_sha256": file_sha256(vocabulary),
    }
    with pytest.raises(ValueError, match="use load_frozen_in_time"):
        load_clip(path)
    with pytest.raises(ValueError, match=r"there is no file .*absent"):
        models.load_frozen_in_time(tmp_path / "absent.pt", vocabulary)
    formats.write_fitclip_student(path, CLIP, False)
    with pytest.raises(ValueError, match="of the kind fitclip_student, not Frozen in Time's"):
        models.load_frozen_in_time(path, vocabulary)
