import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils._python_dispatch import TorchDispatchMode

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


def defined_scores(queries: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """The definition: every score a float64 sum in the order of the features, then float32."""
    total = np.zeros((len(queries), len(targets)))
    for one, other in zip(queries.double().T.numpy(), targets.double().T.numpy(), strict=True):
        total += one[:, None] * other[None, :]
    with np.errstate(over="ignore"):
        scores = total.astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError("overflow")
    return scores


def defined_ranks(
    queries: torch.Tensor, targets: torch.Tensor, right: np.ndarray | None = None
) -> torch.Tensor:
    """The definition, counted."""
    scores = defined_scores(queries, targets)
    own = scores[np.arange(len(queries)), np.arange(len(queries)) if right is None else right]
    above, equal = (scores > own[:, None]).sum(1), (scores == own[:, None]).sum(1)
    return torch.tensor(1 + above + (equal - 1) / 2, dtype=torch.float32)


# What a vector's entries are multiplied by: float32's smallest number is about 1e-45.
SCALES = st.sampled_from([0.0, 1e-45, 1e-40, 1e-30, 1e-19, 1e-3, 1.0, 1e4, 1e15, 3e18, 1e19])


@st.composite
def hard_vectors(draw, count: int, d: int) -> torch.Tensor:
    """Vectors of which many are equal, or equal but for the last bit, of all sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    few = rng.normal(size=(draw(st.integers(1, 4)), d))
    if draw(st.booleans()):
        few = few.round()
    scales = np.array([draw(SCALES) for _ in few])
    chosen = rng.integers(0, len(few), count)
    vectors = (few * scales[:, None])[chosen].astype(np.float32)
    moved = np.nextafter(vectors, np.float32(rng.choice([-1, 1])) * np.inf).astype(np.float32)
    vectors = np.where(
        rng.random(vectors.shape) < draw(st.sampled_from([0, 0.1, 1])), moved, vectors
    )
    return torch.tensor(vectors)


@given(data=st.data())
@settings(max_examples=150)
def test_ranks_are_those_of_the_definition_bit_by_bit(data) -> None:
    n, m, d = (data.draw(st.integers(1, most)) for most in (23, 23, 40))
    queries, targets = data.draw(hard_vectors(n, d)), data.draw(hard_vectors(m, d))
    right = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, m - 1)))
    block_size = data.draw(st.integers(1, 25))
    try:
        expected = defined_ranks(queries, targets, right)
    except ValueError:
        with pytest.raises(ValueError, match="overflow float32"):
            retrieval_ranks(queries, targets, right, block_size)
        return
    assert torch.equal(retrieval_ranks(queries, targets, right, block_size), expected)
    if n <= m:
        paired = targets[:n]
        both = retrieval_ranks_both_ways(queries, paired, block_size)
        assert torch.equal(both[0], defined_ranks(queries, paired))
        assert torch.equal(both[1], defined_ranks(paired, queries))


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
    block_size=st.integers(1, 17),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_several_texts_of_a_video_rank_as_counted_one_by_one(m, more, d, block_size, seed) -> None:
    rng = np.random.default_rng(seed)
    partner = rng.permutation(np.concatenate([np.arange(m), rng.integers(0, m, more)]))
    texts, videos = rng.integers(-1, 2, (m + more, d)), rng.integers(-1, 2, (m, d))  # many ties
    found = retrieval_ranks_both_ways(
        torch.tensor(texts), torch.tensor(videos), block_size, second_index=partner
    )
    expected = slow_several(texts @ videos.T, partner)
    assert (found[0].tolist(), found[1].tolist()) == expected
    alone = retrieval_ranks(torch.tensor(texts), torch.tensor(videos), partner, block_size)
    assert torch.equal(found[0], alone)


@pytest.mark.parametrize("d", [1, 33, 512])
def test_several_texts_of_near_ties_are_compared_as_defined(d) -> None:
    texts, videos = near_ties(90, d)
    videos = videos[:40]
    partner = np.concatenate([np.arange(40), np.arange(40), np.arange(10)])
    scores = defined_scores(texts, videos)
    expected = slow_several(scores, partner)
    for block_size in (13, 64, 1024):
        found = retrieval_ranks_both_ways(texts, videos, block_size, second_index=partner)
        assert (found[0].tolist(), found[1].tolist()) == expected


def test_a_caption_written_twice_leaves_a_perfect_model_perfect() -> None:
    texts = torch.eye(3)[[0, 0, 1, 2, 1]]
    found = retrieval_ranks_both_ways(texts, torch.eye(3), second_index=[0, 0, 1, 2, 1])
    assert found[0].tolist() == [1.0] * 5 and found[1].tolist() == [1.0] * 3
    all_tied = retrieval_ranks_both_ways(
        torch.ones(5, 2), torch.ones(3, 2), second_index=[0, 0, 1, 2, 1]
    )
    assert all_tied[0].tolist() == [2.0] * 5
    assert all_tied[1].tolist() == [2.5, 2.5, 3.0], "three or four of others tie"


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ([0, 0, 2], "no partner for 1 of 3 second vectors, the first is row 1"),
        ([0, 1, 3], "second_index runs from 0 to 3: it must lie in 0 to 2"),
        ([0, 1], r"second_index has shape \(2,\): it must be \(3,\)"),
        ([0.0, 1.0, 2.0], "must hold whole numbers"),
    ],
)
def test_partners_that_do_not_fit_are_refused(index, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        retrieval_ranks_both_ways(torch.eye(3), torch.eye(3), second_index=index)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("d", [1, 33, 512])
def test_ranks_of_near_ties_are_those_of_the_definition(d, threads) -> None:
    queries, targets = near_ties(170, d)
    forth, back = defined_ranks(queries, targets), defined_ranks(targets, queries)
    for count, block_size in ((1, 64), (2, 64), (2, 171), (1, 13)):
        threads(count)
        assert torch.equal(retrieval_ranks(queries, targets, block_size=block_size), forth)
        assert torch.equal(retrieval_ranks(targets, queries, block_size=block_size), back)
        both = retrieval_ranks_both_ways(queries, targets, block_size)
        assert torch.equal(both[0], forth)
        assert torch.equal(both[1], back)


@given(seed=st.integers(0, 10**6), d=st.integers(3, 300), size=st.sampled_from([1e-15, 1.0, 1e9]))
@settings(max_examples=30)
def test_any_product_within_the_error_bound_gives_the_same_ranks(seed, d, size) -> None:
    """A product that errs by nearly all that the order of a sum may: no real one does."""
    rng = np.random.default_rng(seed)

    def worst(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        reach = d * 2.0**-24 / (1 - d * 2.0**-24) - 2 * 2.0**-24  # 2 for the rounding to float32
        sums = one.abs().double() @ other.abs().double()
        signs = torch.tensor(rng.choice([-1, 1], tuple(out.shape)))
        return out.copy_(one.double() @ other.double() + signs * reach * sums)

    # Nearly parallel, so that the norms' product is nearly the sum of the products' sizes.
    queries, targets = (
        torch.tensor(1 + rng.random((40, d)) / 10, dtype=torch.float32) for _ in range(2)
    )
    targets *= size
    targets[20:] = targets[:20] * (1 + d * torch.rand(20, 1) * 2.0**-22)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", worst)
        both = retrieval_ranks_both_ways(queries, targets, block_size=17)
    assert torch.equal(both[0], defined_ranks(queries, targets))
    assert torch.equal(both[1], defined_ranks(targets, queries))


def test_the_order_of_the_sum_decides() -> None:
    # 1 + 2^-24 lies between two float32 numbers and rounds down. Each 2^-54 after it is lost in
    # float64, but eight of them added up before it would make it round up.
    small = [2.0**-54] * 8
    queries = torch.ones(1, 10)
    targets = torch.tensor([[1, 0] + [0.0] * 8, [1, 2.0**-24, *small]])
    assert retrieval_ranks(queries, targets, [0]).tolist() == [1.5]
    assert retrieval_ranks(queries, targets.flip(1), [0]).tolist() == [2.0]


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


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_ranks_do_not_depend_on_allowed_precisions(precision: str, monkeypatch) -> None:
    queries, targets = near_ties(170, 512)
    expected = defined_ranks(queries, targets)
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    used: set[str] = set()
    product = torch.mm

    def watched(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        used.update(backend.matmul.fp32_precision for backend in backends)
        return product(one, other, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        allowed = [backend.matmul.fp32_precision for backend in backends]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(retrieval_ranks(queries, targets), expected)
        assert used == {"ieee"}
        assert [backend.matmul.fp32_precision for backend in backends] == allowed
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_device_whose_float32_product_is_less_is_refused(monkeypatch) -> None:
    def coarse(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(one.bfloat16() @ other.bfloat16())

    monkeypatch.setattr(torch, "mm", coarse)
    with pytest.raises(RuntimeError, match="less precise than float32"):
        retrieval_ranks(features(50, 64), features(50, 64, 1))


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
    assert 37 * 37 <= seen.elements <= 37 * 37 + 7  # the places of zeros are found in eights


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
