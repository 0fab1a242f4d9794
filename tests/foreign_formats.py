"""Writers of every checkpoint format that the kit reads, as the original programs write them."""

import json
import pathlib
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
}
"""A CLIP with OpenAI's names and vocabulary, of 0.8 million parameters."""


def name_models(folder: Path, patch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> None:
    """Make open_clip know `TINY_CLIP` by names, with changes, for the length of a test."""
    for registry in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        patch.setattr(open_clip.factory, registry, copy(getattr(open_clip.factory, registry)))
    for name, change in changes.items():
        file = folder / f"{name.replace('_', '-')}.json"
        file.write_text(json.dumps(TINY_CLIP | change))
        open_clip.add_model_config(file)


def tiny_clip_state(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Random weights of `TINY_CLIP`."""
    torch.manual_seed(seed)
    return open_clip.CLIP(**{**TINY_CLIP, **changes}).state_dict()


def tiny_frozen_in_time_state() -> dict[str, Tensor]:
    """A few tensors under Frozen in Time's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "text_model.embeddings.word_embeddings.weight": (9, 4),
        "video_model.cls_token": (1, 1, 4),
        "video_model.temporal_embed": (1, 4, 4),
        "txt_proj.1.weight": (2, 4),
        "vid_proj.0.bias": (2,),
    }
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def openai_precision(state: State) -> dict[str, Tensor]:
    """Half precision where OpenAI's release has it: convolution, linear layers and projections."""
    half = ("conv1.weight", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
            "attn.out_proj.bias", "c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias",
            "visual.proj", "text_projection")  # fmt: skip
    return {name: value.half() if name.endswith(half) else value for name, value in state.items()}


class _Tree(nn.Module):
    """Modules nested as a state's dotted names say; the program itself is of no use."""

    def forward(self, image: Tensor) -> Tensor:
        return image


def _tree(state: State, buffers: State) -> nn.Module:
    root = _Tree()
    for name, value in [*state.items(), *buffers.items()]:
        *parents, leaf = name.split(".")
        module: nn.Module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, _Tree())
            module = module.get_submodule(parent)
        if name in buffers:
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, nn.Parameter(value.clone(), requires_grad=False))
    return root


def write_openai_torchscript(path: Path, state: State) -> None:
    """OpenAI's release: a TorchScript archive, partly in half precision, with three sizes."""
    patches = state["visual.positional_embedding"].shape[0] - 1
    sizes = {
        "input_resolution": round(patches**0.5) * state["visual.conv1.weight"].shape[-1],
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
    }
    buffers = {name: torch.tensor(size) for name, size in sizes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but OpenAI's files stay
        torch.jit.save(torch.jit.script(_tree(openai_precision(state), buffers)), str(path))


def write_safetensors(path: Path, state: State) -> None:
    """Weights alone, as open_clip's folders hold them."""
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)


def write_config(folder: Path, **changes: Any) -> Path:
    """A folder in open_clip's layout, as yet without weights."""
    folder.mkdir(parents=True)
    preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"model_cfg": TINY_CLIP | changes, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def write_state_dict(path: Path, state: State) -> None:
    """A plain state dict, an OrderedDict as `Module.state_dict` gives it."""
    plain: Any = OrderedDict(state)
    plain._metadata = OrderedDict({"": {"version": 1}})
    torch.save(plain, path)


def write_fitclip_student(path: Path, state: State, with_nan: bool) -> None:
    """FitCLIP's released student: without `logit_scale`, or with NaN for it."""
    student = {name: value for name, value in state.items() if name != "logit_scale"}
    if with_nan:
        student["logit_scale"] = torch.tensor(float("nan"))
    torch.save(student, path)


def write_wise(path: Path, state: State) -> None:
    """`apply_wise_ft`: tensors that ask for a gradient and are no leaves, NaN for the scale."""
    fused = {
        name: 0.5 * nn.Parameter(value) + 0.5 * nn.Parameter(value)
        for name, value in state.items()
        if name != "logit_scale"
    }
    torch.save(fused | {"logit_scale": torch.tensor(float("nan"))}, path)


