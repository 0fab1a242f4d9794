"""The paper's tables as data, against the transcription and against the printed page's own rows."""

from pathlib import Path

import numpy as np
import pytest

from figures import paper
from figures.headline import improvement, reduction
from figures.paper import DELTA, REDUCTION, paper_table, paper_values

FIGURES = Path(paper.__file__).parent
TRANSCRIBED = FIGURES / ".." / ".." / "shared" / "paper"


@pytest.mark.parametrize("name", ["tables", "datasets"])
def test_the_package_holds_the_transcription_byte_for_byte(name):
    source = TRANSCRIBED / f"{name}.csv"
    if not source.is_file():
        pytest.skip("no ../shared/paper beside this checkout")
    assert (FIGURES / f"paper_{name}.csv").read_bytes() == source.read_bytes()


def test_tables_have_the_papers_shapes_and_our_names():
    shapes = {name: paper_table(name).shape for name in paper.RESULT_TABLES}
    assert shapes == {
        **dict.fromkeys(("2a", "2b"), (3, 2)),
        **dict.fromkeys(("3a", "3b", "3c"), (3, 4)),
        **dict.fromkeys(("4a", "4b"), (5, 2)),
        **dict.fromkeys(("5a", "5b", "5c"), (5, 4)),
        "6": (3, 5),
    }
    values = paper_values()
    assert len(values) == sum(rows * columns for rows, columns in shapes.values())
    assert not any(paper_table(name).isna().any(axis=None) for name in shapes)
    assert set(values["data_set"]) == set(paper.TITLES)
    assert set(values["model"]) == {*paper.MODELS, DELTA, REDUCTION}


def test_cells_read_off_the_page():
    table = paper_table("5b")
    assert list(table.columns) == ["R@1", "R@5", "R@10", "MdR"]
    assert list(table.loc["Teacher (CLIP)"]) == [5.3, 14.6, 20.9, 94]
    assert table.index.tolist() == ["Teacher (CLIP)", "Student", "FitCLIP", DELTA, REDUCTION]
    assert list(table.loc[REDUCTION]) == [0.5, 1.1, 1.5, 20.2]
    assert paper_table("3c")["MdR"].tolist() == [14, 9, 7]
    assert paper_table("2b")["top1"].tolist() == [36.9, 49.2, 51.9]
    labels_alone = paper_table("6")
    assert labels_alone.index.tolist() == ["CLIP", "WiSE-FT", "FitCLIP"]
    assert list(labels_alone.columns) == [
        *(("UCF101", "top1"), ("MiT", "top1")),
        *(("MSR-VTT", "R@5"), ("YouCook2", "R@5"), ("DiDeMo", "R@5")),
    ]
    assert list(labels_alone.loc["WiSE-FT"]) == [72.5, 22.0, 59.9, 15.1, 55.4]
    assert list(paper_table("1a").loc["CC3M"]) == ["images", "clean", 3_000_000]
    assert paper_table("1b").to_dict("index") == {
        "MiT": {"classes": 339, "samples": 33900},
        "UCF101": {"classes": 101, "samples": 1794},
    }
    assert paper_table("1c")["samples"].tolist() == [1000, 3305, 4021]
    assert paper_table("1c")["genre"].tolist() == ["UGC", "Cooking", "UGC"]


@pytest.mark.parametrize("name", ["4a", "4b", "5a", "5b", "5c"])
def test_our_gains_of_the_papers_columns_are_the_papers_printed_rows(name):
    table = paper_table(name)
    for metric in map(str, table.columns):
        column = table[metric]
        pair = column["Teacher (CLIP)"], column["FitCLIP"]
        assert round(improvement(metric, *pair), 1) == column[DELTA]
        assert round(reduction(metric, *pair), 1) == column[REDUCTION]


def test_gains_by_hand():
    assert (improvement("R@5", 40, 55), improvement("MdR", 4, 3)) == (15, 1)
    assert reduction("R@5", 40, 55) == pytest.approx(25)
    assert reduction("MdR", 4, 5) == pytest.approx(-25)
    assert np.isnan(reduction("top1", 100, 100))


@pytest.mark.parametrize("name", ["7", "2", "4c", ""])
def test_another_table_is_refused(name):
    with pytest.raises(ValueError, match=f"no table '{name}'; the paper has 1a, 1b, 1c, 2a"):
        paper_table(name)
