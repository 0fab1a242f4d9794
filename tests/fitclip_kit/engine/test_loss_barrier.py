import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fitclip_core.ensembling import interpolate
from fitclip_kit.engine.loss_barrier import barrier, loss_along_line
from tests.make import labelled_clips, letters, tiny_encoder


def slow_loss(encoder, clips, temperature: float) -> float:
    """Both directions' cross-entropies, pair by pair, in float64."""
    with torch.no_grad():
        videos = []
        for place in range(len(clips)):
            pictures, _ = encoder.images(clips.frames.frames(np.array([place])))
            features = encoder.model.encode_image(pictures).numpy().astype(float)
            videos.append(np.mean([one / np.linalg.norm(one) for one in features], axis=0))
        texts = encoder.model.encode_text(letters(clips.texts)).numpy().astype(float)
    texts = [one / np.linalg.norm(one) for one in texts]
    total = 0.0
    for i in range(len(clips)):
        right = videos[i] @ texts[i] / temperature
        rows = [math.exp(videos[i] @ text / temperature - right) for text in texts]
        columns = [math.exp(video @ texts[i] / temperature - right) for video in videos]
        total += (math.log(sum(rows)) + math.log(sum(columns))) / len(clips)
    return total


def test_the_loss_is_that_of_each_fused_model() -> None:
    clips, alphas = labelled_clips(5), [1.0, 0.0, 0.1 * 3, 0.3]
    encoder, student = tiny_encoder(1), tiny_encoder(2).state()
    teacher = encoder.state()
    table = loss_along_line(encoder, teacher, student, alphas, clips, temperature=0.2)
    assert table.columns.tolist() == ["alpha", "loss"]
    assert table["alpha"].tolist() == [0.0, 0.3, 1.0]
    for alpha, loss in table.itertuples(index=False):
        fused = tiny_encoder(9)
        fused.load_state(interpolate(teacher, student, alpha))
        assert loss == pytest.approx(slow_loss(fused, clips, 0.2), rel=1e-4)
    assert table["loss"].nunique() == 3
    assert all(torch.equal(value, teacher[name]) for name, value in encoder.state().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphas": [0.5, 1.5]}, "alpha is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"student_state": {}}, "names differ"),
    ],
)
def test_wrong_input_is_refused_and_the_model_kept(change, message) -> None:
    encoder = tiny_encoder(1)
    before = encoder.state()
    wanted: dict[str, Any] = {"teacher_state": before, "student_state": tiny_encoder(2).state()}
    wanted |= {"alphas": [0, 1], "clips": labelled_clips(3), "temperature": 0.2}
    with pytest.raises(ValueError, match=message):
        loss_along_line(encoder, **(wanted | change))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state().items())


def curve(losses: dict[float, float]) -> pd.DataFrame:
    return pd.DataFrame({"alpha": list(losses), "loss": list(losses.values())})


def test_the_barrier_is_the_rise_above_the_line() -> None:
    assert barrier(curve({1.0: 2.0, 0.25: 1.5, 0.0: 1.0, 0.5: 1.75})) == 0.25
    assert barrier(curve({0.0: 3.0, 0.5: 1.0, 1.0: 2.0})) == 0  # below the line throughout
    assert barrier(curve({0.0: 1.0, 1.0: 5.0})) == 0


@settings(max_examples=30)
@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9), st.floats(-5, 5), st.floats(-5, 5))
def test_a_line_added_to_the_loss_changes_nothing(losses, start, slope) -> None:
    alphas = np.linspace(0, 1, len(losses))
    plain = barrier(pd.DataFrame({"alpha": alphas, "loss": losses}))
    tilted = barrier(pd.DataFrame({"alpha": alphas, "loss": start + slope * alphas + losses}))
    assert plain >= 0
    assert tilted == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"alpha": [0, 1]}), r"no column \['loss'\]"),
        (curve({}), "from 0 to 1"),
        (curve({0.0: 1.0, 0.5: 1.0}), "from 0 to 1"),
        (curve({-0.5: 1.0, 0.0: 1.0, 1.0: 1.0}), "from 0 to 1"),
        (pd.concat([curve({0.0: 1.0, 1.0: 1.0})] * 2), "give each once"),
        (curve({0.0: 1.0, 0.5: math.nan, 1.0: 1.0}), "must be finite"),
    ],
)
def test_a_curve_that_has_no_barrier_is_refused(table, message) -> None:
    with pytest.raises(ValueError, match=message):
        barrier(table)
