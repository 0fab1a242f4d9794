"""Measured results beside the paper's, and in the shape of its tables 2 to 6."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Final

import numpy as np
import pandas as pd

from figures.headline import improvement, reduction
from figures.outcomes import check_alike, ranks_of
from figures.paper import FUSED, MODELS, REDUCTION, layout, paper_values
from figures.paper_protocol import Record, differences, protocol_items
from fitclip_core.statistics import bootstrap_interval, crossed_interval, mean_interval
from fitclip_kit.store.results import (
    CLASSIFICATION,
    SHARES,
    Cell,
    ResultsStore,
    metric_table,
)

DIRECTIONS: Final = ("text_to_video", CLASSIFICATION)
_RIVALS: Final = ("fused", "wise_ft")
_K: Final = SHARES["retrieval"] | SHARES["classification"]
_Cells = Mapping[tuple[str, str], list[Cell]]


@dataclass(frozen=True)
class _Number:
    """A measured value with its interval, in percent (ranks for MdR)."""

    value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class _Measured:
    """One model on one data set: ranks of the paper's direction, items x draws, and its numbers."""

    ranks: pd.DataFrame
    numbers: dict[str, _Number]
    clips: int
    records: Sequence[Record]

    def number(self, metric: str) -> _Number:
        if metric not in self.numbers:
            cell = self.records[0]["cell"]
            raise ValueError(
                f"{cell['model']} on {cell['data_set']} was measured in {', '.join(self.numbers)}, "
                f"the paper's in {metric}; give a set of another kind another name"
            )
        return self.numbers[metric]


def beside_paper(
    results: ResultsStore,
    keys: Iterable[Cell] | None = None,
    *,
    alpha: float = 0.4,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every number of the paper's tables 2 to 6 with what was measured here beside it.

    keys: the cells to take, None for all; further data sets and alphas among them are left aside.
    "Teacher (CLIP)" and "CLIP" are the cells at alpha 0, "Student" and "FitCLIP" the students with
    labelled_share below 1 and their fusion at `alpha`, "WiSE-FT" the fusion with labelled_share 1,
    the three Frozen in Time the references named so in `paper.MODELS`.

    One row a number, in the paper's order. Columns: table, data_set, model (the paper's row),
    metric, value (percent, ranks for MdR; mean over draws), ci_low, ci_high, n (clips measured),
    clips (asked for), draws, paper, difference (value - paper), differs (which items of the
    protocol differ, see `protocol_table`). What was not measured is NaN. The interval is the cell's
    where there is one draw, else over items and draws; the paper gives none. "Delta"
    has that of the paired differences; for MdR, and for the error rate reduction, there
    is none. Where WiSE-FT and FitCLIP were measured with other draws, table 6, which sets the two
    side by side, has those of both.

    Raises: ValueError for students trained in different ways, fused cells without this alpha, or
    draws or models that were not measured on the same clips.
    Source: supplement, tables 2 to 6.
    """
    cells = _cells(results, keys, alpha)
    measured, rivals = (
        {place: _measure(results, one, level, n_resamples, seed) for place, one in chosen.items()}
        for chosen in (cells, _of_common_draws(cells))
    )
    differs = {
        (model, data_set): differences(protocol_items(one.records, model, data_set))
        for (model, data_set), one in measured.items()
    }
    rows = paper_values().rename(columns={"value": "paper"})
    found: list[dict[str, Any]] = []
    columns = ["table", "data_set", "model", "metric"]
    for table, data_set, row, metric in rows[columns].itertuples(index=False):
        model = MODELS.get(row, MODELS[FUSED])
        one, teacher = measured.get((model, data_set)), measured.get(("teacher", data_set))
        if table == "6":
            one = rivals.get((model, data_set), one)
        if one is None or (row not in MODELS and teacher is None):
            found.append({"differs": ""})
            continue
        number = one.number(metric)
        if row not in MODELS and teacher is not None:
            number = _derived(row, metric, teacher, one, level)
        counts = {"n": len(one.ranks), "clips": one.clips, "draws": one.ranks.shape[1]}
        found.append(vars(number) | counts | {"differs": differs[model, data_set]})
    columns = ["value", "ci_low", "ci_high", "n", "clips", "draws", "differs"]
    numbers = pd.DataFrame(found, columns=columns, index=rows.index)
    types = dict.fromkeys(columns[:3], "float64") | dict.fromkeys(columns[3:6], "Int64")
    beside = pd.concat([rows, numbers.astype(types)], axis=1)
    beside["difference"] = beside["value"] - beside["paper"]
    names = ["table", "data_set", "model", "metric", *columns[:6], "paper", "difference"]
    return beside[[*names, "differs"]]


def measured_table(table: str, beside: pd.DataFrame) -> pd.DataFrame:
    """Measured numbers in the shape of one of the paper's tables; NaN where nothing was measured.

    table: "2a" to "5c" or "6", laid out as `paper.paper_table` does.
    beside: what `beside_paper` gives.

    Raises: ValueError for another table.
    Source: supplement, tables 2 to 6.
    """
    return layout(beside, table, "value")


def protocol_table(
    results: ResultsStore, keys: Iterable[Cell] | None = None, *, alpha: float = 0.4
) -> pd.DataFrame:
    """The paper's protocol beside each measured one: what `differs` of `beside_paper` sums up.

    keys, alpha: as `beside_paper`.

    Columns: model (teacher, student, fused, wise_ft or a reference), data_set, item, paper, here,
    status (same, differs, not recorded).

    Raises: ValueError as `beside_paper`.
    """
    tables = [
        protocol_items([results.record(key) for key in cells], model, data_set).assign(
            model=model, data_set=data_set
        )
        for (model, data_set), cells in _cells(results, keys, alpha).items()
    ]
    columns = ["model", "data_set", "item", "paper", "here", "status"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def _cells(results: ResultsStore, keys: Iterable[Cell] | None, alpha: float) -> _Cells:
    """The cells behind the paper's numbers: (model, data set) -> one a draw."""
    chosen = results.cells() if keys is None else list(dict.fromkeys(keys))
    alphas = sorted({key.alpha for key in chosen if key.model == "fused" and key.is_plain})
    if alphas and not any(_is(alpha, one) for one in alphas):
        there = ", ".join(f"{one:g}" for one in alphas)
        raise ValueError(f"no fused model at alpha {alpha:g}; alphas there are: {there}")
    known = set(paper_values()["data_set"])
    cells: dict[tuple[str, str], list[Cell]] = {}
    for key in sorted(chosen, key=lambda key: key.draw or 0):
        model = _model(key, alpha)
        if key.data_set in known and model in MODELS.values():
            cells.setdefault((model, key.data_set), []).append(key)
    for models in (("student", "fused"), ("wise_ft",)):
        found = [cells[place] for place in cells if place[0] in models]
        if found:
            check_alike(pd.DataFrame(map(asdict, chain(*found))), ["alpha"], "the cells")
    return cells


