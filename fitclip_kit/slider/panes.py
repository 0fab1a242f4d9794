"""The parts of the page below the curves, each as HTML: a clip, a query, a data set in detail.

Those that take a live model encode, so they belong in the background.
"""

from __future__ import annotations

from html import escape
from typing import Final

import numpy as np
import pandas as pd

from figures.explorer_state import interval_text, percent_text
from fitclip_kit.slider import html, views
from fitclip_kit.slider.answers import Answers
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel, Progress, Stop
from fitclip_kit.slider.material import ClipSet
from fitclip_kit.slider.own_videos import OwnVideos
from fitclip_kit.slider.stored import Point
from fitclip_kit.slider.work import part

SHOWN: Final = 8  # clips, classes or captions
_MODELS: Final = {"Teacher (%)": "teacher", "Student (%)": "student", "Fused (%)": "fused"}


def clip_name(clip_set: ClipSet, row: int) -> str:
    """A clip in words: its id and its caption or label."""
    clip_id, right = clip_set.clip_ids[row], right_place(clip_set, row)
    return clip_id if right is None else f"{clip_id}: {clip_set.texts[right]}"


def clip_strip(clip_set: ClipSet, row: int) -> str:
    """The frames of a clip, with its name for screen readers."""
    frames = clip_set.frames_of(row)
    return html.strip(frames, f"{len(frames)} frames of {clip_name(clip_set, row)}")


def clip_probabilities(
    live: LiveModel, fusion: Fusion, clip_set: ClipSet, row: int, stop: Stop, progress: Progress
) -> str:
    """The most probable classes or captions of a clip, as bars; errors as `clip_scores`."""
    found = clip_scores(live, fusion, clip_set, row, stop, progress)
    things = "captions" if clip_set.task == "retrieval" else "classes"
    return html.probability_bars(
        found, f"Most probable of {len(clip_set.texts):,} {things} · {fusion.title}"
    )


def clip_scores(
    live: LiveModel, fusion: Fusion, clip_set: ClipSet, row: int, stop: Stop, progress: Progress
) -> pd.DataFrame:
    """`views.probabilities` of a clip, at a fusion.

    Raises: Superseded when `stop()` turns true.
    """
    texts = live.text_features(fusion, clip_set, stop=stop, progress=progress)
    video = live.clip_features(fusion, clip_set, [row], stop=stop)[0]
    right = right_places(clip_set, row)
    return views.probabilities(video, texts, live.logit_scale, clip_set.texts, right, SHOWN)


def query_gallery(
    live: LiveModel, fusion: Fusion, clip_set: ClipSet, text: str, stop: Stop, progress: Progress
) -> tuple[str, str]:
    """The clips that a typed text retrieves, and in words what changed since the teacher.

    Returns: HTML of the gallery, and a sentence as HTML.

    Raises: Superseded when `stop()` turns true.
    """
    teacher, _ = fusion.ends
    clips, ids = clip_set.first_rows, clip_set.clip_ids
    now, before = (
        views.retrieved(
            live.query_features(side, [text], stop=stop)[0],
            live.video_features(side, clip_set, stop=stop, progress=part(progress, place, 2))[
                clips
            ],
            [ids[row] for row in clips],
            SHOWN,
        )
        for place, side in enumerate((fusion, teacher))
    )
    entered, left = views.entered_left(now, before)
    rows = {clip_id: row for row, clip_id in enumerate(ids)}
    shown = [*now["clip_id"], *left["clip_id"]]
    gallery = html.gallery(
        now,
        {clip_id: _middle_frame(clip_set, rows[clip_id]) for clip_id in shown},
        f"“{text}” in {clip_set.title} · {fusion.title}",
        texts={clip_id: clip_name(clip_set, rows[clip_id]) for clip_id in shown},
        entered=entered["clip_id"].tolist(),
        left=left["clip_id"].tolist(),
    )
    return gallery, _entered_in_words(len(now), entered, left)


def at_a_glance(point: Point | None, title: str) -> str:
    """A data set's measure in one short sentence, whatever is known of it."""
    if point is None:
        return f"<p><b>{escape(title)}</b>: nothing is known before it is measured…</p>"
    about = "≈ " if point.status == "interpolated" else ""
    said = "interpolated between the stored alphas…" if about else ""
    return (
        f"<p><b>{escape(title)}</b>: <b>{about}{percent_text(point.value)}%</b> "
        f"{interval_text(point.ci_low, point.ci_high)} {said}</p>"
    )