def write_lightning(
    path: Path, student_state: State, teacher_state: State, stripped: bool = False
) -> None:
    """A training checkpoint of FitCLIP's code (Lightning 1.6, hyperparameters of OmegaConf).

    `stripped`: as `prepare_trained_checkpoint_for_evaluation` leaves it.
    """
    student = {name: value for name, value in student_state.items() if name != "logit_scale"}
    state = {
        "logit_scale": torch.tensor([4.2]),
        "max_logit_scale": torch.tensor([4.6]),
        "teacher_student_logit_scale": torch.tensor([4.2]),
        "tokenized_prompts.input_ids": torch.arange(6).reshape(2, 3),
        "teacher_tokenized_prompts.input_ids": torch.arange(8).reshape(2, 4),
        **{f"encoder.model.{name}": value for name, value in student.items()},
        **{f"teacher.model.{name}": value for name, value in teacher_state.items()},
    }
    with _foreign_classes("omegaconf.dictconfig.DictConfig", "omegaconf.nodes.AnyNode") as made:
        config, node = (kind() for kind in made)
        node.__dict__.update(_val=3e-6, _parent=config)
        config.__dict__.update(_content={"lr": node}, _parent=None)
        content = {
            "epoch": 3,
            "global_step": 400,
            "pytorch-lightning_version": "1.6.4",
            "state_dict": student if stripped else OrderedDict(state),
            "loops": {"fit_loop": {"epoch_loop._results": {"reduce_fx": torch.mean,
                      "device": torch.device("cpu"), "value": torch.tensor(0.5)}}},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.25)}},
            "optimizer_states": [_optimizer(student)],
            "lr_schedulers": [],
            "hparams_type": made[0],
            "hyper_parameters": config,
        }  # fmt: skip
        torch.save(content, path)


def write_frozen_in_time(path: Path, state: State, parallel: bool = True) -> None:
    """Frozen in Time's `.pth.tar`: a trainer's dict with its own ConfigParser and paths in it."""
    prefix = "module." if parallel else ""
    with _foreign_classes("parse_config.ConfigParser") as (config_parser,):
        config = config_parser()
        config.__dict__.update(
            cfg_fname=pathlib.PurePosixPath("configs/webvid.json"),
            resume=None,
            _config=OrderedDict(name="webvid", arch=OrderedDict(type="FrozenInTime")),
            _save_dir=Path("exps/models/webvid"),
            _log_dir=Path("exps/log/webvid"),
            log_levels={0: 30, 1: 20, 2: 10},
        )
        named = OrderedDict((f"{prefix}{name}", value) for name, value in state.items())
        content = {
            "arch": "DataParallel" if parallel else "FrozenInTime",
            "epoch": 4,
            "state_dict": named,
            "optimizer": _optimizer(state),
            "monitor_best": np.float64(12.5),
            "config": config,
        }
        torch.save(content, path)


def write_open_clip_training(path: Path, state: State, prefix: str = "module.") -> None:
    """open_clip's own training checkpoint."""
    content = {
        "epoch": 32,
        "name": "run",
        "state_dict": {f"{prefix}{name}": value for name, value in state.items()},
        "optimizer": _optimizer(state),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }
    torch.save(content, path)


def _optimizer(state: State) -> dict[str, Any]:
    """Adam's moments of the first two tensors, and its settings."""
    moments = {
        index: {"step": 7, "exp_avg": torch.zeros_like(value), "exp_avg_sq": value * value}
        for index, value in enumerate(list(state.values())[:2])
    }
    return {"state": moments, "param_groups": [{"lr": 3e-6, "betas": (0.9, 0.98), "params": [0]}]}


@contextmanager
def _foreign_classes(*paths: str) -> Iterator[list[type]]:
    """Empty classes of modules that are not installed, for as long as a pickle is written."""
    before = dict(sys.modules)
    made = []
    for path in paths:
        module_name, name = path.rsplit(".", 1)
        for end in range(1, module_name.count(".") + 2):
            part = ".".join(module_name.split(".")[:end])
            sys.modules.setdefault(part, types.ModuleType(part))
        kind = type(name, (), {"__module__": module_name})
        setattr(sys.modules[module_name], name, kind)
        made.append(kind)
    try:
        yield made
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
