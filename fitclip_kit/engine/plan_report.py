"""A plan in words, as `fitclip run --dry-run` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from data_prep.check import in_bytes, printable
from fitclip_kit.engine.calibration import Rate
from fitclip_kit.engine.plan import Plan

_WIDTH = 100
_NOT_COUNTED = (
    "Not counted: reading the frame store, fusing weights, ranks, intervals, figures and the start "
    "of each notebook, together some 10 to 30 s a notebook; notebook 08 does nothing else."
)


def report(found: Plan, notes: Sequence[str] = (), left_out: Sequence[str] = ()) -> str:
    """A plan in words; `notes` are sentences to print with the assumptions, `left_out` those on
    what the run will leave out."""
    return "\n".join(_report_lines(found, notes, left_out))


def in_time(hours: float) -> str:
    """Hours for people: 40 s, 12 min, 3.4 h or 5.1 days."""
    if hours == 0:
        return "-"
    for size, unit in ((24, "days"), (1, "h"), (1 / 60, "min")):
        if hours >= (2 if unit == "days" else 1) * size:
            return f"{hours / size:,.1f} {unit}"
    return f"{hours * 3600:.0f} s"


def _report_lines(found: Plan, notes: Sequence[str], left_out: Sequence[str]) -> Iterator[str]:
    speed = found.calibration
    yield f"Plan for {speed.model} on {speed.device} (an estimate, not a promise)"
    yield ""
    yield f"  {'data set':<20}{'role':<12}{'clips':>9}{'texts':>9}{'files':>10}  basis"
    for one in found.materials:
        files = "?" if one.file_bytes is None else in_bytes(one.file_bytes)
        yield (
            f"  {printable(one.name):<20}{one.role:<12}{one.clips:>9,}{one.texts:>9,}{files:>10}  "
            f"{one.basis}"
        )
    for one in found.materials:
        if one.note:
            yield from _wrapped(f"{one.name}: {one.note}")
    yield ""
    yield from _time_lines(found)
    yield ""
    yield from _memory_lines(found)
    yield f"Measured here, with {speed.threads} CPU thread{'' if speed.threads == 1 else 's'}:"
    yield from _wrapped(_speed("evaluation", speed.images, "pictures"))
    what = f"texts of {speed.text_words:.0f} words on average"
    yield from _wrapped(_speed("evaluation", speed.texts, what))
    yield from _wrapped(_speed("training", speed.training, "clips"))
    yield from _wrapped(f"training: {speed.optimiser_seconds:.2g} s for a step of AdamW")
    for one in found.materials:
        if one.decoding is not None:
            made = f"{one.making_seconds * 1000:.0f} ms to make one, " if one.making_seconds else ""
            yield from _wrapped(
                f"decoding {one.name}: {made}{one.decoding.clips_per_second:.3g} clips a second "
                f"({one.decoding.measured_on}, {one.decoding.workers} workers)"
            )
    yield "Assumed:"
    for line in (*_assumptions(found), *notes):
        yield from _wrapped(line)
    if left_out:
        yield "Left out:"
    for line in left_out:
        yield from _wrapped(line)


def _time_lines(found: Plan) -> Iterator[str]:
    """A line a notebook, and under it one for each group of students."""
    columns = ["disk_bytes", "decode_hours", "device_hours"]
    names = {one.name for one in found.materials}
    students = found.steps[~found.steps["what"].isin(names)]
    yield f"  {'notebook':<38}{'disk':>10}{'decoding':>14}{'device':>14}"
    for name, row in found.by_notebook.iterrows():
        yield f"  {name:<38}{_costs(*row[columns])}"
        own = students[students["notebook"] == name]
        for what, *costs in own[["what", *columns]].itertuples(index=False, name=None):
            yield f"    {what:<36}{_costs(*costs)}"


def _costs(disk: float, decoding: float, device: float) -> str:
    return f"{in_bytes(disk) if disk else '-':>10}{in_time(decoding):>14}{in_time(device):>14}"


def _memory_lines(found: Plan) -> Iterator[str]:
    speed = found.calibration
    needs = []
    if found.training_bytes:
        needs.append(f"A training step needs about {in_bytes(found.training_bytes)} of memory")
    if found.gradient_bytes:
        needs.append(f"{'a' if needs else 'A'} Fisher gradient {in_bytes(found.gradient_bytes)}")
    if not needs:
        return
    if found.fits is None:
        verdict = "How much this device has is not known."
    else:
        verdict = f"This device has {in_bytes(speed.device_bytes or 0)}"
        verdict += "." if found.fits else f": IT WILL NOT FIT. {_what_fits(found)}"
    yield from _wrapped(f"{', '.join(needs)} (estimate). {verdict}")
    yield ""


def _what_fits(found: Plan) -> str:
    speed, limit = found.calibration, found.calibration.device_bytes or 0
    if found.training_bytes <= limit:
        return "Take a smaller fisher_batch."
    clips = (limit - found.state_bytes) // speed.activation_bytes
    fitting = f"about {clips:,} clips in all would fit" if clips > 0 else "not even one clip would"
    return (
        f"Of labelled_batch and unlabelled_batch together, {fitting}; smaller batches than the "
        "paper's 64 and 64 are another protocol."
    )


def _assumptions(found: Plan) -> Iterator[str]:
    speed = found.calibration
    if nominal := [one.name for one in found.materials if one.basis == "nominal"]:
        yield f"Nominal sizes, the files not being there: {', '.join(nominal)}."
    untried = {one.role: found.decoding[one.role] for one in found.materials if not one.decoding}
    if untried:
        first = next(iter(untried.values()))
        speeds = ", ".join(f"{role} {one.clips_per_second:.3g}" for role, one in untried.items())
        yield (
            f"Clips decoded a second where none was tried: {speeds}; measured on "
            f"{first.measured_on} with {first.workers} workers. Longer or larger videos take "
            "longer, and each segment of a long video reads all of it."
        )
    yield (
        f"Every clip has {speed.n_frames} frames, and every set's texts are as long as those that "
        "were timed."
    )
    yield _NOT_COUNTED
    if found.training_clips:
        yield (
            f"A training step's time is that of {speed.training.batch} clip(s), scaled to "
            f"{found.training_clips} at most; its memory is what autograd keeps of one clip, times "
            "the clips, without the kernels' workspace."
        )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _speed(label: str, rate: Rate, what: str) -> str:
    return (
        f"{label}: {rate.per_second:.3g} {what} a second ({rate.slowest:.3g} to "
        f"{rate.fastest:.3g}, {rate.timings} timings)"
    )
