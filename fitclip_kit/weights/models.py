"""Models from a folder, a weights file or a name: architecture found, origin and digest kept."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import open_clip
import torch
from fitclip_core.video_text import Precision, VideoTextEncoder
from torch import Tensor

from fitclip_core.encoders import CONFIG_FILE, ClipEncoder, unknown_model, weights_file
from fitclip_kit.store.files import file_sha256
from fitclip_kit.weights.foreign_checkpoints import (
    QUICK_GELU_KINDS,
    Checkpoint,
    image_size,
    read_checkpoint,
    with_text_names_of,
)

CLIP_ARCHITECTURES: Final = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
"""OpenAI's vision transformers by open_clip's names; OpenAI's own have `-quickgelu` added."""
OPEN_CLIP_PREFIX: Final = "open_clip:"


@dataclass(frozen=True)
class LoadedModel:
    """An encoder with where its weights come from.

    `sha256` is the weights file's, or for weights that open_clip fetched the state's (names, types,
    shapes and values). `protocol` is JSON: `architecture`, `weights` (the kind of file), `file`
    (its name) and, where something was left out, `left_out` (reason -> number of entries).
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
        source: a folder in open_clip's layout; a weights file of any kind that `read_checkpoint`
            knows; or `open_clip:<model>/<tag>`, which open_clip fetches.
        architecture: open_clip's model name, for a file. None: found from the tensors' shapes
            where the file's kind says that the activation is QuickGELU.
        device: where the model computes.
        precision: of its encoding without gradients, see `VideoTextEncoder.precision`; what is not
            float32 stands in the protocol.

    Raises:
        ValueError: there is no such source, its tensors do not fit, the architecture is unknown,
            or it cannot be known, because a plain file does not tell its activation.

    Source: Radford et al. 2021 (CLIP); Castro and Caba Heilbron 2022 (FitCLIP), supplement.
    """
    if isinstance(source, str) and source.startswith(OPEN_CLIP_PREFIX):
        _check_no_architecture(source, architecture)
        return _load_by_tag(source.removeprefix(OPEN_CLIP_PREFIX), device, precision)
    path = Path(source).expanduser()
    if path.is_dir():
        _check_no_architecture(source, architecture)
        return _load_folder(path, device, precision)
    if not path.is_file():
        _check_no_address(str(source))
        tags = open_clip.list_pretrained_tags_by_model(str(source))
        some = f" (open_clip has {source} with the tags {', '.join(tags)})" if tags else ""
        raise ValueError(
            f"there is no file or folder {path}; give one, or {OPEN_CLIP_PREFIX}<model>/<tag>{some}"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.kind == "frozen_in_time":
        raise ValueError(f"{path} is a Frozen in Time checkpoint: use load_frozen_in_time")
    name = architecture or _architecture(checkpoint, path)
    encoder = ClipEncoder.from_open_clip(name, checkpoint, device, precision=precision)
    protocol = _protocol(name, checkpoint, path) | _computed(precision)
    return LoadedModel(encoder, checkpoint.sha256, protocol)


def load_frozen_in_time(
    file: str | Path,
    vocabulary: str | Path,
    n_frames: int = 4,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a Frozen in Time model.

    Args:
        file: its `.pth.tar`, the state dict alone, or either as safetensors.
        vocabulary: DistilBERT's `vocab.txt`.
        n_frames: frames of a clip; the temporal positions are fitted to it.
        device: where the model computes.

    Raises:
        ValueError: a file is missing, of another kind, or its tensors do not fit.

    Source: Bain et al. 2021 (Frozen in Time).
    """
    # Its text tower needs transformers, which CLIP does not.
    from fitclip_kit.weights.frozen_in_time_encoder import FrozenInTimeEncoder

    path, words = Path(file).expanduser(), Path(vocabulary).expanduser()
    for needed in (path, words):
        if not needed.is_file():
            raise ValueError(f"there is no file {needed}")
    checkpoint = read_checkpoint(path)
    if "video_model.cls_token" not in checkpoint.state:
        raise ValueError(f"{path} is of the kind {checkpoint.kind}, not Frozen in Time's")
    encoder = FrozenInTimeEncoder.from_state(
        checkpoint.state, vocabulary=words, n_frames=n_frames, name=path.name, device=device
    )
    protocol = _protocol("frozen_in_time", checkpoint, path)
    protocol |= {"n_frames": n_frames, "vocabulary_sha256": file_sha256(words)}
    return LoadedModel(encoder, checkpoint.sha256, protocol)


def infer_architecture(state: Mapping[str, Tensor]) -> str:
    """Which of `CLIP_ARCHITECTURES` a state's shapes are of; the activation cannot be seen.

    Args:
        state: tensors by OpenAI's names; only their shapes are looked at.

    Raises: ValueError when names are missing or no architecture has these sizes.

    Source: Radford et al. 2021 (CLIP), table 20.
    """
    state = with_text_names_of(["token_embedding.weight"], state)
    try:
        sizes = {
            "embed_dim": state["text_projection"].shape[1],
            "vision_cfg.image_size": image_size(state),
            "vision_cfg.layers": _layers(state, "visual.transformer.resblocks."),
            "vision_cfg.width": state["visual.conv1.weight"].shape[0],
            "vision_cfg.patch_size": state["visual.conv1.weight"].shape[-1],
            "text_cfg.context_length": state["positional_embedding"].shape[0],
            "text_cfg.vocab_size": state["token_embedding.weight"].shape[0],
            "text_cfg.width": state["ln_final.weight"].shape[0],
            "text_cfg.layers": _layers(state, "transformer.resblocks."),
        }
    except KeyError as error:
        raise ValueError(
            f"the state lacks {error}: it is no CLIP with a vision transformer and OpenAI's names"
        ) from error
    for name in CLIP_ARCHITECTURES:
        config = open_clip.get_model_config(name)
        if all(_at(config, key) == size for key, size in sizes.items()):
            return name
    found = ", ".join(f"{key.replace('_cfg.', ' ')} {size}" for key, size in sizes.items())
    raise ValueError(
        f"no known architecture has these sizes: {found}. Known: {', '.join(CLIP_ARCHITECTURES)}; "
        "for another one give `architecture`, or a folder in open_clip's layout"
    )


def _architecture(checkpoint: Checkpoint, path: Path) -> str:
    name = infer_architecture(checkpoint.state)
    if checkpoint.kind not in QUICK_GELU_KINDS:
        raise ValueError(
            f"{path} ({checkpoint.kind}) does not tell its activation: give architecture="
            f"'{name}-quickgelu' for weights that come from OpenAI's CLIP (FitCLIP's do), "
            f"'{name}' for others, such as those of open_clip trained on LAION"
        )
    return f"{name}-quickgelu"


def _load_by_tag(
    model_and_tag: str, device: str | torch.device, precision: Precision
) -> LoadedModel:
    _check_no_address(model_and_tag)
    name, _, tag = model_and_tag.partition("/")
    if open_clip.get_model_config(name) is None:
        raise ValueError(f"{unknown_model(model_and_tag)} (of {OPEN_CLIP_PREFIX}<model>/<tag>)")
    if not tag:
        raise ValueError(f"{OPEN_CLIP_PREFIX}{name} has no tag: {OPEN_CLIP_PREFIX}<model>/<tag>")
    encoder = ClipEncoder.from_open_clip(name, tag, device, precision=precision)
    protocol = {"architecture": name, "weights": "open_clip", "file": tag} | _computed(precision)
    return LoadedModel(encoder, _state_sha256(encoder.state()), protocol)


def _check_no_address(source: str) -> None:
    if source.startswith(("hf-hub:", "local-dir:")):
        raise ValueError(
            f"{source} is an address of open_clip's, which this kit does not follow: download the "
            "model and give its folder, which is in open_clip's layout"
        )


def _load_folder(folder: Path, device: str | torch.device, precision: Precision) -> LoadedModel:
    weights = weights_file(folder)
    encoder = ClipEncoder.from_folder(folder, device, precision)
    protocol = {
        "architecture": folder.name,
        "weights": "open_clip_folder",
        "file": f"{folder.name}/{weights.name}",
        "config_sha256": file_sha256(folder / CONFIG_FILE),
    } | _computed(precision)
    return LoadedModel(encoder, file_sha256(weights), protocol)


def _computed(precision: Precision) -> dict[str, str]:
    return {} if precision == "float32" else {"precision": precision}


def _protocol(architecture: str, checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "architecture": architecture,
        "weights": checkpoint.kind,
        "file": path.name,
    }
    if checkpoint.left_out:
        protocol["left_out"] = dict(sorted(Counter(checkpoint.left_out.values()).items()))
    return protocol


def _check_no_architecture(source: str | Path, architecture: str | None) -> None:
    if architecture is not None:
        raise ValueError(f"{source} says its own architecture; leave {architecture!r} out")


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(name.startswith(prefix) and name.endswith(".attn.in_proj_weight") for name in state)


def _at(config: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _state_sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
