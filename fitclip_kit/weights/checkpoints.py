"""Model weights on disk, as safetensors: no code runs on load, no half-written file."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fitclip_kit.store.files import atomic_path

# safetensors writes metadata in a random order; one JSON entry keeps equal files equal in bytes.
_METADATA_KEY = "fitclip"


def save(
    path: str | Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights and notes to a safetensors file, atomically; same input, same bytes.

    Args:
        path: the file to make or replace; its folder is made where needed.
        state, dtype: as `storable`.
        metadata: notes, text -> text, such as the recipe and the seed.

    Raises:
        ValueError: as `storable`, or metadata are not text.

    Source: the safetensors format, https://huggingface.co/docs/safetensors.
    """
    notes = dict(metadata or {})
    for key, value in notes.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise ValueError(f"metadata {key!r} is {value!r}: keys and values must be text")
    tensors = storable(state, dtype)
    stored = {_METADATA_KEY: json.dumps(notes, sort_keys=True)}
    with atomic_path(Path(path)) as temporary:
        safetensors.torch.save_file(tensors, temporary, stored)


def storable(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copies of a state's tensors to write: on the CPU, contiguous, each with memory of its own.

    Args:
        state: name -> tensor, on any device.
        dtype: precision of the floating-point copies; None keeps each one's own.

    Raises:
        ValueError: the state is empty, a value is not a tensor, a tensor is quantised or not finite
            (also after the cast; it is named), or dtype is not a floating-point type.
    """
    if not state:
        raise ValueError("the state holds no tensors: pass model.state_dict()")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}: it must be a floating-point type, such as float16")
    copies = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}: a state holds tensors only")
        cast = dtype if value.is_floating_point() else None
        tensor = value.detach().cpu().to(cast)
        if tensor.is_floating_point() and tensor.itemsize < 2:
            raise ValueError(f"{name} is {tensor.dtype}: quantised weights are not kept")
        if not torch.isfinite(tensor).all():
            as_type = "" if dtype is None else f" as {dtype}"
            raise ValueError(f"{name} holds NaN or infinite values{as_type}; it is not kept")
        copies[name] = tensor.clone(memory_format=torch.contiguous_format)
    return copies


def load(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of any safetensors file, in their stored precision, on the CPU.

    Values are not checked: FitCLIP's released student holds a NaN `logit_scale`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle, or not a whole safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error


def metadata(path: str | Path) -> dict[str, str]:
    """Read the notes of a safetensors file; another program's file gives that program's entries.

    Raises: as `load`.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error
    return json.loads(stored[_METADATA_KEY]) if _METADATA_KEY in stored else dict(stored)


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    # Only a file that failed to parse is looked at: a sound one may start with the same bytes.
    with open(path, "rb") as file:
        start = file.read(11)
    if start.startswith(b"version htt"):
        return ValueError(f"{path} is a git-LFS pointer, not the weights: fetch its file")
    if start.startswith((b"\x80", b"PK\x03\x04")):  # a bare pickle, or torch.save's zip of one
        return ValueError(
            f"{path} is a pickle, which can run code when loaded. foreign_checkpoints."
            "read_checkpoint reads a zip of torch.save safely; for another one, if you trust its "
            "maker, use torch.load(path, weights_only=True) and write it with checkpoints.save"
        )
    return ValueError(f"{path} is not a whole safetensors file ({error}): fetch or write it again")
