"""What a sampler says of itself for the estimate: model evaluations, and predictions that it keeps."""

from __future__ import annotations

import pytest
import torch

from videosys.schedulers import RFlowScheduler, ddim, euler_ancestral, pndm


@pytest.mark.parametrize(("build", "more"), [(ddim, 0), (euler_ancestral, 0), (pndm, 9)])
def test_a_sampler_knows_its_evaluations_and_its_history(build, more):
    sampler = build(10)
    assert len(sampler.timesteps) == 10 + more
    sample, longest = torch.zeros(1, 4), 0
    for timestep in sampler.timesteps:
        sampler.scale_model_input(sample, timestep)
        sample = sampler.step(torch.ones(1, 4), timestep, sample).prev_sample
        longest = max(longest, len(getattr(sampler._scheduler, "ets", [])))
    assert sampler.history == longest


def test_rectified_flow_keeps_nothing():
    scheduler = RFlowScheduler()
    scheduler.set_timesteps(7)
    assert (len(scheduler.timesteps), scheduler.history) == (7, 0)
