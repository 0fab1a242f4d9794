"""What `test_distributed` has torchrun do in each of several processes.

It takes a folder, into which each rank saves what it found.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import tests
from fitclip_kit.engine import distributed, students
from fitclip_kit.store.files import read_manifest

tests.__path__ = [str(Path(__file__).parent)]  # some installed package may have the name, too

from tests.make import (  # noqa: E402
    RECIPE,
    DoubleEncoder,
    clips,
    fit,
    make_encoder,
    recorded_gradients,
)


def fit_together(*arguments: Any, **changes: Any) -> Any:
    return fit(*arguments, processes=distributed.Processes(), **changes)


def gathered() -> dict[str, Any]:
    """Features of an odd number of rows, and the gradient of a loss over all of them."""
    features = torch.arange(15.0).reshape(5, 3)
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    every = distributed.gather(features[distributed.rows_of(5)] * weight, 5)
    (every @ every.T).square().sum().backward()
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = weight.grad
    distributed.sum_gradients([parameter, torch.nn.Parameter(torch.zeros(1))])
    return {"rows": every.detach(), "gradient": parameter.grad}


def trained(kind: Any, micro_batch: int | None) -> dict[str, Any]:
    torch.manual_seed(distributed.rank())
    before = torch.get_rng_state()
    names = ("student", "teacher")
    encoders: Any = {name: make_encoder(seed, kind=kind) for seed, name in enumerate(names)}
    torch.set_rng_state(before)
    labelled: Any = clips(10)
    with recorded_gradients() as gradients:
        result = fit_together(micro_batch=micro_batch, labelled=labelled, **encoders)
    assert torch.equal(torch.get_rng_state(), before)
    return {"gradients": gradients, "fit": result, "read": labelled.frames.read}


def refusals() -> list[str]:
    found = []
    for wrong in (
        partial(fit_together, replace(RECIPE, unlabelled_batch=1)),
        partial(fit_together, replace(RECIPE, seed=distributed.rank())),
        partial(fit_together, student=make_encoder(10 + distributed.rank())),
        partial(fit_together, labelled=clips(10 + distributed.rank())),
        partial(distributed.gather, torch.zeros(3, 2), 4),
    ):
        try:
            wrong()
        except ValueError as error:
            found.append(str(error))
    return found


def kept(folder: Path) -> dict[str, Any]:
    """A student that rank 0 keeps, asked for twice; and keeping that fails."""
    calls, problems = [], []

    def fit_here(*_: Any, **options: Any) -> Any:
        calls.append("fit")
        return fit_together()

    def ask(place: Path, inputs: dict[str, str]) -> Any:
        described: dict[str, Any] = {"folder": place, "draw": 1, "labelled_clips": 9}
        training = students.Training(**described, recipe=RECIPE, labelled=None, inputs=inputs)
        nothing: Any = None
        with mock.patch.object(students, "fit_student", fit_here):
            return students.train(training, nothing, nothing, nothing)

    trained = [ask(folder / "student", {}) for _ in range(2)]
    (folder / "file").touch()
    for wrong in (
        partial(distributed.on_first_rank, lambda: 1 // 0),
        partial(ask, folder / "file" / "student", {}),
        partial(ask, folder / "other", {"clips": str(distributed.rank())}),
    ):
        try:
            wrong()
        except Exception as error:
            problems.append((type(error).__name__, str(error)))
    return {
        "calls": calls,
        "weights": {one.student.sha256 for one in trained},
        "manifest": read_manifest(folder / "student"),
        "problems": problems,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    with distributed.process_group("cpu") as device:
        found = {
            "device": device,
            "size": distributed.size(),
            "first": distributed.of_first(f"from {distributed.rank()}"),
            "gathered": gathered(),
            "double": trained(DoubleEncoder, None),
            "micro": trained(DoubleEncoder, 1),
            "single": trained(type(make_encoder(0)), None),
            "refusals": refusals(),
            "kept": kept(folder),
        }
        torch.save(found, folder / f"rank{distributed.rank()}.pt")


if __name__ == "__main__":
    main()
