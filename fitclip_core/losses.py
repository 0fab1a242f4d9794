"""FitCLIP's two losses and their weighted sum, on matrices of scores.

Scores are logits `[videos, texts]`: dot products of features, divided by a temperature.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of the matching pairs, video-to-text plus text-to-video (summed, not halved).

    Args:
        scores: [n, n], ``V @ T.T / temperature``; pair i is on the diagonal.

    Returns:
        0-d tensor in nats: ``-mean_i log softmax_row(S)_ii - mean_i log softmax_col(S)_ii``.

    Raises:
        ValueError: scores are not a square, non-empty matrix, or not all finite.

    Source: FitCLIP's loss on labelled pairs, that of Bain et al. 2021 (Frozen in Time).

    Example:
        >>> round(contrastive_loss(torch.zeros(2, 2)).item(), 4)  # 2 * log(2)
        1.3863
    """
    _check_scores("scores", scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}: pair i must be on the diagonal of a square "
            "matrix; pass the scores of n videos against their own n texts"
        )
    video_to_text = F.log_softmax(scores, dim=1).diagonal().mean()
    text_to_video = F.log_softmax(scores, dim=0).diagonal().mean()
    return -video_to_text - text_to_video


def distillation_loss(
    student_scores: Tensor, teacher_scores: Tensor, teacher_logit_scale: float | Tensor
) -> Tensor:
    """KL(teacher || student) over rows plus over columns, times the teacher's squared scale.

    No pairing is used. No gradient flows to the teacher.

    Args:
        student_scores: [n, m].
        teacher_scores: [n, m], of the same videos and texts.
        teacher_logit_scale: 1 / temperature of the teacher's scores, in FitCLIP 1 / 0.015 as the
            student's. With one of its own (CLIP's is 100) equal weights have a loss.

    Returns:
        0-d tensor in nats times the squared scale. Rows are averaged over n, columns over m.

    Raises:
        ValueError: shapes differ, a matrix is empty or not finite, or the scale is not positive.

    Source: FitCLIP's loss on pseudo-labels. Hinton et al. 2015, section 2, multiply by the squared
        temperature; this is its inverse, 4,444 at 0.015, so that with a share of 1e-4 the
        divergence weighs 0.44 beside the contrastive loss's 0.9999.
    """
    _check_scores("student_scores", student_scores)
    _check_scores("teacher_scores", teacher_scores)
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            f"student_scores has shape {tuple(student_scores.shape)} and teacher_scores "
            f"{tuple(teacher_scores.shape)}: score the same videos and texts with both"
        )
    scale = float(teacher_logit_scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"teacher_logit_scale is {scale}: give 1 / temperature, above 0")
    student, teacher = student_scores, teacher_scores.detach()
    return (_divergence(student, teacher) + _divergence(student.T, teacher.T)) * scale**2


class FitclipLosses(NamedTuple):
    """The total loss of a step and its two parts, 0-d tensors; None: of share 0, not computed."""

    total: Tensor
    labelled: Tensor | None
    distillation: Tensor | None


def fitclip_losses(
    labelled_scores: Tensor | None,
    student_scores: Tensor | None,
    teacher_scores: Tensor | None,
    teacher_logit_scale: float | Tensor | None,
    labelled_share: float = 0.9999,
) -> FitclipLosses:
    """``labelled_share * contrastive + (1 - labelled_share) * distillation``, and both of them.

    Args:
        labelled_scores: [n, n] of the student, of labelled pairs; not needed at labelled_share 0.
        student_scores: [k, m] of unlabelled clips; as the next two not needed at labelled_share 1.
        teacher_scores: [k, m] of the same.
        teacher_logit_scale: see :func:`distillation_loss`.
        labelled_share: in [0, 1]. A loss of weight 0 is not computed.

    Raises:
        ValueError: labelled_share is outside [0, 1], something needed is None, or either loss
            refuses its input.

    Source: FitCLIP's total loss; supplement, section 8: lambda = 1e-4 = 1 - labelled_share.
    """
    if not 0 <= labelled_share <= 1:
        raise ValueError(f"labelled_share is {labelled_share}: it must lie in [0, 1]")
    labelled = distillation = None
    terms = []
    if labelled_share > 0:
        if labelled_scores is None:
            raise ValueError(f"labelled_scores is None at labelled_share {labelled_share}: pass it")
        labelled = contrastive_loss(labelled_scores)
        terms.append(labelled_share * labelled)
    if labelled_share < 1:
        if student_scores is None or teacher_scores is None or teacher_logit_scale is None:
            raise ValueError(
                "student_scores, teacher_scores and teacher_logit_scale are all needed at "
                f"labelled_share {labelled_share}; only at 1 may they be None"
            )
        distillation = distillation_loss(student_scores, teacher_scores, teacher_logit_scale)
        terms.append((1 - labelled_share) * distillation)
    return FitclipLosses(torch.stack(terms).sum(), labelled, distillation)


def fitclip_loss(
    labelled_scores: Tensor | None,
    student_scores: Tensor | None,
    teacher_scores: Tensor | None,
    teacher_logit_scale: float | Tensor | None,
    labelled_share: float = 0.9999,
) -> Tensor:
    """The total of :func:`fitclip_losses`, a 0-d tensor; arguments and errors as there."""
    scores = (labelled_scores, student_scores, teacher_scores)
    return fitclip_losses(*scores, teacher_logit_scale, labelled_share).total


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the last axis, averaged over the first."""
    student, teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(scores.shape)}: give [videos, texts], not empty")
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{name} holds NaN or infinite values: look for a diverged model or a zero feature "
            "that was normalised"
        )
