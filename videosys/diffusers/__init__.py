"""The same caches for video pipelines of diffusers: docs/diffusers.md."""

from videosys.diffusers.cached import CachedRun, cached
from videosys.diffusers.calibrate import calibrate
from videosys.diffusers.known import KNOWN, Known
from videosys.diffusers.tiny import TINY_WAN_CALIBRATION, TINY_WAN_CALL, tiny_wan

__all__ = [
    "KNOWN",
    "TINY_WAN_CALIBRATION",
    "TINY_WAN_CALL",
    "CachedRun",
    "Known",
    "cached",
    "calibrate",
    "tiny_wan",
]
