"""What the page shows: contexts by hand, HTML with the numbers given, for screen readers too."""

import base64
import io
import math
import re
from dataclasses import replace
from html import unescape
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from figures import style
from figures.explorer_state import Point, curve_strokes, mark_strokes
from figures.measures import Measure
from fitclip_core import metrics
from fitclip_kit.slider import views
from fitclip_kit.slider.views import SHOWN
from tests.fitclip_kit.slider.hostile_sweep import SETS, sweep

RETRIEVAL = Measure("clips", "text_to_video", 5)
TOP_1 = Measure("actions", "classification", 1)
HOSTILE = "</td><script>alert(\"1\")</script>\u2028<img src=x onerror='y'>&amp;"


def words(html):
    """The text that a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def rows_of(table):
    """The texts of a table's cells, row by row, its head first."""
    return [
        [words(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)


def decoded(src):
    return Image.open(io.BytesIO(base64.b64decode(src.removeprefix("data:image/webp;base64,"))))


def retrieval(ranks, names=None):
    """Both directions, as `zero_shot.rank`; the other direction's ranks are all 1."""
    names = names or [f"c{place}" for place in range(len(ranks))]
    forth = pd.DataFrame({"item": names, "direction": "text_to_video", "rank": ranks})
    back = forth.assign(direction="video_to_text", rank=1.0)
    return pd.concat([back, forth], ignore_index=True).astype({"rank": float})


def classified(ranks, labels):
    names = [f"c{place}" for place in range(len(ranks))]
    table = pd.DataFrame({"item": names, "direction": "classification", "rank": ranks})
    return table.assign(label=labels, predicted="x").astype({"rank": float})


# Curves


TITLES = {"one": HOSTILE, "acts": "Acts"}


@pytest.mark.parametrize("status", ["stored", "interpolated"])
def test_each_panel_is_drawn_where_its_numbers_are(status):
    swept = sweep()
    panels = views.curve_panels(swept, 4, TITLES)
    assert [panel.draw.equals(swept.curve(panel.data_set, 4)) for panel in panels] == [True, True]
    other = views.curve_panels(swept, 1, TITLES)[0]
    assert (other.low, other.high) == (panels[0].low, panels[0].high)
    panels = [replace(panel, low=0.1, high=0.9) for panel in panels]
    point = Point(0.4, 0.2, 0.5, status)
    shown = views.curves(panels, 4, [({"one": point, "acts": point}, (0.6, 0.6), {})])
    figures = re.findall(r"<figure.*?</figure>", shown, re.DOTALL)
    for figure, panel in zip(figures, panels, strict=True):
        strokes = [*curve_strokes(panel), *mark_strokes(panel, point, (0.6, 0.6))]
        paths = re.findall(
            r'<path class="fk-(area|level|mean|curve|guide|mark)" d="M(.*?)Z?"/>', figure
        )
        circle = re.search(r'fk-mark-point" cx="(.*?)" cy="(.*?)"', figure)
        assert circle is not None
        paths.append(("point", ",".join(circle.groups())))
        for (kind, places), stroke in zip(paths, strokes, strict=True):
            assert kind == stroke.kind
            x, y = np.array([pair.split(",") for pair in places.split()], float).T
            np.testing.assert_allclose((x - 36) / 314 * 1.08 - 0.04, stroke.alphas, atol=1e-3)
            values = panel.low + (168 - y) / 160 * (panel.high - panel.low)
            np.testing.assert_allclose(values, stroke.values, atol=1e-3)
        assert figure.count('class="fk-dot"') == len(swept.alphas)
        assert ("fk-guess" in figure) == (status == "interpolated")
        assert ("≈ 40.0 [20.0, 50.0]" in words(figure)) == (status == "interpolated")
    assert "<script" not in shown


def test_what_lies_beyond_the_axis_is_a_triangle_that_points_there():
    panels = views.curve_panels(sweep((1,)), 1, TITLES)[1:]
    (panel,) = panels
    for value, tip in ((panel.high + 0.1, "h-5l5,-7l5,7z"), (panel.low - 0.1, "h-5l5,7l5,-7z")):
        shown = views.curves(panels, 1, [({"acts": Point(value, 0, 1, "exact")}, (0, 1), {})])
        assert tip in shown and '<circle class="fk-mark-point" cx="193' not in shown


def test_a_screen_reader_hears_the_ends_and_the_best_and_one_student_has_no_mean():
    swept = sweep((1,))
    shown = views.curves(views.curve_panels(swept, 1, TITLES), 1, [])
    curve = 100 * swept.curve("one", 1)["value"]
    best = swept.alphas[int(curve.argmax())]
    spoken = unescape(re.findall(r'aria-label="([^"]+)"', shown)[0])
    assert spoken == (
        f"{HOSTILE}, text-to-video R@5 over alpha, student 1: teacher {curve.iloc[0]:.1f}%, "
        f"student {curve.iloc[-1]:.1f}%, highest {curve.max():.1f}% at alpha {best:g}"
    )
    assert "fk-mean" not in shown and "fk-area" not in shown
    with pytest.raises(ValueError, match=r"no draw 7 .* \[1\]"):
        views.curve_panels(swept, 7, TITLES)


# Numbers


def test_a_table_of_numbers_beside_teacher_and_student():
    swept = sweep()
    point = Point(0.4164, 0.386, math.nan, "interpolated")
    found = views.numbers({"one": point}, swept, 1, TITLES)
    teacher, student = swept.curve("one", 1)["value"].iloc[[0, -1]]
    assert teacher != student
    expected = [HOSTILE, "text-to-video R@5", f"{100 * teacher:.1f}", f"{100 * student:.1f}"]
    difference = f"{100 * (0.4164 - teacher):+.1f}".replace("-", "−")
    expected += ["41.6", "–", difference, "≈ interpolated"]
    table = views.texts_table(found, HOSTILE)
    assert rows_of(table) == [list(found), [" ".join(text.split()) for text in expected]]
    assert re.findall(r'<th scope="(\w+)"', table) == ["col"] * 8 + ["row"]
    assert table.count('class="fk-number"') == 10 and "<script" not in table
    assert "<caption>&lt;/td&gt;" in table
    nothing = views.numbers({}, swept, 4, TITLES)
    assert rows_of(views.texts_table(nothing, "c")) == [list(found)]


def test_an_answer_by_hand():
    now, teacher = retrieval([1, 5, 5.5, 2, 30]), retrieval([1, 6, 5, 9, 30])
    found = views.answer(now, teacher, retrieval([5] * 5), RETRIEVAL)
    # Bonett and Price by hand: 2 won, 1 lost, each plus 1, of 5 + 2.
    won, lost = 3 / 7, 2 / 7
    half = 1.959964 * math.sqrt((won + lost - (won - lost) ** 2) / 7)
    assert found["point"].value == pytest.approx(3 / 5)  # 5 counts, 5.5 does not
    assert found["point"].status == "exact"
    assert (found["teacher"], found["student"]) == (pytest.approx(2 / 5), 1)
    assert found["difference"] == pytest.approx(1 / 5)
    assert found["low"] == pytest.approx(won - lost - half, abs=1e-6)
    assert found["high"] == pytest.approx(won - lost + half, abs=1e-6)
    assert (found["n"], found["clips"]) == (5, 5)
    now.attrs["coverage"] = {"clips": 1006}
    point = Point(0.6, 0.2, 1.0, "stored")
    partial = views.answer(now, teacher, now, RETRIEVAL, point)
    said = views.render("answer", title=HOSTILE, **partial)
    assert " ".join(HOSTILE.split()) in words(said) and "<script" not in said
    assert "60.0% [20.0, 100.0], +20.0 points [−" in words(said)
    assert "against the teacher's 40.0%; the student has 60.0%. 5 of 1,006 clips, stored" in words(
        said
    )


@given(st.data())
@settings(max_examples=12)
def test_items_are_paired_by_name_in_any_order(data):
    n = data.draw(st.integers(1, 9))
    rank = st.integers(2, 16).map(lambda double: double / 2)
    now, teacher = (data.draw(st.lists(rank, min_size=n, max_size=n)) for _ in range(2))
    order = data.draw(st.permutations(range(n)))
    ids = SETS["one"].clip_ids[:n]
    fused = retrieval(now, ids)
    shuffled = retrieval([teacher[at] for at in order], [ids[at] for at in order])
    answers = [
        (
            repr(views.answer(fused, side, fused, RETRIEVAL)),
            views.changes(SETS["one"], fused, side, RETRIEVAL),
        )
        for side in (retrieval(teacher, ids), shuffled)
    ]
    assert answers[0] == answers[1]


def test_outcomes_it_refuses():
    good = retrieval([1, 2])
    with pytest.raises(ValueError, match="items differ"):
        views.answer(good, retrieval([1, 2, 3]), good, RETRIEVAL)
    with pytest.raises(ValueError, match="no outcomes of direction 'classification'"):
        views.answer(good, good, good, TOP_1)


LABELS = ["dig"] * 4 + ["eat"] * 2 + ["fly"] * 2 + ["run"] * 4 + ["sit"]
TEACHER = [9, 9, 9, 9, 9, 1, 1, 9, 1, 1, 1, 1, 1]
NOW = [1, 1, 1.5, 9, 1, 1, 1, 9, 9, 9, 9, 1, 1]


def test_classes_that_gained_and_lost_by_hand():
    now, teacher = classified(NOW, LABELS), classified(TEACHER, LABELS)
    html = views.changes(SETS["acts"], now, teacher, TOP_1)
    first, second = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert "Classes that gained most (2 of 2)" in first
    assert rows_of(first)[1:] == [
        ["dig (4)", "", "0.0", "50.0", "+50.0"],  # the mid-rank 1.5 is not top-1
        ["eat (2)", "", "50.0", "100.0", "+50.0"],  # gains the same: by name
    ]
    assert rows_of(second)[1:] == [["run (4)", "", "100.0", "25.0", "−75.0"]]
    bars = re.findall(r'class="(fk-fill[\w-]*)" width="([\d.]+)"', html)
    assert bars == [("fk-fill", "50.00"), ("fk-fill", "50.00"), ("fk-fill-soft", "75.00")]


def test_no_more_classes_than_fit_and_of_equal_ones_the_first_by_name():
    # 0.8 - 0.4 and 0.6 - 0.2 are not the same floating-point number.
    labels = [name for name in "gfedcba" for _ in range(5)]
    teacher = [1, 1, 9, 9, 9, 1, 9, 9, 9, 9] * 3 + [9] * 5
    now = [1, 1, 1, 1, 9, 1, 1, 1, 9, 9] * 3 + [9] * 5
    html = views.changes(SETS["acts"], classified(now, labels), classified(teacher, labels), TOP_1)
    assert "Classes that gained most (5 of 6)" in html
    assert [row[0] for row in rows_of(html)[1:]] == [f"{name} (5)" for name in "bcdef"]
    assert words(html).endswith("Classes that lost most: none")


def test_items_that_entered_and_left_the_top_by_hand():
    names = SETS["one"].clip_ids[:8]
    teacher = retrieval([9, 50, 1, 5.5, 3, 5, 1080, 12], names)
    now = retrieval([3, 5, 9, 5, 4, 10, 1090, 1], names)
    html = views.changes(SETS["one"], now, teacher, RETRIEVAL, 40)
    assert "Entered the top (4 of 4)" in html and "Left the top (2 of 2)" in html
    entered, left = (rows_of(one)[1:] for one in re.findall(r"<table.*?</table>", html, re.DOTALL))
    # By the ratio: twelve times comes before ten times.
    found = [(name.split(": ")[0][-1], *ranks) for name, *ranks in entered]
    assert found == [("7", "12", "1"), ("1", "50", "5"), ("0", "9", "3"), ("3", "5.5", "5")]
    assert [name.split(": ")[0] for name, *_ in left] == ["one_02", "one_05"]
    assert all(len(name) <= 40 for name, *_ in entered + left) and "<script" not in html


# Clips


def features(rows, seed=0, columns=24):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 5


def test_probabilities_by_hand():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows = views.probabilities(torch.tensor([0.5, 0.25]), targets, 4.0, ["a", HOSTILE, "c"], [1])
    exponents = [math.exp(4 * score) for score in (0.75, 0.5, 0.25)]
    assert [(row["name"], row["score"], row["right"], row["rank"]) for row in rows] == [
        ("c", 0.75, False, 1),  # not divided by any length
        ("a", 0.5, False, 2),
        (HOSTILE, 0.25, True, 3),
    ]
    shares = [row["probability"] for row in rows]
    assert shares == pytest.approx([one / sum(exponents) for one in exponents])
    html = views.render("probabilities", caption="c", rows=rows)
    percent = [f"{100 * share:.1f}" for share in shares]
    assert rows_of(html)[1] == ["c", "", percent[0], "0.750", "1"]
    assert rows_of(html)[3] == [" ".join(HOSTILE.split()) + " right", "", percent[2], "0.250", "3"]
    assert html.count("fk-badge") == 1 and html.count('class="fk-right"') == 1


@given(seed=st.integers(0, 999), rows=st.integers(1, 12), ties=st.booleans())
@settings(max_examples=40)
def test_probabilities_and_ranks_are_torchs_and_the_kits(seed, rows, ties):
    targets, video = features(rows, seed), features(1, seed + 1)
    if ties:
        targets = targets[torch.randint(0, rows, (rows,))]
    expected = torch.softmax(10 * targets.double() @ video[0].double(), 0)
    for right in range(rows):
        found = views.probabilities(video[0], targets, 10.0, list(map(str, range(rows))), [right])
        (row,) = [row for row in found if row["right"]]
        assert row["rank"] == metrics.retrieval_ranks(video, targets, [right]).item()
        assert row["probability"] == pytest.approx(expected[right].item(), rel=1e-4)
        scores = [row["score"] for row in found]
        assert scores[:SHOWN] == sorted(scores[:SHOWN], reverse=True)


def test_the_best_right_target_is_shown_wherever_it_stands():
    targets, names = torch.eye(12), [str(place) for place in range(12)]
    video = torch.arange(12, 0, -1) / 10
    for right, shown, marked in (
        ([11, 9], [*names[:8], "9"], ["9"]),
        ([11, 1, 0], names[:8], ["0", "1"]),
        ([], names[:8], []),
    ):
        rows = views.probabilities(video, targets, 10.0, names, right)
        assert [row["name"] for row in rows] == shown
        assert [row["name"] for row in rows if row["right"]] == marked


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 3e38])
def test_scores_that_cannot_be_ranked_are_refused(wrong):
    with pytest.raises(ValueError, match="cannot be ranked"):
        views.probabilities(torch.ones(2), torch.full((2, 2), wrong), 10.0, ["a", "b"], [])
    with pytest.raises(ValueError, match="cannot be ranked"):
        views.retrieved(torch.full((2,), wrong), torch.ones(2, 2), ["a", "b"])


