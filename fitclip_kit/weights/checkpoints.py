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
    """Write `storable` weights and notes to a safetensors file, atomically; same input, same bytes.

    Raises: ValueError, as `storable`.
    """
    tensors = storable(state, dtype)
    notes = {_METADATA_KEY: json.dumps(dict(metadata or {}), sort_keys=True)}
    with atomic_path(Path(path)) as temporary:
        safetensors.torch.save_file(tensors, temporary, notes)


def storable(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copies of a state's tensors to write: on the CPU, contiguous, each with memory of its own.

    `dtype` is the precision of the floating-point copies; None keeps each one's own.

    Raises: ValueError for no tensors, one that is quantised or not finite (also after the cast), or
        a dtype that is no floating-point type.
    """
    if not state:
        raise ValueError("the state holds no tensors: pass model.state_dict()")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}: it must be a floating-point type, such as float16")
    copies = {}
    for name, value in state.items():
        tensor = value.detach().cpu().to(dtype if value.is_floating_point() else None)
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

    Raises: FileNotFoundError; ValueError for a pickle, or no whole safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error


def metadata(path: str | Path) -> dict[str, str]:
    """The notes of a safetensors file, or another program's entries; errors as `load`."""
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
            f"{path} is a pickle, which can run code when loaded. foreign_checkpoints reads a zip "
            "of torch.save safely; if you trust the maker of another one, read it with "
            "torch.load(path, weights_only=True) and write it with checkpoints.save"
        )
    return ValueError(f"{path} is not a whole safetensors file ({error}): fetch or write it again")
