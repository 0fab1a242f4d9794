"""Clips as strips of frames, with what is written of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from figures import style


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
    height = 0.62 * len(frames) + style.FOOTER
    figure, (axes,) = style.new_figure(1, height)
    figure.set_figwidth(style.PAGE_WIDTH)
    with style.theme():
        axes.axis("off")
        strips = [np.concatenate(list(clip), axis=1) for clip in frames]
        gap = np.full((max(1, frames.shape[2] // 12), strips[0].shape[1], 3), 255, np.uint8)
        parts = [part for strip in strips for part in (strip, gap)][:-1]
        axes.imshow(np.concatenate(parts))
        pitch = frames.shape[2] + gap.shape[0]
        for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
            middle = row * pitch + frames.shape[2] / 2
            wrapped = textwrap.fill(text, 46, max_lines=3)
            axes.text(
                -4,
                middle,
                f"{title}\n{wrapped}",
                ha="right",
                va="center",
                fontsize=6.5,
                parse_math=False,  # captions may hold dollar signs
            )
    return figure
