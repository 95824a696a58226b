"""The best schedule for a number of computed steps: dynamic programming on traces, then trial on real runs.

A schedule is cut into segments: a computed step, the skipped ones after it, and the next computed step. What
a skipped step gets wrong is known from the traces (`collect.Trace.reused`), if earlier steps were right; how
far it moves the final latents, from `collect.sensitivity`. Within a segment errors add up as vectors, since
neighbouring steps err alike; segments add up as squares. With a forecast from two residuals a segment also
depends on the computed step before it, so the programme runs over pairs of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from videosys.cache import Fitted, Forecast, Hold, Linear, ScheduleConfig

MOST_SKIPS = 12  # in a row
MOST_DAMPING = 1.5  # where the residual bends towards the slope, more than the slope is right
NONE = -1  # stands for the computed step before the first
Kind = Literal["hold", "linear", "fitted"]
KINDS: tuple[Kind, ...] = ("hold", "linear", "fitted")
Cost = Callable[[int, int, int], float]  # (computed before, computed, next computed) -> to be small in sum
# Of a segment's error: 2 is right where errors are small and independent, 1 where they all point one way,
# and 8 nearly asks for the least largest one.
POWERS = (2.0, 1.0, 8.0)


@dataclass(frozen=True)
class Schedule:
    """Computed steps, and for the skips after each but the last how much of the slope is followed.

    damping: 0 holds the residual, 1 follows the line through the last two; one number per segment.
    """

    computed: tuple[int, ...]
    damping: tuple[float, ...]

    def segments(self) -> Iterator[tuple[int, int, int, float]]:
        """(computed before, computed, next computed, damping)."""
        earlier = (NONE, *self.computed)
        return zip(earlier, self.computed, self.computed[1:], self.damping)

    def policy(self, times: Sequence[float]) -> ScheduleConfig:
        """The same for `videosys.cache`: hold and linear by name, else as weights for each step."""
        return ScheduleConfig(computed=self.computed, forecast=self._forecast(times))

    def _forecast(self, times: Sequence[float]) -> Forecast:
        used = {d for _, last, following, d in self.segments() if following > last + 1}
        if used <= {0.0}:
            return Hold()
        if used == {1.0}:
            return Linear()
        weights: list[tuple[float, ...]] = [() for _ in times]
        for before, last, following, damping in self.segments():
            for step in range(last + 1, following):
                slope = damping * line(before, last, step, times)
                weights[step] = (1.0 + slope, -slope) if slope else ()
        return Fitted(tuple(weights))


def line(before: int, last: int, step: int, times: Sequence[float]) -> float:
    """How far `step` is beyond `last`, in distances from `before` to `last`; 0 where undefined."""
    if before == NONE or times[before] == times[last]:
        return 0.0
    return (times[step] - times[last]) / (times[last] - times[before])


class Segments:
    """What segments cost and which damping is best in them, by the traces of some prompts.

    reused: of `collect.Trace`, one table per prompt. gains: sensitivity of each step.
    """

    def __init__(self, reused: Sequence[torch.Tensor], gains: Sequence[float], times: Sequence[float]):
        tables = torch.stack([table.float() for table in reused], dim=1)  # [steps, prompts, back, samples]
        wrong = (tables - tables[:, :, :1]) * torch.tensor(gains, dtype=torch.float32)[:, None, None, None]
        # Every prompt counts alike, however much its picture reacts.
        size = wrong[1:, :, 1].square().mean(dim=(0, 2)).sqrt().clamp(min=1e-12)
        self.wrong = (wrong / size[:, None, None]).numpy()
        self.times = tuple(times)
        self.window = tables.shape[2] - 1
        self._known: dict[tuple[int, int, int], tuple[float, float, float]] = {}

    def __len__(self) -> int:
        return len(self.times)

    def cost(self, kind: Kind, power: float = 2.0) -> Cost:
        """The error of a segment to some power with the forecast `kind`; `fitted` takes the best damping."""

        def cost(before: int, last: int, following: int) -> float:
            if following == last + 1:
                return 0.0
            held, mixed, sloped = self._parts(before, last, following)
            damping = self.damping(kind, before, last, following)
            square = held + 2 * damping * mixed + damping**2 * sloped
            return max(square, 0.0) ** (power / 2)

        return cost

    def damping(self, kind: Kind, before: int, last: int, following: int) -> float:
        """The share of the slope to follow; for `fitted` the least-squares one, which may be above 1."""
        if kind == "hold":
            return 0.0
        if kind == "linear":
            return 1.0
        _, mixed, sloped = self._parts(before, last, following)
        return round(min(max(-mixed / sloped, 0.0), MOST_DAMPING), 3) if sloped > 0 else 0.0

    def schedule(self, computed: Sequence[int], kind: Kind) -> Schedule:
        """A list of steps with the damping of each segment."""
        earlier = (NONE, *computed)
        rows = zip(earlier, computed, computed[1:])
        return Schedule(tuple(computed), tuple(self.damping(kind, *row) for row in rows))

    def neighbours(self, schedule: Schedule, kind: Kind) -> list[Schedule]:
        """Schedules one move away, those first that promise most."""
        cost = self.cost(kind)

        def promise(computed: Sequence[int]) -> float:
            return sum(cost(*row) for row in zip((NONE, *computed), computed, computed[1:]))

        moved = [self.schedule(computed, kind) for computed in sorted(moves(schedule.computed), key=promise)]
        return [*moved, *dampings(schedule)] if kind == "fitted" else moved

    def _parts(self, before: int, last: int, following: int) -> tuple[float, float, float]:
        """Mean squares of the held error and of the slope's change to it, and their mean product."""
        key = (before, last, following)
        if key not in self._known:
            held, sloped = np.zeros_like(self.wrong[0, :, 0]), np.zeros_like(self.wrong[0, :, 0])
            for step in range(last + 1, following):
                held = held + self.wrong[step, :, step - last]
                share = line(before, last, step, self.times)
                if share and step - before <= self.window:
                    change = self.wrong[step, :, step - last] - self.wrong[step, :, step - before]
                    sloped = sloped + share * change
            products = ((held * held).mean(), (held * sloped).mean(), (sloped * sloped).mean())
            self._known[key] = tuple(map(float, products))  # type: ignore[assignment]
        return self._known[key]


