"""Ranks against counting one by one, by the definition of their scores; the measures by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.paper import paper_values
from fitclip_core import metrics
from fitclip_core.metrics import (
    error_rate_reduction,
    median_rank,
    per_class_accuracy,
    recall_at_k,
    retrieval_ranks,
    retrieval_ranks_both_ways,
    top_k_accuracy,
)

NAN, INF = float("nan"), float("inf")


def features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=-1)


def defined_scores(queries: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """The definition: every score a float64 sum, rounded to float32."""
    total = np.zeros((len(queries), len(targets)))
    for one, other in zip(queries.double().T.numpy(), targets.double().T.numpy(), strict=True):
        total += one[:, None] * other[None, :]
    return total.astype(np.float32)


def mid_rank(right: float, others: list[float]) -> float:
    return 1 + sum(one > right for one in others) + sum(one == right for one in others) / 2


def slow_ranks(scores: np.ndarray, partner: np.ndarray) -> tuple[list[float], list[float]]:
    """The two directions, [n, m] scores of texts and videos, counted one by one."""
    to_video, to_text = [], []
    for row, right in zip(scores, partner, strict=True):
        to_video.append(mid_rank(row[right], np.delete(row, right).tolist()))
    for video, column in enumerate(scores.T):
        others = column[partner != video].tolist()
        to_text.append(min(mid_rank(own, others) for own in column[partner == video]))
    return to_video, to_text


@given(
    m=st.integers(1, 7),
    more=st.integers(0, 9),
    d=st.integers(1, 4),
    block=st.integers(1, 17),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_ranks_are_as_counted_one_by_one(m, more, d, block, seed) -> None:
    rng = np.random.default_rng(seed)
    partner = rng.permutation(np.concatenate([np.arange(m), rng.integers(0, m, more)]))
    texts, videos = rng.integers(-1, 2, (m + more, d)), rng.integers(-1, 2, (m, d))  # many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK", block)
        sides = torch.tensor(texts), torch.tensor(videos)
        there, back = retrieval_ranks_both_ways(*sides, partner)
        alone = retrieval_ranks(*sides, partner)
    assert there.dtype == back.dtype == torch.float32
    assert (there.tolist(), back.tolist()) == slow_ranks(texts @ videos.T, partner)
    assert alone.tolist() == there.tolist()


@pytest.mark.parametrize("d", [1, 33, 512])
@pytest.mark.parametrize("block", [13, 1024])
def test_near_ties_are_compared_as_defined(d, block, monkeypatch) -> None:
    """Targets that differ in the last bits, where rounding decides which is above."""
    monkeypatch.setattr(metrics, "_BLOCK", block)
    noise = torch.randn(90, d, generator=torch.Generator().manual_seed(5)) * 3e-8
    texts, videos = features(90, d, 4), features(9, d, 3).repeat(10, 1) + noise
    for partner in (np.arange(90), np.concatenate([np.arange(40), np.arange(40), np.arange(10)])):
        videos = videos[: partner.max() + 1]
        expected = slow_ranks(defined_scores(texts, videos), partner)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            there, back = retrieval_ranks_both_ways(texts, videos, partner)
        assert (there.tolist(), back.tolist()) == expected


UNDERFLOWING = torch.zeros(2, 40)  # by a query of 2^-74: 40 times 0.4 of float32's smallest number,
UNDERFLOWING[0] = 0.4 * 2.0**-75  # which are 16 of it and not 40 times 0,
UNDERFLOWING[1, 0] = 10 * 2.0**-75  # and 10 of it


@pytest.mark.parametrize(
    ("query", "targets", "ranks"),
    [
        # 1 + 2^-30 is 1 in float32: a tie. 1 + 2^-20 is not.
        ([1.0, 1.0], [[1.0, 0.0], [1.0, 2.0**-30], [1.0, 2.0**-20]], [2.5, 2.5, 1]),
        # A sum may pass through float32's overflow.
        ([1e30, 1e30], [[1e10, -1e10], [0.0, 0.0], [1e5, 1e5]], [2.5, 2.5, 1]),
        ([2.0**-74] * 40, UNDERFLOWING, [1, 2]),
    ],
)
def test_scores_are_float64_sums_rounded_to_float32(query, targets, ranks) -> None:
    for right, expected in enumerate(ranks):
        sides = torch.tensor([query]), torch.as_tensor(targets)
        assert retrieval_ranks(*sides, [right]).tolist() == [expected]


GOOD, SPOILT = features(4, 3), features(4, 3)
SPOILT[2, 1] = INF


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(0, 3), GOOD), "non-empty"),
        ((GOOD, torch.zeros(4, 0)), "non-empty"),
        ((GOOD[0], GOOD), "matrix"),
        ((GOOD, features(4, 2)), "columns"),
        ((GOOD, features(5, 3)), "4 queries and 5 targets"),
        ((GOOD, GOOD, [0, 1, 2]), r"has shape \(3,\): it must be \(4,\)"),
        ((GOOD, GOOD, [0, 1, 2, 4]), "runs from 0 to 4: it must lie in 0 to 3"),
        ((GOOD, GOOD, [0, 1, 2, -1]), "0 to 3"),
        ((GOOD, GOOD, [0.0, 1.0, 2.0, 3.0]), "whole numbers"),
        ((GOOD * 1e30, GOOD * 1e30), "overflow float32"),
        ((SPOILT, GOOD), "query_features holds NaN .* row 2"),
        ((GOOD, SPOILT * NAN), "target_features holds NaN .* row 0"),
    ],
)
def test_features_that_cannot_be_ranked_are_refused(arguments, message) -> None:
    for ranks in (retrieval_ranks, retrieval_ranks_both_ways):
        with pytest.raises(ValueError, match=message):
            ranks(*arguments)
    with pytest.raises(ValueError, match=r"no partner for 1 of 3 .*, the first is row 1"):
        retrieval_ranks_both_ways(torch.eye(3), torch.eye(3), [0, 0, 2])


def test_measures_by_hand() -> None:
    ranks = [1, 1.5, 5, 5.5, 10, 200]
    assert [recall_at_k(ranks, k) for k in (1, 5, 10)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert recall_at_k(torch.tensor(ranks), 200) == 1
    assert median_rank(ranks) == 5.25
    assert median_rank(pd.Series([3.0, 1, 2])) == 2
    queries, targets = features(9, 4).half().requires_grad_(), features(9, 4, 1).half()
    of_half = retrieval_ranks(queries, targets)
    assert torch.equal(of_half, retrieval_ranks(queries.float(), targets.float()))
    assert not of_half.requires_grad
    assert top_k_accuracy(torch.zeros(5, 3), [0, 1, 2, 0, 1], k=1) == 0  # all tied: rank 2
    table = per_class_accuracy([1, 2, 1, 1.5, 6], ["run", "run", "cook", "cook", "swim"])
    assert table.to_dict("list") == {
        "class": ["cook", "run", "swim"],
        "n": [2, 2, 1],
        "accuracy": [0.5, 0.5, 0.0],
    }
    top5 = per_class_accuracy(torch.tensor([1, 2, 1, 1.5, 6]), np.array([3, 3, 1, 1, 7]), k=5)
    assert top5["class"].tolist() == [1, 3, 7]
    assert top5["accuracy"].tolist() == [1.0, 1.0, 0.0]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), classes=st.integers(1, 6))
@settings(max_examples=40)
def test_top_k_agrees_with_ranks_on_ties_and_with_topk_without(seed, n, classes) -> None:
    rng = np.random.default_rng(seed)
    videos = torch.tensor(rng.integers(-1, 2, (n, 3)), dtype=torch.float32)
    names = torch.tensor(rng.integers(-1, 2, (classes, 3)), dtype=torch.float32)
    labels, scores = rng.integers(0, classes, n), torch.tensor(rng.normal(size=(n, classes)))
    ranks = retrieval_ranks(videos, names, labels)
    for k in range(1, classes + 1):
        assert top_k_accuracy(videos @ names.T, labels, k) == recall_at_k(ranks, k)
        hits = (scores.topk(k).indices == torch.tensor(labels)[:, None]).any(dim=1)
        assert top_k_accuracy(scores, labels, k) == pytest.approx(hits.double().mean().item())


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        *[
            (measure, (ranks, *rest), "ranks must be")
            for ranks in ([], [0.0], [NAN], [INF], [[1.0]])
            for measure, rest in ((median_rank, ()), (recall_at_k, (1,)))
        ],
        *[(recall_at_k, ([1], k), "k is") for k in (0, -1, 1.5, True)],
        (top_k_accuracy, (torch.eye(2), [0, 1], 0), "k is 0"),
        (per_class_accuracy, ([1], ["a"], 0), "k is 0"),
        (top_k_accuracy, (torch.eye(3), [0, 1, 2], 4), "3 classes"),
        (top_k_accuracy, (torch.eye(3), [0, 1], 1), "labels has shape"),
        (top_k_accuracy, (torch.eye(3), [0, 1, 3], 1), "labels runs"),
        (top_k_accuracy, (torch.eye(3) * NAN, [0, 1, 2], 1), "scores holds NaN"),
        (top_k_accuracy, (torch.zeros(0, 3), [], 1), "non-empty"),
        (per_class_accuracy, ([1, 2], ["a"]), "2 ranks and 1 labels"),
        *[
            (per_class_accuracy, ([1, 2], np.array(["a", none], object)), "label 1 is missing")
            for none in (None, NAN)
        ],
        (error_rate_reduction, (100, 100), "no error left"),
        (error_rate_reduction, (-1, 5), "old is -1"),
        (error_rate_reduction, (5, 101), "new is 101"),
        (error_rate_reduction, (NAN, 5), "old is nan"),
        (error_rate_reduction, (0.5, 2, "median_rank"), "old is 0.5"),
        (error_rate_reduction, (2, INF, "median_rank"), "new is inf"),
        (error_rate_reduction, (2, 1, "recall"), "kind is 'recall'"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        measure(*arguments)


def test_error_rate_reduction_reproduces_every_printed_cell() -> None:
    values = paper_values().set_index(["table", "model", "metric"])["value"]
    printed = [cell for cell in values.index if cell[1].startswith("Error rate")]
    assert len(printed) == 16
    for table, model, metric in printed:
        old, new = values[table, "Teacher (CLIP)", metric], values[table, "FitCLIP", metric]
        kind: Any = "median_rank" if metric == "MdR" else "accuracy"
        reduction = 100 * error_rate_reduction(old, new, kind)
        assert abs(reduction - values[table, model, metric]) <= 0.05 + 1e-9, (table, metric)
    assert [error_rate_reduction(*pair) for pair in ((50, 100), (0, 0))] == [1, 0]
