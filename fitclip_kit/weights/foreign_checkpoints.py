"""Other programs' checkpoints: which kind a file is, its model's tensors, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fitclip_kit.store.files import file_sha256
from fitclip_kit.weights import checkpoints, torch_archive
from fitclip_kit.weights.torch_archive import Stub

QUICK_GELU_KINDS: Final = ("openai_torchscript", "fitclip_student", "fitclip_lightning")
"""Kinds that come from OpenAI's CLIP, whose activation is QuickGELU."""
JOIN: Final = (
    "join the parts: read each file of the folder with safetensors.torch.load_file, put all "
    "tensors into one dict and write it with fitclip_kit.weights.checkpoints.save"
)
"""What to do with weights that lie in several files."""

State = Mapping[str, Tensor]
# Where training programs keep the weights: open_clip and Lightning; PyTorch's tutorials; PySlowFast
# (Open-VCLIP); X-CLIP and ViFi-CLIP; DeepSpeed.
_WEIGHTS: Final = ("state_dict", "model_state_dict", "model_state", "model", "module")
_STUDENT: Final = "encoder.model."  # FitCLIP's Lightning module
# What programs put around a model's names: before all of them, with what may then stand beside the
# model (a pattern, and what it is) ...
_PREFIXES: Final = {
    "module.": {"n_averaged": "the number of averaged models"},  # DataParallel, SWA
    "model.": {},
    "image_encoder.model.": {r"classification_head\..*": "a classifier's head"},  # WiSE-FT
    _STUDENT: {
        r"teacher\.model\..*": "the teacher's weights",
        r"(max_|teacher_student_)?logit_scale": "the training's temperature",
        r"(teacher_)?tokenized_prompts\..*": "the training's prompts",
    },
}
# ... and within them: torch.compile, FSDP and activation checkpoints.
_WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_TRANSFORMERS: Final = ("vision_model.", "text_model.encoder.", "text_model.embeddings.token_")
_MAX_NAME: Final = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """A file's model: tensors by the model's own names, and everything else that the file holds.

    `kind` is `openai_torchscript`, `state_dict`, `open_clip_training`, `other_training`,
    `fitclip_student`, `fitclip_lightning`, `frozen_in_time` or `safetensors`; `state` keeps the
    stored precision and may lack `logit_scale` or hold a NaN one; `left_out` maps each other tensor
    or entry of the file to the reason why it is no part of the state; `sha256` is the file's.
    """

    kind: str
    state: dict[str, Tensor]
    left_out: dict[str, str]
    sha256: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of CLIP, open_clip, FitCLIP or Frozen in Time, without running its code.

    Kinds: OpenAI's TorchScript archive; a plain dict of tensors (OpenAI's or open_clip's names); a
    training checkpoint with its weights in one of `_WEIGHTS`; FitCLIP's student (no `logit_scale`,
    or NaN); a Lightning checkpoint of the official code, also after
    `prepare_trained_checkpoint_for_evaluation`; Frozen in Time; and safetensors. What DataParallel,
    torch.compile, FSDP and the like add to the names is taken off, in any order. The tensors are
    views of the mapped file.

    Raises: ValueError when the file is of no such kind, damaged, or asks to run code; or it holds
        tensors or values that have no known place, which are listed.

    Source: FitCLIP's scripts `checkpoint_to_state_dict`, `prepare_trained_*_for_evaluation` and
        `open_clip_checkpoint_to_model`; Frozen in Time's `base_trainer`; OpenAI's `clip.load`.
    """
    path = Path(path)
    part = re.search(r"-(\d+)-of-(\d+)\.", path.name)
    if path.name.endswith(".index.json"):
        raise ValueError(f"{path} is the list of a model's parts; {JOIN}")
    if part and int(part[2]) > 1:
        raise ValueError(f"{path} is part {int(part[1])} of {int(part[2])} of a model; {JOIN}")
    left_out: dict[str, str] = {}
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # torch.save's format, or TorchScript's
    if is_zip:
        kind, state = _read_archive(path, left_out)
    else:
        kind, state = "safetensors", _unwrapped(checkpoints.load(path), left_out, path)
    _check_readable(state, path)
    no_weights = _no_weights(state, path)
    state = {name: value for name, value in state.items() if name not in no_weights}
    return Checkpoint(kind, state, left_out | no_weights, file_sha256(path))


def with_text_names_of(own: Iterable[str], state: State) -> dict[str, Tensor]:
    """The state with its text tower's names as a model has them: with or without `text.` before.

    open_clip writes `text.` where the tower is a module of its own (CustomTextCLIP). `own` are the
    model's names; another state than of these two forms is returned as it is.
    """
    token, names = "token_embedding.weight", set(own)
    if token in names and f"text.{token}" in state:
        return {name.removeprefix("text."): value for name, value in state.items()}
    if f"text.{token}" in names and token in state:
        outside = ("visual.", "logit_")
        return {n if n.startswith(outside) else f"text.{n}": value for n, value in state.items()}
    return dict(state)


def _read_archive(path: Path, left_out: dict[str, str]) -> tuple[str, dict[str, Tensor]]:
    """The kind of a file of torch.save or TorchScript, and the model's tensors by its names."""
    content = torch_archive.read(path)
    if isinstance(content, Stub) and content.module.startswith("__torch__"):
        state = dict(_tensors(content, "", path))
        _check_is_clip(state, path)
        return "openai_torchscript", state
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {_type(content)}; a checkpoint is a dict of tensors")
    keys = [key for key in _WEIGHTS if isinstance(content.get(key), dict)]
    if len(keys) > 1:
        both = " and ".join(map(repr, keys))
        raise ValueError(f"{path} holds weights under {both}; save those that are meant alone")
    key, rest = (keys[0], content) if keys else ("", {})
    stored = rest.pop(key, content)
    wrong = [
        f"{name!r} is a {_type(value)}"
        for name, value in stored.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if wrong:
        more = f", and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"{path} is no dict of tensors by name: {', '.join(wrong[:10])}{more}; give a state "
            f"dict, or a training checkpoint with its weights in {', '.join(map(repr, _WEIGHTS))}"
        )
    state = _unwrapped(stored, left_out, path)
    for entry, value in rest.items():
        is_average = "ema" in str(entry).lower()
        reason = f"other weights, {entry}" if is_average else f"the training's {entry}"
        names = [name for name, _ in _tensors(value, str(entry), path)]
        left_out |= dict.fromkeys(names, reason) or {str(entry): "no tensor"}
    if any(name.startswith(_STUDENT) for name in stored):
        return "fitclip_lightning", state
    if "pytorch-lightning_version" in rest:
        _check_is_clip(state, path)
        return "fitclip_lightning", state
    if "video_model.cls_token" in state:
        return "frozen_in_time", state
    if rest:
        return "open_clip_training" if key == "state_dict" else "other_training", state
    scale = state.get("logit_scale")
    no_scale = scale is None or bool(scale.isnan().any())
    is_student = key in ("", "state_dict") and _is_clip(state) and no_scale
    return "fitclip_student" if is_student else "state_dict", state


