"""Interval: every k-th step computes. The baseline for other policies."""

from __future__ import annotations

from dataclasses import dataclass, field

from videosys.cache.base import STACK, Place, forced_steps
from videosys.cache.config import Goal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.ranges import at_least


@dataclass(frozen=True)
class IntervalConfig(Goal):
    """Settings of the interval policy.

    every: steps 0, every, 2 * every, ... and the last one compute; 1 computes every step.
    forecast: of the kept tensors, for skipped steps.
    place: the tensor kept from a computed step; stack is the blocks' residual, output the model's prediction.
    """

    every: int = at_least(1, default=2)
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def computed_steps(self, count: int) -> frozenset[int]:
        """The multiples of `every` below `count`, and the last step."""
        return frozenset(range(0, count, self.every)) | forced_steps(count)
