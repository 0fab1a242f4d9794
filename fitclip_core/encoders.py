"""Models that give clips, captions and classes features of one space; open_clip's among them."""

from __future__ import annotations

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from fitclip_core import fast
from fitclip_core.clips import FrameSource
from fitclip_core.ensembling import check_same_tensors

Tokenizer = Callable[[list[str]], Tensor]
Frames = np.ndarray | Tensor
Precision = Literal["float32", "bfloat16"]

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MERGES_FILE = "bpe_simple_vocab.txt.gz"
# Pixels of a batch of pictures: what stays in a processor's cache is the fastest (160 pictures of
# 40 px), and accelerators want as much as fits (330 of 224 px; a ViT-B/16 then takes 2 GiB).
_CPU_PIXELS, _ACCELERATOR_PIXELS = 2**18, 2**24
_TOKENS = 2**13  # of a batch of texts
_LEAST = 16  # pictures or texts in a batch
_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_templates(templates: Sequence[str]) -> None:
    """Refuse prompt templates that a class's name cannot be put into in one way only.

    Raises: ValueError when there is none, or for one that does not hold `{}` once, or holds another
    brace.
    """
    if isinstance(templates, str) or not templates:
        raise ValueError(
            f"templates are {templates!r}; classification needs a list of prompt templates, of "
            'which "{}" is the bare class name'
        )
    for template in templates:
        once = isinstance(template, str) and template.count("{}") == 1
        if not once or {"{", "}"} & set(template.replace("{}", "")):
            raise ValueError(
                f"template {template!r} must hold {{}} once, for the class name, and no other brace"
            )


