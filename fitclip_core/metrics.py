"""Ranks of the right targets, and the shares, medians and reductions computed from them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Numbers = Tensor | np.ndarray | pd.Series | Sequence[float]

_COUNTED_BY_FLOAT32 = 2**24  # whole numbers up to here are exact
_PAIRED = 2**16  # numbers of a batch of single pairs: what stays in a processor's own cache


def retrieval_ranks(
    query_features: Tensor,
    target_features: Tensor,
    target_index: Tensor | np.ndarray | Sequence[int] | None = None,
    block_size: int = 1024,
) -> Tensor:
    """Rank of each query's right target among all targets, by dot product.

    Ties share the mid-rank: 1 + (targets strictly above) + (other tied targets) / 2. Scores are
    float32, each the rounded float64 sum of its products in the order of the feature axis. A score
    therefore depends on its two vectors alone: ranks are the same for every device, block_size,
    thread count and order of targets, and equal target vectors always tie.

    Most scores are only needed to the precision of a float32 matrix product: where such a score is
    further from the right target's than rounding errors can reach, its side is decided. The others
    are computed as defined. It holds three blocks of block_size x block_size numbers, the places of
    a block's scores that are not decided, and little more than one copy of one side's features.

    Args:
        query_features: [n, d], taken as float32. No normalisation is done here. Where they are on
            a CUDA device it computes there, else on the CPU.
        target_features: [m, d].
        target_index: [n] row of each query's right target in target_features. None: query i
            belongs to target i, and n must equal m.
        block_size: rows of queries and of targets scored at once.

    Returns:
        float32 [n] of 1-based ranks, in halves where there are ties, on the CPU.

    Raises:
        ValueError: features are not two non-empty matrices of the same width, hold NaN or infinite
            values, overflow float32 when multiplied, target_index does not fit, or block_size < 1.
        RuntimeError: the device's float32 matrix product is less precise than float32.

    Source:
        The mid-rank is that of Kendall 1945; the ranks are those of supplement, section 3.

    Example:
        >>> texts, videos = torch.eye(3), torch.eye(3)
        >>> retrieval_ranks(texts, videos).tolist()
        [1.0, 1.0, 1.0]
        >>> retrieval_ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist()  # all tied
        [2.0, 2.0, 2.0]
    """
    queries, targets = _two_sides(query_features, target_features, block_size)
    if target_index is None:
        index = _same_place(queries, targets)
    else:
        index = _indices("target_index", target_index, len(queries.norms), len(targets.norms))
        index = index.to(queries.norms.device)
    right = _pair_scores(queries, targets, torch.arange(len(index), device=index.device), index)
    counts = _Counts.of(right)
    _compare(queries, targets, counts, None, block_size)
    return counts.ranks()


def retrieval_ranks_both_ways(
    first_features: Tensor,
    second_features: Tensor,
    block_size: int = 1024,
    second_index: Tensor | np.ndarray | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks of each first vector's partner among the second, and the other way round.

    From one pass over the scores. Several first vectors may have one partner, as the captions of
    one video have: each is ranked for itself, by :func:`retrieval_ranks`. The other way round the
    second vector's best partner is ranked, against the first vectors that are not its partners:
    1 + (those strictly above) + (those tied) / 2. Its other partners neither help nor hinder.

    Args:
        first_features: [n, d], the texts, say.
        second_features: [m, d], the distinct videos.
        block_size: rows of each side scored at once.
        second_index: [n] row of each first vector's partner; each row is somebody's. None: the
            two sides belong together row by row, and n must equal m.

    Returns:
        Two float32: [n] ranks with the first side as queries, and [m] with the second.

    Raises:
        ValueError, RuntimeError: as :func:`retrieval_ranks`; or a second vector has no partner.

    Source:
        As :func:`retrieval_ranks`; both directions are reported. The best of several partners is
        what VSE++'s evaluation on COCO (`i2t`) and collaborative-experts' and Frozen in Time's on
        MSR-VTT and MSVD (`v2t_metrics`) take. These rank it among all first vectors; the numbers
        are the same unless two partners of one vector tie, as a caption written twice does, and a
        perfect model would then miss rank 1.

    Example:
        >>> there, back = retrieval_ranks_both_ways(torch.eye(2), torch.tensor([[2.0, 3], [0, 1]]))
        >>> there.tolist(), back.tolist()
        ([1.0, 2.0], [2.0, 1.0])
        >>> texts = torch.tensor([[1.0, 0], [0, 1], [0, 1]])  # two of the second video
        >>> retrieval_ranks_both_ways(texts, torch.eye(2), second_index=[0, 1, 1])[1].tolist()
        [1.0, 1.0]
    """
    first, second = _two_sides(first_features, second_features, block_size)
    n, m = len(first.norms), len(second.norms)
    if second_index is None:
        index = _same_place(first, second)
    else:
        index = _indices("second_index", second_index, n, m).to(first.norms.device)
    right = _pair_scores(first, second, torch.arange(n, device=index.device), index)
    best = right.new_full((m,), -torch.inf).scatter_reduce(0, index, right, "amax")
    if (alone := ~torch.isfinite(best)).any():
        raise ValueError(
            f"second_index names no partner for {int(alone.sum())} of {m} second vectors, the "
            f"first is row {int(alone.int().argmax())}: leave them out"
        )
    there, back = _Counts.of(right), _Counts.of(best)
    _compare(first, second, there, back, block_size)
    # Of a vector's partners only the best one is ranked, so the others do not count as tied.
    back.equal.index_add_(0, index, -(right == best[index]).long()).add_(1)
    return there.ranks(), back.ranks()


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


