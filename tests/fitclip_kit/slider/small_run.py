"""A run folder as notebooks 01, 03 and 04 leave it, made in seconds, for the page to open."""

from pathlib import Path
from typing import cast
from unittest.mock import patch

import pandas as pd
import torch

from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, StudentFit
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import students
from fitclip_kit.engine.measure import measure, sweep_cells
from fitclip_kit.engine.run_folder import RunFolder
from fitclip_kit.engine.sources import Sources, prepare

SIZES = {"msrvtt": 100, "ucf101": 100, "webvid_selection": 16}
EVALUATED = ("msrvtt", "ucf101")
ALPHAS = (0.0, 0.4, 1.0)
DRAWS = (1, 2)
TRAINING = {"labelled_share": 0.9999, "labelled_clips": 32}


def build_run(folder: Path) -> Path:
    """Two data sets of the embedded benchmark, three stored alphas, and two students that are the
    teacher with noise, as training takes longer than all the rest."""
    run, sources = RunFolder(folder), Sources()
    teacher = sources.load_teacher()
    rule = FrameRule(size=teacher.encoder.image_size)
    for name, one in prepare(sources, run.data, SIZES, seed=7).items():
        frame_store.build(one.clips, one.root, run.frames / name, rule, workers=1, progress=False)
    made_from = {"teacher": teacher.sha256, "sources": sources.digest}
    encoder, trained = cast(ClipEncoder, teacher.encoder), []
    for draw in DRAWS:
        training = students.Training(
            folder=run.student(draw),
            draw=draw,
            labelled_clips=32,
            recipe=Recipe(steps=1, validate_every=1, seed=draw),
            labelled=None,
            inputs=made_from,
        )
        nothing = cast(TrainingClips, None)
        with patch.object(students, "fit_student", return_value=noisy(encoder.state(), draw)):
            trained.append(students.train(training, encoder, nothing, nothing).student)
    run.finish("03_student_distillation", {"draws": list(DRAWS), **TRAINING}, made_from)
    cells = sweep_cells(EVALUATED, trained, ALPHAS)
    data_sets = [run.evaluation_set(name) for name in EVALUATED]
    measure(cells, teacher, data_sets, run.results, students=trained)
    run.finish("04_alpha_sweep", {"alphas": list(ALPHAS), "draws": list(DRAWS)}, made_from)
    return folder


def noisy(state: dict[str, torch.Tensor], seed: int) -> StudentFit:
    """The weights with three tenths of their own spread added as noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.randn(tensor.shape, generator=generator) * tensor.std(correction=0) * 0.3
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
    changed = {name: tensor + noise.get(name, 0) for name, tensor in state.items()}
    losses = {"labelled_loss": [0.0], "distillation_loss": [0.0], "validation_loss": [0.0]}
    return StudentFit(changed, pd.DataFrame({"step": [0], **losses}), best_step=0)
