"""The stored sweep, and what is answered between its cells."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from figures.explorer_state import Point
from figures.hits import PanelHits, point_numbers
from figures.measures import Measure
from fitclip_kit.slider.answers import Sweep, share_point
from fitclip_kit.slider.merges import Fusion
from fitclip_kit.store.results import Cell, ResultsStore

ALPHAS, DRAWS, ITEMS = (0.0, 0.3, 1.0), (1, 2, 4), 15
TRAINING: dict[str, Any] = {"labelled_share": 0.5, "labelled_clips": 9}
MEASURES = {
    "clips": Measure("clips", "text_to_video", 5),
    "actions": Measure("actions", "classification", 1),
}


def cell_outcomes(data_set, rng, items=ITEMS):
    """As `zero_shot.rank` gives them; ranks 1 to 10 in halves."""
    names = [f"{data_set}_{place:02d}" for place in range(items)]
    tables = []
    retrieval = MEASURES[data_set].direction == "text_to_video"
    for direction in ("text_to_video", "video_to_text") if retrieval else ("classification",):
        table = pd.DataFrame({"item": names, "direction": direction})
        table["rank"] = rng.integers(2, 14, items) / 2
        if not retrieval:
            table["label"] = [("run", "jump")[place % 2] for place in range(items)]
            table["predicted"] = "run"
        tables.append(table)
    outcomes = pd.concat(tables, ignore_index=True)
    outcomes.attrs["coverage"] = {"clips": items + 1, "measured": items, "missing": ["lost"]}
    return outcomes


def store(folder, *, alphas=ALPHAS, draws=DRAWS, items=ITEMS, seed=0):
    """A store with a sweep of both data sets; returns it and the sweep's keys."""
    results, rng, keys = ResultsStore(folder), np.random.default_rng(seed), []
    for data_set in MEASURES:
        for alpha in alphas:
            for draw in draws:
                key = Cell(data_set, alpha=alpha, **TRAINING, draw=draw)
                if key not in keys:
                    results.write(key, cell_outcomes(data_set, rng, items), {})
                    keys.append(key)
    return results, keys


def material(results, keys):
    """What `Sweep.read` looks at."""
    trial = SimpleNamespace(coverage={"clips": ITEMS + 1})
    sets = {name: SimpleNamespace(trial=trial, measure=one) for name, one in MEASURES.items()}
    return SimpleNamespace(run=SimpleNamespace(results=results), cells=keys, sets=sets)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def sweep(finished):
    return Sweep.read(material(*finished))


def stored_ranks(finished, data_set, draw, alpha):
    """Slow: one cell's file, read by itself."""
    results, _ = finished
    key = Cell(data_set, alpha=alpha, **TRAINING, draw=draw)
    table = results.outcomes([key])
    return table[table["direction"] == MEASURES[data_set].direction].reset_index(drop=True)


@pytest.mark.parametrize("data_set", MEASURES)
@pytest.mark.parametrize("draw", DRAWS)
def test_a_draws_curve_has_the_shares_and_binomial_ends_of_its_cells(
    finished, sweep, data_set, draw
):
    curve = sweep.curve(data_set, draw)
    assert curve.columns.tolist() == ["alpha", "value", "ci_low", "ci_high"]
    assert curve["alpha"].tolist() == list(ALPHAS)
    for row in curve.itertuples():
        ranks = stored_ranks(finished, data_set, draw, row.alpha)["rank"]
        share = sum(rank <= MEASURES[data_set].k for rank in ranks) / ITEMS
        assert row.value == pytest.approx(share)
        ends = binom.ppf([0.025, 0.975], ITEMS, share) / ITEMS
        np.testing.assert_allclose([row.ci_low, row.ci_high], ends)
    results, keys = finished
    table = results.metrics([key for key in keys if key.data_set == data_set])
    name = {"clips": "R@5", "actions": "top1"}[data_set]
    chosen = table[(table["metric"] == name) & (table["direction"] == MEASURES[data_set].direction)]
    chosen = chosen[chosen["draw"].fillna(draw) == draw].sort_values("alpha")
    expected = chosen[["value", "ci_low", "ci_high"]].to_numpy()
    np.testing.assert_array_equal(curve.to_numpy()[:, 1:], expected)


