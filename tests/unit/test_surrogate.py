"""Recorded runs as a model: exact for normally distributed data, whose prediction is linear in its input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from videosys.cache import Linear, NoCacheConfig, ScheduleConfig, start
from videosys.calibration.collect import reuse_table
from videosys.calibration.runs import error_db
from videosys.calibration.search import Programme, Segments
from videosys.calibration.surrogate import (
    Recording,
    Surrogate,
    impulse_gains,
    is_deterministic,
    response,
    rollout,
)
from videosys.generation.denoise import noise_mix
from videosys.schedulers import ddim, euler_ancestral, pndm
from videosys.schedulers.solvers import DPMSolverConfig, EulerConfig, Training, UniPCConfig

SIZE = (2, 4, 2, 8, 8)
MEAN = torch.linspace(-1, 1, 4).reshape(4, 1, 1, 1)
VARIANCE = 0.25
NO_CACHE = NoCacheConfig()


def gaussian(prediction, scheduler, sample, timesteps, condition, cache):
    """The exact prediction for data of MEAN and VARIANCE."""
    cache.should_compute(None)
    a, b = noise_mix(scheduler, float(timesteps[0]))
    data = MEAN + VARIANCE * a / (a * a * VARIANCE + b * b) * (sample - a * MEAN)
    if prediction == "flow":
        return (data - (sample - a * data) / max(b, 1e-9)) if b else data - sample
    return (sample - a * data) / b


def solver(prediction, config, steps):
    return config.build(steps, Training(prediction), None)


def samplers(prediction):
    if prediction == "flow":
        return partial(solver, "flow", EulerConfig(shift=1.0)), partial(
            solver, "flow", DPMSolverConfig(shift=2.0)
        )
    return ddim, partial(solver, "epsilon", UniPCConfig())


def real(prediction, sampler, policy=NO_CACHE, observer=None):
    noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    cache = start(policy, sampler.times(), lambda row: row[None])
    return rollout(partial(gaussian, prediction, sampler), sampler, noise, cache, observer)


def recorded(prediction, make, steps):
    """A surrogate of a full run, which knows the variance."""
    seen, sampler = [], make(steps)

    def observe(step, timestep, latents, predicted):
        seen.append((latents.clone(), predicted.clone()))

    latents = real(prediction, sampler, observer=observe)
    made = Surrogate(Recording(*map(torch.stack, zip(*seen)), latents), make(steps), prediction)
    made.variance = VARIANCE
    return made


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_it_is_exact_where_the_prediction_is_linear(prediction):
    published, other = samplers(prediction)
    made = recorded(prediction, published, 40)
    assert min(error_db(made.run(published(40)), made.latents)) > 100
    policy = ScheduleConfig(computed=(0, 3, 9, 20, 31), forecast=Linear(), place="output")
    cached = real(prediction, published(40), policy)
    assert min(error_db(made.run(published(40), policy), cached)) > 90  # the same grid, no interpolation
    assert min(error_db(made.run(other(17)), real(prediction, other(17)))) > 40
    assert max(error_db(made.latents, real(prediction, other(17)))) < 40  # which are not all the same


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_gains_are_what_an_error_of_one_step_does(prediction):
    published, _ = samplers(prediction)
    made = recorded(prediction, published, 12)
    gains = made.gains(lambda samples: published(12))
    full = real(prediction, published(12))
    for step in (1, 6, 10):
        seen = iter(range(12))

        def wrong(sample, *rest, sampler, step=step, seen=seen):
            return gaussian(prediction, sampler, sample, *rest) + 0.01 * (next(seen) == step)

        sampler = published(12)
        noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
        cache = start(NoCacheConfig(), sampler.times(), lambda row: row[None])
        moved = rollout(partial(wrong, sampler=sampler), sampler, noise, cache) - full
        assert float(moved.abs().mean()) / 0.01 == pytest.approx(gains[step], rel=2e-2)


def test_gains_of_euler_are_its_steps():
    gains = impulse_gains(lambda samples: solver("flow", EulerConfig(shift=1.0), 10), lambda mix: 0.0)
    assert gains == pytest.approx([0.1] * 10)


def test_the_last_evaluations_of_pndm_count():
    """Some of its Runge-Kutta evaluations and the very last move nothing; those before it do."""
    gains = impulse_gains(lambda samples: pndm(50), partial(response, "epsilon", variance=1.0))
    assert len(gains) == 59
    assert min(gains[-11:-1]) > 0.1 * sorted(gains)[len(gains) // 2]


@pytest.mark.parametrize("kind", ["hold", "linear", "fitted"])
def test_more_evaluations_of_pndm_come_nearer(kind):
    """The programme does not leave out the last eleven, which would end at one error for any budget."""
    made, times = recorded("epsilon", pndm, 40), pndm(40).times()
    tables = [reuse_table(row) for row in made.path.predictions.unbind(1)]
    programme = Programme(Segments(tables, made.gains(lambda samples: pndm(40)), times))
    found = programme.cheapest([16, 26, 40], kind)
    runs = [made.run(pndm(40), one.policy(times, "output")) for one in found.values()]
    few, some, many = (min(error_db(run, made.latents)) for run in runs)
    assert few + 5 < some < many - 5
    assert all(max(np.diff(one.computed[-12:])) < 8 for one in found.values())


def test_samplers_that_draw_noise_are_told_apart():
    def seeded(make):
        return lambda seed: make(8, generator=[torch.Generator().manual_seed(seed)])

    assert is_deterministic(lambda seed: pndm(8))
    assert is_deterministic(seeded(ddim))
    assert not is_deterministic(seeded(partial(ddim, eta=0.5)))
    assert not is_deterministic(seeded(euler_ancestral))


def test_the_table_of_kept_predictions():
    predictions = torch.arange(6.0).reshape(6, 1).expand(6, 5)
    table = reuse_table(predictions)
    assert table[4, :5, 0].tolist() == [4, 3, 2, 1, 0]
    assert table[2, 3].isnan().all()
