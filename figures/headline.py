"""Tables 4 and 5 of the paper: teacher, student and fused model, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from figures.outcomes import check_alike, sweep_rows
from fitclip_core.metrics import error_rate_reduction


def headline_table(metrics: pd.DataFrame, alpha: float = 0.4) -> pd.DataFrame:
    """Each metric of the teacher, the student and the model fused at `alpha`, mean over draws.

    `metrics` is what `ResultsStore.metrics` gives, of one way of training; references in it are
    left out. Index: data_set, direction, metric. Columns: teacher, student, fused (percent; ranks
    for MdR), improvement (fused over teacher, positive is better), error_rate_reduction (percent of
    the teacher's error; of its rank for MdR; NaN where the teacher makes no error), n (items
    measured), of (clips asked for; missing where the metrics do not know), draws.

    Raises: ValueError when the metrics lack an end or this alpha, mix students trained in
    different ways, their draws differ, or the models were not measured on equally many clips.
    Source: tables 4 and 5.
    """
    metrics = sweep_rows(metrics)
    check_alike(metrics, ["alpha"], "the metrics")
    models = {"teacher": 0.0, "student": 1.0, "fused": alpha}
    index = ["data_set", "direction", "metric"]
    columns = {}
    draws = {}
    used = []
    for model, place in models.items():
        rows = metrics[np.isclose(metrics["alpha"], place, atol=1e-9)]
        if rows.empty:
            there = sorted(set(metrics["alpha"]))
            raise ValueError(f"no metrics of the {model} (alpha {place:g}); alphas there: {there}")
        groups = rows.groupby(index, observed=True, sort=False)
        columns[model] = groups["value"].mean()
        draws[model] = groups["draw"].agg(lambda draws: str(sorted(draws)))
        used.append(rows)
    table = pd.DataFrame(columns)
    if table.isna().to_numpy().any() or not draws["fused"].equals(draws["student"]):
        raise ValueError(
            "teacher, student and fused model do not cover the same data sets and draws; "
            "finish the sweep or leave some out"
        )
    metric = table.index.get_level_values("metric")
    table = table.mul(np.where(metric == "MdR", 1, 100), axis=0)
    pairs = list(zip(metric, table["teacher"], table["fused"], strict=True))
    table["improvement"] = [improvement(*pair) for pair in pairs]
    table["error_rate_reduction"] = [reduction(*pair) for pair in pairs]
    groups = pd.concat(used).groupby(index, observed=True)
    numbers = groups["n"].nunique()
    if uneven := numbers.index[numbers > 1].tolist():
        raise ValueError(
            f"the models were not measured on equally many clips of {uneven[0][0]}; measure them "
            "again with the same frames"
        )
    table["n"] = groups["n"].first()
    table["of"] = groups["clips"].first()
    table["draws"] = used[1].groupby(index, observed=True)["draw"].count()
    return table


def improvement(metric: str, teacher: float, fused: float) -> float:
    """What fusion gains over the teacher, in the metric's unit; positive is better.

    metric: "MdR" is a rank, where lower is better; every other is in percent.

    Source: the rows "Δ" of tables 4 and 5.
    """
    return teacher - fused if metric == "MdR" else fused - teacher


def reduction(metric: str, teacher: float, fused: float) -> float:
    """Percent of the teacher's error that fusion removes (`metrics.error_rate_reduction`).

    metric: "MdR" takes ranks, every other percent. NaN where the teacher makes no error.

    Raises: ValueError for values out of range.
    Source: the rows "Error rate reduction" of tables 4 and 5.
    """
    if metric == "MdR":
        return 100 * error_rate_reduction(teacher, fused, kind="median_rank")
    return np.nan if teacher == 100 else 100 * error_rate_reduction(teacher, fused)
