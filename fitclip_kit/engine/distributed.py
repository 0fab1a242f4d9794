"""Several processes that train one model: torchrun starts them, on one machine or on many.

Every process holds the whole model and computes its share of each batch. Gathered features carry
gradients to the process that computed them alone, so that the sum of all processes' gradients is
the gradient of one process that computes the whole batch. Outside torchrun there is one process,
and every function here does nothing or the obvious.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from fitclip_core.fast import OneProcess

T = TypeVar("T")

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
AUTO = "auto"


def pick_device(name: str) -> str:
    """The device of PyTorch's name, or with "auto" the fastest kind that this machine has.

    Raises: ValueError when PyTorch does not know it or this machine has none.
    """
    if name == AUTO:
        device = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if device is None else device.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here ({error}); try auto or cpu") from error
    return name


class FirstRankFailed(RuntimeError):
    """What rank 0 alone does has failed there, where the error is raised itself."""


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, for the block; outside torchrun, do nothing.

    device: `cpu`, `cuda` or `auto`; on GPUs each process takes the one of its local rank. Yields
    this process's device, such as `cuda:3`.

    Raises: ValueError for more processes on a machine than it has GPUs, or a kind of device on
    which processes cannot work together.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    kind = torch.device(pick_device(AUTO) if device == AUTO else device).type
    if kind not in BACKENDS:
        raise ValueError(f"processes work together on cpu or cuda, not on {device!r}")
    if kind == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(
                f"local rank {local} has no GPU: this machine has {found}; start at most {found} "
                f"processes on it (--nproc-per-node {found})"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group(BACKENDS[kind])
    yield device
    # Not after an error: the others may still wait in a collective; torchrun ends them.
    dist.destroy_process_group()


def size() -> int:
    """How many processes work together; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def rows_of(n: int, of_rank: int | None = None) -> slice:
    """The rows of n that a process works on: contiguous, in rank order, sizes at most 1 apart.

    of_rank: whose; None: this process's. Raises ValueError for fewer rows than processes.
    """
    if n < size():
        raise ValueError(
            f"{n} clips cannot be shared by {size()} processes; start at most {n} of them, or give "
            "larger batches"
        )
    place = rank() if of_rank is None else of_rank
    return slice(n * place // size(), n * (place + 1) // size())


def gather(rows: torch.Tensor, n: int) -> torch.Tensor:
    """All processes' rows `[n, d]`, in rank order; only this process's own carry gradients.

    rows: `[rows_of(n), d]`; ValueError for another number of them.
    """
    shares = [rows_of(n, other) for other in range(size())]
    own = shares[rank()]
    if len(rows) != own.stop - own.start:
        raise ValueError(f"{len(rows)} rows are no share of {n}: that is {own.stop - own.start}")
    if size() == 1:
        return rows
    # Collectives want equal shapes, so that shorter shares are padded.
    longest = -(-n // size())
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in shares]
    dist.all_gather(gathered, padded)
    pieces = [part[: one.stop - one.start] for part, one in zip(gathered, shares, strict=True)]
    pieces[rank()] = rows
    return torch.cat(pieces)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up all processes' gradients, in place; the sums have the same bits on every process."""
    if size() == 1:
        return
    found = [one.grad for one in parameters if one.grad is not None]
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in found]:
        work.wait()


def of_first(value: T) -> T:
    """Rank 0's value, on every process."""
    if size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def check_same(**values: object) -> None:
    """ValueError, on every process, where one holds other values than rank 0, by their names."""
    if size() == 1:
        return
    found: list[dict[str, object]] = [{} for _ in range(size())]
    dist.all_gather_object(found, values)
    differing = {
        name: ranks
        for name in values
        if (ranks := [place for place, one in enumerate(found) if one[name] != found[0][name]])
    }
    if differing:
        listed = "; ".join(f"{name} on ranks {ranks}" for name, ranks in differing.items())
        raise ValueError(
            f"not as on rank 0: {listed}; start every process with the same code, data and settings"
        )


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, which alone runs it, on every process; it has to pickle.

    Raises: on rank 0 whatever `work` raises, and FirstRankFailed on the others.
    """
    value: T | None = None
    failure: Exception | None = None
    problem = ""
    if rank() == 0:
        try:
            value = work()
        except Exception as error:
            failure, problem = error, f"{type(error).__name__}: {error}"
    value, problem = of_first((value, problem))
    if failure is not None:
        raise failure
    if problem:
        raise FirstRankFailed(f"rank 0 failed: {problem}")
    return cast(T, value)


class Processes(OneProcess):
    """The processes that torchrun started, for `distillation.fit_student`."""

    def __init__(self) -> None:
        self.size, self.rank = size(), rank()

    rows = staticmethod(rows_of)
    gather = staticmethod(gather)
    sum_gradients = staticmethod(sum_gradients)
    of_first = staticmethod(of_first)
    check_same = staticmethod(check_same)
