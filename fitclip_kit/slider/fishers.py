"""Fisher diagonals of a run's models: computed when a merge first needs them, kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from fitclip_core.distillation import TrainingClips
from fitclip_core.encoders import ClipEncoder
from fitclip_core.merges import fisher_diagonal
from fitclip_kit.slider.material import Material
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import json_digest, read_manifest
from fitclip_kit.weights import checkpoints

HELD_OUT: Final = "webvid_selection"
SUPPLEMENT: Final = "07_supplementary_figures"
_DEFAULTS: Final = {"n": 256, "batch_size": 8, "temperature": 0.015}  # notebook 07's own


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the diagonals are taken over.

    Attributes:
        folder: where the diagonals are kept.
        clips: held-out clips of the student's domain, in evaluation form.
        digests: of what the clips are made from.
        settings: `n`, `batch_size` and `temperature` of `merges.fisher_diagonal`.
    """

    folder: Path
    clips: TrainingClips
    digests: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def pictures(self) -> int:
        """How many frames go through the model at most."""
        return int(self.settings["n"] * self.clips.frames.frame_counts.max())


def held_out(material: Material) -> HeldOut:
    """The clips and numbers of notebook 07, or its defaults where it was not run.

    With fewer clips than that, as many as make whole batches.

    Raises: ValueError when the run has no held-out clips.
    """
    clips, digests = material.run.training_clips(HELD_OUT)
    folder = material.run.path / "explore_alpha" / "fisher"
    return HeldOut(folder, clips, digests, _settings(material, len(clips)))


def diagonal(over: HeldOut, encoder: ClipEncoder, weights_sha256: str) -> dict[str, Tensor]:
    """The diagonal of one model's Fisher information, read where it was computed before.

    Args:
        over: from `held_out`.
        encoder: holds the model's weights; they are left as they are.
        weights_sha256: digest that stands for these weights.

    Returns:
        name -> float32 on the CPU, as `merges.fisher_diagonal`, whose errors it has.

    Raises: OSError when the file cannot be written.
    """
    made_from = {"weights": weights_sha256, "code": code_digest("fitclip_core.merges")}
    key = json_digest({**made_from, **over.digests, **over.settings})
    file = over.folder / f"{weights_sha256}.safetensors"
    if _key(file) != key:
        found = fisher_diagonal(encoder, over.clips, seed=0, **over.settings)
        checkpoints.save(file, found, {"key": key})
    return checkpoints.load(file)


def _settings(material: Material, clips: int) -> dict[str, Any]:
    try:
        used = read_manifest(material.run.path / SUPPLEMENT)["parameters"]
    except ValueError:
        used = {}
    settings = {name: used.get(name, default) for name, default in _DEFAULTS.items()}
    whole_batches = clips // settings["batch_size"] * settings["batch_size"]
    return settings | {"n": min(settings["n"], whole_batches)}


def _key(file: Path) -> str | None:
    try:
        return checkpoints.metadata(file).get("key")
    except (FileNotFoundError, ValueError):
        return None  # not there, or damaged: it is made again
