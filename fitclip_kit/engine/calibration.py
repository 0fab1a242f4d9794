"""How fast a model runs on the user's device, measured in about a minute on made-up pictures."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch
from fitclip_core.augmentation import crop_and_flip
from fitclip_core.video_text import VideoTextEncoder

from fitclip_core.distillation import Recipe, attention_kernel
from fitclip_core.losses import contrastive_loss

LEAST_TIMINGS = 3
TEXT_WORDS = 24  # of made-up texts: a text's time grows with its length
_WORDS = ("a", "man", "in", "the", "street", "with", "dog", "and", "red", "car")
# What each part may take of the seconds given.
_SHARES = {"images": 0.3, "texts": 0.2, "training": 0.5}
# Clips or texts timed at once, at most; a training batch also keeps to a part of the memory.
_MOST_CLIPS, _MOST_TEXTS = 64, 1024
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Rate:
    """How many of something a device does in a second: the median of several timings.

    Attributes:
        per_second: the median.
        slowest: of the timings, per second.
        fastest: of the timings, per second.
        timings: how many there were, after the warm-up.
        batch: how many (clips or texts) were timed at once.
    """

    per_second: float
    slowest: float
    fastest: float
    timings: int
    batch: int


@dataclass(frozen=True)
class Calibration:
    """What one model costs on one device.

    Attributes:
        model: the encoder's name.
        device: where it ran, in words.
        threads: CPU threads that PyTorch used.
        image_size: side of the pictures, in pixels.
        n_frames: frames of a clip.
        parameters: numbers in the model's weights.
        images: pictures a second through the image tower, as in an evaluation.
        texts: texts a second through the text tower, tokens known, as in an evaluation.
        text_words: mean number of words of those texts.
        training: clips (with their text) a second through a training step: crops, both towers,
            contrastive loss, backward pass; without the optimiser.
        optimiser_seconds: of one AdamW step over all weights; it does not grow with the batch.
        activation_bytes: memory kept for the backward pass, for each clip of a training batch.
        device_bytes: the device's memory (a GPU's own, else the machine's); None where unknown.
        peak_bytes: most memory in use during the timed training steps, at their own batch
            (`training.batch`); None where PyTorch does not tell (anything but CUDA).
    """

    model: str
    device: str
    threads: int
    image_size: int
    n_frames: int
    parameters: int
    images: Rate
    texts: Rate
    text_words: float
    training: Rate
    optimiser_seconds: float
    activation_bytes: int
    device_bytes: int | None
    peak_bytes: int | None


def calibrate(
    encoder: VideoTextEncoder,
    *,
    seconds: float = 60.0,
    n_frames: int = 4,
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> Calibration:
    """Time evaluation and training of a model on its own device; its weights stay as they are.

    Pictures are made up, for the time does not depend on what they show; random weights will do as
    well. Captions are made up too where none are given. Each part starts with one clip or text and
    doubles them as long as three more timings fit its part of the seconds; a training batch also
    keeps to a quarter of the memory. The time of a training step is taken to grow linearly with its
    clips, but for the optimiser, which is timed apart. Decoding and reading files are not part.

    Args:
        encoder: the model, on the device to measure.
        seconds: to take, about. A warm-up and three timings of each part are made in any case,
            which on a slow device takes longer.
        n_frames: frames of a clip.
        texts: captions like those to be read, of which each distinct one counts; None: made-up
            ones of `TEXT_WORDS` words.
        seed: of the pictures, and of which of the texts are timed.

    Raises:
        ValueError: seconds or n_frames are not positive, or there is no text.
    """
    if not (seconds > 0 and n_frames >= 1):
        raise ValueError(f"seconds is {seconds} and n_frames {n_frames}; both must be above 0")
    if texts is not None and not len(texts):
        raise ValueError("there is no text to time; give some, or None for made-up ones")
    device, size = encoder.device, encoder.image_size
    clips = np.random.default_rng(seed).integers(
        0, 256, (_MOST_CLIPS, n_frames, size, size, 3), np.uint8
    )
    captions = _captions(_MOST_TEXTS, seed) if texts is None else _mixed(texts, seed)
    encoder.tokenize(captions)  # a sweep tokenizes once, for all its models
    part = {name: seconds * share for name, share in _SHARES.items()}
    evaluated = _rate(
        lambda n: encoder.encode_videos(clips[:n]), _MOST_CLIPS, part["images"], device
    )
    read = _rate(lambda n: encoder.encode_texts(captions[:n]), len(captions), part["texts"], device)

    memory = _memory(device)
    step = _TrainingStep(encoder, clips, captions, seed)
    try:
        activations = step.activation_bytes()
        most = int(_MEMORY_SHARE * (memory or 0) / activations)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        training = _rate(
            step.forward_and_backward,
            min(max(most, 1), _MOST_CLIPS, len(captions)),
            part["training"],
            device,
        )
        optimiser = statistics.median(
            _seconds(step.optimise, device) for _ in range(LEAST_TIMINGS + 1)
        )
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    finally:
        step.close()
    return Calibration(
        model=encoder.name,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        image_size=size,
        n_frames=n_frames,
        parameters=sum(one.numel() for one in encoder.model.parameters()),
        images=_times(evaluated, n_frames),
        texts=read,
        text_words=statistics.mean(len(one.split()) for one in captions),
        training=training,
        optimiser_seconds=optimiser,
        activation_bytes=activations,
        device_bytes=memory,
        peak_bytes=peak,
    )


class _TrainingStep:
    """The costly parts of `distillation.fit_student`'s step, on made-up clips, at learning rate 0:
    AdamW then computes all that it always does and changes no weight."""

    def __init__(
        self, encoder: VideoTextEncoder, clips: np.ndarray, texts: list[str], seed: int
    ) -> None:
        self.encoder, self.clips, self.texts = encoder, clips, texts
        self.recipe = Recipe(steps=1, validate_every=1, seed=seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW(
            encoder.model.parameters(), lr=0.0, weight_decay=self.recipe.weight_decay, fused=True
        )
        self.devices = [encoder.device] if encoder.device.type == "cuda" else []

    def forward_and_backward(self, n: int) -> None:
        encoder = self.encoder
        encoder.model.train()
        with torch.random.fork_rng(self.devices), attention_kernel(encoder.device):
            self.optimiser.zero_grad()
            self._loss(n).backward()

    def optimise(self) -> None:
        self.optimiser.step()

    def activation_bytes(self) -> int:
        """Bytes that autograd keeps for one clip and its text; the weights, which it keeps too, are
        left out, and memory that several operations share counts once."""
        weights = {one.untyped_storage().data_ptr() for one in self.encoder.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.encoder.model.train()
        with (
            torch.random.fork_rng(self.devices),
            attention_kernel(self.encoder.device),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            loss = self._loss(1)  # held, so that no storage is freed and used again
        del loss
        return sum(kept.values())

    def close(self) -> None:
        self.optimiser.zero_grad()
        self.encoder.model.eval()

    def _loss(self, n: int) -> torch.Tensor:
        encoder = self.encoder
        crops = crop_and_flip(
            self.clips[:n], encoder.image_size, self.recipe.crop_scale, self.generator
        )
        videos = encoder.video_features(*encoder.images(crops))
        texts = encoder.text_features(encoder.tokenize(self.texts[:n]))
        return contrastive_loss(videos @ texts.T / self.recipe.temperature)


def _captions(n: int, seed: int) -> list[str]:
    """Distinct captions of `TEXT_WORDS` words."""
    words = np.random.default_rng(seed).choice(_WORDS, (n, TEXT_WORDS - 1))
    return [f"{number} {' '.join(row)}" for number, row in enumerate(words)]


def _mixed(texts: Sequence[str], seed: int) -> list[str]:
    """The distinct texts, or as many as are timed at once, in random order: the first few are then
    as long as the others."""
    distinct = list(dict.fromkeys(texts))
    order = np.random.default_rng(seed).permutation(len(distinct))[:_MOST_TEXTS]
    return [distinct[place] for place in order]


def _rate(work: Callable[[int], object], most: int, seconds: float, device: torch.device) -> Rate:
    """Time `work(n)` for about `seconds`: n is 1, doubled (up to `most`) as long as a warm-up and
    the least number of timings at the double still fit."""
    start = perf_counter()
    work(1)  # warm-up: kernels are chosen, memory is taken
    n, took = 1, _seconds(partial(work, 1), device)
    while 2 * n <= most and perf_counter() - start + 2 * took * (1 + LEAST_TIMINGS) <= seconds:
        n *= 2
        work(n)
        took = _seconds(partial(work, n), device)
    timings = [took]
    while len(timings) < LEAST_TIMINGS or perf_counter() - start + took < seconds:
        timings.append(_seconds(partial(work, n), device))
    rates = sorted(n / timing for timing in timings)
    return Rate(statistics.median(rates), rates[0], rates[-1], len(rates), n)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.get_device_module(device).synchronize
    wait()
    start = perf_counter()
    work()
    wait()
    return max(perf_counter() - start, 1e-9)


def _times(rate: Rate, factor: int) -> Rate:
    """A rate of clips as one of their frames; the batch stays in clips."""
    values = {name: getattr(rate, name) * factor for name in ("per_second", "slowest", "fastest")}
    return replace(rate, **values)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type if device.type != "cpu" else f"CPU ({platform.machine()})"


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None  # not on Windows
