"""Whether a run fits into the memory that is free."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from videosys.pipelines.base import PipelineConfig
from videosys.pipelines.cost import Cost, cost, device_of
from videosys.pipelines.shapes import SHAPES
from videosys.utils.logging import get_logger

LOG = get_logger("memory")
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


def shortage(needed: int, available: int | None, where: str = "") -> str | None:
    """What to say where a run needs more than there is, and what helps."""
    if available is None or needed <= available:
        return None
    return (
        f"this run needs about {needed / GIB:.1f} GiB at its peak{where}, and {available / GIB:.1f} GiB are "
        "free; fewer frames, a smaller size, dtype bfloat16, storage_dtype float8_e4m3fn or offload need "
        "less (python -m videosys.estimate shows each part)"
    )


def warn_if_too_large(config: PipelineConfig, ranks: int = 1) -> None:
    """Warns before a run that will not fit. Small videos are not looked at, and what cannot be known is no
    reason to stop. ranks: processes on this computer, which share the host's memory and have a device each.
    """
    height, width = config.size
    available = available_bytes(config)
    is_known = type(config) in SHAPES  # a model added from outside has no entry there
    if available is None or not is_known or config.batch_size * config.output_frames * height * width < SMALL:
        return
    try:
        message = first_shortage(config, cost(config), ranks)
    except Exception as error:  # an estimate that fails must not stop a run that may well succeed
        LOG.debug("memory of this run could not be estimated: %s: %s", type(error).__name__, error)
        return
    if message is not None:
        warnings.warn(message, stacklevel=3)


def first_shortage(config: PipelineConfig, made: Cost, ranks: int = 1) -> str | None:
    """What to say where the devices, or the memory of their computer, are too small for all ranks."""
    if device_of(config).type == "cpu":
        return shortage(ranks * made.peak, available_bytes(config), of_ranks(ranks))
    host = shortage(
        ranks * made.host, available_bytes(replace(config, device="cpu")), " in the host's memory"
    )
    return shortage(made.peak, available_bytes(config)) or host


def of_ranks(ranks: int) -> str:
    return f" in {ranks} processes together" if ranks > 1 else ""


class Watch:
    """Looks at each size of video once: an estimate takes seconds."""

    def __init__(self, ranks: int = 1):
        self.ranks = ranks
        self.seen: set[tuple[Any, ...]] = set()

    def look(self, config: PipelineConfig) -> None:
        """Warns of a size that will not fit, the first time."""
        size = (config.size, config.output_frames, config.batch_size, config.is_guided, config.cache)
        if size not in self.seen:
            self.seen.add(size)
            warn_if_too_large(config, self.ranks)
