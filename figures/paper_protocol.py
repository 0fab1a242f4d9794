"""How a measured cell's protocol differs from the one behind the paper's tables, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import pandas as pd
import yaml

from fitclip_kit.store.files import json_digest

SAME: Final = "same"
DIFFERS: Final = "differs"
NOT_RECORDED: Final = "not recorded"

Record = Mapping[str, Any]

# How an item of paper_protocol.yaml is read off a record's protocol (or its cell); `_others` has
# those that take more than a format.
_FORMS: Final = {
    "data set": "{data_set}",
    "split": "{split}",
    "captions": "{captions}",
    "annotation": "{annotation}",
    "shared Flickr ids": "{shared_ids}",
    "classes": "{classes[number]} names, {classes[sha256]:.12}",
    "frames": "{frame_rule[n_frames]}",
    "picture size": "{frame_rule[size]} px",
    "direction": "text_to_video",  # the only one that tables 3, 5 and 6 print
    "teacher's architecture": "{model[architecture]}",
    "teacher's weights": "sha256 {weights[teacher]:.12}",
    "checkpoint": "{model[file]}",
    "labelled_share": "{cell[labelled_share]:.9g}",
    "labelled_clips": "{cell[labelled_clips]:,}",
    "alpha": "{cell[alpha]:.9g}",
    "steps": "{training[steps]}",
    "validated every": "{training[validate_every]} steps",
    "unlabelled pool": "{training[material][unlabelled_clips]:,} clips, "
    "{training[material][shared_clips]:,} labelled among them",
    "learning rate": "{training[learning_rate]:g}",
    "weight decay": "{training[weight_decay]:g}",
    "student's temperature": "{training[temperature]:g}",
    "crops": "{training[crop_scale][0]:g} to {training[crop_scale][1]:g} of the picture",
    "training frames": "{training[material][stored_draws]} stored draws of each of "
    "{training[material][frames]} intervals",
    "validation clips": "{training[material][validation_clips]:,}",
}


def protocol_items(records: Sequence[Record], model: str, data_set: str) -> pd.DataFrame:
    """The paper's protocol of one number beside the protocol under which it was measured here.

    records: `ResultsStore.record` of the cells that the number is made of, one a draw. model and
    data_set: as in paper_protocol.yaml. Columns: item, paper, here (texts), status: same, differs,
    or not recorded where a side does not say, as of a student that was trained elsewhere.

    Raises: ValueError when there is no record, or for an unknown model or data set.
    Source: the paper's official code; supplement, table 1 for the printed sizes.
    """
    text = (files("figures") / "paper_protocol.yaml").read_text(encoding="utf-8")
    paper: dict[str, Any] = yaml.safe_load(text)
    for name, kind, what in ((model, "models", "model"), (data_set, "data_sets", "data set")):
        if name not in paper[kind]:
            known = ", ".join(paper[kind])
            raise ValueError(f"the paper has no {what} {name!r}; it has {known}")
    if not records:
        raise ValueError(f"no record of {model} on {data_set}; nothing was measured to compare")
    wanted = paper["data_sets"][data_set] | paper["measurement"] | paper["models"][model]
    if "captions" in wanted:
        wanted |= paper["retrieval"]
    fixed = dict(paper["always_different"])
    of_training: dict[str, Any] = {}
    if "checkpoint" in wanted:  # a reference
        fixed |= paper["reference_always_different"]
    if "labelled_share" in wanted:  # a student, whether fused or not
        wanted |= paper["training"]
        fixed |= paper["student_always_different"]
        of_training |= paper["training_always_different"]
    if "teacher's temperature" in wanted:
        of_training |= paper["distillation_always_different"]
    said = [_said(record) for record in records]
    rows = []
    for item, expected in wanted.items():
        here = _together([texts.get(item) for texts in said])
        here = str(len(records)) if item == "draws" else here
        status = SAME if expected == here else DIFFERS
        status = NOT_RECORDED if None in (expected, here) else status
        rows.append((item, expected or NOT_RECORDED, here or NOT_RECORDED, status))
    rows += [(item, *sides, DIFFERS) for item, sides in fixed.items()]
    trained_here = all("learning rate" in texts for texts in said)
    for item, (expected, here) in of_training.items():
        sides = (here, DIFFERS) if trained_here else (NOT_RECORDED, NOT_RECORDED)
        rows.append((item, expected, *sides))
    return pd.DataFrame(rows, columns=["item", "paper", "here", "status"])


def differences(items: pd.DataFrame) -> str:
    """The items of `protocol_items` that differ, and those not recorded, as one line."""
    names = {
        status: ", ".join(items.loc[items["status"] == status, "item"])
        for status in (DIFFERS, NOT_RECORDED)
    }
    unknown = f"{NOT_RECORDED}: {names[NOT_RECORDED]}" if names[NOT_RECORDED] else ""
    return "; ".join(filter(None, [names[DIFFERS], unknown]))


def _together(texts: Sequence[str | None]) -> str | None:
    """Each distinct text of several records, or None where one does not say."""
    known = [text for text in texts if text is not None]
    return " / ".join(dict.fromkeys(known)) if len(known) == len(texts) else None


def _said(record: Record) -> dict[str, str]:
    """What one record says, by item; items of which it says nothing are left out."""
    protocol = _without_none(record["protocol"]) | {"cell": _without_none(record["cell"])}
    if "released" in protocol.get("training", {}):  # its cell has our own settings
        protocol["cell"] = {"alpha": record["cell"]["alpha"]}
    said = {}
    for item, form in _FORMS.items():
        try:
            said[item] = form.format(**protocol)
        except (KeyError, IndexError):
            continue
    return said | _others(record, protocol)


def _without_none(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {name: _without_none(value) for name, value in values.items() if value is not None}


def _others(record: Record, protocol: Mapping[str, Any]) -> dict[str, str]:
    said = {}
    if (templates := protocol.get("templates")) is not None:
        listed = f"{len(templates)} templates, {json_digest(sorted(templates))[:12]}"
        said["prompts"] = "class name alone" if list(templates) == ["{}"] else listed
    if (draws := protocol.get("frame_rule", {}).get("draws_per_interval")) is not None:
        at_random = f"{draws} at random in each interval"
        said["frame choice"] = at_random if draws else "middle of each interval"
    if (renormalise := protocol.get("renormalise")) is not None:
        said["mean features renormalised"] = "yes" if renormalise else "no"
    coverage = record["coverage"]
    if coverage:
        asked, measured = coverage["clips"], coverage["measured"]
        clips = f"{asked:,}"
        if "videos" in coverage:
            clips += f" texts of {coverage['videos']:,} videos"
        said["clips printed in table 1"] = said["clips"] = clips
        if (size := protocol.get("annotation_size", "official")) != "official":
            said["clips"] += f" (annotation: {size})"
        said["clips measured"] = "all" if measured == asked else f"{measured:,} of {asked:,}"
    training = record["protocol"].get("training") or {}
    material = training.get("material") or {}
    for kind in ("labelled", "unlabelled"):
        if (batch := training.get(f"{kind}_batch")) is not None:
            there = min(batch, material.get(f"{kind}_clips", batch))
            said[f"{kind} clips a step"] = str(there)  # a set that is smaller than a batch is one
    if "steps" in training:
        said["stopping rule"] = "none, the step with the lowest validation loss is kept"
    if "teacher_temperature" in training:
        temperature = training["teacher_temperature"]
        own = temperature is None
        said["teacher's temperature"] = "its own logit_scale" if own else f"{temperature:g}"
    return said
