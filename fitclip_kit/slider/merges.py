"""Which fused model the page shows: a student, a share of it for each tower, and a way to merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from torch import Tensor

from fitclip_core import merges
from fitclip_core.clips import TrainingClips
from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import Schedule, Share, State
from fitclip_core.merges import fisher_diagonal
from fitclip_kit.slider.material import Material
from fitclip_kit.store.code import code_digest
from fitclip_kit.store.files import json_digest, read_manifest
from fitclip_kit.weights import checkpoints

AVERAGE, LINEAR, FISHER = "average", "linear in depth", "fisher"
MERGES: Final = (AVERAGE, LINEAR, FISHER)
"""Plain shares; `linear_at`; and Fisher-weighted merging that goes the part alpha of the way from
teacher to student, as notebook 07 sets it up."""
HELD_OUT: Final = "webvid_selection"
_DEFAULTS: Final = {"n": 256, "batch_size": 8, "temperature": 0.015}  # notebook 07's own


@dataclass(frozen=True)
class Fusion:
    """One fused model: a student's number, its share of each tower, kept to 9 decimals as results
    keep it, and the way to merge.

    Raises: ValueError for a share outside [0, 1] or an unknown merge.
    """

    draw: int
    vision: float
    text: float
    merge: str = AVERAGE

    def __post_init__(self) -> None:
        for tower in ("vision", "text"):
            share = float(getattr(self, tower))
            if not 0 <= share <= 1:
                raise ValueError(
                    f"the {tower} tower's share is {share}; the student's share must lie in [0, 1]"
                )
            object.__setattr__(self, tower, round(share, 9) + 0.0)  # -0.0 would be another title
        if self.merge not in MERGES:
            raise ValueError(f"merge is {self.merge!r}; use one of {', '.join(MERGES)}")

    @classmethod
    def at(cls, draw: int, alpha: float, merge: str = AVERAGE) -> Self:
        """The fusion with one alpha for both towers; errors as the class."""
        return cls(draw, alpha, alpha, merge)

    @property
    def is_plain(self) -> bool:
        """Whether the sweep may hold these weights, at `vision`; at 0 and 1 all merges are so."""
        return self.vision == self.text and (self.merge == AVERAGE or self.vision in (0, 1))

    @property
    def scheduled(self) -> set[float]:
        """The alphas at which the merge has to say what each parameter takes."""
        return set() if self.merge == AVERAGE else {self.vision, self.text} - {0.0, 1.0}

    @property
    def ends(self) -> tuple[Fusion, Fusion]:
        """The teacher and the student that are fused."""
        return Fusion.at(self.draw, 0), Fusion.at(self.draw, 1)

    @property
    def title(self) -> str:
        """Plain text for headings, such as "vision 0.4, text 0.7 · student 1"."""
        shares = f"α = {self.vision:.9g}"
        if self.vision != self.text:
            shares = f"vision {self.vision:.9g}, text {self.text:.9g}"
        merge = "" if self.merge == AVERAGE else f"{self.merge}, "
        return f"{merge}{shares} · student {self.draw}"


def merged(fusion: Fusion, schedules: Mapping[float, Schedule]) -> Callable[[str], Share]:
    """The student's share of each parameter, as `ensembling.interpolate` takes it.

    schedules: the merge's, at each of `fusion.scheduled`; towers at 0 and 1 need none.
    """
    if fusion.is_plain:
        return lambda name: fusion.vision
    towers = merges.per_tower(fusion.vision, fusion.text)

    def share(name: str) -> Share:
        alpha = towers(name)
        if alpha not in fusion.scheduled:
            return alpha
        schedule = schedules[alpha]
        return schedule[name] if isinstance(schedule, Mapping) else schedule(name)

    return share


def linear_at(alpha: float, state: State) -> dict[str, float]:
    """Shares that grow linearly with depth and are alpha in the middle of each tower.

    They go from 0 to 2 alpha, or from 2 alpha - 1 to 1 above a half.
    """
    return merges.linear_in_depth(max(0.0, 2 * alpha - 1), min(1.0, 2 * alpha), state)


def fisher_inputs(material: Material) -> tuple[TrainingClips, dict[str, str], dict[str, Any]]:
    """What `fisher_diagonal` is to look at: held-out clips, digests of what they are made from, and
    its settings, notebook 07's or its defaults; whole batches of fewer clips.

    Raises: ValueError when the run has no held-out clips.
    """
    clips, digests = material.run.training_clips(HELD_OUT)
    try:
        used = read_manifest(material.run.path / "07_supplementary_figures")["parameters"]
    except ValueError:
        used = {}
    settings = {name: used.get(name, default) for name, default in _DEFAULTS.items()}
    whole_batches = len(clips) // settings["batch_size"] * settings["batch_size"]
    settings["n"] = min(settings["n"], whole_batches)
    return clips, dict(digests), settings


def kept_diagonal(
    material: Material,
    encoder: ClipEncoder,
    weights_sha256: str,
    inputs: tuple[TrainingClips, dict[str, str], dict[str, Any]],
) -> dict[str, Tensor]:
    """The Fisher diagonal of the encoder's weights, for which the digest stands, kept on disk: name
    -> float32 on the CPU."""
    clips, digests, settings = inputs
    made_from = {"weights": weights_sha256, "code": code_digest("fitclip_core.merges")}
    key = json_digest({**made_from, **digests, **settings})
    file = material.folder / "fisher" / f"{weights_sha256}.safetensors"
    try:
        known = checkpoints.metadata(file).get("key")
    except (FileNotFoundError, ValueError):
        known = None  # not there, or damaged: it is made again
    if known != key:
        made = fisher_diagonal(encoder, clips, seed=0, **settings)
        checkpoints.save(file, made, {"key": key})
    return checkpoints.load(file)
