"""The page without a browser: its controls are set as a browser sets them, its HTML is read."""

import copy
import html
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fitclip_core import zero_shot
from fitclip_core.ensembling import interpolate
from fitclip_kit.slider import own_videos
from fitclip_kit.slider.widgets import ExplorerPage
from fitclip_kit.weights import checkpoints
from tests.fitclip_kit.slider.tiny_material import DATA_SETS, sweep_into, tiny_material

LONG = 120.0  # seconds; only a failing test waits so long
HOSTILE = "<img src=x onerror=alert(1)>"
ALPHAS, DRAWS = (0.0, 0.4, 1.0), (1, 2)
EVALUATED = tuple(one.name for one in DATA_SETS)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Tiny random models and clips, with a stored sweep."""
    made = tiny_material(tmp_path_factory.mktemp("runs") / "tiny", DRAWS)
    return replace(made, cells=sweep_into(made.run.results, made, ALPHAS))


@pytest.fixture
def page(material):
    page = ExplorerPage(material)
    page.work.wait(LONG)
    yield page
    page.close()


@pytest.fixture
def lazy(page, monkeypatch):
    """A page whose background work is left undone."""
    monkeypatch.setattr(page.work, "submit", lambda job: None)
    return page


def state(page):
    """What fk-state says, by name."""
    found = re.findall(r'data-([a-z-]+)="([^"]*)"', page.shown["status"].value)
    return {name: html.unescape(value) for name, value in found}


def words(widget):
    """The text that a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", widget.value)).split())


def put(page, wait=True, **values):
    """Set controls one after the other; `data_set` is the control data-set."""
    for name, value in values.items():
        page.controls[name.replace("_", "-")].value = value
    if wait:
        page.work.wait(LONG)


def encoder_at(material, alpha, draw=DRAWS[0]):
    encoder = copy.deepcopy(material.encoder)
    ends = material.encoder.state(), material.students[draw].state
    encoder.load_state(interpolate(*ends, alpha))
    return encoder


def measured(material, data_set, alpha, draw=DRAWS[0]):
    """The share of hits at a state in percent, by the plain evaluation."""
    clips, encoder = material.sets[data_set], encoder_at(material, alpha, draw)
    sides = zero_shot.video_side(encoder, clips.trial), zero_shot.text_side(encoder, clips.trial)
    ranks = zero_shot.rank(clips.trial, *sides)
    wanted = ranks["direction"] == clips.measure.direction
    return 100 * float((ranks.loc[wanted, "rank"] <= clips.measure.k).mean())


# What there is


def test_the_page_opens_at_the_papers_alpha_with_everything_shown(page, material):
    assert state(page) == {
        "vision": "0.4",
        "text": "0.4",
        "merge": "average",
        "student": str(DRAWS[0]),
        "data-set": EVALUATED[0],
        "state": "stored",
        "busy": "0",
    }
    for name in ("curves", "metrics", "answer", "classes", "strip", "probabilities", "live"):
        assert words(page.shown[name]) or "<img" in page.shown[name].value, name
    for name in ("message", "gallery", "entered", "saved"):
        assert page.shown[name].value == "", name
    assert page.shown["progress"].layout.display == "none"


def test_every_control_says_what_it_is(page):
    for name, control in (page.controls | page.own.controls).items():
        assert control.description, name
        assert control.tooltip or name.endswith("-number"), name


# Moves


def test_what_is_known_is_answered_at_once(lazy, material):
    lazy.controls["alpha-number"].value = 1.0  # without a pointer
    assert lazy.controls["alpha"].value == 1
    assert (state(lazy)["state"], state(lazy)["busy"]) == ("stored", "1")
    value = measured(material, EVALUATED[0], 1.0)
    assert f"{value:.1f}%" in words(lazy.shown["answer"])
    metrics = words(lazy.shown["metrics"])
    assert "α = 1 · student 1" in metrics and metrics.count("stored") == len(EVALUATED)
    put(lazy, alpha=0.2)
    assert state(lazy)["state"] == "interpolated"
    ends = [measured(material, EVALUATED[0], at) for at in (0.0, 0.4)]
    assert f"≈ {np.mean(ends):.1f}%" in words(lazy.shown["answer"])
    status = words(lazy.shown["status"])
    assert "interpolated" in status and "0 of 2 data sets measured; measuring…" in status
    assert words(lazy.shown["metrics"]).count("≈ interpolated") == len(EVALUATED)
    put(lazy, merge="linear in depth")
    assert state(lazy)["state"] == "unknown" and state(lazy)["merge"] == "linear in depth"
    assert "nothing is known" in words(lazy.shown["answer"])
    put(lazy, alpha=0.0)  # there all merges are the teacher
    assert state(lazy)["state"] == "stored"


