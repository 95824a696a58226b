"""Schedules: the dynamic programme against all schedules there are, dampings, and the descent."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from videosys.cache import Fitted, Hold, Linear
from videosys.calibration.search import (
    APART,
    FORECAST_KINDS,
    NONE,
    Schedule,
    Segments,
    dampings,
    descend,
    dynamic_programme,
    interpolated,
    line,
    moves,
    padded,
    parabola,
)

STEPS = 9
TIMES = [1 - i / STEPS for i in range(STEPS)]


def table_of(residuals, window=8):
    """`Trace.reused` of a model whose output is its residual."""
    values = torch.as_tensor(residuals, dtype=torch.float32)
    values = values[:, None] if values.ndim == 1 else values
    table = torch.full((len(values), window + 1, values.shape[1]), float("nan"))
    for step in range(len(values)):
        for back in range(min(step, window) + 1):
            table[step, back] = values[step - back]
    return table


def segments_of(*residuals, gains=None, times=TIMES):
    return Segments([table_of(row) for row in residuals], gains or [1.0] * len(times), times)


def total(cost, computed):
    return sum(cost(*row) for row in zip((NONE, *computed), computed, computed[1:]))


def all_schedules(number, steps=STEPS, most_skips=12):
    for middle in itertools.combinations(range(1, steps - 1), number - 2):
        computed = (0, *middle, steps - 1)
        if max(np.diff(computed)) <= most_skips + 1:
            yield computed


@pytest.mark.parametrize("kind", ["hold", "linear", "fitted", "curved"])
@pytest.mark.parametrize("most_skips", [2, 12])
def test_the_programme_finds_the_cheapest_of_all_schedules(kind, most_skips):
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal((STEPS, 5)).cumsum(axis=0) for _ in range(2)]
    cost = segments_of(*rows).cost(kind)
    found = dynamic_programme(STEPS, 7, cost, most_skips)
    for number in range(2, 8):
        every = list(all_schedules(number, most_skips=most_skips))
        assert (number in found) == bool(every)
        if every:
            assert len(found[number]) == number
            assert total(cost, found[number]) == pytest.approx(min(total(cost, one) for one in every))


def test_a_staircase_is_computed_where_it_steps():
    residuals = [5, 5, 2, 2, 2, 9, 9, 1, 1]
    found = dynamic_programme(STEPS, 5, segments_of(residuals).cost("hold"))
    assert found[5] == [0, 2, 5, 7, 8]


def test_a_line_is_followed():
    residuals = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    segments = segments_of(residuals)
    assert dynamic_programme(STEPS, 3, segments.cost("linear"))[3] == [0, 1, 8]
    assert segments.cost("linear")(0, 1, 8) == pytest.approx(0, abs=1e-9)
    assert segments.cost("hold")(0, 1, 8) > 1
    assert segments.damping("fitted", 0, 1, 8) == pytest.approx(1, abs=1e-3)


def test_damping_is_the_least_squares_one():
    residuals = [0, 1, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8, 3.1]  # goes on at 0.3 of the slope
    segments = segments_of(residuals)
    assert segments.damping("fitted", 0, 1, 8) == pytest.approx(0.3, abs=2e-3)
    assert segments.damping("fitted", NONE, 0, 3) == 0
    back = segments_of([0, 1, 0, -1, -2, -3, -4, -5, -6])
    assert back.damping("fitted", 0, 1, 8) == 0  # never against the slope


def test_errors_of_a_segment_add_up_with_their_signs():
    segments = segments_of([0, 1, -1, 5, 5, 5, 5, 5, 5])
    cost = segments.cost("hold")  # of the errors 1, and 1 and -1
    assert cost(NONE, 0, 3) / cost(NONE, 0, 2) == pytest.approx(2 * APART / (1 + APART))


def test_gains_weigh_steps():
    light = segments_of([0, 1, 1, 1, 1, 0, 0, 0, 0], gains=[1.0] * 5 + [10.0] * 4).cost("hold")
    assert light(3, 4, 6) == pytest.approx(100 * light(NONE, 0, 2), rel=1e-4)


def test_prompts_count_alike():
    small, large = [0, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 100, 0, 0]
    cost = segments_of(small, large).cost("hold")
    assert cost(NONE, 0, 2) == pytest.approx(cost(4, 5, 7))


def test_policies_of_schedules():
    assert Schedule((0, 2, 8), (0.0, 0.0)).policy(TIMES).forecast == Hold()
    assert Schedule((0, 1, 8), (1.0, 1.0)).policy(TIMES).forecast == Linear()
    made = Schedule((0, 1, 2, 8), (0.0, 0.0, 0.5)).policy(TIMES)
    assert made.computed == (0, 1, 2, 8)
    assert isinstance(made.forecast, Fitted)
    assert made.forecast.weights_per_step[:3] == ((), (), ())
    assert made.forecast.weights_per_step[4] == pytest.approx((2.0, -1.0))  # two steps on, half the slope


def test_weights_are_those_of_the_damped_line():
    made = Schedule((0, 2, 5, 8), (0.3, 0.6, 0.9)).policy(TIMES)
    for step, (before, last, damping) in {3: (0, 2, 0.6), 4: (0, 2, 0.6), 7: (2, 5, 0.9)}.items():
        expected = Linear(damping).weights(step, (last, before), TIMES)
        assert made.forecast.weights(step, (last, before), TIMES) == pytest.approx(expected)
    assert made.forecast.weights(1, (0,), TIMES) == (1.0,)


def test_a_bent_forecast_follows_a_parabola():
    made = Schedule((0, 2, 4, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)).policy(TIMES)
    for step in (5, 6, 7):
        weights = made.forecast.weights(step, (4, 2, 0), TIMES)
        assert sum(weights) == pytest.approx(1)
        values = [TIMES[place] ** 2 for place in (4, 2, 0)]
        assert np.dot(weights, values) == pytest.approx(TIMES[step] ** 2)
    assert made.forecast.weights(3, (2, 0), TIMES) == pytest.approx(Linear().weights(3, (2, 0), TIMES))


def test_damping_and_bending_are_the_least_squares_ones():
    segments = segments_of([(time**2, time, 1 - time) for time in TIMES])
    assert segments.bending(0, 1, 2, 8) == pytest.approx((1, 1), abs=0.1)
    assert segments.bending(NONE, 0, 1, 8) == (segments.damping("fitted", 0, 1, 8), 0.0)
    curved, fitted = (segments.schedule((0, 1, 2, 8), kind) for kind in ("curved", "fitted"))
    assert curved.damping[:2] == fitted.damping[:2] == (0.0, 0.0)
    assert curved.bending[:2] == (0.0, 0.0)
    assert curved.bending[2] == pytest.approx(1, abs=0.1)


def final_error(segments, schedule):
    """The sum of all errors, which is what a small error of each step does to the final latents."""
    weights = schedule.policy(TIMES).forecast.weights_per_step
    total = np.zeros_like(segments.wrong[0, :, 0])
    for step, (oldest, before, last), _, _ in schedule.skipped():
        share = weights[step] or (1.0,)
        places = [last, before, oldest][: len(share)]
        total += sum(weight * segments.wrong[step, :, step - place] for weight, place in zip(share, places))
    return float(np.linalg.norm(total))


def test_weights_fitted_together_let_the_errors_of_segments_cancel():
    """Errors of all segments point in the same direction, so that each segment's own fit leaves their sum."""
    rng, times = np.random.default_rng(5), np.array(TIMES)[:, None]
    bent = times**3 * rng.standard_normal(40) + times**2 * rng.standard_normal(40)
    segments, computed = segments_of(bent + 1e-3 * rng.standard_normal((STEPS, 40))), (0, 1, 3, 5, 7, 8)
    own, together = (segments.schedule(computed, kind) for kind in ("fitted", "joint"))
    assert final_error(segments, together) < 0.2 * final_error(segments, own)
    assert max(map(abs, together.damping)) < 3


