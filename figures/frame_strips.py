"""Clips as strips of frames, with what is written of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from figures import style

_ROW: Final = 0.75  # in; largest height of a frame
_PAD: Final = 0.05  # in; around the texts


def frame_strips(frames: np.ndarray, texts: Sequence[str], titles: Sequence[str]) -> Figure:
    """A row a clip: its title and text on the left, its frames in order of time on the right.

    frames: uint8 [clips, frames, height, width, 3].

    Raises: ValueError when the frames have another shape or type, the numbers of clips, texts and
    titles differ, or there is none.
    """
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}; "
            "give uint8 [clips, frames, height, width, 3]"
        )
    if not len(frames) == len(texts) == len(titles) or not len(frames):
        raise ValueError(
            f"{len(frames)} clips, {len(texts)} texts and {len(titles)} titles; "
            "give one text and one title for each of at least one clip"
        )
    _, count, height, width, _ = frames.shape
    gap = np.full((max(1, height // 12), count * width, 3), 255, np.uint8)
    strips = [part for clip in frames for part in (np.concatenate([*clip], axis=1), gap)]
    pixels = np.concatenate(strips[:-1])
    figure, (axes,) = style.new_figure(1, 1)
    figure.set_layout_engine("none")
    with style.theme():
        axes.axis("off")
        axes.imshow(pixels)
        labels = [
            axes.annotate(
                f"{title}\n{textwrap.fill(text, 46, max_lines=3)}",
                (0, row * (height + len(gap)) + height / 2),
                (-_PAD * 72, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=6.5,
                parse_math=False,  # captions may hold dollar signs
            )
            for row, (title, text) in enumerate(zip(titles, texts, strict=True))
        ]
        left = max(label.get_window_extent().width for label in labels) / figure.dpi + 2 * _PAD
        # The strips fill the page beside the texts, unless they are few frames long.
        inch = min((style.PAGE_WIDTH - left) / pixels.shape[1], _ROW / height)
        size = (left + inch * pixels.shape[1], style.FOOTER + inch * pixels.shape[0])
        figure.set_size_inches(size)
        x, y = left / size[0], style.FOOTER / size[1]
        axes.set_position((x, y, 1 - x, 1 - y))
    return figure
