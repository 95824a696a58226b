"""MagCache (arXiv 2506.09045): skips steps while the magnitude of the residual changes little."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from videosys.cache.base import STACK, Place, forced_steps
from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.run_spec import RunSpec, check_entries


@dataclass(frozen=True)
class MagCacheConfig(Goal):
    """Settings of MagCache. Magnitudes come from a calibration, so the computed steps are known in advance.

    ratios: for each step, the mean norm of its residual divided by that of the previous step, in a full run
        (the first entry is unused). Empty: use the calibration's ratios.
    threshold: steps are skipped while the sum of their errors is at most this. With ratios g, the error of
        step s after the last computed step c is |1 - g[c+1] * ... * g[s]|.
    max_skips: maximum number of skips in a row. retention: fraction of initial steps that always compute.
    forecast: of the kept tensors, for skipped steps.
    place: the tensor kept from a computed step; stack is the blocks' residual, output the model's prediction.
    """

    ratios: tuple[float, ...] = ()
    threshold: float = 0.06
    max_skips: int = 3
    retention: float = 0.2
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(math.isfinite(ratio) and ratio > 0 for ratio in self.ratios):
            raise ValueError(f"cache.ratios are {list(self.ratios)}; they must be numbers above 0")
        if not self.threshold >= 0 or self.max_skips < 1 or not 0 <= self.retention <= 1:
            raise ValueError(
                f"cache.threshold is {self.threshold}, max_skips {self.max_skips} and retention "
                f"{self.retention}; they must be 0 or more, 1 or more, and between 0 and 1"
            )

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        """The settings with the ratios of the calibration, if they have none."""
        if not self.ratios:
            return replace(self, ratios=calibrated("ratios")[0])
        check_entries("cache.ratios", self.ratios, run())
        return self

    def computed_steps(self, count: int) -> frozenset[int]:
        """The steps that compute out of `count`. ValueError unless there is a ratio for each step."""
        if not self.ratios:
            raise ValueError("cache.ratios is missing; MagCache needs one ratio per step, from a calibration")
        if len(self.ratios) != count:
            raise ValueError(f"cache.ratios has {len(self.ratios)} entries; there are {count} steps")
        computed, product, error, skips = {*forced_steps(count)}, 1.0, 0.0, 0
        for step in range(max(1, int(count * self.retention)), count):
            product *= self.ratios[step]
            error, skips = error + abs(1 - product), skips + 1
            if error > self.threshold or skips > self.max_skips or step in computed:
                computed.add(step)
                product, error, skips = 1.0, 0.0, 0
        return frozenset(computed) | frozenset(range(int(count * self.retention)))
