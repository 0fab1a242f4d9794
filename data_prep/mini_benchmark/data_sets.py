"""The benchmark's nine data sets: what clips show, how they look, what is written of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from data_prep.mini_benchmark.concepts import Concept, actions, concept_by_name, concepts
from data_prep.mini_benchmark.scenes import MOTIONS, Look, Shot, place_actors
from data_prep.mini_benchmark.stills import COLOURS

FRAMES_A_CLIP = 16
FRAMES_A_SHOT = 8
# Which concepts the student's training clips may show; fixed, whatever the run's seed.
_SEEN_SEED = 22


@dataclass(frozen=True)
class ClipPlan:
    """One clip before it is drawn. `text` for retrieval sets, `label` for action sets."""

    shots: tuple[Shot, ...]
    text: str | None = None
    label: str | None = None


_WEBVID_LOOK = Look(
    brightness=(0.75, 1.1),
    contrast=(0.7, 1.0),
    cast=0.1,
    noise=(3, 14),
    downscale=(1.2, 2.2),
    blur=(0.0, 1.2),
    ghosting=(0.1, 0.5),
    clutter=(0, 2),
    letterbox=0.1,
    watermark=0.5,
    shake=2,
    distractor=0.15,
)
# The other sets share the ways in which video differs from stills, each with an accent of its own.
LOOKS: dict[str, Look] = {
    "webvid": _WEBVID_LOOK,
    "msrvtt": replace(_WEBVID_LOOK, cast=0.15, noise=(4, 20), letterbox=0.3, watermark=0, shake=4),
    "youcook2": replace(_WEBVID_LOOK, clutter=(1, 4), letterbox=0, watermark=0),
    "didemo": replace(_WEBVID_LOOK, letterbox=0, watermark=0, shake=6),
    "ucf101": replace(_WEBVID_LOOK, downscale=(1.8, 3.0), blur=(0.2, 1.6), watermark=0),
    "mit": replace(_WEBVID_LOOK, contrast=(0.6, 1.0), noise=(3, 20), watermark=0),
}

_WEBVID = {
    1: (
        "{a} {m}, stock footage",
        "slow motion of {a} {m}, {k} background",
        "close up view of {a}, {k} background",
        "{a} {m} in slow motion, 4k footage",
        "aerial footage of {a} {m}",
        "timelapse of {a}, {k} background, stock video",
    ),
    2: (
        "{a} {m} and {b}, stock footage",
        "wide shot of {a} and {b} {n}, {k} background",
        "slow motion of {a} {m} with {b}",
        "{b} {n} behind {a}, 4k footage",
        "close up view of {a} {m} in front of {b}, {k} background",
        "timelapse of {a} and {b}, stock video",
    ),
}
_MSRVTT = {
    1: (
        "a {a} is {m} on the screen",
        "someone is showing a {a} on a {k} background",
        "a video about a {a} {m}",
        "there is a {a} {m} in the clip",
    ),
    2: (
        "a {a} is {m} while a {b} is {n}",
        "someone shows a {a} and a {b}",
        "a {a} and a {b} are on the screen",
        "a cartoon of a {a} {m} near a {b}",
        "there is a {a} {m} with a {b} on a {k} background",
    ),
}
_YOUCOOK2 = {
    2: (
        "add the {a} and the {b} to the pan",
        "mix the {a} with the {b}",
        "put {a} and {b} together in a bowl",
        "serve the {a} with {b}",
        "chop the {a} and place it on the {b}",
    ),
    3: (
        "add {a}, {b} and {c} to the pot",
        "mix {a} and {b} and stir in the {c}",
        "place the {a} on the plate with {b} and {c}",
    ),
}
_DIDEMO = (
    ("first a {a} is {m}.", "there is a {a} {m}.", "we see a {a}."),
    ("then there is a {a}.", "there is also a {a}.", "after that we see a {a} {m}."),
)
_DIDEMO_END = ("it is on a {k} background.", "the background is {k}.")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "ucf101": (
        "a photo of a person {}.",
        "a video of a person {}.",
        "a example of a person {}.",
        "a demonstration of {}.",
        "a photo of {}.",
        "{}",
    ),
    "mit": ("{}", "a photo of {}.", "a video of {}.", "a picture of someone {}."),
}
DATA_SETS = (
    "webvid_train",
    "webvid_unlabelled",
    "webvid_val",
    "msrvtt",
    "youcook2",
    "didemo",
    "ucf101",
    "mit",
    "webvid_selection",
)
# The sets that models are compared on: the student's own domain, and five never trained on.
EVALUATED = ("webvid_val", "msrvtt", "youcook2", "didemo", "ucf101", "mit")


@cache
def seen_concepts() -> tuple[Concept, ...]:
    """Return the concepts that the student's training domain shows: a fifth of all, few foods."""
    rng = np.random.default_rng(_SEEN_SEED)
    share = {"food": 0.1}
    return tuple(c for c in concepts() if rng.random() < share.get(c.group, 0.2))


