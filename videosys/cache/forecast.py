"""Forecasts of the residual in a skipped step: weighted sums of the last computed residuals.

A forecast only uses step indices and times, not tensors. So every policy (TeaCache, interval, schedule) works
with every forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from videosys.cache.ranges import at_least, check_least
from videosys.utils.typed import check_between, check_types

HOLD_WEIGHTS = (1.0,)
MAX_RESIDUALS = 3  # each is as large as the hidden state


@dataclass(frozen=True)
class Hold:
    """The last residual, r(t) = r1: the published rule, and the safe choice for samplers that add noise."""

    @property
    def num_residuals(self) -> int:
        """The number of residuals to keep."""
        return 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the kept residuals, newest first.

        step: the skipped step. computed: steps of the kept residuals, newest first. times: of all steps.
        """
        return HOLD_WEIGHTS


@dataclass(frozen=True)
class Linear:
    """First-order extrapolation in the sampler's time from the last two residuals:

        r(t) = r1 + damping * (t - t1) / (t1 - t2) * (r1 - r2)

    With a single residual, or two at equal times (PNDM's Runge-Kutta steps), it is r1.
    damping: 0 (r1) to 2; 1 is the full slope.
    max_gap: linear up to this number of steps after the last computed one, then constant.
    """

    damping: float = 1.0
    max_gap: int | None = at_least(1, default=None)

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, "forecast")
        check_between("forecast.damping", self.damping, 0, 2)

    @property
    def num_residuals(self) -> int:
        """A line needs the last two computed steps."""
        return 2

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the line through the last two residuals at `times[step]`; those of the last residual
        if both have the same time.
        """
        if len(computed) < 2 or times[computed[0]] == times[computed[1]]:
            return HOLD_WEIGHTS
        newest, older = computed[:2]
        followed = step if self.max_gap is None else min(step, newest + self.max_gap)
        slope = self.damping * (times[followed] - times[newest]) / (times[newest] - times[older])
        return (1.0 + slope, -slope) if slope else HOLD_WEIGHTS


@dataclass(frozen=True)
class Fitted:
    """Separate weights per step, such as those of a least-squares fit on recorded residuals.

    weights_per_step: per step the weights of the last residuals, newest first, at most three. An empty list,
        or one with more weights than residuals, uses the last residual.
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
        """The length of the longest row of weights, 1 without rows."""
        return max((len(weights) for weights in self.weights_per_step), default=1) or 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The row of the step; the last residual if the row is empty or longer than the residuals."""
        weights = self.weights_per_step[step] if step < len(self.weights_per_step) else ()
        return weights if 0 < len(weights) <= len(computed) else HOLD_WEIGHTS


@dataclass(frozen=True)
class Taylor:
    """A Taylor polynomial in the step index, TaylorSeer (arXiv 2503.06923). With j steps after the last
    computed one:

        r = r1 + D1 j + D2 j^2 / 2

    D1 and D2 are backward differences per step of the kept residuals; with fewer residuals the order is
    lower. Order 1 is a line through the last two. Order 2 is not exact on parabolas, as in the paper.
    order: 1 or 2.
    """

    order: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        check_between("forecast.order", self.order, 1, MAX_RESIDUALS - 1)

    @property
    def num_residuals(self) -> int:
        """One more than the order."""
        return self.order + 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the kept residuals; they sum to 1."""
        j = step - computed[0]
        return difference_weights((j, j * j)[: self.order], computed)


@dataclass(frozen=True)
class Hermite:
    """Taylor with scaled Hermite polynomials instead of powers, HiCache (arXiv 2508.16984). With j steps
    after the last computed one, contraction s and H the physicists' Hermite polynomials:

        r = r1 + D1 B1(j) + D2 B2(j) / 2,   Bi(j) = s^i Hi(s j)

    D1, D2 and fewer residuals: as in `Taylor`. Order 1 with s = 0.5 is half the slope of `Taylor`. B2(0) is
    not 0, so with order 2 the curve does not pass through the last residual.
    order: 1 or 2. contraction: s, above 0 and at most 1; the published sigma.
    """

    order: int = 2
    contraction: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)
        check_between("forecast.order", self.order, 1, MAX_RESIDUALS - 1)
        if not 0 < self.contraction <= 1:
            raise ValueError(f"forecast.contraction is {self.contraction}; it must be above 0 and at most 1")

    @property
    def num_residuals(self) -> int:
        """One more than the order."""
        return self.order + 1

    def weights(self, step: int, computed: Sequence[int], times: Sequence[float]) -> tuple[float, ...]:
        """The weights of the kept residuals; they sum to 1."""
        s, j = self.contraction, step - computed[0]
        basis = (2 * s**2 * j, s**2 * (4 * (s * j) ** 2 - 2))
        return difference_weights(basis[: self.order], computed)


def difference_weights(basis: Sequence[float], computed: Sequence[int]) -> tuple[float, ...]:
    """The weights of r1 + basis[0] D1 + basis[1] D2 / 2, newest first, with D2 if there are three residuals.

    D1 = (r1 - r2) / d1 and D2 = (D1 - (r2 - r3) / d2) / d1, for residuals d1 and d2 steps apart.
    """
    first, *second = basis[: len(computed) - 1] or (0.0,)
    if not first and not any(second):
        return HOLD_WEIGHTS
    d1 = computed[0] - computed[1]
    slope = first / d1
    if not second:
        return (1.0 + slope, -slope)
    d2 = computed[1] - computed[2]
    newer, older = second[0] / (2 * d1 * d1), second[0] / (2 * d1 * d2)
    return (1.0 + slope + newer, -slope - newer - older, older)


Forecast = Hold | Linear | Fitted | Taylor | Hermite

HOLD: Forecast = Hold()

FORECASTS = MappingProxyType(
    {"hold": Hold, "linear": Linear, "fitted": Fitted, "taylor": Taylor, "hermite": Hermite}
)