def dynamic_programme(
    steps: int, most: int, cost: Cost, most_skips: int = MOST_SKIPS
) -> dict[int, list[int]]:
    """The cheapest schedule for each number of computed steps up to `most`: number -> computed steps.

    Exact for the sum of the segments' costs. Steps 0 and steps - 1 compute, and no more than `most_skips`
    in a row are skipped; numbers for which there is no such schedule are left out.
    """
    state = (NONE, 0)
    value = {state: np.where(np.arange(most + 1) == 1, 0.0, np.inf)}
    parent: dict[tuple[int, int], list[tuple[int, int] | None]] = {state: [None] * (most + 1)}
    for last in range(steps - 1):
        for before in range(max(NONE, last - most_skips - 1), last):
            if (before, last) in value:
                _extend((before, last), min(steps, last + most_skips + 2), cost, value, parent)
    found = {}
    for number in range(2, most + 1):
        ends = [pair for pair in value if pair[1] == steps - 1 and math.isfinite(value[pair][number])]
        if ends:
            found[number] = _path(min(ends, key=lambda pair: value[pair][number]), number, parent)
    return found


def _extend(state: tuple[int, int], end: int, cost: Cost, value: dict, parent: dict) -> None:
    before, last = state
    longer = np.concatenate(([np.inf], value[state][:-1]))
    for following in range(last + 1, end):
        total = longer + cost(before, last, following)
        old = value.setdefault((last, following), np.full_like(total, np.inf))
        origins = parent.setdefault((last, following), [None] * len(total))
        for number in np.nonzero(total < old)[0].tolist():
            old[number], origins[number] = total[number], state


def _path(state: tuple[int, int] | None, number: int, parent: dict) -> list[int]:
    path = []
    while state is not None:
        path.append(state[1])
        state, number = parent[state][number], number - 1
    return path[::-1]


@dataclass(frozen=True)
class Found:
    """A schedule with its score on real runs (higher is better), and how many runs were tried for it."""

    schedule: Schedule
    score: float
    tried: int


def descend(
    start: Schedule,
    neighbours: Callable[[Schedule], Iterable[Schedule]],
    score: Callable[[Schedule], float],
    most: int,
) -> Found:
    """Coordinate descent: a schedule is left for the first better neighbour, until there is none.

    score: of a real run. most: schedules to try at most.
    """
    best, tried = Found(start, score(start), 1), 1
    seen = {start}
    better: Found | None = best
    while better is not None and tried < most:
        better = None
        for candidate in neighbours(best.schedule):
            if candidate in seen or tried >= most:
                continue
            seen.add(candidate)
            value, tried = score(candidate), tried + 1
            if value > best.score:
                best = better = Found(candidate, value, tried)
                break
    return replace(best, tried=tried)


def padded(computed: Sequence[int], number: int) -> list[int]:
    """A schedule with more steps: one by one in the middle of the longest gap."""
    steps = list(computed)
    while len(steps) < number:
        gaps = [following - step for step, following in pairwise(steps)]
        widest = gaps.index(max(gaps))
        steps.insert(widest + 1, steps[widest] + gaps[widest] // 2)
    return steps


def moves(computed: Sequence[int], farthest: int = 3) -> Iterator[tuple[int, ...]]:
    """The lists of steps in which one has moved by up to `farthest`; first and last stay."""
    taken = set(computed)
    for step in computed[1:-1]:
        for place in range(max(step - farthest, computed[0] + 1), min(step + farthest + 1, computed[-1])):
            if place not in taken:
                yield tuple(sorted(taken - {step} | {place}))


def dampings(schedule: Schedule, change: float = 0.25) -> Iterator[Schedule]:
    """The schedules in which one segment follows the slope a little more or less."""
    for place, (_, last, following, damping) in enumerate(schedule.segments()):
        if following == last + 1:
            continue
        for value in {max(damping - change, 0.0), min(damping + change, MOST_DAMPING)} - {damping}:
            row = (*schedule.damping[:place], round(value, 3), *schedule.damping[place + 1 :])
            yield Schedule(schedule.computed, row)


def interpolated(steps: Sequence[int], gains: Sequence[float], count: int) -> list[float]:
    """Gains measured at some steps for all of them, linear in their logarithm."""
    logs = np.interp(np.arange(count), steps, np.log(gains))
    return np.exp(logs).tolist()
