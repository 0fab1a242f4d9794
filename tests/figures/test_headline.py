"""The headline table beside what else a results store holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from figures.alpha_curve import Measure, Panel, alpha_table
from figures.comparisons import fusion_comparisons
from figures.headline import headline_table, improvement, reduction
from fitclip_kit.store.results import Cell, ResultsStore

RANKS = {0: [1, 9, 9, 9], 0.4: [1, 1, 1, 9], 1: [1, 1, 9, 9]}
PANELS = (Panel("one", "One", "%", (Measure("msrvtt", "text_to_video", 5),)),)


def key_at(alpha):
    return Cell(alpha=alpha, labelled_share=0.9, labelled_clips=9, draw=1, data_set="msrvtt")


def write(store, key, ranks, asked=None):
    directions = ("text_to_video", "video_to_text")
    items = [f"clip{place}" for place in range(len(ranks))]
    outcomes = pd.concat(
        [pd.DataFrame({"item": items, "direction": one, "rank": ranks}) for one in directions]
    )
    asked = asked or len(ranks)
    outcomes.attrs["coverage"] = {"clips": asked, "measured": len(ranks), "missing": []}
    store.write(key, outcomes, {})


def filled(folder: Path, asked=4):
    store = ResultsStore(folder)
    for alpha, ranks in RANKS.items():
        write(store, key_at(alpha), ranks, asked)
    return store


def test_clips_asked_for_stand_beside_those_measured(tmp_path):
    table = headline_table(filled(tmp_path, asked=6).metrics(n_resamples=10))
    assert set(table["n"]) == {4}
    assert set(table["of"]) == {6}
    assert list(table.columns[-3:]) == ["n", "of", "draws"]


def test_references_are_not_taken_for_the_teacher(tmp_path):
    alone = filled(tmp_path / "alone")
    store = filled(tmp_path / "both")
    write(store, Cell(model="frozen_in_time_webvid", data_set="msrvtt"), [1, 1, 1, 1])
    write(store, Cell(model="frozen_in_time_webvid", data_set="mit"), [5, 5])
    assert len(store.cells()) == 5
    for make in (
        lambda one: headline_table(one.metrics(n_resamples=10)),
        lambda one: alpha_table(one.outcomes(), panels=PANELS, n_resamples=10),
        lambda one: fusion_comparisons(one.outcomes(), panels=PANELS, n_resamples=10),
    ):
        pd.testing.assert_frame_equal(make(store), make(alone))
    metrics = store.metrics(n_resamples=10)
    with pytest.raises(ValueError, match=r"no metrics of the teacher \(alpha 0\)"):
        headline_table(metrics[metrics["model"] != "teacher"])


def test_models_measured_on_other_clips_are_refused(tmp_path):
    store = filled(tmp_path)
    write(store, key_at(0.4), [1, 1, 1])
    with pytest.raises(ValueError, match="not measured on equally many clips of msrvtt"):
        headline_table(store.metrics(n_resamples=10))
    write(store, key_at(0.4), RANKS[0.4])
    write(store, key_at(0.7), [1, 1, 1])  # plays no part
    headline_table(store.metrics(n_resamples=10))


def test_gains_by_hand():
    assert improvement("R@5", 40, 55) == 15
    assert improvement("MdR", 4, 3) == 1
    assert reduction("R@5", 40, 55) == pytest.approx(25)
    assert reduction("MdR", 4, 5) == pytest.approx(-25)
    assert np.isnan(reduction("top1", 100, 100))
