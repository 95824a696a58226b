"""Which candidates are measured, and in which order."""

from __future__ import annotations

import pytest

from videosys.cache import NoCacheConfig, ScheduleConfig
from videosys.calibration.candidates import Candidate, nearest_of_solvers
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.trials import FAR, least_tries, most_tries, tried
from videosys.generation.finite import not_finite
from videosys.schedulers.solvers import EulerConfig, PublishedConfig, UniPCConfig

NO_CACHE = NoCacheConfig()


def candidate(name, full, converged, policy=NO_CACHE, scheduler=None):
    config = {} if scheduler is None else {"scheduler": scheduler, "num_inference_steps": 5}
    return Candidate(name, policy, config, {FULL: full, CONVERGED: converged})


SHARE = 0.5  # of the evaluations: two to four tries for each reference


def measured(candidates, real, share=SHARE, on_top=lambda one: ()):
    """The names in the order in which they are measured. real: PSNR by name."""
    order = []

    def measure(one):
        order.append(one.name)
        return real[one.name]

    figures = tried(candidates, measure, share, on_top)
    assert [(one.name, psnr) for one, psnr in figures] == [(name, real[name]) for name in order]
    return order


def euler(shift, full, converged=0.0):
    return candidate(f"Euler {shift}", full, converged, scheduler=EulerConfig(shift=shift))


def schedule(*computed):
    return ScheduleConfig(computed=computed)


def test_a_prediction_that_holds_ends_the_trials():
    some = [
        candidate("a", 30, 20, schedule(0, 1)),
        candidate("b", 40, 10, schedule(0, 2)),
        candidate("c", 20, 25, schedule(0, 3)),
        candidate("d", 10, 5, schedule(0, 4)),
    ]
    figures = (("b", 38, 9), ("a", 29, 19), ("c", 18, 24))
    real = {name: {FULL: full, CONVERGED: near} for name, full, near in figures}
    assert measured(some, real) == ["b", "a", "c"]  # the best two for each reference


def test_a_prediction_that_fails_costs_a_trial_of_the_next():
    some = [candidate(name, psnr, 0, schedule(0, psnr)) for name, psnr in (("a", 30), ("b", 40), ("c", 20))]
    real = {"b": {FULL: 25, CONVERGED: 0}, "a": {FULL: 28, CONVERGED: 0}}
    assert measured(some, real) == ["b", "a"]


@pytest.mark.parametrize(("above", "names"), [(10, "xycde"), (4, "xycd")])
def test_predictions_that_are_too_low_leave_nothing_out(above, names):
    """x is above its prediction, so that e may be too, and then be better than c and d."""
    predicted = {"x": (40, 10), "y": (39, 0), "c": (1, 15), "d": (1, 14), "e": (1, 13)}
    some = [candidate(name, *pair, schedule(0, i)) for i, (name, pair) in enumerate(predicted.items(), 1)]
    figures = {"x": (40, 10 + above), "y": (39, 0), "c": (1, 20), "d": (1, 18), "e": (1, 19)}
    real = {name: {FULL: full, CONVERGED: near} for name, (full, near) in figures.items()}
    assert "".join(measured(some, real)) == names


def test_a_solver_that_fails_is_not_tried_with_a_cache_as_well():
    solver, other = UniPCConfig(), EulerConfig(shift=2.0)
    cache = ScheduleConfig((0, 2))
    some = [
        candidate("UniPC", 2, 30, scheduler=solver),
        candidate("cache on UniPC", 0, 28, cache, solver),
        candidate("Euler", 1, 20, scheduler=other),
        candidate("cache on Euler", 0, 18, cache, other),
    ]
    real = {
        one.name: {FULL: 2 - place, CONVERGED: near}
        for place, (one, near) in enumerate(zip(some, (8, 99, 19, 99)))
    }
    assert measured(some, real) == ["UniPC", "Euler"]


def test_caches_tell_nothing_of_each_other():
    some = [candidate(name, 40 - index, 0, schedule(0, 2 + index)) for index, name in enumerate("abc")]
    real = {name: {FULL: full, CONVERGED: 0} for name, full in (("a", 20), ("b", 38.5))}
    assert measured(some, real) == ["a", "b"]


