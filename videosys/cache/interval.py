"""Every k-th step computes: the simplest rule, and the one to compare others with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from videosys.cache.base import ResidualCache, Signal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.goal import Goal
from videosys.cache.place import WITH_MODEL
from videosys.utils.typed import check_types


@dataclass(frozen=True)
class IntervalConfig(Goal):
    """every: steps 0, every, 2 * every, ... compute, and the last one; 1 computes every step.

    forecast: what a skipped step takes for its residual.
    """

    every: int = 2
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})

    def __post_init__(self) -> None:
        check_types(self)
        self.check_goal()
        if self.every < 1:
            raise ValueError(f"cache.every is {self.every}; it must be 1 or more")

    def computed_steps(self, count: int) -> frozenset[int]:
        """The steps that compute out of `count`."""
        return frozenset(range(0, count, self.every)) | {count - 1}


class FixedCache(ResidualCache):
    """Computes the steps of a list that is known beforehand: no signal, no exchange between ranks."""

    def __init__(
        self, computed: frozenset[int], times: Sequence[float], forecast: Forecast, device: str = WITH_MODEL
    ):
        super().__init__(times, forecast, device)
        self.computed = computed

    def should_compute(self, signal: Signal) -> bool:
        computed = self.is_forced or self.step in self.computed
        self.record(computed=computed)
        return computed
