"""How the students' losses went during training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style

_DASHES: Final = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (1, 3)))


def training_curves(histories: Mapping[int, pd.DataFrame], best_steps: Mapping[int, int]) -> Figure:
    """Training and validation loss over optimiser steps, a line a draw; the kept step is marked.

    histories: by draw, `distillation.StudentFit.history`; best_steps: the steps kept. Without a
    history, as where only a released student is used, the axes say so.

    Raises: ValueError when a draw's best step is missing or was not validated.
    """
    if set(histories) != set(best_steps):
        raise ValueError(
            f"histories of draws {sorted(histories)} and best steps of {sorted(best_steps)}; "
            "give both for the same draws"
        )
    figure, (training, validation) = style.new_figure(2, 2.1)
    with style.theme():
        for dashes, (draw, history) in zip(cycle(_DASHES), sorted(histories.items()), strict=False):
            look: dict[str, Any] = {"color": style.LINE, "lw": 1, "linestyle": dashes}
            smooth = history["labelled_loss"].rolling(5, min_periods=1).mean()
            training.plot(history["step"], smooth, **look)
            losses = history.dropna(subset="validation_loss").set_index("step")["validation_loss"]
            validation.plot(losses, label=f"draw {draw}", **look)
            best = best_steps[draw]
            if best not in losses:
                raise ValueError(
                    f"draw {draw} has no validation loss at its best step {best}; "
                    "give the history and the best step of one fit"
                )
            validation.plot(best, losses[best], "o", color=style.INK, ms=4)
        for axes, title in ((training, "Labelled batches"), (validation, "Validation set")):
            axes.set(xlabel="Step", ylabel="Contrastive loss (nats)", title=title)
            if not histories:
                words = "no student trained here"
                axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center")
        if histories:
            validation.plot(np.nan, np.nan, "o", color=style.INK, ms=4, label="kept")
            validation.legend(frameon=False)
    return figure