def test_equal_times_hold():
    assert line(0, 1, 2, [1.0, 1.0, 0.5]) == 0
    assert parabola(0, 1, 2, 3, [1.0, 1.0, 0.5, 0.2]) == parabola(NONE, 0, 1, 2, TIMES) == (0, 0, 0)
    assert line(NONE, 0, 1, TIMES) == 0


def plain(computed):
    return Schedule(tuple(computed), (0.0,) * (len(computed) - 1))


def one_move(schedule):
    return map(plain, moves(schedule.computed, farthest=1))


def test_the_descent_reaches_what_moves_can_reach():
    goal = (0, 3, 4, 8)
    tried = []

    def score(schedule):
        tried.append(schedule.computed)
        return -sum(abs(a - b) for a, b in zip(schedule.computed, goal))

    found = descend(plain((0, 1, 7, 8)), one_move, score, most=100)
    assert found.schedule.computed == goal
    assert found.num_runs == len(tried) == len(set(tried))


def test_the_descent_keeps_to_its_bound():
    found = descend(plain((0, 1, 7, 8)), one_move, lambda schedule: sum(schedule.computed), most=3)
    assert found.num_runs == 3


def test_moves_keep_number_ends_and_order():
    made = list(moves((0, 2, 3, 8)))
    assert len(made) == len(set(made))
    for computed in made:
        assert computed[0] == 0
        assert computed[-1] == 8
        assert len(set(computed)) == 4
        assert list(computed) == sorted(computed)
    assert {(0, 1, 3, 8), (0, 2, 4, 8), (0, 2, 5, 8), (0, 3, 4, 8)} <= set(made)
    assert set(moves((0, 4, 8), farthest=1)) == {(0, 3, 8), (0, 5, 8)}


