"""Other programs' checkpoints: which kind a file is, its model's tensors, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
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

# Where training programs keep the weights: open_clip and Lightning; PyTorch's tutorials; PySlowFast
# (Open-VCLIP); X-CLIP and ViFi-CLIP; DeepSpeed.
_WEIGHTS: Final = ("state_dict", "model_state_dict", "model_state", "model", "module")
# What programs put around a model: DataParallel, a holder of the model, then torch.compile, FSDP
# and activation checkpoints, whose names may also stand within a tensor's.
_PREFIXES: Final = ("module.", "model.")
_WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What stands beside a model: the start of its names, the model's own prefix then, and what it is.
_BESIDE: Final = (
    ("n_averaged", "module.", "the number of averaged models"),
    ("classification_head.", "image_encoder.model.", "a classifier's head"),
)
_TRANSFORMERS: Final = ("vision_model.", "text_model.encoder.", "text_model.embeddings.token_")
_STUDENT: Final = "encoder.model."
_LIGHTNING_LEFT_OUT: Final = {
    r"teacher\.model\..*": "the teacher's weights",
    r"(max_|teacher_student_)?logit_scale": "the training's temperature",
    r"(teacher_)?tokenized_prompts\..*": "the training's prompts",
}
# OpenAI's TorchScript archives hold these sizes as tensors.
_SIZES: Final[dict[str, Callable[[Mapping[str, Tensor]], int]]] = {
    "input_resolution": lambda state: image_size(state),
    "context_length": lambda state: len(state["positional_embedding"]),
    "vocab_size": lambda state: len(state["token_embedding.weight"]),
}
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

    Kinds: OpenAI's TorchScript archive; a plain dict of tensors (OpenAI's or open_clip's names);
    open_clip's training checkpoint, or another program's, with the weights in `model`, `module`
    (DeepSpeed), `model_state` or `model_state_dict`; FitCLIP's student (no `logit_scale`, or NaN);
    a Lightning checkpoint of the official code, also after
    `prepare_trained_checkpoint_for_evaluation`; Frozen in Time; and safetensors. What DataParallel,
    torch.compile, FSDP and the like add to the names is taken off, in any order. The tensors are
    views of the mapped file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of no such kind, damaged, or asks to run code; or it holds tensors
            or values that have no known place, which are listed.

    Source: FitCLIP's scripts `checkpoint_to_state_dict`, `prepare_trained_*_for_evaluation` and
        `open_clip_checkpoint_to_model`; Frozen in Time's `base_trainer`; OpenAI's `clip.load`.
    """
    path = Path(path)
    left_out: dict[str, str] = {}
    if path.name.endswith(".index.json"):
        raise ValueError(f"{path} is the list of a model's parts; {JOIN}")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # torch.save's format, or TorchScript's
    if is_zip:
        kind, state = _read_archive(path, left_out)
    else:
        kind, state = "safetensors", _unwrapped(checkpoints.load(path), left_out, path)
    if not state:
        raise ValueError(f"{path} holds no tensor of a model")
    _check_readable(state, path)
    for name, reason in _no_weights(state, path).items():
        left_out[name] = reason
        del state[name]
    return Checkpoint(kind, state, left_out, file_sha256(path))


