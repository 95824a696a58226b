"""Thresholds of TeaCache and MagCache for a number of computed steps, from measurements of full runs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from videosys.cache import CACHES, CacheConfig, MagCacheConfig
from videosys.cache.teacache import polynomial

NAIVE = (1.0, 0.0)  # coefficients of the identity
_HALVINGS = 60
SLACK = 0.25  # steps by which the mean of real runs may differ from a budget
TRIES = 8  # maximum number of thresholds tried in real runs per budget
STRIDE = 1.5  # exponent of the next step if all tried thresholds are on one side
INNER = 0.25  # least distance of the next threshold from both brackets, as a share of their distance
RETENTION = 0.2  # MagCache's published share of initial steps that always compute


def computed_steps(
    changes: Sequence[float], coefficients: Sequence[float], threshold: float, last: int
) -> list[int]:
    """The steps that TeaCache would compute. changes[i]: change of the signal from step i to step i + 1.

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
    """The threshold with which prompts with these changes compute at most `budget` steps on average."""

    def mean(threshold: float) -> float:
        return statistics.fmean(len(computed_steps(row, coefficients, threshold, last)) for row in changes)

    return least_threshold(budget, mean)


def least_threshold(budget: int, computed: Callable[[float], float]) -> float:
    """The smallest threshold with which `computed` steps do not exceed the budget, by bisection."""
    low, high = 0.0, 1.0
    while computed(high) > budget and high < 1e6:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if computed(middle) > budget else (low, middle)
    short = float(f"{high:.6g}")
    return short if computed(short) <= budget else high


def nearest_threshold(budget: int, start: float, computed: Callable[[float], float]) -> float:
    """The tried threshold whose number of `computed` steps is nearest to the budget.

    Tries at most TRIES thresholds, `start` first, and stops as soon as one is within SLACK.
    """
    counts: dict[float, float] = {}
    threshold = start
    while threshold not in counts and len(counts) < TRIES:
        counts[threshold] = computed(threshold)
        if abs(counts[threshold] - budget) <= SLACK:
            break
        threshold = _next_threshold(budget, counts)
    return min(counts, key=lambda value: (abs(counts[value] - budget), counts[value]))


def _next_threshold(budget: int, counts: Mapping[float, float]) -> float:
    """The next threshold to try: linear interpolation between the smallest one that keeps the budget and the
    largest one below it that does not; beyond all tried ones if there is no such pair.
    """
    high = min((value for value, count in counts.items() if count <= budget), default=math.inf)
    low = max((value for value, count in counts.items() if count > budget and value < high), default=0.0)
    if not (low and high < math.inf):
        last = low or high
        return float(f"{last * (counts[last] / budget) ** STRIDE:.6g}")
    share = (counts[low] - budget) / (counts[low] - counts[high])
    return float(f"{low * (high / low) ** min(max(share, INNER), 1 - INNER):.6g}")


def magcache_for(budget: int, ratios: Sequence[float]) -> MagCacheConfig | None:
    """MagCache with these ratios that computes at most `budget` steps; None if its rule cannot.

    The first fifth of the steps computes, as published, but at most a third of the budget. The number of
    consecutive skips is as low as possible.
    """
    count = len(ratios)
    retention = min(RETENTION, round(budget / 3 / count, 4))
    for most in range(1, count):
        loose = MagCacheConfig(tuple(ratios), threshold=math.inf, max_skips=most, retention=retention)
        if len(loose.computed_steps(count)) <= budget:
            break
    else:
        return None

    def computed(threshold: float) -> float:
        return len(dataclasses.replace(loose, threshold=threshold).computed_steps(count))

    return dataclasses.replace(loose, threshold=least_threshold(budget, computed))


def own_settings(budget: int, num_steps: int) -> list[tuple[str, CacheConfig]]:
    """(name, settings) that policies, including those of other packages, provide for a budget."""
    policies = [(name, policy) for name, policy in CACHES.items() if isinstance(policy, type)]
    settings = [(name, policy.for_budget(budget, num_steps)) for name, policy in policies]
    return [(name, policy) for name, policy in settings if policy is not None]
