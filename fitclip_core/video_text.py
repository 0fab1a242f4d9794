"""Encoders of clips, captions and classes: what every model of the kit has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch

Tokenizer = Callable[[list[str]], torch.Tensor]
Frames = np.ndarray | torch.Tensor
Precision = Literal["float32", "bfloat16"]

_T = TypeVar("_T")
# Pixels of a batch of pictures: what stays in a processor's cache is the fastest (160 pictures of
# 40 px), and accelerators want as much as fits (330 of 224 px; a ViT-B/16 then takes 2 GiB).
_CPU_PIXELS, _ACCELERATOR_PIXELS = 2**18, 2**24
_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class FrameSource(Protocol):
    """Decoded clips: what a frame store offers to this package.

    `frames(indices)` gives uint8 `[m, frames, h, w, 3]` (evaluation) or
    `[m, frames, draws, h, w, 3]` (training: several draws for each interval), zero padded where
    a clip has fewer frames; `frame_counts` `[n]` says how many are valid. A source that holds one
    video for several rows of a table also has `places`, a mapping of every row's id to its
    position; others hold each of `clip_ids` at its own.
    """

    @property
    def clip_ids(self) -> Sequence[str]: ...

    @property
    def frame_counts(self) -> np.ndarray: ...

    def frames(self, indices: np.ndarray) -> np.ndarray: ...


def locate_clips(
    source: FrameSource, clip_ids: Sequence[str], videos: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Positions of clips in a source, and the clips that it does not hold.

    Args:
        source: decoded clips.
        clip_ids: wanted clips, each once.
        videos: `[len(clip_ids)]` from `videos.video_numbers`. Clips of one video get one position,
            that of the first of them which the source holds. None: each is a video of its own.

    Returns:
        int64 `[len(clip_ids)]` with -1 for a clip that the source lacks, and those clips' ids.

    Raises:
        ValueError: a clip is asked for twice, or the source holds none of them.
    """
    repeated, times = Counter(clip_ids).most_common(1)[0] if len(clip_ids) else ("", 0)
    if times > 1:
        raise ValueError(f"clip_id {repeated!r} appears {times} times; clip ids must be unique")
    places: Mapping[str, int] | None = getattr(source, "places", None)
    if places is None:
        places = {clip_id: place for place, clip_id in enumerate(source.clip_ids)}
    indices = np.array([places.get(clip_id, -1) for clip_id in clip_ids], dtype=np.int64)
    if not (indices >= 0).any():
        raise ValueError(
            f"none of the {len(clip_ids)} clips is in the frame source, which holds "
            f"{len(places)} clips; build its frames from this clips table"
        )
    if videos is not None:
        of_video = np.full(len(clip_ids), -1)
        held = np.flatnonzero(indices >= 0)[::-1]
        of_video[videos[held]] = indices[held]  # the first one's is written last
        indices = of_video[videos]
    missing = [clip_id for clip_id, index in zip(clip_ids, indices, strict=True) if index < 0]
    return indices, missing


def check_templates(templates: Sequence[str]) -> None:
    """Refuse prompt templates that a class's name cannot be put into in one way only.

    Raises: ValueError when there is none, or for one that does not hold `{}` once, or holds another
    brace.
    """
    if not templates:
        raise ValueError(
            "there is no prompt template; classification needs prompt templates, of which "
            '"{}" is the bare class name'
        )
    for one in [templates] if isinstance(templates, str) else templates:
        if (
            not isinstance(one, str)
            or one.count("{}") != 1
            or {"{", "}"} & set(one.replace("{}", ""))
        ):
            raise ValueError(
                f"template {one!r} must hold {{}} once, for the class name, and no other brace"
            )
    if isinstance(templates, str):
        raise ValueError(f"templates are the text {templates!r}; give a list of texts")


