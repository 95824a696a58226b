"""The device of a cache's tensors: the model's device, or another one to save its memory."""

from __future__ import annotations

import torch

from videosys.utils.devices import AUTO as AUTO
from videosys.utils.devices import check_device


def check_cache_device(device: str) -> None:
    """ValueError unless `device` is one of the allowed names. Does not check that this machine has it."""
    check_device(device, "cache.device")


def to_cache_device(x: torch.Tensor, device: str) -> torch.Tensor:
    """`x` on `device`, with an unchanged dtype; `x` itself for `auto` or if it is already there.

    A copy from a GPU to the host uses pinned memory, which is faster to copy back.
    """
    if device == AUTO:
        return x
    target = torch.device(device)
    if x.device.type == target.type and target.index in (None, x.device.index):
        return x
    if target.type == "cpu" and x.device.type == "cuda":
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
    return x.to(target)
