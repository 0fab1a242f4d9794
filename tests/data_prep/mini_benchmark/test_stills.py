"""The stream of captioned still pictures."""

import numpy as np
import pytest

from data_prep.mini_benchmark.concepts import actions
from data_prep.mini_benchmark.stills import (
    ACTION,
    COLOURS,
    ONE,
    THREE,
    TWO,
    StillGenerator,
    draw_many,
)


def test_equal_seeds_give_equal_streams() -> None:
    first, second = StillGenerator(24, 3), StillGenerator(24, 3)
    for _ in range(12):
        one, other = first.draw(), second.draw()
        assert one.caption == other.caption
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("size", [1, 23, 40])
def test_many_are_the_streams_first(size: int) -> None:
    images, captions = draw_many(size, 9, 3)
    generator = StillGenerator(size, 9)
    stream = [generator.draw() for _ in range(3)]
    assert (images.dtype, images.shape) == (np.uint8, (3, size, size, 3))
    np.testing.assert_array_equal(images, [still.image for still in stream])
    assert captions == [still.caption for still in stream]


def test_captions_name_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        StillGenerator, "_paste", lambda self, canvas, concept, *place: shown.append(concept.name)
    )
    generator = StillGenerator(16, 0)
    counts = {1: 0, 2: 0, 3: 0}
    with_colour = with_label = 0
    for _ in range(300):
        shown.clear()
        still = generator.draw()
        caption, _, rest = still.caption.partition(" on a ")
        colour = rest.removesuffix(" background")
        names = dict(zip("abc", shown, strict=False))
        expected = {t.format(**names) for t in (ONE, TWO, THREE)[len(shown) - 1]}
        labels = [a.label for a in actions() if len(shown) == 1 and shown[0] in a.concepts]
        told = {t.format(label=label, **names) for t in ACTION for label in labels}
        with_label += caption in told - expected
        if rest:
            with_colour += 1
            assert colour in COLOURS
            assert still.image.reshape(-1, 3).std(0).max() == 0  # one flat colour, nothing pasted
            expected |= {text.rstrip(".") for text in expected}
        assert caption in expected | told, still.caption
        counts[len(shown)] += 1
    assert min(counts.values()) > 15
    assert with_colour > 15
    assert with_label > 3


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        StillGenerator(0, 1)
    with pytest.raises(ValueError, match="seed -1"):
        StillGenerator(8, -1)
    with pytest.raises(ValueError, match="0 pictures"):
        draw_many(8, 1, 0)
