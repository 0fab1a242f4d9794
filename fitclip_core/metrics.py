"""Ranks of the right targets, and the shares, medians and reductions computed from them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Numbers = Tensor | np.ndarray | pd.Series | Sequence[float]
Indices = Tensor | np.ndarray | Sequence[int]

_BLOCK = 256  # queries scored at a time: against 50,000 targets that takes some 250 MB


def retrieval_ranks(
    query_features: Tensor, target_features: Tensor, target_index: Indices | None = None
) -> Tensor:
    """Rank of each query's right target among all targets, by dot product.

    Ties share the mid-rank: 1 + (targets strictly above) + (other tied targets) / 2. Scores are
    products in float64, rounded to float32: equal target vectors tie, whatever the order in which
    a processor sums.

    Args:
        query_features: [n, d]. No normalisation is done here.
        target_features: [m, d], on the same device; it computes there.
        target_index: [n] row of each query's right target. None: query i belongs to target i.

    Returns: float32 [n] of 1-based ranks, in halves where there are ties, on the CPU.
    Raises: ValueError when features are not two non-empty finite matrices of the same width or
        their products overflow float32, or target_index does not fit.
    Source: supplement, section 3; the mid-rank is Kendall's (1945).

    Example:
        >>> texts, videos = torch.eye(3), torch.eye(3)
        >>> retrieval_ranks(texts, videos).tolist()
        [1.0, 1.0, 1.0]
        >>> retrieval_ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist()  # all tied
        [2.0, 2.0, 2.0]
    """
    queries, targets, index = _checked_sides(query_features, target_features, target_index)
    return _ranks_in_blocks(queries, targets, index, torch.arange(len(targets)).to(index))


def retrieval_ranks_both_ways(
    first_features: Tensor, second_features: Tensor, second_index: Indices | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks of each first vector's partner among the second, and the other way round.

    Several first vectors may have one partner, as the captions of one video have: each is ranked
    for itself, by :func:`retrieval_ranks`. The other way round the second vector's best partner is
    ranked, against the first vectors that are not its partners: its others neither help nor hinder.

    Args:
        first_features: [n, d], the texts, say.
        second_features: [m, d], the distinct videos.
        second_index: [n] row of each first vector's partner; each row is somebody's. None: the
            two sides belong together row by row.

    Returns: two float32: [n] ranks with the first side as queries, and [m] with the second.
    Raises: ValueError as :func:`retrieval_ranks`, or when a second vector has no partner.
    Source: the best of several partners is what VSE++ (`i2t`) and collaborative-experts and Frozen
        in Time (`v2t_metrics`) take. They rank it among all first vectors, which differs only where
        two partners of one vector tie: a caption written twice would cost a perfect model rank 1.

    Example:
        >>> there, back = retrieval_ranks_both_ways(torch.eye(2), torch.tensor([[2.0, 3], [0, 1]]))
        >>> there.tolist(), back.tolist()
        ([1.0, 2.0], [2.0, 1.0])
        >>> texts = torch.tensor([[1.0, 0], [0, 1], [0, 1]])  # two of the second video
        >>> retrieval_ranks_both_ways(texts, torch.eye(2), [0, 1, 1])[1].tolist()
        [1.0, 1.0]
    """
    first, second, index = _checked_sides(first_features, second_features, second_index)
    partners = torch.bincount(index, minlength=len(second))
    if (alone := partners == 0).any():
        raise ValueError(
            f"second_index names no partner for {int(alone.sum())} of {len(second)} second "
            f"vectors, the first is row {int(alone.int().argmax())}: leave them out"
        )
    rows = torch.arange(len(second)).to(index)
    there = _ranks_in_blocks(first, second, index, rows)
    return there, _ranks_in_blocks(second, first, rows, index)


def recall_at_k(ranks: Numbers, k: int) -> float:
    """Share of queries whose right target is among the first k: of the [n] ranks, those <= k.

    Raises: ValueError when ranks are empty, not finite or below 1, or k is no whole number >= 1.
    Source: R@1, R@5 and R@10 of supplement, tables 3 and 5.

    Example:
        >>> recall_at_k([1, 3, 7, 2], k=5)
        0.75
    """
    _check_k(k)
    return float(np.mean(_checked_ranks(ranks) <= k))


def median_rank(ranks: Numbers) -> float:
    """Median of the [n] ranks; with an even number, the mean of the two middle ones.

    Raises: ValueError when ranks are empty, not finite or below 1.
    Source: MdR of supplement, tables 3 and 5.

    Example:
        >>> median_rank([1, 9, 4, 5])
        4.5
    """
    return float(np.median(_checked_ranks(ranks)))


def top_k_accuracy(scores: Tensor, labels: Indices, k: int) -> float:
    """Share of items whose right class is among the k highest scores, ties at the mid-rank.

    Args:
        scores: [n, classes], compared in their own precision.
        labels: [n] column of each item's right class.
        k: number of classes looked at, from 1 to the number of classes.

    Raises: ValueError when scores are no non-empty finite matrix, labels do not fit, or k is
        outside.
    Source: Top 1 and Top 5 of supplement, tables 2 and 4.

    Example:
        >>> top_k_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), [1, 1], k=1)
        0.5
    """
    _check_k(k)
    scores = torch.as_tensor(scores).detach()
    _check_matrix("scores", scores)
    n, classes = scores.shape
    if k > classes:
        raise ValueError(f"k is {k} with {classes} classes: every item would be right")
    right = _checked_indices("labels", labels, n, classes).to(scores.device)
    own = right[:, None] == torch.arange(classes).to(right)
    return recall_at_k(_mid_ranks(scores, own), k)


