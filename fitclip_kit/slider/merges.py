"""Which fused model the page shows: a student, a share of it for each tower, and a way to merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """One fused model of a teacher and a student.

    Attributes:
        draw: the student's number.
        vision, text: the student's share of each tower, in [0, 1], kept to 9 decimals as results
            keep it.
        merge: one of `MERGES`.

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
        """Whether the weights are those of the plain sweep at `vision`; at 0 and 1 all merges are.

        Such a fusion's outcomes may be stored.
        """
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

    A tower whose share is 0 is the teacher's and one whose share is 1 the student's, in any merge.

    Args:
        fusion: the model that is wanted.
        schedules: the merge's schedule, for both towers, at each of `fusion.scheduled`.
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

    They go from 0 to 2 alpha, as notebook 07's `deeper`; above a half, where that would pass 1,
    from 2 alpha - 1 to 1.
    """
    return merges.linear_in_depth(max(0.0, 2 * alpha - 1), min(1.0, 2 * alpha), state)


@dataclass(frozen=True, eq=False)
class FisherDiagonals:
    """Diagonals of Fisher information, computed when a merge first needs them and kept on disk.

    Attributes:
        folder: where they are kept.
        clips: held-out clips of the student's domain, in evaluation form.
        digests: of what the clips are made from.
        settings: `n`, `batch_size` and `temperature` of `merges.fisher_diagonal`.
    """

    folder: Path
    clips: TrainingClips
    digests: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, material: Material) -> Self:
        """With the clips and numbers of notebook 07, or its defaults where it was not run.

        Of fewer clips than that, as many as make whole batches.

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
        return cls(material.folder / "fisher", clips, digests, settings)

    @property
    def pictures(self) -> int:
        """How many frames go through the model at most."""
        return int(self.settings["n"] * self.clips.frames.frame_counts.max())

    def diagonal(self, encoder: ClipEncoder, weights_sha256: str) -> dict[str, Tensor]:
        """Of the encoder's weights, for which the digest stands: name -> float32 on the CPU."""
        made_from = {"weights": weights_sha256, "code": code_digest("fitclip_core.merges")}
        key = json_digest({**made_from, **self.digests, **self.settings})
        file = self.folder / f"{weights_sha256}.safetensors"
        try:
            known = checkpoints.metadata(file).get("key")
        except (FileNotFoundError, ValueError):
            known = None  # not there, or damaged: it is made again
        if known != key:
            made = fisher_diagonal(encoder, self.clips, seed=0, **self.settings)
            checkpoints.save(file, made, {"key": key})
        return checkpoints.load(file)
