"""Which device a model runs on, in which precision, and how much fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsembed_search.errors import ModelError

if TYPE_CHECKING:
    import torch


def pick(name: str = "auto") -> torch.device:
    """`auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:i`. Raises `ModelError` when there is none such."""
    import torch

    count = torch.cuda.device_count() if name != "cpu" else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdigit()) or name.endswith(":"):
        raise ModelError(f"{name!r} is not a device.", "Use auto, cpu, cuda or cuda:1.")
    index = int(number or 0)
    if index >= count:
        found = f"there are {count}" if count else "there is no GPU that this PyTorch can use"
        raise ModelError(f"The device {name} does not exist: {found}.", "Use --device auto or --device cpu.")
    return torch.device("cuda", index)


def describe(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H200)`."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
