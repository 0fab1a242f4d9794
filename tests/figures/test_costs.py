"""Fits of growth against made-up costs whose growth is known, and the figure's contents."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.costs import Growth, cost_curves, fit_growth

SIZES = np.array([50.0, 100, 200, 400])


@settings(max_examples=30, deadline=None)
@given(
    fixed=st.floats(0, 20),
    slope=st.floats(0.01, 5),
    order=st.sampled_from([1, 2]),
)
def test_a_cost_without_noise_is_found_again(fixed: float, slope: float, order: int) -> None:
    costs = fixed + slope * SIZES**order
    growth = fit_growth(SIZES, costs, order)
    assert growth.at(SIZES) == pytest.approx(costs, rel=1e-9)
    assert growth.worst < 1e-9
    assert growth.exponent == pytest.approx(order, abs=0.011)
    assert growth.low <= growth.exponent <= growth.high


def test_the_exponents_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n = np.tile(SIZES, 3)
    held = 0
    for _ in range(200):
        costs = (2 + 0.05 * n) * (1 + 0.03 * rng.standard_normal(len(n)))
        growth = fit_growth(n, costs, order=1)
        held += growth.low <= 1 <= growth.high
    assert 0.90 <= held / 200 <= 1


def test_quadratic_costs_are_not_taken_for_linear_ones() -> None:
    n = np.tile(SIZES, 3)
    noise = 1 + 0.02 * np.random.default_rng(1).standard_normal(len(n))
    growth = fit_growth(n, (1 + 1e-3 * n**2) * noise, order=1)
    assert growth.low > 1.5 and growth.high < 2.5
    assert growth.worst > 0.1, "a line does not fit"


def test_costs_that_do_not_grow_tell_no_exponent() -> None:
    growth = fit_growth(SIZES, [3.0, 3.0, 3.0, 3.0], order=1)
    assert growth.fixed == pytest.approx(3) and growth.slope == pytest.approx(0, abs=1e-12)
    falling = fit_growth(SIZES, [4.0, 3.0, 3.0, 2.5], order=1)
    assert falling.slope == 0, "no step gets cheaper with more data"


@pytest.mark.parametrize(
    ("n", "cost", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "at least 4"),
        ([1, 1, 2, 2], [1, 1, 2, 2], "3 different amounts"),
        ([1, 2, 3, 4], [1, 2, 3], "4 amounts and 3 costs"),
        ([1, 2, 3, 4], [1, 2, 0, 4], "above 0"),
        ([1, 2, 3, 4], [1, 2, float("nan"), 4], "above 0"),
    ],
)
def test_bad_measurements_are_refused(n: list[float], cost: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_growth(n, cost, order=1)


def measurements() -> pd.DataFrame:
    rows = []
    for step, order in (("a", 1), ("b", 2)):
        for n in (10, 20, 40, 80):
            for noise in (0.9, 1.0, 1.1):
                cost = (1 + n**order) * noise
                rows.append((step, n, n / 10, cost, 1000 * n, 50 * n if step == "a" else 0))
    columns = ["step", "n", "times", "processor_seconds", "memory_bytes", "disk_bytes"]
    return pd.DataFrame(rows, columns=columns)


def fits(measured: pd.DataFrame) -> dict[str, Growth]:
    return {
        str(step): fit_growth(rows["n"], rows["processor_seconds"], {"a": 1, "b": 2}[str(step)])
        for step, rows in measured.groupby("step")
    }


def test_the_figure_shows_measurements_fits_and_deviations() -> None:
    measured = measurements()
    figure = cost_curves(measured, fits(measured))
    time, off, size = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert [tick.get_text() for tick in time.get_xticklabels()] == ["1", "2", "4", "8"]
    curves = [line for line in time.lines if len(np.asarray(line.get_xdata())) == 50]
    for curve, order in zip(curves, (1, 2), strict=True):
        ends = np.asarray(curve.get_ydata())[[0, -1]]
        assert ends == pytest.approx([1 + 10**order, 1 + 80**order], rel=0.02)
    medians = [line for line in off.lines if len(np.asarray(line.get_xdata())) == 4]
    assert all(np.abs(np.asarray(line.get_ydata())).max() < 2 for line in medians)
    assert len(size.lines) == 3, "step b leaves nothing on disk"
    assert size.lines[1].get_ydata() == pytest.approx([5e-4, 1e-3, 2e-3, 4e-3])


def test_incomplete_measurements_are_refused() -> None:
    measured = measurements()
    with pytest.raises(ValueError, match="no column memory_bytes"):
        cost_curves(measured.drop(columns="memory_bytes"), fits(measured))
    with pytest.raises(ValueError, match="give a fit for each step"):
        cost_curves(measured, {"a": fits(measured)["a"]})
