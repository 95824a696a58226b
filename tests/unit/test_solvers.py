"""Solvers, on data whose equation has a closed form: a normal distribution in one dimension."""

from __future__ import annotations

import math

import pytest
import torch

from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig
from videosys.cache import NO_CACHE, IntervalConfig, start
from videosys.config import load_config
from videosys.generation.denoise import Sampling, denoise
from videosys.models import FAMILIES
from videosys.parallel import Parallel
from videosys.schedulers import RFlowScheduler, ddim
from videosys.schedulers.flow import FlowSolver, shifted_grid
from videosys.schedulers.solvers import (
    SCHEDULERS,
    DPMSolverConfig,
    EulerConfig,
    SDEDPMSolverConfig,
    Training,
    UniPCConfig,
)

MEAN, VARIANCE = 1.0, 0.25
START = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]


def estimates(x, signal, sigma):
    """The exact (data, noise) of the normal distribution at x = signal * data + sigma * noise."""
    total = signal**2 * VARIANCE + sigma**2
    return MEAN + signal * VARIANCE / total * (x - signal * MEAN), sigma / total * (x - signal * MEAN)


def end_point(x, signal=0.0, sigma=1.0):
    """Where the exact path from x ends."""
    return MEAN + math.sqrt(VARIANCE / (signal**2 * VARIANCE + sigma**2)) * (x - signal * MEAN)


def flow_error(config, steps, shift):
    scheduler = config.build(steps, Training("flow", shift=shift), ())
    x = START
    for timestep, sigma in zip(scheduler.timesteps, scheduler.times()):
        data, noise = estimates(x, 1 - sigma, sigma)
        x = scheduler.step(data - noise, timestep, x).prev_sample
    return float((x - end_point(START)).abs().max())


def epsilon_error(scheduler):
    x, levels = START, getattr(scheduler._scheduler, "sigmas", None)
    for index, timestep in enumerate(scheduler.timesteps):
        signal = math.sqrt(scheduler.alphas_cumprod[int(timestep)])
        if levels is not None:
            signal = 1 / math.sqrt(1 + float(levels[index]) ** 2)
        _, noise = estimates(x, signal, math.sqrt(1 - signal**2))
        x = scheduler.step(noise, timestep, x).prev_sample
    return float((x - end_point(START)).abs().max())


# The bounds are the known errors of each method, with room for the last digit.
@pytest.mark.parametrize(
    ("config", "steps", "shift", "error"),
    [
        (EulerConfig(), 10, 3.0, 0.261),
        (EulerConfig(shift=1.0), 10, 3.0, 0.139),
        (DPMSolverConfig(order=1), 10, 3.0, 0.261),
        (DPMSolverConfig(), 10, 3.0, 0.187),
        (DPMSolverConfig(), 30, 3.0, 0.0021),
        (DPMSolverConfig(shift=1.0), 10, 3.0, 0.0064),
        (UniPCConfig(), 10, 3.0, 0.182),
        (UniPCConfig(), 30, 3.0, 0.0024),
    ],
)
def test_flow_solvers_reach_the_exact_end_point(config, steps, shift, error):
    assert flow_error(config, steps, shift) <= error + 5e-4


@pytest.mark.parametrize(
    ("config", "steps", "error"),
    [
        (DPMSolverConfig(grid="linspace"), 10, 0.196),
        (DPMSolverConfig(), 10, 0.036),
        (DPMSolverConfig(), 25, 0.013),
        (DPMSolverConfig(order=3), 25, 0.008),
        (DPMSolverConfig(grid="karras"), 10, 0.109),
        (UniPCConfig(), 10, 0.056),
        (UniPCConfig(), 25, 0.0085),
    ],
)
def test_epsilon_solvers_reach_the_exact_end_point(config, steps, error):
    measured = epsilon_error(config.build(steps, Training("epsilon"), ()))
    assert measured <= error
    assert measured < epsilon_error(ddim(steps))


def test_order_2_is_that_of_diffusers_on_its_own_grid():
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, lower_order_final=False
    )
    theirs.set_timesteps(12)
    ours = FlowSolver(theirs.sigmas[:-1].double(), order=2)
    x = y = START.float()
    for step, timestep in enumerate(theirs.timesteps):
        data, noise = estimates(x, 1 - ours.sigmas[step], ours.sigmas[step])
        x = ours.step(data - noise, ours.timesteps[step], x).prev_sample
        data, noise = estimates(y, 1 - ours.sigmas[step], ours.sigmas[step])
        y = theirs.step(noise - data, timestep, y).prev_sample
        torch.testing.assert_close(x, y, rtol=2e-5, atol=2e-5)


def test_the_published_grid_and_euler_steps_are_the_default():
    published = RFlowScheduler()
    published.set_timesteps(30, num_frames=51, height=480, width=848)
    config = OpenSoraConfig(num_frames=51, height=480, width=848)
    euler = EulerConfig().build(30, config.training, ())
    torch.testing.assert_close(euler.timesteps, published.timesteps, rtol=2e-6, atol=0)
    assert SCHEDULERS["published"]() == config.scheduler
    assert isinstance(FAMILIES["opensora"].sampler(config, ()), RFlowScheduler)


