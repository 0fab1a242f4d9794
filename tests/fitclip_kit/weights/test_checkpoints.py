import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fitclip_kit.weights import checkpoints


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator)
    return {
        "weight": weight,
        "transposed": weight.T,  # shares memory and is not contiguous
        "logit_scale": torch.tensor(4.6),
        "steps": torch.tensor([3, 2**40]),
        "half": torch.randn(5, generator=generator).half(),
        "empty": torch.zeros(0, 3),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    notes = {"seed": "3", "recipe": '{"learning_rate": 3e-06}', "author": "Zoë\n"}
    checkpoints.save(path, state(), notes)
    loaded = checkpoints.load(path)
    assert set(loaded) == set(state())
    for name, tensor in state().items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name
    assert checkpoints.metadata(path) == notes
    assert list(tmp_path.iterdir()) == [path]


def test_dtype_casts_floating_tensors_only(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    checkpoints.save(path, state(), dtype=torch.float16)
    loaded = checkpoints.load(path)
    assert loaded["steps"].dtype == torch.int64
    assert {t.dtype for name, t in loaded.items() if name != "steps"} == {torch.float16}
    assert torch.equal(loaded["weight"], state()["weight"].half())


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    names = "abcdefgh"
    contents = set()
    for index, order in enumerate((names, names[::-1], names, names)):
        path = tmp_path / f"{index}.safetensors"
        tensors = {name: torch.full((3,), float(ord(name))) for name in order}
        checkpoints.save(path, tensors, {name: name for name in order})
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, {"w": torch.ones(1)})
    old = path.read_bytes()
    cases: list[Any] = [
        ({"w": torch.tensor([1.0, float("nan")])}, None, "w holds NaN"),
        ({"w": torch.tensor([float("inf")])}, None, "w holds NaN or inf"),
        ({"w": torch.tensor([1e6])}, torch.float16, "as torch.float16"),
        ({"w": 3.0}, None, "w is a float"),
        ({}, None, "no tensors"),
        ({"w": torch.ones(1)}, torch.int8, "dtype"),
        ({"w": torch.ones(1).to(torch.float8_e4m3fn)}, None, "quantised"),
    ]
    for bad, dtype, message in cases:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(path, bad, dtype=dtype)
    number: Any = 3
    with pytest.raises(ValueError, match="metadata 'seed' is 3"):
        checkpoints.save(path, {"w": torch.ones(1)}, {"seed": number})

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


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "a.safetensors"])
def test_pickles_are_refused_whatever_their_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for is_zip in (True, False):
        torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=is_zip)
        for read in (checkpoints.load, checkpoints.metadata):
            with pytest.raises(ValueError, match="weights_only=True"):
                read(path)


def test_a_sound_file_that_starts_like_a_pickle_is_read(tmp_path: Path) -> None:
    # The first bytes are the header's length: 0x0280 is also the start of a pickle.
    path = tmp_path / "a.safetensors"
    for padding in range(520, 600):
        safetensors.torch.save_file({"w": torch.ones(1)}, path, {"note": "x" * padding})
        if path.read_bytes().startswith(b"\x80\x02"):
            break
    else:
        pytest.fail("no padding gave a header of 640 bytes")
    assert checkpoints.load(path)["w"].item() == 1
    assert checkpoints.metadata(path) == {"note": "x" * padding}


def test_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, state())
    whole = path.read_bytes()
    for broken in (b"", b"hello", whole[:-1], whole[:20], whole + b"\0"):
        path.write_bytes(broken)
        for read in (checkpoints.load, checkpoints.metadata):
            with pytest.raises(ValueError, match="not a whole safetensors file"):
                read(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(ValueError, match="git-LFS pointer"):
        checkpoints.load(path)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "absent.safetensors")


def test_files_of_other_programs_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    foreign = {"w": torch.ones(2), "logit_scale": torch.tensor(float("nan"))}
    safetensors.torch.save_file(foreign, path, {"format": "pt"})
    assert torch.isnan(checkpoints.load(path)["logit_scale"])
    assert checkpoints.metadata(path) == {"format": "pt"}
    checkpoints.save(path, {"w": torch.ones(2)}, {"seed": "1"})
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["fitclip"]) == {"seed": "1"}
