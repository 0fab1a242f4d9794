"""How far towards the student a merge goes, so that merges of equal reach can be compared."""

from collections.abc import Mapping

from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from fitclip_core.ensembling import Schedule, State, fisher, interpolate

_SAME = "teacher and student have the same weights; there is no way from one to the other"


def distance_taken(teacher_state: State, student_state: State, alpha: float | Schedule) -> float:
    """The part of the way from teacher to student, in [0, 1], that a merge goes: its projection.

    It is ``<merged - teacher, student - teacher> / |student - teacher|**2`` over all fused weights,
    which is the mean of a schedule's alphas, weighted by the squared difference of the two models
    in each weight. Of one alpha it is alpha; of a schedule it may be far from the plain mean.

    Raises: ValueError as `ensembling.interpolate`, and when both models have the same weights.
    Example:
        >>> import torch
        >>> teacher, student = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
        >>> distance_taken(teacher, student, {"w": torch.tensor([0.25, 0.75])})
        0.5
    """
    merged = interpolate(teacher_state, student_state, alpha)
    student = interpolate(teacher_state, student_state, 1.0)
    along = whole = 0.0
    for name, start in teacher_state.items():
        way = student[name].double() - start.double()
        along += float(((merged[name].double() - start.double()) * way).sum())
        whole += float(way.square().sum())
    if not whole:
        raise ValueError(_SAME)
    return along / whole


def fisher_alpha(
    teacher_fisher: Mapping[str, Tensor],
    student_fisher: Mapping[str, Tensor],
    teacher_state: State,
    student_state: State,
    taken: float,
) -> float:
    """The alpha at which Fisher-weighted merging (`ensembling.fisher`) takes a part of the way, as
    `distance_taken` gives it, in (0, 1): to within 1e-4.

    At one and the same alpha the model with the larger gradients takes most of every weight, and
    Fisher merging is then a fusion with another alpha before it is anything else. (The authors'
    code divides each model's Fisher by its norm for that, which is another such alpha.)

    Raises: ValueError when `taken` is out of range, the models have the same weights, or as
    `ensembling.fisher`.
    """
    if not 0 < taken < 1:
        raise ValueError(f"the part to take is {taken}; give one between 0 and 1")
    student = interpolate(teacher_state, student_state, 1.0)
    squares = {
        name: (student[name].double() - start.double()).square().cpu()
        for name, start in teacher_state.items()
        if name in teacher_fisher
    }
    whole = sum(float(square.sum()) for square in squares.values())
    if not whole:
        raise ValueError(_SAME)

    def excess(log_odds: float) -> float:
        share = fisher(teacher_fisher, student_fisher, float(expit(log_odds)))
        along = sum(float((share(name) * square).sum()) for name, square in squares.items())
        return along / whole - taken

    return float(expit(brentq(excess, -30, 30, xtol=1e-4)))