def test_no_more_than_some_are_tried():
    some = [candidate(str(index), 40 - index, 0, schedule(0, 2 + index)) for index in range(7)]
    real = {one.name: {FULL: 1, CONVERGED: 0} for one in some}
    assert measured(some, real) == [str(index) for index in range(most_tries(SHARE))]


@pytest.mark.parametrize(("share", "least"), [(0.2, 5), (1 / 3, 3), (0.5, 2), (2 / 3, 2), (0.9, 2)])
def test_short_runs_are_tried_more_often(share, least):
    assert (least_tries(share), most_tries(share)) == (least, 2 * least)
    some = [candidate(str(index), 40, 40, schedule(0, 2 + index)) for index in range(12)]
    real = {one.name: {FULL: 40, CONVERGED: 40} for one in some}
    assert measured(some, real, share) == [str(index) for index in range(least)]


def test_what_is_not_predicted_is_tried():
    """All of it, also beyond what is tried of the predicted."""
    some = [Candidate(name, schedule(0, 2 + place), {}, {}) for place, name in enumerate("abcdef")]
    assert measured(some, {one.name: {FULL: 10 + place} for place, one in enumerate(some)}) == list("abcdef")


def test_predicted_and_unpredicted_candidates_are_tried_together():
    predicted = [candidate(str(index), 40 - index, 0, schedule(0, 2 + index)) for index in range(6)]
    unknown = [Candidate(name, schedule(0, 20 + place), {}, {}) for place, name in enumerate("ab")]
    real = {one.name: {FULL: 1, CONVERGED: 0} for one in (*predicted, *unknown)}
    assert measured([*predicted, *unknown], real) == ["a", "b", "0", "1"]


def test_one_reference_without_predictions_is_measured_in_full():
    some = [
        Candidate(name, schedule(0, 2 + place), {}, {FULL: 40.0 - place})
        for place, name in enumerate("abcdef")
    ]
    real = {one.name: {FULL: one.near(FULL), CONVERGED: 1.0} for one in some}
    assert measured(some, real) == list("abcdef")


def test_where_predictions_of_a_solver_fail_its_grids_are_searched():
    """From the best predicted grid towards better ones, also to one that is predicted to be the worst."""
    grids = [euler(shift, full) for shift, full in ((1.0, 5), (1.5, 20), (2.0, 22), (3.0, 23), (4.0, 19))]
    cache = candidate("cache", 12, 0, schedule(0, 2))
    figures = {1.0: 27, 1.5: 26, 2.0: 21, 3.0: 23 - FAR - 1, 4.0: 15}
    real = {f"Euler {shift}": {FULL: full, CONVERGED: 0} for shift, full in figures.items()}
    order = measured([cache, *grids], {**real, "cache": {FULL: 20, CONVERGED: 0}}, 0.25)
    assert order[:5] == ["Euler 3.0", "Euler 2.0", "Euler 1.5", "Euler 1.0", "Euler 4.0"]
    exact = {one.name: {FULL: one.near(FULL), CONVERGED: 0} for one in [cache, *grids]}
    assert measured([cache, *grids], exact) == ["Euler 3.0", "Euler 2.0"]


def test_caches_on_top_of_a_sampler_that_is_found_to_be_good_are_tried():
    good, bad = euler(1.0, 30), euler(4.0, 29)
    tops = {
        one.name: candidate(f"on {one.name}", 20, 0, schedule(0, 2), one.config["scheduler"])
        for one in (good, bad)
    }
    real = {"Euler 1.0": 30, "Euler 4.0": 29 - FAR, "on Euler 1.0": 35}
    real = {name: {FULL: full, CONVERGED: 0} for name, full in real.items()}
    order = measured([good, bad], real, on_top=lambda one: [tops[one.name]])
    assert order == ["Euler 1.0", "Euler 4.0", "on Euler 1.0"]


def test_a_sampler_is_measured_before_a_cache_on_it():
    """It is the simpler plan, and its prediction may be too low. It is not one of the tries."""
    solver, other = UniPCConfig(), EulerConfig(shift=1.0)
    some = [
        candidate("cache on UniPC", 40, 0, schedule(0, 2), solver),
        candidate("cache on Euler", 39, 0, schedule(0, 2), other),
        candidate("UniPC", 20, 0, scheduler=solver),
        candidate("Euler", 19, 0, scheduler=other),
        candidate("published", 10, 0, scheduler=PublishedConfig()),
    ]
    figures = {"UniPC": 45, "cache on UniPC": 40, "Euler": 19, "cache on Euler": 39, "published": 10}
    real = {name: {FULL: figure, CONVERGED: 0} for name, figure in figures.items()}
    order = measured(some, real)
    assert order[:4] == ["UniPC", "cache on UniPC", "Euler", "cache on Euler"]


