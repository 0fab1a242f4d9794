"""What changes how long a number takes and not the number, on one process or several.

Shortcuts through open_clip's towers stand behind the plain `encode_image` and `encode_text`, which
are used wherever something but the features could show a shortcut; the user's model is not touched,
and `benchmarks/encoders.py` measures what they save.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

T = TypeVar("T")


def encode_image(model: Any, images: Tensor) -> Tensor:
    """What `model.encode_image(images)` gives, `[n, d]`: the last block makes the class token only.

    Source: Dosovitskiy et al. 2021 (ViT): only the class token's output is read.
    """
    visual: Any = getattr(model, "visual", None)
    if not (
        _is_own(model, "encode_image")
        and type(visual) is VisionTransformer
        and visual._compiled_call_impl is None
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and _is_plain(visual.transformer.resblocks[-1])
    ):
        return model.encode_image(images)
    *blocks, last = visual.transformer.resblocks
    first_token = copy.copy(last)
    first_token.__class__ = _FirstTokenBlock
    resblocks = torch.nn.ModuleList([*blocks, first_token])
    transformer = _with_parts(visual.transformer, resblocks=resblocks)
    return _with_parts(visual, transformer=transformer)(images)


class _FirstTokenBlock(ResidualAttentionBlock):
    """A transformer's last block where its output is read at the first token only."""

    def forward(self, x: Tensor, *_: None, attn_mask: None = None) -> Tensor:
        """Tokens `[n, length, width]` to `[n, 1, width]`."""
        return _block_at((slice(None), 0), self, x).unsqueeze(1)


def _with_parts(module: torch.nn.Module, **parts: torch.nn.Module) -> torch.nn.Module:
    """Another module over a module's parameters, parts and hooks, but for some parts."""
    other = copy.copy(module)
    other.__dict__["_modules"] = {**module._modules, **parts}
    return other


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """What `model.encode_text(tokens)` gives, `[n, d]`, from no more than it depends on.

    In a causal tower these are the tokens up to the end of the batch's longest text, and of the
    last block's output that at each text's end, the token of largest id.

    Source: Radford et al. 2021 (CLIP), 2.4: masked self-attention, the feature at the end token.
    """
    if not (
        _is_own(model, "encode_text")
        and isinstance(model, open_clip.CLIP)
        and model.attn_mask is not None
        and model.text_pool_type == "argmax"
        and not (model.transformer._forward_hooks or model.transformer._forward_pre_hooks)
        and model.transformer._compiled_call_impl is None
        and not model.transformer.grad_checkpointing
        and _is_plain(model.transformer.resblocks[-1])
    ):
        return model.encode_text(tokens)
    ends = tokens.argmax(1)
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


def read_ahead(read: Callable[[slice], T], parts: Iterable[slice]) -> Iterator[T]:
    """Each part's batch, read by a thread while the one before it is computed."""
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for part in parts:
            here, coming = coming, reader.submit(read, part)
            if here is not None:
                yield here.result()
        if coming is not None:
            yield coming.result()


def _block_at(
    places: tuple[Any, Any], block: Any, x: Tensor, masks: Tensor | None = None
) -> Tensor:
    """A block's output at `places` of the first two axes of x, `[n, width]`, with these masks."""
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


def _is_plain(block: torch.nn.Module) -> bool:
    """Whether a last block is open_clip's own, and no forward hook in it is to see its output."""
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


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the flash kernel's backward pass takes longer than the plain one's."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class OneProcess:
    """The process that trains, alone; `fitclip_kit.engine.distributed` has one of several.

    Each of several holds the whole model and computes its rows of each batch. Gathered features
    carry gradients to the process that computed them alone, so that the gradients' sum is that of
    the whole batch; a term of the loss that is not made of them has to be divided by `size`.
    """

    size, rank = 1, 0

    def rows(self, n: int) -> slice:
        """The rows of n that this process works on."""
        return slice(0, n)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All processes' rows, `[n, d]`, of this one's own."""
        return rows

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up all processes' gradients, in place."""

    def of_first(self, value: T) -> T:
        """The first process's value."""
        return value

    def check_same(self, **values: object) -> None:
        """Raise ValueError where processes hold different values."""


ALONE = OneProcess()
