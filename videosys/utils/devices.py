"""Names of devices, as users give them: auto, cpu, cuda, cuda:N, mps."""

from __future__ import annotations

import torch

AUTO = "auto"
ALLOWED = "auto, cpu, cuda, cuda:N, mps"
KINDS = ("cpu", "cuda", "mps")  # ROCm's builds of torch answer as cuda
CPU = torch.device("cpu")
SHARING = ("cpu", "mps")  # kinds whose memory is the host's


def check_device(device: str, name: str = "device") -> None:
    """ValueError unless `device` is one of the allowed names. Whether this machine has it is not looked at.

    name: of the field, for the error.
    """
    try:
        parsed = CPU if device == AUTO else torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in KINDS or (parsed.type == "mps" and parsed.index):
        raise ValueError(f"{name} is {device!r}; allowed: {ALLOWED}")


def parse_device(device: str, name: str = "device") -> torch.device:
    """Return the device of a name, whether this machine has it or not; errors as in `check_device`.

    `auto` is the current CUDA device, else Apple's (mps), or the CPU where there is neither.
    """
    check_device(device, name)
    if device != AUTO:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else CPU


def resolve_device(device: str, name: str = "device") -> torch.device:
    """Return the same for a device that this machine has; ValueError for one that it lacks."""
    candidate = parse_device(device, name)
    if candidate.type == "cuda" and (candidate.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name} is {device!r}, and this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if candidate.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{name} is {device!r}, and this machine, or its torch, has no mps")
    return candidate


def float64_device(device: torch.device) -> torch.device:
    """Where numbers of a device are computed in float64: there, or on the CPU where the device has none."""
    return CPU if device.type == "mps" else device


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """`x` in float64, on its device or, where that has none, on the CPU."""
    return x.to(float64_device(x.device)).double()


def synchronize(device: torch.device) -> None:
    """Waits until an accelerator has done its work."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "cuda":
        torch.cuda.synchronize(device)


def shares_memory(device: torch.device) -> bool:
    """Whether the memory of a device is the host's, so that nothing is saved by parking in one of them."""
    return device.type in SHARING


def release_memory(device: torch.device) -> None:
    """Gives memory that torch keeps for a device, and that no tensor has, back to it."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes of a device that are free; None where the device is not here, or is the CPU."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None
