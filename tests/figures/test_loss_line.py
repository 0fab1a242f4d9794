import numpy as np
import pandas as pd
import pytest

from figures.loss_line import loss_curve, losses_in_words


def losses(**draws):
    tables = [
        pd.DataFrame({"alpha": [0, 0.5, 1.0], "loss": loss, "draw": int(name[1:])})
        for name, loss in draws.items()
    ]
    return pd.concat(tables).sample(frac=1, random_state=0)


def test_the_figure_has_each_draw_their_mean_and_the_straight_line():
    figure = loss_curve(losses(d1=[4.0, 3, 2], d2=[4, 2, 3.0]))
    (ax,) = figure.axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in ax.lines]
    assert drawn == [[4, 3, 2], [4, 2, 3], [4, 2.5, 2.5], [4, 2.5]]
    assert [len(np.asarray(line.get_xdata())) for line in ax.lines] == [3, 3, 3, 2]
    assert len(figure.legends[0].get_texts()) == 3
    alone = loss_curve(losses(d1=[4.0, 3, 2]))
    assert [one.get_text() for one in alone.legends[0].get_texts()] == [
        "the one draw",
        "straight line between the ends",
    ]


def test_words_count_barriers_and_say_where_the_loss_is_lowest():
    table = losses(d1=[4.0, 2, 3], d2=[4, 4.5, 3.0])
    words = losses_in_words(table, {1: 0.0, 2: 1.0})
    assert "In 1 of 2 draws the loss rises above the straight line" in words
    assert "by at most 1.000 nats" in words
    assert "lowest at α = 0.5, 1 (draw by draw), 0.000 to 1.000 nats below" in words
    assert "4.00 for the teacher and 3.00 for the student" in words
    none = losses_in_words(losses(d1=[4.0, 2, 3]), {1: 1e-16})  # a sum in another order
    assert none.startswith("In none of 1 draws")


def test_incomplete_losses_are_refused():
    table = losses(d1=[4.0, 2, 3], d2=[4, 4.5, 3.0])
    with pytest.raises(ValueError, match=r"no column \['draw'\]"):
        loss_curve(table.drop(columns="draw"))
    with pytest.raises(ValueError, match="not of the same alphas"):
        loss_curve(table[(table["draw"] == 1) | (table["alpha"] != 0.5)])
    with pytest.raises(ValueError, match="not of the same alphas"):
        loss_curve(table.iloc[:0])
    with pytest.raises(ValueError, match=r"barriers are of draws \[1\]"):
        losses_in_words(table, {1: 0.0})
