"""Memory and operations of a config, before anything is loaded."""

from __future__ import annotations

from videosys.estimate.cost import Estimate, estimate

__all__ = ["Estimate", "estimate"]