@pytest.mark.parametrize("data_set", EVALUATED)
def test_then_it_is_measured_exactly_and_kept(page, material, data_set):
    put(page, data_set=data_set, alpha=0.2)
    assert state(page)["state"] == "exact" and state(page)["busy"] == "0"
    value = measured(material, data_set, 0.2)
    assert f"{value:.1f}%" in words(page.shown["answer"])
    assert words(page.shown["metrics"]).count("measured now") == len(EVALUATED)
    assert f"{value:.1f} percent" in words(page.shown["live"])
    for name in ("probabilities", "classes"):
        assert "α = 0.2 · student 1" in words(page.shown[name])
    put(page, alpha=0.4)
    page.work.submit = lambda job: None
    put(page, alpha=0.2)
    assert state(page)["state"] == "exact"


def test_a_result_that_comes_too_late_is_not_shown(page, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    outcomes = page._live.outcomes

    def slow(fusion, *others):
        if fusion.vision == 0.3:
            begun.set()
            assert go_on.wait(LONG)
        return outcomes(fusion, *others)

    monkeypatch.setattr(page._live, "outcomes", slow)
    put(page, wait=False, alpha=0.3)
    assert begun.wait(LONG)
    put(page, wait=False, alpha=1.0)
    seen = []
    for part in ("metrics", "classes", "probabilities", "live"):
        page.shown[part].observe(lambda change: seen.append(words(change["owner"])), "value")
    go_on.set()
    page.work.wait(LONG)
    assert seen and [one for one in seen if "α = 1 · student 1" not in one] == []


def test_an_error_is_shown_as_text_and_the_page_goes_on(page, monkeypatch):
    def fails(*_, **__):
        raise ValueError(f"the file {HOSTILE} is gone")

    with monkeypatch.context() as patch:
        patch.setattr(page._live, "text_features", fails)
        put(page, alpha=0.3)
    assert words(page.shown["message"]) == f"the file {HOSTILE} is gone"
    assert "<img" not in page.shown["message"].value and state(page)["busy"] == "0"
    put(page, alpha=0.31)
    assert page.shown["message"].value == "" and state(page)["state"] == "exact"


def test_slow_work_shows_a_bar_until_it_ends(page, monkeypatch):
    monkeypatch.setattr("fitclip_kit.slider.background.PATIENCE", 0)
    bar, seen = page.shown["progress"], []
    bar.layout.observe(lambda change: seen.append(change["new"]), "display")
    bar.observe(lambda change: seen.append(change["new"]), "value")
    put(page, alpha=0.77)
    assert None in seen and seen[-1] == "none" and bar.value == pytest.approx(1)
    shares = [one for one in seen if isinstance(one, float)]
    assert shares == sorted(shares)


# Clips, data sets, queries


def test_a_clips_probabilities_are_those_of_the_features(page, material):
    put(page, data_set=EVALUATED[1], clip=3, alpha=0.2)
    clips, encoder = material.sets[EVALUATED[1]], encoder_at(material, 0.2)
    video = zero_shot.video_side(encoder, clips.trial)[2]
    texts = zero_shot.text_side(encoder, clips.trial)
    shares = (encoder.logit_scale * (texts @ video)).softmax(0)
    shown = words(page.shown["probabilities"])
    assert (
        clips.texts[int(shares.argmax())] in shown and f"{100 * float(shares.max()):.1f}" in shown
    )


def test_a_query_shows_the_nearest_clips_and_what_entered(page, material):
    put(page, alpha=1.0, query="  a red   circle ")
    clips, tops = material.sets[EVALUATED[0]], []
    for alpha in (1.0, 0.0):
        encoder = encoder_at(material, alpha)
        query = encoder.encode_texts(["a red circle"])[0]
        scores = zero_shot.video_side(encoder, clips.trial) @ query
        order = torch.argsort(-scores, stable=True)[:8]
        tops.append([clips.clip_ids[place] for place in order])
    shown = words(page.shown["gallery"])
    assert [clip for clip in tops[0] if clip in shown] == tops[0]
    entered = len(set(tops[0]) - set(tops[1]))
    expected = f"{entered} of the first 8 entered" if entered else "The same 8 clips"
    assert expected in words(page.shown["entered"])
    assert page.shown["gallery"].value.count("<img") == 8 + entered
    put(page, query=" ")
    assert page.shown["gallery"].value == page.shown["entered"].value == ""


# What is kept


def saved(page):
    """What is said once all that was asked for is saved, and the paths in it."""
    page._saves.submit(lambda: None).result(LONG)
    shown = page.shown["saved"].value
    return words(page.shown["saved"]), [Path(one) for one in re.findall(r"<br>([^<]+)", shown)]


def test_the_figure_and_the_weights_and_where_they_lie(page, material):
    put(page, alpha=0.2)
    folder = material.run.path.resolve() / "explore_alpha"
    page.controls["save-figure"].click()
    _, paths = saved(page)
    stem = f"alpha_0.2_student_1_{EVALUATED[0]}_clip_1"
    assert paths == [folder / f"{stem}.png", folder / f"{stem}.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    paths[0].unlink()
    page.controls["save-figure"].click()
    page.controls["save-checkpoint"].click()  # two at once are both done
    _, (path,) = saved(page)
    assert path == folder / "alpha_0.2_student_1.safetensors" and paths[0].is_file()
    expected, kept = encoder_at(material, 0.2).state(), checkpoints.load(path)
    assert all(torch.equal(kept[name], value) for name, value in expected.items())


def test_a_merge_that_is_not_measured_is_saved_without_its_numbers(lazy, monkeypatch):
    put(lazy, merge="linear in depth")
    lazy.controls["save-figure"].click()
    assert "linear_in_depth_alpha_0.4_student_1" in saved(lazy)[0]


def test_a_failed_save_is_told(page, monkeypatch):
    def fails(*_):
        raise OSError("no <space> left")

    monkeypatch.setattr(page._live, "save_checkpoint", fails)
    page.controls["save-checkpoint"].click()
    assert saved(page) == ("Nothing was saved. OSError: no <space> left", [])


# My videos


@pytest.fixture
def videos(tmp_path):
    """A folder with two pictures, a broken video, and a file that is no video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, colour in (("one", "red"), ("two", "blue")):
        Image.new("RGB", (48, 40), colour).save(folder / f"{name}.png")
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("x")
    return folder


def compare(page, **values):
    for name, value in values.items():
        page.own.controls[name].value = value
    page.own.controls["compare"].click()
    page.own.work.wait(LONG)


def test_a_folder_of_own_videos_follows_the_slider(page, videos):
    compare(page, folder=str(videos), texts="a dog\n<b>a cat</b>\n")
    shown = words(page.own.shown["own-table"])
    assert "one." in shown and "two." in shown and "<b>a cat</b>" in shown
    assert all(name in shown for name in ("Teacher (%)", "Student (%)", "Fused (%)"))
    assert page.own.shown["own-table"].value.count("<img") == 2
    left_out = words(page.own.shown["own-failures"])
    assert "broken.mp4" in left_out and "notes.txt" in left_out and "2 files" in left_out
    assert page.own.shown["own-message"].value == "" and "α = 0.4 · student 1" in shown
    put(page, alpha=0.9)
    page.own.work.wait(LONG)
    assert "α = 0.9 · student 1" in words(page.own.shown["own-table"])
    compare(page, texts=" \n")
    assert "no label or caption" in words(page.own.shown["own-message"])
    assert page.own.shown["own-table"].value == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"folder": "", "texts": "a dog"}, "name a folder"),
        ({"folder": "/does/not/<b>exist", "texts": "a dog"}, "/does/not/<b>exist"),
    ],
)
def test_what_is_wrong_with_own_videos_is_said(page, values, said):
    compare(page, **values)
    assert said in words(page.own.shown["own-message"])
    assert page.own.shown["own-table"].value == ""


def test_a_move_does_not_stop_the_decoding(page, videos, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    from_folder = own_videos.from_folder

    def slow(*asked):
        begun.set()
        assert go_on.wait(LONG)
        return from_folder(*asked)

    monkeypatch.setattr(own_videos, "from_folder", slow)
    page.own.controls["folder"].value = str(videos)
    page.own.controls["texts"].value = "a dog\na cat"
    page.own.controls["compare"].click()
    assert begun.wait(LONG)
    put(page, alpha=0.8)
    go_on.set()
    page.own.work.wait(LONG)
    assert "α = 0.8 · student 1" in words(page.own.shown["own-table"])


# The end


def test_closing_ends_the_threads(material):
    before = set(threading.enumerate())
    page = ExplorerPage(material)
    put(page, wait=False, alpha=0.33)
    page.close()
    left = {thread for thread in threading.enumerate() if thread.name.startswith("explorer")}
    assert left <= before
