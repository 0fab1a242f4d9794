import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fitclip_core.metrics import (
    error_rate_reduction,
    median_rank,
    per_class_accuracy,
    recall_at_k,
    retrieval_ranks,
    top_k_accuracy,
)

PAPER_TABLES = Path(__file__).parents[3] / "shared" / "paper" / "tables.csv"


def features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=-1)


def slow_ranks(scores: np.ndarray, right: list[int]) -> list[float]:
    """Ranks by sorting each row and averaging the places of the tied values."""
    ranks = []
    for row, target in zip(scores, right, strict=True):
        descending = sorted(row, reverse=True)
        places = [i + 1 for i, value in enumerate(descending) if value == row[target]]
        ranks.append(sum(places) / len(places))
    return ranks


@given(
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    d=st.integers(1, 5),
    block_size=st.integers(1, 11),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_ranks_equal_slow_ranks_with_ties(n, m, d, block_size, seed) -> None:
    rng = np.random.default_rng(seed)
    queries, targets = rng.integers(-2, 3, (n, d)), rng.integers(-2, 3, (m, d))  # many ties
    right = rng.integers(0, m, n)
    ranks = retrieval_ranks(
        torch.tensor(queries, dtype=torch.float32), torch.tensor(targets), right, block_size
    )
    assert ranks.dtype == torch.float32
    assert ranks.tolist() == slow_ranks(queries @ targets.T, list(right))


@given(seed=st.integers(0, 10**6), power=st.integers(-20, 20))
@settings(max_examples=30, deadline=None)
def test_ranks_ignore_scale_and_order_of_targets(seed, power) -> None:
    queries, targets = features(7, 5, seed), features(7, 5, seed + 1)
    expected = retrieval_ranks(queries, targets)
    assert torch.equal(retrieval_ranks(queries * 2.0**power, targets), expected)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    where = torch.argsort(order)  # target i now lies at where[i]
    assert torch.equal(retrieval_ranks(queries, targets[order], where), expected)
    assert torch.equal(retrieval_ranks(queries[order], targets[order]), expected[order])


@pytest.mark.parametrize("d", [3, 64, 511])
def test_duplicated_targets_tie_exactly_for_every_block_size(d: int) -> None:
    queries, single = features(31, d, 1), features(31, d, 2)
    alone = retrieval_ranks(queries, single)
    targets = single.repeat(3, 1)  # each target three times, far from each other
    # A place r alone becomes the places 3r-2, 3r-1, 3r, whose middle is 3r - 1.
    for block_size in (7, 17, 31, 50, 64, 93, 1024):
        ranks = retrieval_ranks(queries, targets, torch.arange(31) + 31, block_size)
        assert torch.equal(ranks, 3 * alone - 1), f"block_size {block_size}"


def near_ties(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets that differ in the last bits, where the order of a sum decides who is above."""
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(5)) * 3e-8
    return features(n, d, 4), features(n // 10, d, 3).repeat(10, 1) + noise


def test_ranks_are_the_same_for_every_block_size() -> None:
    queries, targets = near_ties(120, 96)
    expected = retrieval_ranks(queries, targets)
    for block_size in (7, 33, 64, 119):
        assert torch.equal(retrieval_ranks(queries, targets, block_size=block_size), expected)
    first_three = retrieval_ranks(queries[:3], targets, range(3), block_size=1)
    assert torch.equal(first_three, expected[:3])


def test_ranks_are_the_same_for_every_thread_count() -> None:
    queries, targets = near_ties(300, 9)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(retrieval_ranks(queries, targets))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_scores_are_rounded_to_float32() -> None:
    # 1 + 2^-30 is 1 in float32: a tie. 1 + 2^-20 is not.
    queries = torch.tensor([[1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 2.0**-30], [1.0, 2.0**-20]])
    assert retrieval_ranks(queries, targets, [0]).tolist() == [2.5]
    assert retrieval_ranks(queries, targets, [2]).tolist() == [1.0]


def test_all_equal_features_have_no_recall() -> None:
    ranks = retrieval_ranks(torch.ones(101, 8), torch.ones(101, 8), block_size=10)
    assert ranks.tolist() == [51.0] * 101
    assert recall_at_k(ranks, 1) == 0
    assert top_k_accuracy(torch.zeros(5, 3), [0, 1, 2, 0, 1], k=1) == 0


def test_one_query_one_target_and_half_precision() -> None:
    assert retrieval_ranks(torch.ones(1, 1), torch.ones(1, 1)).tolist() == [1.0]
    queries, targets = features(9, 4).half(), features(9, 4, 1).half()
    expected = retrieval_ranks(queries.float(), targets.float())
    assert torch.equal(retrieval_ranks(queries, targets), expected)


def test_ranks_carry_no_gradient() -> None:
    assert not retrieval_ranks(features(3, 2).requires_grad_(), features(3, 2)).requires_grad


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_whole_matrix_is_never_made() -> None:
    queries, targets = features(150, 2), features(250, 2)
    with LargestTensor() as seen:
        retrieval_ranks(queries, targets, torch.arange(150), block_size=37)
    assert 37 * 37 <= seen.elements <= max(37 * 37, targets.numel())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_ranks_refuse_non_finite_features(bad: float, side: int) -> None:
    pair = [features(4, 3), features(4, 3)]
    pair[side][2, 1] = bad
    name = ("query_features", "target_features")[side]
    with pytest.raises(ValueError, match=f"{name} holds NaN .* row 2"):
        retrieval_ranks(pair[0], pair[1])


def test_ranks_refuse_bad_input() -> None:
    good = features(4, 3)
    cases: list[Any] = [
        (torch.zeros(0, 3), good, None, "non-empty"),
        (good, torch.zeros(4, 0), None, "non-empty"),
        (good[0], good, None, "matrix"),
        (good, features(4, 2), None, "columns"),
        (good, features(5, 3), None, "target_index"),
        (good, good, [0, 1, 2], "shape"),
        (good, good, [0, 1, 2, 4], "0 to 3"),
        (good, good, [0, 1, 2, -1], "0 to 3"),
        (good, good, [0.0, 1.0, 2.0, 3.0], "whole numbers"),
        (good * 1e30, good * 1e30, None, "overflow"),
    ]
    for queries, targets, index, message in cases:
        with pytest.raises(ValueError, match=message):
            retrieval_ranks(queries, targets, index)
    sizes: list[Any] = [0, -1, 2.5]
    for block_size in sizes:
        with pytest.raises(ValueError, match="block_size"):
            retrieval_ranks(good, good, block_size=block_size)


def test_recall_and_median_by_hand() -> None:
    ranks = [1, 1.5, 5, 5.5, 10, 200]
    assert recall_at_k(ranks, 1) == pytest.approx(1 / 6)
    assert recall_at_k(ranks, 5) == pytest.approx(3 / 6)
    assert recall_at_k(torch.tensor(ranks), 10) == pytest.approx(5 / 6)
    assert median_rank(ranks) == 5.25
    assert median_rank(pd.Series([3.0, 1, 2])) == 2
    assert median_rank([7]) == 7


@given(st.lists(st.integers(2, 40).map(lambda twice: twice / 2), min_size=1, max_size=30))
def test_recall_grows_with_k_and_ends_at_one(ranks: list[float]) -> None:
    recalls = [recall_at_k(ranks, k) for k in range(1, 21)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1


@pytest.mark.parametrize("ranks", [[], [0.0], [float("nan")], [float("inf")], [[1.0]]])
def test_ranks_that_are_none_are_refused(ranks: list) -> None:
    for measure in (median_rank, lambda values: recall_at_k(values, 1)):
        with pytest.raises(ValueError, match="ranks"):
            measure(ranks)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_is_checked(k) -> None:
    for call in (
        lambda: recall_at_k([1], k),
        lambda: top_k_accuracy(torch.eye(2), [0, 1], k),
        lambda: per_class_accuracy([1], ["a"], k),
    ):
        with pytest.raises(ValueError, match="k is"):
            call()


def test_top_k_equals_topk_without_ties() -> None:
    scores = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 9, (50,), generator=torch.Generator().manual_seed(1))
    for k in range(1, 10):
        expected = (scores.topk(k).indices == labels[:, None]).any(dim=1).double().mean().item()
        assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), classes=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_top_k_agrees_with_retrieval_ranks_on_ties(seed, n, classes) -> None:
    rng = np.random.default_rng(seed)
    videos = torch.tensor(rng.integers(-1, 2, (n, 3)), dtype=torch.float32)
    names = torch.tensor(rng.integers(-1, 2, (classes, 3)), dtype=torch.float32)
    labels = rng.integers(0, classes, n)
    ranks = retrieval_ranks(videos, names, labels)
    for k in range(1, classes + 1):
        assert top_k_accuracy(videos @ names.T, labels, k) == recall_at_k(ranks, k)


def test_top_k_refuses() -> None:
    scores = torch.eye(3)
    for bad, labels, k, message in [
        (scores, [0, 1, 2], 4, "3 classes"),
        (scores, [0, 1], 1, "shape"),
        (scores, [0, 1, 3], 1, "labels"),
        (scores * float("nan"), [0, 1, 2], 1, "scores holds NaN"),
        (torch.zeros(0, 3), [], 1, "non-empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_k_accuracy(bad, labels, k)


def test_per_class_by_hand() -> None:
    table = per_class_accuracy([1, 2, 1, 1.5, 6], ["run", "run", "cook", "cook", "swim"])
    assert table.to_dict("list") == {
        "class": ["cook", "run", "swim"],
        "n": [2, 2, 1],
        "accuracy": [0.5, 0.5, 0.0],
    }
    top5 = per_class_accuracy(torch.tensor([1, 2, 1, 1.5, 6]), np.array([3, 3, 1, 1, 7]), k=5)
    assert top5["class"].tolist() == [1, 3, 7]
    assert top5["accuracy"].tolist() == [1.0, 1.0, 0.0]


def test_per_class_averages_to_recall() -> None:
    rng = np.random.default_rng(0)
    ranks, labels = rng.integers(1, 5, 200), rng.choice(list("abcdefg"), 200)
    table = per_class_accuracy(ranks, labels, k=2)
    assert table["n"].sum() == 200
    assert np.average(table["accuracy"], weights=table["n"]) == pytest.approx(recall_at_k(ranks, 2))


def test_per_class_refuses() -> None:
    with pytest.raises(ValueError, match="2 ranks and 1 labels"):
        per_class_accuracy([1, 2], ["a"])
    for missing in (None, float("nan")):
        with pytest.raises(ValueError, match="label 1 is missing"):
            per_class_accuracy([1, 2], np.array(["a", missing], dtype=object))


def test_error_rate_reduction_reproduces_every_printed_cell() -> None:
    if not PAPER_TABLES.exists():
        pytest.skip("the paper's tables are not beside the repository (../shared/paper/tables.csv)")
    with PAPER_TABLES.open() as file:
        cells = {
            (row["table"], row["model"], row["metric"]): float(row["value"])
            for row in csv.DictReader(file)
        }
    printed = {key: value for key, value in cells.items() if key[1].startswith("Error rate")}
    assert len(printed) == 16
    for (table, _, metric), value in printed.items():
        old, new = cells[table, "Teacher (CLIP)", metric], cells[table, "FitCLIP", metric]
        kind: Any = "median_rank" if metric == "MdR" else "accuracy"
        reduction = 100 * error_rate_reduction(old, new, kind)
        assert abs(reduction - value) <= 0.05 + 1e-9, (table, metric)


def test_error_rate_reduction_by_hand() -> None:
    # Four cells of the supplement's tables 4b and 5, so that it is tested without the file too.
    assert round(100 * error_rate_reduction(94.3, 95.3), 1) == 17.5
    assert round(100 * error_rate_reduction(74.5, 73.3), 1) == -4.7
    assert round(100 * error_rate_reduction(64.1, 69.4), 1) == 14.8
    assert error_rate_reduction(4, 3, kind="median_rank") == 0.25
    assert error_rate_reduction(50, 100) == 1
    assert error_rate_reduction(0, 0) == 0


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        (100, 100, "accuracy", "no error left"),
        (-1, 5, "accuracy", "old"),
        (5, 101, "accuracy", "new"),
        (float("nan"), 5, "accuracy", "old"),
        (0.5, 2, "median_rank", "old"),
        (2, float("inf"), "median_rank", "new"),
        (2, 1, "recall", "kind"),
    ],
)
def test_error_rate_reduction_refuses(old, new, kind, message) -> None:
    with pytest.raises(ValueError, match=message):
        error_rate_reduction(old, new, kind)
