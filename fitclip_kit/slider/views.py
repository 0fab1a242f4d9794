"""What the page shows at one alpha, as tables: from outcomes and features, with no widgets.

Nothing here resamples: shares have the binomial interval of `metric_table`, paired differences the
one of Bonett and Price of `per_class_differences`, both of 95%. All of one student: the intervals
cover new items, not new students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from figures.measures import Measure
from fitclip_core.metrics import per_class_accuracy
from fitclip_core.statistics import per_class_differences
from fitclip_kit.slider.stored import Point, Status, StoredSweep, of_direction, share_point
from fitclip_kit.store.results import CLASSIFICATION

METRICS_COLUMNS = (
    "data_set",
    "measure",
    "value",
    "ci_low",
    "ci_high",
    "teacher",
    "student",
    "difference",
    "status",
)
Features = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]


def metrics_table(points: Mapping[str, Point], sweep: StoredSweep, draw: int) -> pd.DataFrame:
    """Every data set's measure at the chosen alpha beside the stored teacher and student.

    Args:
        points: data set -> its point, stored, exact or interpolated.
        sweep: gives the measures and the two ends; it must hold alpha 0 and 1.
        draw: the student.

    Returns:
        One row for each data set, in the order of points: data_set, measure (such as "top-1"),
        value, ci_low, ci_high, teacher, student, difference (value - teacher), status. Fractions.

    Raises:
        ValueError: the data set, draw, alpha 0 or alpha 1 is not in the sweep.
    """
    rows = []
    for name, point in points.items():
        teacher, student = (sweep.at(name, draw, end).value for end in (0.0, 1.0))
        rows.append(
            {
                "data_set": name,
                "measure": sweep.measures[name].name,
                "value": point.value,
                "ci_low": point.ci_low,
                "ci_high": point.ci_high,
                "teacher": teacher,
                "student": student,
                "difference": point.value - teacher,
                "status": point.status,
            }
        )
    return pd.DataFrame(rows, columns=METRICS_COLUMNS)


def set_answer(
    outcomes: pd.DataFrame,
    teacher_outcomes: pd.DataFrame,
    student_outcomes: pd.DataFrame,
    measure: Measure,
    status: Status = "exact",
) -> pd.DataFrame:
    """One data set's measure at the chosen alpha, paired with the teacher over the same items.

    Args:
        outcomes, teacher_outcomes, student_outcomes: of one model each, as `zero_shot.rank` or
            `StoredSweep.outcomes`; items in any order.
        measure: direction and k.
        status: where the outcomes are from.

    Returns:
        One row: data_set, measure, value, ci_low, ci_high, teacher, student, difference (value -
        teacher), diff_low, diff_high, n (items measured), clips (asked for; missing where the
        outcomes have no coverage), status. Shares are fractions. The difference's interval has one
        item for and one against added, and so is not centred on it.

    Raises:
        ValueError: items are repeated, differ between the models or have no finite rank, or no row
            is of the measure's direction.
    """
    now, teacher, student = _same_items(
        measure.direction, now=outcomes, teacher=teacher_outcomes, student=student_outcomes
    )
    point = share_point(now, measure, status)
    hits, teacher_hits, student_hits = (
        (table["rank"] <= measure.k).to_numpy() for table in (now, teacher, student)
    )
    paired = per_class_differences(teacher_hits, hits, np.zeros(len(hits))).iloc[0]
    row = {
        "data_set": measure.data_set,
        "measure": measure.name,
        "value": point.value,
        "ci_low": point.ci_low,
        "ci_high": point.ci_high,
        "teacher": teacher_hits.mean(),
        "student": student_hits.mean(),
        "difference": paired["difference"],
        "diff_low": paired["low"],
        "diff_high": paired["high"],
        "n": len(hits),
        "clips": outcomes.attrs.get("coverage", {}).get("clips", pd.NA),
        "status": status,
    }
    return pd.DataFrame([row]).astype({"clips": "Int64"})


def class_changes(
    outcomes: pd.DataFrame, teacher_outcomes: pd.DataFrame, count: int = 5, k: int = 1
) -> pd.DataFrame:
    """The classes whose accuracy gained and lost most since the teacher.

    Args:
        outcomes, teacher_outcomes: of a classification set, items in any order.
        count: number of winners, and of losers, at most.
        k: an item counts when its class has rank <= k.

    Returns:
        change ("gained" or "lost"), class, n (items), teacher, now, difference (now - teacher),
        low, high (its interval); fractions. Winners first, the largest change first, of equal ones
        in order of name. Classes that stay as they were are left out; `attrs["counts"]` has the
        number of classes that "gained", "lost" and stayed the "same". The classes are shown because
        they are extreme, which the intervals do not allow for.

    Raises:
        ValueError: as `set_answer`, or count is below 1.

    Source:
        Supplement, figure 1 (per-class differences).
    """
    _check_count(count)
    now, teacher = _same_items(CLASSIFICATION, now=outcomes, teacher=teacher_outcomes)
    labels = now["label"].to_numpy()
    table = per_class_accuracy(now["rank"], labels, k).rename(columns={"accuracy": "now"})
    table["teacher"] = per_class_accuracy(teacher["rank"], labels, k)["accuracy"]
    table["difference"] = table["now"] - table["teacher"]
    gained, lost = table[table["difference"] > 0], table[table["difference"] < 0]
    shown = pd.concat(
        [
            _largest(gained, gained["difference"], count, "class").assign(change="gained"),
            _largest(lost, -lost["difference"], count, "class").assign(change="lost"),
        ],
        ignore_index=True,
    )
    # Only of what is shown: a test for each of hundreds of classes would take too long.
    rows = np.isin(labels, shown["class"])
    columns = ["change", "class", "n", "teacher", "now", "difference", "low", "high"]
    if rows.any():
        before, after = ((side["rank"] <= k).to_numpy()[rows] for side in (teacher, now))
        intervals = per_class_differences(before, after, labels[rows])[["class", "low", "high"]]
        shown = shown.merge(intervals, on="class", how="left", validate="one_to_one")
    shown = shown.reindex(columns=columns)
    shown.attrs["counts"] = {
        "gained": len(gained),
        "lost": len(lost),
        "same": len(table) - len(gained) - len(lost),
    }
    return shown


def retrieval_changes(
    outcomes: pd.DataFrame, teacher_outcomes: pd.DataFrame, measure: Measure, count: int = 5
) -> pd.DataFrame:
    """The items whose right target entered or left the first k since the teacher.

    Args:
        outcomes, teacher_outcomes: of one data set, items in any order.
        measure: direction and k.
        count: number of items that entered, and that left, at most.

    Returns:
        change ("entered" or "left"), item, teacher, now (1-based mid-ranks). Those that entered
        first; the largest change of rank, as a ratio, first, then by item. `attrs["counts"]` has
        the number of items that "entered", "left", "stayed" in and are "outside" at both.

    Raises:
        ValueError: as `set_answer`, or count is below 1.
    """
    _check_count(count)
    now, teacher = _same_items(measure.direction, now=outcomes, teacher=teacher_outcomes)
    table = pd.DataFrame({"teacher": teacher["rank"], "now": now["rank"]}).reset_index()
    was_in, is_in = table["teacher"] <= measure.k, table["now"] <= measure.k
    entered, left = table[is_in & ~was_in], table[was_in & ~is_in]
    shown = pd.concat(
        [
            _largest(entered, entered["teacher"] / entered["now"], count, "item").assign(
                change="entered"
            ),
            _largest(left, left["now"] / left["teacher"], count, "item").assign(change="left"),
        ],
        ignore_index=True,
    )
    shown = shown[["change", "item", "teacher", "now"]]
    shown.attrs["counts"] = {
        "entered": len(entered),
        "left": len(left),
        "stayed": int((is_in & was_in).sum()),
        "outside": int((~is_in & ~was_in).sum()),
    }
    return shown


def probabilities(
    video_feature: Features,
    target_features: Features,
    logit_scale: float,
    names: Sequence[str],
    right: int | Sequence[int] | None = None,
    count: int = 8,
) -> pd.DataFrame:
    """The most probable classes or captions of one clip.

    Args:
        video_feature: [d], as the encoder gives it; a mean is not renormalised.
        target_features: [m, d] of the classes or captions.
        logit_scale: what scores are multiplied with, such as 100; not its logarithm.
        names: [m] what the targets are called; names may repeat.
        right: the right target's place in names, or several's; None: not known.
        count: targets shown at most; the best right one is added when none is among them.

    Returns:
        name, score (dot product: a cosine shrunk by the means' lengths), probability (softmax of
        logit_scale * score over all m), right (missing where none is known), rank (1-based
        mid-rank, as `metrics.retrieval_ranks`), place (in names, from 0). The best first, of equal
        ones the first in names.

    Raises:
        ValueError: shapes do not fit, a feature is not finite, or logit_scale, right or count is
            out of range.

    Source:
        ARCHITECTURE, "Numeric conventions" (features and ranks); CLIP (the softmax).
    """
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise ValueError(f"logit_scale is {logit_scale}; give a number above 0, such as 100")
    scores = _scores("video_feature", video_feature, "target_features", target_features)
    _check_number("names", names, len(scores))
    places = [] if right is None else np.atleast_1d(right).tolist()
    if not all(0 <= place < len(scores) for place in places):
        raise ValueError(
            f"right is {right}; with {len(scores)} targets it is 0 to {len(scores) - 1}"
        )
    order = _best_first(scores, count)
    if places and not np.isin(order, places).any():
        order = np.append(order, max(places, key=lambda place: scores[place]))
    is_right = np.isin(order, places) if places else [pd.NA] * len(order)
    return pd.DataFrame(
        {
            "name": [names[place] for place in order],
            "score": scores[order],
            "probability": softmax(logit_scale * scores)[order],
            "right": pd.array(is_right, "boolean"),
            "rank": _mid_ranks(scores)[order],
            "place": order,
        }
    )


def retrieved(
    query_feature: Features, video_features: Features, clip_ids: Sequence[str], count: int = 8
) -> pd.DataFrame:
    """The clips that a text retrieves.

    Args:
        query_feature: [d] of the text.
        video_features: [n, d], as the encoder gives them.
        clip_ids: [n] their names, none repeated.
        count: clips shown at most.

    Returns:
        clip_id, score (dot product), place (1-based mid-rank, so clips of equal score share it).
        The best first, of equal ones the first in clip_ids.

    Raises:
        ValueError: shapes do not fit, a feature is not finite, a clip_id is repeated, or count is
            below 1.
    """
    scores = _scores("query_feature", query_feature, "video_features", video_features)
    _check_number("clip_ids", clip_ids, len(scores))
    if (repeated := pd.Index(clip_ids).duplicated()).any():
        raise ValueError(f"clip_id {clip_ids[int(repeated.argmax())]!r} occurs twice")
    order = _best_first(scores, count)
    return pd.DataFrame(
        {
            "clip_id": [clip_ids[place] for place in order],
            "score": scores[order],
            "place": _mid_ranks(scores)[order],
        }
    )


def entered_left(now: pd.DataFrame, before: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clips that are among the retrieved ones only now, and those that were only before.

    Args:
        now, before: from `retrieved`, with the same count.

    Returns:
        (entered, left): rows of now, and rows of before, in their order.
    """
    entered = now[~now["clip_id"].isin(before["clip_id"])]
    left = before[~before["clip_id"].isin(now["clip_id"])]
    return entered.reset_index(drop=True), left.reset_index(drop=True)


