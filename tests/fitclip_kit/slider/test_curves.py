"""The explorer's curves: what is drawn lies where the numbers say."""

import math
import re
from html import unescape
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures.measures import Measure
from fitclip_kit.slider import curves
from fitclip_kit.slider.stored import Point, StoredSweep

ALPHAS = [0.0, 0.4, 1.0]
HOSTILE = '"><script>alert(1)</script>'


class Sweep:
    """The part of a stored sweep that the curves ask for; values are made up by formula."""

    def __init__(self, draws=(1, 2), width=0.05):
        self.draws = list(draws)
        self.alphas = ALPHAS
        self.measures = {
            "a": Measure("a", "text_to_video", 5),
            "b": Measure("b", "classification", 1),
        }
        self.width = width

    def curve(self, data_set, draw=None):
        base = {"a": 0.3, "b": 0.5}[data_set] + 0.02 * (draw or 0)
        values = base + np.array([0.0, 0.1, -0.1])
        return pd.DataFrame(
            {
                "alpha": ALPHAS,
                "value": values,
                "ci_low": values - self.width,
                "ci_high": values + self.width,
            }
        )


def picture(draw=1, titles=None, **options):
    return curves.CurvePicture(cast(StoredSweep, Sweep(**options)), draw, titles)


def point(value=0.4, low=0.35, high=0.45, status="stored"):
    return Point(value, low, high, status)


def places(panel, words):
    """The coordinates in an SVG attribute."""
    return [tuple(map(float, pair.split(","))) for pair in words.split()]


def attribute(drawn, kind, name):
    return re.findall(rf'class="{kind}"[^>]* {name}="([^"]+)"', drawn)


def value_at(panel, y):
    """The data value at a place, by the two ends of the axis."""
    share = (168 - y) / (168 - 8)
    return panel.low + share * (panel.high - panel.low)


def alpha_at(x):
    return (x - 44) / (342 - 44)


# Curves


@pytest.mark.parametrize(("panel_place", "data_set"), [(0, "a"), (1, "b")])
def test_each_line_goes_through_its_numbers(panel_place, data_set):
    made = picture(2)
    panel = made.panels[panel_place]
    drawn = made.panel(data_set, "", "")
    for kind, curve in (
        ("fk-curve", Sweep().curve(data_set, 2)),
        ("fk-mean", Sweep().curve(data_set)),
    ):
        (words,) = attribute(drawn, kind, "points")
        found = places(panel, words)
        assert [alpha_at(x) for x, _ in found] == pytest.approx(ALPHAS, abs=1e-3)
        assert [value_at(panel, y) for _, y in found] == pytest.approx(curve["value"], abs=1e-3)
    (words,) = attribute(drawn, "fk-area", "points")
    area = [value_at(panel, y) for _, y in places(panel, words)]
    mean = Sweep().curve(data_set)
    assert area == pytest.approx([*mean["ci_high"], *mean["ci_low"][::-1]], abs=1e-3)
    assert drawn.count('class="fk-dot"') == len(ALPHAS)


def test_all_students_share_an_axis_that_holds_every_interval():
    first, second = picture(1), picture(2)
    for one, other in zip(first.panels, second.panels, strict=True):
        assert (one.low, one.high) == (other.low, other.high)
        assert one.low < Sweep().curve(one.data_set)["ci_low"].min()
        assert one.high > Sweep().curve(one.data_set, 2)["ci_high"].max()


def test_an_axis_stays_within_0_and_100_percent_and_is_never_empty():
    wide = picture(width=0.9).panels[0]
    assert (wide.low, wide.high) == (0.0, 1.0)
    flat = Sweep(draws=(1,))
    flat.curve = lambda data_set, draw=None: pd.DataFrame(  # type: ignore[method-assign]
        {"alpha": ALPHAS, "value": 1.0, "ci_low": math.nan, "ci_high": math.nan}
    )
    made = curves.CurvePicture(cast(StoredSweep, flat), 1)
    assert made.panels[0].low < made.panels[0].high == 1.0
    assert "nan" not in made.with_markers({"a": point(1.0, math.nan, math.nan)}, 0.4)


def test_one_student_has_no_mean():
    made = picture(draws=(1,))
    assert made.panels[0].mean is None
    drawn = made.with_markers({}, 0.4) + made.legend()
    assert "fk-mean" not in drawn and "fk-area" not in drawn


def test_an_unknown_student_is_refused():
    with pytest.raises(ValueError, match=r"no student 7 .* \[1, 2\]"):
        picture(7)


def test_a_screen_reader_hears_the_ends_and_the_best():
    (spoken,) = re.findall(r'aria-label="([^"]+)"', picture(1, {"a": HOSTILE}).panel("a", "", ""))
    assert unescape(spoken) == (
        f"{HOSTILE}, text-to-video R@5 over alpha, student 1: teacher 32.0%, student 22.0%, "
        "highest 42.0% at alpha 0.4"
    )


