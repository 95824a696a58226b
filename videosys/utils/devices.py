"""Names of devices, as users give them: auto, cpu, cuda, cuda:N, mps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

AUTO = "auto"
ALLOWED = "auto, cpu, cuda, cuda:N, mps"
KINDS = ("cpu", "cuda", "mps")  # ROCm builds of torch name their devices cuda
CPU = torch.device("cpu")
SHARING = ("cpu", "mps")  # device types that use host memory


def check_device(device: str, name: str = "device") -> None:
    """ValueError unless `device` is one of the allowed names. Does not check that this machine has it.

    name: of the field, for the error.
    """
    try:
        parsed = CPU if device == AUTO else torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in KINDS or (parsed.type == "mps" and parsed.index):
        raise ValueError(f"{name} is {device!r}; allowed: {ALLOWED}")


def parse_device(device: str, name: str = "device") -> torch.device:
    """Return the device of a name, even if this machine does not have it; errors as in `check_device`.

    `auto` is the current CUDA device, else Apple's (mps), else the CPU.
    """
    check_device(device, name)
    if device != AUTO:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else CPU


def resolve_device(device: str, name: str = "device") -> torch.device:
    """Return the device of a name; ValueError also if this machine does not have it."""
    candidate = parse_device(device, name)
    if candidate.type == "cuda" and (candidate.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name} is {device!r}, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if candidate.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{name} is {device!r}, but this machine or its torch does not support mps")
    return candidate


def float64_device(device: torch.device) -> torch.device:
    """The device for float64: the same one, or the CPU if it does not support float64."""
    return CPU if device.type == "mps" else device


def host_row(numbers: Sequence[float]) -> torch.Tensor:
    """float64 [len(numbers)] on the CPU, even if torch's default device is another one."""
    return torch.tensor(numbers, dtype=torch.float64, device=CPU)


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """`x` in float64, on its device or, without float64 support, on the CPU."""
    return x.to(float64_device(x.device)).double()


def synchronize(device: torch.device) -> None:
    """Synchronizes an accelerator."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "cuda":
        torch.cuda.synchronize(device)


def shares_memory(device: torch.device) -> bool:
    """Whether a device uses host memory, so that offloading saves nothing."""
    return device.type in SHARING


def release_memory(device: torch.device) -> None:
    """Releases unused memory that torch has cached for a device."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None for the CPU and for a missing device."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None
