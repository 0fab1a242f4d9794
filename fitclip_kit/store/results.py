"""The results store: one small file per evaluated cell, from which every table and figure is made.

A cell is one model on one data set. Its outcomes are one row per item and direction; metrics are
derived from them, never stored beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom

from fitclip_core.metrics import median_rank, recall_at_k
from fitclip_kit.store.files import atomic_path, file_sha256, json_digest, write_json

SCHEMA: Final = 2
CLASSIFICATION: Final = "classification"
DIRECTIONS: Final = ("text_to_video", "video_to_text", CLASSIFICATION)
OUTCOME_COLUMNS: Final = ("item", "direction", "rank", "label", "predicted")
SHARES: Final = {
    "retrieval": {"R@1": 1, "R@5": 5, "R@10": 10},
    "classification": {"top1": 1, "top5": 5},
}
MODELS: Final = ("teacher", "fused", "student")
AVERAGE: Final = "average"
SAMPLINGS: Final = ("main", "independent", "nested")
_NAME: Final = re.compile(r"[a-z0-9_]+")
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Cell:
    """What a measured number is about: a model on a data set, as plain coordinates.

    The direction of retrieval is no coordinate but a column of the outcomes: a cell is measured in
    both. At alpha 0 the model is the teacher, which all draws share: what is said of a student is
    dropped, so that it is one cell.

    Attributes:
        data_set: the evaluated data set.
        model: "teacher", "fused" or "student", which follows from the alphas and need not be given;
            or the name of a reference, a model that takes no part in the fusion, such as
            "frozen_in_time_webvid".
        merge: how teacher and student are merged: "average", or another merge's name.
        alpha: share of the student in [0, 1], kept to 9 decimals, so that 0.1 * 3 and 0.3 are one.
        text_alpha: that of the text tower, where alpha is the vision tower's alone; None: of both.
        renormalise: whether mean features are renormalised, which the paper's are not.
        draw: which training of its kind the student is; None without a student.
        sampling: how its labelled clips were drawn, one of `SAMPLINGS`: "main" are the students of
            the sweep; "independent" and "nested" those of the subset-size study.
        labelled_clips: how many labelled clips it was trained on.
        labelled_share: weight of the labelled loss in its training.

    Raises:
        ValueError: a field is missing, out of range or does not fit the model.
    """

    data_set: str
    model: str = ""
    merge: str = AVERAGE
    alpha: float = 0.0
    text_alpha: float | None = None
    renormalise: bool = False
    draw: int | None = None
    sampling: str | None = None
    labelled_clips: int | None = None
    labelled_share: float | None = None

    def __post_init__(self) -> None:
        if not self.data_set:
            raise ValueError("data_set is empty; give the name of the evaluated data set")
        has_student = self.alpha != 0 or self.text_alpha is not None
        if self.is_reference and (has_student or self.draw is not None):
            raise ValueError(
                f"{self.model} is none of {MODELS}, so it is a reference, without alpha or draw"
            )
        if not has_student:
            for name in ("draw", "sampling", "labelled_clips", "labelled_share"):
                self._set(name, None)
        for name in ("alpha", "text_alpha", "labelled_share"):
            if (share := getattr(self, name)) is not None:
                if not 0 <= share <= 1:
                    raise ValueError(f"{name} is {share}; it must lie between 0 and 1")
                self._set(name, round(float(share), 9))
        for name in ("draw", "labelled_clips"):
            if (number := getattr(self, name)) is not None:
                if int(number) != number or number < 0:
                    raise ValueError(f"{name} is {number!r}; give a whole number from 0 on")
                self._set(name, int(number))
        for name in (self.merge, *([self.model] if self.model else [])):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name: use lower-case letters, digits and _")
        self._set("renormalise", bool(self.renormalise))
        if self.merge != AVERAGE and (not has_student or self.text_alpha is not None):
            raise ValueError(f"a {self.merge!r} merge needs one alpha, above 0")
        if not self.is_reference:
            model = MODELS[1]
            if self.text_alpha is None:
                model = {0.0: MODELS[0], 1.0: MODELS[2]}.get(self.alpha, model)
            if self.model not in ("", model):
                raise ValueError(
                    f"at alpha {self.alpha:g} the model is the {model}, not {self.model}; leave it "
                    "out"
                )
            self._set("model", model)
        if has_student:
            self._set("sampling", self.sampling or SAMPLINGS[0])
            if self.sampling not in SAMPLINGS:
                raise ValueError(f"sampling is {self.sampling!r}; use one of {SAMPLINGS}")
            for name in ("draw", "labelled_clips", "labelled_share"):
                if getattr(self, name) is None:
                    raise ValueError(f"a cell at alpha {self.alpha:g} needs its student's {name}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def is_reference(self) -> bool:
        """Whether the model takes no part in the fusion."""
        return self.model not in ("", *MODELS)

    @property
    def is_plain(self) -> bool:
        """Whether it is a reference, or on the sweep's curve: averaged, with one alpha."""
        return (self.merge, self.text_alpha, self.renormalise) == (AVERAGE, None, False)

    @property
    def digest(self) -> str:
        """SHA-256 of the coordinates, in hexadecimal; the name of the cell's files."""
        return json_digest(asdict(self))

    def __str__(self) -> str:
        told = [
            f"{name} {value}"
            for name, value in asdict(self).items()
            if name != "data_set" and value is not None and value is not False
        ]
        return f"{self.data_set} ({', '.join(told)})"


