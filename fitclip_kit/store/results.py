"""The results store: one small file per evaluated cell, from which every table and figure is made.

A cell is one model on one data set. Its outcomes are one row per item and direction; metrics are
derived from them, never stored beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from scipy.stats import binom

from fitclip_core.metrics import median_rank, recall_at_k
from fitclip_kit.store.files import (
    atomic_path,
    differences,
    file_sha256,
    json_digest,
    read_json,
    write_json,
)

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
_STUDENT: Final = ("draw", "sampling", "labelled_clips", "labelled_share")
_Share = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda share: round(share, 9))]
_Count = Annotated[int, Field(ge=0)]
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())
_LEVEL, _RESAMPLES = 0.95, 2000  # of the metrics' bootstrap intervals


@dataclass(frozen=True)
class Cell:
    """What a measured number is about: a model on a data set, as plain coordinates.

    The direction of retrieval is a column of the outcomes: a cell is measured in both. At alpha 0
    the model is the teacher, which all draws share: what is said of a student is dropped, so that
    it is one cell. Shares are kept to 9 decimals, so that 0.1 * 3 and 0.3 are one, too.

    Attributes:
        data_set: the evaluated data set.
        model: "teacher", "fused" or "student", which follows from the alphas and need not be given;
            or the name of a reference, which takes no part in the fusion.
        merge: how teacher and student are merged.
        alpha: share of the student in [0, 1].
        text_alpha: that of the text tower, where alpha is the vision tower's alone; None: of both.
        renormalise: whether mean features are renormalised, which the paper's are not.
        draw: which training of its kind the student is; None without a student.
        sampling: how its labelled clips were drawn: "main" are the students of the sweep,
            "independent" and "nested" those of the subset-size study.
        labelled_clips: how many labelled clips it was trained on.
        labelled_share: weight of the labelled loss in its training.

    Raises: ValueError for a field that is missing, out of range or does not fit the model.
    """

    data_set: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(pattern="^[a-z0-9_]*$")] = ""
    merge: Annotated[str, Field(pattern="^[a-z0-9_]+$")] = AVERAGE
    alpha: _Share = 0.0
    text_alpha: _Share | None = None
    renormalise: bool = False
    draw: _Count | None = None
    sampling: Literal["main", "independent", "nested"] | None = None
    labelled_clips: _Count | None = None
    labelled_share: _Share | None = None

    def __post_init__(self) -> None:
        is_fused = self.alpha > 0 or self.text_alpha is not None
        ends = {0.0: MODELS[0], 1.0: MODELS[2]} if self.text_alpha is None else {}
        model = self.model if self.is_reference else ends.get(self.alpha, MODELS[1])
        student: dict[str, Any] = {name: getattr(self, name) for name in _STUDENT}
        if is_fused:
            student["sampling"] = self.sampling or SAMPLINGS[0]
        if self.is_reference and (is_fused or self.draw is not None):
            raise ValueError(f"{model} is none of {MODELS}, so a reference, without alpha or draw")
        if self.model not in ("", model):
            raise ValueError(f"at alpha {self.alpha:g} the model is the {model}, not {self.model}")
        if self.merge != AVERAGE and (self.alpha == 0 or self.text_alpha is not None):
            raise ValueError(f"a {self.merge!r} merge needs one alpha, above 0")
        if is_fused and None in student.values():
            raise ValueError(f"a cell at alpha {self.alpha:g} needs all of its student: {student}")
        vars(self).update(student if is_fused else dict.fromkeys(_STUDENT), model=model)

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
        told = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return f"{told.pop('data_set')} ({', '.join(f'{name} {told[name]}' for name in told)})"


COORDINATES: Final = tuple(field.name for field in fields(Cell))


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """The distinct cells that a table's rows are of; it has the coordinates as columns."""
    rows: Any = table[list(COORDINATES)].drop_duplicates().astype(object).itertuples(index=False)
    given: list[list[Any]] = [[None if pd.isna(value) else value for value in row] for row in rows]
    return [Cell(**dict(zip(COORDINATES, row, strict=True))) for row in given]


