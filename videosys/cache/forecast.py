"""What a skipped step takes for its residual: a weighted sum of the last ones that were computed.

A forecast is plain data. It knows step numbers and the sampler's times, and no tensor, so that every decision
(TeaCache, interval, schedule) can be combined with every forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from videosys.utils.typed import check_types

HELD = (1.0,)
MAX_RESIDUALS = 3  # each is as large as all tokens


@dataclass(frozen=True)
class Hold:
    """The last residual as it is: the published rule, and the one for samplers that add fresh noise."""

    @property
    def num_residuals(self) -> int:
        """How many residuals are kept."""
        return 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the kept residuals, newest first.

        computed: the steps of the kept residuals, newest first; times: of every step.
        """
        return HELD


@dataclass(frozen=True)
class Linear:
    """First order in the sampler's own time from the last two residuals:

        r(t) = r1 + damping * (t - t1) / (t1 - t2) * (r1 - r2)

    Where there is one residual yet, or the two have equal times (as in PNDM's Runge-Kutta steps), it holds.
    damping: 1 is the full slope, 0 holds.
    max_gap: steps after the last computed one up to which the line is followed; its value stays from there.
    """

    damping: float = 1.0
    max_gap: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.damping <= 2:
            raise ValueError(f"forecast.damping is {self.damping}; it must be between 0 and 2")
        if self.max_gap is not None and self.max_gap < 1:
            raise ValueError(f"forecast.max_gap is {self.max_gap}; it must be 1 or more")

    @property
    def num_residuals(self) -> int:
        return 2

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        if len(computed) < 2 or times[computed[0]] == times[computed[1]]:
            return HELD
        newest, older = computed[:2]
        followed = step if self.max_gap is None else min(step, newest + self.max_gap)
        slope = self.damping * (times[followed] - times[newest]) / (times[newest] - times[older])
        return (1.0 + slope, -slope) if slope else HELD


@dataclass(frozen=True)
class Fitted:
    """Weights for each step, as a least-squares fit on recorded residuals gives them.

    weights_per_step: for each step the weights of the kept residuals, newest first, at most three; an empty
        list holds, and so does a step before which fewer residuals were computed.
    """

    weights_per_step: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        for step, weights in enumerate(self.weights_per_step):
            if len(weights) > MAX_RESIDUALS or not all(map(math.isfinite, weights)):
                raise ValueError(
                    f"forecast.weights_per_step[{step}] is {weights}; it must be at most {MAX_RESIDUALS} "
                    "finite numbers"
                )

    @property
    def num_residuals(self) -> int:
        return max((len(weights) for weights in self.weights_per_step), default=1) or 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        weights = self.weights_per_step[step] if step < len(self.weights_per_step) else ()
        return weights if 0 < len(weights) <= len(computed) else HELD


Forecast = Hold | Linear | Fitted

HOLD: Forecast = Hold()

FORECASTS = MappingProxyType({"hold": Hold, "linear": Linear, "fitted": Fitted})
