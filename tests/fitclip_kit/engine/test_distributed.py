"""Training in two real processes, that torchrun starts, against training in one."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fitclip_core.encoders import ClipEncoder
from fitclip_kit.engine import distributed
from tests.make import (
    RECIPE,
    DoubleEncoder,
    clips,
    fit,
    largest_difference,
    make_encoder,
    recorded_gradients,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; see `tests.work_in_ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    work = ["--nproc-per-node", "2", str(ROOT / "tests" / "work_in_ranks.py"), str(folder)]
    done = subprocess.run(
        torchrun + work,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def alone(kind: type[ClipEncoder]) -> dict[str, Any]:
    student, teacher = make_encoder(0, kind=kind), make_encoder(1, kind=kind)
    labelled: Any = clips(10)
    with recorded_gradients() as gradients:
        result = fit(student=student, teacher=teacher, labelled=labelled)
    return {"gradients": gradients, "fit": result, "read": labelled.frames.read}


def test_gathered_rows_carry_the_whole_gradient(ranks: list[dict[str, Any]]) -> None:
    features = torch.arange(15.0).reshape(5, 3)
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    every = features * weight
    (every @ every.T).square().sum().backward()
    for rank, found in enumerate(ranks):
        assert (found["device"], found["size"], found["first"]) == ("cpu", 2, "from 0"), rank
        torch.testing.assert_close(found["gathered"]["rows"], every.detach())
        torch.testing.assert_close(found["gathered"]["gradient"], weight.grad)


@pytest.mark.parametrize(
    ("case", "kind", "tolerance"),
    [
        ("double", DoubleEncoder, 1e-12),
        ("micro", DoubleEncoder, 1e-12),
        ("single", ClipEncoder, 1e-6),
    ],
)
def test_losses_and_gradients_are_those_of_one_process(
    ranks: list[dict[str, Any]], case: str, kind: type[ClipEncoder], tolerance: float
) -> None:
    # Batches of 4 and 3 clips and 5 to validate on: two of them are not divisible by two.
    expected = alone(kind)
    for found in (one[case] for one in ranks):
        assert len(found["gradients"]) == RECIPE.steps
        first = largest_difference(found["gradients"][0], expected["gradients"][0])
        assert first < tolerance
        columns = ["labelled_loss", "distillation_loss", "validation_loss"]
        pd.testing.assert_frame_equal(
            found["fit"].history.loc[:1, columns],
            expected["fit"].history.loc[:1, columns],
            rtol=max(tolerance, 1e-7),  # the validation's features are always float32
        )
        if kind is DoubleEncoder:  # in float32 Adam blows up rounding where a gradient is zero
            assert found["fit"].best_step == expected["fit"].best_step
            for name, weight in expected["fit"].state.items():
                torch.testing.assert_close(found["fit"].state[name], weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", ["double", "micro", "single"])
def test_weights_and_history_are_the_same_bits_on_all_ranks(
    ranks: list[dict[str, Any]], case: str
) -> None:
    first, second = (one[case]["fit"] for one in ranks)
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert first.best_step == second.best_step
    losses = [one.history["validation_loss"] for one in (first, second)]
    pd.testing.assert_series_equal(*losses)


def test_what_cannot_be_shared_is_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        few, seeds, weights, materials, rows = found["refusals"]
        assert "1 clips cannot be shared by 2 processes" in few
        assert "recipe on ranks [1]" in seeds
        assert "student on ranks [1]" in weights
        assert "clips on ranks [1]" in materials
        assert "3 rows are no share of 4" in rows


def test_each_rank_reads_its_own_clips_alone(ranks: list[dict[str, Any]]) -> None:
    whole = alone(ClipEncoder)["read"]
    halves = zip(*(one["single"]["read"] for one in ranks), strict=True)
    assert [first + second for first, second in halves] == whole
    assert len(whole) == RECIPE.steps and all(len(batch) == 4 for batch in whole)


def test_all_ranks_fit_and_the_first_keeps_what_all_read(ranks: list[dict[str, Any]]) -> None:
    first, second = (one["kept"] for one in ranks)
    # Once for the student, and once where the folder cannot be made.
    assert first["calls"] == second["calls"] == ["fit", "fit"]
    assert first["weights"] == second["weights"] and len(first["weights"]) == 1
    noted = {"best_step", "material", "device", "processes", "micro_batch"}
    assert first["manifest"]["details"].keys() == noted
    assert first["manifest"]["details"]["processes"] == 2


def test_what_fails_on_the_first_rank_ends_all(ranks: list[dict[str, Any]]) -> None:
    first, second = (one["kept"]["problems"] for one in ranks)
    assert [kind for kind, _ in first] == ["ZeroDivisionError", "NotADirectoryError", "ValueError"]
    assert [kind for kind, _ in second] == ["FirstRankFailed", "FirstRankFailed", "ValueError"]
    assert "rank 0 failed: ZeroDivisionError: " in second[0][1]
    assert "inputs on ranks [1]" in first[2][1] and first[2] == second[2]


def test_without_torchrun_there_is_one_process() -> None:
    with distributed.process_group("mps") as device:
        assert device == "mps"
    assert (distributed.size(), distributed.rank(), distributed.rows_of(3)) == (1, 0, slice(0, 3))
    rows = torch.zeros(3, 2)
    assert distributed.gather(rows, 3) is rows
    assert distributed.of_first("own") == "own"
    distributed.check_same(seed=1)
    assert distributed.on_first_rank(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        distributed.on_first_rank(lambda: 1 // 0)
    with pytest.raises(ValueError, match="2 rows are no share of 3"):
        distributed.gather(rows[:2], 3)


def test_devices_that_cannot_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="cpu or cuda"), distributed.process_group("mps"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node 1"), distributed.process_group("cuda"):
        pass


def test_the_device_that_a_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = distributed.pick_device
    assert torch.ones(2, device=pick("auto")).sum().item() == 2 and pick("cpu") == "cpu"
    for there, name in ((torch.device("cuda", 0), "cuda"), (None, "cpu")):
        accelerator = functools.partial(lambda found, **_: found, there)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", accelerator)
        assert pick("auto") == name
    for name in ("gpu", "", "cuda:99"):
        with pytest.raises(ValueError, match=f"no device '{name}' here"):
            pick(name)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_even_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(distributed, "size", lambda: size)
    for n in range(size, 12):
        shares = [distributed.rows_of(n, rank) for rank in range(size)]
        assert [row for one in shares for row in range(n)[one]] == list(range(n))
        lengths = [one.stop - one.start for one in shares]
        assert max(lengths) - min(lengths) <= 1 and max(lengths) == -(-n // size)
