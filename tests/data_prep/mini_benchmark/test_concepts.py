"""Concepts, action classes and their pictures."""

import numpy as np
import pytest

from data_prep.mini_benchmark import concepts as module
from data_prep.mini_benchmark.concepts import actions, concept_by_name, concepts
from data_prep.mini_benchmark.sprites import SPRITE_SIZE, sprite


def test_concepts_are_many_sorted_and_distinct() -> None:
    names = [concept.name for concept in concepts()]
    assert len(names) > 600
    assert names == sorted(set(names))
    assert set(concept_by_name()) == set(names)
    assert {"fox", "pizza", "person surfing"} <= set(names)


def test_people_have_variants() -> None:
    surfing = concept_by_name()["person surfing"].pictures
    assert "1F3C4" in surfing
    assert any("1F3FF" in picture for picture in surfing)
    assert any("2640" in picture for picture in surfing)
    assert concept_by_name()["fox"].pictures == ("1F98A",)


def test_faces_and_people_are_shown_by_actions_only() -> None:
    in_actions = {name for action in actions() for name in action.concepts}
    for concept in concepts():
        if concept.group in ("faces", "people"):
            assert concept.name in in_actions


def test_action_classes_are_distinct_and_shown() -> None:
    for data_set in ("ucf101", "mit"):
        classes = [action for action in actions() if action.data_set == data_set]
        labels = [action.label for action in classes]
        assert len(labels) >= 50
        assert len(set(labels)) == len(labels)
        assert all(set(action.concepts) <= set(concept_by_name()) for action in classes)
        assert all(action.concepts for action in classes)
    assert {action.data_set for action in actions()} == {"ucf101", "mit"}


def test_an_unknown_concept_in_the_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"data_set": "mit", "label": "flying", "concepts": "fox|griffin"}
    monkeypatch.setattr(module, "_action_rows", lambda: (row,))
    with pytest.raises(ValueError, match=r"'flying' names unknown concepts \['griffin'\]"):
        actions.__wrapped__()


def test_a_sprite_fills_its_square() -> None:
    image = sprite("1F98A")
    assert (image.size, image.mode) == ((SPRITE_SIZE, SPRITE_SIZE), "RGBA")
    alpha = np.asarray(image)[..., 3]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) >= SPRITE_SIZE - 3
    middle = (SPRITE_SIZE - 1) / 2
    assert rows[[0, -1]].mean() == pytest.approx(middle, abs=2)
    assert columns[[0, -1]].mean() == pytest.approx(middle, abs=2)


def test_pictures_that_cannot_be_shown_are_refused(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no OpenMoji picture 'nothing'"):
        sprite("nothing")
    blank = tmp_path / "blank.svg"
    blank.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"/>')
    monkeypatch.setattr("data_prep.mini_benchmark.sprites.picture_path", lambda picture: blank)
    with pytest.raises(ValueError, match="'blank' is blank"):
        sprite("blank")
