"""The same caches for video pipelines of diffusers: docs/diffusers.md."""

from videosys.diffusers.cached import CachedRun, cached
from videosys.diffusers.calibrate import calibrate

__all__ = ["CachedRun", "cached", "calibrate"]
