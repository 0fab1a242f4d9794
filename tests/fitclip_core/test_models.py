"""Models load from every source with the right architecture, digest and protocol."""

import hashlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from fitclip_core import models
from fitclip_core.encoders import ClipEncoder
from fitclip_core.models import CLIP_ARCHITECTURES, infer_architecture, load_clip
from tests import foreign_formats as formats

CLIP = formats.tiny_clip_state()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models that open_clip knows by name, with and without QuickGELU."""
    registry = dict(open_clip.factory._MODEL_CONFIGS)
    for name, quick in (("tiny", False), ("tiny-quickgelu", True)):
        file = tmp_path / "configs" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**formats.TINY_CLIP, "quick_gelu": quick}))
        open_clip.add_model_config(file)
    monkeypatch.setattr(models, "CLIP_ARCHITECTURES", ("ViT-B-32", "tiny"))
    yield
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(registry)


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
    with pytest.raises(ValueError, match="embed_dim 12, vision image_size 16, vision layers 2"):
        infer_architecture(CLIP)
    state = meta_state("ViT-B-16")
    for missing in ("visual.conv1.weight", "text_projection"):
        partial = {name: value for name, value in state.items() if name != missing}
        with pytest.raises(ValueError, match=f"lacks '{missing}'"):
            infer_architecture(partial)


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
        assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
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
    path = tmp_path / "weights.pt"
    formats.write_state_dict(path, CLIP)
    plain = tmp_path / "weights.safetensors"
    save_file(CLIP, plain)
    training = tmp_path / "epoch_1.pt"
    formats.write_open_clip_training(training, CLIP)
    for file in (path, plain, training):
        with pytest.raises(ValueError, match=r"give architecture='tiny-quickgelu' .* 'tiny' for"):
            load_clip(file)
        for name in ("tiny", "tiny-quickgelu"):
            loaded = load_clip(file, name)
            assert loaded.protocol["architecture"] == loaded.encoder.name == name
            assert torch.equal(loaded.encoder.state()["visual.proj"], CLIP["visual.proj"])
    formats.write_state_dict(path, formats.tiny_clip_state(embed_dim=9))
    with pytest.raises(
        ValueError, match=r"the state does not fit tiny; .*visual.proj \[16, 9\] in"
    ):
        load_clip(path, "tiny")
    with pytest.raises(ValueError, match="no model 'ViT-Z'"):
        load_clip(path, "ViT-Z")


@pytest.mark.usefixtures("tiny")
def test_every_wrong_tensor_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = {**CLIP, "extra.weight": torch.ones(1), "ln_final.bias": torch.ones(3)}
    del state["visual.ln_post.bias"]
    formats.write_state_dict(path, state)
    with pytest.raises(ValueError) as caught:
        load_clip(path, "tiny")
    for part in ("visual.ln_post.bias", "extra.weight", "ln_final.bias [3] instead of [16]"):
        assert part in str(caught.value)


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {"model_cfg": formats.TINY_CLIP, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = folder / "open_clip_model.safetensors"
    save_file(CLIP, weights)
    loaded = load_clip(folder)
    assert loaded.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert loaded.protocol["architecture"] == "tiny"
    assert loaded.protocol["weights"] == "open_clip_folder"
    with pytest.raises(ValueError, match="says its own architecture"):
        load_clip(folder, "ViT-B-32")


def test_tags_are_given_to_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Fetched:
        def state(self) -> dict[str, torch.Tensor]:
            return {"w": torch.ones(2, 3).T, "scale": torch.tensor(1.0)}

    def fetch(*arguments: Any, precision: str) -> Fetched:
        asked.append((*arguments, precision))
        return Fetched()

    monkeypatch.setattr(ClipEncoder, "from_open_clip", fetch)
    loaded = load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k")
    assert asked == [("ViT-B-16", "laion2b_s34b_b88k", "cpu", "float32")]
    assert len(loaded.sha256) == 64
    assert loaded.protocol["file"] == "laion2b_s34b_b88k"
    for source in ("open_clip:ViT-B-16", "open_clip:ViT-B-16/"):
        with pytest.raises(ValueError, match="has no tag"):
            load_clip(source)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file or folder"):
        load_clip(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="there is no file"):
        models.load_frozen_in_time(tmp_path / "absent.pt", tmp_path / "vocab.txt")


def test_frozen_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Encoder:
        @classmethod
        def from_state(cls, state: Any, **settings: Any) -> str:
            given.update(settings, state=state)
            return "encoder"

    module: Any = types.ModuleType("fitclip_core.frozen_in_time_encoder")
    module.FrozenInTimeEncoder = Encoder
    monkeypatch.setitem(sys.modules, "fitclip_core.frozen_in_time_encoder", module)
    path, vocabulary = tmp_path / "cc-webvid.pth.tar", tmp_path / "vocab.txt"
    state = formats.tiny_frozen_in_time_state()
    formats.write_frozen_in_time(path, state)
    vocabulary.write_text("[PAD]\n")
    loaded = models.load_frozen_in_time(path, vocabulary, n_frames=8)
    assert given["state"].keys() == state.keys()
    assert (given["n_frames"], given["vocabulary"]) == (8, vocabulary)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.protocol == {
        "architecture": "frozen_in_time",
        "weights": "frozen_in_time",
        "file": "cc-webvid.pth.tar",
        "left_out": {"no tensor": 4, "the training's optimizer": 4},
        "n_frames": 8,
        "vocabulary_sha256": hashlib.sha256(b"[PAD]\n").hexdigest(),
    }
    with pytest.raises(ValueError, match="use load_frozen_in_time"):
        load_clip(path)
    formats.write_fitclip_student(path, CLIP, False)
    with pytest.raises(ValueError, match="of the kind fitclip_student, not Frozen in Time's"):
        models.load_frozen_in_time(path, vocabulary)
