"""What the explorer shows as HTML: escaped, with the numbers given, for screen readers too."""

import base64
import io
import math
import re
from html import escape, unescape

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fitclip_kit.slider import html

HOSTILE = "</td><script>alert(\"1\")</script>\u2028<img src=x onerror='y'>&amp;"


def pixels(height=8, width=6, frames=None, seed=0):
    shape = (height, width, 3) if frames is None else (frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def decoded(element):
    (content,) = re.findall(r'src="data:image/webp;base64,([^"]+)"', element)
    return Image.open(io.BytesIO(base64.b64decode(content)))


def rows_of(table):
    """The texts of a table's cells, row by row, its head first."""
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]


# Tables


def test_a_table_has_a_caption_and_heads_for_its_rows_and_columns():
    frame = pd.DataFrame({"set": ["a", "b"], "value": [1.5, math.nan]})
    table = html.table(frame, "All sets", numeric=["value"])
    assert "<caption>All sets</caption>" in table
    assert rows_of(table) == [["set", "value"], ["a", "1.5"], ["b", "–"]]
    assert re.findall(r'<th scope="(\w+)"', table) == ["col", "col", "row", "row"]
    assert table.count('class="fk-number"') == 3


def test_marked_rows_are_set_apart():
    table = html.table(pd.DataFrame({"a": ["x", "y"]}), "c", marked=[1])
    assert re.findall(r"<tr(.*?)>", table) == ["", "", ' class="fk-right"']


@given(st.text(), st.text(), st.text())
def test_whatever_a_text_holds_it_stays_text(name, cell, caption):
    plain = html.table(pd.DataFrame({"a": ["b"]}), "c")
    table = html.table(pd.DataFrame({name + "!": [cell]}), caption)
    assert re.sub("[^<>]", "", table) == re.sub("[^<>]", "", plain)
    assert escape(cell) in table and escape(name) in table and escape(caption) in table


def test_an_empty_table_has_a_head_and_one_without_columns_is_refused():
    assert rows_of(html.table(pd.DataFrame({"a": []}), "c")) == [["a"]]
    with pytest.raises(ValueError, match="no column"):
        html.table(pd.DataFrame(), "c")


def answers(**changed):
    row = {
        "data_set": "msrvtt",
        "measure": "text-to-video R@5",
        "value": 0.4164,
        "ci_low": 0.386,
        "ci_high": 0.4469,
        "teacher": 0.3355,
        "student": 0.3574,
        "difference": -0.0004,
        "status": "interpolated",
    }
    return pd.DataFrame([row | changed])


def test_numbers_are_in_percent_and_differences_have_a_sign():
    (row,) = html.numbers(answers(difference=-0.0306), {"msrvtt": "MSR-VTT"}).to_numpy().tolist()
    assert row == [
        "MSR-VTT",
        "text-to-video R@5",
        "33.6",
        "35.7",
        "41.6",
        "[38.6, 44.7]",
        "−3.1",
        "≈ interpolated",
    ]


def test_nothing_is_minus_zero_and_a_missing_interval_is_a_dash():
    found = html.numbers(answers(ci_low=math.nan, ci_high=math.nan, status="stored"))
    assert found["Here − teacher"].tolist() == ["+0.0"]
    assert found["95% interval"].tolist() == ["–"]
    assert found["Status"].tolist() == ["stored"]
    assert found["Data set"].tolist() == ["msrvtt"]


def test_the_metrics_table_holds_the_same_texts():
    table = html.metrics(answers(), "α = 0.4", {"msrvtt": HOSTILE})
    assert rows_of(table)[1] == html.numbers(answers(), {"msrvtt": HOSTILE}).iloc[0].tolist()
    assert "<script" not in table and "<img" not in table


def test_an_answer_says_the_difference_with_its_interval_and_the_coverage():
    found = answers(status="exact", difference=0.081).assign(
        diff_low=0.06, diff_high=0.107, n=987, clips=pd.array([1000], "Int64")
    )
    said = unescape(re.sub(r"<[^>]+>", "", html.answer(found, HOSTILE)))
    assert said.startswith(f"{HOSTILE}, text-to-video R@5: 41.6% [38.6, 44.7], ")
    assert "+8.1 points [+6.0, +10.7] against the teacher's 33.6%" in said
    assert "987 of 1,000 clips, measured now" in said
    unknown = found.assign(clips=pd.array([pd.NA], "Int64"))
    assert "987 clips, measured now" in html.answer(unknown, "x")


# Changes


def class_changes():
    frame = pd.DataFrame(
        {
            "change": ["gained", "gained", "lost"],
            "class": ["run", HOSTILE, "swim"],
            "n": [10, 1200, 7],
            "teacher": [0.1, 0.2, 0.9],
            "now": [0.6, 0.25, 0.4],
            "difference": [0.5, 0.05, -0.5],
            "low": [0.1, -0.1, -0.9],
            "high": [0.8, 0.2, -0.1],
        }
    )
    frame.attrs["counts"] = {"gained": 12, "lost": 1, "same": 3}
    return frame


