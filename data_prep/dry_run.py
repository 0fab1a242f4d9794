"""What the notebooks would need with some parameters: `python -m notebooks.run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.clip_frames import FrameRule
from data_prep.mini_benchmark.data_sets import TEMPLATES
from data_prep.plan import Material, Role, measure_decoding, plan, report, survey
from data_prep.sources import TRAINED_ON, TRAINING_SETS, Sources, read_sources
from fitclip_core.calibration import calibrate
from fitclip_core.devices import pick_device
from fitclip_core.distillation import Recipe
from fitclip_core.encoders import ClipEncoder
from fitclip_core.video_text import VideoTextEncoder

# Stands in where the teacher's weights are not there yet: speed does not depend on them.
ARCHITECTURE = "ViT-B-16-quickgelu"


def dry_run(parameters: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """The plan of notebooks 01 to 04, measured on this machine in about a minute; nothing is run.

    Args:
        parameters: notebook stem -> its parameters.
        folder: where the notebooks run, which their relative paths start from.

    Raises: ValueError for a broken sources file, a device that is not there, or a size that is
        missing.
    """
    data, training, sweep = (
        parameters[stem] for stem in ("01_data_prep", "03_student_distillation", "04_alpha_sweep")
    )
    named = str(data["sources_file"])
    sources = read_sources(folder / named if named else "")
    numbers = (data["labelled_clips"], data["unlabelled_clips"], data["selection_clips"])
    sizes = dict(zip(TRAINING_SETS, numbers, strict=True))
    sizes |= dict.fromkeys(sources.evaluated, data["evaluation_clips"])
    encoder, note = _encoder(sources, pick_device(str(sweep["device"])))
    rule = FrameRule(n_frames=data["n_frames"], size=encoder.image_size)
    if sources.file is None:
        materials = list(_embedded(sizes))
    else:
        materials = survey(
            sources.data_sets, sizes, rule, trained_on=TRAINED_ON, selected_on=TRAINING_SETS[2:]
        )
    recipe = Recipe(
        **{
            name: training[name]
            for name in ("steps", "validate_every", "labelled_batch", "unlabelled_batch")
        },
        labelled_share=training["labelled_share"],
        seed=0,
    )
    found = plan(
        materials,
        rule,
        data["training_draws"],
        recipe,
        calibrate(encoder, n_frames=rule.n_frames),
        measure_decoding(rule, data["training_draws"]),
        alphas=sweep["alphas"],
        trained=sum(draw > 0 for draw in training["draws"]),
        fused=len(sweep["draws"]),
        references=len(sources.references),
    )
    return report(found) + note


def _encoder(sources: Sources, device: str) -> tuple[VideoTextEncoder, str]:
    """The teacher, or a model of its size where its weights are not there."""
    file = sources.teacher["file"]
    if file.startswith("open_clip:") or Path(file).exists():
        return sources.load_teacher(device).encoder, ""
    name = sources.teacher.get("architecture", ARCHITECTURE)
    note = f"\nThe teacher's weights {file} are not there: timed with a random {name}."
    return ClipEncoder.from_open_clip(name, None, device), note


def _embedded(sizes: Mapping[str, int]) -> Iterator[Material]:
    for name, clips in sizes.items():
        role: Role = "evaluation"
        if name in TRAINING_SETS:
            role = "training" if name in TRAINED_ON else "validation"
        retrieval = name not in TEMPLATES
        directions = 2 if retrieval else 1
        yield Material(name, role, clips, clips, directions, basis="profile")
