"""Forecasts of the residual in a skipped step: weighted sums of the last computed residuals.

A forecast is plain data that knows step indices and times, but no tensors. So every decision (TeaCache,
interval, schedule) works with every forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from videosys.cache.ranges import at_least, check_least
from videosys.utils.typed import check_types

HOLD_WEIGHTS = (1.0,)
MAX_RESIDUALS = 3  # each is as large as all tokens


@dataclass(frozen=True)
class Hold:
    """The last residual, r(t) = r1: the published rule, and the safe one for samplers that add noise."""

    @property
    def num_residuals(self) -> int:
        """How many residuals are kept."""
        return 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the kept residuals, newest first.

        step: the skipped step. computed: steps of the kept residuals, newest first. times: of all steps.
        """
        return HOLD_WEIGHTS


@dataclass(frozen=True)
class Linear:
    """First order in the sampler's own time from the last two residuals:

        r(t) = r1 + damping * (t - t1) / (t1 - t2) * (r1 - r2)

    With one residual so far, or two at equal times (PNDM's Runge-Kutta steps), it is r1.
    damping: from 0 (r1) over 1 (the full slope) to 2.
    max_gap: the line is followed for so many steps after the last computed one, and constant from there.
    """

    damping: float = 1.0
    max_gap: int | None = at_least(1, default=None)

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, "forecast")
        if not 0 <= self.damping <= 2:
            raise ValueError(f"forecast.damping is {self.damping}; it must be between 0 and 2")

    @property
    def num_residuals(self) -> int:
        """The last two computed steps make a line."""
        return 2

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The line through the last two residuals at `times[step]`; the last one where both have the same
        time.
        """
        if len(computed) < 2 or times[computed[0]] == times[computed[1]]:
            return HOLD_WEIGHTS
        newest, older = computed[:2]
        followed = step if self.max_gap is None else min(step, newest + self.max_gap)
        slope = self.damping * (times[followed] - times[newest]) / (times[newest] - times[older])
        return (1.0 + slope, -slope) if slope else HOLD_WEIGHTS


@dataclass(frozen=True)
class Fitted:
    """Weights of their own for each step, such as those of a least-squares fit on recorded residuals.

    weights_per_step: for each step the weights of the last residuals, newest first, at most three. An empty
        list means the last residual, and so does one with more weights than there are residuals.
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
        """As many as the longest row of weights has, 1 without rows."""
        return max((len(weights) for weights in self.weights_per_step), default=1) or 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The row of the step; the last residual where the row is empty or longer than the residuals."""
        weights = self.weights_per_step[step] if step < len(self.weights_per_step) else ()
        return weights if 0 < len(weights) <= len(computed) else HOLD_WEIGHTS


Forecast = Hold | Linear | Fitted

HOLD: Forecast = Hold()

FORECASTS = MappingProxyType({"hold": Hold, "linear": Linear, "fitted": Fitted})
