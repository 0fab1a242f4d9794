"""How a measured cell's protocol differs from the one behind the paper's tables, item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import pandas as pd
import yaml

from fitclip_core.artefacts import json_digest

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
    does not say. The training's own settings (steps, learning rate) are not in a cell's record and
    so not among the items: a student's manifest has them.

    Raises: ValueError when there is no record, or for an unknown model or data set.
    Source: the paper's official code for the sets, prompts and frames; supplement, table 1 for the
    printed sizes.
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
    rows = [
        (item, says or NOT_RECORDED, here or NOT_RECORDED, _status(says, here))
        for item, says in wanted.items()
        for here in [_here(item, records)]
    ]
    fixed = dict(paper["always_different"])
    if "checkpoint" in wanted:  # a reference
        fixed |= paper["reference_always_different"]
    rows += [(item, *sides, DIFFERS) for item, sides in fixed.items()]
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


def _key(field: str, form: str) -> Callable[[Record], str | None]:
    return lambda record: format(record["key"][field], form)


_HERE: Final[dict[str, Callable[[Record], str | None]]] = {
    "data set": _recorded("data_set"),
    "split": _recorded("split"),
    "captions": _recorded("captions"),
    "annotation": _recorded("annotation"),
    "shared Flickr ids": _recorded("shared_ids"),
    "prompts": _prompts,
    "classes": _classes,
    "clips": _clips,
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
    "label_share": _key("label_share", ".9g"),
    "subset_size": _key("subset_size", ","),
    "alpha": _key("alpha", ".9g"),
}
