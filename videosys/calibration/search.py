"""Search for the best schedule per number of computed steps: dynamic programming on traces, then real runs.

A schedule consists of segments: a computed step, the skipped steps after it, and the next computed step. The
traces (`collect.Trace.reused`) give the error of a skipped step, assuming that earlier steps are exact, and
`collect.sensitivity` gives its effect on the final latents. Within a segment errors add up as vectors,
because errors of neighbouring steps are similar; across segments their squares add up. With a forecast from
two residuals, a segment also depends on the computed step before it, so the program runs over pairs of
steps.
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
from videosys.cache.base import STACK, Place

MOST_SKIPS = 12  # in a row
MOST_DAMPING = 1.5  # above 1: the best factor can exceed the slope where the residual curves towards it
NONE = -1  # marks that there is no computed step before the first
# Share of each step's own squared error that is added to the squared error of their sum: errors that cancel
# in the sum cancel only partly in a real run, and a fit favours such sums.
APART = 0.25
JOINT_RIDGE = 1e-6
SMALLEST = 1e-2  # ridge term as a share of a fit's variance, so that nearly parallel directions do not cancel
APART_JOINTLY = 0.1  # the same, where weights are fitted over all segments
ForecastKind = Literal["hold", "linear", "fitted", "curved", "joint"]
FORECAST_KINDS: tuple[ForecastKind, ...] = ("hold", "linear", "fitted", "curved", "joint")
Products = tuple[float, ...]
SegmentCost = Callable[[int, int, int], float]  # of (computed before, computed, next computed)
# Exponents of a segment's error: 2 for small, independent errors, 1 for errors that all point in the same
# direction, and 8 nearly minimizes the largest error.
POWERS = (2.0, 1.0, 8.0)


@dataclass(frozen=True)
class Schedule:
    """The computed steps, and how the residual is forecast in the segment after each of them but the last.

    damping: 0 holds the residual, 1 follows the line through the last two. bending: 0 stays on the line, 1
    follows the parabola through the last three. One number per segment each; an empty bending is all 0.
    """

    computed: tuple[int, ...]
    damping: tuple[float, ...]
    bending: tuple[float, ...] = ()

    def segments(self) -> Iterator[tuple[int, int, int, float]]:
        """Yield (computed before, computed, next computed, damping)."""
        earlier = (NONE, *self.computed)
        return zip(earlier, self.computed, self.computed[1:], self.damping)

    def skipped(self) -> Iterator[tuple[int, tuple[int, int, int], float, float]]:
        """Yield (skipped step, the three computed steps before it, oldest first, damping, bending)."""
        bending = self.bending or (0.0,) * len(self.damping)
        oldest = (NONE, NONE, *self.computed)
        for place, (before, last, following, damping) in enumerate(self.segments()):
            for step in range(last + 1, following):
                yield step, (oldest[place], before, last), damping, bending[place]

    def policy(self, times: Sequence[float], place: Place = STACK) -> ScheduleConfig:
        """The schedule as a cache config: forecasts hold and linear by name, others as weights per step."""
        return ScheduleConfig(computed=self.computed, forecast=self._forecast(times), place=place)

    def _forecast(self, times: Sequence[float]) -> Forecast:
        used = {(damping, bending) for _, _, damping, bending in self.skipped()}
        if used <= {(0.0, 0.0)}:
            return Hold()
        if used == {(1.0, 0.0)}:
            return Linear()
        weights: list[tuple[float, ...]] = [() for _ in times]
        for step, (oldest, before, last), damping, bending in self.skipped():
            slope = damping * line(before, last, step, times)
            bent = [bending * share for share in parabola(oldest, before, last, step, times)]
            row = (1.0 + slope + bent[0], bent[1] - slope, bent[2])
            weights[step] = row if bent[2] else row[:2] if slope else ()
        return Fitted(tuple(weights))


def line(before: int, last: int, step: int, times: Sequence[float]) -> float:
    """Time from `last` to `step`, in units of the time from `before` to `last`; 0 if undefined."""
    if before == NONE or times[before] == times[last]:
        return 0.0
    return (times[step] - times[last]) / (times[last] - times[before])


def parabola(
    oldest: int, before: int, last: int, step: int, times: Sequence[float]
) -> tuple[float, float, float]:
    """Weights of three residuals, newest first, that turn linear into quadratic extrapolation. They sum to 0;
    all are 0 if there is no parabola.
    """
    if oldest == NONE or len({times[oldest], times[before], times[last]}) < 3:
        return 0.0, 0.0, 0.0
    first, second = times[last] - times[before], times[before] - times[oldest]
    height = (times[step] - times[last]) * (times[step] - times[before]) / (times[last] - times[oldest])
    return height / first, -height / first - height / second, height / second


class Segments:
    """The cost and the best damping of segments, from the traces of several prompts.

    reused: `collect.Trace.reused` of each prompt. gains: sensitivity of each step.
    """

    def __init__(self, reused: Sequence[torch.Tensor], gains: Sequence[float], times: Sequence[float]):
        tables = torch.stack([table.float() for table in reused], dim=1)  # [steps, prompts, back, samples]
        scale = torch.tensor(gains, dtype=torch.float32, device="cpu")
        wrong = (tables - tables[:, :, :1]) * scale[:, None, None, None]
        # Normalized, so that every prompt has the same weight.
        size = wrong[1:, :, 1].square().nanmean(dim=(0, 2)).sqrt().clamp(min=1e-12)
        self.wrong = (wrong / size[:, None, None]).numpy()
        self.times = tuple(times)
        self.window = tables.shape[2] - 1
        self._products: dict[tuple[int, int], list[Products]] = {}

    def __len__(self) -> int:
        return len(self.times)

    def cost(self, kind: ForecastKind, power: float = 2.0) -> SegmentCost:
        """The error of a segment, to some power, with the forecast `kind`. `fitted` uses the best damping. So
        do `curved`, whose bending needs one more step than the dynamic program looks back, and `joint`, whose
        weights depend on all segments.
        """

        def cost(before: int, last: int, following: int) -> float:
            if following == last + 1:
                return 0.0
            held, mixed, sloped = self._parts(before, last, following)
            damping = self.damping(kind, before, last, following)
            square = held + 2 * damping * mixed + damping**2 * sloped if damping else held
            return max(square, 0.0) ** (power / 2)

        return cost

    def damping(self, kind: ForecastKind, before: int, last: int, following: int) -> float:
        """The share of the slope to follow; except for `hold` and `linear` the least-squares value, which
        may exceed 1.
        """
        if kind == "hold":
            return 0.0
        if kind == "linear":
            return 1.0
        _, mixed, sloped = self._parts(before, last, following)
        return round(min(max(-mixed / sloped, 0.0), MOST_DAMPING), 3) if sloped > 0 else 0.0

    def bending(self, oldest: int, before: int, last: int, following: int) -> tuple[float, float]:
        """The least-squares (damping, bending), solved together."""
        if oldest == NONE or following - 1 - oldest > self.window:
            return self.damping("fitted", before, last, following), 0.0
        held, sloped, bent = self._errors(oldest, before, last, following)
        sizes = [math.sqrt(float((part * part).mean())) for part in (sloped, bent)]
        if not all(size > 0 for size in sizes):  # nan where earlier residuals are unknown
            return self.damping("fitted", before, last, following), 0.0
        parts = np.stack([(part / size).ravel() for part, size in zip((sloped, bent), sizes)])
        square = parts @ parts.T / parts.shape[1] + SMALLEST * np.eye(2)
        solution = np.linalg.solve(square, -parts @ held.ravel() / parts.shape[1]) / sizes
        return round(float(solution[0]), 3), round(float(solution[1]), 3)

    def joint(self, computed: Sequence[int]) -> Schedule:
        """A list of steps with the damping and bending of all segments fitted together.

        The final error is the sum over all segments. Small errors of neighbouring segments that point in the
        same direction add up, which a separate fit of each segment would ignore. The loss is the square of
        the sum, plus a share of the sum of the squares, which keeps weights from cancelling large errors.
        """
        earlier = (NONE, *computed)
        rows = zip((NONE, *earlier), earlier, computed, computed[1:])
        held, sloped, bent = (np.stack(part) for part in zip(*(self._errors(*row) for row in rows)))
        count = len(held)
        held, moved = held.reshape(count, -1), np.concatenate([sloped, bent]).reshape(2 * count, -1)
        products = moved @ moved.T
        within = products * np.tile(np.eye(count), (2, 2))  # of the same segment
        used = np.flatnonzero(products.diagonal() > 0)
        square = (products + APART_JOINTLY * within)[np.ix_(used, used)]
        square += JOINT_RIDGE * np.diag(square.diagonal())
        target = -(moved @ held.sum(0)) - APART_JOINTLY * (moved * np.tile(held, (2, 1))).sum(1)
        weights = np.zeros(2 * count)
        weights[used] = np.linalg.solve(square, target[used])
        dampings, bendings = weights.round(4).reshape(2, count).tolist()
        return Schedule(tuple(computed), tuple(dampings), tuple(bendings))

    def _errors(
        self, oldest: int, before: int, last: int, following: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums [prompts, samples] over a segment's skipped steps of the errors with hold, of their changes by
        the line, and of those by the parabola; 0 where undefined or unknown.
        """
        held, sloped, bent = (np.zeros(self.wrong[0, :, 0].shape) for _ in range(3))
        for step in range(last + 1, following):
            known = [
                place for place in (last, before, oldest) if place != NONE and step - place <= self.window
            ]
            rows = [self.wrong[step, :, step - place] for place in known]
            if rows:
                held += rows[0]
            if len(rows) > 1:
                sloped += line(before, last, step, self.times) * (rows[0] - rows[1])
            if len(rows) > 2:
                shares = parabola(oldest, before, last, step, self.times)
                bent += sum(share * row for share, row in zip(shares, rows))
        return held, sloped, bent

    def schedule(self, computed: Sequence[int], kind: ForecastKind) -> Schedule:
        """The schedule of these computed steps, with the damping (and bending) of each segment."""
        if kind == "joint":
            return self.joint(computed)
        earlier = (NONE, *computed)
        rows = list(zip(earlier, computed, computed[1:]))
        if kind != "curved":
            return Schedule(tuple(computed), tuple(self.damping(kind, *row) for row in rows))
        pairs = [self.bending(oldest, *row) for oldest, row in zip((NONE, *earlier), rows)]
        return Schedule(tuple(computed), *zip(*pairs))

    def neighbours(self, schedule: Schedule, kind: ForecastKind) -> Iterator[Schedule]:
        """Yield the schedules one move away, lowest predicted cost first, without those that the traces do
        not cover.
        """
        cost = self.cost(kind)
        promise = {
            computed: sum(cost(*row) for row in zip((NONE, *computed), computed, computed[1:]))
            for computed in moves(schedule.computed)
        }
        finite = [computed for computed in promise if math.isfinite(promise[computed])]
        for computed in sorted(finite, key=lambda one: promise[one]):
            yield self.schedule(computed, kind)
        if kind in ("fitted", "curved"):
            yield from dampings(schedule)

    def _parts(self, before: int, last: int, following: int) -> Products:
        """Mean squares of the held error and of the slope's change to it, and their mean product; infinite if
        the segment skips more steps than the traces cover.
        """
        if following - last - 1 > self.window:
            return math.inf, 0.0, 0.0
        if (before, last) not in self._products:
            self._products[before, last] = list(self._growing(before, last))
        return self._products[before, last][following - last - 1]

    def _growing(self, before: int, last: int) -> Iterator[Products]:
        """Yield the same for segments of 0, 1, 2, ... skipped steps."""
        held, sloped = np.zeros_like(self.wrong[0, :, 0]), np.zeros_like(self.wrong[0, :, 0])
        yield 0.0, 0.0, 0.0
        apart = np.zeros(3)
        for step in range(last + 1, len(self)):
            if step - last > self.window:
                return
            own, change = self.wrong[step, :, step - last], np.zeros_like(sloped)
            share = line(before, last, step, self.times)
            if share and step - before <= self.window:
                change = share * (own - self.wrong[step, :, step - before])
            held, sloped = held + own, sloped + change
            apart += products(own, change)
            yield tuple((products(held, sloped) + APART * apart).tolist())


