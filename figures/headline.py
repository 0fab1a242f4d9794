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
    for MdR), improvement and error_rate_reduction (of fused over teacher), n (items measured), of
    (clips asked for; missing where the metrics do not know), draws.

    Raises: ValueError when the metrics lack an end or this alpha, mix students trained in
    different ways, their draws differ, or the models were not measured on equally many clips.
    Source: tables 4 and 5.
    """
    metrics = sweep_rows(metrics)
    check_alike(metrics, ["alpha"], "the metrics")
    index, used = ["data_set", "direction", "metric"], {}
    for model, place in {"teacher": 0.0, "student": 1.0, "fused": alpha}.items():
        rows = metrics[np.isclose(metrics["alpha"], place, atol=1e-9)]
        if rows.empty:
            there = sorted(set(metrics["alpha"]))
            raise ValueError(f"no metrics of the {model} (alpha {place:g}); alphas there: {there}")
        used[model] = rows
    groups = {one: rows.groupby(index, observed=True, sort=False) for one, rows in used.items()}
    table = pd.DataFrame({model: of["value"].mean() for model, of in groups.items()})
    draws = [groups[one]["draw"].agg(lambda of: str(sorted(of))) for one in ("fused", "student")]
    if table.isna().to_numpy().any() or not draws[0].equals(draws[1]):
        raise ValueError(
            "teacher, student and fused model do not cover the same data sets and draws; "
            "finish the sweep or leave some out"
        )
    together = pd.concat(used.values()).groupby(index, observed=True)
    numbers = together["n"].nunique()
    if uneven := numbers.index[numbers > 1].tolist():
        raise ValueError(
            f"the models were not measured on equally many clips of {uneven[0][0]}; measure them "
            "again with the same frames"
        )
    metric = table.index.get_level_values("metric")
    table = table.mul(np.where(metric == "MdR", 1, 100), axis=0)
    pairs = list(zip(metric, table["teacher"], table["fused"], strict=True))
    return table.assign(
        improvement=[improvement(*pair) for pair in pairs],
        error_rate_reduction=[reduction(*pair) for pair in pairs],
        n=together["n"].first(),
        of=together["clips"].first(),
        draws=groups["student"]["draw"].count(),
    )


def improvement(metric: str, teacher: float, fused: float) -> float:
    """What fusion gains over the teacher: ranks for "MdR", where lower is better, else percent.

    Positive is better. Source: the rows "Δ" of tables 4 and 5.
    """
    return teacher - fused if metric == "MdR" else fused - teacher


def reduction(metric: str, teacher: float, fused: float) -> float:
    """Percent of the teacher's error, or for "MdR" of its rank, that fusion removes.

    NaN where the teacher makes no error. Errors as `metrics.error_rate_reduction`.

    Source: the rows "Error rate reduction" of tables 4 and 5.
    """
    if metric == "MdR":
        return 100 * error_rate_reduction(teacher, fused, kind="median_rank")
    return np.nan if teacher == 100 else 100 * error_rate_reduction(teacher, fused)