def _unwrapped(state: State, left_out: dict[str, str], path: Path) -> dict[str, Tensor]:
    """The state without the names of what was put around the model, or around parts of it."""
    names = {
        name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state
    }
    changed = True
    while changed:
        changed = False
        for prefix, beside in _PREFIXES.items():
            inside = {n: i.removeprefix(prefix) for n, i in names.items() if i.startswith(prefix)}
            rest = {name: inner for name, inner in names.items() if name not in inside}
            known = {
                name: reason
                for name, inner in rest.items()
                for pattern, reason in beside.items()
                if re.fullmatch(pattern, inner)
            }
            unknown = [name for name in rest if name not in known]
            if inside and prefix == _STUDENT and unknown:
                raise ValueError(
                    f"{path} has {len(unknown)} tensors that are neither the student's, the "
                    f"teacher's nor of the known settings: {', '.join(unknown)}"
                )
            if inside and not unknown:
                names, changed = inside, True
                left_out |= known
    counts = Counter(names.values())
    if twice := [name for name, inner in names.items() if counts[inner] > 1]:
        raise ValueError(f"{path} holds a tensor twice, as {' and '.join(twice[:2])}")
    return {inner: state[name] for name, inner in names.items()}


def _check_readable(state: State, path: Path) -> None:
    """Refuse what could not be computed with, and what is known not to be CLIP's own names."""
    if not state:
        raise ValueError(f"{path} holds no tensor of a model")
    types = Counter(v.dtype for v in state.values() if v.is_floating_point() and v.itemsize < 2)
    if types:
        quantised = ", ".join(f"{count} of {dtype}" for dtype, count in types.items())
        raise ValueError(
            f"{path} holds quantised weights ({quantised} among {len(state)} tensors); give them "
            "as float16, bfloat16 or float32, with their scales multiplied in"
        )
    if theirs := [name for name in state if name.startswith(_TRANSFORMERS)]:
        raise ValueError(
            f"{path} holds a CLIP of transformers (names such as {theirs[0]}); give the same "
            "weights as OpenAI or open_clip publish them, such as "
            "open_clip:ViT-B-32-quickgelu/openai, or a folder in open_clip's layout"
        )


