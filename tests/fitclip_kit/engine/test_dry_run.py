"""The dry run of the real notebooks' parameters; speeds are made up or measured in a moment."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep import check
from data_prep.mini_benchmark import build
from fitclip_kit.engine import dry_run as module
from fitclip_kit.engine import survey as surveys
from fitclip_kit.engine.calibration import calibrate
from fitclip_kit.engine.dry_run import dry_run
from fitclip_kit.engine.plan import Decoding
from fitclip_kit.engine.settings import merge_profile, profile_file, read_notebooks, read_profile

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
Parameters = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = Decoding(clips_per_second=10.0, workers=1, measured_on="nothing")
    roles = dict.fromkeys(("evaluation", "training", "validation"), speed)
    monkeypatch.setattr(module, "measure_decoding", lambda *_: roles)
    monkeypatch.setattr(module, "calibrate", partial(calibrate, seconds=1e-3))


def parameters(profile: str) -> Parameters:
    declared = {book.stem: book.defaults for book in read_notebooks(NOTEBOOKS)}
    return merge_profile(read_profile(profile_file(NOTEBOOKS, profile)), declared)


@pytest.mark.parametrize(("load", "said"), [(0.1, 0), (9.0, 1)])
def test_a_busy_machine_is_said(load: float, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    monkeypatch.setattr(module.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert len(module._other_work()) == said
    monkeypatch.delattr(module.os, "getloadavg")
    assert module._other_work() == []


def test_the_embedded_run_needs_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "_MADE", 2)
    for one in (build, check):
        monkeypatch.setattr(one, "available_cores", lambda: 1)  # fewer processes to start
    text = dry_run(parameters("mini"), NOTEBOOKS)
    stems = ("01_data_prep", "04_alpha_sweep", "05_subset_size", "07_supplementary_figures")
    for word in ("webvid_train", "1,000", *stems, "6 students of 450 clips", "total"):
        assert word in text
    assert "are not there" not in text and "would stop" not in text


def test_the_paper_run_can_be_planned_before_anything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ARCHITECTURE", "ViT-S-32-alt")  # timed in a moment
    monkeypatch.setattr(
        module, "calibrate", lambda encoder, n_frames, texts: _fake(encoder, n_frames)
    )
    monkeypatch.setenv("FITCLIP_DATA", str(tmp_path / "nothing"))
    text = " ".join(dry_run(parameters("paper"), NOTEBOOKS).split())
    assert "33,900" in text
    assert "not counted" in text
    assert "6 students of 36,000 clips" in text and "would stop" not in text
    assert "ViT-B-16.pt are not there: timed with a random ViT-S-32-alt" in text


def _fake(encoder: Any, n_frames: int) -> Any:
    """Speeds of the embedded teacher, said to be this encoder's."""
    small = module.Sources().load_teacher().encoder
    found = calibrate(small, seconds=1e-3, n_frames=n_frames)
    return type(found)(**{**vars(found), "image_size": encoder.image_size})


def test_an_unset_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FITCLIP_DATA", raising=False)
    with pytest.raises(ValueError, match="holds a variable that is not set"):
        dry_run(parameters("paper"), NOTEBOOKS)
