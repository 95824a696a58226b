"""What a calibration watches with."""

from __future__ import annotations

import math

import pytest
import torch

from videosys.cache.record import PrecomputedResidual, SignalRecorder, relative_change

X = torch.ones(2, 3)


def run(recorder, values):
    """Steps whose signals are values, and whose residuals are ten times as much."""
    for step, value in enumerate(values):
        recorder.begin_step(step, 100.0 - step)
        asked = []

        def signal(kind, value=value, asked=asked):
            asked.append(kind)
            return torch.full((4,), value if kind == "modulated" else 1.0)

        assert recorder.should_compute(signal)
        assert asked == list(recorder.kinds)
        after = X + 10 * value
        assert recorder.store(X, after) is after


def test_a_recorder_computes_and_measures_every_step():
    recorder = SignalRecorder()
    run(recorder, [1.0, 1.5, 0.75])
    assert recorder.distances["modulated"] == pytest.approx([0.5, 0.5])
    assert recorder.distances["timestep"] == [0, 0]
    assert recorder.distances["residual"] == pytest.approx([0.5, 0.5])
    assert [(record.step, record.computed) for record in recorder.steps] == [(0, True), (1, True), (2, True)]


def test_a_recorder_keeps_the_last_residuals_newest_first():
    recorder = SignalRecorder(("modulated",), window=2)
    run(recorder, [1.0, 2.0, 3.0])
    assert [step for step, _ in recorder.residuals] == [2, 1]
    assert torch.equal(recorder.residuals[0][1], torch.full((2, 3), 30.0))


def test_a_given_residual_is_added_and_nothing_computed():
    cache = PrecomputedResidual(torch.full((2, 3), 2.0))
    cache.begin_step(0, 1.0)
    assert not cache.should_compute(lambda kind: pytest.fail("no signal is needed"))
    assert torch.equal(cache.reuse(X), torch.full((2, 3), 3.0))


def test_a_change_is_relative_to_what_was():
    assert relative_change(torch.tensor([3.0, -1.0]), torch.tensor([1.0, -1.0])) == 1
    assert relative_change(torch.zeros(2), torch.tensor([2.0, 0.0])) == 1
    assert math.isnan(relative_change(X, torch.zeros(2, 3)))
