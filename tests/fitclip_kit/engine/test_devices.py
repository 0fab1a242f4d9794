"""The device that a name stands for."""

import pytest
import torch

from fitclip_kit.engine.distributed import pick_device


def test_auto_is_a_device_that_computes() -> None:
    assert torch.ones(2, device=pick_device("auto")).sum().item() == 2


def test_auto_prefers_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(check_available: bool = False) -> torch.device | None:
        return torch.device("cuda", 0)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", found)
    assert pick_device("auto") == "cuda"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert pick_device("auto") == "cpu"


def test_a_named_device_is_taken_as_it_is() -> None:
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99"])
def test_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{name}' here"):
        pick_device(name)
