"""CLIP-like models of open_clip as encoders of clips, captions and classes."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import open_clip
import torch
from open_clip.factory import load_state_dict
from safetensors import SafetensorError

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MERGES_FILE = "bpe_simple_vocab.txt.gz"

Tokenizer = Callable[[list[str]], torch.Tensor]
Frames = np.ndarray | torch.Tensor


class FrameSource(Protocol):
    """Decoded clips: what a frame store offers to this package.

    `frames(indices)` gives uint8 `[m, frames, h, w, 3]` (evaluation) or
    `[m, frames, draws, h, w, 3]` (training: several draws for each interval), zero padded where
    a clip has fewer frames; `frame_counts` `[n]` says how many are valid.
    """

    @property
    def clip_ids(self) -> Sequence[str]: ...

    @property
    def frame_counts(self) -> np.ndarray: ...

    def frames(self, indices: np.ndarray) -> np.ndarray: ...


def locate_clips(source: FrameSource, clip_ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Positions of clips in a source, and the clips that it does not hold.

    Args:
        source: decoded clips.
        clip_ids: wanted clips, each once.

    Returns:
        int64 `[len(clip_ids)]` with -1 for a clip that the source lacks, and those clips' ids.

    Raises:
        ValueError: a clip is asked for twice, or the source holds none of them.
    """
    repeated, times = Counter(clip_ids).most_common(1)[0] if len(clip_ids) else ("", 0)
    if times > 1:
        raise ValueError(f"clip_id {repeated!r} appears {times} times; clip ids must be unique")
    position = {clip_id: i for i, clip_id in enumerate(source.clip_ids)}
    indices = np.array([position.get(clip_id, -1) for clip_id in clip_ids], dtype=np.int64)
    if not (indices >= 0).any():
        raise ValueError(
            f"none of the {len(clip_ids)} clips is in the frame source, which holds "
            f"{len(position)} clips; build its frames from this clips table"
        )
    missing = [clip_id for clip_id, index in zip(clip_ids, indices, strict=True) if index < 0]
    return indices, missing


