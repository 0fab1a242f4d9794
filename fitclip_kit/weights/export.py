"""A fused model for other programs: open_clip's folder, OpenAI's state dict, a hub's card."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
import yaml
from torch import Tensor

from fitclip_core.encoders import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE, ClipEncoder
from fitclip_kit.store.files import atomic_path, write_json, write_text
from fitclip_kit.weights import checkpoints

CARD_FILE: Final = "README.md"
_PREPROCESSING: Final = ("mean", "std", "interpolation", "resize_mode", "mode", "fill_color")
_BLOCK: Final = (
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_1.weight",
    "ln_1.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
)
_OUTER: Final = (
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.proj",
    "visual.conv1.weight",
    "visual.ln_pre.weight",
    "visual.ln_pre.bias",
    "visual.ln_post.weight",
    "visual.ln_post.bias",
    "token_embedding.weight",
    "ln_final.weight",
    "ln_final.bias",
)
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
        state: weights to write, such as `interpolate`'s, with the model's names and shapes; None:
            the model's own.
        dtype: precision of the stored floating-point tensors; None keeps each one's own.
        notes: text -> text, kept in the weights file.

    Raises:
        ValueError: the model's configuration is unknown, the state does not fit it, or a value is
            not finite, also after the cast. Each file is whole or not there.

    Source: open_clip's local layout, https://github.com/mlfoundations/open_clip.
    """
    if encoder.model_config is None:
        raise ValueError(f"{encoder.name} was given ready-made: its configuration is not known")
    weights = encoder.state() if state is None else dict(state)
    _check_fits(encoder, weights)
    preprocess = encoder.model.visual.preprocess_cfg
    config = {
        "model_cfg": dict(encoder.model_config),
        "preprocess_cfg": {key: preprocess[key] for key in _PREPROCESSING if key in preprocess},
    }
    folder = Path(folder)
    checkpoints.save(folder / WEIGHTS_FILE, weights, notes, dtype)
    if encoder.merges is not None:
        with atomic_path(folder / MERGES_FILE) as temporary:
            temporary.write_bytes(encoder.merges)
    else:
        (folder / MERGES_FILE).unlink(missing_ok=True)
    write_json(folder / CONFIG_FILE, config)


def export_openai(
    path: str | Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write a CLIP state with OpenAI's names as torch.save's file of plain tensors, atomically.

    OpenAI's `clip.load` and `torch.load(path, weights_only=True)` read it.

    Args:
        path: the file to make or replace.
        state: name -> tensor; for ViT-B/16, 302 of them.
        dtype: precision of the stored floating-point tensors; None keeps each one's own.

    Raises:
        ValueError: names are missing or foreign (as those of open_clip's `CustomTextCLIP`), which
            are listed; or a value is not finite, also after the cast.

    Source: the state dict of OpenAI's CLIP, https://github.com/openai/CLIP.
    """
    expected = _openai_names(state)
    problems = {"missing": expected - state.keys(), "foreign": state.keys() - expected}
    found = [f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"the state has not the names of OpenAI's CLIP; {'; '.join(found)}")
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
    """Write the hub's card of an exported model: `README.md` with front matter.

    Nothing is said of the model but what is given here.

    Args:
        folder: the exported model's.
        title: the card's heading, of one line.
        license: the hub's identifier of the weights' licence, such as `mit`; the caller's choice.
        base_model: the model that was trained further, such as `openai/clip-vit-base-patch16`.
        protocol: JSON: how the model was made and measured.
        results: measured numbers, one row each; written as they are.
        tags: more of the hub's tags.

    Returns:
        The card's path.

    Raises:
        ValueError: a text is empty, the title has several lines, there are no results, a number
            is not finite, or the protocol is not JSON.

    Source: https://huggingface.co/docs/hub/model-cards for the front matter.
    """
    for name, value in {"title": title, "license": license, "base_model": base_model}.items():
        if not value.strip() or len(value.splitlines()) != 1:
            raise ValueError(f"{name} is {value!r}; give a text of one line")
    if results.empty:
        raise ValueError("there are no results; a card tells what was measured")
    front = {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": license,
        "base_model": base_model,
        "tags": list(dict.fromkeys(["clip", "fitclip", "video", *tags])),
    }
    try:
        made = json.dumps(protocol, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the protocol is not JSON: {error}") from error
    card = Path(folder) / CARD_FILE
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{header}---",
        f"# {_escaped(title)}",
        "## Measured results",
        _table(results),
        "## Protocol",
        _fenced(made),
    ]
    write_text(card, "\n\n".join(sections) + "\n")
    return card


def _openai_names(state: Mapping[str, Tensor]) -> set[str]:
    """The names that OpenAI's CLIP has with as many blocks as the state's towers have."""
    names = set(_OUTER)
    for tower in ("visual.transformer.resblocks.", "transformer.resblocks."):
        inside = (name.removeprefix(tower) for name in state if name.startswith(tower))
        depth = len({name.split(".")[0] for name in inside})
        names |= {f"{tower}{layer}.{part}" for layer in range(max(1, depth)) for part in _BLOCK}
    return names


def _check_fits(encoder: ClipEncoder, state: Mapping[str, Tensor]) -> None:
    own = encoder.model.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(
            f"the state does not fit {encoder.name}: {', '.join(wrong)} missing, foreign or of "
            "another shape"
        )


def _table(results: pd.DataFrame) -> str:
    rows = [[_escaped(str(name)) for name in results.columns], ["---"] * len(results.columns)]
    for row in results.itertuples(index=False):
        rows.append([_escaped(_text(value)) for value in row])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"a result is {value}; give measured numbers only")
    return str(value) if isinstance(value, Integral) else f"{float(value):.6g}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
