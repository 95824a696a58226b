"""TeaCache's thresholds: which one computes how many steps, by the changes that full runs had."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from videosys.cache.teacache import polynomial

NAIVE = (1.0, 0.0)  # the coefficients that leave a change as it is
_HALVINGS = 60


def computed_steps(
    changes: Sequence[float], coefficients: Sequence[float], threshold: float, last: int
) -> list[int]:
    """The steps that TeaCache would compute; changes[i] is the signal's from step i to step i + 1.

    last: the last step, which always computes.
    """
    computed, accumulated = [0], 0.0
    for step, change in enumerate(changes, start=1):
        accumulated += polynomial(coefficients, change)
        if step == last or not accumulated < threshold:
            computed.append(step)
            accumulated = 0.0
    return computed


def threshold_for(
    budget: int, changes: Sequence[Sequence[float]], coefficients: Sequence[float], last: int
) -> float:
    """The threshold with which prompts with such changes compute `budget` steps, or fewer, on average."""

    def mean(threshold: float) -> float:
        return statistics.fmean(len(computed_steps(row, coefficients, threshold, last)) for row in changes)

    low, high = 0.0, 1.0
    while mean(high) > budget and high < 1e6:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > budget else (low, middle)
    return float(f"{high:.6g}") if mean(float(f"{high:.6g}")) <= budget else high
