"""The slider's curves and marks, by hand, and the figure that is printed of a state."""

import math

import numpy as np
import pandas as pd
import pytest

from figures import explorer_state, style
from figures.explorer_state import CurvePanel, Strip, curve_strokes, mark_strokes, state_figure


def point(value, ci_low=math.nan, ci_high=math.nan, status="stored"):
    return explorer_state.Point(value, ci_low, ci_high, status)


def curve(base):
    values = base + np.array([0.0, 0.1, -0.05])
    ends = {"ci_low": values - 0.03, "ci_high": values + 0.03}
    return pd.DataFrame({"alpha": [0, 0.4, 1], "value": values, **ends})


def panels(count=2, mean=True):
    mean = curve(0.32) if mean else None
    return [
        CurvePanel(f"set{place}", f"Set $x$ {place}", "top-1", curve(0.3), mean, 0.1, 0.6)
        for place in range(count)
    ]


NUMBERS = pd.DataFrame({"Set": ["A $1 for $2", "B"], "Here": ["40.0", "−1.5"]})
POINTS = {"set0": point(0.4, 0.35, 0.45), "set1": point(0.3, 0.2, 0.35)}


def strips(count=2, shape=(4, 12, 10, 3), text="first line\nsecond line"):
    frames = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    return [Strip(frames, f"clip {place}", text) for place in range(count)]


PANELS, STRIPS = panels(), strips()


def draw(panels=PANELS, points=POINTS, shares=(0.4, 0.4), strips=STRIPS):
    return state_figure("α = 0.4 · student 1", panels, points, shares, NUMBERS, strips)


# What is drawn


def drawn(strokes):
    return [(stroke.kind, stroke.alphas, pytest.approx(stroke.values)) for stroke in strokes]


def test_the_curves_of_a_panel():
    level, line = ("level", [-0.04, 1.04], [0.3, 0.3]), ("curve", [0, 0.4, 1], [0.3, 0.4, 0.25])
    (alone,) = panels(1, mean=False)
    assert drawn(curve_strokes(alone)) == [level, line]
    (panel,) = panels(1)
    ends = [0.35, 0.45, 0.3, 0.24, 0.39, 0.29]
    assert drawn(curve_strokes(panel)) == [
        ("area", [0, 0.4, 1, 1, 0.4, 0], ends),
        level,
        ("mean", [0, 0.4, 1], [0.32, 0.42, 0.27]),
        line,
    ]


CAP = [0.385, 0.415]


@pytest.mark.parametrize(
    ("point", "shares", "expected"),
    [
        (
            point(0.4, 0.35, 0.45),
            (0.4, 0.4),
            [
                ("guide", [0.4, 0.4], [0.1, 0.6]),
                ("mark", [0.4, 0.4], [0.35, 0.45]),
                ("mark", CAP, [0.35, 0.35]),
                ("mark", CAP, [0.45, 0.45]),
                ("point", [0.4], [0.4]),
            ],
        ),
        (  # an interval that goes on has no cap; two towers are on no curve
            point(0.4, 0.05, 0.6),
            (0.7, 0.1),
            [
                ("mark", [0.1, 0.7], [0.4, 0.4]),
                ("mark", [0.4, 0.4], [0.1, 0.6]),
                ("mark", CAP, [0.6, 0.6]),
                ("point", [0.4], [0.4]),
            ],
        ),
        (point(0.7), (0.4, 0.4), [("guide", [0.4, 0.4], [0.1, 0.6]), ("above", [0.4], [0.6])]),
        (point(0.05), (0.4, 0.4), [("guide", [0.4, 0.4], [0.1, 0.6]), ("below", [0.4], [0.1])]),
        (point(math.nan), (0.4, 0.4), []),
    ],
)
def test_the_mark_of_a_point(point, shares, expected):
    found = mark_strokes(panels(1)[0], point, shares)
    assert [(one.kind, pytest.approx(one.alphas), pytest.approx(one.values)) for one in found] == (
        expected
    )


def test_an_axis_holds_every_interval_within_0_and_100_percent():
    low, high = explorer_state.value_range([curve(0.3), curve(0.5)])
    assert (low, high) == pytest.approx((0.22 - 0.04 * 0.41, 0.63 + 0.04 * 0.41))
    assert explorer_state.value_range([curve(0.9)])[1] == 1
    flat = curve(0).assign(value=1.0, ci_low=math.nan, ci_high=math.nan)
    assert explorer_state.value_range([flat]) == (0.995, 1)


# What is printed


