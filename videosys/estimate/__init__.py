"""Memory and operations of a config, before anything is loaded."""

from __future__ import annotations

from videosys.estimate.cost import Cost, cost
from videosys.estimate.shapes import SHAPES
from videosys.generation.base import PipelineConfig

__all__ = ["Cost", "estimate"]


def estimate(config: PipelineConfig, text_tokens: int | None = None) -> Cost:
    """What one micro-batch of a config needs, without loading it; ValueError for a config of no model."""
    if type(config) not in SHAPES:
        raise ValueError(f"config is a {type(config).__name__}; it must be that of a pipeline")
    return cost(config, text_tokens)
