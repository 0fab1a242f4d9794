"""Every format gives back the state that was written in it, and accounts for all else."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fitclip_kit.store.files import file_sha256
from fitclip_kit.weights import foreign_checkpoints
from fitclip_kit.weights.foreign_checkpoints import read_checkpoint
from tests import foreign_formats as formats

CLIP = formats.tiny_clip_state()
STUDENT = {name: value for name, value in CLIP.items() if name != "logit_scale"}
FROZEN = formats.tiny_frozen_in_time_state()
NAN = {"logit_scale": torch.tensor(float("nan"))}
HALF = formats.openai_precision(CLIP)
SIZES = {"input_resolution": 16, "context_length": 77, "vocab_size": 49408}

FORMATS: dict[str, tuple[str, Callable[[Path], Any], dict[str, torch.Tensor]]] = {
    "torchscript": (
        "openai_torchscript", lambda p: formats.write_openai_torchscript(p, CLIP), HALF),
    "state dict": ("state_dict", lambda p: formats.write_state_dict(p, CLIP), CLIP),
    "half state dict": ("state_dict", lambda p: formats.write_state_dict(p, HALF), HALF),
    "student": (
        "fitclip_student", lambda p: formats.write_fitclip_student(p, CLIP, False), STUDENT),
    "student with NaN": (
        "fitclip_student", lambda p: formats.write_fitclip_student(p, CLIP, True), STUDENT | NAN),
    "wise": ("fitclip_student", lambda p: formats.write_wise(p, CLIP), STUDENT | NAN),
    "lightning": (
        "fitclip_lightning", lambda p: formats.write_lightning(p, CLIP, FROZEN), STUDENT),
    "lightning, stripped": (
        "fitclip_lightning", lambda p: formats.write_lightning(p, CLIP, {}, True), STUDENT),
    "frozen in time": (
        "frozen_in_time", lambda p: formats.write_frozen_in_time(p, FROZEN), FROZEN),
    "frozen in time, weights alone": (
        "frozen_in_time", lambda p: formats.write_state_dict(p, FROZEN), FROZEN),
    "open_clip": (
        "open_clip_training", lambda p: formats.write_open_clip_training(p, CLIP), CLIP),
    "safetensors": ("safetensors", lambda p: formats.write_safetensors(p, CLIP), CLIP),
}  # fmt: skip


def all_tensors(value: Any) -> int:
    """How many tensors a file of torch.save holds, by torch.load and a plain recursion."""
    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, dict):
        return sum(map(all_tensors, value.values()))
    return sum(map(all_tensors, value)) if isinstance(value, list | tuple) else 0


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", FORMATS)
def test_the_state_comes_back(tmp_path: Path, name: str) -> None:
    kind, write, expected = FORMATS[name]
    path = tmp_path / "weights.pt"
    write(path)
    found = read_checkpoint(path)
    assert found.kind == kind
    assert found.sha256 == file_sha256(path)
    assert found.state.keys() == expected.keys()
    for key, value in expected.items():
        assert found.state[key].dtype == value.dtype, key
        assert torch.equal(found.state[key].nan_to_num(), value.detach().nan_to_num()), key
    if kind == "safetensors":
        return
    if kind == "openai_torchscript":
        stored = len(torch.jit.load(str(path)).state_dict())
        assert found.left_out.keys() == {"input_resolution", "context_length", "vocab_size"}
    else:  # our own file, so torch.load may run it; its stubs are no tensors
        with formats._foreign_classes("parse_config.ConfigParser", "omegaconf.nodes.AnyNode",
                                      "omegaconf.dictconfig.DictConfig"):  # fmt: skip
            stored = all_tensors(torch.load(path, weights_only=False))
    no_tensor = list(found.left_out.values()).count("no tensor")
    assert len(found.state) + len(found.left_out) - no_tensor == stored


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    formats.write_lightning(path, CLIP, FROZEN)
    left_out = read_checkpoint(path).left_out
    assert left_out["teacher.model.video_model.cls_token"] == "the teacher's weights"
    assert left_out["logit_scale"] == "the training's temperature"
    assert left_out["tokenized_prompts.input_ids"] == "the training's prompts"
    assert left_out["optimizer_states.0.state.0.exp_avg"] == "the training's optimizer_states"
    assert left_out["callbacks.ModelCheckpoint.best_model_score"] == "the training's callbacks"
    assert left_out["hyper_parameters"] == left_out["epoch"] == "no tensor"
    formats.write_frozen_in_time(path, FROZEN)
    left_out = read_checkpoint(path).left_out
    assert left_out["config"] == left_out["monitor_best"] == "no tensor"
    assert left_out["optimizer.state.1.exp_avg_sq"] == "the training's optimizer"


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"state_dict": {"encoder.model.a": torch.ones(1), "encoder.video.b": torch.ones(1),
                            "teacherx": torch.ones(1)}},
            "2 tensors that are neither .*: encoder.video.b, teacherx",
        ),
        ({"state_dict": {"a": torch.ones(1), "b": 3}, "epoch": 1}, "'b' is a int"),
        ({"a": torch.ones(1), "path": Path("x")}, "'path' is a pathlib.PosixPath"),
        ({3: torch.ones(1)}, "3 is a Tensor"),
        ({"net": {"a": torch.ones(1)}}, "'net' is a dict; give a state dict.* 'model', 'module'"),
        ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}},
         "weights under 'state_dict' and 'model'; save"),
        ({str(i): i for i in range(30)}, "and 20 more"),
        ({}, "no tensor of a model"),
        ({"state_dict": {}, "epoch": 1}, "no tensor of a model"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        (Path("x"), "holds a pathlib.PosixPath"),
        ({"state_dict": {"a": torch.ones(1)}, "pytorch-lightning_version": "1"}, "not OpenAI's"),
        *((CLIP | {name: torch.tensor(5)}, f"states {name} 5, but its tensors are of {size}")
          for name, size in SIZES.items()),
        (torch.nn.Linear(1, 1), r"not OpenAI's CLIP .* 2 tensors begin with"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn), "b": torch.ones(2)},
         r"quantised weights \(1 of torch.float8_e4m3fn among 2 tensors\)"),
        ({"logit_scale": torch.ones(1), "vision_model.embeddings.class_embedding": torch.ones(4)},
         "a CLIP of transformers .*vision_model.embeddings.class_embedding.* open_clip:"),
        ({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)},
         "holds a tensor twice, as _orig_mod.a and a"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, torch.nn.Module):
        torch.jit.save(torch.jit.script(content), str(path))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=problem) as caught:
        read_checkpoint(path)
    assert "weights.pt" in str(caught.value)


def test_parts_of_a_model_are_refused(tmp_path: Path) -> None:
    for name, problem in (
        ("model-00002-of-00003.safetensors", "part 2 of 3 of a model; join the parts"),
        ("model.safetensors.index.json", "list of a model's parts; join the parts"),
    ):
        with pytest.raises(ValueError, match=problem):
            read_checkpoint(tmp_path / name)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in CLIP.items()}


BESIDE = {"averaged": "the number of averaged models", "fine-tuned": "a classifier's head"}
WRAPPED: dict[str, dict[str, torch.Tensor]] = {
    "parts": {  # what torch.compile and FSDP put around a part of the model
        name.replace("visual.", "visual._orig_mod.").replace(".0.", ".0._fsdp_wrapped_module."): v
        for name, v in CLIP.items()
    },
    "averaged": {"n_averaged": torch.tensor(3), **prefixed("module.")},
    "fine-tuned": {"classification_head.bias": torch.ones(5), **prefixed("image_encoder.model.")},
    "_fsdp_wrapped_module.": prefixed("_fsdp_wrapped_module."),
    **{
        "".join(order): prefixed("".join(order))
        for size in (1, 2, 3)
        for order in itertools.permutations(("module.", "_orig_mod.", "model."), size)
    },
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_was_around_a_model_is_taken_off_its_names(tmp_path: Path, wrapper: str) -> None:
    path, state = tmp_path / "weights", WRAPPED[wrapper]
    for kind, write in {
        "safetensors": lambda: formats.write_safetensors(path, state),
        "open_clip_training": lambda: torch.save({"state_dict": state, "epoch": 3}, path),
    }.items():
        write()
        found = read_checkpoint(path)
        assert found.kind == kind
        assert found.state.keys() == CLIP.keys()
        assert all(torch.equal(found.state[name], value) for name, value in CLIP.items())
        left_out = set(found.left_out.values()) - {"no tensor"}
        assert left_out == ({BESIDE[wrapper]} if wrapper in BESIDE else set())


@pytest.mark.parametrize("key", ["model", "model_state", "model_state_dict", "module"])
def test_other_programs_training_checkpoints(tmp_path: Path, key: str) -> None:
    path = tmp_path / "weights.pt"
    average = {name: value + 1 for name, value in CLIP.items()}
    torch.save({key: CLIP, f"{key}_EMA": average, "ds_version": "0.1"}, path)
    found = read_checkpoint(path)
    assert found.kind == "other_training"
    assert all(torch.equal(found.state[name], value) for name, value in CLIP.items())
    reasons = Counter(found.left_out.values())
    assert reasons == {"no tensor": 1, f"other weights, {key}_EMA": len(CLIP)}


def test_sizes_and_the_causal_mask_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    sizes = {name: torch.tensor(size) for name, size in SIZES.items()}
    mask = torch.full((77, 77), float("-inf")).triu_(1)
    torch.save({**CLIP, **sizes, "attn_mask": mask}, path)
    found = read_checkpoint(path)
    reasons = dict.fromkeys(SIZES, "a size that the tensors have")
    assert found.left_out == reasons | {"attn_mask": "the causal mask, no weight"}
    assert found.state.keys() == CLIP.keys()
    torch.save({**CLIP, "attn_mask": torch.zeros(77, 77)}, path)
    assert "attn_mask" in read_checkpoint(path).state, "another mask than the model's"
    stored = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save({"state_dict": stored, "epoch": 1}, path)
    assert list(read_checkpoint(path).state) == ["module.a", "b"], "no prefix of all names"


def test_nests_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    loop: list[Any] = []
    loop.append(loop)
    torch.save({"state_dict": {"a": torch.ones(1)}, "optimizer": loop}, path)
    assert read_checkpoint(path).left_out == {"optimizer": "no tensor"}
    for _ in range(30):
        loop = [loop]
    torch.save({"state_dict": {"a": torch.ones(1)}, "optimizer": loop}, path)
    monkeypatch.setattr(foreign_checkpoints, "_MAX_NAME", 50)
    with pytest.raises(ValueError, match="nests too many values"):
        read_checkpoint(path)