def test_neighbours_begin_with_the_most_promising():
    segments = segments_of([5, 5, 2, 2, 2, 9, 9, 1, 1])
    first, *_ = segments.neighbours(segments.schedule((0, 2, 5, 6, 8), "hold"), "hold")
    assert first.computed == (0, 2, 5, 7, 8)


@pytest.mark.parametrize("kind", FORECAST_KINDS)
def test_what_no_trace_tells_of_costs_too_much_and_is_held(kind):
    """30 steps whose residuals were tried up to 20 steps later."""
    times = [1 - i / 30 for i in range(30)]
    rows = table_of(np.random.default_rng(7).standard_normal((30, 5)).cumsum(axis=0), window=20)
    segments = Segments([rows], [1.0] * 30, times)
    cost = segments.cost(kind)
    assert cost(1, 2, 24) == float("inf")
    assert cost(1, 2, 23) < float("inf")
    assert segments.damping("fitted", 1, 2, 24) == 0
    assert segments.schedule((0, 29), "fitted").damping == (0.0,)
    for computed in ((0, 1, 20, 29), (0, 2, 22, 29)):
        made = [one.computed for one in segments.neighbours(segments.schedule(computed, kind), kind)]
        assert made
        assert max(max(np.diff(one)) for one in made) <= 21
    assert list(segments.neighbours(segments.schedule((0, 29), kind), "hold")) == []


def test_dampings_change_one_segment_that_skips():
    made = list(dampings(Schedule((0, 1, 3, 8), (0.0, 0.0, 0.5))))
    assert {one.damping for one in made} == {(0.0, 0.25, 0.5), (0.0, 0.0, 0.25), (0.0, 0.0, 0.75)}


@pytest.mark.parametrize(
    ("computed", "number", "expected"),
    [((0, 8), 4, [0, 2, 4, 8]), ((0, 2, 8), 3, [0, 2, 8]), ((0, 1, 8), 4, [0, 1, 4, 8])],
)
def test_short_schedules_are_padded(computed, number, expected):
    assert padded(computed, number) == expected


def test_gains_are_interpolated_in_their_logarithm():
    assert interpolated([1, 3], [1.0, 100.0], 5) == pytest.approx([1, 1, 10, 100, 100])
