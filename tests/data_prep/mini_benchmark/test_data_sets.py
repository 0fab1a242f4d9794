"""What the data sets' clips show and what is written of them."""

from collections import Counter

import numpy as np
import pytest

from data_prep.mini_benchmark import data_sets
from data_prep.mini_benchmark.concepts import actions, concepts
from data_prep.mini_benchmark.data_sets import (
    DATA_SETS,
    LOOKS,
    TEMPLATES,
    ClipPlan,
    look_of,
    plan_clip,
    seen_concepts,
)
from data_prep.mini_benchmark.stills import COLOURS

WEBVID = tuple(name for name in DATA_SETS if name.startswith("webvid"))
ONE_SHOT = dict.fromkeys(WEBVID, data_sets._WEBVID) | {
    "msrvtt": data_sets._MSRVTT,
    "youcook2": data_sets._YOUCOOK2,
}
NAME_OF = {picture: concept.name for concept in concepts() for picture in concept.pictures}
SEEN = {concept.name for concept in seen_concepts()}
FOOD = {concept.name for concept in concepts() if concept.group == "food"}


def plans(data_set: str, n: int = 60) -> list[ClipPlan]:
    return [plan_clip(data_set, index, np.random.default_rng([0, index])) for index in range(n)]


def shown(plan: ClipPlan) -> list[str]:
    return [NAME_OF[actor.picture] for shot in plan.shots for actor in shot.actors]


@pytest.mark.parametrize("data_set", ONE_SHOT)
def test_captions_name_what_is_shown(data_set: str) -> None:
    distracted = 0
    for plan in plans(data_set):
        (shot,) = plan.shots
        (colour,) = (name for name, value in COLOURS.items() if value == shot.colour)
        possible = set()
        # A distractor comes before the others and is not named.
        for first in (0, 1):
            actors = shot.actors[first:]
            names = dict(zip("abc", (NAME_OF[actor.picture] for actor in actors), strict=False))
            possible |= {
                template.format(**names, m=actors[0].motion, n=actors[-1].motion, k=colour)
                for template in ONE_SHOT[data_set].get(len(actors), ())
            }
            if plan.text in possible:
                break
        assert plan.text in possible
        assert plan.label is None
        distracted += first
    assert distracted < 40


def test_paragraphs_tell_the_shots_in_order() -> None:
    for plan in plans("didemo"):
        assert len(plan.shots) == len(data_sets._DIDEMO)
        assert plan.text is not None
        *sentences, end = plan.text.replace(". ", ".|").split("|")
        for shot, sentence, templates in zip(plan.shots, sentences, data_sets._DIDEMO, strict=True):
            told = shot.actors[-1]
            name = NAME_OF[told.picture]
            assert sentence in {t.format(a=name, m=told.motion) for t in templates}
        (colour,) = (name for name, value in COLOURS.items() if value == plan.shots[-1].colour)
        assert end in {template.format(k=colour) for template in data_sets._DIDEMO_END}


@pytest.mark.parametrize("data_set", ["ucf101", "mit"])
def test_action_classes_are_balanced_and_shown(data_set: str) -> None:
    classes = {action.label: action for action in actions() if action.data_set == data_set}
    made = plans(data_set, 2 * len(classes) + 1)
    counts = Counter(plan.label for plan in made)
    assert set(counts) == set(classes)
    assert sorted(counts.values()) == [2] * (len(classes) - 1) + [3]
    for plan in made:
        assert plan.text is None
        assert plan.label is not None
        assert shown(plan)[-1] in classes[plan.label].concepts


@pytest.mark.parametrize("data_set", WEBVID)
def test_webvid_shows_seen_concepts_only(data_set: str) -> None:
    for plan in plans(data_set, 150):
        assert set(shown(plan)) <= SEEN


@pytest.mark.parametrize("data_set", sorted(set(DATA_SETS) - set(WEBVID)))
def test_other_sets_also_show_unseen_concepts(data_set: str) -> None:
    names = {shown(plan)[-1] for plan in plans(data_set, 150)}
    assert names - SEEN
    assert names & SEEN


def test_youcook2_tells_of_food() -> None:
    for plan in plans("youcook2"):
        named = shown(plan)[-2:]
        assert set(named) <= FOOD
        assert all(name in (plan.text or "") for name in named)


def test_food_is_seldom_seen() -> None:
    """So that youcook2 is far from the training domain."""
    assert 0 < len(SEEN & FOOD) / len(FOOD) < 0.7 * len(SEEN) / len(concepts())


def test_distractors_are_as_frequent_as_the_look_says() -> None:
    made = plans("ucf101", 300)
    share = np.mean([len(plan.shots[0].actors) == 2 for plan in made])
    assert share == pytest.approx(look_of("ucf101").distractor, abs=0.1)


def test_looks_and_templates_belong_to_data_sets() -> None:
    assert {id(look_of(name)) for name in DATA_SETS} == {id(look) for look in LOOKS.values()}
    assert {id(look_of(name)) for name in WEBVID} == {id(LOOKS["webvid"])}
    assert set(TEMPLATES) == {"ucf101", "mit"}
    assert all(template.count("{}") == 1 for each in TEMPLATES.values() for template in each)


@pytest.mark.parametrize("name", ["webvid", "webvid_test", "kinetics", ""])
def test_unknown_data_sets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown data set {name!r}; choose one of webvid_train"):
        plan_clip(name, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown data set"):
        look_of(name)
