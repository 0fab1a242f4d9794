"""Ranks of the right targets, and the shares, medians and reductions computed from them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Numbers = Tensor | np.ndarray | pd.Series | Sequence[float]


def retrieval_ranks(
    query_features: Tensor,
    target_features: Tensor,
    target_index: Tensor | np.ndarray | Sequence[int] | None = None,
    block_size: int = 1024,
) -> Tensor:
    """Rank of each query's right target among all targets, by dot product.

    Ties share the mid-rank: 1 + (targets strictly above) + (other tied targets) / 2. Scores are
    float32, each the rounded float64 sum of its products in the order of the feature axis. A score
    therefore depends on its two vectors alone: ranks are the same for every block_size, thread
    count and order of targets, and equal target vectors always tie. It runs on the CPU and holds
    at most block_size x block_size scores at a time.

    Args:
        query_features: [n, d], taken as float32. No normalisation is done here.
        target_features: [m, d].
        target_index: [n] row of each query's right target in target_features. None: query i
            belongs to target i, and n must equal m.
        block_size: rows of queries and of targets scored at once.

    Returns:
        float32 [n] of 1-based ranks, in halves where there are ties.

    Raises:
        ValueError: features are not two non-empty matrices of the same width, hold NaN or infinite
            values, overflow float32 when multiplied, target_index does not fit, or block_size < 1.

    Source:
        The mid-rank is that of Kendall 1945; the ranks are those of supplement, section 3.

    Example:
        >>> texts, videos = torch.eye(3), torch.eye(3)
        >>> retrieval_ranks(texts, videos).tolist()
        [1.0, 1.0, 1.0]
        >>> retrieval_ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist()  # all tied
        [2.0, 2.0, 2.0]
    """
    queries = _features("query_features", query_features)
    targets = _features("target_features", target_features)
    if queries.shape[1] != targets.shape[1]:
        raise ValueError(
            f"query_features has {queries.shape[1]} columns and target_features "
            f"{targets.shape[1]}: encode both with the same model"
        )
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size is {block_size!r}: it must be a whole number of at least 1")
    if target_index is None:
        if len(queries) != len(targets):
            raise ValueError(
                f"there are {len(queries)} queries and {len(targets)} targets: pass target_index "
                "to say which target is right for each query"
            )
        index = torch.arange(len(queries))
    else:
        index = _indices("target_index", target_index, len(queries), len(targets))

    ranks = []
    for query_block, index_block in zip(
        queries.split(block_size), index.split(block_size), strict=True
    ):
        query_columns = query_block.double().T.contiguous()
        right_columns = targets[index_block].double().T.contiguous()
        right_scores = _float32_scores(query_columns, right_columns)[:, None]
        above = torch.zeros(len(query_block), dtype=torch.int64)
        equal = torch.zeros(len(query_block), dtype=torch.int64)
        for target_block in targets.split(block_size):
            target_columns = target_block.double().T.contiguous()
            scores = _float32_scores(query_columns[:, :, None], target_columns[:, None, :])
            above += (scores > right_scores).sum(dim=1)
            equal += (scores == right_scores).sum(dim=1)
        ranks.append(_mid_ranks(above, equal))
    return torch.cat(ranks)


def recall_at_k(ranks: Numbers, k: int) -> float:
    """Share of queries whose right target is among the first k.

    Args:
        ranks: [n] 1-based ranks, from :func:`retrieval_ranks`.
        k: number of targets looked at, at least 1.

    Returns:
        A fraction in [0, 1]. A mid-rank counts when it is <= k.

    Raises:
        ValueError: ranks are empty, not finite or below 1, or k is not a whole number >= 1.

    Source:
        R@1, R@5 and R@10 of supplement, tables 3 and 5.

    Example:
        >>> recall_at_k([1, 3, 7, 2], k=5)
        0.75
    """
    _check_k(k)
    return float(np.mean(_ranks(ranks) <= k))


def median_rank(ranks: Numbers) -> float:
    """Median of the ranks; with an even number, the mean of the two middle ones.

    Args:
        ranks: [n] 1-based ranks, from :func:`retrieval_ranks`.

    Raises:
        ValueError: ranks are empty, not finite or below 1.

    Source:
        MdR of supplement, tables 3 and 5.

    Example:
        >>> median_rank([1, 9, 4, 5])
        4.5
    """
    return float(np.median(_ranks(ranks)))


def top_k_accuracy(scores: Tensor, labels: Tensor | np.ndarray | Sequence[int], k: int) -> float:
    """Share of items whose right class is among the k highest scores, ties at the mid-rank.

    Args:
        scores: [n, classes], compared in their own precision.
        labels: [n] column of each item's right class.
        k: number of classes looked at, from 1 to the number of classes.

    Returns:
        A fraction in [0, 1]: the same as :func:`recall_at_k` of the classes' ranks.

    Raises:
        ValueError: scores are not a non-empty finite matrix, labels do not fit, or k is outside.

    Source:
        Top 1 and Top 5 of supplement, tables 2 and 4.

    Example:
        >>> top_k_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), [1, 1], k=1)
        0.5
    """
    _check_k(k)
    scores = torch.as_tensor(scores).detach()
    _check_matrix("scores", scores)
    if k > scores.shape[1]:
        raise ValueError(f"k is {k} with {scores.shape[1]} classes: every item would be right")
    index = _indices("labels", labels, len(scores), scores.shape[1]).to(scores.device)
    right_scores = scores.gather(1, index[:, None])
    above = (scores > right_scores).sum(dim=1)
    equal = (scores == right_scores).sum(dim=1)
    return recall_at_k(_mid_ranks(above, equal).cpu(), k)


def per_class_accuracy(
    ranks: Numbers, labels: Sequence[object] | np.ndarray | pd.Series, k: int = 1
) -> pd.DataFrame:
    """Top-k accuracy of each class.

    Args:
        ranks: [n] 1-based rank of each item's right class.
        labels: [n] that class, as names or numbers.
        k: number of classes looked at, at least 1.

    Returns:
        One row a class that has items, in order of class: ``class``, ``n`` (items) and
        ``accuracy`` (fraction in [0, 1]).

    Raises:
        ValueError: ranks are refused as by :func:`recall_at_k`, or labels are missing or of
            another length.

    Source:
        Supplement, section 2 and figure 1 (per-class top-1 on Moments in Time).
    """
    _check_k(k)
    right = _ranks(ranks) <= k
    classes = pd.Series(np.asarray(labels))
    if len(classes) != len(right):
        raise ValueError(f"there are {len(right)} ranks and {len(classes)} labels: pass one each")
    if classes.isna().any():
        raise ValueError(f"label {int(classes.isna().argmax())} is missing: give each item a class")
    outcomes = pd.DataFrame({"class": classes, "right": right})
    table = outcomes.groupby("class", sort=True)["right"].agg(n="size", accuracy="mean")
    return table.reset_index()


def error_rate_reduction(
    old: float, new: float, kind: Literal["accuracy", "median_rank"] = "accuracy"
) -> float:
    """Share of the old error that the new model removes; negative when it adds error.

    Args:
        old: accuracy or recall in percent (0 to 100), or a median rank (1 or more).
        new: the same of the new model.
        kind: "accuracy" gives ``(new - old) / (100 - old)``; "median_rank" ``(old - new) / old``.

    Returns:
        A fraction: 0.049 is the paper's "4.9".

    Raises:
        ValueError: a value is outside its range, the old accuracy is 100 (no error is left to
            reduce), or kind is unknown.

    Source:
        Supplement, tables 4 and 5 and the caption of table 5.

    Example:
        >>> round(error_rate_reduction(30.4, 33.8), 3)  # MSR-VTT R@1, table 5a
        0.049
    """
    if kind == "accuracy":
        for name, value in (("old", old), ("new", new)):
            if not 0 <= value <= 100:
                raise ValueError(f"{name} is {value}: an accuracy in percent lies in [0, 100]")
        if old == 100:
            raise ValueError("old is 100: there is no error left to reduce")
        return (new - old) / (100 - old)
    if kind == "median_rank":
        for name, value in (("old", old), ("new", new)):
            if not 1 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: a median rank is finite and at least 1")
        return (old - new) / old
    raise ValueError(f'kind is {kind!r}: use "accuracy" or "median_rank"')


def _float32_scores(query_columns: Tensor, target_columns: Tensor) -> Tensor:
    """Sum over the first axis of the products, in that axis' order, rounded to float32.

    A matrix product may add in another order for another shape, which would break exact ties.
    A product of two float32 values is exact in float64, so here only the order matters, and it
    is fixed.
    """
    scores = query_columns[0] * target_columns[0]
    for query_column, target_column in zip(query_columns[1:], target_columns[1:], strict=True):
        scores.addcmul_(query_column, target_column)
    rounded = scores.float()
    if not torch.isfinite(rounded).all():
        raise ValueError("scores overflow float32: normalise or scale down the features")
    return rounded


def _mid_ranks(above: Tensor, equal: Tensor) -> Tensor:
    """1-based float32 ranks from counts strictly above and equal (the right one included)."""
    return (1 + above + (equal - 1) / 2).float()


def _check_matrix(name: str, matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: it must be a non-empty matrix")
    bad_rows = ~torch.isfinite(matrix).all(dim=1)
    if bad_rows.any():
        raise ValueError(
            f"{name} holds NaN or infinite values in {int(bad_rows.sum())} of {len(matrix)} rows, "
            f"the first is row {int(bad_rows.int().argmax())}: they cannot be ranked"
        )


def _features(name: str, features: Tensor) -> Tensor:
    features = torch.as_tensor(features).detach().to("cpu", torch.float32)
    _check_matrix(name, features)
    return features


def _indices(
    name: str, values: Tensor | np.ndarray | Sequence[int], length: int, bound: int
) -> Tensor:
    index = torch.as_tensor(values).detach().cpu()
    if index.shape != (length,):
        raise ValueError(f"{name} has shape {tuple(index.shape)}: it must be ({length},)")
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ValueError(f"{name} is of type {index.dtype}: it must hold whole numbers")
    index = index.long()
    if index.min() < 0 or index.max() >= bound:
        raise ValueError(
            f"{name} runs from {int(index.min())} to {int(index.max())}: "
            f"it must lie in 0 to {bound - 1}"
        )
    return index


def _ranks(ranks: Numbers) -> np.ndarray:
    values = np.asarray(ranks, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"ranks has shape {values.shape}: it must be a non-empty list of ranks")
    if not (np.isfinite(values) & (values >= 1)).all():
        raise ValueError("ranks holds a value that is not finite or is below 1: ranks are 1-based")
    return values


def _check_k(k: int) -> None:
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k is {k!r}: it must be a whole number of at least 1")