class _Vectors(NamedTuple):
    """One side's vectors."""

    features: Tensor  # float32 [n, d]
    norms: Tensor  # float64 [n]

    def part(self, start: int, size: int) -> "_Vectors":
        return _Vectors(*(values[start : start + size] for values in self))


class _Counts(NamedTuple):
    """For each vector of one side: its right partner's score, and how the other scores compare."""

    right: Tensor  # float32 [n]
    above: Tensor  # int64 [n]
    equal: Tensor  # int64 [n], the right one included

    @classmethod
    def of(cls, right: Tensor) -> "_Counts":
        return cls(right, *torch.zeros(2, len(right), dtype=torch.int64, device=right.device))

    def part(self, start: int, size: int) -> "_Counts":
        return _Counts(*(values[start : start + size] for values in self))

    def ranks(self) -> Tensor:
        if not (self.equal > 0).all():
            raise RuntimeError(
                "a vector's right partner is not found at its own score: this device's float32 "
                "matrix product is less precise than float32. Unset NVIDIA_TF32_OVERRIDE and the "
                "like, or pass the features on the CPU"
            )
        return _mid_ranks(self.above, self.equal).cpu()


class _Workspace:
    """Memory for one block of scores and their comparisons, used again for every block."""

    def __init__(self, most: int, device: torch.device) -> None:
        self._floats = [torch.empty(most, device=device) for _ in range(3)]
        self._bools = torch.empty(-(-most // 8) * 8, dtype=torch.bool, device=device)

    def floats(self, rows: int, columns: int) -> list[Tensor]:
        return [values[: rows * columns].view(rows, columns) for values in self._floats]

    def zeros_of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of each zero of a matrix.

        Eight at a time: few are expected, and it is several times faster than `nonzero` of all.
        """
        size = values.numel()
        found = self._bools[: -(-size // 8) * 8]
        found[size:] = True
        found[:size].view(values.shape).copy_(values)
        found.logical_not_()
        eights = found.view(torch.int64).nonzero().squeeze(1)
        which, offsets = found.view(-1, 8)[eights].nonzero(as_tuple=True)
        places = eights[which] * 8 + offsets
        return places // values.shape[1], places % values.shape[1]


def _compare(
    first: _Vectors, second: _Vectors, there: _Counts, back: _Counts | None, block_size: int
) -> None:
    """Count how the scores compare, for each first vector and, where `back` is, each second."""
    n, m, size = len(first.norms), len(second.norms), min(block_size, _COUNTED_BY_FLOAT32)
    workspace = _Workspace(min(n, size) * min(m, size), first.norms.device)
    with _full_precision():
        for row in range(0, n, size):
            rows, row_counts = first.part(row, size), there.part(row, size)
            for column in range(0, m, size):
                columns = second.part(column, size)
                block, *spare = workspace.floats(len(rows.norms), len(columns.norms))
                # Given `out`, autocast leaves it alone.
                torch.mm(rows.features, columns.features.T, out=block)
                _tally(1, row_counts, rows, columns, block, spare, workspace)
                if back is not None:
                    column_counts = back.part(column, size)
                    _tally(0, column_counts, columns, rows, block, spare, workspace)


def _tally(
    dim: int,
    counts: _Counts,
    own: _Vectors,
    other: _Vectors,
    block: Tensor,
    spare: list[Tensor],
    workspace: _Workspace,
) -> None:
    """Add one block's scores, of which `dim` counts the other vectors, to the counts."""
    error = _product_error(own, other)
    right = counts.right.double()
    # Outward to the next float32, as the bounds are rounded too.
    low = torch.nextafter((right - error).float(), right.new_tensor(-torch.inf).float())
    high = torch.nextafter((right + error).float(), right.new_tensor(torch.inf).float())
    # Comparisons into float32 are vectorised, those into bool are not. NaN is neither.
    above = torch.gt(block, high.unsqueeze(dim), out=spare[0])
    below = torch.lt(block, low.unsqueeze(dim), out=spare[1])
    counts.above.add_(above.sum(dim).long())
    places = workspace.zeros_of(above.add_(below))
    mine, others = places[1 - dim], places[dim]
    scores = _pair_scores(own, other, mine, others)
    counts.above.index_add_(0, mine, (scores > counts.right[mine]).long())
    counts.equal.index_add_(0, mine, (scores == counts.right[mine]).long())


def _product_error(own: _Vectors, other: _Vectors) -> Tensor:
    """How far an entry of a float32 matrix product may lie from the score as defined: float64 [n].

    A sum of d products in any order and with any fused steps errs by at most
    d u / (1 - d u) x (sum of the products' absolute values), with u = 2^-24, and the sum is at most
    the product of the norms; the score's own rounding adds u. What float64 rounds is covered by
    1 + 2^-20. Where the processor flushes subnormal numbers to zero, each of the inputs, products
    and sums may lose 2^-126, which `floor` covers generously. Infinite where the product might
    overflow.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    width, largest = own.features.shape[1], other.norms.max()
    unit = width * 2.0**-24
    if unit > 0.5:
        return torch.full_like(own.norms, torch.inf)
    share = (unit / (1 - unit) + 2.0**-24) * (1 + 2.0**-20)
    floor = 2.0**-122 * (width + width**0.5 * (own.norms + largest))
    error = share * own.norms * largest + floor
    return error.masked_fill(own.norms * largest > 2.0**126, torch.inf)


def _pair_scores(own: _Vectors, other: _Vectors, mine: Tensor, others: Tensor) -> Tensor:
    """The scores, as defined, of own vectors `mine` with other vectors `others`: float32 [pairs].

    Products of float32 numbers are exact in float64. Two orders of summing d of them differ by at
    most (d - 1) x 2^-52 x (the product of the norms), or a little more; where that, twice, cannot
    change the rounding to float32, the order does not matter. The rest are summed in order.
    """
    width = own.features.shape[1]
    at_once = max(1, _PAIRED // width)
    scores = torch.empty(len(mine), device=own.norms.device)
    for start in range(0, len(mine), at_once):
        one, two = mine[start : start + at_once], others[start : start + at_once]
        products = own.features[one].double().mul_(other.features[two])
        sums = products.sum(dim=1)
        error = own.norms[one] * other.norms[two] * (width * 2.0**-51)
        rounded, highest = (sums - error).float(), (sums + error).float()
        if (unsure := rounded != highest).any():
            rounded[unsure] = _sum_in_order(products[unsure]).float()
        scores[start : start + at_once] = rounded
    if not torch.isfinite(scores).all():
        raise ValueError("scores overflow float32: normalise or scale down the features")
    return scores


def _sum_in_order(products: Tensor) -> Tensor:
    """Sum of each row, added from its first to its last number.

    A library's sum may add in another order for another shape, which would break exact ties.
    """
    columns = products.T.contiguous()
    total = columns[0].clone()
    for column in columns[1:]:
        total += column
    return total


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 matrix products in float32, whatever the caller allows: no TF32, no bfloat16."""
    backends: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
    settings = [backend.matmul for backend in backends]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


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


def _two_sides(
    query_features: Tensor, target_features: Tensor, block_size: int
) -> tuple[_Vectors, _Vectors]:
    device = torch.as_tensor(query_features).device
    if device.type != "cuda":  # other accelerators may lack float64
        device = torch.device("cpu")
    queries = _vectors("query_features", query_features, device)
    targets = _vectors("target_features", target_features, device)
    if queries.features.shape[1] != targets.features.shape[1]:
        raise ValueError(
            f"query_features has {queries.features.shape[1]} columns and target_features "
            f"{targets.features.shape[1]}: encode both with the same model"
        )
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size is {block_size!r}: it must be a whole number of at least 1")
    return queries, targets


def _vectors(name: str, features: Tensor, device: torch.device) -> _Vectors:
    features = torch.as_tensor(features).detach().to(device, torch.float32)
    _check_matrix(name, features)
    norms = [
        torch.linalg.vector_norm(some, dim=1, dtype=torch.float64)  # of a float64 copy
        for some in features.split(4096)
    ]
    return _Vectors(features, torch.cat(norms))


def _same_place(queries: _Vectors, targets: _Vectors) -> Tensor:
    if len(queries.norms) != len(targets.norms):
        raise ValueError(
            f"there are {len(queries.norms)} queries and {len(targets.norms)} targets: pass "
            "target_index to say which target is right for each query"
        )
    return torch.arange(len(queries.norms), device=queries.norms.device)


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
