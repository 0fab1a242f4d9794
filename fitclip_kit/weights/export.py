"""A fused model for other programs: open_clip's folder, OpenAI's state dict, a hub's card."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import open_clip
import pandas as pd
import torch
from huggingface_hub import ModelCardData
from torch import Tensor

from fitclip_core.encoders import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE, ClipEncoder
from fitclip_core.ensembling import check_same_tensors
from fitclip_kit.store.files import atomic_path, write_json, write_text
from fitclip_kit.weights import checkpoints

CARD_FILE: Final = "README.md"
_PREPROCESSING: Final = ("mean", "std", "interpolation", "resize_mode", "mode", "fill_color")
# What Markdown or HTML would read as more than text, in a table's cell.
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>&~$])")


def export_open_clip(
    folder: str | Path,
    encoder: ClipEncoder,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a model as a folder that open_clip (`local-dir:`) and `ClipEncoder.from_folder` load.

    Args:
        folder: gets `open_clip_config.json`, `open_clip_model.safetensors` and, if the model has
            its own vocabulary, `bpe_simple_vocab.txt.gz`, which open_clip takes only by
            `get_tokenizer(..., bpe_path=...)`.
        encoder: the model, built by `from_open_clip` or `from_folder`.
        state: weights to write, such as `interpolate`'s; None: the model's own.
        dtype, notes: as `checkpoints.save`.

    Raises: ValueError when the model's configuration is unknown, the state does not fit it, or as
        `checkpoints.save`.
    """
    if encoder.model_config is None:
        raise ValueError(f"{encoder.name} was given ready-made: its configuration is not known")
    own = encoder.state()
    weights = own if state is None else state
    check_same_tensors("the state", weights, encoder.name, own)
    preprocess = encoder.model.visual.preprocess_cfg
    config = {
        "model_cfg": dict(encoder.model_config),
        "preprocess_cfg": {key: preprocess[key] for key in _PREPROCESSING if key in preprocess},
    }
    folder = Path(folder)
    checkpoints.save(folder / WEIGHTS_FILE, weights, notes, dtype)
    (folder / MERGES_FILE).unlink(missing_ok=True)
    if encoder.merges is not None:
        with atomic_path(folder / MERGES_FILE) as temporary:
            temporary.write_bytes(encoder.merges)
    write_json(folder / CONFIG_FILE, config)


def export_openai(
    path: str | Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write a CLIP state with OpenAI's names as torch.save's file of plain tensors, atomically.

    OpenAI's `clip.load` and `torch.load(path, weights_only=True)` read it.

    Raises: ValueError when names are missing or foreign (as those of open_clip's `CustomTextCLIP`),
        or as `checkpoints.storable`.
    """
    vision, text = (
        {"layers": max(1, len({n.removeprefix(t).split(".")[0] for n in state if n.startswith(t)}))}
        for t in ("visual.transformer.resblocks.", "transformer.resblocks.")
    )
    with torch.device("meta"):  # open_clip's CLIP has OpenAI's names
        expected = open_clip.CLIP(64, vision, text).state_dict().keys()
    problems = {"missing": expected - state.keys(), "foreign": state.keys() - expected}
    told = [f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"the state has not the names of OpenAI's CLIP; {'; '.join(told)}")
    # A file object, because torch.save writes a path's own name into the file.
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(checkpoints.storable(state, dtype), file)


def write_card(
    folder: str | Path,
    *,
    title: str,
    license: str,
    base_model: str,
    protocol: Mapping[str, Any],
    results: pd.DataFrame,
    tags: Sequence[str] = (),
) -> Path:
    """Write the hub's card of an exported model, `README.md` with front matter; give its path.

    Args:
        folder: the exported model's.
        title, license, base_model: texts of one line, the latter two by the hub's identifiers.
        protocol: JSON: how the model was made and measured.
        results: measured numbers, one row each.
        tags: more of the hub's tags.

    Raises: ValueError when a text is empty or has several lines, there are no results, a number is
        not finite, or the protocol is not JSON.
    """
    for name, value in {"title": title, "license": license, "base_model": base_model}.items():
        if not value.strip() or len(value.splitlines()) != 1:
            raise ValueError(f"{name} is {value!r}; give a text of one line")
    if results.empty:
        raise ValueError("there are no results; a card tells what was measured")
    front = ModelCardData(
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        license=license,
        base_model=base_model,
        tags=["clip", "fitclip", "video", *tags],
    )
    try:
        made = json.dumps(protocol, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the protocol is not JSON: {error}") from error
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", made)), 0)
    rows = [list(results.columns), *results.itertuples(index=False)]
    table = [[_as_text(value) for value in row] for row in rows]
    table.insert(1, ["---"] * len(results.columns))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
    card = Path(folder) / CARD_FILE
    write_text(
        card,
        f"---\n{front.to_yaml()}\n---\n\n# {_as_text(title)}\n\n## Measured results\n\n{lines}\n\n"
        f"## Protocol\n\n{fence}json\n{made}\n{fence}\n",
    )
    return card


def _as_text(value: Any) -> str:
    """A value as Markdown that says nothing but it."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        if not math.isfinite(value):
            raise ValueError(f"a result is {value}; give measured numbers only")
        value = f"{float(value):.6g}"
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
