"""Every k-th step computes: the simplest rule, and the one to compare others with."""

from __future__ import annotations

from dataclasses import dataclass, field

from videosys.cache.config import Goal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast


@dataclass(frozen=True)
class IntervalConfig(Goal):
    """every: steps 0, every, 2 * every, ... compute, and the last one; 1 computes every step.

    forecast: what a skipped step takes for its residual.
    """

    every: int = 2
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"cache.every is {self.every}; it must be 1 or more")

    def computed_steps(self, count: int) -> frozenset[int]:
        """The steps that compute out of `count`."""
        return frozenset(range(0, count, self.every)) | {count - 1}
