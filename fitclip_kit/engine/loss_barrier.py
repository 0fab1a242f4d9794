"""The loss along the straight line between two models' weights, and its barrier."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fitclip_core.clips import TrainingClips
from fitclip_core.encoders import ClipEncoder
from fitclip_core.ensembling import AlphaSweep, State
from fitclip_core.losses import contrastive_loss
from fitclip_kit.store.results import require_columns


def loss_along_line(
    encoder: ClipEncoder,
    teacher_state: State,
    student_state: State,
    alphas: Sequence[float],
    clips: TrainingClips,
    temperature: float,
) -> pd.DataFrame:
    """Contrastive loss of the fused models on clips that neither was trained on, for each alpha.

    The loss is that of the whole set at once, as the students' validation loss is. The encoder has
    its own weights again on return.

    Returns: one row an alpha, ascending, each once: `alpha` and `loss` (nats, both directions).
    Raises: ValueError for an alpha outside [0, 1], a temperature that is not above 0, weights that
    do not fit, or scores that are not finite.
    Source: Frankle et al. 2020, section 2 (the error along the line between two networks).
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; give a number above 0")
    losses = {}
    with AlphaSweep(encoder.model, teacher_state, student_state) as fused:
        for alpha in sorted({round(float(alpha), 9) for alpha in alphas}):
            fused.set_alpha(alpha)
            videos = encoder.encode_source(clips.frames, clips.indices)
            texts = encoder.encode_texts(clips.texts)
            losses[alpha] = contrastive_loss(videos @ texts.T / temperature).item()
    return pd.DataFrame({"alpha": list(losses), "loss": list(losses.values())})


def barrier(table: pd.DataFrame) -> float:
    """How far the loss rises above the straight line between its values at alpha 0 and 1.

    table: rows of `alpha` and `loss`, in any order, as of :func:`loss_along_line`. The largest rise
    is 0 where the loss lies nowhere above the line, since at the ends it lies on it.

    Raises: ValueError when a column or an end is missing, an alpha is repeated or outside [0, 1],
    or a loss is not finite.
    Source: Entezari et al. 2022, eq. 1. Frankle et al. 2020 subtract the mean of both ends, which
    is the same where these are equal.
    Example:
        >>> barrier(pd.DataFrame({"alpha": [0, 0.25, 0.5, 1], "loss": [1.0, 1.5, 1.75, 2.0]}))
        0.25
    """
    require_columns(table, ("alpha", "loss"), "the table")
    curve = table.sort_values("alpha")
    alphas, losses = (curve[name].to_numpy(np.float64) for name in ("alpha", "loss"))
    if not len(alphas) or alphas[0] != 0 or alphas[-1] != 1:
        raise ValueError(f"alphas are {alphas.tolist()}; they must run from 0 to 1")
    if len(np.unique(alphas)) < len(alphas):
        raise ValueError(f"alphas are {alphas.tolist()}; give each once, of one student")
    if not np.isfinite(losses).all():
        raise ValueError(f"the loss is {losses.tolist()}; it must be finite everywhere")
    return float((losses - ((1 - alphas) * losses[0] + alphas * losses[-1])).max())