def _largest(table: pd.DataFrame, size: pd.Series, count: int, name: str) -> pd.DataFrame:
    """The rows of the largest sizes, at most count; of equal ones in order of the name."""
    # Rounded, so that equal shares do not differ by the order of a subtraction.
    ordered = table.assign(size=size.round(12)).sort_values(["size", name], ascending=[False, True])
    return ordered.head(count).drop(columns="size")


def _same_items(direction: str, **outcomes: pd.DataFrame) -> list[pd.DataFrame]:
    """Each model's outcomes in one direction by item, in the first one's order."""
    tables: list[pd.DataFrame] = []
    for name, table in outcomes.items():
        table = of_direction(table, direction).set_index("item")
        if (repeated := table.index.duplicated()).any():
            raise ValueError(f"{name}: item {table.index[repeated][0]!r} occurs twice")
        if (bad := ~np.isfinite(table["rank"].to_numpy(np.float64))).any():
            raise ValueError(f"{name}: item {table.index[bad][0]!r} has no finite rank")
        if tables and len(differing := tables[0].index.symmetric_difference(table.index)):
            raise ValueError(
                f"{name}: {len(differing)} items differ from the others', such as "
                f"{differing[0]!r}; measure the models on the same clips"
            )
        tables.append(table.reindex(tables[0].index) if tables else table)
    return tables