COORDINATES: Final = tuple(field.name for field in fields(Cell))


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """The distinct cells that a table's rows are of; it has the coordinates as columns."""
    rows = table[list(COORDINATES)].drop_duplicates().astype(object).itertuples(index=False)
    return [Cell(*(None if pd.isna(value) else value for value in row)) for row in rows]


class ResultsStore:
    """A folder of evaluated cells: `cells/<digest>.parquet` (outcomes) and `.json` (record).

    The record is written last and holds the cell, the protocol, the coverage and the SHA-256 of the
    outcomes, so an interrupted write leaves no cell. Equal input gives equal bytes.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def write(self, cell: Cell, outcomes: pd.DataFrame, protocol: Mapping[str, Any]) -> None:
        """Store one cell's outcomes, replacing the cell if it is there.

        `outcomes` has a row per item and direction: item, direction, rank (1-based mid-rank of the
        right target) and, for classification, label and predicted. `outcomes.attrs["coverage"]`
        (from `zero_shot.evaluate`) is kept in the record. `protocol` is JSON data that says how
        the cell was measured.

        Raises: ValueError naming the column or item for outcomes that are empty, lack a column,
        repeat an item, or hold a rank that is no mid-rank; for NaN in the protocol.
        """
        table = _outcome_table(outcomes, where=f"outcomes of {cell}")
        record = {
            "schema": SCHEMA,
            "cell": asdict(cell),
            "protocol": dict(protocol),
            "coverage": dict(outcomes.attrs.get("coverage", {})),
            "rows": table.num_rows,
        }
        json_digest(record)  # refuses what JSON cannot hold before an older cell is given up
        data_path, record_path = self._paths(cell)
        record_path.unlink(missing_ok=True)
        with atomic_path(data_path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        write_json(record_path, record | {"sha256": file_sha256(data_path)})

    def problems(self, cell: Cell, protocol: Mapping[str, Any] | None = None) -> list[str]:
        """Why the cell is not valid (under this protocol, if given); empty when it is valid."""
        data_path, record_path = self._paths(cell)
        if not record_path.is_file():
            return [f"{cell} has not been evaluated"]
        try:
            record = json.loads(record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return [f"{record_path.name} cannot be read: {error}"]
        if record.get("schema") != SCHEMA or record.get("cell") != asdict(cell):
            return [f"{record_path.name} is not the record of {cell}"]
        if not data_path.is_file() or file_sha256(data_path) != record.get("sha256"):
            return [f"{data_path.name} is missing or was changed after it was written"]
        if protocol is None or json_digest(record["protocol"]) == json_digest(dict(protocol)):
            return []
        was, now = record["protocol"], json.loads(json.dumps(dict(protocol)))
        return [
            f"protocol: {name} was {was.get(name, 'absent')!r}, now {now.get(name, 'absent')!r}"
            for name in sorted({*was, *now})
            if name not in was or name not in now or was[name] != now[name]
        ]

    def is_valid(self, cell: Cell, protocol: Mapping[str, Any]) -> bool:
        """Whether the cell is there, unchanged, and was measured under this very protocol."""
        return not self.problems(cell, protocol)

    def cells(self) -> list[Cell]:
        """All finished cells, sorted by data set, alpha, training and draw.

        Raises: ValueError naming the file when a record is not readable.
        """
        found = []
        for path in (self.folder / "cells").glob("*.json"):
            try:
                found.append(Cell(**json.loads(path.read_text(encoding="utf-8"))["cell"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a readable record ({error}); delete it and evaluate again"
                ) from error
        return sorted(found, key=_order)

    def record(self, cell: Cell) -> dict[str, Any]:
        """The cell's record: cell, protocol, coverage, rows, sha256 of its outcomes.

        Raises: ValueError when the cell is missing or damaged.
        """
        self._check([cell])
        record: dict[str, Any] = json.loads(self._paths(cell)[1].read_text(encoding="utf-8"))
        return record

    def digest(self, cells: Iterable[Cell] | None = None) -> str:
        """SHA-256 over the records (and so the outcomes) of the given cells, or of all.

        Raises: ValueError naming the cells that are missing or damaged.
        """
        return json_digest({cell.digest: self.record(cell) for cell in self._chosen(cells)})

    def outcomes(self, cells: Iterable[Cell] | None = None) -> pd.DataFrame:
        """The outcomes of the given cells, or of all finished ones: one row per cell and item.

        Columns: the coordinates, then item, direction, rank, label, predicted. Strings are
        categories in alphabetical order; what does not apply is missing, such as a teacher's draw
        or a retrieval's label. Rows are sorted by data set, alpha, training, draw, direction and
        item. Give the cells when the folder may hold those of an earlier sweep.

        Raises: ValueError naming the cells that are missing or damaged.
        """
        chosen = self._chosen(cells)
        self._check(chosen)
        if not chosen:
            return typed(pd.DataFrame(columns=[*COORDINATES, *OUTCOME_COLUMNS]))
        tables = [pq.ParquetFile(self._paths(cell)[0]).read() for cell in chosen]
        frame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
        rows = np.repeat(np.arange(len(chosen)), [table.num_rows for table in tables])
        coordinates = typed(pd.DataFrame(map(asdict, chosen))).iloc[rows]
        return typed(pd.concat([coordinates.reset_index(drop=True), frame], axis=1))

    def metrics(
        self,
        cells: Iterable[Cell] | None = None,
        *,
        level: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Metrics of each cell with bootstrap intervals over its items (`metric_table`).

        `clips` is the number of items that the cell's coverage asked for: clips, or where a video
        has several texts, texts in text-to-video and videos in video-to-text; of outcomes that were
        stored without a coverage it is n. `least` and `most` are the worst and best case for the
        items that were not measured.
        `attrs["annotation_size"]`: for each data set what its protocol says of it, or None.

        Raises: ValueError as `outcomes` does.
        """
        records = {cell: self.record(cell) for cell in self._chosen(cells)}
        table = metric_table(
            self.outcomes(records),
            {cell: record["coverage"] for cell, record in records.items()},
            level=level,
            n_resamples=n_resamples,
            seed=seed,
        )
        table.attrs["annotation_size"] = {
            cell.data_set: record["protocol"].get("annotation_size")
            for cell, record in records.items()
        }
        return table

    def _paths(self, cell: Cell) -> tuple[Path, Path]:
        stem = self.folder / "cells" / cell.digest
        return stem.with_suffix(".parquet"), stem.with_suffix(".json")

    def _chosen(self, cells: Iterable[Cell] | None) -> list[Cell]:
        return self.cells() if cells is None else sorted(set(cells), key=_order)

    def _check(self, cells: Iterable[Cell]) -> None:
        problems = [problem for cell in cells for problem in self.problems(cell)]
        if problems:
            raise ValueError(
                f"{len(problems)} cells of {self.folder} cannot be used; evaluate them again. "
                + "; ".join(problems[:5])
            )


