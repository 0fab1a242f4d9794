import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from figures import style
from figures.explorer_state import (
    CurvePanel,
    Strip,
    interval_text,
    percent_text,
    points_text,
    state_figure,
)


@dataclass(frozen=True)
class Point:
    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    status: str = "stored"


def curve(base):
    values = base + np.array([0.0, 0.1, -0.05])
    ends = {"ci_low": values - 0.03, "ci_high": values + 0.03}
    return pd.DataFrame({"alpha": [0, 0.4, 1], "value": values, **ends})


def panels(count=2, mean=True):
    return [
        CurvePanel(
            f"set{place}",
            f"Set $x$ {place}",
            "top-1",
            curve(0.3),
            curve(0.32) if mean else None,
            0.1,
            0.6,
        )
        for place in range(count)
    ]


NUMBERS = pd.DataFrame({"Set": ["A $1 for $2", "B"], "Here": ["40.0", "−1.5"]})
POINTS = {"set0": Point(0.4, 0.35, 0.45), "set1": Point(0.3, 0.2, 0.35)}


def strips(count=2, shape=(4, 12, 10, 3), text="first line\nsecond line"):
    frames = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    return [Strip(frames, f"clip {place}", text) for place in range(count)]


def draw(**changed):
    arguments = {
        "title": "α = 0.4 · student 1",
        "panels": panels(),
        "points": POINTS,
        "shares": (0.4, 0.4),
        "numbers": NUMBERS,
        "strips": strips(),
    }
    return state_figure(**(arguments | changed))


def marker_of(ax):
    """The last line drawn with a marker, which is the reading's."""
    return [line for line in ax.lines if line.get_marker() in ("o", "^", "v")][-1]


def test_curves_teacher_and_mean_are_drawn_in_percent():
    ax = draw().axes[0]
    lines = [line.get_ydata() for line in ax.lines]
    for expected in (curve(0.32)["value"], curve(0.3)["value"]):
        assert any(np.allclose(line, 100 * expected) for line in lines if len(line) == 3)
    assert any(np.allclose(line, 30) for line in lines if len(line) == 2)
    (band,) = [one for one in ax.collections if not isinstance(one, LineCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((24, 45))
    assert ax.get_ylim() == (10, 60)


def test_the_reading_is_marked_with_its_interval():
    for ax, point in zip(draw().axes, POINTS.values(), strict=False):
        marker = marker_of(ax)
        assert (*marker.get_xdata(), *marker.get_ydata()) == (0.4, pytest.approx(100 * point.value))
        (bar,) = [one for one in ax.collections if isinstance(one, LineCollection)]
        expected = [[0.4, 100 * point.ci_low], [0.4, 100 * point.ci_high]]
        np.testing.assert_allclose(bar.get_segments()[0], expected)
        assert marker.get_markerfacecolor() == style.INK
        text = f"top-1 (%): {100 * point.value:.1f} [{100 * point.ci_low:.1f}, "
        assert any(one.get_text().startswith(text) for one in ax.texts)


def test_separate_towers_are_a_bar_between_their_shares():
    bars = [one for one in draw(shares=(0.9, 0.3)).axes[0].collections]
    segments = [one.get_segments()[0] for one in bars if isinstance(one, LineCollection)]
    assert any(np.allclose(one, [[0.3, 40], [0.9, 40]]) for one in segments)
    assert any(np.allclose(one, [[0.6, 35], [0.6, 45]]) for one in segments)


def test_an_estimate_looks_and_reads_like_one():
    figure = draw(points={"set0": Point(0.4, 0.3, 0.5, "interpolated")})
    ax = figure.axes[0]
    assert marker_of(ax).get_markerfacecolor() == "white"
    assert "top-1 (%): ≈ 40.0 [30.0, 50.0]" in [one.get_text() for one in ax.texts]
    labels = [one.get_text() for one in figure.legends[0].get_texts()]
    assert "≈ estimated, not measured" in labels
    assert [one.get_text() for one in figure.axes[1].texts] == ["top-1 (%)"]
    settled = [one.get_text() for one in draw().legends[0].get_texts()]
    assert "≈ estimated, not measured" not in settled


@pytest.mark.parametrize(("value", "marker", "place"), [(0.9, "^", 60), (0.05, "v", 10)])
def test_what_lies_beyond_the_axis_points_there(value, marker, place):
    found = marker_of(draw(points={"set0": Point(value)}).axes[0])
    assert found.get_marker() == marker and found.get_ydata()[0] == place


def test_one_student_has_no_mean_in_the_legend():
    figure = draw(panels=panels(mean=False))
    labels = [one.get_text() for one in figure.legends[0].get_texts()]
    assert labels == ["this student", "teacher's level", "here, 95% interval over clips"]


def test_the_table_prints_its_texts_words_left_and_numbers_right():
    figure = draw(strips=[])
    table = figure.axes[-1]
    texts = {one.get_text(): one for one in table.texts}
    assert set(texts) == {"Set", "Here", "A $1 for $2", "B", "40.0", "−1.5"}
    assert texts["Set"].get_ha() == texts["B"].get_ha() == "left"
    assert texts["Here"].get_ha() == texts["−1.5"].get_ha() == "right"
    assert texts["Set"].get_weight() == "bold" and texts["B"].get_weight() == "normal"
    assert not texts["A $1 for $2"].get_parse_math()


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, []),
        (3, strips(1, (1, 20, 8, 3))),
        (4, strips(3, (9, 10, 30, 3), "costs $5 or $6_a " * 40)),
        (7, strips(2, text="\n".join(f"{n} lines" for n in range(8))) + strips(2)),
    ],
)
def test_nothing_leaves_the_page_or_covers_another_part(count, shown):
    points = {f"set{place}": Point(0.3, 0.2, 0.4) for place in range(count)}
    figure = draw(panels=panels(count), points=points, strips=shown)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == style.PAGE_WIDTH
    below = figure.dpi * style.FOOTER
    bare = figure.axes[count:]
    curves = [ax.get_tightbbox() for ax in figure.axes[:count]]
    legend = figure.legends[0].get_window_extent()
    table, *strip = [[text.get_window_extent() for text in ax.texts] for ax in bare]
    for box in (*curves, legend, *table, *(strip[0] if strip else [])):
        assert box.x0 >= -0.5 and box.x1 <= figure.bbox.width + 0.5
        assert box.y0 >= below - 0.5 and box.y1 <= figure.bbox.height
    assert min(box.y0 for box in curves) >= legend.y1 - 2
    assert legend.y0 >= max(box.y1 for box in table) - 2
    if strip:
        titles, texts = strip[0][::2], strip[0][1::2]
        assert min(box.y0 for box in table) >= titles[0].y1
        for text, following in zip(texts, titles[1:], strict=False):
            assert text.y0 >= following.y1