class ResultsStore:
    """A folder of evaluated cells: `cells/<digest>.parquet` (outcomes) and `.json` (record).

    The record is written last and holds the SHA-256 of the outcomes, so an interrupted write leaves
    no cell. Equal input gives equal bytes. Methods that read raise ValueError naming cells that are
    missing or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def write(self, cell: Cell, outcomes: pd.DataFrame, protocol: Mapping[str, Any]) -> None:
        """Store one cell's outcomes, replacing the cell if it is there.

        `outcomes` has a row per item and direction: item, direction, rank (1-based mid-rank of the
        right target) and, for classification, label and predicted. `outcomes.attrs["coverage"]`
        (from `zero_shot.evaluate`) is kept in the record. `protocol` is JSON data that says how
        the cell was measured.

        Raises: ValueError naming the column or item of outcomes that are not so; for NaN in the
        protocol.
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
        try:
            record = self._read(cell)
        except ValueError as error:
            return [str(error)]
        return [] if protocol is None else differences("protocol", record["protocol"], protocol)

    def is_valid(self, cell: Cell, protocol: Mapping[str, Any]) -> bool:
        """Whether the cell is there, unchanged, and was measured under this very protocol."""
        return not self.problems(cell, protocol)

    def cells(self) -> list[Cell]:
        """All finished cells, sorted by data set, alpha, training and draw; ValueError naming a
        record that is not readable."""
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
        """The cell's record: cell, protocol, coverage, rows, sha256 of its outcomes."""
        return self._records([cell])[cell]

    def digest(self, cells: Iterable[Cell] | None = None) -> str:
        """SHA-256 over the records (and so the outcomes) of the given cells, or of all."""
        return json_digest({cell.digest: one for cell, one in self._records(cells).items()})

    def outcomes(self, cells: Iterable[Cell] | None = None) -> pd.DataFrame:
        """The outcomes of the given cells, or of all finished ones: one row per cell and item.

        Columns: the coordinates, then item, direction, rank, label, predicted. Strings are
        categories in alphabetical order; what does not apply is missing, such as a teacher's draw.
        Rows are sorted by data set, alpha, training, draw, direction and item. Give the cells when
        the folder may hold those of an earlier sweep.
        """
        chosen = list(self._records(cells))
        if not chosen:
            return typed(pd.DataFrame(columns=[*COORDINATES, *OUTCOME_COLUMNS]))
        tables = [pq.ParquetFile(self._paths(cell)[0]).read() for cell in chosen]
        frame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
        rows = np.repeat(np.arange(len(chosen)), [table.num_rows for table in tables])
        coordinates = typed(pd.DataFrame(map(asdict, chosen))).iloc[rows]
        return typed(pd.concat([coordinates.reset_index(drop=True), frame], axis=1))

    def metrics(self, cells: Iterable[Cell] | None = None) -> pd.DataFrame:
        """`metric_table` of the given cells, or of all, with their coverages.

        `attrs["annotation_size"]`: for each data set what its protocol says of it, or None.
        """
        records = self._records(cells)
        coverages = {cell: record["coverage"] for cell, record in records.items()}
        table = metric_table(self.outcomes(records), coverages)
        table.attrs["annotation_size"] = {
            cell.data_set: record["protocol"].get("annotation_size")
            for cell, record in records.items()
        }
        return table

    def _paths(self, cell: Cell) -> tuple[Path, Path]:
        stem = self.folder / "cells" / cell.digest
        return stem.with_suffix(".parquet"), stem.with_suffix(".json")

    def _read(self, cell: Cell) -> dict[str, Any]:
        """The record of a cell whose outcomes are there and unchanged; ValueError says why not."""
        data_path, record_path = self._paths(cell)
        record: dict[str, Any] = read_json(record_path, f"{cell} has not been evaluated")
        if record.get("schema") != SCHEMA or record.get("cell") != asdict(cell):
            raise ValueError(f"{record_path.name} is not the record of {cell}")
        if not data_path.is_file() or file_sha256(data_path) != record.get("sha256"):
            raise ValueError(f"{data_path.name} is missing or was changed after it was written")
        return record

    def _records(self, cells: Iterable[Cell] | None) -> dict[Cell, dict[str, Any]]:
        """The records of the given cells, or of all, in order; ValueError naming bad ones."""
        records: dict[Cell, dict[str, Any]] = {}
        problems = []
        for cell in self.cells() if cells is None else sorted(set(cells), key=_order):
            try:
                records[cell] = self._read(cell)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(
                f"{len(problems)} cells of {self.folder} cannot be used; evaluate them again. "
                + "; ".join(problems[:5])
            )
        return records


