"""Training's random views of a clip: a draw from each interval, a resized crop, a flip."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

ASPECT_RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10


class Part(NamedTuple):
    """Some `rows` of a batch of `batch` clips.

    What is random is drawn for the whole batch, so that its parts look as they would within it.
    """

    rows: slice
    batch: int


def draw_frames(
    frames: np.ndarray, generator: torch.Generator, part: Part | None = None
) -> np.ndarray:
    """One of the stored draws for every interval of every clip.

    Args:
        frames: uint8 `[n, intervals, draws, h, w, 3]`.
        generator: where the randomness comes from.
        part: which clips of a batch these are; None: they are the batch.

    Returns:
        uint8 `[n, intervals, h, w, 3]`.

    Raises:
        ValueError: the frames have no axis of draws.

    Source: ARCHITECTURE "Numeric conventions", training frames.
    """
    if frames.ndim != 6 or frames.shape[2] == 0:
        raise ValueError(
            f"training frames have shape {list(frames.shape)}; give [clips, intervals, draws, "
            f"height, width, 3], which a frame store built with draws_per_interval > 0 holds"
        )
    n, intervals, draws = frames.shape[:3]
    rows, batch = part or Part(slice(None), n)
    choice = torch.randint(draws, (batch, intervals), generator=generator)[rows].numpy()
    return frames[np.arange(n)[:, None], np.arange(intervals), choice]


def crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Random boxes for n pictures, as torchvision's RandomResizedCrop draws them, all at once.

    Args:
        n: how many boxes.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        scale: smallest and largest share of the picture's area.
        generator: where the randomness comes from.

    Returns:
        int64 `[n, 4]`: top, left, height, width, in pixels. Where ten attempts gave no box that
        fits (an aspect ratio of 3/4 to 4/3), the central box nearest to those ratios.

    Source: Szegedy et al. 2015, 6 (inception crops); torchvision RandomResizedCrop.
    """
    area = height * width * torch.empty(n, ATTEMPTS).uniform_(*scale, generator=generator)
    log_ratios = [math.log(ratio) for ratio in ASPECT_RATIOS]
    ratio = torch.empty(n, ATTEMPTS).uniform_(*log_ratios, generator=generator).exp()
    heights = (area / ratio).sqrt().round().long()
    widths = (area * ratio).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    attempt = fits.int().argmax(1, keepdim=True)
    box_height = heights.gather(1, attempt).squeeze(1)
    box_width = widths.gather(1, attempt).squeeze(1)
    top = _random_integers(height - box_height + 1, generator)
    left = _random_integers(width - box_width + 1, generator)
    boxes = torch.stack([top, left, box_height, box_width], 1)
    fallback_height = min(height, round(width / ASPECT_RATIOS[0]))
    fallback_width = min(width, round(height * ASPECT_RATIOS[1]))
    boxes[~fits.any(1)] = torch.tensor(
        [
            (height - fallback_height) // 2,
            (width - fallback_width) // 2,
            fallback_height,
            fallback_width,
        ]
    )
    return boxes


def crop_and_flip(
    frames: np.ndarray,
    size: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    part: Part | None = None,
) -> torch.Tensor:
    """Random resized crop and horizontal flip, the same for all frames of a clip.

    The crop is resized by bicubic interpolation with antialiasing on uint8, as the frame store
    and CLIP's evaluation resize, so that training adds no other kind of blur.

    Args:
        frames: uint8 `[n, frames, h, w, 3]`.
        size: side of the result, in pixels.
        scale: smallest and largest share of the picture's area.
        generator: where the randomness comes from.
        part: which clips of a batch these are; None: they are the batch.

    Returns:
        uint8 `[n, frames, size, size, 3]`; half of the clips, on average, are flipped.

    Source: ARCHITECTURE "Numeric conventions", training recipe.
    """
    n, n_frames, height, width = frames.shape[:4]
    rows, batch = part or Part(slice(None), n)
    boxes = crop_boxes(batch, height, width, scale, generator)[rows].tolist()
    flips = (torch.rand(batch, generator=generator) < 0.5)[rows].tolist()
    out = torch.empty(n, n_frames, size, size, 3, dtype=torch.uint8)
    for clip, box, flip, target in zip(torch.from_numpy(frames), boxes, flips, out, strict=True):
        view = pixels.resized_crop(
            clip.permute(0, 3, 1, 2), *box, [size, size], InterpolationMode.BICUBIC, antialias=True
        )
        target.copy_((view.flip(-1) if flip else view).permute(0, 2, 3, 1))
    return out


def _random_integers(ends: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One integer from [0, end) for each end; boxes that do not fit (end < 1) get 0."""
    share = torch.rand(len(ends), generator=generator, dtype=torch.float64)
    return (share * ends.clamp(min=1)).long()