def set_answer(answers: Answers, fusion: Fusion, clip_set: ClipSet) -> str:
    """A measured data set against teacher and student, in a sentence."""
    now, teacher, student = (_outcomes(answers, side, clip_set) for side in (fusion, *fusion.ends))
    point = answers.point(fusion, clip_set.name)
    status = "exact" if point is None else point.status
    measure = answers.sweep.measures[clip_set.name]
    return html.answer(views.set_answer(now, teacher, student, measure, status), clip_set.title)


def set_changes(answers: Answers, fusion: Fusion, clip_set: ClipSet) -> str:
    """What a measured data set's classes or items gained and lost since the teacher."""
    now, teacher = (_outcomes(answers, side, clip_set) for side in (fusion, fusion.ends[0]))
    since = f"<p><b>Since the teacher</b> · {escape(fusion.title)}</p>"
    if clip_set.task == "classification":
        return since + html.changes(views.class_changes(now, teacher))
    found = views.retrieval_changes(now, teacher, answers.sweep.measures[clip_set.name])
    rows = {clip_id: row for row, clip_id in enumerate(clip_set.clip_ids)}
    names = {item: clip_name(clip_set, rows[item]) for item in found["item"].astype(str)}
    return since + html.changes(found, names)


def right_place(clip_set: ClipSet, row: int) -> int | None:
    """Where a clip's right caption or class stands in `texts`; None where it is not known."""
    if not clip_set.has_answers:
        return None
    if clip_set.task == "retrieval":
        return row
    return clip_set.texts.index(clip_set.trial.clips["label"].iloc[row])


def right_places(clip_set: ClipSet, row: int) -> list[int] | None:
    """As `right_place`, with the other captions of the row's clip."""
    right = right_place(clip_set, row)
    if right is None:
        return None
    return clip_set.right_rows(row) if clip_set.task == "retrieval" else [right]


def _outcomes(answers: Answers, fusion: Fusion, clip_set: ClipSet) -> pd.DataFrame:
    found = answers.outcomes(fusion, clip_set.name)
    if found is None:
        raise ValueError(f"{clip_set.title} is not measured at {fusion.title}; measure it first")
    return found


def _middle_frame(clip_set: ClipSet, row: int) -> np.ndarray:
    frames = clip_set.frames_of(row)
    middle: np.ndarray = frames[len(frames) // 2]
    return middle


def _entered_in_words(count: int, entered: pd.DataFrame, left: pd.DataFrame) -> str:
    if entered.empty and left.empty:
        return f"<p>The same {count} clips as the teacher's (α = 0).</p>"
    return (
        f"<p>Since the teacher (α = 0) {len(entered)} of the first {count} entered and "
        f"{len(left)} left.</p>"
    )


def own_failures(own: OwnVideos) -> str:
    """The own files that are left out, with the reason."""
    if own.failures.empty:
        return ""
    count = len(own.failures)
    caption = f"{count} {'file is' if count == 1 else 'files are'} left out"
    names = {"path": "File", "reason": "Reason"}
    return html.table(own.failures[list(names)].rename(columns=names), caption)


def own_table(clip_set: ClipSet, found: pd.DataFrame, fusion: Fusion) -> str:
    """Each own clip's frames, and its texts as teacher, student and fused model score them.

    found: from `own_videos.compare`; the texts that the fused model finds most probable are shown.
    """
    parts = []
    for row, (clip_id, scores) in enumerate(found.groupby("clip_id", sort=False)):
        frames = clip_set.frames_of(row)
        best = scores.sort_values("fused", ascending=False, kind="stable").head(SHOWN)
        table = pd.DataFrame(
            {
                "Text": best["text"],
                **{name: best[key].map(percent_text) for name, key in _MODELS.items()},
            }
        )
        of = f", {len(best)} of {len(scores)} texts" if len(best) < len(scores) else ""
        parts.append(
            f"<div>{html.strip(frames, f'{len(frames)} frames of {clip_id}')}"
            f"{html.table(table, f'{clip_id}{of}', numeric=_MODELS)}</div>"
        )
    return f'<p><b>{escape(fusion.title)}</b></p><div class="fk-pair">{"".join(parts)}</div>'