def _scores(one_name: str, one: Features, many_name: str, many: Features) -> NDArray[np.float64]:
    """Dot products [m], rounded as `metrics.retrieval_ranks` rounds, so that ties are its ties."""
    vector = torch.as_tensor(one).detach().cpu().float().double().numpy()
    matrix = torch.as_tensor(many).detach().cpu().float().double().numpy()
    if vector.ndim != 1 or matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(
            f"{one_name} has shape {vector.shape} and {many_name} {matrix.shape}; they must be "
            "[d] and a non-empty [m, d]"
        )
    if matrix.shape[1] != len(vector):
        raise ValueError(
            f"{one_name} has {len(vector)} numbers and {many_name} {matrix.shape[1]} columns: "
            "encode both with the same model"
        )
    for name, features in ((one_name, vector), (many_name, matrix)):
        if not np.isfinite(features).all():
            raise ValueError(f"{name} holds NaN or infinite values, which cannot be ranked")
    with np.errstate(over="ignore"):
        # cumsum adds in the features' order, whatever the shape, where a product's order may vary.
        scores = np.cumsum(matrix * vector, axis=1)[:, -1].astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError("scores overflow float32: normalise or scale down the features")
    return scores.astype(np.float64)


def _mid_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return rankdata(-scores, method="average")


def _best_first(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    _check_count(count)
    return np.argsort(-scores, kind="stable")[:count]


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count is {count}; show at least 1")


def _check_number(name: str, values: Sequence[str], number: int) -> None:
    if len(values) != number:
        raise ValueError(f"there are {len(values)} {name} and {number} features: pass one each")
