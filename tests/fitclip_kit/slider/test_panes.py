"""A set whose clips have several captions, as the page shows it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fitclip_core import zero_shot
from fitclip_kit.engine.measure import EvaluationSet
from fitclip_kit.slider import panes
from fitclip_kit.slider.fusion import Fusion
from fitclip_kit.slider.live import LiveModel
from fitclip_kit.slider.material import ClipSet
from tests.fitclip_kit.slider.tiny_material import clip_set, tiny_material
from tests.tiny_clip import RandomClips

PATHS = ["3.mp4", "0.mp4", "3.mp4", "1.mp4", "0.mp4", "3.mp4"]
TEXTS = [f"{letter} z" for letter in "abcdef"]


class Counted(RandomClips):
    """Keeps which clips were read."""

    read: list[int]

    def frames(self, indices: np.ndarray) -> np.ndarray:
        self.read = [*getattr(self, "read", []), *np.asarray(indices).tolist()]
        return super().frames(indices)


@pytest.fixture
def several() -> ClipSet:
    ids = [
        f"clip{path[0]}" if place in (0, 1, 3) else f"x{place}" for place, path in enumerate(PATHS)
    ]
    clips = pd.DataFrame({"clip_id": ids, "path": PATHS, "text": TEXTS})
    return clip_set(EvaluationSet("many", clips, Counted(5, seed=3)))


def now() -> bool:
    return False


def test_a_set_knows_its_distinct_clips_and_their_captions(several: ClipSet) -> None:
    assert several.first_rows == [0, 1, 3]
    assert [several.right_rows(row) for row in (0, 1, 3, 5)] == [[0, 2, 5], [1, 4], [3], [0, 2, 5]]
    assert several.candidates == 3 and len(several.texts) == len(several.clip_ids) == 6
    assert np.array_equal(several.frames_of(0), several.frames_of(5))
    assert panes.right_places(several, 4) == [1, 4]


def test_each_clip_is_encoded_and_retrieved_once(several: ClipSet, tmp_path: Path) -> None:
    live, fusion = LiveModel(tiny_material(tmp_path)), Fusion.at(1, 0.4)
    outcomes = live.outcomes(fusion, several)
    assert sorted(several.trial.frames.read) == [0, 1, 3]  # type: ignore[attr-defined]
    assert outcomes.groupby("direction").size().to_dict() == {
        "text_to_video": 6,
        "video_to_text": 3,
    }
    pd.testing.assert_frame_equal(
        outcomes, zero_shot.evaluate(live._encoder, several.trial.clips, several.trial.frames)
    )
    gallery, _ = panes.query_gallery(live, fusion, several, "c z", now, lambda _: None)
    assert gallery.count("<img") == 3, "three clips, none of them twice"


def test_all_captions_of_a_clip_are_right(several: ClipSet, tmp_path: Path) -> None:
    live, fusion = LiveModel(tiny_material(tmp_path)), Fusion.at(1, 0.4)
    found = panes.clip_scores(live, fusion, several, 2, now, lambda _: None)
    assert sorted(found.loc[found["right"], "name"]) == [TEXTS[row] for row in (0, 2, 5)]
    assert torch.equal(*(live.clip_features(fusion, several, [row]) for row in (0, 5)))
