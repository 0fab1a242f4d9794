"""The page of the stored sweep, made of a small sweep with hostile captions."""

import base64
import hashlib
import io
import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.table import Cell
from matplotlib.text import Text
from PIL import Image

from figures.measures import Measure
from fitclip_kit.engine.report import external_loads
from fitclip_kit.slider import page
from fitclip_kit.slider.answers import Sweep
from tests.fitclip_kit.slider.hostile_sweep import (
    ALPHAS,
    CLIPS,
    DRAWS,
    SETS,
    material,
    outcomes,
    sweep,
)

_OF_TEXT = "html head meta title style body main h1 h2 h3 p b span br section footer script"
_OF_FORMS = "form div label output input datalist option select noscript"
_OF_TABLES = "table caption thead tbody tr th td ul li"
_OF_PICTURES = "figure figcaption img svg g path polygon polyline circle rect text"
KNOWN = {*_OF_TEXT.split(), *_OF_FORMS.split(), *_OF_TABLES.split(), *_OF_PICTURES.split()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return page.write_page(sweep(), material(folder), folder / "explore.html")


@pytest.fixture(scope="module")
def text(written):
    return written.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes and its own text."""

    def __init__(self, text):
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_data(self, data):
        if self.found:
            self.found[-1]["text"] += data


@pytest.fixture(scope="module")
def elements(text):
    return Elements(text).found


def attribute_values(elements, name):
    return [element[name] for element in elements if name in element]


# What the page holds


def test_nothing_is_loaded_and_only_the_pages_own_script_and_style_may_run(text, elements):
    assert external_loads(text) == ["a script"]  # its own
    (script,) = [one for one in elements if one["tag"] == "script"]
    assert set(script) == {"tag", "text"}
    (policy,) = attribute_values(elements, "content")[:1]
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'"
    assert parts["base-uri"] == parts["form-action"] == "'none'"
    assert parts["img-src"] == "data:"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(found) == 1
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert parts[kind] == f"'sha256-{digest}'"
    assert not [name for one in elements for name in one if name == "style" or name[:2] == "on"]
    assert all(
        one.startswith("data:image/webp;base64,") for one in attribute_values(elements, "src")
    )


def test_every_control_has_a_label_and_every_picture_words(elements):
    labelled = {one["for"] for one in elements if one["tag"] == "label"}
    controls = [one for one in elements if one["tag"] in ("input", "select")]
    assert {one["id"] for one in controls} == labelled == {"alpha", "student", "set"}
    assert all(one.get("alt") for one in elements if one["tag"] == "img")
    for one in elements:
        if one["tag"] == "svg":
            assert one.get("aria-hidden") == "true" or (one["role"] == "img" and one["aria-label"])
    (live,) = [one for one in elements if one.get("id") == "live"]
    assert live["aria-live"] == "polite"
    ids = attribute_values(elements, "id")
    assert len(ids) == len(set(ids))
    assert next(one for one in elements if one["tag"] == "html")["lang"] == "en"


def test_every_state_is_there_once_and_only_the_opening_one_is_seen(elements):
    states = {(str(s), str(a)) for s in range(len(DRAWS)) for a in range(len(ALPHAS))}
    spoken = [one for one in elements if one.get("class") == "spoken"]
    assert len(spoken) == len(states) * len(SETS)
    assert {(one["data-student"], one["data-alpha"]) for one in spoken} == states
    pieces = [one for one in elements if one["tag"] == "div" and "data-alpha" in one]
    # The table of all data sets, and what changed on each.
    assert len(pieces) == len(states) * (1 + len(SETS))
    opening = {"data-student": "0", "data-alpha": "2", "data-set": "0"}  # 0.5 is nearest to 0.4
    for one in elements:
        kept = [name for name in opening if name in one]
        if kept and one.get("class") != "spoken":
            fits = all(one[name] == opening[name] for name in kept)
            assert (one.get("class") == "off") == (not fits)
    slider = next(one for one in elements if one.get("id") == "alpha")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "3", "2")
    stops = [one["label"] for one in elements if one["tag"] == "option" and "label" in one]
    assert stops == ["0", "0.25", "0.5", "1"]


def test_the_numbers_are_those_of_the_outcomes(elements):
    table = outcomes()
    for set_place, (name, one) in enumerate(SETS.items()):
        for student, draw in enumerate(DRAWS):
            for place, alpha in enumerate(ALPHAS):
                rows = table[(table["data_set"] == name) & (table["alpha"] == alpha)]
                rows = rows[rows["draw"].fillna(draw) == draw]
                expected = f"{100 * (rows['rank'] <= one.measure.k).mean():.1f} percent"
                (said,) = [
                    element["text"]
                    for element in elements
                    if element.get("class") == "spoken"
                    and element["data-set"] == str(set_place)
                    and element["data-student"] == str(student)
                    and element["data-alpha"] == str(place)
                ]
                assert expected in said and f"alpha {alpha:g}, student {draw}" in said


def test_clips_show_the_rank_at_every_alpha_and_the_predicted_class(text):
    table = outcomes()
    swept = sweep()
    for item in page.example_clips(swept, "acts"):
        for draw in DRAWS:
            rows = table[(table["item"] == item) & (table["draw"].fillna(draw) == draw)]
            ranks = rows.sort_values("alpha")["rank"]
            cells = "".join(
                f'<td data-column="{place}">{rank:g}</td>' for place, rank in enumerate(ranks)
            )
            assert cells in text
    verdicts = re.findall(
        r'data-student="(\d)" data-alpha="(\d)"[^>]*>Taken for <b>(.*?)</b>: (\w+)', text
    )
    assert len(verdicts) == 3 * len(DRAWS) * len(ALPHAS)
    labels = SETS["acts"].trial.clips.set_index("clip_id")["label"]
    expected = []
    for item in page.example_clips(swept, "acts"):
        for student, draw in enumerate(DRAWS):
            for place, alpha in enumerate(ALPHAS):
                rows = table[(table["item"] == item) & (table["alpha"] == alpha)]
                (taken,) = rows[rows["draw"].fillna(draw) == draw]["predicted"]
                verdict = "right" if taken == labels[item] else "wrong"
                expected.append((str(student), str(place), taken, verdict))
    found = [
        (student, place, unescape(taken), verdict) for student, place, taken, verdict in verdicts
    ]
    assert found == expected


def test_clips_are_shown_with_their_real_frames_only(elements):
    swept = sweep()
    shown = [
        len(one.frames_of(one.clip_ids.index(item)))
        for name, one in SETS.items()
        for item in page.example_clips(swept, name)
    ]
    pictures = [one["src"].split(",")[1] for one in elements if one["tag"] == "img"]
    widths = [Image.open(io.BytesIO(base64.b64decode(one))).width for one in pictures]
    assert widths == [24 * frames + (frames - 1) for frames in shown]  # a pixel between two


# What is chosen


def test_example_clips_improved_worsened_and_did_neither_most():
    table, swept = outcomes(), sweep()
    for name in SETS:
        rows = table[table["data_set"] == name]
        logs = {
            alpha: rows[rows["alpha"] == alpha]
            .groupby("item")["rank"]
            .agg(lambda r: np.log(r).mean())
            for alpha in (0.0, 0.5)
        }
        change = (logs[0.5] - logs[0.0]).round(9)
        best, worst, middle = page.example_clips(swept, name)
        assert change[best] == change.min() < 0 < change.max() == change[worst]
        assert change[middle] == sorted(change)[(CLIPS - 1) // 2]


def test_where_nothing_changed_one_clip_is_shown():
    table = outcomes().assign(rank=2.0)
    measures = {name: Measure(name, "text_to_video", 5) for name in ("one",)}
    assert page.example_clips(Sweep(table, measures), "one") == {
        "one_05": "in the middle of all clips"
    }


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [
        ((0.0, 0.4, 1.0), 0.4),
        ((0.0, 0.3, 0.5, 1.0), 0.3),
        ((0.0, 1.0), 0.0),
        ((0.0, 0.9, 1.0), 0.0),
    ],
)
def test_the_page_opens_near_the_papers_alpha(alphas, expected):
    assert page.opening_alpha(sweep((1,), alphas)) == expected


def test_the_opening_figure_shows_what_the_page_opens_with(tmp_path):
    figure = page.opening_figure(sweep(), material(tmp_path))
    found = [*figure.findobj(Text), *(cell.get_text() for cell in figure.findobj(Cell))]
    texts = [text.get_text() for text in found]
    assert "α = 0.5 · student 1" in texts
    assert "One <b>&</b> only" in texts
    assert any("improved most at α = 0.5" in text for text in texts)
