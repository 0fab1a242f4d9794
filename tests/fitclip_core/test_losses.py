import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fitclip_core.losses import contrastive_loss, distillation_loss, fitclip_loss


def matrix(rows: int, columns: int, seed: int = 0, scale: float = 5.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale


def plain_softmax(scores: np.ndarray) -> np.ndarray:
    return np.array([np.exp(row) / sum(np.exp(value) for value in row) for row in scores])


def plain_divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Sum over the rows' distributions of p * log(p / q), divided by the number of rows."""
    p, q = plain_softmax(teacher), plain_softmax(student)
    total = 0.0
    for row in range(p.shape[0]):
        for column in range(p.shape[1]):
            total += p[row, column] * np.log(p[row, column] / q[row, column])
    return total / p.shape[0]


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_contrastive_is_the_sum_of_both_cross_entropies(n: int) -> None:
    scores = matrix(n, n)
    right = torch.arange(n)
    expected = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
    torch.testing.assert_close(contrastive_loss(scores), expected)


def test_contrastive_by_hand() -> None:
    # Rows: -log(e^1 / (e^1 + e^0)) each; columns the same. Equal scores: log 2 a direction.
    expected = 2 * np.log(1 + np.exp(-1))
    assert contrastive_loss(torch.eye(2)).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive_loss(torch.zeros(2, 2)).item() == pytest.approx(2 * np.log(2), abs=1e-6)


def test_contrastive_gradient() -> None:
    scores = matrix(4, 4, scale=1).requires_grad_()
    assert torch.autograd.gradcheck(contrastive_loss, (scores,))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), shift=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_contrastive_ignores_order_of_pairs_transposition_and_shift(seed, n, shift) -> None:
    scores = matrix(n, n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = contrastive_loss(scores)
    torch.testing.assert_close(contrastive_loss(scores[order][:, order]), expected)
    torch.testing.assert_close(contrastive_loss(scores.T), expected)
    torch.testing.assert_close(contrastive_loss(scores + shift), expected)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (4, 7), (7, 2)])
def test_distillation_is_the_hand_written_divergence(rows: int, columns: int) -> None:
    student, teacher = matrix(rows, columns, 1), matrix(rows, columns, 2)
    s, t = student.numpy(), teacher.numpy()
    expected = (plain_divergence(t, s) + plain_divergence(t.T, s.T)) * 3.0**2
    assert distillation_loss(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-9)


def test_distillation_survives_a_sure_teacher() -> None:
    teacher = torch.eye(3) * 1e4  # the other probabilities underflow to 0
    loss = distillation_loss(torch.zeros(3, 3), teacher, 1.0)
    assert loss.item() == pytest.approx(2 * np.log(3), rel=1e-6)


def test_distillation_reaches_the_student_alone() -> None:
    student, teacher = matrix(3, 4, 1).requires_grad_(), matrix(3, 4, 2).requires_grad_()
    distillation_loss(student, teacher, torch.tensor(2.0)).backward()
    assert teacher.grad is None
    # At the rows' and columns' softmax the gradient is (q - p) / n + (q' - p') / m, times scale^2.
    s, t = student.detach(), teacher.detach()
    rows = (s.softmax(1) - t.softmax(1)) / 3
    columns = (s.softmax(0) - t.softmax(0)) / 4
    torch.testing.assert_close(student.grad, (rows + columns) * 4)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 5), m=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_distillation_is_zero_for_equals_and_never_below(seed, n, m) -> None:
    student, teacher = matrix(n, m, seed), matrix(n, m, seed + 1)
    assert distillation_loss(teacher, teacher, 100.0).item() == 0
    assert distillation_loss(student, teacher, 1.0).item() >= -1e-12


def test_total_weighs_the_two() -> None:
    labelled, student, teacher = matrix(5, 5, 3), matrix(4, 6, 4), matrix(4, 6, 5)
    for share in (0.0, 0.3, 0.9999, 1.0):
        expected = share * contrastive_loss(labelled) + (1 - share) * distillation_loss(
            student, teacher, 10.0
        )
        total = fitclip_loss(labelled, student, teacher, 10.0, labelled_share=share)
        assert total.ndim == 0
        torch.testing.assert_close(total, expected)
    default = fitclip_loss(labelled, student, teacher, 10.0)
    torch.testing.assert_close(default, fitclip_loss(labelled, student, teacher, 10.0, 0.9999))


def test_total_needs_only_what_it_weighs() -> None:
    labelled, student, teacher = matrix(5, 5, 3), matrix(4, 6, 4), matrix(4, 6, 5)
    only_labelled = fitclip_loss(labelled, None, None, None, labelled_share=1)
    torch.testing.assert_close(only_labelled, contrastive_loss(labelled))
    only_distilled = fitclip_loss(None, student, teacher, 10.0, labelled_share=0)
    torch.testing.assert_close(only_distilled, distillation_loss(student, teacher, 10.0))
    with pytest.raises(ValueError, match="labelled_scores is None"):
        fitclip_loss(None, student, teacher, 10.0)
    with pytest.raises(ValueError, match="only at 1"):
        fitclip_loss(labelled, student, None, 10.0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_total_refuses_shares_outside(share: float) -> None:
    with pytest.raises(ValueError, match="labelled_share"):
        fitclip_loss(matrix(2, 2), matrix(2, 2), matrix(2, 2), 1.0, labelled_share=share)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 3), "square"),
        (torch.zeros(0, 0), "non-empty"),
        (torch.zeros(4), "matrix"),
        (torch.full((2, 2), float("nan")), "NaN"),
        (torch.full((2, 2), float("inf")), "infinite"),
    ],
)
def test_contrastive_refuses(scores: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(scores)


def test_distillation_refuses() -> None:
    good = matrix(2, 3)
    with pytest.raises(ValueError, match="same videos and texts"):
        distillation_loss(good, matrix(3, 2), 1.0)
    with pytest.raises(ValueError, match="teacher_scores holds NaN"):
        distillation_loss(good, good * float("nan"), 1.0)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="teacher_logit_scale"):
            distillation_loss(good, good, scale)