@pytest.mark.parametrize("data_set", MEASURES)
def test_the_mean_curve_is_figure_3s(finished, sweep, data_set):
    results, keys = finished
    hits = PanelHits(results.outcomes(keys), (MEASURES[data_set],))
    expected = pd.DataFrame([point_numbers(hits.at(alpha)) for alpha in hits.alphas])
    curve = sweep.curve(data_set, None)
    np.testing.assert_allclose(curve["value"], expected["value"])
    ends = ["ci_low", "ci_high"]
    np.testing.assert_allclose(curve[ends][1:], expected[ends][1:])
    # Figure 3 resamples at the teacher; here it has one interval in the mean and in every draw.
    assert curve.iloc[0].equals(sweep.curve(data_set, 1).iloc[0])


def test_outcomes_are_the_cells_own(finished, sweep):
    for data_set, draw, alpha in (("clips", 4, 0.1 + 0.2), ("actions", 1, 1.0)):
        cell = sweep.outcomes(Fusion.at(draw, alpha), data_set)
        expected = stored_ranks(finished, data_set, draw, alpha)
        assert cell.columns.tolist() == ["item", "direction", "rank", "label", "predicted"]
        assert cell["item"].tolist() == expected["item"].tolist()
        assert cell["rank"].tolist() == expected["rank"].tolist()
        assert set(cell["direction"]) == {MEASURES[data_set].direction}
        assert cell.attrs["coverage"]["clips"] == ITEMS + 1
    assert set(sweep.outcomes(Fusion.at(1, 1), "actions")["label"]) == {"run", "jump"}
    for alpha, same in ((0, True), (1, False)):
        cells = [sweep.outcomes(Fusion.at(draw, alpha), "clips") for draw in (1, 4)]
        assert cells[0].equals(cells[1]) == same


def test_between_stored_alphas_the_answer_is_linear_and_says_so(sweep):
    value, low, high = sweep.curve("clips", 2).iloc[1, 1:].tolist()
    assert sweep.point(Fusion.at(2, 0.1 + 0.2), "clips") == Point(value, low, high, "stored")
    curve = sweep.curve("actions", 1).set_index("alpha")
    point = sweep.point(Fusion.at(1, 0.65), "actions")  # half-way between 0.3 and 1
    for name in ("value", "ci_low", "ci_high"):
        assert getattr(point, name) == pytest.approx((curve[name][0.3] + curve[name][1.0]) / 2)
    assert point.status == "interpolated"
    third = sweep.point(Fusion.at(1, 0.1), "actions").value
    assert third == pytest.approx((2 * curve["value"][0.0] + curve["value"][0.3]) / 3)


def test_one_item_has_no_interval(tmp_path):
    sweep = Sweep.read(material(*store(tmp_path, items=1)))
    for draw in (1, None):
        curve = sweep.curve("clips", draw)
        assert curve[["ci_low", "ci_high"]].isna().all(axis=None)
        assert curve["value"].notna().all()
    point = sweep.point(Fusion.at(1, 0.5), "clips")
    assert point is not None and np.isfinite(point.value) and np.isnan(point.ci_low)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda sweep: sweep.curve("kites", 1), "no data set 'kites'.*'clips', 'actions'"),
        (lambda sweep: sweep.curve("clips", 3), r"no draw 3 in the sweep; there: \[1, 2, 4\]"),
        (lambda sweep: sweep.point(Fusion.at(3, 0.5), "clips"), r"no draw 3 in the sweep"),
        (
            lambda sweep: sweep.outcomes(Fusion.at(2, 0.5), "clips"),
            r"clips is not stored at α = 0\.5",
        ),
    ],
)
def test_questions_it_cannot_answer(sweep, ask, says):
    with pytest.raises(ValueError, match=says):
        ask(sweep)


