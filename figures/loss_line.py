"""The loss on the straight line between teacher and student."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from figures import style


def loss_curve(losses: pd.DataFrame) -> Figure:
    """Draw the loss between teacher and student, each draw's line and the mean.

    losses: columns draw, alpha and loss (nats), such as `loss_barrier.loss_along_line` gives for
    each draw. The dashed line joins the mean's ends: above it there is a barrier.

    Raises: ValueError when the draws do not have the same alphas.
    """
    curves = _loss_curves(losses)
    mean, draws = curves.mean(axis=1), curves.shape[1]
    with style.theme():
        figure, (ax,) = style.new_figure(1, height=2.4, legend_rows=2)
        handles: list[Artist] = []
        if draws > 1:
            handles += ax.plot(curves.index, curves, color=style.DRAW, linewidth=0.6)[:1]
            handles[0].set_label("each draw")
        look = {"color": style.LINE, "marker": ".", "markersize": 4}
        handles += ax.plot(mean, **look, label=style.mean_label(draws))
        ends = mean.iloc[[0, -1]]
        handles += ax.plot(ends, label="straight line between the ends", **style.TEACHER)
        style.alpha_axis(ax)
        ax.set_ylabel("Contrastive loss (nats)")
        style.shared_legend(figure, handles, columns=2)
    return figure


def losses_in_words(losses: pd.DataFrame, barriers: Mapping[int, float]) -> str:
    """Whether the loss has a barrier on the way, and where it is lowest: Markdown.

    barriers: of each draw of `losses` (as of `loss_curve`), `loss_barrier.barrier`, in nats.

    Raises: ValueError when the barriers are not of the same draws, or as `loss_curve`.
    """
    curves = _loss_curves(losses)
    if set(barriers) != set(curves):
        raise ValueError(f"barriers are of draws {list(barriers)}, losses of {list(curves)}")
    higher = [barrier for barrier in barriers.values() if round(barrier, 12) > 0]
    rise = (
        f"In {len(higher)} of {len(barriers)} draws the loss rises above the straight line "
        f"between its ends, by at most {max(higher):.3f} nats."
        if higher
        else f"In none of {len(barriers)} draws does the loss rise above the straight line between "
        "its ends: there is no barrier at these alphas."
    )
    lower = curves.iloc[[0, -1]].min() - curves.min()
    where = ", ".join(f"{alpha:g}" for alpha in curves.idxmin())
    return (
        f"{rise} It is lowest at α = {where} (draw by draw), {lower.min():.3f} to "
        f"{lower.max():.3f} nats below the lower end; on average it is {curves.iloc[0].mean():.2f} "
        f"for the teacher and {curves.iloc[-1].mean():.2f} for the student."
    )


def _loss_curves(losses: pd.DataFrame) -> pd.DataFrame:
    """A row per alpha, a column per draw."""
    curves = losses.pivot(index="alpha", columns="draw", values="loss")
    if curves.empty or curves.isna().to_numpy().any():
        raise ValueError("the draws' losses are not of the same alphas; compute all of them")
    return curves
