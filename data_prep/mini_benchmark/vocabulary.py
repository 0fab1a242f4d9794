"""A small byte-pair vocabulary for the mini CLIP, cut out of CLIP's own.

CLIP's tokenizer has 49,408 entries, more parameters than the whole mini model. The cut keeps CLIP's
merges, in CLIP's order, that are needed to write the benchmark's words and the commonest English
ones; every other word is still written, in more pieces.
"""

import gzip
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer, default_bpe

from fitclip_kit.store.files import atomic_path

COMMON_MERGES = 800

# Words that only the captions of videos use; the teacher has no picture for them.
VIDEO_WORDS = """
aerial view slow motion footage timelapse stock clip video camera pan zoom close up wide shot scene
background foreground moving slowly quickly drifting rolling spinning shaking bouncing sliding
floating across screen towards away from left right top bottom then after that finally while next
someone something shows showing showed tutorial game cartoon animation news talking about chop slice
add mix stir fry serve with pour cook boil bake put place pan bowl plate oven pot into together on
first second third last appears comes goes enters leaves view we see can be seen now at night day
dark bright light old young big little two three one man woman person people group doing using
demonstrating performing practicing example of action hold holding watch watching
"""


def reduced_merges(words: Iterable[str]) -> list[str]:
    """Return CLIP's merge lines needed to write `words` as CLIP does, plus the first COMMON_MERGES.

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016;
    CLIP's vocabulary as shipped with open_clip.
    """
    tokenizer = SimpleTokenizer()
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    ranked = {tuple(line.split()): rank for rank, line in enumerate(lines[1 : 49152 - 256 - 2 + 1])}
    keep = set(list(ranked)[:COMMON_MERGES])
    for word in sorted(set(words)):
        for token in tokenizer.pat.findall(word.lower()):
            spelled = "".join(tokenizer.byte_encoder[b] for b in token.encode("utf-8"))
            keep |= _merges_of(spelled, ranked)
    return [" ".join(merge) for merge in sorted(keep, key=ranked.__getitem__)]


def _merges_of(word: str, ranked: dict[tuple[str, ...], int]) -> set[tuple[str, ...]]:
    """The merges that byte-pair encoding applies to one word, in byte-alphabet letters."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    used: set[tuple[str, ...]] = set()
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranked.get(pair, len(ranked)))
        if best not in ranked:
            break
        used.add(best)
        merged, i = [], 0
        while i < len(pieces):
            if tuple(pieces[i : i + 2]) == best:
                merged.append(pieces[i] + pieces[i + 1])
                i += 2
            else:
                merged.append(pieces[i])
                i += 1
        pieces = merged
    return used


def write_merges(path: Path, merges: list[str]) -> None:
    """Write merge lines in the gzip format that open_clip's SimpleTokenizer reads (`bpe_path`).

    Equal merges give equal bytes; the file is replaced atomically.
    """
    text = "\n".join(["#version: 0.2 (reduced from CLIP's vocabulary)", *merges])
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
