"""Recorded runs as a model: exact for normally distributed data, whose prediction is linear in its input."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from videosys.cache import Linear, NoCacheConfig, ScheduleConfig, start
from videosys.calibration.collect import SAMPLES, WINDOW
from videosys.calibration.runs import error_db
from videosys.calibration.search import Programme, Segments
from videosys.calibration.spectrum import (
    bands,
    coefficients,
    filtered,
    multiplicity,
    table_of,
    variances,
    weighted_tables,
)
from videosys.calibration.surrogate import (
    Recording,
    Steps,
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
    made.spectrum = torch.full_like(made.spectrum, VARIANCE)
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
        assert gains[step].unique().numel() == 1  # one variance, one gain
        assert float(moved.mean()) / 0.01 == pytest.approx(float(gains[step, 0, 0, 0]), rel=2e-2)


def test_gains_of_euler_are_its_steps():
    gains = impulse_gains(lambda samples: solver("flow", EulerConfig(shift=1.0), 10), lambda mix: 0.0)
    assert gains == pytest.approx([0.1] * 10)


def test_the_last_evaluations_of_pndm_count():
    """Some of its Runge-Kutta evaluations and the very last move nothing; those before it do."""
    gains = impulse_gains(lambda samples: pndm(50), partial(response, "epsilon", variance=1.0))
    assert len(gains) == 59
    assert any(gain * after < 0 for gain, after in pairwise(gains))  # a multistep solver
    gains = [abs(gain) for gain in gains]
    assert min(gains[-11:-1]) > 0.1 * sorted(gains)[len(gains) // 2]


@pytest.mark.parametrize("kind", ["hold", "linear", "fitted"])
def test_more_evaluations_of_pndm_come_nearer(kind):
    """The programme does not leave out the last eleven, which would end at one error for any budget."""
    made, times = recorded("epsilon", pndm, 40), pndm(40).times()
    programme = Programme(made.segments(lambda samples: pndm(40)))
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
    rows = torch.arange(6.0).reshape(6, 1).expand(6, 5)
    weights = torch.full((6, 5), 2.0)
    weights[4] = 10.0
    table = table_of(rows, weights, window=3)
    assert table[4, :, 0].tolist() == [40, 30, 20, 10]
    assert table[5, :, 0].tolist() == [10, 8, 6, 4]
    assert table[2, 3].isnan().all()


def coloured(samples, size=(4, 16, 12)):
    """Latents [samples, 3, T, H, W] with a variance of 9 at low spatial frequencies, and of 1 elsewhere."""
    white = torch.randn(samples, 3, *size, generator=torch.Generator().manual_seed(1))
    return filtered(white, slow(size) * 2.0 + 1.0)


def slow(size):
    _, height, width = size
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    return (torch.hypot(rows[:, None], columns) * height < 2.5).float().expand(size[0], -1, -1)


def test_the_spectrum_is_that_of_the_data():
    latents = coloured(64)
    found, low = variances(latents), slow(latents.shape[-3:]).bool()
    assert found[low].mean() == pytest.approx(9.0, rel=0.05)
    assert found[~low].mean() == pytest.approx(1.0, rel=0.05)
    whole = (coefficients(latents).abs().square() * multiplicity(latents.shape[-3:])).sum()
    assert float(whole) == pytest.approx(float(latents.square().sum()), rel=1e-5)


def test_bands_join_directions_not_lengths():
    found = bands(torch.Size((5, 8, 8)))
    assert found[1, 3, 0] == found[4, 0, 3] == found[1, 5, 0]
    assert len({int(found[0, 0, 0]), int(found[0, 1, 0]), int(found[0, 2, 0]), int(found[1, 0, 0])}) == 4


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_it_is_exact_for_data_with_a_spectrum(prediction):
    """A model that knows the variance of each frequency; one variance for all gives a wrong run."""
    (published, _), spectrum = samplers(prediction), slow((2, 8, 8)) * 24.0 + 1.0
    policy = ScheduleConfig(computed=(0, 3, 9, 20, 31), forecast=Linear(), place="output")

    def model(sampler, sample, timesteps, condition, cache):
        a, b = noise_mix(sampler, float(timesteps[0]))
        cache.should_compute(None)
        data = filtered(sample, spectrum * a / (a * a * spectrum + b * b))
        if prediction == "flow":
            return (data - (sample - a * data) / max(b, 1e-9)) if b else data - sample
        return (sample - a * data) / b

    def run(cache, observer=None):
        sampler = published(40)
        noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
        started = start(cache, sampler.times(), lambda row: row[None])
        return rollout(partial(model, sampler), sampler, noise, started, observer)

    seen = []
    latents = run(NO_CACHE, lambda step, timestep, x, v: seen.append((x.clone(), v.clone())))
    made = Surrogate(Recording(*map(torch.stack, zip(*seen)), latents), published(40), prediction)
    cached = run(policy)
    made.spectrum = spectrum
    assert min(error_db(made.run(published(40), policy), cached)) > 90
    made.spectrum = torch.full_like(spectrum, float(latents.var()))
    assert max(error_db(made.run(published(40), policy), cached)) < 50


def test_runs_are_joined_step_by_step():
    runs = [torch.randn(5, *SIZE[1:], generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    steps = Steps(runs)
    assert len(steps) == 5
    assert torch.equal(torch.stack(list(steps)), torch.stack(runs, dim=1))
    assert torch.equal(steps[-1], torch.stack([run[4] for run in runs]))


def test_tables_need_two_steps_in_memory():
    """All predictions of a long run would need more memory than the model."""
    alive: list[weakref.ref] = []
    counts = []

    def replay(see):
        for step in range(9):
            prediction = torch.full(SIZE, float(step))
            alive.append(weakref.ref(prediction))
            see(prediction)
            del prediction
            counts.append(sum(one() is not None for one in alive))

    gains = torch.ones(9, *SIZE[2:-1], SIZE[-1] // 2 + 1)
    tables = weighted_tables(replay, gains, window=3, samples=8)
    assert [table.shape for table in tables] == [(9, 4, 8)] * SIZE[0]
    assert (len(counts), max(counts)) == (2 * 9, 0)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_costs_of_another_sampler_are_those_of_its_own_predictions(prediction):
    made = recorded(prediction, samplers(prediction)[0], 12)
    other = samplers(prediction)[1]

    def sampler(samples):
        return other(9)

    seen = []
    made.run(other(9), observer=lambda step, timestep, latents, predicted: seen.append(predicted))
    tables = weighted_tables(lambda see: [*map(see, seen)], made.gains(sampler), WINDOW, SAMPLES)
    costs = made.segments(sampler, is_recorded=False)
    assert np.array_equal(costs.wrong, Segments(tables, [1.0] * 9, other(9).times()).wrong, equal_nan=True)
    assert len(costs) == 9
    assert len(made.segments(lambda samples: samplers(prediction)[0](12))) == 12


def test_guidance_divides_the_variance():
    path = Recording(torch.zeros(3, *SIZE), torch.zeros(3, *SIZE), coloured(2, SIZE[2:]))
    plain, guided = (Surrogate(path, ddim(3), "epsilon", scale) for scale in (1.0, 4.0))
    torch.testing.assert_close(plain.spectrum, 4 * guided.spectrum)


def test_schedules_spend_their_steps_where_low_frequencies_are_decided():
    """An error at high noise stays in low frequencies, and vanishes from high ones."""
    made = recorded("epsilon", ddim, 30)
    made.spectrum = slow(SIZE[2:]) * 50.0 + 0.01
    gains = made.gains(lambda samples: ddim(30))
    low = slow(SIZE[2:]).bool()
    early, late = gains[5], gains[-3]
    assert float(early[low].mean() / early[~low].mean()) > 10 * float(late[low].mean() / late[~low].mean())