def metric_table(
    outcomes: pd.DataFrame,
    coverages: Mapping[Cell, Mapping[str, Any]] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics per cell and direction, each with a bootstrap interval over the cell's items.

    Columns: the coordinates, direction, metric, value, n (items measured), clips (asked for),
    ci_low, ci_high, least and most (with the clips that were not measured). Retrieval has R@1, R@5,
    R@10 (fractions) and MdR (ranks, 1-based) in both directions, classification has top1 and top5
    (fractions). `coverages` say what was asked for; without them `clips`, `least` and `most` are
    missing. The interval holds for this one draw: it says nothing of other draws. n_resamples and
    seed are of MdR's interval; the shares' needs no resampling. Items count as independent; several
    texts of one video are not, and text-to-video's interval is then too narrow.

    Raises: ValueError when a column is missing or a rank is not finite.
    Source: the paper's tables 2-5 for the metrics.
    """
    by = [*COORDINATES, "direction"]
    require_columns(outcomes, [*by, "rank"], "outcomes")
    found = []
    for key, rows in outcomes.groupby(by, observed=True, sort=False, dropna=False):
        ranks, direction = rows["rank"].to_numpy(np.float64), str(key[-1])
        clips, targets = None, (0, 0)
        if coverages is not None:
            (cell,) = cells_of(rows)
            clips, targets = _asked_and_ranked_among(coverages[cell], direction)
            clips = len(ranks) if clips is None else clips
        kind = "classification" if direction == CLASSIFICATION else "retrieval"
        for metric in (*SHARES[kind], *(["MdR"] if kind == "retrieval" else [])):
            value = _value(ranks, metric)
            if metric == "MdR":
                ends = _median_ends(ranks, level, n_resamples, seed)
            else:
                ends = _share_ends(value, len(ranks), level)
            extremes = (value, value)
            if clips is None:
                extremes = (np.nan, np.nan)
            elif clips != len(ranks):
                extremes = _ends_with_missing(ranks, clips, targets, metric)
            found.append((*key, metric, value, len(ranks), clips, *ends, *extremes))
    names = ["metric", "value", "n", "clips", "ci_low", "ci_high", "least", "most"]
    table = pd.DataFrame(found, columns=[*by, *names])
    return table.astype(dict.fromkeys(("draw", "labelled_clips", "clips"), "Int64"))


def coverage_note(metrics: pd.DataFrame) -> str:
    """How much of each data set the metrics were measured on, to be printed beside them.

    `metrics` is what `ResultsStore.metrics` gives. A line for each data set that was measured in
    part, such as "msrvtt: 987 of 1,000 clips measured; the others could move its shares by -2.6 to
    +1.3 points", and one for each whose videos have several texts; else "all clips measured".

    A line too for each data set whose annotation has not the official size.

    Raises: ValueError when the metrics are empty or lack a column.
    """
    needed = ("data_set", "direction", "metric", "value", "n", "clips", "least", "most")
    require_columns(metrics, needed, "metrics")
    if metrics.empty:
        raise ValueError("the metrics are empty: nothing was measured")
    lines = []
    key = ["data_set", "n", "clips"]
    several = _texts_and_videos(metrics)
    distinct = metrics[key].drop_duplicates()
    for data_set, n, clips in zip(*(distinct[name].tolist() for name in key), strict=True):
        texts, _ = several.get(data_set, (None, None))
        items = "clips" if texts is None else "texts" if clips == texts else "videos"
        if clips is pd.NA:
            lines.append(f"{data_set}: {n:,} clips measured, of an unknown number")
        elif n != clips:
            rows = metrics[(metrics[key] == [data_set, n, clips]).all(axis=1)]
            shares = rows[rows["metric"] != "MdR"]
            down, up = (100 * (shares[end] - shares["value"]) for end in ("least", "most"))
            lines.append(
                f"{data_set}: {n:,} of {clips:,} {items} measured; the others could move its "
                f"shares by {down.min():+.1f} to {up.max():+.1f} points"
            )
    sizes = metrics.attrs.get("annotation_size", {})
    differ = [
        f"{data_set}: the annotation has {sizes[data_set]}"
        for data_set in distinct["data_set"].unique()
        if sizes.get(data_set) not in (None, "official")
    ]
    lines += [
        f"{data_set}: {texts:,} texts of {videos:,} videos; the intervals take texts of one video "
        "for independent, so those of text-to-video are too narrow"
        for data_set, (texts, videos) in several.items()
    ]
    return "\n".join([*(lines or ["all clips measured"]), *differ])


def require_columns(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Refuse a table that lacks a column: ValueError naming it and those there are."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(f"{where}: no column {missing}; there are {list(frame.columns)}")


def _order(cell: Cell) -> tuple[Any, ...]:
    student = (cell.labelled_share or 0, cell.labelled_clips or 0)
    sampling = SAMPLINGS.index(cell.sampling) if cell.sampling else -1
    draw = -1 if cell.draw is None else cell.draw
    merged = (cell.is_reference, cell.model, cell.merge, cell.renormalise)
    text_alpha = -1 if cell.text_alpha is None else cell.text_alpha
    return cell.data_set, cell.alpha, *student, sampling, draw, *merged, text_alpha


def _asked_and_ranked_among(
    coverage: Mapping[str, Any], direction: str
) -> tuple[int | None, tuple[int, int]]:
    """How many items were asked for, and of their targets how many were, and how many are there."""
    texts = coverage.get("clips"), coverage.get("measured", 0)
    videos = coverage.get("videos", texts[0]), coverage.get("videos_measured", texts[1])
    items, targets = (videos, texts) if direction == "video_to_text" else (texts, videos)
    return items[0], (targets[0] or 0, targets[1])


def _value(ranks: np.ndarray, metric: str) -> float:
    if metric == "MdR":
        return median_rank(ranks)
    return recall_at_k(ranks, (SHARES["retrieval"] | SHARES["classification"])[metric])


def _ends_with_missing(
    ranks: np.ndarray, clips: int, targets: tuple[int, int], metric: str
) -> tuple[float, float]:
    """The metric's least and most value if `clips` items had been ranked instead of these.

    In retrieval each target more, of which (asked for, there) are given, is also one more that may
    come before the right one.
    """
    missing = clips - len(ranks)
    best = np.append(ranks, np.ones(missing))
    if metric in SHARES[CLASSIFICATION]:
        worst = np.append(ranks, np.full(missing, 2.0**31))
    else:
        asked, there = targets
        worst = np.append(ranks + asked - there, np.full(missing, float(asked)))
    ends = _value(worst, metric), _value(best, metric)
    return ends[::-1] if metric == "MdR" else ends


def _share_ends(share: float, n: int, level: float) -> tuple[float, float]:
    """The bootstrap's percentile ends of a share of n items, without resampling.

    The number of hits among n items drawn anew is binomial, so its quantiles are those that
    `statistics.bootstrap_interval` approaches with more resamples. One item has no spread: NaN.
    """
    if n == 1:
        return np.nan, np.nan
    tail = (1 - level) / 2
    low, high = binom.ppf([tail, 1 - tail], n, share) / n
    return float(low), float(high)


def _median_ends(
    ranks: np.ndarray, level: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    """The bootstrap's percentile ends of the median, from the middle items of each resample alone.

    n items drawn anew are n uniform numbers that point into the sorted ranks. The m-th smallest
    of these is Beta(m, n + 1 - m), and the next one lies a Beta(1, n - m) share of the way to 1.
    The same distribution as in `statistics.bootstrap_interval`, for 2 numbers instead of n.
    """
    n = len(ranks)
    if n == 1:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    below = (n + 1) // 2
    lower = rng.beta(below, n + 1 - below, n_resamples)
    upper = lower + (1 - lower) * rng.beta(1, n - below, n_resamples) if n % 2 == 0 else lower
    places = np.minimum((np.stack([lower, upper]) * n).astype(int), n - 1)
    medians = np.sort(ranks)[places].mean(axis=0)
    tail = (1 - level) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def _texts_and_videos(metrics: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """How many of each were asked for, of the data sets whose videos have several texts."""
    asked = metrics.groupby(["data_set", "direction"], observed=True)["clips"].max().unstack()
    both = asked.reindex(columns=["text_to_video", "video_to_text"]).dropna()
    rows = zip(both.index, *(both[name].tolist() for name in both), strict=True)
    return {name: (texts, videos) for name, texts, videos in rows if texts != videos}


def _outcome_table(outcomes: pd.DataFrame, where: str) -> pa.Table:
    require_columns(outcomes, ("item", "direction", "rank"), where)
    if outcomes.empty:
        raise ValueError(f"{where}: no rows; nothing was measured")
    frame = outcomes.reindex(columns=list(OUTCOME_COLUMNS)).sort_values(["direction", "item"])
    unknown = sorted(set(frame["direction"].astype(str)) - set(DIRECTIONS))
    if unknown:
        raise ValueError(f"{where}: unknown direction {unknown}; use one of {DIRECTIONS}")
    if frame["item"].isna().any():
        raise ValueError(f"{where}: an item has no name")
    repeated = frame.duplicated(["item", "direction"])
    if repeated.any():
        raise ValueError(f"{where}: item {frame.loc[repeated, 'item'].iloc[0]!r} occurs twice")
    classified = frame["direction"] == CLASSIFICATION
    unlabelled = frame[classified][["label", "predicted"]].isna().any(axis=1)
    if unlabelled.any():
        item = frame.loc[unlabelled[unlabelled].index[0], "item"]
        raise ValueError(f"{where}: classification item {item!r} has no label or prediction")
    ranks = frame["rank"].to_numpy(np.float64)
    wrong = ~(np.isfinite(ranks) & (ranks >= 1) & (2 * ranks == np.floor(2 * ranks)))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(
            f"{where}: item {frame['item'].iloc[place]!r} has rank {ranks[place]}; a mid-rank is "
            "1, 1.5, 2, ..."
        )
    columns = {
        name: pa.array(frame[name].astype(object), pa.string(), from_pandas=True).cast(_DICTIONARY)
        for name in OUTCOME_COLUMNS
        if name != "rank"
    } | {"rank": pa.array(ranks)}
    return pa.table({name: columns[name] for name in OUTCOME_COLUMNS})


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns' types: numbers that may be missing, and categories in alphabetical order."""
    numbers = {"alpha": "float64", "text_alpha": "float64", "labelled_share": "float64"}
    numbers |= {"renormalise": "bool", "draw": "Int64", "labelled_clips": "Int64"}
    numbers |= {"rank": "float64"}
    typed = {}
    for name, column in frame.items():
        if name in numbers:
            typed[name] = column.astype(numbers[str(name)])
        else:
            column = column.astype("category")
            typed[name] = column.cat.set_categories(sorted(column.cat.categories))
    return pd.DataFrame(typed)
