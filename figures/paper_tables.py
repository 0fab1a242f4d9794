"""Measured results beside the paper's, and in the shape of its tables 2 to 6."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from figures.headline import improvement, reduction
from figures.outcomes import check_alike, ranks_of
from figures.paper import MODELS, REDUCTION, paper_values
from figures.paper_protocol import Record, differences, protocol_items
from fitclip_core.statistics import bootstrap_interval, crossed_interval, mean_interval
from fitclip_kit.store.results import CLASSIFICATION, SHARES, Cell, ResultsStore

_DIRECTIONS: Final = ("text_to_video", CLASSIFICATION)
_RIVALS: Final = ("fused", "wise_ft")
_K: Final = SHARES["retrieval"] | SHARES["classification"]
_NUMBERS: Final = ["value", "ci_low", "ci_high"]
_COUNTS: Final = ["n", "clips", "draws"]
_Cells = Mapping[tuple[str, str], list[Cell]]


@dataclass(frozen=True)
class _Measured:
    """One model on one data set, in the paper's direction.

    ranks: [draws, items]. numbers: by metric, its value and interval in percent (ranks for MdR).
    """

    items: pd.Index
    ranks: np.ndarray
    numbers: dict[str, tuple[float, float, float]]
    clips: int
    records: list[Record]

    def number(self, metric: str) -> tuple[float, float, float]:
        if metric not in self.numbers:
            cell = self.records[0]["cell"]
            raise ValueError(
                f"{cell['model']} on {cell['data_set']} was measured in {', '.join(self.numbers)}, "
                f"the paper's in {metric}; give a set of another kind another name"
            )
        return self.numbers[metric]

    def per_item(self, metric: str) -> np.ndarray:
        """[draws, items]: hits (0 or 1), or the ranks themselves for MdR."""
        return self.ranks if metric == "MdR" else (self.ranks <= _K[metric]).astype(np.float64)


def beside_paper(
    results: ResultsStore, cells: Iterable[Cell] | None = None, *, alpha: float = 0.4
) -> pd.DataFrame:
    """Every number of the paper's tables 2 to 6 with what was measured here beside it.

    cells: those to take, None for all; further data sets and alphas among them are left aside.
    "Student" and "FitCLIP" are of students with labelled_share below 1, "WiSE-FT" of one of 1; the
    last two are fused at `alpha`.

    One row a number, in the paper's order. Columns: table, data_set, model (the paper's row),
    metric, value (percent, ranks for MdR; mean over draws; NaN if not measured), ci_low, ci_high, n
    (clips measured), clips (asked for), draws, paper, difference (value - paper), differs (items of
    the protocol, see `protocol_table`). The interval is the cell's where there is one draw, else
    over items and draws; that of "Delta" is of the paired differences, and there is none of it for
    MdR, nor of the error rate reduction. Where WiSE-FT and FitCLIP were measured with other draws,
    table 6 has those of both.

    Raises: ValueError for students trained in different ways, fused cells without this alpha, or
    draws or models that were not measured on the same clips.
    Source: supplement, tables 2 to 6.
    """
    chosen = _chosen(results, cells, alpha)
    measured, rivals = (
        {place: _measure(results, found) for place, found in some.items()}
        for some in (chosen, _of_common_draws(chosen))
    )
    differs = {
        place: differences(protocol_items(found.records, *place))
        for place, found in measured.items()
    }
    rows = paper_values().rename(columns={"value": "paper"})
    here: list[tuple[Any, ...]] = []
    where = ["table", "data_set", "model", "metric"]
    for table, data_set, row, metric in rows[where].itertuples(index=False):
        place = (MODELS.get(row, "fused"), data_set)
        model, teacher = measured.get(place), measured.get(("teacher", data_set))
        if table == "6":
            model = rivals.get(place, model)
        if model is None or (row not in MODELS and teacher is None):
            here.append((*[None] * 6, ""))
            continue
        number = model.number(metric)
        if row not in MODELS and teacher is not None:
            number = _derived(row, metric, teacher, model)
        counts = (model.ranks.shape[1], model.clips, len(model.ranks))
        here.append((*number, *counts, differs[place]))
    numbers = pd.DataFrame(here, columns=[*_NUMBERS, *_COUNTS, "differs"], index=rows.index)
    numbers = numbers.astype(dict.fromkeys(_NUMBERS, "float64") | dict.fromkeys(_COUNTS, "Int64"))
    numbers.insert(len(_NUMBERS) + len(_COUNTS), "paper", rows["paper"])
    numbers.insert(numbers.shape[1] - 1, "difference", numbers["value"] - numbers["paper"])
    return pd.concat([rows[where], numbers], axis=1)


def protocol_table(
    results: ResultsStore, cells: Iterable[Cell] | None = None, *, alpha: float = 0.4
) -> pd.DataFrame:
    """The paper's protocol beside each measured one: what `differs` of `beside_paper` sums up.

    Columns: model (of `paper.MODELS`), data_set, and those of `paper_protocol.protocol_items`.
    Takes and raises as `beside_paper`.
    """
    columns = ["model", "data_set", "item", "paper", "here", "status"]
    tables = [pd.DataFrame(columns=columns)]
    for (model, data_set), found in _chosen(results, cells, alpha).items():
        items = protocol_items([results.record(cell) for cell in found], model, data_set)
        tables.append(items.assign(model=model, data_set=data_set)[columns])
    return pd.concat(tables, ignore_index=True)


def _chosen(results: ResultsStore, cells: Iterable[Cell] | None, alpha: float) -> _Cells:
    """The cells behind the paper's numbers: (model, data set) -> one a draw."""
    plain = [cell for cell in (results.cells() if cells is None else cells) if cell.is_plain]
    alphas = sorted({cell.alpha for cell in plain if cell.model == "fused"})
    if alphas and not any(math.isclose(alpha, there, abs_tol=1e-9) for there in alphas):
        there = ", ".join(f"{one:g}" for one in alphas)
        raise ValueError(f"no fused model at alpha {alpha:g}; alphas there are: {there}")
    data_sets = set(paper_values()["data_set"])
    chosen: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(dict.fromkeys(plain), key=lambda cell: cell.draw or 0):
        model = _model(cell, alpha)
        if cell.data_set in data_sets and model in MODELS.values():
            chosen.setdefault((model, cell.data_set), []).append(cell)
    for models in (("student", "fused"), ("wise_ft",)):
        trained = [cell for place in chosen if place[0] in models for cell in chosen[place]]
        if trained:
            check_alike(pd.DataFrame(map(asdict, trained)), ["alpha"], "the cells")
    return chosen


