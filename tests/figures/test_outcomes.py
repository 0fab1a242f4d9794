"""Arrays of outcomes, against values that are looked up row by row."""

import itertools

import numpy as np
import pandas as pd
import pytest

from figures.outcomes import (
    check_alike,
    ranks_of,
    same_draws,
    sweep_rows,
    tower_rows,
    variant_rows,
)
from fitclip_kit.store.results import Cell, ResultsStore, cells_of

DRAWN = {"labelled_clips": 9, "labelled_share": 1.0}
WHERE = ("msrvtt", "text_to_video")


def outcomes(cells, items=5):
    """Random ranks of each cell, in random order of the rows."""
    rng, tables = np.random.default_rng(0), []
    for cell, direction in itertools.product(cells, ("text_to_video", "video_to_text")):
        table = pd.DataFrame({"item": [f"clip{place}" for place in range(items)]})
        table["rank"] = rng.integers(2, 19, items) / 2
        tables.append(table.assign(direction=direction, **vars(cell)))
    return pd.concat(tables, ignore_index=True).sample(frac=1, random_state=1)


def cell(alpha, draw=1, **others):
    return Cell("msrvtt", alpha=alpha, draw=draw, **DRAWN | others)


def looked_up(table, direction, **coordinates):
    for name, value in coordinates.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    rows = table[table["direction"] == direction].sort_values("item")
    return rows["rank"].tolist()


def test_a_sweep_is_an_array_of_draws_by_items_at_each_alpha():
    cells = [cell(0), *(cell(alpha, draw) for alpha in (1, 0.1 * 3) for draw in (7, 2))]
    table = outcomes(cells)
    ranks = ranks_of(table, *WHERE)
    assert list(ranks.points) == [0.0, 0.3, 1.0]
    assert ranks.draws == {0.0: [], 0.3: [2, 7], 1.0: [2, 7]} and ranks.same_draws() == [2, 7]
    assert ranks.items.tolist() == [f"clip{place}" for place in range(5)]
    assert ranks.at(0).tolist() == [looked_up(table, "text_to_video", alpha=0)]
    for alpha in (0.3, 1.0):
        expected = [looked_up(table, "text_to_video", alpha=alpha, draw=draw) for draw in (2, 7)]
        assert ranks.at(alpha + 1e-12).tolist() == expected
        assert ranks.at(alpha).dtype == np.float64
    with pytest.raises(ValueError, match=r"alpha 0\.31 was"):
        ranks.at(0.31)
    with pytest.raises(ValueError, match=r"alpha 0.5 was not measured on msrvtt.*: 0, 0.3, 1"):
        ranks.at(0.5)


def test_what_else_varies_is_a_point_of_its_own():
    kinds = ("nested", "independent")
    cells = [cell(0), *(cell(0.4, 3, sampling=s, labelled_clips=n) for s in kinds for n in (2, 1))]
    table = outcomes(cells)
    ranks = ranks_of(table, *WHERE, ("sampling", "labelled_clips"))
    places = list(itertools.product(sorted(kinds), (1, 2)))
    assert list(ranks.points) == [(None, None), *places]
    for sampling, clips in places:
        told = {"sampling": sampling, "labelled_clips": clips}
        assert ranks.at((sampling, clips)).tolist() == [looked_up(table, "text_to_video", **told)]
    pairs = [cell(vision, text_alpha=text) for vision in (0, 1) for text in (0, 0.5)]
    ranks = ranks_of(outcomes(pairs), *WHERE, ("alpha", "text_alpha"))
    assert list(ranks.points) == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]


def test_stored_outcomes_of_every_kind_are_told_apart(tmp_path):
    store = ResultsStore(tmp_path)
    kinds = {
        "sweep": [cell(0), cell(0.4), cell(1)],
        "fisher": [cell(0.4, merge="fisher")],
        "renormalised": [cell(0, renormalise=True), cell(0.4, renormalise=True)],
        "towers": [cell(0, text_alpha=0), cell(1, text_alpha=0.4)],
        "references": [Cell("msrvtt", "frozen")],
    }
    for number, one in enumerate(itertools.chain(*kinds.values())):
        table = pd.DataFrame({"item": ["a"], "direction": ["text_to_video"], "rank": [number + 1]})
        store.write(one, table, {})
    for table in (store.outcomes(), store.metrics()):
        found = {
            "sweep": sweep_rows(table),
            "fisher": variant_rows(table, "fisher"),
            "renormalised": variant_rows(table, renormalise=True),
            "towers": tower_rows(table),
        }
        for kind, rows in found.items():
            assert set(cells_of(rows)) == set(kinds[kind]), kind
    with pytest.raises(ValueError, match=r"no rows of the merge 'ties'; merges there are: \['aver"):
        variant_rows(store.outcomes(), "ties")
    with pytest.raises(ValueError, match=r"no column \['draw'\]"):
        sweep_rows(store.outcomes().drop(columns="draw"))


@pytest.mark.parametrize(
    ("cells", "change", "message"),
    [
        (
            [cell(1)],
            lambda table: table.assign(data_set="b"),
            "no outcomes of msrvtt.*there are: b",
        ),
        ([cell(1)], lambda table: table.iloc[:0], "there are: nothing"),
        ([cell(1), cell(1, labelled_clips=8)], None, r"different ways: labelled_clips \[8, 9\]"),
        ([cell(1), cell(1, 2, sampling="nested")], None, "different ways: sampling"),
        ([cell(1), cell(1, renormalise=True)], None, "different cells: renormalise"),
        ([cell(1), cell(1)], None, "'clip0' twice at alpha 1, draw 1"),
        ([cell(0), cell(0)], None, "'clip0' twice at alpha 0; give"),
        (
            [cell(0), cell(1)],
            lambda table: table[(table["item"] != "clip2") | (table["alpha"] == 1)],
            "'clip2' has no rank at alpha 0; measure",
        ),
        ([cell(1)], lambda table: table.drop(columns="draw"), r"no column \['draw'\]"),
    ],
)
def test_what_is_no_array_is_refused(cells, change, message):
    table = outcomes(cells)
    with pytest.raises(ValueError, match=message):
        ranks_of(change(table) if change else table, *WHERE)


def test_draws_must_be_the_same_and_the_teachers_go_with_all():
    assert same_draws({0.0: [], 0.4: [1, 2], 1.0: [1, 2]}) == [1, 2]
    assert same_draws({0.0: []}) == []
    with pytest.raises(ValueError, match=r"alpha 0.4 have the draws \[1, 2\], but 1 has \[2\]"):
        same_draws({0.0: [], 0.4: [1, 2], 1.0: [2]}, "alpha")
    check_alike(outcomes([cell(0), cell(0.4), cell(1, 2)]), ["alpha"], "these")
    with pytest.raises(ValueError, match="these mix different cells: alpha"):
        check_alike(outcomes([cell(0.4), cell(1)]), [], "these")
