"""A CLIP of open_clip with random weights, and clips for it, small enough for quick tests."""

from typing import Any

import numpy as np
import open_clip
import torch

from fitclip_core.clips import TrainingClips
from fitclip_core.encoders import ClipEncoder

SIZE = 8
HALF = (0.5, 0.5, 0.5)


def letters(texts: list[str]) -> torch.Tensor:
    """One token a letter; the highest id ends the text, as CLIP's models expect."""
    return torch.tensor([[*[ord(c) % 30 + 1 for c in text[:5].ljust(5)], 31] for text in texts])


def tiny_encoder(
    seed: int,
    layers: tuple[int, int] = (1, 1),
    kind: type[torch.nn.Module] = open_clip.CLIP,
    *,
    encoder: type[ClipEncoder] = ClipEncoder,
    size: int = SIZE,
    patch_dropout: float = 0.0,
    **settings: Any,
) -> ClipEncoder:
    """`layers`: of the vision and of the text tower; `kind`: CLIP or CustomTextCLIP."""
    torch.manual_seed(seed)
    vision: dict[str, Any] = {"image_size": size, "patch_size": size // 2, "layers": layers[0]}
    vision |= {"width": 8, "head_width": 4, "patch_dropout": patch_dropout}
    text = {"context_length": 6, "vocab_size": 32, "width": 8, "heads": 2, "layers": layers[1]}
    model = kind(embed_dim=6, vision_cfg=vision, text_cfg=text)
    name = f"tiny{seed}"
    return encoder(model, letters, image_size=size, mean=HALF, std=HALF, name=name, **settings)


class Source:
    """Clips held in memory, all of whose frames are valid; it notes what is read."""

    def __init__(self, frames: np.ndarray) -> None:
        self.data = frames
        self.clip_ids = [f"clip{place}" for place in range(len(frames))]
        self.frame_counts = np.full(len(frames), frames.shape[1])
        self.read: list[list[int]] = []

    def frames(self, indices: np.ndarray) -> np.ndarray:
        self.read.append(indices.tolist())
        return self.data[indices]


class RandomClips(Source):
    """A source of n random clips of two frames in evaluation form."""

    def __init__(self, n: int, seed: int = 0) -> None:
        shape = (n, 2, SIZE, SIZE, 3)
        super().__init__(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def labelled_clips(n: int, seed: int = 0) -> TrainingClips:
    texts = [f"{chr(97 + place % 26)}{place:02d}" for place in range(n)]
    return TrainingClips(RandomClips(n, seed), texts)