def test_sweeps_it_refuses(finished):
    results, keys = finished
    everything = results.outcomes(keys)
    with pytest.raises(ValueError, match="no outcomes of kites"):
        Sweep(everything, {"kites": Measure("kites", "text_to_video", 5)})
    shorter = [key for key in keys if (key.data_set, key.alpha) != ("actions", 0.3)]
    with pytest.raises(ValueError, match=r"actions and clips do not have the same"):
        Sweep(results.outcomes(shorter), MEASURES)
    lacking = [key for key in keys if (key.draw, key.alpha) != (2, 0.3)]
    with pytest.raises(ValueError, match=r"0\.3 have the draws \[1, 4\], but 1 has \[1, 2, 4\]"):
        Sweep(results.outcomes(lacking), MEASURES)
    with pytest.raises(ValueError, match="has only the teacher"):
        Sweep(results.outcomes([key for key in keys if key.alpha == 0]), MEASURES)
    with pytest.raises(ValueError, match="do not cover the same items"):
        Sweep(everything.drop(index=0), MEASURES)


def test_other_directions_play_no_part_in_a_point():
    live = cell_outcomes("clips", np.random.default_rng(1))
    point = share_point(live, MEASURES["clips"])
    live.loc[live["direction"] == "video_to_text", "rank"] = 99
    assert share_point(live, MEASURES["clips"]) == point
    with pytest.raises(ValueError, match=r"direction 'classification'; there: \['text_to_video'"):
        share_point(live, MEASURES["actions"])


def test_no_answer_is_made_up_beyond_the_stored_alphas(finished):
    results, keys = finished
    sweep = Sweep(results.outcomes([key for key in keys if key.alpha < 1]), MEASURES)
    with pytest.raises(ValueError, match=r"alpha is 0\.4; the stored sweep runs from 0 to 0\.3"):
        sweep.point(Fusion.at(1, 0.4), "clips")


# What is measured


@pytest.fixture
def fresh(finished):
    return Sweep.read(material(*finished))


def test_what_is_measured_replaces_what_was_interpolated(fresh):
    fusion, other = Fusion.at(2, 0.5), Fusion.at(2, 0.3)
    assert fresh.missing(fusion, "actions") == ["actions", "clips"]
    outcomes = fresh.outcomes(other, "clips")
    fresh.keep(fusion, "clips", outcomes)
    assert fresh.point(fusion, "clips") == replace(fresh.point(other, "clips"), status="exact")
    assert fresh.outcomes(fusion, "clips") is outcomes
    assert fresh.missing(fusion, "clips") == ["actions"]
    assert [point.status for point in fresh.points(fusion).values()] == ["exact", "interpolated"]


def test_stored_fusions_need_no_measuring_and_others_are_unknown_before(fresh):
    for fusion in (Fusion.at(4, 1.0), Fusion.at(1, 0.0, "fisher"), Fusion.at(1, 0.3)):
        assert fresh.missing(fusion, "clips") == []
        assert fresh.point(fusion, "clips").status == "stored"
    for fusion in (Fusion(1, 0.3, 0.4), Fusion.at(1, 0.3, "fisher")):
        assert fresh.points(fusion) == {}
        fresh.keep(fusion, "clips", fresh.outcomes(Fusion.at(1, 0.3), "clips"))
        assert list(fresh.points(fusion)) == ["clips"]


def test_only_so_many_are_kept(fresh, monkeypatch):
    monkeypatch.setattr("fitclip_kit.slider.answers.KEPT", 2)
    fusions = [Fusion.at(1, alpha) for alpha in (0.4, 0.5, 0.6)]
    for fusion in fusions:
        fresh.keep(fusion, "clips", fresh.outcomes(Fusion.at(1, 0.3), "clips"))
    known = [fresh.point(fusion, "clips").status for fusion in fusions]
    assert known == ["interpolated", "exact", "exact"]
