"""A run of tiny random models and clips, to explore in tests without a run folder's notebooks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch

from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sweep import EvaluationSet, Student
from fitclip_kit.slider.material import Material, clip_set_of
from tests.tiny_clip import RandomClips, tiny_encoder

TEMPLATES = ("{}", "a {}")
DATA_SETS = [
    EvaluationSet(
        "pairs",
        pd.DataFrame(
            {
                "clip_id": [f"clip{place}" for place in range(9)],
                "text": [f"{chr(97 + place)}{place}z" for place in range(8)] + ["a0z"],
            }
        ),
        RandomClips(11, seed=3),
    ),
    EvaluationSet(
        "actions",
        pd.DataFrame(
            {
                "clip_id": [f"clip{place}" for place in (4, 2, 7, 0, 1)],
                "label": ["run", "jump", "run", "sit", "jump"],
            }
        ),
        RandomClips(8, seed=4),
        templates=TEMPLATES,
        classes=("sit", "jump", "run", "eat"),
    ),
]


def tiny_material(
    folder: Path,
    draws: Sequence[int] = (1, 2),
    layers: tuple[int, int] = (2, 1),
    kind: type[torch.nn.Module] = open_clip.CLIP,
) -> Material:
    """Nothing is written: only what asks the run for files needs them."""
    return Material(
        run=RunFolder(folder),
        encoder=tiny_encoder(0, layers, kind),
        teacher_sha256="teacher",
        students={
            draw: Student(draw, tiny_encoder(draw, layers, kind).state(), f"student{draw}")
            for draw in draws
        },
        sets={one.name: clip_set_of(one, one.name.title()) for one in DATA_SETS},
        keys=[],
        model={"architecture": "tiny"},
    )


def uneven(n: int) -> RandomClips:
    """Clips of which every second one has a single frame."""
    clips = RandomClips(n)
    clips.frame_counts = np.where(np.arange(n) % 2, 1, 2)
    return clips
