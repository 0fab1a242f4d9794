"""Weights come back as they were saved; nothing is half written, and no pickle is opened."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fitclip_kit.weights import checkpoints

WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
STATE = {
    "weight": WEIGHT,
    "transposed": WEIGHT.T,  # shares memory and is not contiguous
    "logit_scale": torch.tensor(4.6),
    "steps": torch.tensor([3, 2**40]),
    "half": WEIGHT[0].half(),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_round_trip(tmp_path: Path, dtype: torch.dtype | None) -> None:
    path = tmp_path / "folder" / "student.safetensors"
    notes = {"seed": "3", "recipe": '{"learning_rate": 3e-06}', "author": "Zoë\n"}
    checkpoints.save(path, STATE, notes, dtype)
    loaded = checkpoints.load(path)
    assert loaded.keys() == STATE.keys()
    for name, tensor in STATE.items():
        expected = tensor.to(dtype if tensor.is_floating_point() else None)
        assert loaded[name].dtype == expected.dtype and torch.equal(loaded[name], expected), name
    assert checkpoints.metadata(path) == notes
    first = path.read_bytes()
    for _ in range(3):  # safetensors itself writes notes in another order each time
        reverse = dict(reversed(STATE.items()))
        checkpoints.save(path, reverse, dict(reversed(notes.items())), dtype)
        assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, {"w": torch.ones(1)})
    old = path.read_bytes()
    cases: list[Any] = [
        ({"w": torch.tensor([1.0, float("nan")])}, None, "w holds NaN"),
        ({"w": torch.tensor([float("inf")])}, None, "w holds NaN or inf"),
        ({"w": torch.tensor([1e6])}, torch.float16, "as torch.float16"),
        ({}, None, "no tensors"),
        ({"w": torch.ones(1)}, torch.int8, "dtype"),
        ({"w": torch.ones(1).to(torch.float8_e4m3fn)}, None, "quantised"),
    ]
    for bad, dtype, message in cases:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(path, bad, dtype=dtype)

    def fail(tensors: Any, file: Path, notes: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(path, {"w": torch.ones(1)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


class Trap:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was executed",)


def test_pickles_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, STATE)
    whole = path.read_bytes()
    damaged = [b"", b"hello", whole[:-1], whole[:20], whole + b"\0"]
    cases = [(content, "not a whole safetensors file") for content in damaged]
    cases += [(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-LFS pointer")]
    for is_zip in (True, False):
        torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=is_zip)
        cases += [(path.read_bytes(), "weights_only=True")]
    for read in (checkpoints.load, checkpoints.metadata):
        for content, message in cases:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=message):
                read(path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "absent.safetensors")


def test_files_of_other_programs_are_read_as_they_are(tmp_path: Path) -> None:
    """Also one whose header has 0x0280 bytes, which is how a pickle begins."""
    path = tmp_path / "a.safetensors"
    starts = set()
    for padding in range(460, 600):
        notes = {"note": "x" * padding}
        safetensors.torch.save_file({"logit_scale": torch.tensor(float("nan"))}, path, notes)
        starts.add(path.read_bytes()[:2])
        assert checkpoints.load(path)["logit_scale"].isnan()
        assert checkpoints.metadata(path) == notes
    assert b"\x80\x02" in starts