class ClipEncoder:
    """An open_clip model with its tokenizer and its pictures' normalisation.

    The video feature is the mean over frames of the L2-normalised frame features and the class
    feature the mean over prompts of the normalised text features; neither is renormalised.

    Args:
        model: an open_clip model (`CLIP`, `CustomTextCLIP`, ...), kept on `device` in eval mode.
        tokenizer: texts to token ids `[n, context_length]`.
        image_size: side of the square pictures, in pixels.
        mean: normalisation of the three channels, of values in [0, 1].
        std: as `mean`.
        name: how results call this model.
        device: where the model computes.

    Raises:
        ValueError: the tokenizer's vocabulary and the model's differ in size.

    Source: Radford et al. 2021 (CLIP); ARCHITECTURE "Numeric conventions" for the features.
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
        device: str | torch.device = "cpu",
    ) -> None:
        _check_vocabulary(model, tokenizer, name)
        self.model: Any = model.to(device).eval()
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.name = name
        self.device = torch.device(device)
        # (x / 255 - mean) / std as one multiplication and one addition.
        self._scale = _per_channel(1 / (255 * np.asarray(std)), self.device)
        self._shift = _per_channel(-np.asarray(mean) / np.asarray(std), self.device)
        # Sweeps score the same captions with every alpha, so their tokens are kept.
        self._token_row = lru_cache(maxsize=2**16)(lambda text: tokenizer([text])[0])

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | None = None,
        device: str | torch.device = "cpu",
        cache_dir: str | None = None,
    ) -> Self:
        """Build any architecture that open_clip knows.

        Args:
            name: open_clip's model name, such as `ViT-B-16-quickgelu`.
            pretrained: None for random weights, an open_clip tag, or a weights file
                (safetensors, or a PyTorch file of nothing but tensors).
            device: where the model computes.
            cache_dir: where open_clip keeps what a tag downloads.

        Raises:
            ValueError: the name or `pretrained` is unknown, the file's tensors do not fit, or the
                weights were trained with the other activation (OpenAI's need QuickGELU).
        """
        config = open_clip.get_model_config(name)
        if config is None:
            raise ValueError(f"open_clip has no model {name!r}; see open_clip.list_models()")
        file = None
        if pretrained is not None and not open_clip.get_pretrained_cfg(name, pretrained):
            file = Path(pretrained)
            if not file.is_file():
                raise ValueError(
                    f"pretrained={pretrained!r} is neither a file nor a tag of {name}; its tags: "
                    f"{', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none'}"
                )
        _check_activation(name, bool(config.get("quick_gelu", False)), pretrained, file)
        with _without_random_weights_warning():
            model = open_clip.create_model(
                name,
                pretrained=None if file else pretrained,
                pretrained_text=False,
                device=device,
                cache_dir=cache_dir,
            )
        encoder = cls._wrap(model, open_clip.get_tokenizer(name, cache_dir=cache_dir), name, device)
        if file:
            encoder.load_state(_read_weights(file))
        return encoder

    @classmethod
    def from_folder(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Build the model of a folder in open_clip's local layout, without the network.

        Args:
            folder: holds `open_clip_config.json` (`model_cfg`, `preprocess_cfg`),
                `open_clip_model.safetensors` (any floating type; computed in float32) and, if the
                model has its own vocabulary, `bpe_simple_vocab.txt.gz` in CLIP's format of merges.
            device: where the model computes.

        Raises:
            ValueError: a file is missing or broken, the vocabulary or the weights do not fit the
                configuration, or OpenAI's weights meet a configuration without QuickGELU.
        """
        folder = Path(folder)
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / file).is_file():
                raise ValueError(f"{folder} has no {file}; give a folder in open_clip's layout")
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} is no JSON object with model_cfg") from error
        weights = folder / WEIGHTS_FILE
        _check_activation(folder.name, bool(config.get("quick_gelu", False)), str(weights), weights)
        with _without_random_weights_warning():
            model = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, device=device
            )
        merges = folder / MERGES_FILE
        options: dict[str, Any] = {"bpe_path": str(merges)} if merges.is_file() else {}
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **options)
        encoder = cls._wrap(model, tokenizer, folder.name, device)
        encoder.load_state(_read_weights(weights))
        return encoder

    @classmethod
    def _wrap(cls, model: Any, tokenizer: Tokenizer, name: str, device: str | torch.device) -> Self:
        preprocess = model.visual.preprocess_cfg
        size = preprocess["size"]
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"{name} takes pictures of size {size}; only square ones will do")
        return cls(
            model,
            tokenizer,
            image_size=sides.pop(),
            mean=preprocess["mean"],
            std=preprocess["std"],
            name=name,
            device=device,
        )

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities: exp of the model's `logit_scale` parameter."""
        return self.model.logit_scale.exp().item()

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
        pixels = pixels.to(self.device).permute(0, 3, 1, 2).contiguous()
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift), counts.to(self.device)

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Features of clips, differentiable: mean of the L2-normalised frame features.

        Args:
            images: float32 `[sum(counts), 3, h, w]`, normalised, clip by clip.
            counts: int64 `[n]`, frames of each clip.

        Returns:
            float32 `[n, d]`, not renormalised.

        Source: ARCHITECTURE "Numeric conventions", video feature.
        """
        features = self.model.encode_image(images, normalize=True)
        return torch.segment_reduce(features, "mean", lengths=counts)

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
            float32 `[n, d]` on the CPU: mean of L2-normalised frame features, not renormalised.

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

    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """L2-normalised features `[n, d]` of token ids `[n, context_length]`, differentiable."""
        return self.model.encode_text(tokens.to(self.device), normalize=True)

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
        first = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        tokens = self.tokenize(list(first))
        step = batch_size or max(16, 2**13 // tokens.shape[1])
        distinct = _collect(self.text_features(batch) for batch in tokens.split(step))
        return distinct[[first[text] for text in texts]]

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
            ValueError: no label, no template, or a template without exactly one `{}`.

        Source: ARCHITECTURE "Numeric conventions", class feature; Radford et al. 2021, 3.1.4.
        """
        if not templates:
            raise ValueError('there is no prompt template; give at least one, such as "{}"')
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold {{}} once, for the class name")
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

        A state without `logit_scale`, or with a NaN one (both forms of FitCLIP's released
        students), leaves the model's own, with a warning.

        Args:
            state: tensors by name, of any floating type.

        Raises:
            ValueError: a tensor is missing, unknown, of another shape or not finite.
        """
        own = self.model.state_dict()
        state = dict(state)
        scale = state.get("logit_scale")
        if "logit_scale" in own and (scale is None or bool(scale.isnan().any())):
            warnings.warn(
                f"the state for {self.name} has no logit_scale; the model keeps "
                f"{self.logit_scale:.6g}",
                stacklevel=2,
            )
            state["logit_scale"] = own["logit_scale"]
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"the state lacks {_some(missing)} of {self.name}; give its state")
        if unknown := sorted(state.keys() - own.keys()):
            raise ValueError(f"{self.name} has no {_some(unknown)}; give its own state")
        for name, value in state.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"{name} has shape {list(value.shape)}, but {self.name} has "
                    f"{list(own[name].shape)}; give its state"
                )
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinity; the state is broken")
        self.model.load_state_dict(state)

    def _encode_clips(
        self, read: Callable[[slice], Frames], counts: np.ndarray, batch_size: int | None
    ) -> torch.Tensor:
        if len(counts) == 0:
            raise ValueError("there is no clip to encode; give at least one")
        # A batch that stays in the processor's cache is the fastest: about 160 frames of 40 px.
        images = batch_size or max(16, 2**18 // self.image_size**2)
        step = max(1, images // max(1, int(counts.max())))
        batches = (slice(start, start + step) for start in range(0, len(counts), step))
        return _collect(
            self.video_features(*self.images(read(rows), counts[rows])) for rows in batches
        )

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


def _collect(batches: Iterator[torch.Tensor]) -> torch.Tensor:
    """Compute lazy batches in inference mode; joined outside it, they are ordinary tensors."""
    with torch.inference_mode():
        features = [batch.cpu() for batch in batches]
    return torch.cat(features)


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


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_vocabulary(model: torch.nn.Module, tokenizer: Tokenizer, name: str) -> None:
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        return
    tower = model if hasattr(model, "vocab_size") else getattr(model, "text", model)
    size = getattr(tower, "vocab_size", tokenizer.vocab_size)
    if size != tokenizer.vocab_size:
        raise ValueError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens (512 + merges + 2), but the "
            f"model's vocab_size is {size}; give the merges file that the model was trained with, "
            f"without an empty line at its end"
        )


def _check_activation(
    name: str, quick_gelu: bool, pretrained: str | None, file: Path | None
) -> None:
    """Refuse weights of the other activation: they load without a sign and lose accuracy."""
    if pretrained is None:
        return
    if file is None:
        needs_quick_gelu = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
        if needs_quick_gelu == quick_gelu:
            return
    elif quick_gelu or not _is_openai(file):
        return
    else:
        needs_quick_gelu = True
    raise ValueError(
        f"the weights {pretrained!r} were trained {'with' if needs_quick_gelu else 'without'} "
        f"QuickGELU, but {name} computes {'with' if quick_gelu else 'without'} it; "
        + (
            f'use the model {name}-quickgelu (in a config: "quick_gelu": true)'
            if needs_quick_gelu
            else "use the model whose name does not end in -quickgelu"
        )
    )


def _is_openai(file: Path) -> bool:
    """By name (the file or up to three folders above it), or by OpenAI's TorchScript form."""
    return any("openai" in part.lower() for part in file.parts[-4:]) or _is_torchscript(file)


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    if _is_torchscript(file):
        raise ValueError(
            f"{file} is a TorchScript program, as OpenAI released CLIP; use pretrained='openai', "
            f"which downloads the same weights as safetensors"
        )
    try:
        return load_state_dict(str(file), weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{file} holds no plain dictionary of tensors ({type(error).__name__}); convert it to "
            f"safetensors"
        ) from error


@contextmanager
def _without_random_weights_warning() -> Iterator[None]:
    """Weights that this module loads itself look random to open_clip, which warns of it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