def test_a_sampler_that_one_reference_measured_is_not_measured_again():
    solver = UniPCConfig()
    some = [
        candidate("UniPC", 40, 20, scheduler=solver),
        candidate("cache on UniPC", 10, 45, schedule(0, 2), solver),
    ]
    real = {"UniPC": {FULL: 40, CONVERGED: 20}, "cache on UniPC": {FULL: 10, CONVERGED: 45}}
    order = measured(some, real)
    assert sorted(order) == ["UniPC", "cache on UniPC"]


def test_a_cache_is_measured_where_the_sampler_fails_or_is_no_candidate(caplog):
    """With few evaluations, some solvers have no run without a cache."""
    good, failing = UniPCConfig(), EulerConfig(shift=1.0)
    some = [
        candidate("cache on UniPC", 40, 0, schedule(0, 2), good),
        candidate("cache on Euler", 39, 0, schedule(0, 2), failing),
        candidate("Euler", 20, 0, scheduler=failing),
    ]
    order = []

    def measure(one):
        order.append(one.name)
        if one.name == "Euler":
            raise not_finite("Euler")
        return {FULL: one.near(FULL), CONVERGED: 0}

    figures = {one.name: psnr for one, psnr in tried(some, measure, SHARE)}
    assert order == ["cache on UniPC", "Euler", "cache on Euler"]
    assert figures["Euler"] == {}
    assert figures["cache on Euler"][FULL] == 39


def test_the_published_sampler_has_no_caches_on_top():
    """The candidates have them already."""

    def never(one):
        raise AssertionError(one.name)

    steps = candidate("steps", 30, 30)
    assert measured([steps], {"steps": {FULL: 30, CONVERGED: 30}}, on_top=never) == ["steps"]


def test_what_one_reference_measured_counts_for_the_other():
    """Its shortfall, and the figure that others have to reach."""
    solver = UniPCConfig()
    some = [
        candidate("UniPC", 40, 30, scheduler=solver),
        candidate("cache on UniPC", 10, 27.5, schedule(0, 2), solver),
        candidate("cache", 39, 28, schedule(0, 3)),
    ]
    real = {"UniPC": {FULL: 40, CONVERGED: 10}, "cache": {FULL: 39, CONVERGED: 25}}
    assert measured(some, real) == ["UniPC", "cache"]


def test_a_candidate_that_gives_no_finite_latents_is_left_out(caplog):
    some = [
        candidate(name, psnr, psnr, schedule(0, psnr)) for name, psnr in (("a", 30), ("b", 40), ("c", 20))
    ]

    def measure(one):
        if one.name == "b":
            raise not_finite("the transformer")
        return {FULL: one.near(FULL), CONVERGED: one.near(CONVERGED)}

    figures = {one.name: psnr for one, psnr in tried(some, measure, SHARE)}
    assert figures == {"b": {}, "a": {FULL: 30, CONVERGED: 30}}
    assert [text for text in caplog.messages if text.startswith("b is not used: the transformer")]


@pytest.mark.parametrize("reference", [FULL, CONVERGED])
def test_each_solver_has_its_nearest(reference):
    grids = [candidate(f"Euler {i}", i, 9 - i, scheduler=EulerConfig(shift=float(i))) for i in range(1, 4)]
    published = candidate("steps", 0, 0, scheduler=PublishedConfig())
    names = [one.name for one in nearest_of_solvers([*grids, published], reference)]
    assert names == ["Euler 3" if reference == FULL else "Euler 1", "steps"]


def test_equal_plans_have_equal_keys():
    assert candidate("a", 1, 2, schedule(0, 2)).key == candidate("b", 3, 4, schedule(0, 2)).key
    assert euler(1.0, 1).key != euler(2.0, 1).key
    assert euler(1.0, 1).key != candidate("a", 1, 2).key
