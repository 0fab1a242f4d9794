"""Step time and peak memory of `fit_student`, with whole batches and with micro batches.

Each line of the table is a process of its own, on random clips and random weights:

    python -m benchmarks.training
    python -m benchmarks.training --cases 8 8/4 64/4 --device cuda

"8/4" are 8 labelled and as many unlabelled clips in micro batches of 4. A time is that of one step,
all of it: reading, crops, student, teacher, loss, optimiser; "CPU" is the processor time it took,
which a busy machine changes less. Memory is the process's peak resident set on a CPU, where glibc
is told to give freed memory back (it would keep gigabytes otherwise, see `ENVIRONMENT`), and
PyTorch's peak reservation on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from benchmarks.side_by_side import kilobytes
from fitclip_core.clips import TrainingClips
from fitclip_core.distillation import Recipe, fit_student
from fitclip_core.encoders import ClipEncoder

N_FRAMES = 4
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


def measure(case: str, given: argparse.Namespace) -> None:
    """Fit a student and print a line of what a step took; in a process of its own."""
    device = torch.device(given.device)
    torch.manual_seed(0)
    student, teacher = (ClipEncoder.from_open_clip(given.model, device=device) for _ in range(2))
    n, _, micro = case.partition("/")
    started: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []  # seconds, processor seconds
    switch = student.model.train

    def train(mode: bool = True) -> Any:  # a step begins in train mode and ends in eval mode
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = perf_counter(), process_time()
        if mode:
            started.append(now)
        elif len(started) > len(steps):
            steps.append((now[0] - started[-1][0], now[1] - started[-1][1]))
        return switch(mode)

    student.model.train = train
    fit_student(
        student,
        teacher,
        clips(int(n), student.image_size, 1),
        clips(int(n), student.image_size, 2),
        clips(2, student.image_size, 3, draws=()),
        Recipe(
            steps=given.steps,
            validate_every=given.steps,
            seed=1,
            labelled_batch=int(n),
            unlabelled_batch=int(n),
        ),
        micro_batch=int(micro) if micro else None,
    )
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(device) if cuda else 1024 * kilobytes("VmHWM")
    # The first of several steps is a warm-up.
    wall, cpu = (statistics.median(taken[1:] or taken) for taken in zip(*steps, strict=True))
    print(f"| {n} + {n} | {micro or 'whole'} | {wall:.1f} | {cpu:.1f} | {peak / 1e9:.2f} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--cases", nargs="+", default=["2", "4", "8/4"], help="default: 2 4 8/4")
    parser.add_argument("--steps", type=int, default=3, help="default: 3")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        measure(given.case, given)
        return
    print("| clips | micro batch | s a step | CPU s | GB at the peak |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for case in given.cases:
        command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--case", case]
        subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True)


if __name__ == "__main__":
    main()
