"""Every format gives back the state that was written in it, and accounts for all else."""

import hashlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fitclip_kit.weights import foreign_checkpoints
from fitclip_kit.weights.foreign_checkpoints import image_size, read_checkpoint
from tests import foreign_formats as formats

CLIP = formats.tiny_clip_state()
STUDENT = {name: value for name, value in CLIP.items() if name != "logit_scale"}
FROZEN = formats.tiny_frozen_in_time_state()
NAN = {"logit_scale": torch.tensor(float("nan"))}
HALF = formats.openai_precision(CLIP)

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
    "safetensors": ("safetensors", lambda p: safetensors.torch.save_file(CLIP, p), CLIP),
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
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
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
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=problem) as caught:
        read_checkpoint(path)
    assert "weights.pt" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_sizes_must_be_those_of_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    sizes = {"input_resolution": 16, "context_length": 77, "vocab_size": 49408}
    numbers = {name: torch.tensor(size) for name, size in sizes.items()}
    torch.save(CLIP | numbers, path)
    assert read_checkpoint(path).state.keys() == CLIP.keys()
    for name in sizes:
        torch.save(CLIP | numbers | {name: torch.tensor(5)}, path)
        with pytest.raises(ValueError, match=f"states {name} 5, but its tensors are of"):
            read_checkpoint(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(path))
    with pytest.raises(ValueError, match=r"not OpenAI's CLIP .* 2 tensors begin with"):
        read_checkpoint(path)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in CLIP.items()}


WRAPPED: dict[str, dict[str, torch.Tensor]] = {
    "parts": {  # what torch.compile and FSDP put around a part of the model
        name.replace("visual.", "visual._orig_mod.").replace(".0.", ".0._fsdp_wrapped_module."): v
        for name, v in CLIP.items()
    },
    "averaged": {"n_averaged": torch.tensor(3), **prefixed("module.")},
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
        assert ("n_averaged" in found.left_out) == (wrapper == "averaged")


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


def test_what_is_no_weight_of_the_model_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    mask = torch.full((77, 77), float("-inf")).triu_(1)
    torch.save({**CLIP, "attn_mask": mask}, path)
    found = read_checkpoint(path)
    assert found.left_out == {"attn_mask": "the causal mask, no weight"}
    assert found.state.keys() == CLIP.keys()
    torch.save({**CLIP, "attn_mask": torch.zeros(77, 77)}, path)
    assert "attn_mask" in read_checkpoint(path).state, "another mask than the model's"
    fine_tuned = {**prefixed("image_encoder.model."), "classification_head.weight": torch.ones(5)}
    torch.save(fine_tuned, path)
    found = read_checkpoint(path)
    assert found.left_out == {"classification_head.weight": "a classifier's head"}
    assert found.state.keys() == CLIP.keys()


@pytest.mark.parametrize(
    ("name", "state", "problem"),
    [
        (
            "a.safetensors",
            {"a": torch.ones(2).to(torch.float8_e4m3fn), "b": torch.ones(2)},
            r"quantised weights \(1 of torch.float8_e4m3fn among 2 tensors\)",
        ),
        (
            "model.safetensors",
            {
                "logit_scale": torch.ones(1),
                "vision_model.embeddings.class_embedding": torch.ones(4),
            },
            "a CLIP of transformers .*vision_model.embeddings.class_embedding.* open_clip:",
        ),
        ("model-00002-of-00003.safetensors", CLIP, "part 2 of 3 of a model; join the parts"),
        ("model.safetensors.index.json", CLIP, "list of a model's parts; join the parts"),
        (
            "a.safetensors",
            {"_orig_mod.a": torch.ones(1), "a": torch.ones(1)},
            "holds a tensor twice, as (_orig_mod.)?a and (_orig_mod.)?a",
        ),
    ],
)
def test_what_cannot_be_loaded_is_named(
    tmp_path: Path, name: str, state: dict[str, torch.Tensor], problem: str
) -> None:
    formats.write_safetensors(tmp_path / name, state)
    with pytest.raises(ValueError, match=problem):
        read_checkpoint(tmp_path / name)


def test_only_a_prefix_of_all_names_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    stored = OrderedDict({"module.a": torch.ones(1), "b": torch.ones(1)})
    torch.save({"state_dict": stored, "epoch": 1}, path)
    assert list(read_checkpoint(path).state) == ["module.a", "b"]


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


def test_image_size() -> None:
    assert image_size(CLIP) == 16
    with pytest.raises(ValueError, match="5 patches, which is no square"):
        image_size(CLIP | {"visual.positional_embedding": torch.zeros(6, 16)})
