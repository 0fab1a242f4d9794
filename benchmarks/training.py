"""Step time and peak memory of `fit_student`, with whole batches and with micro batches.

Each line of the table is a process of its own, on random clips and random weights:

    python -m benchmarks.training
    python -m benchmarks.training --clips 16 --plain 2 4 --micro-batch 4 8 16
    python -m benchmarks.training --clips 64 --plain --micro-batch 4 --device cuda

"clips" are labelled and as many unlabelled ones. A time is that of one step, all of it: reading,
crops, student, teacher, loss, optimiser; "CPU" is the processor time it took, which a busy machine
changes less. Memory is the process's peak resident set on a CPU, where glibc is told to give freed
memory back (it would keep gigabytes otherwise, see `ENVIRONMENT`), and PyTorch's peak reservation
on a GPU. "teacher" is the number of clips a step that the teacher computes. The last lines say what
whole batches of the full size would need, from a straight line through the measured ones, the
largest micro batch that a card would hold, by a line through the measured ones, and how far the
gradients of micro batches are from those of the whole batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from fitclip_core.distillation import Recipe, TrainingClips, fit_student
from fitclip_core.encoders import ClipEncoder

N_FRAMES = 4
GB = 1e9
_MEASURED = ("seconds", "cpu", "bytes")
# Blocks of 1 MiB and more get pages of their own, which are given back when they are freed.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


class MadeUpClips:
    """Noise, made when it is read, so that only the batch is in memory."""

    def __init__(self, n: int, size: int, seed: int, draws: tuple[int, ...]) -> None:
        self.clip_ids = [f"clip{number}" for number in range(n)]
        self.frame_counts = np.full(n, N_FRAMES)
        self._shape = (N_FRAMES, *draws, size, size, 3)
        self._seed = seed

    def frames(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), *self._shape), np.uint8)
        for row, index in zip(found, indices, strict=True):
            rng = np.random.default_rng([self._seed, int(index)])
            row[...] = np.frombuffer(rng.bytes(row.size), np.uint8).reshape(row.shape)
        return found


def clips(n: int, size: int, seed: int, *, draws: tuple[int, ...] = (1,)) -> TrainingClips:
    """n clips, in training form unless there are no draws, with captions of usual length."""
    texts = [f"clip {number}: a person opens a red door and walks out" for number in range(n)]
    return TrainingClips(MadeUpClips(n, size, seed, draws), texts)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Fit a student and say what a step took; runs in a process of its own."""
    device = torch.device(case["device"])
    torch.manual_seed(0)
    student, teacher = (ClipEncoder.from_open_clip(case["model"], device=device) for _ in range(2))
    n, size = case["clips"], student.image_size
    started: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []  # seconds, processor seconds
    switch = student.model.train

    def train(mode: bool = True) -> Any:  # a step begins in train mode and ends in eval mode
        if device.type == "cuda":
            torch.cuda.synchronize()
        if mode:
            started.append((perf_counter(), process_time()))
        elif len(started) > len(steps):
            began, at = started[-1]
            steps.append((perf_counter() - began, process_time() - at))
        return switch(mode)

    student.model.train = train
    differences: list[float] = []
    file = Path(case["gradients"]) if case["gradients"] else None
    taught: list[int] = []  # pictures that the teacher computed, call by call
    teacher.model.visual.register_forward_hook(lambda _, given, __: taught.append(len(given[0])))

    class Optimiser(torch.optim.AdamW):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            # Its state takes memory from the first step on; here a step at rate 0 comes before.
            [group] = self.param_groups
            for one in group["params"]:
                one.grad = torch.zeros_like(one)
            rate, group["lr"] = group["lr"], 0.0
            super().step()
            group["lr"] = rate

        def step(self, closure: Any = None) -> Any:
            if file is not None and not steps:
                _compare(self.param_groups[0]["params"], file, differences)
            return super().step(closure)

    torch.optim.AdamW = Optimiser  # type: ignore[misc]
    fit_student(
        student,
        teacher,
        clips(n, size, 1),
        clips(n, size, 2),
        clips(2, size, 3, draws=()),
        Recipe(
            steps=case["steps"],
            validate_every=case["steps"],
            seed=1,
            labelled_batch=n,
            unlabelled_batch=n,
        ),
        micro_batch=case["micro_batch"],
    )
    return {
        **{
            name: statistics.median(taken[1:] or taken)  # the first of several is a warm-up
            for name, taken in zip(("seconds", "cpu"), zip(*steps, strict=True), strict=True)
        },
        "bytes": _peak_bytes(device),
        "teacher": sum(taught) / (N_FRAMES * case["steps"]),
        "difference": max(differences, default=None),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=64, help="of the full size (default: 64)")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--plain", type=int, nargs="*", default=[2, 4], help="whole batches")
    parser.add_argument("--steps", type=int, default=1, help="of the full size (default: 1)")
    parser.add_argument("--small-steps", type=int, default=3, help="of the others (default: 3)")
    parser.add_argument("--card-gb", type=float, default=8, help="a card's memory (default: 8)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case:
        print(json.dumps(measure(json.loads(given.case))))
        return
    shared = {"model": given.model, "device": given.device, "gradients": None}
    small = shared | {"steps": given.small_steps}
    full = shared | {"steps": given.steps, "clips": given.clips}
    print("| clips | micro batch | s a step | CPU s | GB at the peak | teacher |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    whole = {n: _row(small | {"clips": n, "micro_batch": None}) for n in sorted(given.plain)}
    parts = {size: _row(full | {"micro_batch": size}) for size in sorted(given.micro_batch)}
    if len(whole) > 1:
        seconds, cpu, memory = (_line(whole, what, given.clips) for what in _MEASURED)
        print(
            f"| {given.clips} + {given.clips} | whole, extrapolated | {seconds:.1f} | {cpu:.1f} | "
            f"{memory / GB:.1f} | |"
        )
    if len(parts) > 1:
        base, slope = _line(parts, "bytes", 0), _line(parts, "bytes", 1) - _line(parts, "bytes", 0)
        print(
            f"\n{base / GB:.2f} GB and {slope / GB:.3f} GB for each clip of a micro batch: "
            f"{given.card_gb:g} GB hold micro batches of up to "
            f"{int((given.card_gb * GB - base) / slope)}."
        )
    if whole:
        _compare_gradients(small, max(whole), whole[max(whole)])


def _line(measured: dict[int, dict[str, Any]], what: str, at: int) -> float:
    """The value at `at` of the straight line through the measured ones."""
    values = [one[what] for one in measured.values()]
    return float(np.polyval(np.polyfit(list(measured), values, 1), at))


def _compare_gradients(shared: dict[str, Any], n: int, whole: dict[str, Any]) -> None:
    """Print how micro batches of half of n clips compare with whole batches of n."""
    half = max(n // 2, 1)
    timed = _run(shared | {"clips": n, "micro_batch": half})
    with tempfile.TemporaryDirectory() as folder:
        once = shared | {"clips": n, "steps": 1, "gradients": str(Path(folder) / "gradients.pt")}
        _, compared = (_run(once | {"micro_batch": size}) for size in (None, half))
    print(
        f"\nMicro batches of {half} against the whole batch of {n} + {n}: "
        f"{timed['seconds'] / whole['seconds']:.2f} times the time, "
        f"{timed['cpu'] / whole['cpu']:.2f} times the CPU's; gradients differ by at most "
        f"{compared['difference']:.1e} of the largest one."
    )


def _row(case: dict[str, Any]) -> dict[str, Any]:
    """Measure a case and print its line of the table."""
    found = _run(case)
    how = case["micro_batch"] or "whole"
    print(
        f"| {case['clips']} + {case['clips']} | {how} | {found['seconds']:.1f} | "
        f"{found['cpu']:.1f} | {found['bytes'] / GB:.2f} | {found['teacher']:g} |",
        flush=True,
    )
    return found


def _run(case: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", "--case", json.dumps(case)]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _compare(weights: list[torch.nn.Parameter], file: Path, differences: list[float]) -> None:
    """Keep the gradients in the file, or compare them with those that are kept there."""
    gradients = [one.grad for one in weights if one.grad is not None]
    if not file.exists():
        torch.save(gradients, file)
        return
    kept = torch.load(file, mmap=True, map_location=gradients[0].device)
    largest = max(float(one.abs().max()) for one in kept)
    differences += [
        float((one - other).abs().max()) / largest
        for one, other in zip(gradients, kept, strict=True)
    ]


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
