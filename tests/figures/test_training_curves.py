import numpy as np
import pandas as pd
import pytest

from figures import style
from figures.training_curves import training_curves


def history(draw, steps=12, every=4):
    rng = np.random.default_rng(draw)
    table = pd.DataFrame({"step": range(steps + 1), "labelled_loss": rng.random(steps + 1) + draw})
    table.loc[0, "labelled_loss"] = np.nan
    table["distillation_loss"] = np.nan
    table["validation_loss"] = rng.random(steps + 1) + 2
    table.loc[table["step"] % every > 0, "validation_loss"] = np.nan
    return table


def points(line):
    return np.column_stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())])


@pytest.mark.parametrize("draws", [[1], [3, 1, 2], [1, 2, 3, 4, 5]])
def test_lines_are_the_histories(draws):
    histories = {draw: history(draw) for draw in draws}
    figure = training_curves(histories, dict.fromkeys(draws, 8))
    training, validation = figure.axes
    assert len(training.lines) == len(draws)
    assert len(validation.lines) == 2 * len(draws) + 1
    looks = {str(vars(line)["_dash_pattern"]) for line in training.lines}
    assert len(looks) == len(draws), "each draw has dashes of its own"
    for place, draw in enumerate(sorted(draws)):
        table = histories[draw]
        drawn = points(training.lines[place])
        for step, value in drawn[1:]:
            window = [
                table["labelled_loss"][s] for s in range(max(1, int(step) - 4), int(step) + 1)
            ]
            assert value == pytest.approx(np.mean(window))
        line, marker = validation.lines[2 * place : 2 * place + 2]
        assert points(line).tolist() == [[s, table["validation_loss"][s]] for s in (0, 4, 8, 12)]
        assert points(marker).tolist() == [[8, table["validation_loss"][8]]]
        assert line.get_label() == f"draw {draw}"
    legend = validation.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*(f"draw {draw}" for draw in sorted(draws)), "kept"]


def test_axes_tell_their_units(tmp_path):
    figure = training_curves({1: history(1)}, {1: 4})
    assert [axes.get_xlabel() for axes in figure.axes] == ["Step", "Step"]
    assert all("nats" in axes.get_ylabel() for axes in figure.axes)
    assert [axes.get_title() for axes in figure.axes] == ["Labelled batches", "Validation set"]
    first = style.save(figure, tmp_path / "one", {"students": "abc"})
    other = training_curves({1: history(1)}, {1: 4})
    second = style.save(other, tmp_path / "two", {"students": "abc"})
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_run_that_trained_nothing_says_so():
    figure = training_curves({}, {})
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["no student trained here"]] * 2


@pytest.mark.parametrize(
    ("draws", "best", "problem"),
    [
        ([], {1: 4}, r"histories of draws \[\]"),
        ([1, 2], {1: 4}, r"draws \[1, 2\] and best steps of \[1\]"),
        ([1], {1: 4, 2: 4}, r"best steps of \[1, 2\]"),
        ([1], {1: 5}, "draw 1 has no validation loss at its best step 5"),
        ([1], {1: 99}, "best step 99"),
    ],
)
def test_wrong_input_is_refused(draws, best, problem):
    with pytest.raises(ValueError, match=problem):
        training_curves({draw: history(draw) for draw in draws}, best)
