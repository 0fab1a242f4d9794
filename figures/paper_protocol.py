"""How a measured cell's protocol differs from the one behind the paper's tables, item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import pandas as pd
import yaml

from fitclip_kit.store.files import json_digest

SAME: Final = "same"
DIFFERS: Final = "differs"
NOT_RECORDED: Final = "not recorded"

Record = Mapping[str, Any]


def protocol_items(records: Sequence[Record], model: str, data_set: str) -> pd.DataFrame:
    """The paper's protocol of one number beside the protocol under which it was measured here.

    records: `ResultsStore.record` of the cells that the number is made of, one a draw.
    model: teacher, student, fused, wise_ft or a reference of tables 2 and 3.
    data_set: msrvtt, youcook2, didemo, ucf101 or mit.

    Columns: item, paper, here (texts), status: same, differs, or not recorded where either side
    does not say. A student's recipe is part of the protocol of its numbers; that of one which was
    trained elsewhere is not recorded.

    Raises: ValueError when there is no record, or for an unknown model or data set.
    Source: the paper's official code for the sets, prompts, frames and training; supplement, table
    1 for the printed sizes.
    """
    paper = _paper()
    for name, kind, what in ((model, "models", "model"), (data_set, "data_sets", "data set")):
        if name not in paper[kind]:
            known = ", ".join(paper[kind])
            raise ValueError(f"the paper has no {what} {name!r}; it has {known}")
    if not records:
        raise ValueError(f"no record of {model} on {data_set}; nothing was measured to compare")
    of_set = paper["data_sets"][data_set]
    wanted = of_set | paper["measurement"] | paper["models"][model]
    if "captions" in of_set:
        wanted |= paper["retrieval"]
    trained, distilled = "labelled_share" in wanted, "teacher's temperature" in wanted
    if trained:
        wanted |= paper["training"]
    rows = [
        (item, says or NOT_RECORDED, here or NOT_RECORDED, _status(says, here))
        for item, says in wanted.items()
        for here in [_here(item, records)]
    ]
    fixed = dict(paper["always_different"])
    if "checkpoint" in wanted:  # a reference
        fixed |= paper["reference_always_different"]
    if trained:
        fixed |= paper["student_always_different"]
    rows += [(item, *sides, DIFFERS) for item, sides in fixed.items()]
    of_training = paper["training_always_different"] if trained else {}
    of_training |= paper["distillation_always_different"] if distilled else {}
    own = all("learning_rate" in _training(record) for record in records)
    rows += [
        (item, *(sides if own else (sides[0], NOT_RECORDED)), DIFFERS if own else NOT_RECORDED)
        for item, sides in of_training.items()
    ]
    return pd.DataFrame(rows, columns=["item", "paper", "here", "status"])


def differences(items: pd.DataFrame) -> str:
    """The items of `protocol_items` that differ, and those not recorded, as one line."""
    names = {
        status: ", ".join(items.loc[items["status"] == status, "item"])
        for status in (DIFFERS, NOT_RECORDED)
    }
    unknown = f"{NOT_RECORDED}: {names[NOT_RECORDED]}" if names[NOT_RECORDED] else ""
    return "; ".join(filter(None, [names[DIFFERS], unknown]))


def _paper() -> dict[str, Any]:
    text = (files("figures") / "paper_protocol.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _status(paper: str | None, here: str | None) -> str:
    if paper is None or here is None:
        return NOT_RECORDED
    return SAME if paper == here else DIFFERS


def _here(item: str, records: Sequence[Record]) -> str | None:
    """What the records say of an item: each distinct text, or None where one does not say."""
    if item == "draws":
        return str(len(records))
    texts = [_HERE[item](record) for record in records]
    known = [text for text in texts if text is not None]
    return " / ".join(dict.fromkeys(known)) if len(known) == len(texts) else None


def _recorded(*path: str) -> Callable[[Record], str | None]:
    """Reads a value of the record's protocol as text."""

    def read(record: Record) -> str | None:
        value: Any = record["protocol"]
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return None if value is None else str(value)

    return read


def _prompts(record: Record) -> str | None:
    templates = record["protocol"].get("templates")
    if templates is None:
        return None
    if list(templates) == ["{}"]:
        return "class name alone"
    return f"{len(templates)} templates, {json_digest(sorted(templates))[:12]}"


def _classes(record: Record) -> str | None:
    classes = record["protocol"].get("classes")
    return f"{classes['number']} names, {classes['sha256'][:12]}" if classes else None


def _clips(record: Record) -> str | None:
    coverage = record["coverage"]
    clips = coverage.get("clips")
    if "videos" in coverage:
        return f"{clips:,} texts of {coverage['videos']:,} videos"
    return None if clips is None else f"{clips:,}"


