"""Which candidates are measured, and in which order."""

from __future__ import annotations

import pytest

from videosys.cache import Hold, Linear, NoCacheConfig, ScheduleConfig
from videosys.calibration.candidates import MOST_TRIES, Candidate, nearest_of_kinds, tried
from videosys.calibration.measure import CONVERGED, FULL
from videosys.schedulers.solvers import EulerConfig, UniPCConfig

NO_CACHE = NoCacheConfig()


def candidate(name, full, converged, policy=NO_CACHE, scheduler=None):
    config = {} if scheduler is None else {"scheduler": scheduler, "num_inference_steps": 5}
    return Candidate(name, policy, config, {FULL: full, CONVERGED: converged})


def measured(candidates, real):
    """The names in the order in which they are measured. real: PSNR by name."""
    order = []

    def measure(one):
        order.append(one.name)
        return real[one.name]

    figures = tried(candidates, measure)
    assert [(one.name, psnr) for one, psnr in figures] == [(name, real[name]) for name in order]
    return order


def test_a_prediction_that_holds_ends_the_trials():
    some = [candidate("a", 30, 20), candidate("b", 40, 10), candidate("c", 20, 25)]
    some.append(candidate("d", 10, 5))
    figures = (("b", 38, 9), ("a", 29, 19), ("c", 18, 24))
    real = {name: {FULL: full, CONVERGED: near} for name, full, near in figures}
    assert measured(some, real) == ["b", "a", "c"]  # the best two for each reference


def test_a_prediction_that_fails_costs_a_trial_of_the_next():
    some = [candidate("a", 30, 0), candidate("b", 40, 0), candidate("c", 20, 0)]
    real = {"b": {FULL: 25, CONVERGED: 50}, "a": {FULL: 28, CONVERGED: 0}}
    assert measured(some, real) == ["b", "a"]


def test_a_solver_that_fails_is_not_tried_with_a_cache_as_well():
    solver, other = UniPCConfig(), EulerConfig(shift=2.0)
    cache = ScheduleConfig((0, 2))
    some = [
        candidate("UniPC", 2, 30, scheduler=solver),
        candidate("cache on UniPC", 0, 28, cache, solver),
        candidate("Euler", 1, 20, scheduler=other),
        candidate("cache on Euler", 0, 19, cache, other),
    ]
    real = {one.name: {FULL: 60, CONVERGED: near} for one, near in zip(some, (8, 99, 19, 99))}
    assert measured(some, real) == ["UniPC", "Euler"]


def test_caches_tell_nothing_of_each_other():
    some = [candidate(name, 40 - index, 0, ScheduleConfig((0, 2))) for index, name in enumerate("abc")]
    real = {name: {FULL: full, CONVERGED: 50} for name, full in (("a", 20), ("b", 38.5))}
    assert measured(some, real) == ["a", "b"]


def test_no_more_than_some_are_tried():
    some = [candidate(str(index), 40 - index, 0) for index in range(MOST_TRIES + 3)]
    real = {one.name: {FULL: 1, CONVERGED: 50} for one in some}
    assert measured(some, real) == [str(index) for index in range(MOST_TRIES)]


def test_what_is_not_predicted_is_tried():
    """All of it, also beyond what is tried of the predicted."""
    names = "abcdefgh"[: MOST_TRIES + 2]
    some = [Candidate(name, NoCacheConfig(), {}, {}) for name in names]
    assert measured(some, {name: {FULL: 10 + place} for place, name in enumerate(names)}) == list(names)


def test_predicted_and_unpredicted_candidates_are_tried_together():
    predicted = [candidate(str(index), 40 - index, 0) for index in range(MOST_TRIES + 2)]
    unknown = [Candidate(name, NoCacheConfig(), {}, {}) for name in "ab"]
    real = {one.name: {FULL: 1, CONVERGED: 50} for one in (*predicted, *unknown)}
    order = measured([*predicted, *unknown], real)
    assert order == ["a", "b", *(str(index) for index in range(MOST_TRIES - 2))]


def test_one_reference_without_predictions_is_measured_in_full():
    some = [Candidate(name, NoCacheConfig(), {}, {FULL: 40.0 - place}) for place, name in enumerate("abcdef")]
    real = {one.name: {FULL: one.near(FULL), CONVERGED: 1.0} for one in some}
    assert measured(some, real) == list("abcdef")


@pytest.mark.parametrize("reference", [FULL, CONVERGED])
def test_each_kind_has_its_nearest(reference):
    shifts = [candidate(f"Euler {i}", i, 9 - i, scheduler=EulerConfig(shift=float(i))) for i in range(1, 4)]
    unipc = candidate("UniPC", 0, 0, scheduler=UniPCConfig())
    on_top = [
        candidate(
            f"{forecast} on UniPC", 50, 60, ScheduleConfig(computed=(0, 2), forecast=forecast), UniPCConfig()
        )
        for forecast in (Hold(), Linear())
    ]
    chosen = nearest_of_kinds([*shifts, unipc, *on_top])
    assert {one.name for one in chosen} == {"Euler 3", "Euler 1", "UniPC", *(one.name for one in on_top)}
