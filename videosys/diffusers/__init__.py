"""The same caches around any video pipeline of diffusers: docs/diffusers.md."""

from videosys.diffusers.cached import CachedRun, cached

__all__ = ["CachedRun", "cached"]
