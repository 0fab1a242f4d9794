"""Frozen in Time (Bain et al. 2021): a space-time transformer of clips, DistilBERT of texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn

from fitclip_core.encoders import Tokenizer, VideoTextEncoder

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 30522
SPECIAL_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
POSITION_IDS = "text_model.embeddings.position_ids"
TEMPORAL_EMBED = "video_model.temporal_embed"

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


class FrozenInTimeEncoder(VideoTextEncoder):
    """Frozen in Time with its tokenizer and its pictures' normalisation.

    The model sees a clip's frames jointly; the features of clips and texts are L2-normalised.

    Source: Bain et al. 2021, section 3.1; the reference implementation of FitCLIP for the
        normalisation of pictures and features and for the length of texts.
    """

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        vocabulary: str | Path,
        n_frames: int = 4,
        name: str = "frozen_in_time",
        device: str | torch.device = "cpu",
        sizes: Sizes | None = None,
    ) -> Self:
        """Build the model from a released checkpoint's tensors.

        Args:
            state: tensors by name. DistilBERT's `position_ids` in checkpoints of older versions of
                transformers, 0, 1, 2, ..., are no weights and left out.
            vocabulary: as `wordpiece_tokenizer`.
            n_frames: the most frames a clip may have. Of more temporal embeddings the first ones
                are kept; those that a checkpoint lacks are zero, as in the reference.
            name, device: as `VideoTextEncoder`.
            sizes: of the towers; None: the released models'.

        Raises: ValueError when the tensors, the vocabulary or the positions are others.
        """
        model = FrozenInTime(n_frames, sizes).eval()
        pictures: dict[str, Any] = {"image_size": model.sizes.image_size, "mean": MEAN, "std": STD}
        tokenizer = wordpiece_tokenizer(vocabulary)
        encoder = cls(model, tokenizer, **pictures, name=name, device=device)
        state = dict(state)
        positions = state.pop(POSITION_IDS, None)
        last = model.text_model.config.max_position_embeddings - 1
        if positions is not None and positions.tolist() != [list(range(last + 1))]:
            raise ValueError(f"{POSITION_IDS} is not 0 to {last} in order, as DistilBERT counts")
        embeddings = state.get(TEMPORAL_EMBED)
        if embeddings is not None and embeddings.ndim == 3 and embeddings.shape[1] > 0:
            lacking = n_frames - embeddings.shape[1]
            state[TEMPORAL_EMBED] = F.pad(embeddings, (0, 0, 0, lacking))  # cuts where negative
        encoder.load_state(state)
        return encoder

    def video_features(self, images: Tensor, counts: Tensor) -> Tensor:
        """L2-normalised features of clips, differentiable; clips of one length go together.

        A clip of fewer frames than the model's `n_frames` is seen as it is; the reference
        implementations fill it with zeros. Raises: ValueError when a clip has more.
        """
        starts = counts.cumsum(0) - counts
        rows, features = [], []
        for count in counts.unique().tolist():
            chosen = (counts == count).nonzero().flatten()
            frames = starts[chosen, None] + torch.arange(count, device=counts.device)
            rows.append(chosen)
            features.append(self.model.encode_clips(images[frames]))
        return _normalise(torch.cat(features)[torch.cat(rows).argsort()])

    def text_features(self, tokens: Tensor) -> Tensor:
        """L2-normalised features `[n, d]` of token ids `[n, context_length]`, differentiable.

        The batch is cut to its longest text; padding plays no part.
        """
        tokens = tokens.to(self.device)
        places = torch.arange(tokens.shape[1], device=self.device)
        lengths = ((tokens != SPECIAL_TOKENS["[PAD]"]) * places).amax(1) + 1
        longest = int(lengths.max())
        attended = places[:longest] < lengths[:, None]
        return _normalise(self.model.encode_tokens(tokens[:, :longest], attended))


def wordpiece_tokenizer(vocabulary: str | Path) -> Tokenizer:
    """DistilBERT's uncased tokenizer of texts to int64 `[n, 77]`, cut or padded with 0.

    `vocabulary` is the `vocab.txt` of `distilbert-base-uncased` (`bert-base-uncased` has the same).

    Raises: ValueError when the file is another one.
    """
    content = Path(vocabulary).read_text(encoding="utf-8", errors="replace")
    tokens = content.removesuffix("\n").split("\n")
    places = {token: place for place, token in enumerate(tokens)}
    elsewhere = [token for token, place in SPECIAL_TOKENS.items() if places.get(token) != place]
    if not len(tokens) == len(places) == VOCABULARY_SIZE or elsewhere:
        raise ValueError(
            f"{vocabulary} is not the vocab.txt of distilbert-base-uncased: it has {len(tokens)} "
            f"tokens, {len(places)} of them different, instead of {VOCABULARY_SIZE}, and "
            f"{', '.join(elsewhere) or 'no special token'} elsewhere"
        )
    pieces = BertWordPieceTokenizer(places, lowercase=True)
    pieces.enable_truncation(CONTEXT_LENGTH)
    pieces.enable_padding(length=CONTEXT_LENGTH, pad_id=SPECIAL_TOKENS["[PAD]"])
    # Text by text: a batch would start threads, and the library warns of later forks.
    return lambda texts: torch.tensor([pieces.encode(text).ids for text in texts])


def _normalise(features: Tensor) -> Tensor:
    # The norm's lower bound is the reference's.
    return F.normalize(features, dim=-1, eps=1e-8)
