"""CLIP-like models of open_clip as encoders of clips, captions and classes."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

from fitclip_core.video_text import Precision, Tokenizer, VideoTextEncoder
from fitclip_kit.weights.foreign_checkpoints import (
    JOIN,
    QUICK_GELU_KINDS,
    Checkpoint,
    read_checkpoint,
    with_text_names_of,
)

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PICKLED_WEIGHTS_FILE = "open_clip_pytorch_model.bin"
MERGES_FILE = "bpe_simple_vocab.txt.gz"


def weights_file(folder: Path) -> Path:
    """The weights of a folder in open_clip's layout.

    Raises:
        ValueError: the folder has no config or no weights; says what it is, where that is known.
    """
    found = [folder / name for name in (WEIGHTS_FILE, PICKLED_WEIGHTS_FILE)]
    weights = next((file for file in found if file.is_file()), None)
    if (folder / CONFIG_FILE).is_file() and weights is not None:
        return weights
    lacking = WEIGHTS_FILE if (folder / CONFIG_FILE).is_file() else CONFIG_FILE
    what = "give a folder in open_clip's layout"
    if any(folder.glob("*.index.json")):
        what += f"; this one holds a model in several files: {JOIN}"
    elif (folder / "config.json").is_file():
        what += ", or a file of OpenAI's or open_clip's weights; this one looks like transformers'"
    raise ValueError(f"{folder} has no {lacking}; {what}")


def unknown_model(name: str) -> str:
    """What to say of a name that open_clip has not."""
    known = {one.lower(): one for one in open_clip.list_models()}
    forms = name.replace("/", "-"), name.partition("/")[0]  # OpenAI's ViT-B/32; <model>/<tag>
    found = (difflib.get_close_matches(one.lower(), known, n=3, cutoff=0.7) for one in forms)
    near = " or ".join(known[one] for one in next(filter(None, found), []))
    hint = f"did you mean {near}?" if near else "see open_clip.list_models()"
    return f"open_clip has no model {name!r}; {hint}"


class ClipEncoder(VideoTextEncoder):
    """An open_clip model with its tokenizer and its pictures' normalisation.

    The video feature is the mean over frames of the L2-normalised frame features and the class
    feature the mean over prompts of the normalised text features; neither is renormalised.

    The model is used as it is, not copied: `load_state` changes its weights, and nothing else here
    changes it. Of a tower's last block the encoder computes only the tokens that are read, where
    nothing but the features could show it.

    Args:
        model: an open_clip model (`CLIP`, `CustomTextCLIP`, ...), or one with its `encode_image`
            and `encode_text`.
        tokenizer: texts to token ids `[n, context_length]`.
        image_size, mean, std, name, device, precision: as `VideoTextEncoder`.

    Raises:
        ValueError: the tokenizer's vocabulary and the model's differ in size.

    Source: Radford et al. 2021 (CLIP); ARCHITECTURE "Numeric conventions" for the features.
    """

    model_config: Mapping[str, Any] | None = None
    """The model's `model_cfg`, as open_clip writes it; None where the model was given ready."""
    merges: bytes | None = None
    """The model's own vocabulary, CLIP's gzipped file of merges; None: open_clip's."""

    def __init__(self, model: torch.nn.Module, tokenizer: Tokenizer, **settings: Any) -> None:
        _check_vocabulary(model, tokenizer, settings["name"])
        super().__init__(model, tokenizer, **settings)

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | Path | Checkpoint | None = None,
        device: str | torch.device = "cpu",
        cache_dir: str | None = None,
        precision: Precision = "float32",
    ) -> Self:
        """Build any architecture that open_clip knows.

        Args:
            name: open_clip's model name, such as `ViT-B-16-quickgelu`.
            pretrained: None for random weights, an open_clip tag, a weights file of any form that
                `read_checkpoint` knows, or what that function read.
            device: where the model computes.
            cache_dir: where open_clip keeps what a tag downloads.
            precision: as `VideoTextEncoder`.

        Raises:
            ValueError: the name or `pretrained` is unknown, the file's tensors do not fit, or the
                weights were trained with the other activation (OpenAI's need QuickGELU).
        """
        config = open_clip.get_model_config(name)
        if config is None:
            raise ValueError(unknown_model(name))
        tag, checkpoint, needs_quick_gelu, weights = None, None, None, ""
        if isinstance(pretrained, Checkpoint):
            checkpoint, weights = pretrained, pretrained.kind
        elif pretrained is not None and open_clip.get_pretrained_cfg(name, str(pretrained)):
            tag = weights = str(pretrained)
            needs_quick_gelu = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
        elif pretrained is not None:
            file, weights = Path(pretrained), str(pretrained)
            if not file.is_file():
                raise ValueError(
                    f"pretrained={weights!r} is neither a file nor a tag of {name}; its "
                    f"tags: {', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none'}"
                )
            checkpoint, needs_quick_gelu = read_checkpoint(file), _named_openai(file)
        if checkpoint is not None and checkpoint.kind in QUICK_GELU_KINDS:
            needs_quick_gelu = True
        quick_gelu = bool(config.get("quick_gelu", False))
        _check_activation(name, quick_gelu, weights, needs_quick_gelu)
        with _without_random_weights_warning():
            model = open_clip.create_model(
                name, pretrained=tag, pretrained_text=False, device=device, cache_dir=cache_dir
            )
        tokenizer = open_clip.get_tokenizer(name, cache_dir=cache_dir)
        encoder = cls._wrap(model, tokenizer, name, device, config, precision)
        if checkpoint is not None:
            encoder.load_state(checkpoint.state)
        return encoder

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """Build the model of a folder in open_clip's local layout, without the network.

        Args:
            folder: holds `open_clip_config.json` (`model_cfg`, `preprocess_cfg`),
                `open_clip_model.safetensors` or else `open_clip_pytorch_model.bin` (any floating
                type; computed in float32) and, if the model has its own vocabulary,
                `bpe_simple_vocab.txt.gz` in CLIP's format of merges.
            device: where the model computes.
            precision: as `VideoTextEncoder`.

        Raises:
            ValueError: a file is missing or broken, the vocabulary or the weights do not fit the
                configuration, or OpenAI's weights meet a configuration without QuickGELU.
        """
        folder = Path(folder)
        weights = weights_file(folder)
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} is no JSON object with model_cfg") from error
        quick_gelu = bool(config.get("quick_gelu", False))
        _check_activation(folder.name, quick_gelu, str(weights), _named_openai(weights))
        with _without_random_weights_warning():
            model = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, device=device
            )
        merges = folder / MERGES_FILE
        options: dict[str, Any] = {"bpe_path": str(merges)} if merges.is_file() else {}
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **options)
        encoder = cls._wrap(model, tokenizer, folder.name, device, config, precision)
        encoder.merges = merges.read_bytes() if merges.is_file() else None
        encoder.load_state(read_checkpoint(weights).state)
        return encoder

    @classmethod
    def _wrap(
        cls,
        model: Any,
        tokenizer: Tokenizer,
        name: str,
        device: str | torch.device,
        config: Mapping[str, Any],
        precision: Precision,
    ) -> Self:
        preprocess = model.visual.preprocess_cfg
        size = preprocess["size"]
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"{name} takes pictures of size {size}; only square ones will do")
        encoder = cls(
            model.eval(),
            tokenizer,
            image_size=sides.pop(),
            mean=preprocess["mean"],
            std=preprocess["std"],
            name=name,
            device=device,
            precision=precision,
        )
        encoder.model_config = config
        return encoder

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities: exp of the model's `logit_scale` parameter."""
        return self.model.logit_scale.exp().item()

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Features of clips, differentiable: mean of the L2-normalised frame features.

        Args:
            images: float32 `[sum(counts), 3, h, w]`, normalised, clip by clip.
            counts: int64 `[n]`, frames of each clip.

        Returns:
            float32 `[n, d]`, not renormalised.

        Source: ARCHITECTURE "Numeric conventions", video feature.
        """
        short = _pools_first_token(self.model)
        encode = _at_first_token(self.model.visual) if short else self.model.encode_image
        features = F.normalize(encode(images).float(), dim=-1)
        # The check of the counts would make an accelerator wait; `images` has checked them.
        unsafe = features.device.type != "cpu"
        return torch.segment_reduce(features, "mean", lengths=counts, unsafe=unsafe)

    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """L2-normalised features `[n, d]` of token ids `[n, context_length]`, differentiable.

        In a causal tower what stands behind a text's end has no part in its feature, so the batch
        is computed up to the end of its longest text.
        """
        tokens = tokens.to(self.device)
        if not _is_causal(self.model):
            return F.normalize(self.model.encode_text(tokens).float(), dim=-1)
        return F.normalize(_end_token_features(self.model, tokens).float(), dim=-1)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load parameters and buffers in place; names and shapes must match the model's.

        A state without `logit_scale`, or with a NaN one (both forms of FitCLIP's released
        students), leaves the model's own, with a warning.

        Raises:
            ValueError: as `VideoTextEncoder.load_state`.
        """
        own = self.model.state_dict()
        state = with_text_names_of(own, state)
        scale = state.get("logit_scale")
        kept = "logit_scale" in own and (scale is None or bool(scale.isnan().any()))
        if kept and own.keys() & state.keys():
            state["logit_scale"] = own["logit_scale"]
        try:
            super().load_state(state)
        except ValueError as error:
            raise ValueError(f"{error}{_sizes_hint(state, own)}") from None
        if kept:  # said of what fits only
            warnings.warn(
                f"the state for {self.name} has no logit_scale; the model keeps "
                f"{self.logit_scale:.6g}",
                stacklevel=2,
            )


