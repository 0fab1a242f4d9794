"""Concept pictures as small RGBA images, drawn from OpenMoji's vector files."""

import io
from functools import cache

import resvg_py
from PIL import Image

from data_prep.mini_benchmark.concepts import picture_path

SPRITE_SIZE = 72


@cache
def sprite(picture: str) -> Image.Image:
    """Return one OpenMoji picture as an RGBA image, SPRITE_SIZE pixels square, cropped to its ink.

    Raises ValueError if the picture does not exist or is blank.
    Source: OpenMoji 17, CC BY-SA 4.0.
    """
    path = picture_path(picture)
    if not path.is_file():
        raise ValueError(f"no OpenMoji picture {picture!r} at {path}; take names from concepts()")
    png = resvg_py.svg_to_bytes(svg_string=path.read_text(encoding="utf-8"), width=96, height=96)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"OpenMoji picture {picture!r} is blank; leave its concept out")
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.BICUBIC)
