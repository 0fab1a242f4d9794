"""Frozen in Time's two towers: a space-time transformer for clips and DistilBERT for texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

layer_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class Sizes:
    """The model's sizes, by default the released models'; `image_size` and `patch` in pixels.

    `projection` is the features' length; `text` holds `transformers.DistilBertConfig`'s arguments.
    """

    image_size: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    projection: int = 256
    text: Mapping[str, Any] = field(default_factory=dict)


class FrozenInTime(nn.Module):
    """Both towers and their projections to one space, with the tensor names of the checkpoints.

    `n_frames` is the number of temporal embeddings, the most frames a clip may have.

    Source: Bain et al. 2021, section 3.1.
    """

    def __init__(self, n_frames: int = 4, sizes: Sizes | None = None) -> None:
        super().__init__()
        from transformers import DistilBertConfig, DistilBertModel  # here, as it takes seconds

        self.sizes = sizes = sizes or Sizes()
        config = DistilBertConfig(**sizes.text)
        self.text_model: Any = DistilBertModel(config)
        self.video_model = SpaceTimeTransformer(n_frames, sizes)
        self.txt_proj = nn.Sequential(nn.ReLU(), nn.Linear(config.dim, sizes.projection))
        self.vid_proj = nn.Sequential(nn.Linear(sizes.width, sizes.projection))

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Features `[n, projection]`, not normalised, of clips `[n, frames, 3, h, w]`."""
        return self.vid_proj(self.video_model(clips))

    def encode_tokens(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Features `[n, projection]`, not normalised, of token ids `[n, length]`.

        `attended`, bool of the same shape, is False for padding.
        """
        hidden = self.text_model(input_ids=tokens, attention_mask=attended.long())
        return self.txt_proj(hidden.last_hidden_state[:, 0])


class SpaceTimeTransformer(nn.Module):
    """A vision transformer whose blocks attend over time and then over space.

    A frame's patches get the embedding of their place and that of their frame; a clip with fewer
    frames than temporal embeddings uses the first ones.
    """

    def __init__(self, n_frames: int, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        places = (sizes.image_size // sizes.patch) ** 2
        projection = nn.Conv2d(3, width, kernel_size=sizes.patch, stride=sizes.patch)
        self.patch_embed = nn.Sequential(OrderedDict(proj=projection))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, width))
        self.temporal_embed = nn.Parameter(torch.zeros(1, n_frames, width))
        self.blocks = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.norm = layer_norm(width)

    def forward(self, clips: Tensor) -> Tensor:
        """The class token's normalised output `[n, width]` for clips `[n, frames, 3, h, w]`.

        Raises: ValueError for no frame, or more than there are temporal embeddings.
        """
        frames, most = clips.shape[1], self.temporal_embed.shape[1]
        if not 1 <= frames <= most:
            raise ValueError(
                f"a clip has {frames} frames, but the model takes 1 to {most}; sample others or "
                f"build the model with n_frames={frames}"
            )
        patches = self.patch_embed(clips.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.unflatten(0, (-1, frames)) + self.pos_embed[:, None, 1:]
        patches = patches + self.temporal_embed[:, :frames, None]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(clips), -1, -1)
        x = torch.cat([cls, patches.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x, frames)
        return self.norm(x[:, 0])


class Block(nn.Module):
    """Time attention, space attention and MLP, each after a layer norm.

    As in the reference implementation, and unlike TimeSformer's divided attention, the space
    attention's residual starts from the block's input.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = DividedAttention(width, heads)
        self.timeattn = DividedAttention(width, heads)
        self.norm2 = layer_norm(width)
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=up, act=nn.GELU(), fc2=down))
        self.norm3 = layer_norm(width)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Tokens `[n, 1 + frames * places, width]`: the class token, then frame after frame."""
        timed = x + self.timeattn(self.norm3(x), frames, "time")
        x = x + self.attn(self.norm1(timed), frames, "space")
        return x + self.mlp(self.norm2(x))


class DividedAttention(nn.Module):
    """Self-attention in which a patch sees the patches of its place, or those of its frame.

    Every patch also sees the class token, and the class token sees everything (Bertasius et al.
    2021, divided space-time attention).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, frames: int, over: Literal["time", "space"]) -> Tensor:
        """Tokens as in `Block`; `over` says which patches a patch sees."""
        # [3, n * heads, tokens, head width]
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        q, k, v = qkv
        cls = F.scaled_dot_product_attention(q[:, None, :1], k[:, None], v[:, None]).squeeze(1)
        grouped = qkv[:, :, 1:].unflatten(2, (frames, -1))
        if over == "time":
            grouped = grouped.transpose(2, 3)
        # The groups take the dimension of heads: with a fifth one PyTorch's kernel is slower.
        groups = grouped.shape[2]
        keys, values = (
            torch.cat([whole[:, None, :1].expand(-1, groups, -1, -1), part], dim=2)
            for whole, part in ((k, grouped[1]), (v, grouped[2]))
        )
        patches = F.scaled_dot_product_attention(grouped[0], keys, values)
        if over == "time":
            patches = patches.transpose(1, 2)
        joined = torch.cat([cls, patches.flatten(1, 2)], dim=1)
        return self.proj(joined.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))