class VideoTextEncoder(ABC):
    """A model that gives clips and texts features of one space.

    A subclass says how normalised pictures and token ids become features; this class reads clips,
    batches them, averages prompts, and keeps and loads weights.

    Args:
        model: used as it is, not copied. `encode_*` compute in eval mode and leave every module
            in the mode that it was in; `*_features` compute in the mode that it is in.
        tokenizer: texts to token ids `[n, context_length]`.
        image_size: side of the square pictures, in pixels.
        mean, std: normalisation of the three channels, of values in [0, 1].
        name: how results call this model.
        device: where to move the model; None: it stays where it is.
        precision: of the matrix products of `encode_*`. "bfloat16" is PyTorch's automatic mixed
            precision, several times as fast on accelerators; features then differ by about 0.5%, so
            it belongs into the protocol. All that is differentiated stays float32.

    Raises:
        ValueError: the precision is unknown.
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
        if precision not in (choices := get_args(Precision)):
            raise ValueError(f"precision is {precision!r}; choose one of {', '.join(choices)}")
        self.precision: Precision = precision
        if device is None:
            device = next((value.device for value in model.state_dict().values()), "cpu")
        self.model: Any = model.to(device)
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.name = name
        self.device = torch.device(device)
        # (x / 255 - mean) / std as one multiplication and one addition.
        scale, shift = 1 / (255 * np.asarray(std)), -np.asarray(mean) / np.asarray(std)
        self._scale, self._shift = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (scale, shift)
        )
        # Sweeps score the same captions with every alpha, so their tokens are kept.
        self._token_row = lru_cache(maxsize=2**16)(lambda text: tokenizer([text])[0])

    @abstractmethod
    def video_features(self, images: Tensor, counts: Tensor) -> Tensor:
        """Features of clips `[n, d]`, differentiable.

        Args:
            images: float32 `[sum(counts), 3, h, w]`, normalised, clip by clip.
            counts: int64 `[n]`, frames of each clip.
        """

    @abstractmethod
    def text_features(self, tokens: Tensor) -> Tensor:
        """L2-normalised features `[n, d]` of token ids `[n, context_length]`, differentiable."""

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

    def images(
        self, frames: Frames, frame_counts: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn stored frames into the model's input, without the padding.

        Args:
            frames: uint8 `[n, frames, h, w, 3]`, with h and w already the model's `image_size`.
            frame_counts: `[n]`, how many of a clip's frames are valid; None: all of them.

        Returns:
            Normalised float32 `[sum(frame_counts), 3, h, w]` and the counts, int64 `[n]`.

        Raises:
            ValueError: wrong type, shape, size or counts.
        """
        counts = self._counts(frames, frame_counts)
        if isinstance(frames, np.ndarray):
            # PyTorch refuses to share read-only memory, which a memory-mapped store has.
            frames = torch.from_numpy(frames if frames.flags.writeable else frames.copy())
        if bool((counts == frames.shape[1]).all()):
            pixels = frames.flatten(0, 1)
        else:
            pixels = frames[torch.arange(frames.shape[1]) < counts[:, None]]
        if self.device.type == "cuda":
            # From pinned memory the copy does not wait for the batches before it.
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        # Rearranging bytes and then widening them is three times faster than the reverse.
        pixels = pixels.to(self.device).permute(0, 3, 1, 2).contiguous()
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift), counts.to(self.device)

    def encode_videos(self, frames: Frames, frame_counts: np.ndarray | None = None) -> Tensor:
        """Features of clips held in memory, `[n, d]` on the CPU, in batches, without gradients.

        Arguments and errors as `images`; ValueError also when there is no clip.
        """
        counts = self._counts(frames, frame_counts).numpy()
        return self._encode_clips(lambda rows: frames[rows], counts)

    def encode_source(self, source: FrameSource, indices: np.ndarray | None = None) -> Tensor:
        """Features of a source's clips, float32 `[n, d]` on the CPU, without gradients.

        Clips in evaluation form are read and encoded batch by batch. indices: positions of the
        wanted clips in the source; None: all of them. ValueError as `encode_videos`.
        """
        chosen = np.arange(len(source.clip_ids)) if indices is None else np.asarray(indices)
        counts = np.asarray(source.frame_counts)[chosen]
        return self._encode_clips(lambda rows: source.frames(chosen[rows]), counts)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
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

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised features of texts, `[n, d]` on the CPU, without gradients.

        Each distinct text is encoded once; ValueError as `tokenize`.
        """
        distinct = list(dict.fromkeys(texts))
        tokens = self.tokenize(distinct)
        # By length, so that a batch of short texts need not wait for a long one; then by letters:
        # the batches, and with them a feature's last bits, do not depend on the texts' order.
        lengths = (tokens != 0).sum(1).tolist()
        order = sorted(range(len(distinct)), key=lambda row: (lengths[row], distinct[row]))
        step = max(_LEAST, _TOKENS // tokens.shape[1])
        features = self._collect(self.text_features(batch) for batch in tokens[order].split(step))
        rows = {distinct[row]: place for place, row in enumerate(order)}
        return features[[rows[text] for text in texts]]

    def encode_classes(self, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Features of classes, float32 `[classes, d]` on the CPU: means over prompts.

        labels: class names. templates: prompts, each with one `{}` for the class name. ValueError
        without a label, or as `check_templates`.

        Source: Radford et al. 2021, 3.1.4; `fitclip_core`, numeric conventions.
        """
        check_templates(templates)
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        features = self.encode_texts(prompts)
        return features.unflatten(0, (len(labels), len(templates))).mean(1)

    def state(self) -> dict[str, Tensor]:
        """A copy of the model's parameters and buffers on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.model.state_dict().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters and buffers in place; names and shapes must match the model's.

        Raises:
            ValueError: a tensor is missing, unknown, of another shape, quantised or not finite; it
                is named, and the model is left as it was.
        """
        own = self.model.state_dict()
        check_same_tensors("the state", state, self.name, own)
        for name, value in state.items():
            if own[name].is_floating_point() and value.dtype not in _WEIGHT_TYPES:
                raise ValueError(f"{name} is {value.dtype}, a type that is not computed with")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} is not finite in the state for {self.name}")
        self.model.load_state_dict(state)

    def _encode_clips(self, read: Callable[[slice], Frames], counts: np.ndarray) -> Tensor:
        if len(counts) == 0:
            raise ValueError("there is no clip to encode; give at least one")
        pixels = _CPU_PIXELS if self.device.type == "cpu" else _ACCELERATOR_PIXELS
        images = max(_LEAST, pixels // self.image_size**2)
        step = max(1, images // max(1, int(counts.max())))
        rows = [slice(start, start + step) for start in range(0, len(counts), step)]
        return self._collect(
            self.video_features(*self.images(batch, counts[part]))
            for part, batch in zip(rows, fast.read_ahead(read, rows), strict=True)
        )

    def _collect(self, batches: Iterator[Tensor]) -> Tensor:
        """Compute lazy batches in inference mode; joined outside it, they are ordinary tensors."""
        reduced = self.precision != "float32"
        with (
            self.in_eval_mode(),
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=reduced),
        ):
            features = list(batches)  # on an accelerator no batch waits for the one before it
        return torch.cat(features).cpu()

    def _counts(self, frames: Frames, frame_counts: np.ndarray | None) -> Tensor:
        """How many frames of each clip are valid, int64 `[n]`, with the frames' form checked."""
        n, *form = frames.shape
        if frames.dtype not in (np.uint8, torch.uint8) or len(form) != 4 or 0 in form[:1]:
            raise ValueError(
                f"frames are {frames.dtype} {list(frames.shape)}; give uint8 [clips, frames, "
                "height, width, 3], as the store holds them"
            )
        if form[1:] != [self.image_size, self.image_size, 3]:
            raise ValueError(
                f"frames are {form[1]} x {form[2]} pixels of {form[3]} colours, but {self.name} "
                f"takes {self.image_size} x {self.image_size} of 3; build the frame store at that "
                "size"
            )
        if frame_counts is None:
            return torch.full((n,), form[0], dtype=torch.int64)
        counts = torch.tensor(np.asarray(frame_counts), dtype=torch.int64)
        if counts.shape != (n,):
            raise ValueError(f"frame_counts has shape {list(counts.shape)}; give one a clip: [{n}]")
        if (wrong := (counts < 1) | (counts > form[0])).any():
            clip = int(wrong.int().argmax())
            raise ValueError(
                f"clip {clip} has frame count {int(counts[clip])}; it must be between 1 and "
                f"{form[0]}"
            )
        return counts


class ClipEncoder(VideoTextEncoder):
    """An open_clip model with its tokenizer and its pictures' normalisation.

    The video feature is the mean over frames of the L2-normalised frame features and the class
    feature the mean over prompts of the normalised text features; neither is renormalised.

    Source: `fitclip_core`, numeric conventions.
    """

    model_config: Mapping[str, Any] | None = None
    """The model's `model_cfg`, as open_clip writes it; None where the model was given ready."""
    merges: bytes | None = None
    """The model's own vocabulary, CLIP's gzipped file of merges; None: open_clip's."""

    def __init__(self, model: torch.nn.Module, tokenizer: Tokenizer, **settings: Any) -> None:
        if isinstance(tokenizer, open_clip.SimpleTokenizer):
            tower = model if hasattr(model, "vocab_size") else getattr(model, "text", model)
            size = getattr(tower, "vocab_size", tokenizer.vocab_size)
            if size != tokenizer.vocab_size:
                raise ValueError(
                    f"{settings['name']}: the tokenizer has {tokenizer.vocab_size} tokens (512 + "
                    f"merges + 2), but the model's vocab_size is {size}; give the merges file that "
                    "the model was trained with, without an empty line at its end"
                )
        super().__init__(model, tokenizer, **settings)

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """Build any architecture that open_clip knows; `fitclip_kit.weights` reads other files.

        name: open_clip's, such as `ViT-B-16-quickgelu`. pretrained: one of its tags of this model;
        None: random weights. device, precision: as `VideoTextEncoder`.

        Raises: ValueError when the name or the tag is unknown, or the weights were trained with the
        other activation (OpenAI's need QuickGELU).
        """
        config = open_clip.get_model_config(name)
        if config is None:
            raise ValueError(f"open_clip has no model {name!r}; see open_clip.list_models()")
        if pretrained is not None:
            tag = open_clip.get_pretrained_cfg(name, pretrained)
            if not tag:
                tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
                raise ValueError(f"{name} has no tag {pretrained!r}; its tags: {tags}")
            if bool(tag.get("quick_gelu")) != bool(config.get("quick_gelu")):
                other = "without" if config.get("quick_gelu") else "with"
                raise ValueError(
                    f"the weights {pretrained!r} were trained {other} QuickGELU, unlike {name}: "
                    "take the model whose name ends, or does not end, in -quickgelu"
                )
        model = open_clip.create_model(
            name, pretrained=pretrained, pretrained_text=False, device=device
        )
        return cls._wrap(model, open_clip.get_tokenizer(name), name, config, precision)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """Build the model of a folder in open_clip's local layout, without the network.

        folder: holds `open_clip_config.json` (`model_cfg`, `preprocess_cfg`),
        `open_clip_model.safetensors` (any floating type; computed in float32) and, if the model has
        its own vocabulary, `bpe_simple_vocab.txt.gz` in CLIP's format of merges. device, precision:
        as `VideoTextEncoder`.

        Raises: ValueError when a file is missing or broken, or the vocabulary or the weights do not
        fit the configuration.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
            state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise ValueError(
                f"{folder} is no folder in open_clip's layout, with {CONFIG_FILE} (model_cfg) and "
                f"{WEIGHTS_FILE}, or one of them is broken: {error}"
            ) from error
        name = f"local-dir:{folder}"
        with without_random_weights_warning():
            model = open_clip.create_model(
                name, load_weights=False, pretrained_text=False, device=device
            )
        merges = folder / MERGES_FILE
        own: dict[str, Any] = {"bpe_path": str(merges)} if merges.is_file() else {}
        tokenizer = open_clip.get_tokenizer(name, **own)
        encoder = cls._wrap(model, tokenizer, folder.name, config, precision)
        encoder.merges = merges.read_bytes() if own else None
        encoder.load_state(state)
        return encoder

    @classmethod
    def _wrap(
        cls,
        model: Any,
        tokenizer: Tokenizer,
        name: str,
        config: Mapping[str, Any],
        precision: Precision,
    ) -> Self:
        """The encoder of a model, with the preprocessing that open_clip notes in it."""
        size, mean, std = (model.visual.preprocess_cfg[key] for key in ("size", "mean", "std"))
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"{name} takes pictures of size {size}; only square ones will do")
        settings = {"image_size": sides.pop(), "mean": mean, "std": std, "precision": precision}
        encoder = cls(model.eval(), tokenizer, name=name, **settings)
        encoder.model_config = config
        return encoder

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities: exp of the model's `logit_scale` parameter."""
        return self.model.logit_scale.exp().item()

    def video_features(self, images: Tensor, counts: Tensor) -> Tensor:
        """Features of clips `[n, d]`, differentiable: means of the L2-normalised frame features."""
        features = F.normalize(fast.encode_image(self.model, images).float(), dim=-1)
        # The check of the counts would make an accelerator wait; `images` has checked them.
        unsafe = features.device.type != "cpu"
        return torch.segment_reduce(features, "mean", lengths=counts, unsafe=unsafe)

    def text_features(self, tokens: Tensor) -> Tensor:
        """As `VideoTextEncoder.text_features`."""
        return F.normalize(fast.encode_text(self.model, tokens.to(self.device)).float(), dim=-1)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters and buffers in place; names and shapes must match the model's.

        A state without `logit_scale`, or with a NaN one (both forms of FitCLIP's released
        students), leaves the model's own, with a warning.

        Raises:
            ValueError: as `VideoTextEncoder.load_state`.
        """
        own = self.model.state_dict()
        scale = state.get("logit_scale")
        kept = "logit_scale" in own and (scale is None or bool(scale.isnan().any()))
        if kept and own.keys() & state.keys():
            state = {**state, "logit_scale": own["logit_scale"]}
        super().load_state(state)
        if kept:  # said of what fits only
            warnings.warn(
                f"the state for {self.name} has no logit_scale, or NaN; the model keeps "
                f"{self.logit_scale:.6g}",
                stacklevel=2,
            )


@contextmanager
def without_random_weights_warning() -> Iterator[None]:
    """A model whose weights are loaded later looks random to open_clip, which warns of it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
