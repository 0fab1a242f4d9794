"""A run of tiny random models and clips, to explore in tests without a run folder's notebooks."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch

from fitclip_kit.engine.measure import EvaluationSet, Student, measure, sweep_cells
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.slider.material import Material, clip_set_of
from fitclip_kit.store.results import Cell, ResultsStore
from fitclip_kit.weights.models import LoadedModel
from tests.make import RandomClips, tiny_encoder

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
            draw: Student(
                draw=draw,
                labelled_clips=9,
                labelled_share=0.5,
                state=tiny_encoder(draw, layers, kind).state(),
                sha256=f"student{draw}",
            )
            for draw in draws
        },
        sets={one.name: clip_set_of(one, one.name.title()) for one in DATA_SETS},
        cells=[],
        model={"architecture": "tiny"},
    )


def teacher_of(material: Material) -> LoadedModel:
    """The material's teacher, as cells are measured with it."""
    return LoadedModel(copy.deepcopy(material.encoder), "teacher", dict(material.model))


def sweep_into(results: ResultsStore, material: Material, alphas: Sequence[float]) -> list[Cell]:
    """Measure the material's students on `DATA_SETS`."""
    known = list(material.students.values())
    cells = sweep_cells([one.name for one in DATA_SETS], known, alphas)
    measure(cells, teacher_of(material), DATA_SETS, results, students=known)
    return cells


def uneven(n: int) -> RandomClips:
    """Clips of which every second one has a single frame."""
    clips = RandomClips(n)
    clips.frame_counts = np.where(np.arange(n) % 2, 1, 2)
    return clips