@cache
def _food() -> tuple[Concept, ...]:
    return tuple(concept for concept in concepts() if concept.group == "food")


def look_of(data_set: str) -> Look:
    """Return how a data set's clips are filmed; the four WebVid parts share one look.

    Raises ValueError if the data set is unknown.
    """
    _check(data_set)
    return LOOKS["webvid" if _is_webvid(data_set) else data_set]


def plan_clip(data_set: str, index: int, rng: np.random.Generator) -> ClipPlan:
    """Decide what clip number `index` of a data set shows and what is written of it.

    rng: the only source of chance; equal states give equal plans.

    Raises ValueError if the data set is unknown.
    Source: mini counterparts of the data sets of table 1.
    """
    _check(data_set)
    if _is_webvid(data_set):
        return _caption_clip(data_set, seen_concepts(), _WEBVID, rng)
    if data_set == "msrvtt":
        return _caption_clip(data_set, concepts(), _MSRVTT, rng)
    if data_set == "youcook2":
        return _caption_clip(data_set, _food(), _YOUCOOK2, rng)
    if data_set == "didemo":
        return _paragraph(rng)
    return _action(data_set, index, rng)


def _check(data_set: str) -> None:
    if data_set not in DATA_SETS:
        raise ValueError(f"unknown data set {data_set!r}; choose one of {', '.join(DATA_SETS)}")


def _is_webvid(data_set: str) -> bool:
    return data_set.startswith("webvid")


def _picture(concept: Concept, rng: np.random.Generator) -> str:
    return concept.pictures[int(rng.integers(len(concept.pictures)))]


def _shot(
    data_set: str,
    shown: Sequence[Concept],
    motions: Sequence[str],
    n_frames: int,
    rng: np.random.Generator,
) -> tuple[Shot, str]:
    """A shot and the name of its background's colour."""
    colour = str(rng.choice(list(COLOURS)))
    actors = place_actors([_picture(concept, rng) for concept in shown], motions, rng)
    if rng.random() < look_of(data_set).distractor:
        strangers = seen_concepts() if _is_webvid(data_set) else concepts()
        stranger = strangers[int(rng.integers(len(strangers)))]
        (extra,) = place_actors([_picture(stranger, rng)], ["drifting"], rng)
        x, y = (float(v) for v in rng.choice((0.12, 0.88), 2))
        actors = (replace(extra, x=x, y=y, side=0.24), *actors)
    return Shot(actors, COLOURS[colour], n_frames), colour


def _caption_clip(
    data_set: str,
    pool: Sequence[Concept],
    templates: Mapping[int, tuple[str, ...]],
    rng: np.random.Generator,
) -> ClipPlan:
    """A clip of one shot whose caption names everything that moves in it but a distractor."""
    count = int(rng.choice(sorted(templates), p=(0.4, 0.6)))
    shown = [pool[i] for i in rng.choice(len(pool), count, replace=False)]
    motions = [str(m) for m in rng.choice(MOTIONS, count)]
    shot, colour = _shot(data_set, shown, motions, FRAMES_A_CLIP, rng)
    names = dict(zip("abc", (concept.name for concept in shown), strict=False))
    template = str(rng.choice(templates[count]))
    return ClipPlan((shot,), text=template.format(**names, m=motions[0], n=motions[-1], k=colour))


def _paragraph(rng: np.random.Generator) -> ClipPlan:
    """Two shots of one thing each; a sentence on each, and one on the last background."""
    shots, sentences, colour = [], [], ""
    picks = rng.choice(len(concepts()), len(_DIDEMO), replace=False)
    for pick, templates in zip(picks, _DIDEMO, strict=True):
        concept, motion = concepts()[int(pick)], str(rng.choice(MOTIONS))
        shot, colour = _shot("didemo", [concept], [motion], FRAMES_A_SHOT, rng)
        shots.append(shot)
        sentences.append(str(rng.choice(templates)).format(a=concept.name, m=motion))
    sentences.append(str(rng.choice(_DIDEMO_END)).format(k=colour))
    return ClipPlan(tuple(shots), text=" ".join(sentences))


def _action(data_set: str, index: int, rng: np.random.Generator) -> ClipPlan:
    """A clip of class number index modulo the number of classes, so that classes are balanced."""
    classes = [action for action in actions() if action.data_set == data_set]
    action = classes[index % len(classes)]
    concept = concept_by_name()[str(rng.choice(action.concepts))]
    shot, _ = _shot(data_set, [concept], [str(rng.choice(MOTIONS))], FRAMES_A_CLIP, rng)
    return ClipPlan((shot,), label=action.label)
