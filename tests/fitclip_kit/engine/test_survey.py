"""What is counted and timed before a run, on files that are there and files that are not."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from data_prep import check
from data_prep.clip_frames import FrameRule
from data_prep.decode_workers import available_cores
from data_prep.mini_benchmark import build
from data_prep.mini_benchmark.data_sets import EVALUATED
from fitclip_kit.engine import survey as surveys
from fitclip_kit.engine.plan import Decoding, Material
from fitclip_kit.engine.survey import NOMINAL, examples, survey, survey_embedded
from tests.paper_tree import ITEMS, build_tree

RULE = FrameRule(n_frames=4, size=8)


def test_embedded_clips_are_made_and_decoded_for_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surveys, "_MADE", 2)
    for module in (build, check):
        monkeypatch.setattr(module, "available_cores", lambda: 1)  # fewer processes to start
    sizes = {"webvid_train": 40, "webvid_selection": 1} | dict.fromkeys(EVALUATED, 500)
    found = {one.name: one for one in survey_embedded(sizes, RULE, training_draws=3)}
    assert {name: one.clips for name, one in found.items()} == sizes
    roles = [found[name].role for name in ("webvid_train", "webvid_selection", "mit")]
    assert roles == ["training", "validation", "evaluation"]
    assert found["ucf101"].texts % 6 == 0 and found["ucf101"].texts < 500 * 6
    assert found["ucf101"].directions == 1 and found["msrvtt"].directions == 2
    assert found["msrvtt"].texts == 500, "a caption a clip"
    speed = Decoding(1.0, 1, "nothing")
    few = surveys._embedded("ucf101", pd.DataFrame(), 5, speed, 0.0)
    assert few.texts == 5 * 6, "classes take turns, so five clips are of five classes"
    for one in found.values():
        assert one.decoding and one.decoding.clips_per_second > 0 and one.making_seconds >= 0
        assert one.examples and all(isinstance(text, str) for text in one.examples)


def test_examples_are_in_proportion_to_what_is_read() -> None:
    texts = tuple(map(str, range(64)))
    many = Material("a", "evaluation", 10, 4000, examples=texts)
    few = Material("b", "evaluation", 10, 1000, examples=texts)
    unread = Material("c", "evaluation", 10, 9000)
    assert list(examples([many, few, unread])) == [*texts, *texts[:16]]
    assert list(examples([unread])) == []


def test_survey_without_files_is_nominal(tmp_path: Path) -> None:
    sets = {loader: {"loader": loader, "root": str(tmp_path / loader)} for loader in NOMINAL}
    sets["webvid_train"] = {"loader": "webvid", "root": str(tmp_path), "split": "train"}
    sizes = dict.fromkeys(sets, 0) | {"webvid_train": 50, "msrvtt": 20, "ucf101": 10}
    found = survey(sets, sizes, RULE)
    by_name = {one.name: one for one in found}
    assert by_name["webvid_train"] == Material("webvid_train", "training", 50, 50, basis="profile")
    for loader, (clips, texts) in NOMINAL.items():
        one = by_name[loader]
        assert one.basis == "nominal" and one.note.startswith("not counted: ")
        expected = {"msrvtt": (20, 20), "ucf101": (10, 101 * 48)}.get(loader, (clips, texts))
        assert (one.clips, one.texts) == expected
        assert one.directions == (1 if loader in ("ucf101", "moments_in_time") else 2)


def test_survey_refuses_what_it_cannot_size(tmp_path: Path) -> None:
    sets = {"mine": {"loader": "folder", "root": str(tmp_path / "gone")}}
    with pytest.raises(ValueError, match="mine cannot be counted and has no nominal size"):
        survey(sets, {"mine": 0}, RULE)
    with pytest.raises(ValueError, match="there is no size for mine"):
        survey(sets, {}, RULE)


def test_survey_counts_real_layouts(realdata: Path, tmp_path: Path) -> None:
    build_tree(realdata, tmp_path)
    sets = {
        "msrvtt": {"loader": "msrvtt", "root": str(tmp_path / "msrvtt")},
        "ucf101": {"loader": "ucf101", "root": str(tmp_path / "ucf101")},
    }
    msrvtt, ucf101 = survey(sets, {"msrvtt": 0, "ucf101": 2}, RULE, tries=2)
    assert (msrvtt.basis, msrvtt.clips, msrvtt.directions) == ("counted", ITEMS - 1, 2)
    assert msrvtt.note == "1 clip without a file"
    assert (ucf101.clips, ucf101.texts, ucf101.directions) == (2, 3 * 48, 1)
    assert len(msrvtt.examples) == ITEMS - 1 and len(ucf101.examples) == 64
    for one in (msrvtt, ucf101):
        assert one.file_bytes and one.decoding and one.decoding.clips_per_second > 0


def test_costs_are_counted_by_video(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    rows = [("a.png", "x"), ("b.png", "y"), ("a.png", "z"), ("a.png", "x"), ("gone.png", "v")]
    text = "path,caption\n" + "".join(f"{path},{caption}\n" for path, caption in rows)
    (tmp_path / "clips.csv").write_text(text)
    entry = {"loader": "folder", "root": str(tmp_path)}
    (mine,) = survey({"mine": entry}, {"mine": 0}, RULE, tries=4)
    assert (mine.clips, mine.texts, mine.directions) == (2, 3, 3), "four texts and two videos"
    assert mine.decoding is not None and mine.decoding.measured_on == "2 of its clips"


def test_decoding_is_measured_on_a_made_up_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "_SYNTHETIC", (12, 64, 64))
    found = surveys.measure_decoding(RULE, training_draws=2)
    assert set(found) == {"evaluation", "training", "validation"}
    assert found["validation"] == found["evaluation"]
    for one in found.values():
        assert one.clips_per_second > 0 and one.workers == available_cores()
        assert one.measured_on == "a made-up 64x64 H.264 clip of 12 frames"
