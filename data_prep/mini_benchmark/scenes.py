"""Draws the frames of a clip: moving concept pictures seen through the flaws of real video."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.mini_benchmark.sprites import sprite

FRAME_SIZE = 96
_MARGIN = 12
_CANVAS = FRAME_SIZE + 2 * _MARGIN
Range = tuple[float, float]
# How a picture moves, in the words that captions use.
MOTIONS = ("drifting", "bouncing", "shaking", "spinning", "zooming", "resting")


@dataclass(frozen=True)
class Look:
    """The ranges that one data set's clips are filmed with; each clip draws once from every range.

    brightness, contrast: factors. cast: largest share that a colour channel is dimmed by.
    noise: standard deviation in grey levels. downscale: how many times coarser the sensor is.
    blur: radius in pixels. ghosting: share of the previous frame left in the next.
    clutter: number of background shapes. letterbox, watermark: probabilities. shake: pixels.
    distractor: probability of a further thing that no caption names.
    """

    brightness: Range
    contrast: Range
    cast: float
    noise: Range
    downscale: Range
    blur: Range
    ghosting: Range
    clutter: tuple[int, int]
    letterbox: float
    watermark: float
    shake: float
    distractor: float


@dataclass(frozen=True)
class Actor:
    """One moving picture. x, y, side: centre and size as shares of the frame's side."""

    picture: str
    motion: str
    x: float
    y: float
    side: float
    drift_x: float
    drift_y: float
    flipped: bool


@dataclass(frozen=True)
class Shot:
    """Consecutive frames with one background. colour: RGB of the background."""

    actors: tuple[Actor, ...]
    colour: tuple[int, int, int]
    n_frames: int


def place_actors(
    pictures: Sequence[str], motions: Sequence[str], rng: np.random.Generator
) -> tuple[Actor, ...]:
    """Spread pictures over the frame so that each can be seen for most of the shot.

    motions: one of MOTIONS for each picture.

    Raises ValueError if a motion is unknown or there is not one for each picture.
    """
    unknown = sorted(set(motions) - set(MOTIONS))
    if unknown or len(pictures) != len(motions):
        raise ValueError(
            f"{len(pictures)} pictures and motions {list(motions)}; give each picture one of "
            f"{', '.join(MOTIONS)}"
        )
    count = len(pictures)
    turn = rng.uniform(0, 2 * np.pi)
    sides = {1: (0.5, 0.9), 2: (0.4, 0.6)}.get(count, (0.34, 0.48))
    actors = []
    for i, (picture, motion) in enumerate(zip(pictures, motions, strict=True)):
        angle = turn + 2 * np.pi * i / count
        radius = 0.0 if count == 1 else 0.25
        actors.append(
            Actor(
                picture=picture,
                motion=motion,
                x=0.5 + radius * np.cos(angle) + rng.uniform(-0.08, 0.08),
                y=0.5 + radius * np.sin(angle) + rng.uniform(-0.08, 0.08),
                side=rng.uniform(*sides),
                drift_x=rng.uniform(-0.3, 0.3),
                drift_y=rng.uniform(-0.2, 0.2),
                flipped=bool(rng.random() < 0.5),
            )
        )
    return tuple(actors)


def render(shots: Sequence[Shot], look: Look, rng: np.random.Generator) -> np.ndarray:
    """Return the clip's frames, uint8 [n_frames, FRAME_SIZE, FRAME_SIZE, 3] (rows, columns, RGB).

    Raises ValueError if there is no shot or a shot has no frame.
    """
    if not shots or any(shot.n_frames < 1 for shot in shots):
        raise ValueError("a clip needs at least one shot of at least one frame")
    coarse = round(FRAME_SIZE / rng.uniform(*look.downscale))
    blur = rng.uniform(*look.blur)
    pictures = []
    for shot in shots:
        background = _background(shot, look, rng)
        for t in np.linspace(0, 1, shot.n_frames):
            canvas = background.copy()
            for actor in shot.actors:
                _paste(canvas, actor, float(t), rng)
            left, top = _MARGIN + rng.uniform(-look.shake, look.shake, 2).round().astype(int)
            frame = canvas.crop((left, top, left + FRAME_SIZE, top + FRAME_SIZE))
            if blur > 0.3:
                frame = frame.filter(ImageFilter.BoxBlur(blur))
            if coarse < FRAME_SIZE:
                frame = frame.resize((coarse, coarse), Image.Resampling.BOX)
                frame = frame.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR)
            pictures.append(np.asarray(frame, dtype=np.float32))
    return _film(np.stack(pictures), look, rng)


def _background(shot: Shot, look: Look, rng: np.random.Generator) -> Image.Image:
    coarse = np.array(shot.colour) + rng.normal(0, 22, (5, 5, 3))
    pixels = coarse.clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(look.clutter[0], look.clutter[1] + 1))):
        x, y = rng.uniform(0, _CANVAS, 2)
        w, h = rng.uniform(6, 34, 2)
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = (draw.rectangle, draw.ellipse)[int(rng.integers(2))]
        shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=fill)
    return image


def _paste(canvas: Image.Image, actor: Actor, t: float, rng: np.random.Generator) -> None:
    travelled = 0.0 if actor.motion == "resting" else t - 0.5
    x = actor.x + actor.drift_x * travelled
    y = actor.y + actor.drift_y * travelled
    side, angle = actor.side, 0.0
    if actor.motion == "bouncing":
        y -= 0.16 * abs(np.sin(3 * np.pi * t)) - 0.08
    elif actor.motion == "shaking":
        x, y = x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)
        angle = rng.uniform(-15, 15)
    elif actor.motion == "spinning":
        angle = 70 * np.sin(2 * np.pi * t)
    elif actor.motion == "zooming":
        side *= 0.65 + 0.7 * t
    pixels = max(8, round(side * FRAME_SIZE))
    picture = sprite(actor.picture)
    if actor.flipped:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.resize((pixels, pixels), Image.Resampling.BILINEAR)
    if angle:
        picture = picture.rotate(angle, Image.Resampling.BILINEAR)
    corner = (
        _MARGIN + round(x * FRAME_SIZE - pixels / 2),
        _MARGIN + round(y * FRAME_SIZE - pixels / 2),
    )
    canvas.paste(picture, corner, picture)


@cache
def _noise_plate() -> np.ndarray:
    """Unit noise that frames cut windows from; fresh noise would cost more than the scene."""
    return np.random.default_rng(0).standard_normal((256, 256, 3)).astype(np.float32)


def _film(frames: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Apply the camera's flaws to float32 frames [n, size, size, 3]."""
    ghost = rng.uniform(*look.ghosting)
    if ghost > 0:
        frames[1:] = (1 - ghost) * frames[1:] + ghost * frames[:-1]
    gain = rng.uniform(*look.brightness) * (1 - look.cast * rng.uniform(0, 1, 3))
    contrast = rng.uniform(*look.contrast)
    frames = ((frames - 128) * contrast + 128) * gain.astype(np.float32)
    sigma = np.float32(rng.uniform(*look.noise))
    plate = _noise_plate()
    for frame in frames:
        row, column = rng.integers(0, 256 - FRAME_SIZE, 2)
        frame += sigma * plate[row : row + FRAME_SIZE, column : column + FRAME_SIZE]
    if rng.random() < look.letterbox:
        bar = int(rng.integers(6, 14))
        frames[:, :bar] = 0
        frames[:, -bar:] = 0
    if rng.random() < look.watermark:
        middle = FRAME_SIZE // 2
        frames[:, middle - 4 : middle + 4, 8:-8:3] += 50
    return frames.clip(0, 255).astype(np.uint8)
