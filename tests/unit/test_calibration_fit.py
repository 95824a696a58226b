"""Polynomials of a signal's change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from videosys.cache.teacache import polynomial
from videosys.calibration.calibrate import all_fits
from videosys.calibration.collect import SIGNALS, WATCHED, ChangeObserver, Trace
from videosys.calibration.fit import best_of, correlation, fit

TRUE = (40.0, -6.0, 1.5, 0.02)


def points(coefficients, rows=3, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.01, 0.2, (rows, 25))
    y = np.polyval(coefficients, x) + noise * rng.standard_normal(x.shape)
    return x.tolist(), y.tolist()


def test_the_true_polynomial_is_found():
    x, y = points(TRUE)
    made = fit("modulated_input", 3, x, y, points(TRUE, seed=1))
    assert made.coefficients == pytest.approx(TRUE, rel=1e-6)
    assert made.r2 == pytest.approx(1)
    assert made.r2_held_out == pytest.approx(1)
    assert made.problem() is None
    assert made.warning() is None
    assert polynomial(made.coefficients, 0.1) == pytest.approx(np.polyval(TRUE, 0.1))


def test_held_out_prompts_judge():
    x, y = points((1.0, 0.0), noise=0.05)
    other = points((-1.0, 0.3), noise=0.05, seed=1)
    made = fit("modulated_input", 1, x, y, other)
    assert made.r2 > 0.3
    assert made.r2_held_out < 0
    assert made.score == made.r2_held_out
    assert "explains" in made.warning()


def test_a_single_prompt_has_no_held_out_value():
    assert fit("noisy_input", 1, *points(TRUE, rows=1), None).r2_held_out is None


def test_little_explained_is_a_warning():
    rng = np.random.default_rng(0)
    x, _ = points((0.0, 1.0))
    made = fit("noisy_input", 1, x, rng.standard_normal((3, 25)).tolist(), None)
    assert made.warning().startswith("explains ")


def test_a_dip_below_zero_is_refused():
    dips = (1.0, -0.2, 0.005)  # -0.005 at 0.1
    made = fit("modulated_input", 2, *points(dips), None)
    assert made.lowest == pytest.approx(-0.005, abs=1e-4)
    assert "falls to" in made.problem()
    straight = fit("modulated_input", 1, *points((1.0, 0.1)), None)
    assert best_of([made, straight]) is straight
    assert best_of([made]) is None


@pytest.mark.parametrize(
    ("coefficients", "lowest"),
    [((4.0, -0.02), -0.02), ((-10.0, 3.0, 0.1), -0.3), ((40.0, -20.0, 2.6), 0.1)],
)
def test_a_polynomial_is_judged_beyond_what_was_seen(coefficients, lowest):
    """Good where it was fitted, from 0.01 to 0.2: negative at 0, negative at 0.4, and good to there."""
    made = fit("modulated_input", len(coefficients) - 1, *points(coefficients), None)
    assert min(np.polyval(coefficients, np.linspace(*made.domain, 50))) > 0
    assert made.domain[1] == pytest.approx(0.2, abs=0.01)
    assert made.lowest == pytest.approx(lowest, abs=0.05)
    assert (made.problem() is None) == (lowest > 0)
    if lowest < 0:
        assert f"for changes between 0 and {2 * made.domain[1]:.3g}" in made.problem()


def test_the_best_of_the_good_is_chosen():
    x, y = points(TRUE, noise=0.001)
    fits = [fit("modulated_input", degree, x, y, points(TRUE, seed=1)) for degree in (1, 2, 3)]
    assert best_of(fits).degree == 3


def test_values_that_are_not_numbers_are_left_out():
    x, y = points(TRUE, rows=1)
    made = fit("modulated_input", 3, [[*x[0], math.nan]], [[*y[0], 1.0]], None)
    assert made.coefficients == pytest.approx(TRUE, rel=1e-6)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="too few for degree 2"):
        fit("modulated_input", 2, [[0.1, 0.1, 0.2]], [[1.0, 1.0, 2.0]], None)


def test_correlation_is_pearsons():
    rng = np.random.default_rng(5)
    changes, outputs = rng.random((2, 3, 7))
    expected = np.corrcoef(changes.ravel(), outputs.ravel())[0, 1]
    assert correlation(changes, outputs) == pytest.approx(expected)
    assert correlation(changes, 3 - 2 * changes) == pytest.approx(-1)
    assert math.isnan(correlation([[1.0, 1.0]], [[1.0, 2.0]]))


def traced(signal, output):
    """The trace of a prompt whose three signals change alike."""
    changes = dict.fromkeys(SIGNALS, signal)
    return Trace({**changes, "residual": output, "output": output}, torch.zeros(1), torch.zeros(1), [])


def test_first_and_last_step_are_left_out_of_the_fits():
    """The last step computes in any case, however much changes there: here it follows no line."""
    changes = [[0.1, 0.2, 0.3, 0.4, 0.9], [0.15, 0.25, 0.2, 0.35, 0.8]]
    traces = [traced(row, [2 * x + 0.1 for x in row[:-1]] + [30.0]) for row in changes]
    linear = next(item for item in all_fits(traces) if (item.signal, item.degree) == (WATCHED, 1))
    assert linear.coefficients == pytest.approx((2.0, 0.1))
    assert (linear.r2, linear.r2_held_out) == (pytest.approx(1), pytest.approx(1))
    assert linear.domain == (0.1, 0.4)


@pytest.mark.parametrize(
    ("changes", "degrees"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.9], [1, 2, 3]),
        ([0.1, math.nan, 0.3, 0.4, 0.9], [1, 2]),  # a switch to another model
        ([0.2, 0.2, 0.3, 0.3, 0.9], [1]),
        ([0.2] * 5, []),  # an input that does not change
        ([], []),
    ],
)
def test_only_degrees_with_enough_points_are_fitted(changes, degrees):
    outputs = [2 * x + 0.1 for x in changes]
    fits = all_fits([traced(changes, outputs)])
    assert [item.degree for item in fits if item.signal == WATCHED] == degrees


def test_the_output_is_that_of_the_pair():
    """Before guidance: the half without the prompt counts as much as the one with it."""
    watch = ChangeObserver()
    latents, pair = torch.ones(1, 2, 1, 2, 2), torch.ones(2, 2, 1, 2, 2)
    changed = pair.clone()
    changed[1] = 3.0  # by 2 in one half, in which all is 1 before
    watch(0, 1000.0, latents, pair)
    watch(1, 900.0, 1.5 * latents, changed)
    watch(2, 800.0, 1.5 * latents, changed.flip(0))
    assert watch.distances["output"] == pytest.approx([1.0, 1.0])
    assert watch.distances["noisy_input"] == pytest.approx([0.5, 0.0])
