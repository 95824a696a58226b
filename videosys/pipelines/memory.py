"""Whether a run fits into the memory that is free."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from videosys.pipelines.base import PipelineConfig
from videosys.pipelines.cost import cost, device_of
from videosys.pipelines.shapes import SHAPES

GIB = 2**30
SMALL = 1 << 20  # pixels of all frames: the bundled checkpoint makes 70 thousand
MEMINFO = Path("/proc/meminfo")


def available_bytes(config: PipelineConfig) -> int | None:
    """Free memory of the device of a config; None where it cannot be known."""
    device = device_of(config)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else None
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else 1024 * int(kib)


def shortage(needed: int, available: int | None) -> str | None:
    """What to say where a run needs more than there is, and what helps."""
    if available is None or needed <= available:
        return None
    return (
        f"this run needs about {needed / GIB:.1f} GiB at its peak, and {available / GIB:.1f} GiB are free; "
        "fewer frames, a smaller size, dtype bfloat16 or offload stage need less "
        "(python -m videosys.estimate shows each part)"
    )


def warn_if_too_large(config: PipelineConfig) -> None:
    """Warns before a run that will not fit. Small videos are not looked at, and what cannot be known is no
    reason to stop.
    """
    height, width = config.size
    available = available_bytes(config)
    is_known = type(config) in SHAPES  # a model added from outside has no entry there
    if available is None or not is_known or config.batch_size * config.output_frames * height * width < SMALL:
        return
    message = shortage(cost(config).peak, available)
    if message is not None:
        warnings.warn(message, stacklevel=3)
