"""BWCache (arXiv 2509.13789): reuses the residual for several steps in a row while it changes little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from videosys.cache.base import STACK, Cache, GatherRows, Place, Signal, identity_of
from videosys.cache.config import Goal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.ranges import at_least
from videosys.cache.teacache import TeaCache, plain_rule
from videosys.utils.typed import check_between


@dataclass(frozen=True)
class BWCacheConfig(Goal):
    """Settings of BWCache. Nothing is calibrated.

    threshold: steps are skipped after a computed step if its residual changed less than this per step.
    reuse: share of all steps that is then skipped in a row, at least one step.
    forecast: of the kept tensors, for skipped steps; hold is the published rule.
    place: the tensor kept from a computed step; stack is the blocks' residual, output the model's prediction.
    """

    threshold: float = at_least(0, default=0.15)
    reuse: float = 0.1
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("cache.reuse", self.reuse, 0, 1)

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return BWCache(self, times, gather_rows, request_id)


class BWCache(TeaCache):
    """Compares the residuals r of the last two computed steps a and b:

        mean|r_a - r_b| / mean|r_b| / (a - b)

    The paper compares the outputs of each block in two neighbouring steps and keeps all of them. This
    implementation compares the residual of all blocks together, which is kept for reuse anyway. times,
    gather_rows, request_id: as in `CacheConfig.start`.
    """

    def __init__(
        self, config: BWCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        super().__init__(plain_rule(config), times, gather_rows, request_id)
        self.identity = identity_of(request_id, config)
        self.length = max(round(config.reuse * len(times)), 1)
        self.left = 0  # steps still to skip
        self.before: tuple[int, torch.Tensor] | None = (
            None  # step and tensor of the last but one computed step
        )

    def held(self) -> Iterable[torch.Tensor]:
        kept = [*super().held(), *([] if self.before is None else [self.before[1]])]
        return {id(tensor): tensor for tensor in kept}.values()

    def _keep(self, tensor: torch.Tensor) -> None:
        self.before = self.history[0] if self.history else None
        super()._keep(tensor)

    def should_compute(self, signal: Signal) -> bool:
        if self.is_forced:
            self.left = 0
        elif self.left:
            self.left -= 1
            self.record(computed=False)
            return False
        elif self.before is not None and self.history[0][0] == self.step - 1:
            return self._indicated()
        self.record(computed=True)
        return True

    def _indicated(self) -> bool:
        """Whether the step after a computed one also computes; true for NaN."""
        assert self.before is not None
        (last, current), (before, previous) = self.history[0], self.before
        # Compared on the model's device, regardless of where they are kept.
        current, previous = (tensor.to(self.compute_device) for tensor in (current, previous))
        distance = self._distance(current, previous) / (last - before)
        computed = not distance < self.config.threshold
        self.left = 0 if computed else self.length - 1
        self.record(computed=computed, distance=distance)
        return computed
