"""Still pictures with captions: what the mini CLIP teacher is pretrained on (never video)."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from data_prep.mini_benchmark.concepts import Concept, actions, concepts
from data_prep.mini_benchmark.sprites import sprite

COLOURS = {
    "red": (200, 50, 50),
    "orange": (235, 140, 50),
    "yellow": (240, 215, 90),
    "green": (80, 160, 80),
    "blue": (70, 120, 205),
    "purple": (140, 85, 175),
    "pink": (240, 160, 190),
    "brown": (130, 90, 60),
    "grey": (140, 140, 140),
    "white": (245, 245, 245),
    "black": (35, 35, 35),
}

ONE = (
    "{a}", "{a}", "a {a}", "the {a}", "a picture of a {a}", "a photo of a {a}", "{a} emoji",
    "a drawing of the {a}", "an illustration of {a}", "a small {a}", "{a} icon", "there is a {a}",
    "an image showing {a}", "we see a {a}", "close up of {a}", "here is {a}",
)  # fmt: skip
TWO = (
    "{a} and {b}", "a {a} and a {b}", "a {a} next to a {b}", "a picture of {a} with {b}",
    "{a} , {b}", "a photo of a {a} near the {b}", "{a} beside {b}", "the {a} with the {b}",
    "there is a {a}. there is a {b}.", "an image showing {a} and {b}", "first {a}, then {b}",
)  # fmt: skip
THREE = (
    "{a}, {b} and {c}", "a picture of {a}, {b} and {c}", "a {a}, a {b} and a {c}",
    "a {a} with a {b} and a {c}", "there is a {a}. there is also {b}. and here is the {c}.",
    "we see {a}. next to it is a {b}. there is a {c}, too.",
)  # fmt: skip
ACTION = (
    "{label}", "{label}", "a picture of {label}", "a photo of someone {label}", "people {label}",
    "{a}, {label}", "an illustration of {label}", "the action of {label}", "a person {label}",
)  # fmt: skip


@dataclass(frozen=True)
class Still:
    """One captioned still picture: `image` uint8 [size, size, 3] (rows, columns, RGB)."""

    image: np.ndarray
    caption: str


def _labels_by_concept() -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for action in actions():
        for name in action.concepts:
            labels.setdefault(name, []).append(action.label)
    return labels


class StillGenerator:
    """Draws an endless, seeded stream of captioned still pictures.

    size: side of the square pictures in pixels. seed: equal seeds give equal streams.

    Raises ValueError if size is below one or seed is negative.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1 or seed < 0:
            raise ValueError(
                f"size is {size} and seed {seed}; give a size above 0 and a seed from 0"
            )
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._concepts = concepts()
        self._labels = _labels_by_concept()

    def draw(self) -> Still:
        """Return the next picture of the stream."""
        count = int(self._rng.choice(3, p=(0.55, 0.33, 0.12))) + 1
        picks = self._rng.choice(len(self._concepts), count, replace=False)
        shown = [self._concepts[i] for i in picks]
        colour, canvas = self._background()
        for concept, (x, y, side) in zip(shown, self._layout(count), strict=True):
            self._paste(canvas, concept, x, y, side)
        image = canvas
        if self._rng.random() < 0.4:
            image = ImageEnhance.Brightness(image).enhance(self._rng.uniform(0.75, 1.15))
        return Still(np.asarray(image, dtype=np.uint8), self._caption(shown, colour))

    def _background(self) -> tuple[str | None, Image.Image]:
        kind = self._rng.random()
        if kind < 0.25:
            return None, Image.new("RGB", (self._size, self._size), (255, 255, 255))
        name = str(self._rng.choice(list(COLOURS)))
        base = np.array(COLOURS[name], dtype=float) + self._rng.normal(0, 12, 3)
        if kind < 0.65:
            fill = tuple(int(v) for v in base.clip(0, 255))
            return name, Image.new("RGB", (self._size, self._size), fill)
        other = np.array(COLOURS[str(self._rng.choice(list(COLOURS)))], dtype=float)
        ramp = np.linspace(0, 1, self._size)[:, None, None]
        pixels = (1 - ramp) * base + ramp * other
        pixels = np.broadcast_to(pixels, (self._size, self._size, 3)).clip(0, 255)
        return None, Image.fromarray(pixels.astype(np.uint8))

    def _layout(self, count: int) -> list[tuple[float, float, float]]:
        """Centres and sides of the objects, as shares of the picture's side."""
        rng = self._rng
        if count == 1:
            side = rng.uniform(0.4, 0.98)
            slack = max(0.0, 1 - side) / 2
            return [(0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack), side)]
        turn = rng.uniform(0, 2 * np.pi)
        radius = 0.24 if count == 2 else 0.27
        places = []
        for i in range(count):
            angle = turn + 2 * np.pi * i / count
            side = rng.uniform(0.4, 0.62) if count == 2 else rng.uniform(0.36, 0.5)
            x = 0.5 + radius * np.cos(angle) + rng.uniform(-0.05, 0.05)
            y = 0.5 + radius * np.sin(angle) + rng.uniform(-0.05, 0.05)
            places.append((x, y, side))
        return places

    def _paste(
        self, canvas: Image.Image, concept: Concept, x: float, y: float, side: float
    ) -> None:
        picture = sprite(concept.pictures[int(self._rng.integers(len(concept.pictures)))])
        if self._rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = max(4, round(side * self._size))
        picture = picture.resize((pixels, pixels), Image.Resampling.BICUBIC)
        if self._rng.random() < 0.5:
            picture = picture.rotate(self._rng.uniform(-20, 20), Image.Resampling.BILINEAR)
        corner = (round(x * self._size - pixels / 2), round(y * self._size - pixels / 2))
        canvas.paste(picture, corner, picture)

    def _caption(self, shown: list[Concept], colour: str | None) -> str:
        rng = self._rng
        names = [concept.name for concept in shown]
        labels = self._labels.get(names[0], [])
        if len(shown) == 1 and labels and rng.random() < 0.45:
            label = labels[int(rng.integers(len(labels)))]
            return str(rng.choice(ACTION)).format(label=label, a=names[0])
        template = str(rng.choice((ONE, TWO, THREE)[len(shown) - 1]))
        caption = template.format(**dict(zip("abc", names, strict=False)))
        if colour is not None and rng.random() < 0.35:
            caption = f"{caption.rstrip('.')} on a {colour} background"
        return caption


def draw_many(size: int, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Return the first `count` stills of a stream: images uint8 [count, size, size, 3], captions.

    Raises ValueError if size or count is below one or seed is negative.
    """
    if count < 1:
        raise ValueError(f"{count} pictures are asked for; give a number above 0")
    generator = StillGenerator(size, seed)
    drawn = [generator.draw() for _ in range(count)]
    return np.stack([still.image for still in drawn]), [still.caption for still in drawn]
