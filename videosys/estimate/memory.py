"""Checks whether a run fits into free memory."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from videosys.estimate.blueprint import blueprint
from videosys.estimate.cost import Estimate, estimate
from videosys.generation.config import PipelineConfig
from videosys.utils.devices import free_memory, parse_device
from videosys.utils.logging import get_logger
from videosys.utils.weights_hash import SUFFIXES

LOG = get_logger("memory")
GIB = 2**30
SMALL = 1 << 20  # pixels of all frames; the bundled checkpoint generates 70 thousand
SMALL_NEEDS = 8 * GIB  # enough for SMALL pixels without weights, in float32 and with any cache
WIDENED = 2  # weights have at least 16 bits in files and at most 32 in memory
MEMINFO = Path("/proc/meminfo")
# Request fields that do not affect memory; for the guidance, is_guided is compared instead.
NEEDLESS = frozenset({"seed", "num_videos_per_prompt", "fps", "guidance_scale", "negative_prompt"})


@dataclass(frozen=True)
class FreeMemory:
    """Free bytes of a config's device and of host memory; None if unknown."""

    device: int | None
    host: int | None

    def most(self, other: FreeMemory) -> FreeMemory:
        """The larger value of each field."""
        pairs = ((self.device, other.device), (self.host, other.host))
        return FreeMemory(*(max((size for size in pair if size is not None), default=None) for pair in pairs))


def free_of(config: PipelineConfig) -> FreeMemory:
    """The memory that is free now."""
    host = available_bytes(replace(config, device="cpu"))
    return FreeMemory(host if parse_device(config.device).type == "cpu" else available_bytes(config), host)


def available_bytes(config: PipelineConfig) -> int | None:
    """Free bytes of a config's device; None if unknown."""
    device = parse_device(config.device)
    if device.type != "cpu":
        return free_memory(device)
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else 1024 * int(kib)


def shortage(needed: int, available: int | None, where: str = "") -> str | None:
    """The warning for a run that needs more memory than available, with remedies; None if it fits."""
    if available is None or needed <= available:
        return None
    return (
        f"this run needs about {needed / GIB:.1f} GiB{where} at its peak, but only {available / GIB:.1f} GiB "
        "are free; to reduce it, use fewer frames, a smaller size, dtype bfloat16, storage_dtype "
        "float8_e4m3fn or offload (python -m videosys.estimate shows each part)"
    )


def warn_if_too_large(config: PipelineConfig, free: FreeMemory, ranks: int = 1) -> None:
    """Warn before a run that will not fit. Does nothing if free memory is unknown.

    ranks: processes on this computer, which share host memory and have one device each.
    """
    if free == FreeMemory(None, None):
        return
    try:
        if is_surely_enough(config, free, ranks):
            return
        message = first_shortage(config, estimate(config), ranks, free)
    except Exception as error:  # a failed estimate must not stop a run that may succeed
        LOG.debug("could not estimate the memory of this run: %s: %s", type(error).__name__, error)
        return
    if message is not None:
        warnings.warn(message, stacklevel=3)


def is_surely_enough(config: PipelineConfig, free: FreeMemory, ranks: int = 1) -> bool:
    """Whether a video is small and its weights fit, judged by file sizes. Avoids an estimate, which takes
    seconds.
    """
    height, width = config.size
    plan = blueprint(config)
    if config.batch_size * config.output_frames * height * width >= SMALL or plan.missing:
        return False
    needed = SMALL_NEEDS + WIDENED * weights_in_files(plan.folders.values())
    host = None if free.host is None else free.host // ranks
    return needed <= min(size for size in (free.device, host) if size is not None)


def weights_in_files(folders: Iterable[Path]) -> int:
    """Bytes of the weight files in folders and their subfolders, each file counted once."""
    paths = {path for folder in folders for depth in ("*", "*/*") for path in folder.glob(depth)}
    return sum(path.stat().st_size for path in paths if path.name.endswith(SUFFIXES))


def first_shortage(
    config: PipelineConfig, cost: Estimate, ranks: int = 1, free: FreeMemory | None = None
) -> str | None:
    """The warning if the devices or the host memory are too small for all ranks, or None.

    free: overrides the memory that is free now.
    """
    free = free or free_of(config)
    if parse_device(config.device).type == "cpu":
        where = f" in {ranks} processes together" if ranks > 1 else ""
        return shortage(ranks * cost.peak, free.host, where)
    host = shortage(ranks * cost.host, free.host, " of host memory")
    return shortage(cost.peak, free.device) or host


class MemoryCheck:
    """Estimates each kind of request once, because an estimate takes seconds.

    Memory that was free at the first check, before loading, also counts as free later: the difference is
    mostly the loaded weights, which an estimate includes.
    """

    def __init__(self, ranks: int = 1):
        self.ranks = ranks
        self.seen: set[str] = set()
        self.free = FreeMemory(None, None)

    def look(self, config: PipelineConfig) -> None:
        """Warn once about a request that will not fit."""
        self.free = self.free.most(free_of(config))
        needs = needs_of(config)
        if needs not in self.seen:
            self.seen.add(needs)
            warn_if_too_large(config, self.free, self.ranks)


def needs_of(config: PipelineConfig) -> str:
    """A key of the memory needs: configs with equal keys need the same memory."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in NEEDLESS]
    return repr(([(name, getattr(config, name)) for name in names], config.is_guided))