@pytest.mark.parametrize("config", [DPMSolverConfig(), UniPCConfig()], ids=["dpm_solver", "unipc"])
def test_a_frame_that_joins_later_starts_without_history(config):
    """Frame 0 is free from the start; the others join later, each like a run that begins there."""
    steps, joins = 10, {1: 4, 2: 7, 3: 4}
    training = Training("flow")
    scheduler = config.build(steps, training, ())
    mask = torch.tensor([[1.0, *(float(scheduler.timesteps[step]) / 1000 for step in joins.values())]])
    clean = torch.full((1, 1, 4, 1, 1), 0.3)
    begun = {}

    def model(latents, timesteps, condition, cache, frame_mask=None):
        step = int((scheduler.timesteps == timesteps[0]).nonzero())
        begun[step] = latents.clone()
        sigma = float(timesteps[0]) / 1000
        data, noise = estimates(latents, 1 - sigma, sigma)
        return torch.where(frame_mask[:, None, :, None, None], data - noise, torch.full_like(latents, 9.0))

    sampling = Sampling(1.0, torch.Generator().manual_seed(0), mask)
    result = denoise(model, scheduler, clean, None, sampling, NO_CACHE, Parallel())
    for frame, first in joins.items():
        alone = config.build(steps, training, ()).restarted(first)
        x = begun[first][0, 0, frame].view(1, 1)
        for step in range(first, steps):
            sigma = alone.times()[step]
            data, noise = estimates(x, 1 - sigma, sigma)
            x = alone.step(data - noise, alone.timesteps[step], x).prev_sample
        assert float(result[0, 0, frame]) == pytest.approx(float(x), abs=1e-5)


def test_noise_comes_from_each_video_s_own_generator():
    def run(seeds):
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        sampler = SDEDPMSolverConfig().build(4, Training("epsilon"), sources)
        x = torch.zeros(len(seeds), 1, 1, 2, 2)
        for timestep in sampler.timesteps:
            x = sampler.step(torch.zeros_like(x), timestep, x).prev_sample
        return x

    both = run([1, 2])
    assert torch.equal(both[1:], run([2]))
    assert not torch.equal(both[0], both[1])


def test_keeping_the_prediction_under_euler_is_a_grid_with_fewer_steps():
    steps, x = 12, torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    computed = [step for step in range(steps) if step % 3 == 0 or step == steps - 1]
    grid = shifted_grid(steps, 2.0)

    def model(latents, timesteps, condition, cache):
        cache.should_compute(lambda kind: latents)
        sigma = float(timesteps[0]) / 1000
        data, noise = estimates(latents, 1 - sigma, sigma)
        return data - noise

    def run(sigmas, cache):
        return denoise(model, FlowSolver(sigmas, 1), x, None, Sampling(1.0), cache, Parallel())

    times = grid.tolist()
    cache = start(IntervalConfig(3, place="output"), times, lambda row: row[None])
    torch.testing.assert_close(run(grid, cache), run(grid[computed], NO_CACHE), rtol=0, atol=2e-6)
    assert [step.step for step in cache.steps if step.computed] == computed


@pytest.mark.parametrize(
    ("config_cls", "scheduler", "message"),
    [
        (LatteConfig, "euler", "scheduler is 'euler', which does not fit the epsilon prediction"),
        (OpenSoraConfig, "sde_dpm_solver", "does not fit the flow prediction"),
        (OpenSoraConfig, "{name: dpm_solver, grid: karras}", "scheduler.grid is 'karras'; it is for epsilon"),
        (OpenSoraConfig, "{name: dpm_solver, order: 3}", "scheduler.order is 3; it must be 1 or 2 for flow"),
        (LatteConfig, "{name: unipc, shift: 3}", "scheduler.shift is 3.0; it is for flow"),
        (LatteConfig, "{name: dpm_solver, order: 4}", "scheduler.order is 4; it must be 1 to 3"),
        (LatteConfig, "{name: unipc, grid: lu}", "grid"),
        (LatteConfig, "{name: unipc, solver_type: bh1}", "solver_type"),
        (OpenSoraConfig, "{name: euler, shift: 1.0e-300}", "scheduler.shift is 1e-300; it must be 0.001"),
        (OpenSoraPlanConfig, "dpm_solvr", "did you mean 'dpm_solver'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(config_cls, scheduler, message):
    with pytest.raises(ValueError, match="scheduler") as error:
        load_config(config_cls, None, [f"scheduler={scheduler}"])
    assert message in str(error.value)


def test_eta_is_ddim_s_own():
    with pytest.raises(ValueError, match=r"eta is 0\.5; only the published scheduler"):
        LatteConfig(eta=0.5, scheduler=UniPCConfig())


def test_calibrations_name_the_solver_and_its_settings():
    name = LatteConfig(scheduler=DPMSolverConfig(order=3), beta_end=0.03).sampler_name
    assert name == "dpm_solver(order=3) instead of ddim(beta_end=0.03)"
    assert LatteConfig().sampler_name == "ddim"


def test_pndm_s_least_number_of_steps_is_its_own():
    config = OpenSoraPlanConfig(version="v110", num_inference_steps=2, scheduler=DPMSolverConfig())
    assert len(FAMILIES["open_sora_plan"].sampler(config, ()).timesteps) == 2


FLOW = [EulerConfig(), *(cls(order=order) for cls in (DPMSolverConfig, UniPCConfig) for order in (1, 2))]
EPSILON = [
    DPMSolverConfig(order=order, grid=grid) for order in (1, 2, 3) for grid in (None, "karras", "linspace")
]
EPSILON += [
    UniPCConfig(order=order, grid=grid) for order in (1, 2, 3) for grid in (None, "karras", "trailing")
]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 16])
@pytest.mark.parametrize(
    ("config", "prediction"), [*((c, "flow") for c in FLOW), *((c, "epsilon") for c in EPSILON)]
)
def test_every_choice_ends_in_finite_numbers(config, prediction, steps):
    scheduler = config.build(steps, Training(prediction, shift=3.0), ())
    x = torch.ones(1, 2, 1, 2, 2)
    for timestep in scheduler.timesteps:
        x = scheduler.step(0.1 * x, timestep, x).prev_sample
    assert torch.isfinite(x).all()
    assert len(scheduler.timesteps) == steps
