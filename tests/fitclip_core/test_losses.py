"""The two losses against PyTorch's cross-entropy and a divergence written out, and their sum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fitclip_core.losses import contrastive_loss, distillation_loss, fitclip_loss

NAN = float("nan")


def matrix(rows: int, columns: int, seed: int = 0, scale: float = 5.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale


def plain_divergence(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """Sum over the rows' distributions of p * log(p / q), divided by the number of rows."""
    total = 0.0
    for old, new in zip(teacher.tolist(), student.tolist(), strict=True):
        of_old, of_new = (sum(math.exp(value) for value in row) for row in (old, new))
        for one, other in zip(old, new, strict=True):
            p, q = math.exp(one) / of_old, math.exp(other) / of_new
            total += p * math.log(p / q)
    return total / len(teacher)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), shift=st.floats(-50, 50))
@settings(max_examples=30)
def test_contrastive_is_the_sum_of_both_cross_entropies(seed, n, shift) -> None:
    scores, right = matrix(n, n, seed), torch.arange(n)
    expected = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
    torch.testing.assert_close(contrastive_loss(scores), expected)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for same in (scores.T, scores[order][:, order], scores + shift):
        torch.testing.assert_close(contrastive_loss(same), expected)


def test_contrastive_by_hand() -> None:
    # Rows: -log(e^1 / (e^1 + e^0)) each; columns the same. Equal scores: log 2 a direction.
    expected = 2 * np.log(1 + np.exp(-1))
    assert contrastive_loss(torch.eye(2)).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive_loss(torch.zeros(2, 2)).item() == pytest.approx(2 * np.log(2), abs=1e-6)
    assert torch.autograd.gradcheck(contrastive_loss, (matrix(4, 4, scale=1).requires_grad_(),))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (4, 7), (7, 2)])
def test_distillation_is_the_divergence_written_out(rows: int, columns: int) -> None:
    student, teacher = matrix(rows, columns, 1), matrix(rows, columns, 2)
    expected = plain_divergence(teacher, student) + plain_divergence(teacher.T, student.T)
    assert distillation_loss(student, teacher, 3.0).item() == pytest.approx(9 * expected, rel=1e-9)
    assert distillation_loss(teacher, teacher, 100.0).item() == 0
    sure = torch.eye(3) * 1e4  # the other probabilities underflow to 0
    loss = distillation_loss(torch.zeros(3, 3), sure, 1.0)
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


def test_total_weighs_the_two_and_needs_only_what_it_weighs() -> None:
    labelled, student, teacher = matrix(5, 5, 3), matrix(4, 6, 4), matrix(4, 6, 5)
    first, second = contrastive_loss(labelled), distillation_loss(student, teacher, 10.0)
    for share in (0.0, 0.3, 0.9999, 1.0):
        total = fitclip_loss(labelled, student, teacher, 10.0, labelled_share=share)
        torch.testing.assert_close(total, share * first + (1 - share) * second)
    default = fitclip_loss(labelled, student, teacher, 10.0)
    torch.testing.assert_close(default, 0.9999 * first + 1e-4 * second)
    torch.testing.assert_close(fitclip_loss(labelled, None, None, None, labelled_share=1), first)
    only_distilled = fitclip_loss(None, student, teacher, 10.0, labelled_share=0)
    torch.testing.assert_close(only_distilled, second)


GOOD, WIDE = matrix(2, 2), matrix(2, 3)


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (contrastive_loss, (torch.zeros(2, 3),), "square"),
        (contrastive_loss, (torch.zeros(0, 0),), "not empty"),
        (contrastive_loss, (torch.zeros(4),), "give \\[videos"),
        (contrastive_loss, (GOOD * NAN,), "NaN"),
        (contrastive_loss, (GOOD * math.inf,), "infinite"),
        (distillation_loss, (WIDE, matrix(3, 2), 1.0), "same videos and texts"),
        (distillation_loss, (WIDE, WIDE * NAN, 1.0), "teacher_scores holds NaN"),
        (distillation_loss, (WIDE * NAN, WIDE, 1.0), "student_scores holds NaN"),
        *[
            (distillation_loss, (WIDE, WIDE, scale), "teacher_logit_scale")
            for scale in (0.0, -1.0, NAN, math.inf)
        ],
        *[
            (fitclip_loss, (GOOD, GOOD, GOOD, 1.0, share), "labelled_share")
            for share in (-0.1, 1.1, NAN)
        ],
        (fitclip_loss, (None, GOOD, GOOD, 1.0), "labelled_scores is None"),
        (fitclip_loss, (GOOD, GOOD, None, 1.0), "only at 1"),
    ],
)
def test_wrong_scores_and_settings_are_refused(loss, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        loss(*arguments)