class VideoTextEncoder(ABC):
    """A model that gives clips and texts features of one space.

    A subclass says how normalised pictures and token ids become features; this class reads clips,
    batches them, averages prompts, and keeps and loads weights. No mean is renormalised.

    Args:
        model: used as it is, not copied. `encode_*` compute in eval mode and leave every module
            in the mode that it was in; `*_features` compute in the mode that it is in.
        tokenizer: texts to token ids `[n, context_length]`.
        image_size: side of the square pictures, in pixels.
        mean: normalisation of the three channels, of values in [0, 1].
        std: as `mean`.
        name: how results call this model.
        device: where to move the model; None: it stays where it is.
        precision: of the matrix products of `encode_*`, see `precision`.

    Raises:
        ValueError: the precision is unknown.

    Source: ARCHITECTURE "Numeric conventions" for the features.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}"
            )
        self._precision: Precision = precision
        if device is None:
            device = next((value.device for value in model.state_dict().values()), "cpu")
        self.model: Any = model.to(device)
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.name = name
        self.device = torch.device(device)
        # (x / 255 - mean) / std as one multiplication and one addition.
        self._scale = _per_channel(1 / (255 * np.asarray(std)), self.device)
        self._shift = _per_channel(-np.asarray(mean) / np.asarray(std), self.device)
        # Sweeps score the same captions with every alpha, so their tokens are kept.
        self._token_row = lru_cache(maxsize=2**16)(lambda text: tokenizer([text])[0])

    @property
    def precision(self) -> Precision:
        """What the matrix products of `encode_*` are computed in.

        "bfloat16" is PyTorch's automatic mixed precision, several times as fast on accelerators;
        features then differ by about 0.5%, so it belongs into the protocol. Weights, normalisation
        and means stay float32, and so does everything that is differentiated.
        """
        return self._precision

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Encode in float32 for a while, whatever the precision: training's validation does."""
        kept, self._precision = self._precision, "float32"
        try:
            yield
        finally:
            self._precision = kept

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Compute in eval mode for a while; then every module is in the mode that it was in."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @abstractmethod
    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Features of clips `[n, d]`, differentiable.

        Args:
            images: float32 `[sum(counts), 3, h, w]`, normalised, clip by clip.
            counts: int64 `[n]`, frames of each clip.
        """

    @abstractmethod
    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """L2-normalised features `[n, d]` of token ids `[n, context_length]`, differentiable."""

    def images(
        self, frames: Frames, frame_counts: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn stored frames into the model's input, without the padding.

        Args:
            frames: uint8 `[n, frames, h, w, 3]`, with h and w already the model's `image_size`.
            frame_counts: `[n]`, how many of a clip's frames are valid; None: all of them.

        Returns:
            Normalised float32 `[sum(frame_counts), 3, h, w]` and the counts, int64 `[n]`.

        Raises:
            ValueError: wrong type, shape, size or counts.
        """
        self._check_frames(frames)
        counts = _checked_counts(frames, frame_counts)
        if isinstance(frames, np.ndarray):
            # PyTorch refuses to share read-only memory, which a memory-mapped store has.
            pixels = torch.from_numpy(frames if frames.flags.writeable else frames.copy())
        else:
            pixels = frames
        if bool((counts == pixels.shape[1]).all()):
            pixels = pixels.flatten(0, 1)
        else:
            pixels = pixels[torch.arange(pixels.shape[1]) < counts[:, None]]
        # Rearranging bytes and then widening them is three times faster than the reverse.
        if self.device.type == "cuda":
            # From pinned memory the copy does not wait for the batches before it.
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        pixels = pixels.to(self.device).permute(0, 3, 1, 2).contiguous()
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift), counts.to(self.device)

    def encode_videos(
        self,
        frames: Frames,
        frame_counts: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> torch.Tensor:
        """Features of clips held in memory, in batches, without gradients.

        Args:
            frames: uint8 `[n, frames, h, w, 3]`, with h and w the model's `image_size`.
            frame_counts: `[n]`, how many of a clip's frames are valid; None: all of them.
            batch_size: frames in a batch; None: chosen by `image_size`.

        Returns:
            float32 `[n, d]` on the CPU, as `video_features` gives them.

        Raises:
            ValueError: wrong type, shape, size or counts.
        """
        self._check_frames(frames)
        counts = _checked_counts(frames, frame_counts).numpy()
        return self._encode_clips(lambda rows: frames[rows], counts, batch_size)

    def encode_source(
        self,
        source: FrameSource,
        indices: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> torch.Tensor:
        """Features of a source's clips, read and encoded batch by batch, without gradients.

        Args:
            source: decoded clips in evaluation form.
            indices: positions of the wanted clips in the source; None: all of them.
            batch_size: frames in a batch; None: chosen by `image_size`.

        Returns:
            float32 `[n, d]` on the CPU, in the order of `indices`.

        Raises:
            ValueError: the source's frames have the wrong type, shape or size.
        """
        chosen = np.arange(len(source.clip_ids)) if indices is None else np.asarray(indices)
        counts = np.asarray(source.frame_counts)[chosen]
        return self._encode_clips(lambda rows: source.frames(chosen[rows]), counts, batch_size)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids int64 `[n, context_length]`; a longer text is cut, as CLIP does.

        Raises:
            ValueError: there is no text, or one is not a string.
        """
        if not texts:
            raise ValueError("there is no text to encode; give at least one")
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {position} is {text!r}, not a string; give every clip one")
        return torch.stack([self._token_row(text) for text in texts])

    def encode_texts(self, texts: Sequence[str], batch_size: int | None = None) -> torch.Tensor:
        """Features of texts, each distinct one encoded once, without gradients.

        Args:
            texts: captions; what exceeds the model's context length is cut, as CLIP does.
            batch_size: texts in a batch; None: chosen by the context length.

        Returns:
            float32 `[n, d]` on the CPU, L2-normalised.

        Raises:
            ValueError: there is no text, or one is not a string.
        """
        distinct = list(dict.fromkeys(texts))
        tokens = self.tokenize(distinct)
        # By length, so that a batch of short texts need not wait for a long one; then by letters:
        # the batches, and with them a feature's last bits, do not depend on the texts' order.
        lengths = (tokens != 0).sum(1).tolist()
        order = sorted(range(len(distinct)), key=lambda row: (lengths[row], distinct[row]))
        step = batch_size or max(16, 2**13 // tokens.shape[1])
        features = self._collect(self.text_features(batch) for batch in tokens[order].split(step))
        rows = {distinct[row]: place for place, row in enumerate(order)}
        return features[[rows[text] for text in texts]]

    def encode_classes(
        self, labels: Sequence[str], templates: Sequence[str], batch_size: int | None = None
    ) -> torch.Tensor:
        """Features of classes: mean over prompt templates of normalised text features.

        Args:
            labels: class names.
            templates: prompts, each with one `{}` for the class name.
            batch_size: texts in a batch; None: chosen by the context length.

        Returns:
            float32 `[classes, d]` on the CPU, not renormalised.

        Raises:
            ValueError: no label, or as `check_templates`.

        Source: ARCHITECTURE "Numeric conventions", class feature; Radford et al. 2021, 3.1.4.
        """
        check_templates(templates)
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        features = self.encode_texts(prompts, batch_size)
        return features.unflatten(0, (len(labels), len(templates))).mean(1)

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the model's parameters and buffers on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.model.state_dict().items()
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load parameters and buffers in place; names and shapes must match the model's.

        Args:
            state: tensors by name, of any floating type.

        Raises:
            ValueError: tensors are missing, unknown, of another shape, quantised or not finite;
                all of them are listed, and the model is left as it was.
        """
        own = self.model.state_dict()
        both = [name for name in own if name in state]
        if not both and own and state:
            raise ValueError(
                f"the state does not fit {self.name}: none of its {len(state)} names, such as "
                f"{min(state)}, is among the model's {len(own)}, such as {min(own)}; they are of "
                "another model, or something that was around the model is in them"
            )
        unlike = [
            name
            for name in both
            if own[name].is_floating_point() and state[name].dtype not in _WEIGHT_TYPES
        ]
        problems = {
            "missing": sorted(own.keys() - state.keys()),
            "unknown": sorted(state.keys() - own.keys()),
            "of another shape": [
                f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
                for name in both
                if state[name].shape != own[name].shape
            ],
            "of a type that is not computed with": [
                f"{name} {state[name].dtype}" for name in unlike
            ],
            "not finite": [
                name
                for name in both
                if name not in unlike and not bool(state[name].isfinite().all())
            ],
        }
        found = [
            f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names
        ]
        if found:
            raise ValueError(f"the state does not fit {self.name}; {'; '.join(found)}")
        self.model.load_state_dict(state)

    def _encode_clips(
        self, read: Callable[[slice], Frames], counts: np.ndarray, batch_size: int | None
    ) -> torch.Tensor:
        if len(counts) == 0:
            raise ValueError("there is no clip to encode; give at least one")
        pixels = _CPU_PIXELS if self.device.type == "cpu" else _ACCELERATOR_PIXELS
        images = batch_size or max(16, pixels // self.image_size**2)
        step = max(1, images // max(1, int(counts.max())))
        rows = [slice(start, start + step) for start in range(0, len(counts), step)]
        return self._collect(
            self.video_features(*self.images(batch, counts[part]))
            for part, batch in zip(rows, _read_ahead(read, rows), strict=True)
        )

    def _collect(self, batches: Iterator[torch.Tensor]) -> torch.Tensor:
        """Compute lazy batches in inference mode; joined outside it, they are ordinary tensors."""
        reduced = self._precision != "float32"
        with (
            self.in_eval_mode(),
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=reduced),
        ):
            features = list(batches)  # on an accelerator no batch waits for the one before it
        return torch.cat(features).cpu()

    def _check_frames(self, frames: Frames) -> None:
        if frames.dtype not in (np.uint8, torch.uint8):
            raise ValueError(f"frames are {frames.dtype}; give uint8, as the store holds them")
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.shape[1] == 0:
            raise ValueError(
                f"frames have shape {list(frames.shape)}; give [clips, frames, height, width, 3]"
            )
        if tuple(frames.shape[2:4]) != (self.image_size, self.image_size):
            raise ValueError(
                f"frames are {frames.shape[2]} x {frames.shape[3]} pixels, but {self.name} takes "
                f"{self.image_size} x {self.image_size}; build the frame store at that size"
            )


def _read_ahead(read: Callable[[slice], _T], parts: Iterable[slice]) -> Iterator[_T]:
    """Each part's batch, read by a thread while the one before it is computed."""
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for part in parts:
            here, coming = coming, reader.submit(read, part)
            if here is not None:
                yield here.result()
        if coming is not None:
            yield coming.result()


def _checked_counts(frames: Frames, frame_counts: np.ndarray | None) -> torch.Tensor:
    n, n_frames = frames.shape[:2]
    if frame_counts is None:
        return torch.full((n,), n_frames, dtype=torch.int64)
    counts = torch.tensor(np.asarray(frame_counts), dtype=torch.int64)
    if counts.shape != (n,):
        raise ValueError(f"frame_counts has shape {list(counts.shape)}; give one a clip: [{n}]")
    wrong = ((counts < 1) | (counts > n_frames)).nonzero().flatten()
    if len(wrong):
        clip = int(wrong[0])
        raise ValueError(
            f"clip {clip} has frame count {int(counts[clip])}; it must be between 1 and {n_frames}"
        )
    return counts


def _per_channel(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
