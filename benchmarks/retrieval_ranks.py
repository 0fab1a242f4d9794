"""Retrieval ranks: time beside a plain argsort, and memory.

    python -m benchmarks.retrieval_ranks
    python -m benchmarks.retrieval_ranks --vectors 5000 --largest 10000 --noise 1000

The plain way makes the whole score matrix, sorts it and looks for the right target, for each
direction. Text vectors are video vectors with noise, so that the median rank is far from both ends;
with much more noise nothing is retrieved, which needs the most exact scores.
"""

import argparse
from functools import partial

import torch
from torch import Tensor

from benchmarks.side_by_side import extra_memory, seconds
from fitclip_core.metrics import retrieval_ranks, retrieval_ranks_both_ways


def vectors(count: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    """Normalised texts and videos [count, width]; row i belongs to row i."""
    generator = torch.Generator().manual_seed(0)
    videos = torch.nn.functional.normalize(torch.randn(count, width, generator=generator))
    texts = torch.randn(count, width, generator=generator).mul_(noise / width**0.5).add_(videos)
    return torch.nn.functional.normalize(texts, out=texts), videos


def plain_ranks(queries: Tensor, targets: Tensor) -> Tensor:
    """Ranks by sorting the whole matrix of scores; tied targets lie in any order."""
    order = (queries @ targets.T).argsort(dim=1, descending=True)
    right = torch.arange(len(queries), device=queries.device)[:, None]
    return torch.where(order == right)[1] + 1


def plain_both_ways(queries: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return plain_ranks(queries, targets), plain_ranks(targets, queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=20_000, help="timed, of each side")
    parser.add_argument("--largest", type=int, default=50_000, help="whose memory is measured")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--noise", type=float, default=8.0, help="a text's noise to its signal")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    print(f"{torch.get_num_threads()} threads, d = {args.width}, noise {args.noise:g}")
    texts, videos = vectors(args.largest, args.width, args.noise)
    grown = extra_memory(partial(retrieval_ranks, texts, videos))
    print(f"{args.largest:,} x {args.largest:,}: {grown / 1e6:,.0f} MB beyond the features")

    texts, videos = vectors(args.vectors, args.width, args.noise)
    ranks = retrieval_ranks(texts, videos)
    moved = (ranks - plain_ranks(texts, videos)).abs()
    print(
        f"{args.vectors:,} x {args.vectors:,}: median rank {ranks.median():g}; the plain ranks "
        f"differ for {int((moved > 0).sum())}, by at most {moved.max():g}"
    )
    taken = seconds(
        {
            "plain": partial(plain_ranks, texts, videos),
            "ours": partial(retrieval_ranks, texts, videos),
            "plain, both ways": partial(plain_both_ways, texts, videos),
            "ours, both ways": partial(retrieval_ranks_both_ways, texts, videos),
            "product alone": partial(torch.mm, texts, videos.T),
        },
        args.rounds,
    )["seconds"]
    for name, value in taken.median().items():
        print(f"{name:>16}  {value:7.2f} s")
    for direction in ("", ", both ways"):
        ratio = (taken[f"plain{direction}"] / taken[f"ours{direction}"]).median()
        print(f"plain / ours{direction}: {ratio:.1f}")


if __name__ == "__main__":
    main()