def test_a_strip_shows_its_frames_in_order():
    (one,) = strips(1, (3, 12, 40, 3))
    (image,) = draw(strips=[one]).axes[-1].images
    pixels = np.asarray(image.get_array())
    assert pixels.shape == (12, 3 * 40 + 2 * 2, 3)
    for place in range(3):
        np.testing.assert_array_equal(pixels[:, 42 * place : 42 * place + 40], one.frames[place])
    left, right, bottom, top = image.get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(124 / 12)


def test_it_is_saved_like_every_figure_and_leaves_pyplot_alone(tmp_path):
    before = plt.get_fignums()
    paths = style.save(draw(), tmp_path / "state", {"results": "a" * 64})
    with Image.open(paths[0]) as image:
        assert image.width == pytest.approx(300 * style.PAGE_WIDTH, abs=1)
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"panels": [], "points": {}}, "no curve"),
        ({"points": {"other": Point(0.1)}}, r"\['other'\]"),
        ({"shares": (0.4, 1.5)}, "1.5"),
        ({"shares": (math.nan, 0.5)}, "nan"),
        ({"numbers": NUMBERS.iloc[:0]}, "empty"),
        ({"strips": strips(1, (4, 12, 10, 4))}, r"'clip 0' are uint8 \[4, 12, 10, 4\]"),
        ({"strips": strips(1, (0, 12, 10, 3))}, r"\[0, 12, 10, 3\]"),
    ],
)
def test_wrong_input_is_refused(changed, problem):
    with pytest.raises(ValueError, match=problem):
        draw(**changed)


@pytest.mark.parametrize(
    ("number", "percent", "points"),
    [
        (0.12345, "12.3", "+12.3"),
        (-0.0004, "0.0", "+0.0"),
        (-0.021, "-2.1", "−2.1"),
        (1.0, "100.0", "+100.0"),
        (math.nan, "–", "–"),
    ],
)
def test_fractions_are_printed_in_percent(number, percent, points):
    assert percent_text(number) == percent
    assert points_text(number) == points


def test_intervals_are_in_percent_or_points_and_empty_where_unknown():
    assert interval_text(0.1, 0.25) == "[10.0, 25.0]"
    assert interval_text(-0.1, 0.25, signed=True) == "[−10.0, +25.0]"
    assert interval_text(math.nan, 0.25) == interval_text(0.1, math.nan) == ""