def metric_table(
    outcomes: pd.DataFrame, coverages: Mapping[Cell, Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """Metrics per cell and direction, each with a bootstrap interval over the cell's items.

    Columns: the coordinates, direction, metric, value, n (items measured), clips (items asked for:
    where a video has several texts, texts in text-to-video and videos in video-to-text), ci_low,
    ci_high (of 95%), least and most (the worst and best case for the items that were not measured).
    Retrieval has R@1, R@5, R@10 (fractions) and MdR (ranks, 1-based) in both directions,
    classification top1 and top5 (fractions). Without `coverages`, which say what was asked for,
    clips, least and most are missing; one that does not say takes what was measured.

    The interval holds for this one draw. Items count as independent; several texts of one video
    are not, and text-to-video's interval is then too narrow.

    Raises: ValueError when a column is missing or a rank is not finite.
    Source: the paper's tables 2-5 for the metrics.
    """
    by = [*COORDINATES, "direction"]
    require_columns(outcomes, [*by, "rank"], "outcomes")
    found = []
    for key, rows in outcomes.groupby(by, observed=True, sort=False, dropna=False):
        ranks, direction = rows["rank"].to_numpy(np.float64), str(key[-1])
        coverage = None if coverages is None else coverages[cells_of(rows)[0]]
        names = [*SHARES["retrieval"], "MdR"]
        for metric in SHARES[CLASSIFICATION] if direction == CLASSIFICATION else names:
            clips, *bounds = _bounds(ranks, coverage, direction, metric)
            numbers = (_value(ranks, metric), len(ranks), clips, *_interval(ranks, metric), *bounds)
            found.append((*key, metric, *numbers))
    names = ["metric", "value", "n", "clips", "ci_low", "ci_high", "least", "most"]
    table = pd.DataFrame(found, columns=[*by, *names])
    return table.astype(dict.fromkeys(("draw", "labelled_clips", "clips"), "Int64"))


def coverage_note(metrics: pd.DataFrame) -> str:
    """How much of each data set the metrics of `ResultsStore.metrics` were measured on.

    A line for each data set that was measured in part, such as "msrvtt: 987 of 1,000 clips
    measured; the others could move its shares by -2.6 to +1.3 points", or else "all clips
    measured"; one for each whose videos have several texts, and for each whose annotation has not
    the official size.

    Raises: ValueError when the metrics are empty or lack a column.
    """
    needed = ("data_set", "direction", "metric", "value", "n", "clips", "least", "most")
    require_columns(metrics, needed, "metrics")
    if metrics.empty:
        raise ValueError("the metrics are empty: nothing was measured")
    asked = metrics.groupby(["data_set", "direction"], observed=True)["clips"].max().unstack()
    both = asked.reindex(columns=["text_to_video", "video_to_text"]).dropna()
    # data set -> its texts and videos
    several = {str(name): pair for name, *pair in both.itertuples(name=None) if len({*pair}) > 1}
    lines = []
    key = ["data_set", "n", "clips"]
    groups: Any = metrics.groupby(key, sort=False, dropna=False, observed=True)
    for (data_set, n, clips), rows in groups:
        if pd.isna(clips):
            lines.append(f"{data_set}: {n:,} clips measured, of an unknown number")
        elif n != clips:
            texts = several.get(data_set, [clips])[0]
            items = ("texts" if clips == texts else "videos") if data_set in several else "clips"
            shares = rows[rows["metric"] != "MdR"]
            down, up = (100 * (shares[end] - shares["value"]) for end in ("least", "most"))
            lines.append(
                f"{data_set}: {n:,} of {clips:,} {items} measured; the others could move its "
                f"shares by {down.min():+.1f} to {up.max():+.1f} points"
            )
    lines += [
        f"{data_set}: {texts:,} texts of {videos:,} videos; the intervals take texts of one video "
        "for independent, so those of text-to-video are too narrow"
        for data_set, (texts, videos) in several.items()
    ]
    sizes = metrics.attrs.get("annotation_size", {})
    differ = [
        f"{data_set}: the annotation has {sizes[data_set]}"
        for data_set in metrics["data_set"].unique()
        if sizes.get(data_set) not in (None, "official")
    ]
    return "\n".join([*(lines or ["all clips measured"]), *differ])


def require_columns(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Refuse a table that lacks a column: ValueError naming it and those there are."""
    if missing := [name for name in names if name not in frame.columns]:
        raise ValueError(f"{where}: no column {missing}; there are {list(frame.columns)}")


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with the types of their columns: numbers that may be missing, and categories in
    alphabetical order."""
    kinds = {"renormalise": "bool", "draw": "Int64", "labelled_clips": "Int64"}
    kinds |= dict.fromkeys(("alpha", "text_alpha", "labelled_share", "rank"), "float64")
    kinds = dict.fromkeys(map(str, frame), "category") | kinds
    frame = frame.astype({name: kinds[name] for name in map(str, frame)})
    for name in frame.select_dtypes("category"):
        frame[name] = frame[name].cat.set_categories(sorted(frame[name].cat.categories))
    return frame


def _order(cell: Cell) -> tuple[Any, ...]:
    place: list[Any] = [cell.data_set, cell.alpha, cell.labelled_share, cell.labelled_clips]
    place += [SAMPLINGS.index(cell.sampling) if cell.sampling else None, cell.draw]
    place += [cell.is_reference, cell.model, cell.merge, cell.renormalise, cell.text_alpha]
    return tuple(-1 if value is None else value for value in place)


def _value(ranks: np.ndarray, metric: str) -> float:
    if metric == "MdR":
        return median_rank(ranks)
    return recall_at_k(ranks, (SHARES["retrieval"] | SHARES[CLASSIFICATION])[metric])


def _bounds(
    ranks: np.ndarray, coverage: Mapping[str, Any] | None, direction: str, metric: str
) -> tuple[int | None, float, float]:
    """How many items were asked for, and the metric's least and most value if all of them had been
    ranked. In retrieval each target more is also one more that may come before the right one."""
    if coverage is None:
        return None, np.nan, np.nan
    texts = coverage.get("clips"), coverage.get("measured", 0)
    videos = coverage.get("videos", texts[0]), coverage.get("videos_measured", texts[1])
    items, targets = (videos, texts) if direction == "video_to_text" else (texts, videos)
    asked = items[0]
    if asked is None or asked == len(ranks):
        return len(ranks), (value := _value(ranks, metric)), value
    more, last = (targets[0] or 0) - targets[1], float(targets[0] or 0)
    if direction == CLASSIFICATION:
        more, last = 0, np.finfo(np.float64).max
    missing = asked - len(ranks)
    worst = np.append(ranks + more, np.full(missing, last))
    best = np.append(ranks, np.ones(missing))
    return asked, *sorted(_value(one, metric) for one in (worst, best))


def _interval(ranks: np.ndarray, metric: str) -> tuple[float, float]:
    """The bootstrap's percentile ends, as of `statistics.bootstrap_interval` with more resamples.

    The number of hits among n items drawn anew is binomial. For the median, n items drawn anew are
    n uniform numbers that point into the sorted ranks: the m-th smallest of these is
    Beta(m, n + 1 - m), and the next one lies a Beta(1, n - m) share of the way to 1.
    """
    n, tails = len(ranks), [(1 - _LEVEL) / 2, 1 - (1 - _LEVEL) / 2]
    if n == 1:
        return np.nan, np.nan  # one item has no spread
    if metric != "MdR":
        low, high = binom.ppf(tails, n, _value(ranks, metric)) / n
        return low, high
    rng = np.random.default_rng(0)
    below = (n + 1) // 2
    lower = rng.beta(below, n + 1 - below, _RESAMPLES)
    upper = lower + (1 - lower) * rng.beta(1, n - below, _RESAMPLES) if n % 2 == 0 else lower
    places = np.minimum((np.stack([lower, upper]) * n).astype(int), n - 1)
    low, high = np.quantile(np.sort(ranks)[places].mean(axis=0), tails)
    return low, high


def _outcome_table(outcomes: pd.DataFrame, where: str) -> pa.Table:
    require_columns(outcomes, ("item", "direction", "rank"), where)
    if outcomes.empty:
        raise ValueError(f"{where}: no rows; nothing was measured")
    frame = outcomes.reindex(columns=list(OUTCOME_COLUMNS)).sort_values(["direction", "item"])
    ranks, half = frame["rank"].to_numpy(np.float64), frame["rank"].to_numpy(np.float64) * 2
    labelled = frame[["label", "predicted"]].notna().all(axis=1)
    problems = {
        f"direction is none of {DIRECTIONS}": ~frame["direction"].isin(DIRECTIONS),
        "item has no name": frame["item"].isna(),
        "item occurs twice": frame.duplicated(["item", "direction"]),
        "label or prediction is missing": (frame["direction"] == CLASSIFICATION) & ~labelled,
        "rank is no mid-rank (1, 1.5, 2, ...)": ~((ranks >= 1) & (half == np.floor(half)))
        | ~np.isfinite(ranks),
    }
    for problem, rows in problems.items():
        if rows.any():
            raise ValueError(f"{where}: {problem}: {frame[rows].iloc[0].to_dict()}")
    strings = {
        name: pa.array(frame[name].astype(object), pa.string(), from_pandas=True).cast(_DICTIONARY)
        for name in OUTCOME_COLUMNS
        if name != "rank"
    }
    columns = strings | {"rank": pa.array(ranks)}
    return pa.table({name: columns[name] for name in OUTCOME_COLUMNS})
