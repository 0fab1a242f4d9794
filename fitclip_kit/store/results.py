"""The results store: one small file per evaluated cell, from which every table and figure is made.

A cell is one model (teacher, student, fused at some alpha, a variant of these, or another for
reference) on one data set. Its outcomes are one row per item and direction; metrics are derived
from them, never stored beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom

from fitclip_core.metrics import median_rank, recall_at_k
from fitclip_kit.store.files import atomic_path, file_sha256, json_digest, write_json

SCHEMA: Final = 1
NO_DRAW: Final = -1
# Where the seeds of each way of drawing subsets of several sizes begin. Those below are draws of
# the main students, which may have the same number of clips and label share, and other clips.
FIRST_SEEDS: Final = MappingProxyType({"independent": 500, "nested": 1000})
CLASSIFICATION: Final = "classification"
DIRECTIONS: Final = ("text_to_video", "video_to_text", CLASSIFICATION)
OUTCOME_COLUMNS: Final = ("item", "direction", "rank", "label", "predicted")
_MODEL_ALPHAS: Final = {"teacher": "0", "student": "1", "fused": "between 0 and 1"}
_NAME: Final = re.compile(r"[a-z0-9_]+")
_VARIANT: Final = "variant_"
_TOWERS: Final = r"^variant_towers_t([01](?:_\d+)?)$"
SHARES: Final = {
    "retrieval": {"R@1": 1, "R@5": 5, "R@10": 10},
    "classification": {"top1": 1, "top5": 5},
}
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class CellKey:
    """What was evaluated: a model at `alpha` (the student's weight), one draw, one data set.

    `label_share` and `subset_size` (clips) say how the student was trained and `seed` which draw
    it is. The teacher has no draw: its fields are alpha 0, label_share 0, subset_size 0, seed -1,
    so that all draws share one teacher cell; `CellKey.at` fills them in. A reference, a model that
    takes no part in the fusion, has a name of its own and the teacher's fields; `CellKey.reference`
    fills them in. A variant is what the sweep has at that alpha and draw, but merged or measured in
    another way; its model's name starts with "variant_" (`CellKey.variant`). Neither of the two is
    on the sweep's curve (`sweep_rows`). The two shares are kept to 9 decimals, so that 0.1 * 3 and
    0.3 are one cell.

    Raises: ValueError when a field is out of range or does not fit the model.
    """

    model: str
    alpha: float
    label_share: float
    subset_size: int
    seed: int
    data_set: str

    def __post_init__(self) -> None:
        for name in ("alpha", "label_share"):
            share = float(getattr(self, name))
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it must lie between 0 and 1")
            object.__setattr__(self, name, round(share, 9))
        for name in ("subset_size", "seed"):
            number = getattr(self, name)
            if int(number) != number:
                raise ValueError(f"{name} is {number!r}; it must be a whole number")
            object.__setattr__(self, name, int(number))
        if not self.data_set:
            raise ValueError("data_set is empty; give the name of the evaluated data set")
        if not _NAME.fullmatch(self.model) or self.model == _VARIANT:
            raise ValueError(
                f"model is {self.model!r}; use one of {sorted(_MODEL_ALPHAS)}, or a reference's or "
                "variant's name in lower-case letters, digits and _"
            )
        untrained = (self.label_share, self.subset_size, self.seed) == (0, 0, NO_DRAW)
        if self.is_variant and self.alpha == 0 and untrained:
            return  # of the teacher, for all draws
        if self.is_reference:
            if self.alpha != 0 or not untrained:
                raise ValueError(
                    f"{self.model} is none of {sorted(_MODEL_ALPHAS)}, so it is a reference: alpha "
                    f"0, label_share 0, subset_size 0 and seed {NO_DRAW}, not {self.alpha}, "
                    f"{self.label_share}, {self.subset_size} and {self.seed}; "
                    "CellKey.reference(name, data_set) fills them in"
                )
            return
        if not self.is_variant and self.model != _model_at(self.alpha):
            raise ValueError(
                f"a {self.model} cell has alpha {_MODEL_ALPHAS[self.model]}, not {self.alpha}; "
                "CellKey.at(alpha, ...) chooses the model"
            )
        if self.model == "teacher" and not untrained:
            raise ValueError(
                f"a teacher cell is shared by all draws: label_share 0, subset_size 0 and seed "
                f"{NO_DRAW}, not {self.label_share}, {self.subset_size} and {self.seed}; "
                "CellKey.at(0, ...) fills them in"
            )
        if self.model != "teacher" and (self.seed < 0 or self.subset_size < 0):
            raise ValueError(
                f"a {self.model} cell has seed {self.seed} and subset_size {self.subset_size}; "
                "neither may be negative"
            )

    @classmethod
    def at(
        cls, alpha: float, *, label_share: float, subset_size: int, seed: int, data_set: str
    ) -> CellKey:
        """The key of a sweep's cell: the model follows from alpha, and alpha 0 is the teacher's."""
        model = _model_at(round(float(alpha), 9))
        if model == "teacher":
            return cls(model, 0.0, 0.0, 0, NO_DRAW, data_set)
        return cls(model, alpha, label_share, subset_size, seed, data_set)

    @classmethod
    def reference(cls, name: str, data_set: str) -> CellKey:
        """The key of a model that takes no part in the fusion, such as "frozen_in_time_webvid".

        name: lower-case letters, digits and _.

        Raises: ValueError when the name has other letters or is that of a sweep's model.
        """
        if name in _MODEL_ALPHAS or name.startswith(_VARIANT):
            raise ValueError(
                f"a reference cannot be called {name!r}, which is a model of the sweep or a "
                "variant; CellKey.at and CellKey.variant make their keys"
            )
        return cls(name, 0.0, 0.0, 0, NO_DRAW, data_set)

    @classmethod
    def variant(
        cls,
        name: str,
        alpha: float,
        *,
        label_share: float,
        subset_size: int,
        seed: int,
        data_set: str,
    ) -> CellKey:
        """The key of a sweep's model that is merged or measured in another way.

        name: how it differs, such as "fisher" or "renormalised": lower-case letters, digits and _;
        the model is then "variant_fisher". alpha: the share of the student that it goes by. The
        other fields are the student's, or at alpha 0 the teacher's (0, 0 and -1), where the
        variant has nothing of a student.

        Raises: ValueError when the name has other letters or a field is out of range.
        """
        return cls(f"{_VARIANT}{name}", alpha, label_share, subset_size, seed, data_set)

    @classmethod
    def towers(
        cls,
        vision_alpha: float,
        text_alpha: float,
        *,
        label_share: float,
        subset_size: int,
        seed: int,
        data_set: str,
    ) -> CellKey:
        """The key of a variant with an alpha for each tower; `tower_rows` reads both back.

        The vision tower's alpha is the key's, the text tower's is in the name of the model:
        "variant_towers_t0_4".

        Raises: ValueError when a field is out of range.
        """
        if not 0 <= text_alpha <= 1:
            raise ValueError(f"text_alpha is {text_alpha}; it must lie between 0 and 1")
        share = f"{text_alpha:.9f}".rstrip("0").rstrip(".").replace(".", "_")
        return cls.variant(
            f"towers_t{share}",
            vision_alpha,
            label_share=label_share,
            subset_size=subset_size,
            seed=seed,
            data_set=data_set,
        )

    @property
    def is_reference(self) -> bool:
        """Whether the model takes no part in the fusion, nor is a variant of one that does."""
        return self.model not in _MODEL_ALPHAS and not self.is_variant

    @property
    def is_variant(self) -> bool:
        """Whether it is a model of the sweep that is merged or measured in another way."""
        return self.model.startswith(_VARIANT)

    @property
    def digest(self) -> str:
        """SHA-256 of the key, in hexadecimal; the name of the cell's files starts with it."""
        return json_digest(asdict(self))


KEY_COLUMNS: Final = tuple(field.name for field in fields(CellKey))


class ResultsStore:
    """A folder of evaluated cells: `cells/<digest>.parquet` (outcomes) and `.json` (record).

    The record is written last and holds the key, the protocol, the coverage and the SHA-256 of the
    outcomes, so an interrupted write leaves no cell. Equal input gives equal bytes.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def write(self, key: CellKey, outcomes: pd.DataFrame, protocol: Mapping[str, Any]) -> None:
        """Store one cell's outcomes, replacing the cell if it is there.

        `outcomes` has a row per item and direction: item, direction, rank (1-based mid-rank of the
        right target) and, for classification, label and predicted. `outcomes.attrs["coverage"]`
        (from `zero_shot.evaluate`) is kept in the record. `protocol` is JSON data that says how
        the cell was measured.

        Raises: ValueError naming the column or item for outcomes that are empty, lack a column,
        repeat an item, or hold a rank that is no mid-rank; for NaN in the protocol.
        """
        table = _outcome_table(outcomes, where=f"outcomes of {_describe(key)}")
        record = {
            "schema": SCHEMA,
            "key": asdict(key),
            "protocol": dict(protocol),
            "coverage": dict(outcomes.attrs.get("coverage", {})),
            "rows": table.num_rows,
        }
        json_digest(record)  # refuses what JSON cannot hold before an older cell is given up
        data_path, record_path = self._paths(key)
        record_path.unlink(missing_ok=True)
        with atomic_path(data_path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        write_json(record_path, record | {"sha256": file_sha256(data_path)})

    def problems(self, key: CellKey, protocol: Mapping[str, Any] | None = None) -> list[str]:
        """Why the cell is not valid (under this protocol, if given); empty when it is valid."""
        data_path, record_path = self._paths(key)
        if not record_path.is_file():
            return [f"{_describe(key)} has not been evaluated"]
        try:
            record = json.loads(record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return [f"{record_path.name} cannot be read: {error}"]
        if record.get("schema") != SCHEMA or record.get("key") != asdict(key):
            return [f"{record_path.name} is not the record of {_describe(key)}"]
        if not data_path.is_file() or file_sha256(data_path) != record.get("sha256"):
            return [f"{data_path.name} is missing or was changed after it was written"]
        if protocol is None or json_digest(record["protocol"]) == json_digest(dict(protocol)):
            return []
        return _protocol_differences(record["protocol"], protocol)

    def is_valid(self, key: CellKey, protocol: Mapping[str, Any]) -> bool:
        """Whether the cell is there, unchanged, and was measured under this very protocol."""
        return not self.problems(key, protocol)

    def keys(self) -> list[CellKey]:
        """The keys of all finished cells, sorted by data set, alpha, training and draw.

        Raises: ValueError naming the file when a record is not readable.
        """
        found = []
        for path in (self.folder / "cells").glob("*.json"):
            try:
                found.append(CellKey(**json.loads(path.read_text(encoding="utf-8"))["key"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a readable record ({error}); delete it and evaluate again"
                ) from error
        return sorted(found, key=_order)

    def record(self, key: CellKey) -> dict[str, Any]:
        """The cell's record: key, protocol, coverage, rows, sha256 of its outcomes.

        Raises: ValueError when the cell is missing or damaged.
        """
        self._check([key])
        record: dict[str, Any] = json.loads(self._paths(key)[1].read_text(encoding="utf-8"))
        return record

    def digest(self, keys: Iterable[CellKey] | None = None) -> str:
        """SHA-256 over the records (and so the outcomes) of the given cells, or of all.

        Raises: ValueError naming the cells that are missing or damaged.
        """
        return json_digest({key.digest: self.record(key) for key in self._chosen(keys)})

    def outcomes(self, keys: Iterable[CellKey] | None = None) -> pd.DataFrame:
        """The outcomes of the given cells, or of all finished ones: one row per cell and item.

        Columns: the key's fields, then item, direction, rank, label, predicted; strings are
        categories in alphabetical order, label and predicted are missing for retrieval. Rows are
        sorted by data set, alpha, training, draw, direction and item. Give the keys when the
        folder may hold cells of an earlier sweep.

        Raises: ValueError naming the cells that are missing or damaged.
        """
        chosen = self._chosen(keys)
        self._check(chosen)
        if not chosen:
            return _empty_outcomes()
        tables = [_with_key(key, pq.ParquetFile(self._paths(key)[0]).read()) for key in chosen]
        frame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
        frame["rank"] = frame["rank"].astype(np.float64)
        for name, column in frame.items():
            if isinstance(column.dtype, pd.CategoricalDtype):
                frame[name] = column.cat.set_categories(sorted(column.cat.categories))
        return frame

    def metrics(
        self,
        keys: Iterable[CellKey] | None = None,
        *,
        level: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Metrics of each cell with bootstrap intervals over its items (`metric_table`).

        `clips` is the number of items that the cell's coverage asked for: clips, or where a video
        has several texts, texts in text-to-video and videos in video-to-text; of outcomes that were
        stored without a coverage it is n. `least` and `most` are what the value would be if all
        clips had been measured, and those that were not had turned out as ill or as well as can be.
        `attrs["annotation_size"]`: for each data set what its protocol says of it, or None.

        Raises: ValueError as `outcomes` does.
        """
        chosen = self._chosen(keys)
        outcomes = self.outcomes(chosen)
        table = metric_table(outcomes, level=level, n_resamples=n_resamples, seed=seed)
        coverages = {key: self.record(key)["coverage"] for key in chosen}
        cells = [CellKey(*row) for row in table[list(KEY_COLUMNS)].itertuples(index=False)]
        asked = [
            _asked_and_ranked_among(coverages[cell], direction)
            for cell, direction in zip(cells, table["direction"], strict=True)
        ]
        table["clips"] = pd.array([items for items, _ in asked], "Int64")
        table["clips"] = table["clips"].fillna(table["n"])
        table["least"] = table["most"] = table["value"]
        in_part = table.index[table["clips"] != table["n"]]
        if len(in_part):
            by = [*KEY_COLUMNS, "direction"]
            ranks = dict(iter(outcomes.groupby(by, observed=True, sort=False)["rank"]))
            for row in in_part:
                found = ranks[tuple(table.loc[row, by])].to_numpy(np.float64)
                _, targets = asked[row]
                metric, clips = table.loc[row, "metric"], table.loc[row, "clips"]
                ends = _ends_with_missing(found, clips, targets, metric)
                table.loc[row, ["least", "most"]] = ends
        table.attrs["annotation_size"] = {
            data_set: self.record(key)["protocol"].get("annotation_size")
            for data_set, key in {key.data_set: key for key in chosen}.items()
        }
        return table

    def _paths(self, key: CellKey) -> tuple[Path, Path]:
        stem = self.folder / "cells" / key.digest
        return stem.with_suffix(".parquet"), stem.with_suffix(".json")

    def _chosen(self, keys: Iterable[CellKey] | None) -> list[CellKey]:
        return self.keys() if keys is None else sorted(set(keys), key=_order)

    def _check(self, keys: Iterable[CellKey]) -> None:
        problems = [problem for key in keys for problem in self.problems(key)]
        if problems:
            raise ValueError(
                f"{len(problems)} cells of {self.folder} cannot be used; evaluate them again. "
                + "; ".join(problems[:5])
            )


def metric_table(
    outcomes: pd.DataFrame, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Metrics per cell and direction, each with a bootstrap interval over the cell's items.

    Columns: the key's fields, direction, metric, value, n (items measured), clips (asked for),
    ci_low, ci_high, least and most (with the clips that were not measured). Retrieval has R@1, R@5,
    R@10 (fractions) and MdR (ranks, 1-based) in both directions, classification has top1 and top5
    (fractions). Outcomes do not say what was asked for, so `clips`, `least` and `most` are missing
    here; `ResultsStore.metrics` knows them. The interval holds for this one draw: it says nothing
    of other draws. n_resamples and seed are of MdR's interval; the shares' needs no resampling.
    Items count as independent; several texts of one video are not, and text-to-video's interval is
    then too narrow.

    Raises: ValueError when a column is missing or a rank is not finite.
    Source: the paper's tables 2-5 for the metrics.
    """
    _require_columns(outcomes, (*KEY_COLUMNS, "direction", "rank"), "outcomes")
    rows = []
    cells = outcomes.groupby([*KEY_COLUMNS, "direction"], observed=True, sort=False)["rank"]
    for cell, column in cells:
        ranks = column.to_numpy(np.float64)
        kind = "classification" if cell[-1] == CLASSIFICATION else "retrieval"
        for metric, k in SHARES[kind].items():
            share = recall_at_k(ranks, k)
            rows.append((*cell, metric, share, len(ranks), *_share_ends(share, len(ranks), level)))
        if kind == "retrieval":
            ends = _median_ends(ranks, level, n_resamples, seed)
            rows.append((*cell, "MdR", median_rank(ranks), len(ranks), *ends))
    columns = [*KEY_COLUMNS, "direction", "metric", "value", "n", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=columns)
    unknown = pd.Series(pd.NA, table.index, dtype="Int64")
    table.insert(columns.index("n") + 1, "clips", unknown)
    return table.assign(least=np.nan, most=np.nan)


def coverage_note(metrics: pd.DataFrame) -> str:
    """How much of each data set the metrics were measured on, to be printed beside them.

    `metrics` is what `ResultsStore.metrics` gives. A line for each data set that was measured in
    part, such as "msrvtt: 987 of 1,000 clips measured; the others could move its shares by -2.6 to
    +1.3 points", and one for each whose videos have several texts; else "all clips measured".

    A line too for each data set whose annotation has not the official size.

    Raises: ValueError when the metrics are empty or lack a column.
    """
    needed = ("data_set", "direction", "metric", "value", "n", "clips", "least", "most")
    _require_columns(metrics, needed, "metrics")
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


def sweep_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the teacher, students and fused models, of outcomes or metrics.

    References and variants are left out: they have alphas too and are not on the sweep's curve.

    Raises: ValueError when there is no column `model`.
    """
    _require_columns(table, ("model",), "the table")
    return table[table["model"].isin(_MODEL_ALPHAS)]


def variant_rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one variant, of outcomes or metrics, with the models that the sweep has there.

    So whatever reads a sweep (`rank_table`, the figures, the comparisons) reads the variant, as
    long as its alpha 0, if measured, is the teacher's. `name` is that of `CellKey.variant`.

    Raises: ValueError when a column is missing or the table has no such variant.
    """
    _require_columns(table, ("model", "alpha"), "the table")
    chosen = table[table["model"] == f"{_VARIANT}{name}"]
    if chosen.empty:
        models = table["model"].astype(str).unique()
        there = sorted(one.removeprefix(_VARIANT) for one in models if one.startswith(_VARIANT))
        raise ValueError(f"no rows of a variant {name!r}; there are: {there or 'none'}")
    return chosen.assign(model=chosen["alpha"].map(_model_at).astype("category"))


def tower_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of variants with an alpha for each tower, of outcomes or metrics.

    Returns: their rows with the columns vision_alpha and text_alpha in place of model and alpha.

    Raises: ValueError when a column is missing.
    """
    _require_columns(table, ("model", "alpha"), "the table")
    texts = table["model"].astype("str").str.extract(_TOWERS, expand=False)
    text_alphas = texts.dropna().str.replace("_", ".").astype(float).to_numpy()
    chosen = table[texts.notna()].rename(columns={"alpha": "vision_alpha"}).drop(columns="model")
    chosen.insert(chosen.columns.tolist().index("vision_alpha") + 1, "text_alpha", text_alphas)
    return chosen


def rank_table(outcomes: pd.DataFrame, data_set: str, direction: str) -> pd.DataFrame:
    """Ranks of one data set and direction: a row per item, a column per (alpha, seed).

    Values are 1-based mid-ranks; alpha ascends, the teacher's column is (0.0, -1). References and
    variants are left out (`sweep_rows`).

    Raises: ValueError when there is no such outcome, when students trained in different ways are
    mixed, when an item repeats, or when the cells do not cover the same items and draws.
    """
    _require_columns(outcomes, (*KEY_COLUMNS, "item", "direction", "rank"), "outcomes")
    outcomes = sweep_rows(outcomes)
    chosen = outcomes[(outcomes["data_set"] == data_set) & (outcomes["direction"] == direction)]
    where = f"{data_set}, {direction}"
    if chosen.empty:
        present = outcomes[["data_set", "direction"]].drop_duplicates().astype(str)
        there = "; ".join(sorted(present.agg(", ".join, axis=1))) if len(present) else "nothing"
        raise ValueError(f"no outcomes of {where}; there are: {there}")
    check_one_training(chosen, f"outcomes of {where}")
    by = ["item", "alpha", "seed"]
    repeated = chosen.duplicated(by)
    if repeated.any():
        item, alpha, seed = chosen.loc[repeated, by].iloc[0]
        raise ValueError(
            f"outcomes of {where} have item {item!r} twice at alpha {alpha:g}, draw {seed}; "
            "give each cell once"
        )
    table = chosen.pivot(index="item", columns=["alpha", "seed"], values="rank").sort_index(axis=1)
    missing = table.isna()
    if missing.to_numpy().any():
        row, column = np.argwhere(missing.to_numpy())[0]
        alpha, seed = table.columns[column]
        raise ValueError(
            f"outcomes of {where} do not cover the same items: {table.index[row]!r} has no rank at "
            f"alpha {alpha:g}, draw {seed}; measure all cells on the same clips"
        )
    return table


def check_one_training(table: pd.DataFrame, where: str) -> None:
    """Refuse a table that mixes students of several label_share or subset_size.

    Raises: ValueError naming the pairs there are.
    """
    students = table[table["seed"] != NO_DRAW]
    pairs = students[["label_share", "subset_size"]].drop_duplicates()
    if len(pairs) > 1:
        raise ValueError(
            f"{where} mix students trained in different ways: (label_share, subset_size) "
            f"{pairs.to_numpy().tolist()}; keep one pair, and the teacher's rows"
        )


def _model_at(alpha: float) -> str:
    return {0.0: "teacher", 1.0: "student"}.get(alpha, "fused")


def _order(key: CellKey) -> tuple[Any, ...]:
    training = (key.label_share, key.subset_size, key.seed)
    return key.data_set, key.alpha, *training, key.model not in _MODEL_ALPHAS, key.model


def _describe(key: CellKey) -> str:
    place = "" if key.is_reference else f" (alpha {key.alpha:g}, draw {key.seed})"
    return f"{key.model}{place} on {key.data_set}"


def _asked_and_ranked_among(
    coverage: Mapping[str, Any], direction: str
) -> tuple[int | None, tuple[int, int]]:
    """How many items were asked for, and of their targets how many were, and how many are there."""
    texts = coverage.get("clips"), coverage.get("measured", 0)
    videos = coverage.get("videos", texts[0]), coverage.get("videos_measured", texts[1])
    items, targets = (videos, texts) if direction == "video_to_text" else (texts, videos)
    return items[0], (targets[0] or 0, targets[1])


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
        k = SHARES[CLASSIFICATION][metric]
        worst = np.append(ranks, np.full(missing, k + 1.0))
        return recall_at_k(worst, k), recall_at_k(best, k)
    asked, there = targets
    worst = np.append(ranks + asked - there, np.full(missing, float(asked)))
    if metric == "MdR":
        return median_rank(best), median_rank(worst)
    k = SHARES["retrieval"][metric]
    return recall_at_k(worst, k), recall_at_k(best, k)


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


def _require_columns(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(f"{where}: no column {missing}; there are {list(frame.columns)}")


def _outcome_table(outcomes: pd.DataFrame, where: str) -> pa.Table:
    _require_columns(outcomes, ("item", "direction", "rank"), where)
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
    # Halves are exact in float32 up to 2^23 items; beyond that the file keeps float64.
    narrow = pa.float32() if ranks.max() < 2**23 else pa.float64()
    columns = {
        name: pa.array(frame[name].astype(object), pa.string(), from_pandas=True).cast(_DICTIONARY)
        for name in OUTCOME_COLUMNS
        if name != "rank"
    } | {"rank": pa.array(ranks, narrow)}
    return pa.table({name: columns[name] for name in OUTCOME_COLUMNS})


def _with_key(key: CellKey, table: pa.Table) -> pa.Table:
    rows = table.num_rows
    columns: dict[str, Any] = {}
    for name, value in asdict(key).items():
        if isinstance(value, str):
            zeros = pa.array(np.zeros(rows, np.int32))
            columns[name] = pa.DictionaryArray.from_arrays(zeros, pa.array([value]))
        else:
            columns[name] = np.full(rows, value)
    columns |= {name: table[name] for name in OUTCOME_COLUMNS}
    columns["rank"] = table["rank"].cast(pa.float64())
    return pa.table(columns)


def _empty_outcomes() -> pd.DataFrame:
    kinds = {"alpha": float, "label_share": float, "rank": float, "subset_size": int, "seed": int}
    names = (*KEY_COLUMNS, *OUTCOME_COLUMNS)
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "category")) for name in names})


def _protocol_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    plain = json.loads(json.dumps(dict(wanted)))
    return [
        f"protocol: {name} was {found.get(name, 'absent')!r}, now {plain.get(name, 'absent')!r}"
        for name in sorted({*found, *plain})
        if name not in found or name not in plain or found[name] != plain[name]
    ]
