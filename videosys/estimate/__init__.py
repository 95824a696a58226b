"""Memory and operations of a config, before anything is loaded."""

from __future__ import annotations

from videosys.estimate.cost import Cost, estimate

__all__ = ["Cost", "estimate"]
