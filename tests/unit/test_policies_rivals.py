"""The same sampler with fewer steps: grids, and DDIM on them."""

from __future__ import annotations

import torch

from eval.policies.rivals import GridDDIM, at_places, cosine_places, cosine_steps, fewer_steps
from tests.synthetic import SyntheticConfig, SyntheticPipeline
from videosys.cache import NoCacheConfig
from videosys.calibration.runs import Clips, error_db
from videosys.generation.request import VideoJob
from videosys.schedulers import ddim, pndm


def test_ddim_on_its_own_grid_is_diffusers_ddim():
    theirs = ddim(10)
    ours = GridDDIM(theirs.timesteps, theirs.alphas_cumprod)
    x = y = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for timestep in theirs.timesteps:
        noise = torch.tanh(x + float(timestep) / 1000)
        x = theirs.step(noise, timestep, x).prev_sample
        y = ours.step(noise, timestep, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_places_are_dense_at_both_ends():
    places = torch.tensor(cosine_places(10))
    gaps = places.diff()
    assert places[0] == 0
    assert places[-1] < 1
    assert gaps[4] == gaps.max()
    assert gaps[0] < 0.3 * gaps[4]
    assert cosine_places(4, share=0.0) == [0, 0.25, 0.5, 0.75]


def test_even_places_are_the_own_grid():
    grid = torch.tensor([1000.0, 700.0, 300.0, 100.0])
    assert at_places(grid, [0, 0.25, 0.5, 0.75]).tolist() == grid.tolist()
    assert at_places(grid, [0.875]).tolist() == [50.0]


def test_a_hundred_whole_timesteps_differ():
    falling = pndm(150).timesteps.unique().flip(0)
    made = GridDDIM(at_places(falling, cosine_places(106, 0.5)), ddim(150).alphas_cumprod)
    assert len(made.timesteps.unique()) == 106
    assert len(made.times()) == 106


def test_few_cosine_steps_of_a_steady_flow_arrive_at_the_same_place():
    clip = Clips(SyntheticPipeline([2.0] * 8), SyntheticConfig(8), [VideoJob("one", 3)])
    full, cosine = clip.run(NoCacheConfig()), cosine_steps(clip, 4)
    assert (full.computed, cosine.computed) == (8, 4)
    assert error_db(cosine.latents, full.latents)[0] > 100


def test_fewer_steps_take_the_grid_that_the_sampler_has_for_them():
    clip = Clips(SyntheticPipeline([2.0] * 4), SyntheticConfig(8), [VideoJob("one", 3)])
    assert [step.timestep for step in fewer_steps(clip, 4).steps] == [1000, 750, 500, 250]