def _no_weights(state: State, path: Path) -> dict[str, str]:
    """OpenAI's sizes, which must be the tensors', and a CLIP's causal mask: name -> what it is."""
    reasons = {}
    stated = {"input_resolution", "context_length", "vocab_size"} & state.keys()
    if stated and _is_clip(state):
        sizes = {
            "input_resolution": round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
            * state["visual.conv1.weight"].shape[-1],
            "context_length": len(state["positional_embedding"]),
            "vocab_size": len(state["token_embedding.weight"]),
        }
        for name in stated:
            if state[name].numel() != 1 or state[name].item() != sizes[name]:
                raise ValueError(
                    f"{path} states {name} {state[name].tolist()}, but its tensors are of "
                    f"{sizes[name]}"
                )
            reasons[name] = "a size that the tensors have"
    for name in {"attn_mask", "text.attn_mask"} & state.keys():
        mask = state[name].float()
        if mask.ndim == 2 and torch.equal(mask, torch.full_like(mask, float("-inf")).triu_(1)):
            reasons[name] = "the causal mask, no weight"
    return reasons


def _tensors(value: Any, name: str, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested containers and stubs, with its path; containers are seen once."""
    pending = [(name, value)]
    seen: set[int] = set()
    while pending:
        name, value = pending.pop()
        if isinstance(value, Tensor):
            yield name, value
            continue
        inner: list[tuple[str, Any]] = []
        if isinstance(value, Stub):
            inner = [(name, value.args), (name, value.state), (name, value.contents)]
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            inner = [(f"{name}.{key}".removeprefix("."), item) for key, item in items]
        if id(value) not in seen:
            seen.add(id(value))
            pending.extend(reversed(inner))
        if len(name) > _MAX_NAME:
            raise ValueError(f"{path} nests too many values")


def _is_clip(state: State) -> bool:
    return {"visual.conv1.weight", "visual.positional_embedding", "text_projection",
            "positional_embedding", "token_embedding.weight"} <= state.keys()  # fmt: skip


def _check_is_clip(state: State, path: Path) -> None:
    if not _is_clip(state):
        names = ", ".join(list(state)[:5]) or "none"
        raise ValueError(
            f"{path} is not OpenAI's CLIP with a vision transformer: it lacks tensors such as "
            f"visual.conv1.weight; its {len(state)} tensors begin with {names}"
        )


def _type(value: Any) -> str:
    return value.path if isinstance(value, Stub) else type(value).__name__