def _of_common_draws(cells: _Cells) -> _Cells:
    """The rivals of table 6 on the data sets where their draws differ, with the draws of both."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for data_set in {data_set for _, data_set in cells}:
        pair = {(model, data_set): cells.get((model, data_set), []) for model in _RIVALS}
        draws = [{key.draw for key in one} for one in pair.values()]
        common = set.intersection(*draws)
        if common and draws[0] != draws[1]:
            found |= {at: [key for key in one if key.draw in common] for at, one in pair.items()}
    return found


def _model(key: Cell, alpha: float) -> str:
    """The model of `paper.MODELS` that a cell measured; "" for none."""
    if not key.is_plain:
        return ""
    labels_alone = key.labelled_share == 1
    if key.model == "fused":
        if not _is(alpha, key.alpha):
            return ""
        return "wise_ft" if labels_alone else "fused"
    return "" if key.model == "student" and labels_alone else key.model


def _is(alpha: float, other: float) -> bool:
    return math.isclose(alpha, other, abs_tol=1e-9)


def _measure(
    results: ResultsStore, cells: list[Cell], level: float, n_resamples: int, seed: int
) -> _Measured:
    outcomes = results.outcomes(cells)
    outcomes = outcomes[outcomes["direction"].isin(DIRECTIONS)]
    found = ranks_of(outcomes, cells[0].data_set, str(outcomes["direction"].iloc[0]))
    ranks = pd.DataFrame(found.at(cells[0].alpha).T, found.items)
    table = metric_table(outcomes, level=level, n_resamples=n_resamples, seed=seed)
    numbers = {}
    for metric, rows in table.groupby("metric", sort=False):
        ends = rows["ci_low"].iloc[0], rows["ci_high"].iloc[0]
        if len(rows) > 1:
            values = _per_item(ranks, str(metric))
            if metric == "MdR":
                interval = bootstrap_interval(
                    values, statistic="median", level=level, n_resamples=n_resamples, seed=seed
                )
            else:
                interval = mean_interval(values, level=level, within=(0, 1))
            ends = interval.low, interval.high
        scale = 1 if metric == "MdR" else 100
        numbers[str(metric)] = _Number(*(scale * np.array([rows["value"].mean(), *ends])))
    records = [results.record(key) for key in cells]
    clips = max(record["coverage"].get("clips", len(ranks)) for record in records)
    return _Measured(ranks, numbers, clips, records)


def _per_item(ranks: pd.DataFrame, metric: str) -> np.ndarray:
    """[draws, items]: hits (0 or 1), or the ranks themselves for MdR."""
    values = ranks if metric == "MdR" else ranks <= _K[metric]
    return values.to_numpy(np.float64).T


def _derived(
    row: str,
    metric: str,
    teacher: _Measured,
    fused: _Measured,
    level: float,
) -> _Number:
    """The fused model's improvement over the teacher, or its error rate reduction."""
    if not teacher.ranks.index.equals(fused.ranks.index):
        data_set = fused.records[0]["cell"]["data_set"]
        raise ValueError(
            f"teacher and fused model were not measured on the same clips of {data_set}; measure "
            "them again with the same frames"
        )
    pair = teacher.number(metric).value, fused.number(metric).value
    if row == REDUCTION:
        return _Number(reduction(metric, *pair), np.nan, np.nan)
    gain = _Number(improvement(metric, *pair), np.nan, np.nan)
    if metric == "MdR":
        return gain
    gains = _per_item(fused.ranks, metric) - _per_item(teacher.ranks, metric)
    interval = crossed_interval(100 * gains, level=level)  # as `comparisons.fusion_comparisons`
    return replace(gain, ci_low=interval.low, ci_high=interval.high)