def test_classes_that_gained_and_lost_stand_in_two_tables():
    shown = html.changes(class_changes())
    gained, lost = re.findall(r"<table.*?</table>", shown)
    assert "Classes that gained most (2 of 12)" in gained
    assert "Classes that lost most (1 of 1)" in lost
    assert rows_of(gained)[1:] == [
        ["run (10)", "", "10.0", "60.0", "+50.0"],
        [f"{HOSTILE} (1,200)", "", "20.0", "25.0", "+5.0"],
    ]
    assert rows_of(lost)[1] == ["swim (7)", "", "90.0", "40.0", "−50.0"]
    assert re.findall(r'class="(fk-fill[\w-]*)" width="([\d.]+)"', shown) == [
        ("fk-fill", "50.00"),
        ("fk-fill", "5.00"),
        ("fk-fill-soft", "50.00"),
    ]
    assert "<script" not in shown


def test_items_that_entered_and_left_are_called_by_their_captions():
    frame = pd.DataFrame({"change": ["entered"], "item": ["a1"], "teacher": [1234.5], "now": [2.0]})
    frame.attrs["counts"] = {"entered": 3, "left": 0, "stayed": 1, "outside": 2}
    shown = html.changes(frame, {"a1": HOSTILE})
    assert rows_of(shown)[1] == [HOSTILE, "1,234.5", "2"]
    assert "Entered the top (1 of 3)" in shown and "<b>Left the top:</b> none" in shown


# Probabilities and retrieved clips


def test_probabilities_are_bars_with_numbers_and_the_right_one_is_named():
    frame = pd.DataFrame(
        {
            "name": ["x", HOSTILE],
            "score": [0.31234, -0.1],
            "probability": [0.875, 0.125],
            "right": [False, True],
            "rank": [1.0, 2.5],
            "place": [4, 0],
        }
    )
    shown = html.probability_bars(frame, "c")
    assert rows_of(shown)[1:] == [
        ["x", "", "87.5", "0.312", "1"],
        [f"{HOSTILE} right", "", "12.5", "-0.100", "2.5"],
    ]
    assert re.findall(r'width="([\d.]+)" height="11"', shown) == ["87.50", "12.50"]
    assert shown.count("fk-badge") == 1 and 'aria-hidden="true"' in shown


def test_a_gallery_marks_what_is_new_and_lists_what_left():
    found = pd.DataFrame({"clip_id": ["a", "b"], "score": [0.5, 0.25], "place": [1.0, 2.0]})
    pictures = {"a": pixels(), "c": pixels(seed=1)}
    shown = html.gallery(found, pictures, HOSTILE, texts={"b": HOSTILE}, entered=["b"], left=["c"])
    items = re.findall(r"<li>.*?</li>", shown)
    assert ["fk-badge" in item for item in items] == [False, True, False]
    assert ["<img" in item for item in items] == [True, False, True]
    assert "0.500" in items[0] and "<b>2</b>" in items[1] and "c" in items[2]
    assert shown.index("<ol") < shown.index("No longer in the top") < shown.index("<ul")
    assert "<script" not in shown
    assert "No longer" not in html.gallery(found, {}, "c")


# Pictures


def test_a_strip_holds_its_frames_in_order_and_nothing_between():
    frames = pixels(8, 6, frames=3)
    image = np.asarray(decoded(html.strip(frames, "a")).convert("RGBA"))
    assert image.shape == (8, 3 * 6 + 2, 4)
    for place in range(3):
        part = image[:, 7 * place : 7 * place + 6]
        np.testing.assert_array_equal(part[..., :3], frames[place])
        assert (part[..., 3] == 255).all()
    assert (image[:, 6, 3] == 0).all()


def test_large_pictures_are_made_smaller_and_small_ones_shown_larger():
    large = html.picture(np.full((192, 384, 3), 100, np.uint8), "")
    assert decoded(large).size == (192, 96)
    assert np.abs(np.asarray(decoded(large).convert("RGB")).astype(int) - 100).max() < 4
    assert 'width="192" height="96"' in large
    small = html.picture(pixels(36, 18), HOSTILE)
    assert decoded(small).size == (18, 36) and 'width="36" height="72"' in small
    assert f'alt="{escape(HOSTILE)}"' in small


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match=re.escape(str(list(wrong.shape)))):
        html.picture(wrong, "a")
    with pytest.raises(ValueError, match="give"):
        html.strip(wrong[None], "a")


def test_a_strip_needs_a_frame():
    with pytest.raises(ValueError, match="at least one"):
        html.strip(np.zeros((0, 4, 4, 3), np.uint8), "a")
    with pytest.raises(ValueError, match="at least one"):
        html.strip(pixels(), "a")


def test_a_notice_is_text_and_none_is_nothing():
    assert html.notice("") == ""
    assert escape(HOSTILE) in html.notice(HOSTILE) and "<script" not in html.notice(HOSTILE)


# The look


def test_the_style_holds_for_the_explorer_only_and_loads_nothing():
    assert "url(" not in html.STYLE and "@import" not in html.STYLE and "</" not in html.STYLE
    for selectors in re.findall(r"([^{}]+)\{", html.STYLE):
        assert all(one.strip().startswith(".fk") for one in selectors.split(","))


def test_no_element_has_a_style_of_its_own():
    shown = (
        html.changes(class_changes()) + html.metrics(answers(), "c") + html.picture(pixels(), "")
    )
    assert " style=" not in shown


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_texts_and_lines_stand_out_from_the_paper():
    colours = dict(re.findall(r"--fk-(\w+): (#\w{6})", html.STYLE))
    for name in ("ink", "soft"):
        assert contrast(colours[name], colours["paper"]) > 4.5
        assert contrast(colours[name], colours["shade"]) > 4.5
    for name in ("line", "draw"):  # lines, not texts
        assert contrast(colours[name], colours["paper"]) > 3
    assert contrast(colours["line"], colours["band"]) > 2
