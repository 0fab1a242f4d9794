"""Keep what the page shows: the state as a figure, the fused model as a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from figures import style
from figures.explorer_state import Strip, percent_text, state_figure
from fitclip_kit.slider import html, panes, views
from fitclip_kit.slider.answers import Answers
from fitclip_kit.slider.curves import CurvePicture
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel, never, unseen
from fitclip_kit.slider.material import ClipSet, Material

FOLDER: Final = "explore_alpha"
_NAMED: Final = 3  # classes or captions that are printed beside a clip


def folder_of(material: Material) -> Path:
    """Where a run keeps what is saved from the page."""
    return material.run.path / FOLDER


def save_figure(
    live: LiveModel, answers: Answers, fusion: Fusion, clip_set: ClipSet, row: int
) -> list[Path]:
    """Write the state of the page as PNG and PDF into the run's folder; returns the two paths.

    It has every data set's curve with the marker, the metrics table, and the shown clip with its
    most probable classes or captions. What is not measured yet is drawn as an estimate, or left
    out where there is none.

    Args:
        live: of the run; what the clip needs is encoded.
        answers: what is known of the fusion.
        fusion: what is shown.
        clip_set: the shown data set.
        row: the shown clip.
    """
    material, points = live.material, answers.points(fusion)
    titles = {name: one.title for name, one in material.sets.items()}
    table = views.metrics_table(points, answers.sweep, fusion.draw)
    found = panes.clip_scores(live, fusion, clip_set, row, never, unseen).head(_NAMED)
    named = [
        f"{percent_text(share)}% {text}{' (right)' if right else ''}"
        for share, text, right in zip(
            found["probability"], found["name"], found["right"], strict=True
        )
    ]
    about = "\n".join([panes.clip_name(clip_set, row), *named])
    figure = state_figure(
        fusion.title,
        CurvePicture(answers.sweep, fusion.draw, titles).panels,
        points,
        (fusion.vision, fusion.text),
        html.numbers(table, titles),
        [Strip(clip_set.frames_of(row), f"{clip_set.title}, clip {row + 1}", about)],
    )
    stem = f"{_stem(fusion)}_{_plain(clip_set.name)}_clip_{row + 1}"
    provenance = {
        "results": material.run.results.digest(material.keys),
        "teacher": material.teacher_sha256,
        "student": material.students[fusion.draw].sha256,
    }
    return style.save(figure, folder_of(material) / stem, provenance)


def save_checkpoint(live: LiveModel, fusion: Fusion) -> list[Path]:
    """Write the fused weights, with what they are made of, into the run's folder; returns the path
    in a list."""
    path = folder_of(live.material) / f"{_stem(fusion)}.safetensors"
    return [live.save_checkpoint(fusion, path)]


def _stem(fusion: Fusion) -> str:
    """The fusion's title as a file name, such as alpha_0.4_student_1."""
    return _plain(fusion.title.replace("α", "alpha"))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.")
