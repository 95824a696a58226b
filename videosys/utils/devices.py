"""Names of devices, as users give them: auto, cpu, cuda, cuda:N."""

from __future__ import annotations

import torch

AUTO = "auto"
ALLOWED = "auto, cpu, cuda, cuda:N"


def check_device(device: str, name: str = "device") -> None:
    """ValueError unless `device` is one of the allowed names. Whether this machine has it is not looked at.

    name: of the field, for the error.
    """
    try:
        kind = "cpu" if device == AUTO else torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"{name} is {device!r}; allowed: {ALLOWED}")


def parse_device(device: str, name: str = "device") -> torch.device:
    """Return the device of a name, whether this machine has it or not; errors as in `check_device`.

    `auto` is the current CUDA device, or the CPU where there is none.
    """
    check_device(device, name)
    if device == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_device(device: str, name: str = "device") -> torch.device:
    """Return the same for a device that this machine has; ValueError for one that it lacks."""
    candidate = parse_device(device, name)
    if candidate.type == "cuda" and (candidate.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name} is {device!r}, and this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return candidate
