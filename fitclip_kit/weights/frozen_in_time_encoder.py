"""Frozen in Time (Bain et al. 2021) as an encoder of clips, captions and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from fitclip_core.video_text import Tokenizer, VideoTextEncoder
from tokenizers.implementations import BertWordPieceTokenizer

from fitclip_kit.weights.frozen_in_time import FrozenInTime, Sizes, fit_temporal

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONTEXT_LENGTH = 77
VOCABULARY_FILE = "vocab.txt"
VOCABULARY_SIZE = 30522
SPECIAL_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
POSITION_IDS = "text_model.embeddings.position_ids"
TEMPORAL_EMBED = "video_model.temporal_embed"


class FrozenInTimeEncoder(VideoTextEncoder):
    """Frozen in Time with its tokenizer and its pictures' normalisation.

    The model sees a clip's frames jointly; the features of clips and texts are L2-normalised and
    compared by their dot product. The class feature is the mean over prompts of the normalised
    text features, not renormalised, as for every model of the kit.

    Args:
        model: Frozen in Time's towers.
        vocabulary: as `wordpiece_tokenizer`.
        name: how results call this model.
        device: where to move the model; None: it stays where it is.

    Raises:
        ValueError: the vocabulary is not DistilBERT's uncased one.

    Source: Bain et al. 2021, section 3.1; the reference implementation of FitCLIP for the
        normalisation of pictures and features and for the length of texts.
    """

    def __init__(
        self,
        model: FrozenInTime,
        vocabulary: str | Path,
        *,
        name: str = "frozen_in_time",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(
            model,
            wordpiece_tokenizer(vocabulary),
            image_size=model.sizes.image_size,
            mean=MEAN,
            std=STD,
            name=name,
            device=device,
        )

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, torch.Tensor],
        vocabulary: str | Path,
        n_frames: int = 4,
        name: str = "frozen_in_time",
        device: str | torch.device = "cpu",
        temporal: str = "zeros",
        sizes: Sizes | None = None,
    ) -> Self:
        """Build the model from a released checkpoint's tensors.

        Checkpoints of older versions of transformers also hold DistilBERT's positions
        `text_model.embeddings.position_ids`, which are no weights. They are left out if they are
        0, 1, 2, ..., and refused otherwise.

        Args:
            state: tensors by name, without the prefix `module.`.
            vocabulary: as `wordpiece_tokenizer`.
            n_frames: the most frames a clip may have.
            name: how results call this model.
            device: where the model computes.
            temporal: where embeddings come from if the checkpoint has fewer than `n_frames`:
                `zeros`, `interp` or `bilinear`, see `fit_temporal`.
            sizes: of the towers; None: the released models'.

        Raises:
            ValueError: tensors are missing, unknown, of another shape or not finite (all of them
                are listed); the vocabulary, `n_frames` or `temporal` is wrong.
        """
        encoder = cls(FrozenInTime(n_frames, sizes).eval(), vocabulary, name=name, device=device)
        state = dict(state)
        positions = state.pop(POSITION_IDS, None)
        last = encoder.model.text_model.config.max_position_embeddings - 1
        if positions is not None and positions.tolist() != [list(range(last + 1))]:
            raise ValueError(
                f"{POSITION_IDS} is not 0 to {last} in order, as DistilBERT counts; "
                f"this is no checkpoint of Frozen in Time"
            )
        embeddings = state.get(TEMPORAL_EMBED)
        # Tensors of another form are left to load_state, which lists them with all other problems.
        if embeddings is not None and embeddings.ndim == 3 and embeddings.shape[1] > 0:
            state[TEMPORAL_EMBED] = fit_temporal(embeddings, n_frames, temporal)
        encoder.load_state(state)
        return encoder

    def video_features(self, images: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """L2-normalised features of clips, differentiable; clips of one length go together.

        Args:
            images: float32 `[sum(counts), 3, h, w]`, normalised, clip by clip.
            counts: int64 `[n]`, frames of each clip. A clip of fewer frames than the model's
                `n_frames` is seen as it is; the reference implementations fill it with zeros.

        Returns:
            float32 `[n, d]`.

        Raises:
            ValueError: a clip has more frames than the model has temporal embeddings.

        Source: Bain et al. 2021, section 3.1; the norm's lower bound of 1e-8 is the reference's.
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
    """DistilBERT's uncased tokenizer: lower case, no accents, WordPiece, [CLS] and [SEP].

    Args:
        vocabulary: the `vocab.txt` of `distilbert-base-uncased` (the same as
            `bert-base-uncased`'s), or the folder that holds it: one token a line, UTF-8.

    Returns:
        A function of texts to int64 `[n, 77]`: longer texts are cut, shorter ones padded with 0.

    Raises:
        ValueError: the file is missing, is not UTF-8, repeats a token, or does not have 30,522
            tokens with the special ones at BERT's places.

    Source: Devlin et al. 2019 (BERT) for the vocabulary; FitCLIP's reference for the length of 77.
    """
    pieces = BertWordPieceTokenizer(_read_vocabulary(Path(vocabulary)), lowercase=True)
    pieces.enable_truncation(CONTEXT_LENGTH)
    pieces.enable_padding(length=CONTEXT_LENGTH, pad_id=SPECIAL_TOKENS["[PAD]"])

    def tokenize(texts: list[str]) -> torch.Tensor:
        # Text by text: a batch would start threads, and the library warns of later forks.
        return torch.tensor([pieces.encode(text).ids for text in texts])

    return tokenize


def _read_vocabulary(path: Path) -> dict[str, int]:
    file = path / VOCABULARY_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"there is no vocabulary {file}; give the {VOCABULARY_FILE} of distilbert-base-uncased"
        )
    try:
        with file.open(encoding="utf-8") as lines:
            tokens = [line.rstrip("\n") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}; give BERT's {VOCABULARY_FILE}") from error
    vocabulary = {token: position for position, token in enumerate(tokens)}
    problems = [
        f"{token} is {vocabulary[token]} instead of {position}"
        if token in vocabulary
        else f"{token} is missing"
        for token, position in SPECIAL_TOKENS.items()
        if vocabulary.get(token) != position
    ]
    if len(tokens) != VOCABULARY_SIZE:
        problems.append(f"it has {len(tokens)} tokens instead of {VOCABULARY_SIZE}")
    if repeated := len(tokens) - len(vocabulary):
        problems.append(f"it repeats {repeated} tokens")
    if problems:
        raise ValueError(
            f"{file} is not the vocabulary of distilbert-base-uncased: {'; '.join(problems)}"
        )
    return vocabulary


def _normalise(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features, dim=-1, eps=1e-8)