def test_the_strokes_are_printed_in_percent():
    for ax, panel, point in zip(draw().axes, panels(), POINTS.values(), strict=False):
        strokes = [*curve_strokes(panel), *mark_strokes(panel, point, (0.4, 0.4))]
        lines = [stroke for stroke in strokes if stroke.kind != "area"]
        for line, stroke in zip(ax.lines, lines, strict=True):
            assert line.get_xdata() == pytest.approx(stroke.alphas)
            assert line.get_ydata() == pytest.approx([100 * value for value in stroke.values])
        assert ax.patches[0].get_xy()[:3, 1] == pytest.approx([35, 45, 30])
        assert ax.get_ylim() == pytest.approx((10, 60))


def test_an_estimate_looks_and_reads_like_one():
    figure = draw(points={"set0": point(0.4, 0.3, 0.5, "interpolated")})
    assert figure.axes[0].lines[-1].get_markerfacecolor() == "white"
    assert "top-1 (%): ≈ 40.0 [30.0, 50.0]" in [one.get_text() for one in figure.axes[0].texts]
    assert [one.get_text() for one in figure.axes[1].texts] == ["top-1 (%)"]
    legends = [
        [one.get_text() for one in made.subfigs[0].legends[0].get_texts()]
        for made in (figure, draw(), draw(panels(mean=False)))
    ]
    assert "≈ estimated, not measured" in legends[0]
    assert [len(legend) for legend in legends] == [6, 5, 3]
    settled = draw().axes[0]
    assert settled.lines[-1].get_markerfacecolor() == style.INK
    assert "top-1 (%): 40.0 [35.0, 45.0]" in [one.get_text() for one in settled.texts]


def table_texts(figure):
    """Of the table of numbers, by their words."""
    (table,) = [table for ax in figure.axes for table in ax.tables]
    texts = [cell.get_text() for cell in table.get_celld().values()]
    return {text.get_text(): text for text in texts}


def test_the_table_prints_its_texts_words_left_and_numbers_right():
    texts = table_texts(draw(strips=[]))
    assert {name: (one.get_ha(), one.get_weight()) for name, one in texts.items()} == {
        "Set": ("left", "bold"),
        "Here": ("right", "bold"),
        **dict.fromkeys(["A $1 for $2", "B"], ("left", "normal")),
        **dict.fromkeys(["40.0", "−1.5"], ("right", "normal")),
    }
    assert not texts["A $1 for $2"].get_parse_math()


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, []),
        (4, strips(3, (9, 10, 30, 3), "costs $5 or $6_a " * 40)),
        (7, strips(2, text="\n".join(f"{n} lines" for n in range(8))) + strips(2)),
    ],
)
def test_nothing_leaves_the_page_or_covers_another_part(count, shown):
    points = {f"set{place}": point(0.3, 0.2, 0.4, "interpolated") for place in range(count)}
    figure = draw(panels(count), points, strips=shown)
    figure.draw_without_rendering()
    below = figure.dpi * style.FOOTER
    curves = [ax.get_tightbbox() for ax in figure.axes[:count]]
    legend = figure.subfigs[0].legends[0].get_window_extent()
    table = [text.get_window_extent() for text in table_texts(figure).values()]
    strip = [text.get_window_extent() for ax in figure.axes[count:] for text in ax.texts]
    for box in (*curves, legend, *table, *strip):
        assert box.x0 >= -0.5 and box.x1 <= figure.bbox.width + 0.5
        assert box.y0 >= below - 0.5 and box.y1 <= figure.bbox.height
    assert min(box.y0 for box in curves) >= legend.y1 - 2
    assert legend.y0 >= max(box.y1 for box in table) - 2
    if strip:
        titles, texts = strip[::2], strip[1::2]
        assert min(box.y0 for box in table) >= titles[0].y1
        for text, following in zip(texts, titles[1:], strict=False):
            assert text.y0 >= following.y1


def test_a_strip_shows_its_frames_in_order():
    (strip,) = strips(1, (3, 12, 40, 3))
    figure = draw(strips=[strip])
    figure.draw_without_rendering()
    (image,) = [image for ax in figure.axes for image in ax.images]
    pixels = np.asarray(image.get_array())
    assert pixels.shape == (12, 3 * 40 + 2 * 2, 3)
    for place in range(3):
        np.testing.assert_array_equal(pixels[:, 42 * place : 42 * place + 40], strip.frames[place])
    box = image.get_window_extent()
    assert box.width / box.height == pytest.approx(124 / 12)


def test_fractions_are_printed_in_percent_without_a_negative_zero():
    shown = [explorer_state.percent_text(share) for share in (0.12345, -0.0004, math.nan)]
    assert shown == ["12.3", "0.0", "–"]
    assert [explorer_state.points_text(one) for one in (-0.0004, -0.021)] == ["+0.0", "−2.1"]
    assert explorer_state.interval_text(-0.1, 0.25, signed=True) == "[−10.0, +25.0]"
