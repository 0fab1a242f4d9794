"""How the students' losses went during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style

_DASHES: Final = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (1, 3)))


def training_curves(histories: Mapping[int, pd.DataFrame], best_steps: Mapping[int, int]) -> Figure:
    """Training and validation loss over optimiser steps, a line a draw; the kept step is marked.

    histories: by draw, `distillation.StudentFit.history`. best_steps: by draw, the step kept.
    Losses are in nats, both directions summed.

    Without a history, as where only a released student is used, the axes say so.

    Raises: ValueError when a draw's best step is missing or was not validated.
    """
    if set(histories) != set(best_steps):
        raise ValueError(
            f"histories of draws {sorted(histories)} and best steps of {sorted(best_steps)}; "
            "give both for the same draws"
        )
    figure, (training, validation) = style.new_figure(2, 2.1)
    with style.theme():
        for place, (draw, history) in enumerate(sorted(histories.items())):
            look: dict[str, Any] = {
                "color": style.LINE,
                "lw": 1,
                "linestyle": _DASHES[place % len(_DASHES)],
            }
            smooth = history["labelled_loss"].rolling(5, min_periods=1).mean()
            training.plot(history["step"], smooth, **look)
            validated = history[history["validation_loss"].notna()]
            validation.plot(
                validated["step"], validated["validation_loss"], label=f"draw {draw}", **look
            )
            best = validated[validated["step"] == best_steps[draw]]
            if best.empty:
                raise ValueError(
                    f"draw {draw} has no validation loss at its best step {best_steps[draw]}; "
                    "give the history and the best step of one fit"
                )
            validation.plot(best["step"], best["validation_loss"], "o", color=style.INK, ms=4)
        training.set(xlabel="Step", ylabel="Contrastive loss (nats)", title="Labelled batches")
        validation.set(xlabel="Step", ylabel="Contrastive loss (nats)", title="Validation set")
        if histories:
            validation.plot(np.nan, np.nan, "o", color=style.INK, ms=4, label="kept")
            validation.legend(frameon=False)
        else:
            for axes in (training, validation):
                axes.text(
                    0.5, 0.5, "no student trained here", transform=axes.transAxes, ha="center"
                )
    return figure
