"""Where models compute."""

import torch

AUTO = "auto"


def pick_device(name: str) -> str:
    """The device of that name, or with "auto" the fastest kind that this machine has.

    name: "auto", or PyTorch's name, such as "cpu", "cuda", "cuda:1" or "mps".

    Raises: ValueError when PyTorch does not know it or this machine has none.
    """
    if name == AUTO:
        found = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if found is None else found.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here ({error}); try auto or cpu") from error
    return name
