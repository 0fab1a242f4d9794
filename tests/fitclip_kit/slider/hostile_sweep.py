"""A small sweep with hostile captions and class names, of which the page is made."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd

from fitclip_core.zero_shot import Trial
from fitclip_kit.slider.answers import Sweep
from fitclip_kit.slider.material import ClipSet, Material
from fitclip_kit.store.results import Cell, typed
from tests.make import Source

ALPHAS = (0.0, 0.25, 0.5, 1.0)
DRAWS = (1, 4)
CLIPS = 12
HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    'it\'s a "quote" & an &amp; already',
    "line\u2028separator\u2029and </style><style>*{display:none}</style>",
    "<!-- a comment that never ends",
    "javascript:alert(3) {{ 7 * 7 }} ${7 * 7}",
]
CLASSES = ["<b>running</b>", "sur'fing\u2028", 'wal"king', "x"]


def clip_set(name: str, title: str, task: str) -> ClipSet:
    ids = [f"{name}_{place:02d}" for place in range(CLIPS)]
    clips = pd.DataFrame({"clip_id": ids})
    if task == "retrieval":
        clips["text"] = [HOSTILE[place % len(HOSTILE)] + f" {place}" for place in range(CLIPS)]
    else:
        clips["label"] = [CLASSES[place % len(CLASSES)] for place in range(CLIPS)]
    frames = Source(np.random.default_rng(0).integers(0, 255, (CLIPS, 3, 20, 24, 3), np.uint8))
    frames.frame_counts[-1] = 2  # of three
    trial = Trial(
        cast(Any, task),
        clips,
        frames,
        np.arange(CLIPS),
        tuple(sorted(CLASSES)) if task == "classification" else (),
        (),
        {"clips": CLIPS + 1, "measured": CLIPS, "missing": ["gone"]},
    )
    return ClipSet(name, title, trial)


SETS = {
    "one": clip_set("one", "One <b>&</b> only", "retrieval"),
    "acts": clip_set("acts", "Acts", "classification"),
}


def outcomes(draws=DRAWS, alphas=ALPHAS) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    tables = []
    for name, one in SETS.items():
        direction = "text_to_video" if one.task == "retrieval" else "classification"
        for alpha in alphas:
            for draw in draws if alpha else draws[:1]:
                key = Cell(name, alpha=alpha, draw=draw, labelled_clips=8, labelled_share=0.9)
                table = pd.DataFrame({"item": one.clip_ids})
                table["direction"] = direction
                table["rank"] = rng.integers(1, len(one.texts) + 1, CLIPS).astype(float)
                labels = one.trial.clips["label"] if one.task == "classification" else None
                table["label"] = labels
                table["predicted"] = rng.choice(CLASSES, CLIPS) if labels is not None else None
                tables.append(table.assign(**vars(key)))
    return typed(pd.concat(tables, ignore_index=True))


def sweep(draws=DRAWS, alphas=ALPHAS) -> Sweep:
    return Sweep(outcomes(draws, alphas), {name: one.measure for name, one in SETS.items()})


def material(folder: Path) -> Material:
    results = SimpleNamespace(digest=lambda keys: "ab" * 32)
    run = SimpleNamespace(path=folder / "<run>", results=results)
    titles = {name: one.title for name, one in SETS.items()}
    return cast(Material, SimpleNamespace(run=run, sets=SETS, cells=[], titles=titles))