def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The means of x x, x y and y y."""
    return np.array([(x * x).mean(), (x * y).mean(), (y * y).mean()], dtype=np.float64)


class Programme:
    """The cheapest schedules of a sampler, computed once for each kind of forecast and power."""

    def __init__(self, segments: Segments):
        self.segments = segments
        self._found: dict[tuple[str, float], dict[int, list[int]]] = {}

    def cheapest(self, budgets: Iterable[int], kind: ForecastKind, power: float = 2.0) -> dict[int, Schedule]:
        """The cheapest schedule for each number of computed steps, without numbers that have none."""
        costs = "fitted" if kind in ("curved", "joint") else kind  # all three have the costs of `fitted`
        if (costs, power) not in self._found:
            count, cost = len(self.segments), self.segments.cost(kind, power)
            self._found[costs, power] = dynamic_programme(count, count - 1, cost)
        steps = self._found[costs, power]
        return {number: self.segments.schedule(steps[number], kind) for number in budgets if number in steps}


def dynamic_programme(
    steps: int, most: int, cost: SegmentCost, most_skips: int = MOST_SKIPS
) -> dict[int, list[int]]:
    """The cheapest schedule for each number of computed steps up to `most`: number -> computed steps.

    Exact for the sum of the segments' costs. Steps 0 and steps - 1 compute, and at most `most_skips` steps
    are skipped in a row. Numbers without such a schedule are omitted.
    """
    state = (NONE, 0)
    value = {state: np.where(np.arange(most + 1) == 1, 0.0, np.inf)}
    parent: dict[tuple[int, int], list[tuple[int, int] | None]] = {state: [None] * (most + 1)}
    for last in range(steps - 1):
        for before in range(max(NONE, last - most_skips - 1), last):
            if (before, last) in value:
                _extend((before, last), min(steps, last + most_skips + 2), cost, value, parent)
    schedules = {}
    for number in range(2, most + 1):
        ends = [pair for pair in value if pair[1] == steps - 1 and math.isfinite(value[pair][number])]
        if ends:
            schedules[number] = _path(min(ends, key=lambda pair: value[pair][number]), number, parent)
    return schedules


def _extend(state: tuple[int, int], end: int, cost: SegmentCost, value: dict, parent: dict) -> None:
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
class SearchResult:
    """A schedule, its score on real runs (higher is better), and the number of schedules that were run."""

    schedule: Schedule
    score: float
    num_runs: int


def descend(
    start: Schedule,
    neighbours: Callable[[Schedule], Iterable[Schedule]],
    score: Callable[[Schedule], float],
    most: int,
) -> SearchResult:
    """Coordinate descent: move to the first better neighbour until there is none.

    score: runs a schedule. most: maximum number of schedules to try.
    """
    scores = {start: score(start)}
    best, candidates = start, iter(neighbours(start))
    while len(scores) < most and (candidate := next(candidates, None)) is not None:
        if candidate in scores:
            continue
        scores[candidate] = score(candidate)
        if scores[candidate] > scores[best]:
            best, candidates = candidate, iter(neighbours(candidate))
    return SearchResult(best, scores[best], len(scores))


def padded(computed: Sequence[int], number: int) -> list[int]:
    """Add computed steps one by one in the middle of the longest gap, up to `number`."""
    steps = list(computed)
    while len(steps) < number:
        gaps = [following - step for step, following in pairwise(steps)]
        widest = gaps.index(max(gaps))
        steps.insert(widest + 1, steps[widest] + gaps[widest] // 2)
    return steps


def moves(computed: Sequence[int], farthest: int = 3) -> Iterator[tuple[int, ...]]:
    """Yield the step lists in which one step has moved by up to `farthest`; first and last stay."""
    steps = set(computed)
    for step in computed[1:-1]:
        for place in range(max(step - farthest, computed[0] + 1), min(step + farthest + 1, computed[-1])):
            if place not in steps:
                yield tuple(sorted(steps - {step} | {place}))


def dampings(schedule: Schedule, change: float = 0.25) -> Iterator[Schedule]:
    """Yield the schedules in which one segment's damping is changed by `change`."""
    for place, (_, last, following, damping) in enumerate(schedule.segments()):
        if following == last + 1:
            continue
        for value in {max(damping - change, 0.0), min(damping + change, MOST_DAMPING)} - {damping}:
            row = (*schedule.damping[:place], round(value, 3), *schedule.damping[place + 1 :])
            yield replace(schedule, damping=row)


def interpolated(steps: Sequence[int], gains: Sequence[float], count: int) -> list[float]:
    """Interpolate gains measured at some steps to all steps, linearly in their logarithm."""
    return np.exp(np.interp(np.arange(count), steps, np.log(gains))).tolist()
