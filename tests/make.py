"""What tests of models share: a tiny CLIP, clips in memory, and a training of a moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch

from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, StudentFit, fit_student
from fitclip_core.encoders import ClipEncoder, Precision

SIZE = 8
CROP_SIZE = 16  # of clips in training form
HALF = (0.5, 0.5, 0.5)
RECIPE = Recipe(
    steps=6,
    validate_every=2,
    seed=5,
    learning_rate=1e-3,
    temperature=0.1,
    teacher_temperature=None,  # its own scale, so that both have one that differs
    labelled_share=0.5,
    labelled_batch=4,
    unlabelled_batch=3,
)


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


def make_encoder(
    seed: int,
    patch_dropout: float = 0.0,
    kind: type[ClipEncoder] = ClipEncoder,
    precision: Precision = "float32",
) -> ClipEncoder:
    settings: dict[str, Any] = {"patch_dropout": patch_dropout, "precision": precision}
    return tiny_encoder(seed, encoder=kind, size=CROP_SIZE, **settings)


class DoubleEncoder(ClipEncoder):
    """Computes in float64, where rounding cannot hide an error."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.model.double()

    def images(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, counts = super().images(*arguments)
        return images.double(), counts


def clips(n: int, draws: int = 2, seed: int = 0) -> TrainingClips:
    """n clips of two frames, each of one colour of its own, with one text each."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, (n, 1, 1, 1, 1, 3))
    shape = (n, 2, draws, CROP_SIZE, CROP_SIZE, 3)
    frames = (colours + rng.integers(0, 50, shape)).astype(np.uint8)
    return TrainingClips(Source(frames), [f"{chr(97 + i)}{seed}" for i in range(n)])


def still(training: TrainingClips) -> TrainingClips:
    """The same clips in evaluation form."""
    return TrainingClips(Source(training.frames.frames(training.indices)[:, :, 0]), training.texts)


def fit(recipe: Recipe = RECIPE, micro_batch: int | None = None, **changes: object) -> StudentFit:
    arguments: dict = {
        "labelled": clips(10),
        "unlabelled": clips(7, seed=1),
        "validation": still(clips(5, seed=2)),
    } | changes
    for seed, name in enumerate(("student", "teacher")):
        if name not in arguments:
            arguments[name] = make_encoder(seed)
    return fit_student(**arguments, recipe=recipe, micro_batch=micro_batch)


@contextmanager
def recorded_gradients() -> Iterator[list[dict[int, torch.Tensor]]]:
    """The gradients, by the parameter's number, with which the optimiser makes each step."""
    steps: list[dict[int, torch.Tensor]] = []

    class Recording(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            weights = self.param_groups[0]["params"]
            steps.append(
                {i: one.grad.clone() for i, one in enumerate(weights) if one.grad is not None}
            )
            return super().step(closure)

    with mock.patch.object(torch.optim, "AdamW", Recording):
        yield steps


def largest_difference(found: dict[int, torch.Tensor], expected: dict[int, torch.Tensor]) -> float:
    """The largest difference of two sets of gradients, as a share of the largest gradient."""
    assert found.keys() == expected.keys() and expected
    apart = max(float((found[i] - expected[i]).abs().max()) for i in expected)
    return apart / max(float(one.abs().max()) for one in expected.values())
