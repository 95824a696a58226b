"""EasyCache (arXiv 2507.02860): skips the model while its prediction is expected to change little."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from videosys.cache.base import OUTPUT, Cache, Compute, GatherRows, ResidualCache, Signal, identity_of
from videosys.cache.config import Goal
from videosys.cache.device import to_cache_device
from videosys.cache.forecast import HOLD
from videosys.cache.ranges import at_least
from videosys.cache.teacache import l1_sums, ratio, same_rows
from videosys.utils.devices import host_row


@dataclass(frozen=True)
class EasyCacheConfig(Goal):
    """Settings of EasyCache, without calibration. The defaults are those published for HunyuanVideo.

    threshold: the model runs if the sum of expected relative changes of its prediction reaches this value; 0
        computes every step.
    warmup: number of initial steps that always compute.
    """

    threshold: float = at_least(0, default=0.025)
    warmup: int = at_least(0, default=5)

    place = OUTPUT

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return EasyCache(self, times, gather_rows, request_id)


class EasyCache(ResidualCache):
    """Assumes that the prediction v changes with the latents x at the rate of the last two computed steps a,
    b:

        q = mean|v_a - v_b| / mean|x_a - x_b|

    The expected changes q mean|x_k - x_(k-1)| / mean|v_a| are summed over the steps since a. A skipped step
    uses v_a - x_a + x_k. Under guidance each half keeps a separate v, and the conditional half decides.
    times, gather_rows, request_id: as in `CacheConfig.start`. All ranks have the same latents; ranks that
    share the guidance pair follow the first one, which has the conditional half.
    """

    def __init__(
        self, config: EasyCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        super().__init__(times, HOLD, config.device, OUTPUT)
        self.config, self.gather_rows = config, gather_rows
        self.identity = identity_of(request_id, config)
        self.latents: torch.Tensor | None = None  # of this step
        self.previous: torch.Tensor | None = None  # of the step before
        self.anchor: torch.Tensor | None = None  # of the last computed step
        self.rate = self.size = math.nan  # q, and sum|v_a|
        self.accumulated = 0.0
        self.decision: bool | None = None  # of this step, or None before it is made

    def held(self) -> Iterable[torch.Tensor]:
        # After a computed step `previous` and `anchor` are the same tensor.
        latents = {id(item): item for item in (self.previous, self.anchor) if item is not None}
        return [*super().held(), *latents.values()]

    def begin_step(self, step: int, timestep: float) -> None:
        super().begin_step(step, timestep)
        self.latents = self.decision = None

    def observe_latents(self, latents: torch.Tensor, mix: tuple[float, float]) -> None:
        self.latents = latents

    def should_compute(self, signal: Signal) -> bool:
        if self.decision is None:
            self.decision = self._decide()
        return self.decision

    def predict(self, evaluate: Compute) -> torch.Tensor:
        """The prediction [rows, C, T, H, W], without channels that the latents do not have."""
        x = self._input()
        kept = to_cache_device(x, self.device)
        if self.should_compute(no_signal):
            output = evaluate()[:, : x.shape[1]].contiguous()
            self._learn(output, x)
            self.anchor, self.accumulated = kept, 0.0
        else:
            output = self._reused(x)
        self.previous = kept
        return output

    def _input(self) -> torch.Tensor:
        if self.latents is None:
            raise RuntimeError("EasyCache needs the latents, but the loop did not call observe_latents")
        return self.latents

    def _decide(self) -> bool:
        if self.is_forced or self.step < self.config.warmup or self.previous is None:
            self.record(computed=True)
            return True
        x = self._input()
        change, _ = l1_sums(x, self.previous.to(x.device))
        row = (*self.identity, float(self.step), self.accumulated, self.rate, change, self.size)
        rate, change, size = same_rows(self.gather_rows(host_row(row)))[0][4:]
        distance = ratio(change, size)
        self.accumulated += rate * distance
        computed = not self.accumulated < self.config.threshold  # NaN computes
        self.record(
            computed=computed, distance=distance, rescaled=rate * distance, accumulated=self.accumulated
        )
        return computed

    def _learn(self, output: torch.Tensor, x: torch.Tensor) -> None:
        """Store a prediction and its rate of change. Does not read tensor values in the first step."""
        if self.step and self.anchor is not None:
            latest, before = output[: len(x)], self.history[0][1].to(output.device)[: len(x)]
            change, self.size = l1_sums(before, latest)
            input_change, _ = l1_sums(x, self.anchor.to(x.device))
            self.rate = ratio(change, input_change)
        self._keep(output)

    def _reused(self, x: torch.Tensor) -> torch.Tensor:
        """The last prediction plus the change of the latents since then, for each half of the pair."""
        assert self.anchor is not None
        output = self._forecast_output()
        change = (x - self.anchor.to(x.device)).to(output.device, output.dtype)
        return output + change.repeat(len(output) // len(change), 1, 1, 1, 1)


def no_signal(kind: str) -> torch.Tensor:
    """EasyCache decides before the model runs, without a signal."""
    raise RuntimeError("EasyCache does not use a signal")
