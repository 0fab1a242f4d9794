"""What `benchmarks.webvid_plan` measures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from benchmarks.frame_store_ways import FILM, N_FRAMES, Clips, films
from benchmarks.processor import used_by
from benchmarks.retrieval_ranks import vectors
from data_prep import frame_store
from data_prep.clip_frames import FrameRule
from fitclip_core.encoders import ClipEncoder
from fitclip_core.metrics import retrieval_ranks_both_ways
from fitclip_kit.engine.calibration import calibrate
from fitclip_kit.engine.webvid_plan import NUMBERS, UnitCosts

MODEL = "ViT-B-16-quickgelu"


def unit_costs(folder: Path, videos: int, texts: int, seconds: float) -> UnitCosts:
    """Measure one machine's costs of a clip, a picture, a caption and a pair."""
    clips = films(folder / "films", videos)
    encoder = ClipEncoder.from_open_clip(MODEL)
    speed = calibrate(encoder, seconds=seconds, n_frames=N_FRAMES)
    pairs = vectors(texts, int(NUMBERS["width"].value), 8.0)
    ranking = used_by(partial(retrieval_ranks_both_ways, *pairs))
    draws = int(NUMBERS["training_draws"].value)
    width, height, rate, length = FILM
    return UnitCosts(
        decode_core_seconds=_decode(clips, folder / "evaluation", encoder.image_size, 0),
        training_core_seconds=_decode(clips, folder / "training", encoder.image_size, draws),
        image_seconds=1 / speed.images.per_second,
        text_seconds=1 / speed.texts.per_second,
        rank_core_seconds=ranking / texts**2,
        parameters=speed.parameters,
        measured_on=(
            f"{videos} made-up films of {width}x{height}, {rate} frames a second, {length} s; "
            f"{MODEL} with random weights, texts of {speed.text_words:.0f} words, on "
            f"{speed.device} with {torch.get_num_threads()} threads; {texts:,} x {texts:,} ranks"
        ),
    )


def _decode(clips: Clips, out: Path, size: int, draws: int) -> float:
    """Core-seconds of a clip; those that a build takes in any case are taken off."""
    rule = FrameRule(N_FRAMES, size, draws_per_interval=draws)
    used = {}
    for number in (2, len(clips.table)):
        part = clips.table[:number]
        build = partial(frame_store.build, part, clips.root, out / str(number), rule)
        used[number] = used_by(partial(build, progress=False))
    few, many = sorted(used)
    return (used[many] - used[few]) / (many - few)
