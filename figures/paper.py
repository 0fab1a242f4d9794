"""The paper's tables as data, in its layout and in the kit's names."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import pandas as pd

DATASET_TABLES: Final = ("1a", "1b", "1c")
RESULT_TABLES: Final = ("2a", "2b", "3a", "3b", "3c", "4a", "4b", "5a", "5b", "5c", "6")
DELTA: Final = "Delta"
REDUCTION: Final = "Error rate reduction (%)"
FUSED: Final = "FitCLIP"
TITLES: Final = {
    "msrvtt": "MSR-VTT",
    "youcook2": "YouCook2",
    "didemo": "DiDeMo",
    "ucf101": "UCF101",
    "mit": "MiT",
}
# The paper's rows -> the kit's models; WiSE-FT fuses a student trained on labels alone.
MODELS: Final = {
    "Teacher (CLIP)": "teacher",
    "CLIP": "teacher",
    "Student": "student",
    FUSED: "fused",
    "WiSE-FT": "wise_ft",
    "Frozen in Time WebVid": "frozen_in_time_webvid",
    "Frozen in Time CC3M+WebVid": "frozen_in_time_cc3m_webvid",
    "Frozen in Time CC3M+WebVid+COCO": "frozen_in_time_cc3m_webvid_coco",
}
_DATASET_COLUMNS: Final = {
    "1a": ["domain", "supervision", "samples"],
    "1b": ["classes", "samples"],
    "1c": ["samples", "genre"],
}


def paper_table(table: str) -> pd.DataFrame:
    """One of the paper's tables: "1a" to "1c" (data sets), "2a" to "5c" and "6" (results).

    Results are as `layout` sets them out: percent, and ranks for MdR; "Delta" and the error rate
    reduction are positive where FitCLIP is better. The data sets' tables have a row a data set;
    `samples` and `classes` are numbers.

    Raises: ValueError for another table.
    Source: supplement, tables 1 to 6.
    """
    if table in DATASET_TABLES:
        rows = _read("paper_datasets.csv", {"classes": "Int64", "samples": "Int64"})
        return rows[rows["table"] == table].set_index("dataset")[_DATASET_COLUMNS[table]]
    return layout(paper_values(), table, "value")


def paper_values() -> pd.DataFrame:
    """The numbers of tables 2 to 6, one a row.

    Columns: table, data_set (the kit's name), model (the paper's row), metric (R@1, R@5, R@10, MdR,
    top1, top5), value (percent; ranks for MdR).
    """
    rows = _read("paper_tables.csv", {"value": "float64"}).rename(columns={"dataset": "data_set"})
    return rows.replace({"data_set": {title: name for name, title in TITLES.items()}})


def layout(rows: pd.DataFrame, table: str, column: str) -> pd.DataFrame:
    """Set numbers out as one of the tables 2 to 6: models by metrics, in the paper's order; in
    table 6 models by data sets, with their metrics under them.

    rows: the columns of `paper_values` and `column`, a row for each number of the table.

    Raises: ValueError for another table.
    """
    if table not in RESULT_TABLES:
        known = ", ".join((*DATASET_TABLES, *RESULT_TABLES))
        raise ValueError(f"there is no table {table!r}; the paper has {known}")
    chosen = rows[rows["table"] == table]
    across: str | list[str] = "metric"
    if table == "6":
        chosen = chosen.assign(data_set=chosen["data_set"].map(TITLES))
        across = ["data_set", "metric"]
    wide = chosen.pivot(index="model", columns=across, values=column)
    in_order = chosen.drop_duplicates(across).set_index(across).index
    return wide.reindex(index=chosen["model"].unique(), columns=in_order)


def _read(name: str, types: dict[str, str]) -> pd.DataFrame:
    with (files("figures") / name).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"table": "str"} | types)