def _of_common_draws(cells: _Cells) -> _Cells:
    """The rivals of table 6 on the data sets where their draws differ, with the draws of both."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for data_set in {data_set for _, data_set in cells}:
        pair = {(model, data_set): cells.get((model, data_set), []) for model in _RIVALS}
        draws = [{cell.draw for cell in rival} for rival in pair.values()]
        common = set.intersection(*draws)
        if common and draws[0] != draws[1]:
            for place, rival in pair.items():
                found[place] = [cell for cell in rival if cell.draw in common]
    return found


def _model(cell: Cell, alpha: float) -> str:
    """The model of `paper.MODELS` that a cell measured; "" for none."""
    labels_alone = cell.labelled_share == 1
    if cell.model == "fused":
        name = "wise_ft" if labels_alone else "fused"
        return name if math.isclose(alpha, cell.alpha, abs_tol=1e-9) else ""
    return "" if cell.model == "student" and labels_alone else cell.model


def _measure(results: ResultsStore, cells: list[Cell]) -> _Measured:
    outcomes = results.outcomes(cells)
    direction = next(one for one in _DIRECTIONS if one in set(outcomes["direction"]))
    ranks = ranks_of(outcomes, cells[0].data_set, direction)
    records: list[Record] = [results.record(cell) for cell in cells]
    clips = max(record["coverage"].get("clips", len(ranks.items)) for record in records)
    found = _Measured(ranks.items, ranks.at(cells[0].alpha), {}, clips, records)
    metrics = results.metrics(cells)
    metrics = metrics[metrics["direction"] == direction]
    for metric, rows in metrics.groupby("metric", sort=False, observed=True):
        ends = rows["ci_low"].iloc[0], rows["ci_high"].iloc[0]
        values = found.per_item(str(metric))
        if len(rows) > 1:
            interval = (
                bootstrap_interval(values, statistic="median")
                if metric == "MdR"
                else mean_interval(values, within=(0, 1))
            )
            ends = interval.low, interval.high
        scale = 1 if metric == "MdR" else 100
        value, low, high = scale * np.array([rows["value"].mean(), *ends])
        found.numbers[str(metric)] = (value, low, high)
    return found


def _derived(
    row: str, metric: str, teacher: _Measured, fused: _Measured
) -> tuple[float, float, float]:
    """The fused model's improvement over the teacher, or its error rate reduction."""
    if not teacher.items.equals(fused.items):
        data_set = fused.records[0]["cell"]["data_set"]
        raise ValueError(
            f"teacher and fused model were not measured on the same clips of {data_set}; measure "
            "them again with the same frames"
        )
    pair = teacher.number(metric)[0], fused.number(metric)[0]
    if row == REDUCTION:
        return reduction(metric, *pair), np.nan, np.nan
    gain = improvement(metric, *pair)
    if metric == "MdR":
        return gain, np.nan, np.nan
    # As `comparisons.fusion_comparisons`.
    interval = crossed_interval(100 * (fused.per_item(metric) - teacher.per_item(metric)))
    return gain, interval.low, interval.high