def test_titles_are_text():
    drawn = picture(1, {"a": HOSTILE, "b": "B & Co"}).with_markers({}, 0.1)
    assert "<script" not in drawn and "B &amp; Co" in drawn


# Markers


@given(
    st.floats(0, 1),
    st.floats(0.3, 0.47),
    st.sampled_from(["stored", "exact", "interpolated"]),
)
def test_a_marker_lies_at_its_alpha_and_value(alpha, value, status):
    made = PICTURE
    drawn = curves.markers(
        made.panels[0], point(value, value - 0.03, value + 0.02, status), alpha, alpha
    )
    (x,) = attribute(drawn, "fk-mark-point", "cx")
    (y,) = attribute(drawn, "fk-mark-point", "cy")
    assert alpha_at(float(x)) == pytest.approx(alpha, abs=1e-3)
    assert value_at(made.panels[0], float(y)) == pytest.approx(value, abs=1e-3)
    (bar,) = attribute(drawn, "fk-mark", "d")
    ends = re.match(r"M([\d.]+) ([\d.]+)V([\d.]+)", bar)
    assert ends is not None and ends.group(1) == x
    low, high = (value_at(made.panels[0], float(ends.group(place))) for place in (3, 2))
    assert (low, high) == pytest.approx((value - 0.03, value + 0.02), abs=1e-3)
    assert ("fk-guess" in drawn) == (status == "interpolated")


PICTURE = picture()


def test_separate_towers_are_marked_by_a_bar_between_their_shares():
    drawn = curves.markers(PICTURE.panels[0], point(), 0.8, 0.2)
    bar = attribute(drawn, "fk-mark", "d")[0]
    ends = re.fullmatch(r"M([\d.]+) ([\d.]+)H([\d.]+)", bar)
    assert ends is not None
    assert [alpha_at(float(ends.group(place))) for place in (1, 3)] == pytest.approx(
        [0.2, 0.8], abs=1e-3
    )
    assert value_at(PICTURE.panels[0], float(ends.group(2))) == pytest.approx(0.4, abs=1e-3)
    assert "fk-mark-guide" not in drawn
    assert "fk-mark-guide" in curves.markers(PICTURE.panels[0], point(), 0.8, 0.8)


@pytest.mark.parametrize(("value", "tip"), [(0.99, 1), (0.001, 161 + 14)])
def test_what_lies_beyond_the_axis_is_a_triangle_at_its_end(value, tip):
    drawn = curves.markers(PICTURE.panels[0], point(value, value, value), 0.5, 0.5)
    assert "<circle" not in drawn
    (triangle,) = attribute(drawn, "fk-mark-point", "d")
    assert float(re.findall(r"L[\d.]+ ([\d.]+)Z", triangle)[0]) == pytest.approx(tip)


def test_an_interval_that_leaves_the_axis_has_no_cap_there():
    panel = PICTURE.panels[0]
    caps = [
        curves.markers(panel, point(0.4, low, high), 0.5, 0.5).count("H")
        for low, high in ((0.35, 0.45), (0.0, 0.45), (0.0, 0.99))
    ]
    assert caps == [2, 1, 0]


def test_a_missing_interval_or_value_is_not_drawn():
    drawn = curves.markers(PICTURE.panels[0], point(0.4, math.nan, math.nan), 0.5, 0.5)
    assert "<circle" in drawn and not attribute(drawn, "fk-mark", "d")
    assert curves.markers(PICTURE.panels[0], point(math.nan), 0.5, 0.5) == ""


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (point(), "40.0 [35.0, 45.0]"),
        (point(status="exact"), "40.0 [35.0, 45.0]"),
        (point(status="interpolated"), "≈ 40.0 [35.0, 45.0]"),
        (point(0.4, math.nan, math.nan), "40.0"),
        (point(math.nan, math.nan, math.nan), "–"),
    ],
)
def test_a_reading_says_when_it_is_an_estimate(shown, words):
    assert re.sub(r"<[^>]+>", "", curves.reading(shown)) == words


def test_markers_are_put_into_each_panel_that_has_a_point():
    both = PICTURE.with_markers({"a": point(), "b": point(0.5)}, 0.4)
    panels = re.findall(r"<figure.*?</figure>", both)
    assert [panel.count('<circle class="fk-mark-point"') for panel in panels] == [1, 1]
    assert curves.markers(PICTURE.panels[1], point(0.5), 0.4, 0.4) in panels[1]
    one = PICTURE.with_markers({"b": point(0.5)}, 0.4, 0.4)
    panels = re.findall(r"<figure.*?</figure>", one)
    assert ["fk-mark-point" in panel for panel in panels] == [False, True]
    assert [re.findall(r'data-panel="(\w)"', panel) for panel in panels] == [["a"], ["b"]]