def _sizes_hint(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """What a tower that lacks or positions of another number mean; else nothing."""
    if not any(name.startswith("visual.") for name in state):
        return "; the weights are of a text tower alone, without a vision tower"
    hints = {
        "visual.positional_embedding": "pictures of another size or patches ({} positions, the "
        'model has {}): use the architecture of that size (in a config: "image_size")',
        "positional_embedding": "texts of another length ({} tokens, the model takes {}): give a "
        'folder in open_clip\'s layout whose config says that "context_length"',
    }
    found = [
        f"; the weights are for {hint.format(len(state[name]), len(own[name]))}"
        for name, hint in hints.items()
        if name in state and name in own and len(state[name]) != len(own[name])
    ]
    return "".join(found)


class _FirstTokenBlock(ResidualAttentionBlock):
    """A transformer's last block where its output is read at the first token only.

    It makes no other: in a tower of 12 blocks that is a fifteenth of the work, in one of 4 a fifth.
    """

    def forward(self, x: torch.Tensor, *_: None, attn_mask: None = None) -> torch.Tensor:
        """Tokens `[n, length, width]` to `[n, 1, width]`."""
        return _block_at((slice(None), 0), self, x).unsqueeze(1)


def _at_first_token(visual: Any) -> torch.nn.Module:
    """The vision tower with a last block that makes the first token alone.

    The tower itself stays as it is: this is another module over its parameters, parts and hooks.
    """
    *blocks, last = visual.transformer.resblocks
    first_token = copy.copy(last)
    first_token.__class__ = _FirstTokenBlock
    resblocks = torch.nn.ModuleList([*blocks, first_token])
    return _with_parts(visual, transformer=_with_parts(visual.transformer, resblocks=resblocks))


def _with_parts(module: torch.nn.Module, **parts: torch.nn.Module) -> torch.nn.Module:
    """A module that shares all with another but these parts."""
    other = copy.copy(module)
    other.__dict__["_modules"] = {**module._modules, **parts}
    return other


def _pools_first_token(model: Any) -> bool:
    """Whether a picture's feature is the last block's output at the first token, and no more.

    A forward hook in that block is to see what it always does, and a compiled tower is to run.
    """
    visual: Any = getattr(model, "visual", None)
    return (
        _is_own(model, "encode_image")
        and type(visual) is VisionTransformer
        and visual._compiled_call_impl is None
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and _is_plain(visual.transformer.resblocks[-1])
    )


def _is_causal(model: Any) -> bool:
    """Whether a text's feature depends on nothing behind its end token, the one of largest id."""
    return (
        _is_own(model, "encode_text")
        and isinstance(model, open_clip.CLIP)
        and model.attn_mask is not None
        and model.text_pool_type == "argmax"
        and _is_plain(model.transformer.resblocks[-1])
    )


def _is_plain(block: torch.nn.Module) -> bool:
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and not any(part._forward_hooks for part in block.modules())
    )