def test_scores_that_are_one_float32_tie_as_in_the_kit():
    targets = torch.tensor([[1.0, 0.0], [1.0, 1e-9]])
    rows = views.probabilities(torch.ones(2), targets, 5.0, ["a", "b"], [1])
    assert [row["rank"] for row in rows] == [1.5, 1.5]
    assert list(views.retrieved(torch.ones(2), targets, ["a", "b"]).values()) == [(1.5, 1)] * 2


def test_a_gallery_marks_what_is_new_and_lists_what_left():
    one, query = SETS["one"], torch.tensor([1.0])
    before = views.retrieved(query, torch.arange(12, 0, -1)[:, None].float(), one.clip_ids)
    scores = torch.arange(12, 0, -1).float()
    scores[[0, 11]] = scores[[11, 0]]
    now = views.retrieved(query, scores[:, None], one.clip_ids)
    assert list(now) == [one.clip_ids[place] for place in (11, 1, 2, 3, 4, 5, 6, 7)]
    assert list(before) == one.clip_ids[:8]
    gallery, entered = views.gallery(one, now, before, HOSTILE)
    items = re.findall(r"<li>.*?</li>", gallery, re.DOTALL)
    assert [words(item).split(": ")[0] for item in items[:2]] == [
        "1 new 12.000 one_11",
        "2 11.000 one_01",
    ]
    assert len(items) == 9 and words(items[8]).startswith("one_00: ")
    assert ["fk-badge" in item for item in items] == [True] + [False] * 8
    assert gallery.index("<ol") < gallery.index("No longer in the top") < gallery.index("<ul")
    assert (
        gallery.count("<img") == 9
        and "<script" not in gallery
        and "onerror=alert(2)>" not in gallery
    )
    assert words(entered) == "Since the teacher (α = 0) 1 of the first 8 entered and 1 left."
    same, said = views.gallery(one, before, before, "c")
    assert "No longer" not in same and words(said) == "The same 8 clips as the teacher's (α = 0)."
    middle = decoded(re.findall(r'src="([^"]+)"', same)[0]).convert("RGB")
    np.testing.assert_array_equal(np.asarray(middle), one.frames_of(0)[1])


