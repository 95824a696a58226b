"""SenCache (arXiv 2602.24208): skips the model while the change of its prediction, estimated from the change
of its input and its sensitivity, is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from videosys.cache.base import OUTPUT, Cache, Compute, GatherRows, Place, ResidualCache, Signal, identity_of
from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.device import to_cache_device
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.ranges import at_least
from videosys.cache.run_spec import RunSpec, check_entries
from videosys.cache.teacache import same_rows
from videosys.utils.devices import host_row
from videosys.utils.typed import check_between

Sensitivities = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SenCacheConfig(Goal):
    """Settings of SenCache.

    sensitivities: per step, the RMS change of the prediction per unit change of the model's input, and per
        timestep. Empty: use those of the calibration.
    threshold: steps are skipped while the expected change of the prediction is below this value.
    early_threshold, early: the threshold for the initial steps, and their share of all steps.
    max_consecutive_skips: maximum number of skips in a row.
    forecast: of the kept tensors, for skipped steps; hold is the published rule.
    place: the tensor kept from a computed step; output is the model's prediction, stack the blocks' residual.
    """

    sensitivities: Sensitivities = ()
    threshold: float = at_least(0, default=0.1)
    early_threshold: float = at_least(0, default=0.01)
    early: float = 0.2
    max_consecutive_skips: int = at_least(1, default=3)
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = OUTPUT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("cache.early", self.early, 0, 1)
        for step, pair in enumerate(self.sensitivities):
            if not all(math.isfinite(value) and value >= 0 for value in pair):
                raise ValueError(f"cache.sensitivities[{step}] is {pair}; it must be two numbers, 0 or more")

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        """The settings with the sensitivities of the calibration, if they have none."""
        if not self.sensitivities:
            return replace(self, sensitivities=calibrated("sensitivities")[0])
        check_entries("cache.sensitivities", self.sensitivities, run())
        return self

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        count = len(self.sensitivities)
        if len(times) > 1 and count != len(times):
            raise ValueError(
                f"cache.sensitivities has {count} entries; SenCache needs one for each of the {len(times)} "
                "steps, such as those of a calibration"
            )
        return SenCache(self, times, gather_rows, request_id)

    def expected(self, anchor: int, moved: float, passed: float) -> float:
        """The expected RMS change of the prediction since the computed step `anchor`.

        moved: RMS change of the input. passed: difference in timesteps.
        """
        by_input, by_time = self.sensitivities[anchor]
        return by_input * moved + by_time * abs(passed)

    def limit(self, step: int, count: int) -> float:
        """The threshold of a step out of `count`."""
        return self.early_threshold if step < self.early * count else self.threshold


class SenCache(ResidualCache):
    """Decides by the latents and the timestep before the model runs.

    times, gather_rows, request_id: as in `CacheConfig.start`. All ranks have the same latents and follow the
    first one.
    """

    def __init__(
        self, config: SenCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        super().__init__(times, config.forecast, config.device, config.place)
        self.config, self.gather_rows = config, gather_rows
        self.identity = identity_of(request_id, config)
        self.latents: torch.Tensor | None = None  # of this step
        self.anchor: tuple[int, float, torch.Tensor] | None = None  # step, timestep, latents: last computed
        self.skips_in_a_row = 0
        self.decision: bool | None = None  # of this step, or None before it is made

    def held(self) -> Iterable[torch.Tensor]:
        return [*super().held(), *([] if self.anchor is None else [self.anchor[2]])]

    def begin_step(self, step: int, timestep: float) -> None:
        super().begin_step(step, timestep)
        self.latents = self.decision = None

    def observe_latents(self, latents: torch.Tensor, mix: tuple[float, float]) -> None:
        self.latents = latents

    def predict(self, evaluate: Compute) -> torch.Tensor:
        if self.place == OUTPUT and not self.should_compute(no_signal):
            return self._forecast_output()  # the model does not run
        return super().predict(evaluate)

    def should_compute(self, signal: Signal) -> bool:
        if self.decision is None:
            self.decision = self._decide()
            self.skips_in_a_row = 0 if self.decision else self.skips_in_a_row + 1
            if self.decision and self.latents is not None:
                self.anchor = self.step, self.timestep, to_cache_device(self.latents, self.device)
        return self.decision

    def _decide(self) -> bool:
        if self.is_forced or self.anchor is None:
            self.record(computed=True)
            return True
        if self.latents is None:
            raise RuntimeError("SenCache needs the latents, but the loop did not call observe_latents")
        step, timestep, latents = self.anchor
        difference = self.latents - latents.to(self.latents.device)
        moved = float(difference.float().square().mean().sqrt())
        row = (*self.identity, float(self.step), float(self.skips_in_a_row), moved)
        moved = same_rows(self.gather_rows(host_row(row)))[0][4]
        expected = self.config.expected(step, moved, self.timestep - timestep)
        enough = self.skips_in_a_row == self.config.max_consecutive_skips
        # NaN computes.
        computed = enough or not expected < self.config.limit(self.step, len(self.times))
        self.record(computed=computed, distance=moved, rescaled=expected, accumulated=expected)
        return computed


def no_signal(kind: str) -> torch.Tensor:
    """SenCache decides before the model runs, without a signal."""
    raise RuntimeError("SenCache does not use a signal")
