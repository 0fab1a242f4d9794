"""Frozen in Time (Bain et al. 2021) as an encoder of clips, captions and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from tokenizers.implementations import BertWordPieceTokenizer

from fitclip_core.encoders import Tokenizer, VideoTextEncoder
from fitclip_kit.weights.frozen_in_time import FrozenInTime, Sizes

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 30522
SPECIAL_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
POSITION_IDS = "text_model.embeddings.position_ids"
TEMPORAL_EMBED = "video_model.temporal_embed"


class FrozenInTimeEncoder(VideoTextEncoder):
    """Frozen in Time with its tokenizer and its pictures' normalisation.

    The model sees a clip's frames jointly; the features of clips and texts are L2-normalised.

    Source: Bain et al. 2021, section 3.1; the reference implementation of FitCLIP for the
        normalisation of pictures and features and for the length of texts.
    """

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, torch.Tensor],
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

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
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

    def text_features(self, tokens: torch.Tensor) -> torch.Tensor:
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


def _normalise(features: torch.Tensor) -> torch.Tensor:
    # The norm's lower bound is the reference's.
    return F.normalize(features, dim=-1, eps=1e-8)
