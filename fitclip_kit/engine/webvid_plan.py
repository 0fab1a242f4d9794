"""The method on all of WebVid-2.5M, on paper: hours, disk, nodes and money.

What it rests on is a list of numbers, each measured here, from a source, or assumed, and each for
the user to change. `python -m benchmarks.webvid_plan` measures the first kind and prints the plan.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import pandas as pd

from data_prep.check import in_bytes
from fitclip_kit.engine.plan_report import in_time

Basis = Literal["measured", "source", "assumption", "given"]
_TABLE: Final = ["what", "on", "basis", "hours", "disk_bytes", "dollars"]
_NODE, _GPU = "CPU node", "GPU"
_FLOAT_BYTES, _TB, _HOURS_A_DAY = 4, 1e12, 24
_WIDTH = 100
_TIMM = "an RTX 3090 with mixed precision, in timm's results/benchmark"


@dataclass(frozen=True)
class Number:
    """A number that the plan rests on.

    Attributes:
        value: the number.
        what: what it counts, with its unit.
        basis: where it comes from.
        why: the source, or what it was measured on.
    """

    value: float
    what: str
    basis: Basis
    why: str = ""


@dataclass(frozen=True)
class UnitCosts:
    """What was measured on this machine.

    Attributes:
        decode_core_seconds: to decode and resize one clip into the frames of an evaluation.
        training_core_seconds: the same into training frames.
        image_seconds: of a picture through the image tower.
        text_seconds: of a caption through the text tower, on the same device.
        rank_core_seconds: of one pair of a text and a clip, ranked both ways.
        parameters: numbers in the model's weights.
        measured_on: what, in words.
    """

    decode_core_seconds: float
    training_core_seconds: float
    image_seconds: float
    text_seconds: float
    rank_core_seconds: float
    parameters: int
    measured_on: str

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "measured_on" and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{one.name} is {value}; give a number above 0")


NUMBERS: Final[Mapping[str, Number]] = {
    "clips": Number(2.5e6, "clips", "source", "the paper's supplement, table 1 and section 7"),
    "clip_bytes": Number(
        1.8e6,
        "bytes of a video file",
        "source",
        "video2dataset's page on WebVid: 230 videos a second are 420 Mb a second, taken as "
        "megabytes (18 s of video at 0.8 Mbit a second); as megabits it would be 0.23 MB",
    ),
    "downloads": Number(
        230, "videos that a node downloads a second", "source", "video2dataset's page on WebVid"
    ),
    "frames": Number(4, "frames of a clip", "source", "the paper's code"),
    "image_size": Number(224, "pixels of a frame's side", "source", "ViT-B/16"),
    "width": Number(512, "numbers of a feature", "source", "ViT-B/16"),
    "alphas": Number(11, "alphas, 0 included", "source", "the paper's supplement, section 6"),
    "students": Number(3, "students", "assumption", "as the paper profile"),
    "training_draws": Number(3, "frames kept an interval", "assumption", "as the paper profile"),
    "epochs": Number(1, "epochs on all clips, labels alone", "assumption"),
    "gpu_images": Number(
        1387,
        "pictures that a GPU encodes a second",
        "source",
        f"ViT-B/16 on {_TIMM}-infer-amp-nchw-pt240-cu124-rtx3090.csv",
    ),
    "gpu_training_images": Number(
        391,
        "pictures that a GPU trains on a second",
        "source",
        f"ViT-B/16 on {_TIMM}-train-amp-nchw-pt112-cu113-rtx3090.csv",
    ),
    "cores": Number(16, "cores of a CPU node", "source", "c6i.4xlarge: 16 virtual ones"),
    "node_price": Number(
        0.68, "dollars an hour of a CPU node", "source", "c6i.4xlarge on video2dataset's page"
    ),
    "gpu_price": Number(0.50, "dollars an hour of a GPU", "assumption", "offers differ threefold"),
    "disk_price": Number(
        23, "dollars a TB and month", "assumption", "what object stores ask, 21 to 26"
    ),
    "months": Number(1, "months that the frames are kept", "assumption"),
}


@dataclass(frozen=True)
class WebVidPlan:
    """The plan. `report` puts it in words.

    Attributes:
        steps: DataFrame (what, on, basis, hours, disk_bytes, dollars), a row a step: hours of one
            CPU node or one GPU, `on` saying which and `basis` where its speed comes from; what is
            left on disk, and what it costs with it.
        numbers: name -> number, as they were used.
        unit_costs: what was measured.
    """

    steps: pd.DataFrame
    numbers: Mapping[str, Number]
    unit_costs: UnitCosts

    def nodes(self, days: float) -> dict[str, int]:
        """CPU nodes and GPUs that do all steps in so many days, if each step can be split.

        Raises: ValueError when days is not positive.
        """
        if not days > 0:
            raise ValueError(f"days is {days}; give a number above 0")
        hours = self.steps.groupby("on", sort=False)["hours"].sum()
        return {str(on): math.ceil(sum_ / (_HOURS_A_DAY * days)) for on, sum_ in hours.items()}


def webvid_plan(unit_costs: UnitCosts, changed: Mapping[str, float] | None = None) -> WebVidPlan:
    """Multiply out what the method takes on all of WebVid.

    Every step grows with the number of clips, but for the ranks, which grow with its square
    (`benchmarks.costs` measures that). A core of a node is taken to be as fast as one of this
    machine. The time of a caption is taken to be the same share of a picture's on a GPU as here.

    Args:
        unit_costs: what was measured.
        changed: name in `NUMBERS` -> another value.

    Raises: ValueError for a name that is not there, or a value that is not positive.
    """
    numbers = dict(NUMBERS)
    for name, value in (changed or {}).items():
        if name not in numbers:
            raise ValueError(f"there is no number {name!r}; there are {', '.join(numbers)}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; give a number above 0")
        numbers[name] = replace(numbers[name], value=value, basis="given", why="")
    used = {name: one.value for name, one in numbers.items()}
    clips, frames = used["clips"], used["frames"]
    models = 1 + used["students"] * (used["alphas"] - 1)
    frame_bytes = 3 * used["image_size"] ** 2
    text_share = unit_costs.text_seconds / (frames * unit_costs.image_seconds)
    per_core = clips / used["cores"] / 3600
    store = clips * frames * frame_bytes
    encode = clips * frames / used["gpu_images"] / 3600 * (1 + text_share)
    train = clips * frames / used["gpu_training_images"] / 3600 * (1 + text_share)
    features = 2 * clips * used["width"] * _FLOAT_BYTES
    decode = per_core * unit_costs.decode_core_seconds
    many = f"{models:,.0f} models"
    rows = [
        (
            "download the videos",
            _NODE,
            numbers["downloads"].basis,
            clips / used["downloads"] / 3600,
            clips * used["clip_bytes"],
        ),
        ("decode into a frame store", _NODE, "measured", decode, store),
        (
            f"decode training frames, {used['training_draws']:g} an interval",
            _NODE,
            "measured",
            per_core * unit_costs.training_core_seconds,
            store * used["training_draws"],
        ),
        (
            f"train {used['students']:g} students, {used['epochs']:g} epoch(s) each",
            _GPU,
            numbers["gpu_training_images"].basis,
            train * used["students"] * used["epochs"],
            used["students"] * unit_costs.parameters * _FLOAT_BYTES,
        ),
        (
            f"encode clips and texts with {many}",
            _GPU,
            numbers["gpu_images"].basis,
            encode * models,
            models * features,
        ),
        (
            f"rank all among all, both ways, {many}",
            _NODE,
            "measured",
            per_core * clips * unit_costs.rank_core_seconds * models,
            0.0,
        ),
    ]
    price = {_NODE: used["node_price"], _GPU: used["gpu_price"]}
    kept = used["disk_price"] * used["months"] / _TB
    steps = [(*row, row[3] * price[row[1]] + row[4] * kept) for row in rows]
    return WebVidPlan(pd.DataFrame(steps, columns=_TABLE), numbers, unit_costs)


def report(found: WebVidPlan) -> str:
    """A plan in words, with every number it rests on."""
    return "\n".join(_report_lines(found))


def _report_lines(found: WebVidPlan) -> Iterator[str]:
    costs, used = found.unit_costs, {name: one.value for name, one in found.numbers.items()}
    yield f"All of WebVid: {used['clips']:,.0f} clips (an estimate; no GPU was measured)"
    yield ""
    yield f"  {'':<42}{'one does it in':>20}{'speed':>12}{'on disk':>10}{'dollars':>10}"
    for what, on, basis, hours, disk, dollars in found.steps.itertuples(index=False, name=None):
        size = in_bytes(disk) if disk else "-"
        time = f"{in_time(hours)} {on}"
        yield f"  {what:<42}{time:>20}{basis:>12}{size:>10}{dollars:>10,.0f}"
    disk, dollars = found.steps["disk_bytes"].sum(), found.steps["dollars"].sum()
    yield f"  {'total':<74}{in_bytes(disk):>10}{dollars:>10,.0f}"
    yield ""
    for days in (1, 7):
        needed = found.nodes(days).items()
        of = " and ".join(f"{count:,} {on}{'s' * (count > 1)}" for on, count in needed)
        yield from _wrapped(f"In {'a day' if days == 1 else 'a week'}: {of}, if all are busy.")
    yield from _wrapped(_instead(found))
    yield from _wrapped(_without_gpu(found))
    yield ""
    yield "Measured here:"
    yield from _wrapped(costs.measured_on)
    for what, value in {
        "core-seconds to decode a clip for evaluation": costs.decode_core_seconds,
        "core-seconds to decode a clip for training": costs.training_core_seconds,
        "seconds of a picture through the image tower": costs.image_seconds,
        "seconds of a caption through the text tower": costs.text_seconds,
        "core-nanoseconds of a pair, ranked both ways": 1e9 * costs.rank_core_seconds,
    }.items():
        yield f"  {value:>10.3g}  {what}"
    for basis in ("source", "assumption", "given"):
        chosen = {name: one for name, one in found.numbers.items() if one.basis == basis}
        if chosen:
            yield {"source": "From sources:", "assumption": "Assumed:", "given": "Given:"}[basis]
        for name, one in chosen.items():
            why = f" ({one.why})" if one.why else ""
            yield from _wrapped(f"{name} = {one.value:,.10g}: {one.what}{why}")


def _instead(found: WebVidPlan) -> str:
    """What it takes to keep features and no frames."""
    store, encoding = _step(found, "decode into"), _step(found, "encode")
    models = 1 + found.numbers["students"].value * (found.numbers["alphas"].value - 1)
    return (
        f"Features instead of frames: {in_bytes(encoding['disk_bytes'])} in place of "
        f"{in_bytes(store['disk_bytes'])}, if all {models:,.0f} models encode a clip while its "
        "frames are in memory; a model that comes later has every video decoded again, "
        f"{in_time(store['hours'])} of a CPU node."
    )


def _without_gpu(found: WebVidPlan) -> str:
    slower = found.numbers["gpu_images"].value * found.unit_costs.image_seconds
    here = slower * _step(found, "encode")["hours"]
    return (
        f"Without a GPU: encoding would take {in_time(here)} on this machine, {slower:,.0f} times "
        "as long as on one."
    )


def _step(found: WebVidPlan, start: str) -> dict[Hashable, Any]:
    """The row of the step whose description starts so."""
    [row] = [row for row in found.steps.to_dict("records") if row["what"].startswith(start)]
    return row


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
