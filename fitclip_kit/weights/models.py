"""Models from a folder, a weights file or a name: architecture found, origin and digest kept."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import open_clip
import safetensors.torch
import torch
from torch import Tensor

from fitclip_core.encoders import (
    CONFIG_FILE,
    MERGES_FILE,
    WEIGHTS_FILE,
    ClipEncoder,
    Precision,
    VideoTextEncoder,
    without_random_weights_warning,
)
from fitclip_kit.store.files import file_sha256
from fitclip_kit.weights.foreign_checkpoints import (
    JOIN,
    QUICK_GELU_KINDS,
    Checkpoint,
    read_checkpoint,
    with_text_names_of,
)
from fitclip_kit.weights.frozen_in_time import FrozenInTimeEncoder

CLIP_ARCHITECTURES: Final = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
"""OpenAI's vision transformers by open_clip's names; OpenAI's own have `-quickgelu` added."""
OPEN_CLIP_PREFIX: Final = "open_clip:"
PICKLED_WEIGHTS_FILE: Final = "open_clip_pytorch_model.bin"
# What it means where one of these does not fit.
_HINTS: Final = {
    "visual.positional_embedding": "they may be for pictures of another size or patches: use the "
    'architecture of that size (in a config: "image_size")',
    "positional_embedding": "they may be for texts of another length: give a folder in open_clip's "
    'layout whose config says that "context_length"',
}


@dataclass(frozen=True)
class LoadedModel:
    """An encoder with where its weights come from.

    `sha256` is the weights file's, or for weights that open_clip fetched the state's. `protocol` is
    JSON: `architecture`, `weights` (the kind of file), `file` (its name) and, where something was
    left out, `left_out` (reason -> number of entries).
    """

    encoder: VideoTextEncoder
    sha256: str
    protocol: dict[str, Any]


def load_clip(
    source: str | Path,
    architecture: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
) -> LoadedModel:
    """Load a CLIP-like model.

    Args:
        source: a folder in open_clip's layout, with safetensors or else a pickle of tensors; a
            weights file of any kind that `read_checkpoint` knows; or `open_clip:<model>/<tag>`,
            which open_clip fetches.
        architecture: open_clip's model name, for a file. None: found from the tensors' shapes
            where the file's kind says that the activation is QuickGELU.
        device: where the model computes.
        precision: of its encoding without gradients; what is not float32 stands in the protocol.

    Raises: ValueError when there is no such source, its tensors do not fit or were trained with the
        other activation, or the architecture is unknown.

    Source: Radford et al. 2021 (CLIP); Castro and Caba Heilbron 2022 (FitCLIP), supplement.
    """
    path, tag = Path(source).expanduser(), str(source).removeprefix(OPEN_CLIP_PREFIX)
    is_name = tag != str(source)
    if tag.startswith(("hf-hub:", "local-dir:")):
        raise ValueError(
            f"{source} is an address of open_clip's, which this kit does not follow: download the "
            "model and give its folder, which is in open_clip's layout"
        )
    if architecture is not None and (is_name or path.is_dir()):
        raise ValueError(f"{source} says its own architecture; leave {architecture!r} out")
    if is_name:
        loaded = _load_tag(tag, device, precision)
    elif path.is_dir():
        loaded = _load_folder(path, device, precision)
    elif path.is_file():
        loaded = _load_file(path, architecture, device, precision)
    else:
        tags = open_clip.list_pretrained_tags_by_model(str(source))
        some = f" (open_clip has {source} with the tags {', '.join(tags)})" if tags else ""
        raise ValueError(
            f"there is no file or folder {path}; give one, or {OPEN_CLIP_PREFIX}<model>/<tag>{some}"
        )
    if precision != "float32":
        loaded.protocol["precision"] = precision
    return loaded


