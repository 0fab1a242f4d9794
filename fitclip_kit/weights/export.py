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
        folder: made where needed. Gets `open_clip_config.json`, `open_clip_model.safetensors` and,
            if the model has its own vocabulary, `bpe_simple_vocab.txt.gz`. open_clip itself takes
            that file only by `get_tokenizer(..., bpe_path=...)`.
        encoder: the model, built by `from_open_clip` or `from_folder`.
        state: weights to write, such as `interpolate`'s; None: the model's own.
        dtype, notes: as `checkpoints.save`.

    Raises:
        ValueError: the model's configuration is unknown, the state does not fit it, or a value is
            not finite, also after the cast. Each file is whole or not there.
    """
    if encoder.model_config is None:
        raise ValueError(f"{encoder.name} was given ready-made: its configuration is not known")
    own = {name: value.shape for name, value in encoder.model.state_dict().items()}
    weights = encoder.state() if state is None else dict(state)
    shapes = {name: value.shape for name, value in weights.items()}
    if wrong := {name for name, _ in own.items() ^ shapes.items()}:
        raise ValueError(
            f"the state does not fit {encoder.name}: {', '.join(sorted(wrong))} missing, foreign "
            "or of another shape"
        )
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

    OpenAI's `clip.load` and `torch.load(path, weights_only=True)` read it. `dtype` is the precision
    of the stored floating-point tensors; None keeps each one's own.

    Raises:
        ValueError: names are missing or foreign (as those of open_clip's `CustomTextCLIP`), which
            are listed; or a value is not finite, also after the cast.
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
    """Write the hub's card of an exported model: `README.md` with front matter; give its path.

    Nothing is said of the model but what is given here.

    Args:
        folder: the exported model's.
        title: the card's heading, of one line.
        license: the hub's identifier of the weights' licence, such as `mit`; the caller's choice.
        base_model: the model that was trained further, such as `openai/clip-vit-base-patch16`.
        protocol: JSON: how the model was made and measured.
        results: measured numbers, one row each.
        tags: more of the hub's tags.

    Raises:
        ValueError: a text is empty or has several lines, there are no results, a number is not
            finite, or the protocol is not JSON.
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
    longest = max((len(run) for run in re.findall("`+", made)), default=0)
    fence = "`" * max(3, longest + 1)
    rows = [list(results.columns), *results.itertuples(index=False)]
    table = [[_escaped(_text(value)) for value in row] for row in rows]
    table.insert(1, ["---"] * len(results.columns))
    sections = [
        f"---\n{front.to_yaml()}\n---",
        f"# {_escaped(title)}",
        "## Measured results",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "## Protocol",
        f"{fence}json\n{made}\n{fence}",
    ]
    card = Path(folder) / CARD_FILE
    write_text(card, "\n\n".join(sections) + "\n")
    return card


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"a result is {value}; give measured numbers only")
    return str(value) if isinstance(value, Integral) else f"{float(value):.6g}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
