"""The cut vocabulary against CLIP's own tokenizer."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from data_prep.mini_benchmark.pretrain import corpus_words
from data_prep.mini_benchmark.vocabulary import reduced_merges, write_merges

CLIP = SimpleTokenizer()
CLIP_MERGES = [" ".join(merge) for merge in CLIP.bpe_ranks]


def pieces(tokenizer: SimpleTokenizer, text: str) -> list[str]:
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


@pytest.fixture(scope="module")
def merges() -> list[str]:
    return reduced_merges(corpus_words())


@pytest.fixture(scope="module")
def reduced(merges: list[str], tmp_path_factory: pytest.TempPathFactory) -> SimpleTokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "merges.txt.gz"
    write_merges(path, merges)
    return SimpleTokenizer(bpe_path=str(path), context_length=40)


def test_every_corpus_word_has_clips_pieces(reduced: SimpleTokenizer) -> None:
    for word in corpus_words():
        assert pieces(reduced, word) == pieces(CLIP, word), word


@given(st.text())
def test_any_text_can_be_written(reduced: SimpleTokenizer, text: str) -> None:
    tokens = reduced.encode(text)
    assert all(0 <= token < reduced.vocab_size - 2 for token in tokens)
    assert reduced.decode(tokens) == CLIP.decode(CLIP.encode(text))


def test_the_vocabulary_is_a_small_part_of_clips(
    merges: list[str], reduced: SimpleTokenizer
) -> None:
    assert reduced.vocab_size == 512 + len(merges) + 2
    assert reduced.vocab_size < CLIP.vocab_size / 10
    rank = {merge: place for place, merge in enumerate(CLIP_MERGES)}
    places = [rank[merge] for merge in merges]
    assert places == sorted(set(places))


def test_random_words_have_clips_pieces(tmp_path: Path) -> None:
    letters = random.Random(0)
    words = ["".join(letters.choices("aeinrstüß漢🦊'9-", k=k % 11 + 1)) for k in range(150)]
    write_merges(tmp_path / "merges.gz", reduced_merges(words))
    tokenizer = SimpleTokenizer(bpe_path=str(tmp_path / "merges.gz"))
    assert any(len(pieces(CLIP, word)) > 3 for word in words)
    for word in words:
        assert pieces(tokenizer, word) == pieces(CLIP, word), word


def test_equal_merges_give_equal_files(tmp_path: Path) -> None:
    for name in ("one.gz", "other.gz"):
        write_merges(tmp_path / name, ["t h", "th e</w>"])
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gz", "other.gz"]