def test_a_strip_holds_its_frames_in_order_and_nothing_between():
    frames = pixels(3, 8, 6)
    clips = Mock(called=lambda row: HOSTILE, frames_of=lambda row: frames)
    shown = views.strip(clips, 0)
    image = np.asarray(decoded(re.findall(r'src="([^"]+)"', shown)[0]).convert("RGBA"))
    assert image.shape == (8, 3 * 6 + 2, 4)
    for place in range(3):
        part = image[:, 7 * place : 7 * place + 6]
        np.testing.assert_array_equal(part[..., :3], frames[place])
        assert (part[..., 3] == 255).all()
    assert (image[:, 6, 3] == 0).all()
    assert unescape(re.findall(r'alt="([^"]+)"', shown)[0]) == f"3 frames of {HOSTILE}"


def test_large_pictures_are_made_smaller_and_small_ones_shown_larger():
    large = views.picture(np.full((192, 384, 3), 100, np.uint8))
    assert decoded(large["src"]).size == (large["width"], large["height"]) == (192, 96)
    assert np.abs(np.asarray(decoded(large["src"]).convert("RGB")).astype(int) - 100).max() < 4
    small = views.picture(pixels(36, 18))
    assert decoded(small["src"]).size == (18, 36) and (small["width"], small["height"]) == (36, 72)