def with_text_names_of(own: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def image_size(state: Mapping[str, Tensor]) -> int:
    """The side of a CLIP vision transformer's square pictures in pixels, from its weights.

    Raises: ValueError when the positions form no square; KeyError when a tensor is missing.
    """
    positions = len(state["visual.positional_embedding"]) - 1
    side = round(positions**0.5)
    if side**2 != positions:
        raise ValueError(f"visual.positional_embedding has {positions} patches, which is no square")
    return side * state["visual.conv1.weight"].shape[-1]


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
        raise ValueError(
            f"{path} holds weights under {' and '.join(map(repr, keys))}; save the dict of those "
            "that are meant alone, with torch.save or safetensors"
        )
    key, rest = (keys[0], content) if keys else ("", {})
    state = _unwrapped(_checked(rest.pop(key, content), path), left_out, path)
    for entry, value in rest.items():
        is_average = "ema" in str(entry).lower()
        reason = f"other weights, {entry}" if is_average else f"the training's {entry}"
        names = [name for name, _ in _tensors(value, str(entry), path)]
        left_out |= dict.fromkeys(names, reason) or {str(entry): "no tensor"}
    if any(name.startswith(_STUDENT) for name in state):
        return "fitclip_lightning", _student(state, left_out, path)
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


def _checked(stored: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    wrong = [
        f"{key!r} is a {_type(value)}"
        for key, value in stored.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if wrong:
        more = f", and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"{path} is no dict of tensors by name: {', '.join(wrong[:10])}{more}; give a state "
            f"dict, or a training checkpoint with its weights in {', '.join(map(repr, _WEIGHTS))}"
        )
    return stored


def _unwrapped(
    state: Mapping[str, Tensor], left_out: dict[str, str], path: Path
) -> dict[str, Tensor]:
    """The state without the names of what was put around the model, or around parts of it."""
    names = {
        name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state
    }
    for beside, prefix, reason in _BESIDE:
        model = {name: inner for name, inner in names.items() if not inner.startswith(beside)}
        if model and all(inner.startswith(prefix) for inner in model.values()):
            left_out |= dict.fromkeys(names.keys() - model.keys(), reason)
            names = {name: inner.removeprefix(prefix) for name, inner in model.items()}
    while names and any(all(n.startswith(p) for n in names.values()) for p in _PREFIXES):
        names = {name: inner.split(".", 1)[1] for name, inner in names.items()}
    counts = Counter(names.values())
    twice = [name for name, inner in names.items() if counts[inner] > 1]
    if twice:
        raise ValueError(f"{path} holds a tensor twice, as {' and '.join(twice[:2])}")
    return {inner: state[name] for name, inner in names.items()}


def _student(
    state: Mapping[str, Tensor], left_out: dict[str, str], path: Path
) -> dict[str, Tensor]:
    """The student of a Lightning module's state; everything else must be known."""
    known = {
        name: reason
        for name in state
        for pattern, reason in _LIGHTNING_LEFT_OUT.items()
        if re.fullmatch(pattern, name)
    }
    student = {name: value for name, value in state.items() if name.startswith(_STUDENT)}
    if unknown := [name for name in state if name not in known and name not in student]:
        raise ValueError(
            f"{path} has {len(unknown)} tensors that are neither the student's, the teacher's nor "
            f"of the known settings: {', '.join(unknown)}"
        )
    left_out |= known
    return {name.removeprefix(_STUDENT): value for name, value in student.items()}


def _check_readable(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what could not be computed with, and what is known not to be CLIP's own names."""
    types = Counter(v.dtype for v in state.values() if v.is_floating_point() and v.itemsize < 2)
    if types:
        quantised = ", ".join(f"{count} of {dtype}" for dtype, count in types.items())
        raise ValueError(
            f"{path} holds quantised weights ({quantised} among {len(state)} tensors), which are "
            "not computed with; give the weights as float16, bfloat16 or float32, with the scales "
            "that belong to the quantised ones multiplied in"
        )
    theirs = [name for name in state if name.startswith(_TRANSFORMERS)]
    if theirs:
        raise ValueError(
            f"{path} holds a CLIP of transformers (names such as {theirs[0]}), whose names and "
            "layout are others; give the same weights as OpenAI or open_clip publish them, such as "
            "open_clip:ViT-B-32-quickgelu/openai, or a folder in open_clip's layout"
        )
    part = re.search(r"-(\d+)-of-(\d+)\.", path.name)
    if part and int(part[2]) > 1:
        raise ValueError(f"{path} is part {int(part[1])} of {int(part[2])} of a model; {JOIN}")


def _no_weights(state: Mapping[str, Tensor], path: Path) -> dict[str, str]:
    """The sizes of a CLIP, which must be its tensors', and its causal mask: name -> what it is."""
    reasons = {}
    for name, size in _SIZES.items():
        if name in state and state[name].numel() == 1 and _is_clip(state):
            stated, actual = int(state[name].item()), size(state)
            if stated != actual:
                raise ValueError(f"{path} states {name} {stated}, but its tensors are of {actual}")
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


def _is_clip(state: Mapping[str, Tensor]) -> bool:
    return {"visual.conv1.weight", "visual.positional_embedding", "text_projection",
            "positional_embedding", "token_embedding.weight"} <= state.keys()  # fmt: skip


def _check_is_clip(state: Mapping[str, Tensor], path: Path) -> None:
    if not _is_clip(state):
        names = ", ".join(list(state)[:5]) or "none"
        raise ValueError(
            f"{path} is not OpenAI's CLIP with a vision transformer: it lacks tensors such as "
            f"visual.conv1.weight; its {len(state)} tensors begin with {names}"
        )


def _type(value: Any) -> str:
    return value.path if isinstance(value, Stub) else type(value).__name__
