"""Where a cache keeps what it keeps: with the model, or on another device while the model works."""

from __future__ import annotations

import torch

from videosys.utils.devices import AUTO as WITH_MODEL
from videosys.utils.devices import check_device


def check_place(device: str) -> None:
    """ValueError for what names no device; whether this computer has it is not looked at."""
    check_device(device, "cache.device")


def put(x: torch.Tensor, device: str) -> torch.Tensor:
    """x on a device, in its own dtype; itself where it is there already.

    What leaves a GPU for the host goes to memory from which it can come back fast.
    """
    if device == WITH_MODEL:
        return x
    place = torch.device(device)
    if x.device.type == place.type and place.index in (None, x.device.index):
        return x
    if place.type == "cpu" and x.device.type == "cuda":
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
    return x.to(place)