def load_frozen_in_time(
    file: str | Path,
    vocabulary: str | Path,
    n_frames: int = 4,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a Frozen in Time model: a `.pth.tar`, a state dict, or safetensors.

    `vocabulary` is DistilBERT's `vocab.txt`; the temporal positions are fitted to `n_frames`.

    Raises: ValueError when a file is missing, of another kind, or its tensors do not fit.
    """
    path, vocabulary = Path(file).expanduser(), Path(vocabulary).expanduser()
    for needed in (path, vocabulary):
        if not needed.is_file():
            raise ValueError(f"there is no file {needed}")
    checkpoint = read_checkpoint(path)
    if "video_model.cls_token" not in checkpoint.state:
        raise ValueError(f"{path} is of the kind {checkpoint.kind}, not Frozen in Time's")
    encoder = FrozenInTimeEncoder.from_state(
        checkpoint.state, vocabulary, n_frames=n_frames, name=path.name, device=device
    )
    protocol = _protocol("frozen_in_time", checkpoint, path)
    protocol |= {"n_frames": n_frames, "vocabulary_sha256": file_sha256(vocabulary)}
    return LoadedModel(encoder, checkpoint.sha256, protocol)


def infer_architecture(state: Mapping[str, Tensor]) -> str:
    """Which of `CLIP_ARCHITECTURES` a state's shapes are of; the activation cannot be seen.

    Raises: ValueError when none has these shapes.
    """
    state = with_text_names_of(["token_embedding.weight"], state)
    differing = {}
    for name in CLIP_ARCHITECTURES:
        with torch.device("meta"):
            own = open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()
        differing[name] = [
            key
            for key, value in own.items()
            if key != "logit_scale" and (key not in state or state[key].shape != value.shape)
        ]
    nearest = min(CLIP_ARCHITECTURES, key=lambda name: len(differing[name]))
    if not differing[nearest]:
        return nearest
    raise ValueError(
        f"no known architecture has these shapes; the nearest, {nearest}, differs in "
        f"{len(differing[nearest])} tensors, such as {', '.join(differing[nearest][:3])}. Known: "
        f"{', '.join(CLIP_ARCHITECTURES)}; for another one give `architecture`, or a folder in "
        "open_clip's layout"
    )


def _load_tag(model_and_tag: str, device: str | torch.device, precision: Precision) -> LoadedModel:
    name, _, tag = model_and_tag.partition("/")
    _model_config(name)
    if not tag:
        raise ValueError(f"{OPEN_CLIP_PREFIX}{name} has no tag: {OPEN_CLIP_PREFIX}<model>/<tag>")
    encoder = ClipEncoder.from_open_clip(name, tag, device, precision=precision)
    digest = hashlib.sha256()
    for key, value in sorted(encoder.state().items()):
        digest.update(f"{key}\0{value.dtype}\0{list(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    protocol = {"architecture": name, "weights": "open_clip", "file": tag}
    return LoadedModel(encoder, digest.hexdigest(), protocol)


def _load_folder(folder: Path, device: str | torch.device, precision: Precision) -> LoadedModel:
    weights = _weights_file(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
        _check_activation(folder.name, config.get("quick_gelu"), weights, from_openai=False)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} is no JSON object with model_cfg") from error
    if weights.name == WEIGHTS_FILE:
        encoder = ClipEncoder.from_folder(folder, device, precision)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / folder.name
            copy.mkdir()
            for name in {CONFIG_FILE, MERGES_FILE} & {file.name for file in folder.iterdir()}:
                shutil.copy(folder / name, copy)
            state = {n: value.contiguous() for n, value in read_checkpoint(weights).state.items()}
            safetensors.torch.save_file(state, copy / WEIGHTS_FILE)
            encoder = ClipEncoder.from_folder(copy, device, precision)
    protocol = {
        "architecture": folder.name,
        "weights": "open_clip_folder",
        "file": f"{folder.name}/{weights.name}",
        "config_sha256": file_sha256(folder / CONFIG_FILE),
    }
    return LoadedModel(encoder, file_sha256(weights), protocol)


def _load_file(
    path: Path, architecture: str | None, device: str | torch.device, precision: Precision
) -> LoadedModel:
    checkpoint = read_checkpoint(path)
    if checkpoint.kind == "frozen_in_time":
        raise ValueError(f"{path} is a Frozen in Time checkpoint: use load_frozen_in_time")
    from_openai = checkpoint.kind in QUICK_GELU_KINDS
    if architecture is None:
        shapes = infer_architecture(checkpoint.state)
        if not from_openai:
            raise ValueError(
                f"{path} ({checkpoint.kind}) does not tell its activation: give architecture="
                f"'{shapes}-quickgelu' for weights that come from OpenAI's CLIP (FitCLIP's do), "
                f"'{shapes}' for others, such as those of open_clip trained on LAION"
            )
        architecture = f"{shapes}-quickgelu"
    quick_gelu = _model_config(architecture).get("quick_gelu")
    _check_activation(architecture, quick_gelu, path, from_openai)
    with without_random_weights_warning():
        encoder = ClipEncoder.from_open_clip(architecture, None, device, precision=precision)
    own = encoder.model.state_dict()
    state = with_text_names_of(own, checkpoint.state)
    try:
        encoder.load_state(state)
    except ValueError as error:
        hints = [hint for name, hint in _HINTS.items() if str(error).startswith(f"{name} ")]
        raise ValueError("; ".join([str(error), *hints])) from None
    return LoadedModel(encoder, checkpoint.sha256, _protocol(architecture, checkpoint, path))


def _model_config(name: str) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    if config is None:
        known = {model.lower(): model for model in open_clip.list_models()}
        near = [known[match] for match in difflib.get_close_matches(name.lower(), known)]
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()"
        raise ValueError(f"open_clip has no model {name!r}; {hint}")
    return config


def _check_activation(name: str, quick_gelu: Any, weights: Path, from_openai: bool) -> None:
    """Refuse OpenAI's weights without QuickGELU: they load without a warning, lose accuracy.

    Also those of a file that is named so, or lies in up to three folders that are.
    """
    if not quick_gelu and (from_openai or any("openai" in p.lower() for p in weights.parts[-4:])):
        raise ValueError(
            f"the weights {str(weights)!r} were trained with QuickGELU, but {name} computes without"
            f' it; use the model {name}-quickgelu (in a config: "quick_gelu": true)'
        )


def _weights_file(folder: Path) -> Path:
    """The weights of a folder in open_clip's layout; what else it may be is told."""
    candidates = [folder / name for name in (WEIGHTS_FILE, PICKLED_WEIGHTS_FILE)]
    weights = next((file for file in candidates if file.is_file()), None)
    has_config = (folder / CONFIG_FILE).is_file()
    if has_config and weights is not None:
        return weights
    what = "give a folder in open_clip's layout"
    if any(folder.glob("*.index.json")):
        what += f"; this one holds a model in several files: {JOIN}"
    elif (folder / "config.json").is_file():
        what += ", or a file of OpenAI's or open_clip's weights; this one looks like transformers'"
    raise ValueError(f"{folder} has no {WEIGHTS_FILE if has_config else CONFIG_FILE}; {what}")


def _protocol(architecture: str, checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    left_out = dict(sorted(Counter(checkpoint.left_out.values()).items()))
    protocol = {"architecture": architecture, "weights": checkpoint.kind, "file": path.name}
    return protocol | ({"left_out": left_out} if left_out else {})