def test_own_clips_show_the_most_probable_texts():
    texts = [f"text {place}" for place in range(9)]
    shares = {"teacher": 0.1, "student": 0.2, "fused": [place / 36 for place in range(9)]}
    scores = pd.DataFrame({"clip_id": "acts_00", "text": texts, **shares})
    shown = views.own_clips(SETS["acts"], scores, "α = 0.4")
    assert "acts_00, 8 of 9 texts" in words(shown)
    assert rows_of(shown)[1] == ["text 8", "10.0", "20.0", "22.2"] and len(rows_of(shown)) == 9
    assert views.own_failures(pd.DataFrame(columns=["path", "reason"])) == ""
    failures = pd.DataFrame({"path": ["a"], "reason": ["is empty"]})
    assert words(views.own_failures(failures)) == "1 file is left out File Reason a is empty"


# The look


def test_the_style_holds_for_the_explorer_only_and_loads_nothing():
    css = re.sub(r"/\*.*?\*/", "", views.STYLE)
    assert "url(" not in css and "@import" not in css and "</" not in css
    for selectors in re.findall(r"([^{};]+)\{", css):
        if not selectors.strip().startswith("@media"):
            assert all(".fk" in one for one in re.split(r",(?![^(]*\))", selectors)), selectors


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_texts_and_lines_stand_out_from_the_paper_and_are_the_figures():
    light, dark = (
        dict(re.findall(r"--fk-(\w+): (#\w{6})", part)) for part in views.STYLE.split("dark)")
    )
    expected = {"line": style.LINE, "band": style.BAND, "draw": style.DRAW, "ink": style.INK}
    assert {name: light[name] for name in expected} == expected
    for colours in (light, dark):
        for name, least in (("ink", 4.5), ("soft", 4.5), ("line", 3), ("draw", 3)):
            assert contrast(colours[name], colours["paper"]) > least
    assert contrast(light["line"], light["band"]) > 2
