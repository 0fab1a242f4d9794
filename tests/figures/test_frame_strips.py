import numpy as np
import pytest

from figures import style
from figures.frame_strips import frame_strips


def clips(n=3, frames=4, height=12, width=10):
    return np.random.default_rng(0).integers(0, 200, (n, frames, height, width, 3), np.uint8)


def draw(frames, texts=None, titles=None):
    n = len(frames)
    return frame_strips(frames, texts or ["a text"] * n, titles or ["a title"] * n)


@pytest.mark.parametrize("shape", [(1, 1, 12, 10), (3, 4, 12, 10), (2, 3, 30, 8)])
def test_a_row_holds_a_clips_frames_in_order(shape):
    frames = clips(*shape)
    n, count, height, width = shape
    (axes,) = draw(frames).axes
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    gap = max(1, height // 12)
    assert pixels.shape == (n * height + (n - 1) * gap, count * width, 3)
    for row in range(n):
        top = row * (height + gap)
        for column in range(count):
            part = pixels[top : top + height, column * width : (column + 1) * width]
            np.testing.assert_array_equal(part, frames[row, column])
        assert (pixels[top + height : top + height + gap] == 255).all()


def test_each_text_stands_beside_its_row():
    (axes,) = draw(clips(2), ["first " * 40, "costs $5 or $6_a"], ["one", "two"]).axes
    first, second = axes.texts
    assert first.get_text().startswith("one\nfirst first")
    assert first.get_text().count("\n") == 3
    assert first.get_text().endswith("[...]")
    assert second.get_text() == "two\ncosts $5 or $6_a"
    assert not second.get_parse_math()
    assert first.xy == (0, 6)
    assert second.xy == (0, 12 + 1 + 6)


@pytest.mark.parametrize("text", ["many words " * 9, "W" * 46, "i"])
@pytest.mark.parametrize("shape", [(9, 8, 24, 24), (1, 1, 24, 24), (3, 4, 30, 60), (2, 16, 9, 9)])
def test_texts_and_frames_are_inside_the_picture(shape, text):
    figure = draw(clips(*shape), [text] * shape[0], ["webvid_unlabelled"] * shape[0])
    figure.canvas.draw()
    (axes,) = figure.axes
    assert figure.get_figwidth() <= style.PAGE_WIDTH + 1e-9
    box = axes.images[0].get_window_extent()
    n, count, height, width = shape
    rows = n * height + (n - 1) * max(1, height // 12)
    assert box.width / (count * width) == pytest.approx(box.height / rows)
    assert box.y0 >= figure.dpi * style.FOOTER - 1e-6
    for artist in (*axes.texts, *axes.images):
        box = artist.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width + 1e-6
    for text in axes.texts:
        assert text.get_window_extent().x1 <= axes.images[0].get_window_extent().x0


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
def test_wrong_input_is_refused(frames, texts, titles, problem):
    with pytest.raises(ValueError, match=problem):
        frame_strips(frames, texts, titles)
