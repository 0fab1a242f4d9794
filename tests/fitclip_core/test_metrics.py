import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def near_ties(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets that differ in the last bits, where rounding decides who is above."""
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(5)) * 3e-8
    return features(n, d, 4), features(n // 10, d, 3).repeat(10, 1) + noise


def defined_scores(queries: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """The definition: every score a float64 sum, rounded to float32."""
    total = np.zeros((len(queries), len(targets)))
    for one, other in zip(queries.double().T.numpy(), targets.double().T.numpy(), strict=True):
        total += one[:, None] * other[None, :]
    return total.astype(np.float32)


def slow_several(scores: np.ndarray, partner: np.ndarray) -> tuple[list[float], list[float]]:
    """The two directions, [n, m] scores of texts and videos, counted one by one."""

    def mid_rank(right: float, others: list[float]) -> float:
        return 1 + sum(one > right for one in others) + sum(one == right for one in others) / 2

    texts, videos = range(scores.shape[0]), range(scores.shape[1])
    to_video = [
        mid_rank(
            scores[text, partner[text]], [scores[text, v] for v in videos if v != partner[text]]
        )
        for text in texts
    ]
    to_text = []
    for video in videos:
        others = [scores[text, video] for text in texts if partner[text] != video]
        own = [text for text in texts if partner[text] == video]
        to_text.append(min(mid_rank(scores[text, video], others) for text in own))
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
    assert (there.tolist(), back.tolist()) == slow_several(texts @ videos.T, partner)
    assert alone.tolist() == slow_ranks(texts @ videos.T, list(partner))


@pytest.mark.parametrize("d", [1, 33, 512])
@pytest.mark.parametrize("block", [13, 1024])
def test_near_ties_are_compared_as_defined(d, block, monkeypatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK", block)
    texts, videos = near_ties(90, d)
    for partner in (np.arange(90), np.concatenate([np.arange(40), np.arange(40), np.arange(10)])):
        videos = videos[: partner.max() + 1]
        expected = slow_several(defined_scores(texts, videos), partner)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            there, back = retrieval_ranks_both_ways(texts, videos, partner)
        assert (there.tolist(), back.tolist()) == expected


@pytest.mark.parametrize("d", [3, 64, 511])
def test_duplicated_targets_tie_exactly(d: int) -> None:
    queries, single = features(31, d, 1), features(31, d, 2)
    targets = single.repeat(30, 1)  # each target thirty times, far from each other
    # A place r alone becomes the places 30r-29 to 30r, whose middle is 30r - 14.5.
    ranks = retrieval_ranks(queries, targets, torch.arange(31) + 31)
    assert torch.equal(ranks, 30 * retrieval_ranks(queries, single) - 14.5)


def test_a_caption_written_twice_leaves_a_perfect_model_perfect() -> None:
    texts = torch.eye(3)[[0, 0, 1, 2, 1]]
    found = retrieval_ranks_both_ways(texts, torch.eye(3), [0, 0, 1, 2, 1])
    assert found[0].tolist() == [1.0] * 5 and found[1].tolist() == [1.0] * 3
    all_tied = retrieval_ranks_both_ways(torch.ones(5, 2), torch.ones(3, 2), [0, 0, 1, 2, 1])
    assert all_tied[0].tolist() == [2.0] * 5
    assert all_tied[1].tolist() == [2.5, 2.5, 3.0], "three or four of others tie"


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ([0, 0, 2], "no partner for 1 of 3 second vectors, the first is row 1"),
        ([0, 1, 3], "runs from 0 to 3: it must lie in 0 to 2"),
        ([0, 1], r"has shape \(2,\): it must be \(3,\)"),
        ([0.0, 1.0, 2.0], "must hold whole numbers"),
    ],
)
def test_partners_that_do_not_fit_are_refused(index, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        retrieval_ranks_both_ways(torch.eye(3), torch.eye(3), index)


def test_a_sum_may_pass_through_overflow_of_float32() -> None:
    queries = torch.tensor([[1e30, 1e30]])
    targets = torch.tensor([[1e10, -1e10], [0.0, 0.0], [1e5, 1e5]])
    assert retrieval_ranks(queries, targets, [1]).tolist() == [2.5]
    with pytest.raises(ValueError, match="overflow float32"):
        retrieval_ranks(queries, torch.tensor([[0.0, 0.0], [1e10, 1e10]]), [0])


def test_sums_of_products_that_underflow_float32() -> None:
    step = 2.0**-149  # float32's smallest number: 40 times 0.4 steps are 16, and not 40 times 0
    queries = torch.full((1, 40), 2.0**-74)
    targets = torch.zeros(2, 40)
    targets[0] = 0.4 * step * 2.0**74
    targets[1, 0] = 10 * step * 2.0**74
    assert retrieval_ranks(queries, targets, [1]).tolist() == [2.0]
    assert retrieval_ranks(queries, targets, [0]).tolist() == [1.0]


def test_scores_are_rounded_to_float32() -> None:
    # 1 + 2^-30 is 1 in float32: a tie. 1 + 2^-20 is not.
    queries = torch.tensor([[1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 2.0**-30], [1.0, 2.0**-20]])
    assert retrieval_ranks(queries, targets, [0]).tolist() == [2.5]
    assert retrieval_ranks(queries, targets, [2]).tolist() == [1.0]


def test_all_equal_features_have_no_recall() -> None:
    ranks = retrieval_ranks(torch.ones(101, 8), torch.ones(101, 8))
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
        (good, features(5, 3), None, "4 queries and 5 targets"),
        (good, good, [0, 1, 2], "shape"),
        (good, good, [0, 1, 2, 4], "0 to 3"),
        (good, good, [0, 1, 2, -1], "0 to 3"),
        (good, good, [0.0, 1.0, 2.0, 3.0], "whole numbers"),
        (good * 1e30, good * 1e30, None, "overflow"),
    ]
    for queries, targets, index, message in cases:
        with pytest.raises(ValueError, match=message):
            retrieval_ranks(queries, targets, index)


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
        pytest.skip("no ../shared/paper beside this checkout")
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