def per_class_accuracy(
    ranks: Numbers, labels: Sequence[object] | np.ndarray | pd.Series, k: int = 1
) -> pd.DataFrame:
    """Top-k accuracy of each class that has items, in order of class.

    Args:
        ranks: [n] 1-based rank of each item's right class.
        labels: [n] that class, as names or numbers.
        k: number of classes looked at, at least 1.

    Returns: columns ``class``, ``n`` (items) and ``accuracy`` (fraction in [0, 1]).
    Raises: ValueError as :func:`recall_at_k`, or when a label is missing or their number differs.
    Source: supplement, section 2 and figure 1 (per-class top-1 on Moments in Time).
    """
    _check_k(k)
    right, classes = _checked_ranks(ranks) <= k, pd.Series(np.asarray(labels))
    if len(classes) != len(right):
        raise ValueError(f"there are {len(right)} ranks and {len(classes)} labels: pass one each")
    if classes.isna().any():
        raise ValueError(f"label {int(classes.isna().argmax())} is missing: give each item a class")
    by_class = pd.Series(right).groupby(classes, sort=True)
    return by_class.agg(n="size", accuracy="mean").rename_axis("class").reset_index()


def error_rate_reduction(
    old: float, new: float, kind: Literal["accuracy", "median_rank"] = "accuracy"
) -> float:
    """Share of the old error that the new model removes; negative when it adds error.

    Args:
        old: accuracy or recall in percent (0 to 100), or a median rank (1 or more).
        new: the same of the new model.
        kind: "accuracy" gives ``(new - old) / (100 - old)``; "median_rank" ``(old - new) / old``.

    Raises: ValueError when a value is outside its range, the old accuracy is 100 (no error is left
        to reduce), or kind is unknown.
    Source: supplement, tables 4 and 5 and the caption of table 5; 0.049 is its "4.9".

    Example:
        >>> round(error_rate_reduction(30.4, 33.8), 3)  # MSR-VTT R@1, table 5a
        0.049
    """
    if kind not in ("accuracy", "median_rank"):
        raise ValueError(f'kind is {kind!r}: use "accuracy" or "median_rank"')
    low, high = (0, 100) if kind == "accuracy" else (1, np.finfo(np.float64).max)
    for name, value in (("old", old), ("new", new)):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: {kind} lies in [{low}, {high:g}]")
    if kind == "median_rank":
        return (old - new) / old
    if old == 100:
        raise ValueError("old is 100: there is no error left to reduce")
    return (new - old) / (100 - old)


def _ranks_in_blocks(
    queries: Tensor, targets: Tensor, query_group: Tensor, target_group: Tensor
) -> Tensor:
    """Mid-rank of each query's best target of its own group, among those of other groups: [n]."""
    # Made beforehand: small tensors that stay would lie in the way of the blocks' memory.
    ranks = torch.empty(len(queries), device=queries.device)
    targets = targets.double()
    for rows in torch.arange(len(queries), device=queries.device).split(_BLOCK):
        scores = (queries[rows].double() @ targets.T).float()
        if not torch.stack(scores.aminmax()).isfinite().all():
            raise ValueError("scores overflow float32: look for features that were not normalised")
        ranks[rows] = _mid_ranks(scores, query_group[rows, None] == target_group)
    return ranks.cpu()


def _mid_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """1 + (others above) + (others tied) / 2 for the best own score of each row: [n]."""
    best = scores.where(own, scores.amin()).amax(1, keepdim=True)
    above, tied = scores > best, (scores == best) & ~own
    return 1 + above.sum(1, dtype=torch.int32) + tied.sum(1, dtype=torch.int32) / 2


def _checked_sides(
    queries: Tensor, targets: Tensor, target_index: Indices | None
) -> tuple[Tensor, Tensor, Tensor]:
    queries, targets = torch.as_tensor(queries).detach(), torch.as_tensor(targets).detach()
    _check_matrix("query_features", queries)
    _check_matrix("target_features", targets)
    (n, width), (m, other_width) = queries.shape, targets.shape
    if width != other_width:
        raise ValueError(
            f"the features have {width} and {other_width} columns: encode both sides with the same "
            "model"
        )
    if target_index is None and n != m:
        raise ValueError(f"there are {n} queries and {m} targets: say which belong together")
    given = range(n) if target_index is None else target_index
    index = _checked_indices("the index of right targets", given, n, m)
    return queries, targets, index.to(queries.device)


def _checked_indices(name: str, values: Indices, n: int, m: int) -> Tensor:
    """[n] whole numbers from 0 to m - 1, as int64."""
    index = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ValueError(f"{name} is {index.dtype}: it must hold whole numbers")
    if index.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(index.shape)}: it must be ({n},)")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= m:
        raise ValueError(f"{name} runs from {low} to {high}: it must lie in 0 to {m - 1}")
    return index.long()


def _checked_ranks(ranks: Numbers) -> np.ndarray:
    values = np.asarray(ranks.cpu() if isinstance(ranks, Tensor) else ranks, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or values.min() < 1:
        raise ValueError("ranks must be a non-empty list of finite numbers, counted from 1")
    return values


def _check_k(k: int) -> None:
    if not (isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1):
        raise ValueError(f"k is {k!r}: it must be a whole number, at least 1")


def _check_matrix(name: str, values: Tensor) -> None:
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}: pass a non-empty matrix")
    if not bool((whole := values.isfinite().all(1)).all()):
        row = int((~whole).int().argmax())
        raise ValueError(f"{name} holds NaN or infinite values, first in row {row}")
