"""Tables 4 and 5 of the paper: teacher, student and fused model, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fitclip_core.metrics import error_rate_reduction
from fitclip_core.results import check_one_training


def headline_table(metrics: pd.DataFrame, alpha: float = 0.4) -> pd.DataFrame:
    """Each metric of the teacher, the student and the model fused at `alpha`, mean over draws.

    `metrics` is what `ResultsStore.metrics` gives, of one way of training. Index: data_set,
    direction, metric. Columns: teacher, student, fused (percent; ranks for MdR), improvement
    (fused over teacher, positive is better), error_rate_reduction (percent of the teacher's error;
    of its rank for MdR; NaN where the teacher makes no error), n (items), draws.

    Raises: ValueError when the metrics lack an end or this alpha, mix students trained in
    different ways, or their draws differ.
    Source: tables 4 and 5.
    """
    check_one_training(metrics, "the metrics")
    models = {"teacher": 0.0, "student": 1.0, "fused": alpha}
    index = ["data_set", "direction", "metric"]
    columns = {}
    draws = {}
    for model, place in models.items():
        rows = metrics[np.isclose(metrics["alpha"], place, atol=1e-9)]
        if rows.empty:
            there = sorted(set(metrics["alpha"]))
            raise ValueError(f"no metrics of the {model} (alpha {place:g}); alphas there: {there}")
        groups = rows.groupby(index, observed=True, sort=False)
        columns[model] = groups["value"].mean()
        draws[model] = groups["seed"].agg(lambda seeds: str(sorted(seeds)))
    table = pd.DataFrame(columns)
    if table.isna().to_numpy().any() or not draws["fused"].equals(draws["student"]):
        raise ValueError(
            "teacher, student and fused model do not cover the same data sets and draws; "
            "finish the sweep or leave some out"
        )
    is_rank = table.index.get_level_values("metric") == "MdR"
    table = table.mul(np.where(is_rank, 1, 100), axis=0)
    gain = table["fused"] - table["teacher"]
    table["improvement"] = gain.where(~is_rank, -gain)
    table["error_rate_reduction"] = [
        np.nan
        if old == 100 and not rank
        else 100 * error_rate_reduction(old, new, kind="median_rank" if rank else "accuracy")
        for old, new, rank in zip(table["teacher"], table["fused"], is_rank, strict=True)
    ]
    table["n"] = metrics.groupby(index, observed=True)["n"].first()
    table["draws"] = metrics[metrics["alpha"] == 1].groupby(index, observed=True)["seed"].count()
    return table
