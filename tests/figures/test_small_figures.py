"""The training curves, the loss line and the strips of frames: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest

from figures import style
from figures.frame_strips import frame_strips
from figures.loss_line import loss_curve, losses_in_words
from figures.training_curves import training_curves


def history(draw, steps=12, every=4):
    rng = np.random.default_rng(draw)
    table = pd.DataFrame({"step": range(steps + 1), "labelled_loss": rng.random(steps + 1) + draw})
    table.loc[0, "labelled_loss"] = np.nan
    table["validation_loss"] = (rng.random(steps + 1) + 2).astype(float)
    table.loc[table["step"] % every > 0, "validation_loss"] = np.nan
    return table


@pytest.mark.parametrize("draws", [[1], [3, 1, 2], [1, 2, 3, 4, 5]])
def test_training_curves_are_the_histories(draws):
    histories = {draw: history(draw) for draw in draws}
    figure = training_curves(histories, dict.fromkeys(draws, 8))
    training, validation = figure.axes
    looks = {str(vars(line)["_dash_pattern"]) for line in training.lines}
    assert len(looks) == len(training.lines) == len(draws), "each draw has dashes of its own"
    for place, draw in enumerate(sorted(draws)):
        table = histories[draw]
        losses = table["labelled_loss"].tolist()
        for step, value in np.asarray(training.lines[place].get_xydata())[1:]:
            assert value == pytest.approx(np.mean(losses[max(1, int(step) - 4) : int(step) + 1]))
        line, marker = validation.lines[2 * place : 2 * place + 2]
        validated = [[step, table["validation_loss"][step]] for step in (0, 4, 8, 12)]
        assert np.asarray(line.get_xydata()).tolist() == validated
        assert np.asarray(marker.get_xydata()).tolist() == [validated[2]]
    legend = validation.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*(f"draw {draw}" for draw in sorted(draws)), "kept"]
    assert all("nats" in axes.get_ylabel() for axes in figure.axes)


def test_a_run_that_trained_nothing_says_so():
    figure = training_curves({}, {})
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["no student trained here"]] * 2


@pytest.mark.parametrize(
    ("draws", "best", "problem"),
    [
        ([], {1: 4}, r"histories of draws \[\]"),
        ([1], {1: 4, 2: 4}, r"best steps of \[1, 2\]"),
        ([1], {1: 5}, "draw 1 has no validation loss at its best step 5"),
        ([1], {1: 99}, "best step 99"),
    ],
)
def test_histories_and_steps_that_do_not_match_are_refused(draws, best, problem):
    with pytest.raises(ValueError, match=problem):
        training_curves({draw: history(draw) for draw in draws}, best)


def losses(**draws):
    tables = [
        pd.DataFrame({"alpha": [0, 0.5, 1.0], "loss": loss, "draw": int(name[1:])})
        for name, loss in draws.items()
    ]
    return pd.concat(tables).sample(frac=1, random_state=0)


def test_the_loss_line_has_each_draw_their_mean_and_the_straight_line():
    figure = loss_curve(losses(d1=[4.0, 3, 2], d2=[4, 2, 3.0]))
    (ax,) = figure.axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in ax.lines]
    assert drawn == [[4, 3, 2], [4, 2, 3], [4, 2.5, 2.5], [4, 2.5]]
    assert [len(np.asarray(line.get_xdata())) for line in ax.lines] == [3, 3, 3, 2]
    alone = loss_curve(losses(d1=[4.0, 3, 2]))
    texts = [text.get_text() for text in alone.legends[0].get_texts()]
    assert texts == ["the one draw", "straight line between the ends"]


def test_words_count_barriers_and_say_where_the_loss_is_lowest():
    words = losses_in_words(losses(d1=[4.0, 2, 3], d2=[4, 4.5, 3.0]), {1: 0.0, 2: 1.0})
    assert "In 1 of 2 draws the loss rises above the straight line" in words
    assert "by at most 1.000 nats" in words
    assert "lowest at α = 0.5, 1 (draw by draw), 0.000 to 1.000 nats below" in words
    assert "4.00 for the teacher and 3.00 for the student" in words
    none = losses_in_words(losses(d1=[4.0, 2, 3]), {1: 1e-16})  # a sum in another order
    assert none.startswith("In none of 1 draws")


def test_incomplete_losses_are_refused():
    table = losses(d1=[4.0, 2, 3], d2=[4, 4.5, 3.0])
    for lacking in (table[(table["draw"] == 1) | (table["alpha"] != 0.5)], table.iloc[:0]):
        with pytest.raises(ValueError, match="not of the same alphas"):
            loss_curve(lacking)
    with pytest.raises(ValueError, match=r"barriers are of draws \[1\]"):
        losses_in_words(table, {1: 0.0})


def clips(n=3, frames=4, height=12, width=10):
    return np.random.default_rng(0).integers(0, 200, (n, frames, height, width, 3), np.uint8)


@pytest.mark.parametrize("text", ["many words " * 9, "W" * 46, "i", "costs $5 or $6_a"])
@pytest.mark.parametrize("shape", [(9, 8, 24, 24), (1, 1, 24, 24), (3, 4, 30, 60), (2, 16, 9, 9)])
def test_strips_hold_frames_in_order_beside_their_texts_inside_the_picture(shape, text):
    frames, (n, count, height, width) = clips(*shape), shape
    figure = frame_strips(frames, [text] * n, ["webvid_unlabelled"] * n)
    figure.canvas.draw()
    (axes,) = figure.axes
    pixels, gap = np.asarray(axes.images[0].get_array()), max(1, height // 12)
    assert pixels.shape == (n * height + (n - 1) * gap, count * width, 3)
    for row, label in enumerate(axes.texts):
        top = row * (height + gap)
        for column in range(count):
            part = pixels[top : top + height, column * width : (column + 1) * width]
            np.testing.assert_array_equal(part, frames[row, column])
        assert (pixels[top + height : top + height + gap] == 255).all()
        title, *lines = label.get_text().split("\n")
        assert title == "webvid_unlabelled" and " ".join(lines) == text.strip()
        assert vars(label)["xy"] == (0, top + height / 2) and not label.get_parse_math()
    assert figure.get_figwidth() <= style.PAGE_WIDTH + 1e-9
    picture = axes.images[0].get_window_extent()
    assert picture.width / pixels.shape[1] == pytest.approx(picture.height / pixels.shape[0])
    assert picture.y0 >= figure.dpi * style.FOOTER - 1e-6
    assert picture.x1 <= figure.bbox.width + 1e-6
    for label in axes.texts:
        assert 0 <= label.get_window_extent().x0 < label.get_window_extent().x1 <= picture.x0


def test_a_long_text_is_cut():
    (axes,) = frame_strips(clips(1), ["first " * 40], ["one"]).axes
    text = axes.texts[0].get_text()
    assert text.count("\n") == 3 and text.endswith("[...]")


@pytest.mark.parametrize(
    ("frames", "texts", "titles", "problem"),
    [
        (clips(2), ["a"], ["b", "c"], "2 clips, 1 texts and 2 titles"),
        (clips(2), ["a", "b"], ["c"], "2 clips, 2 texts and 1 titles"),
        (clips(0), [], [], "0 clips"),
        (clips(2)[0], ["a"] * 4, ["b"] * 4, r"uint8 \[4, 12, 10, 3\]"),
        (clips(2).astype(float), ["a"] * 2, ["b"] * 2, "float64"),
        (clips(2)[..., :2], ["a"] * 2, ["b"] * 2, r"\[2, 4, 12, 10, 2\]"),
    ],
)
def test_what_is_no_strip_is_refused(frames, texts, titles, problem):
    with pytest.raises(ValueError, match=problem):
        frame_strips(frames, texts, titles)