def _clips_and_annotation(record: Record) -> str | None:
    """How many, and how the annotation that they are from differs from the official one."""
    clips, size = _clips(record), record["protocol"].get("annotation_size")
    return clips if clips is None or size in (None, "official") else f"{clips} (annotation: {size})"


def _measured(record: Record) -> str | None:
    coverage = record["coverage"]
    if not coverage:
        return None
    if coverage["measured"] == coverage["clips"]:
        return "all"
    return f"{coverage['measured']:,} of {coverage['clips']:,}"


def _frame_choice(record: Record) -> str | None:
    draws = _recorded("frame_rule", "draws_per_interval")(record)
    if draws is None:
        return None
    return "middle of each interval" if draws == "0" else f"{draws} at random in each interval"


def _picture_size(record: Record) -> str | None:
    size = _recorded("frame_rule", "size")(record)
    return None if size is None else f"{size} px"


def _renormalised(record: Record) -> str | None:
    value = record["protocol"].get("renormalise")
    return None if value is None else "yes" if value else "no"


def _weights(name: str) -> Callable[[Record], str | None]:
    def read(record: Record) -> str | None:
        sha256 = _recorded("weights", name)(record)
        return None if sha256 is None else f"sha256 {sha256[:12]}"

    return read


def _training(record: Record) -> Record:
    """How the student was trained (`students.training_record`); empty where it is not known."""
    training: Record = record["protocol"].get("training") or {}
    return training


def _of_student(field: str, form: str) -> Callable[[Record], str | None]:
    """Reads the key, which has our own settings also for a student that was trained elsewhere."""

    def read(record: Record) -> str | None:
        return None if "released" in _training(record) else format(record["cell"][field], form)

    return read


def _recipe(form: str) -> Callable[[Record], str | None]:
    """Fills in a text from the student's recipe and material."""

    def read(record: Record) -> str | None:
        training = _training(record)
        try:
            return form.format(**{**training, **(training.get("material") or {})})
        except KeyError:
            return None

    return read


def _batch(kind: str) -> Callable[[Record], str | None]:
    """A set that is smaller than a batch is one."""

    def read(record: Record) -> str | None:
        training = _training(record)
        asked, there = training.get(f"{kind}_batch"), training.get("material") or {}
        return None if asked is None else str(min(asked, there.get(f"{kind}_clips", asked)))

    return read


def _stopping_rule(record: Record) -> str | None:
    rule = "none, the step with the lowest validation loss is kept"
    return rule if "steps" in _training(record) else None


def _teacher_temperature(record: Record) -> str | None:
    if "teacher_temperature" not in _training(record):
        return None
    temperature = _training(record)["teacher_temperature"]
    return "its own logit_scale" if temperature is None else f"{temperature:g}"


_HERE: Final[dict[str, Callable[[Record], str | None]]] = {
    "data set": _recorded("data_set"),
    "split": _recorded("split"),
    "captions": _recorded("captions"),
    "annotation": _recorded("annotation"),
    "shared Flickr ids": _recorded("shared_ids"),
    "prompts": _prompts,
    "classes": _classes,
    "clips": _clips_and_annotation,
    "clips printed in table 1": _clips,
    "clips measured": _measured,
    "frames": _recorded("frame_rule", "n_frames"),
    "frame choice": _frame_choice,
    "picture size": _picture_size,
    "mean features renormalised": _renormalised,
    "direction": lambda record: "text_to_video",  # the only one that tables 3, 5 and 6 print
    "teacher's architecture": _recorded("model", "architecture"),
    "teacher's weights": _weights("teacher"),
    "checkpoint": _recorded("model", "file"),
    "labelled_share": _of_student("labelled_share", ".9g"),
    "labelled_clips": _of_student("labelled_clips", ","),
    "alpha": lambda record: format(record["cell"]["alpha"], ".9g"),
    "steps": _recipe("{steps}"),
    "stopping rule": _stopping_rule,
    "validated every": _recipe("{validate_every} steps"),
    "labelled clips a step": _batch("labelled"),
    "unlabelled clips a step": _batch("unlabelled"),
    "unlabelled pool": _recipe("{unlabelled_clips:,} clips, {shared_clips:,} labelled among them"),
    "teacher's temperature": _teacher_temperature,
    "learning rate": _recipe("{learning_rate:g}"),
    "weight decay": _recipe("{weight_decay:g}"),
    "student's temperature": _recipe("{temperature:g}"),
    "crops": _recipe("{crop_scale[0]:g} to {crop_scale[1]:g} of the picture"),
    "training frames": _recipe("{stored_draws} stored draws of each of {frames} intervals"),
    "validation clips": _recipe("{validation_clips:,}"),
}
