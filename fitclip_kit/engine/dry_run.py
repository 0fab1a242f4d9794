"""What the notebooks would need with some parameters: the runner's `--dry-run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fitclip_core.video_text import VideoTextEncoder

from data_prep.clip_frames import FrameRule
from data_prep.decode_workers import available_cores
from fitclip_core.devices import pick_device
from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import run_check
from fitclip_kit.engine.calibration import calibrate
from fitclip_kit.engine.plan import plan
from fitclip_kit.engine.plan_report import report
from fitclip_kit.engine.run_jobs import notebook_jobs
from fitclip_kit.engine.sources import TRAINING_SETS, Sources, read_sources
from fitclip_kit.engine.survey import examples, measure_decoding, survey, survey_embedded

_BUSY = 0.5  # load of a core above which the times are not the machine's own
# Stands in where the teacher's weights are not there yet: speed does not depend on them.
ARCHITECTURE = "ViT-B-16-quickgelu"


def dry_run(
    parameters: Mapping[str, Mapping[str, Any]], folder: Path, left_out: Sequence[str] = ()
) -> str:
    """The plan of all notebooks, measured on this machine in about a minute; nothing is run.

    Args:
        parameters: notebook stem -> its parameters.
        folder: where the notebooks run, which their relative paths start from.
        left_out: what they will leave out, sentences to print.

    Raises: ValueError for a broken sources file, a device that is not there, or a size that is
        missing.
    """
    data, sweep = parameters["01_data_prep"], parameters["04_alpha_sweep"]
    named = str(data["sources_file"])
    sources = read_sources(folder / named if named else "")
    numbers = (data["labelled_clips"], data["unlabelled_clips"], data["selection_clips"])
    sizes = dict(zip(TRAINING_SETS, numbers, strict=True))
    sizes |= dict.fromkeys(sources.evaluated, data["evaluation_clips"])
    draws = data["training_draws"]
    busy = _other_work()
    encoder, notes = _encoder(sources, pick_device(str(sweep["device"])))
    rule = FrameRule(n_frames=data["n_frames"], size=encoder.image_size)
    if sources.file is None:
        materials = survey_embedded(sizes, rule, draws)
    else:
        materials = survey(sources.data_sets, sizes, rule)
    jobs, problems = notebook_jobs(
        parameters,
        {one.name: one.clips for one in materials},
        references=len(sources.references),
        released=sources.student is not None,
    )
    found = plan(
        materials,
        rule,
        draws,
        jobs,
        calibrate(encoder, n_frames=rule.n_frames, texts=list(examples(materials)) or None),
        {} if all(one.decoding for one in materials) else measure_decoding(rule, draws),
    )
    return report(found, [*busy, *notes, *problems], [*left_out, *run_check.notes(parameters)])


def _other_work() -> list[str]:
    """A sentence where other programs keep much of the machine busy, as far as the system tells."""
    try:
        load, cores = os.getloadavg()[0], available_cores()
    except (AttributeError, OSError):
        return []  # not on Windows
    if load <= _BUSY * cores:
        return []
    return [
        f"Other programs were at work on this machine (load {load:.1f}, {cores} cores): idle, it "
        "is faster than measured."
    ]


def _encoder(sources: Sources, device: str) -> tuple[VideoTextEncoder, list[str]]:
    """The teacher, or a model of its size where its weights are not there."""
    file = sources.teacher["file"]
    if file.startswith("open_clip:") or Path(file).exists():
        return sources.load_teacher(device).encoder, []
    name = sources.teacher.get("architecture", ARCHITECTURE)
    note = f"The teacher's weights {file} are not there: timed with a random {name}."
    return ClipEncoder.from_open_clip(name, None, device), [note]