def _is_own(model: Any, method: str) -> bool:
    """Whether the model's method is one of open_clip's plain two, not a subclass's or a patch."""
    function = getattr(getattr(model, method, None), "__func__", None)
    return function in [
        getattr(kind, method) for kind in (open_clip.CLIP, open_clip.CustomTextCLIP)
    ]


def _end_token_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What `model.encode_text(tokens)` gives, from no more than its features depend on.

    These are the tokens up to the end of the batch's longest text, and of the last block's output
    that at each text's end.
    """
    ends = tokens.argmax(1)  # the end token has the largest id
    length = int(ends.max()) + 1
    mask = model.attn_mask[:length, :length]
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    *blocks, last = model.transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=mask)
    places = torch.arange(len(x), device=x.device), ends
    pooled = model.ln_final(_block_at(places, last, x, mask[ends]))
    projection = model.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection


def _block_at(
    places: tuple[Any, Any], block: Any, x: torch.Tensor, masks: torch.Tensor | None = None
) -> torch.Tensor:
    """A block's output at one place of each sequence, `[n, width]`.

    `places` picks them from the first two axes of `x`; `masks` `[n, length]` is added to their
    attention.
    """
    normed = block.ln_1(x)
    if masks is not None:
        masks = masks.to(normed.dtype).repeat_interleave(block.attn.num_heads, 0).unsqueeze(1)
    queries = normed[places].unsqueeze(1)
    # For one query the flash kernel's last bits depend on the number of threads. Asking for the
    # weights takes the plain products, and unlike `sdpa_kernel` leaves other threads alone.
    attended, _ = block.attn(
        queries, normed, normed, attn_mask=masks, average_attn_weights=False, need_weights=True
    )
    own = x[places] + block.ls_1(attended.squeeze(1))
    return own + block.ls_2(block.mlp(block.ln_2(own)))


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
    name: str, quick_gelu: bool, weights: str, needs_quick_gelu: bool | None
) -> None:
    """Refuse weights of the other activation: they load without a sign and lose accuracy."""
    if needs_quick_gelu is None or needs_quick_gelu == quick_gelu:
        return
    raise ValueError(
        f"the weights {weights!r} were trained {'with' if needs_quick_gelu else 'without'} "
        f"QuickGELU, but {name} computes {'with' if quick_gelu else 'without'} it; "
        + (
            f'use the model {name}-quickgelu (in a config: "quick_gelu": true)'
            if needs_quick_gelu
            else "use the model whose name does not end in -quickgelu"
        )
    )


def _named_openai(file: Path) -> bool | None:
    """True where the file or one of up to three folders above it is named so; else unknown."""
    return any("openai" in part.lower() for part in file.parts[-4:]) or None


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
