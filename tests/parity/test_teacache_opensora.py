"""TeaCache in STDiT3's forward: the published decisions, distances and latents."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.fill import fill_tensor
from tests.goldens.load import load_case
from tests.parity.stdit3 import FAMILY, build, filled, pair_condition
from tests.parity.test_rflow import TOLERANCE, scheduler_of
from videosys.cache import TeaCacheConfig, start
from videosys.generation import denoise as loop
from videosys.parallel import Parallel

CASES = ["t1", "t2", "identity", "conditioned"]


@torch.no_grad()
def run(case, monkeypatch):
    z, literals = filled(case, "z"), case["literals"]
    renoise = (fill_tensor(f"input:renoise_{k}", z.shape, case["salt"]) for k in range(99))
    monkeypatch.setattr(loop, "fresh_noise", lambda like, generator: next(renoise))
    model, scheduler, seen = build(case), scheduler_of(case), {}
    frame_mask = None if literals["cond_mask"] is None else torch.tensor([literals["cond_mask"]])
    config = TeaCacheConfig(literals["threshold"], tuple(literals["coefficients"]))
    cache = start(config, scheduler.times(), Parallel().gather_rows)

    def observe(step, timestep, latents, noise_pred):
        seen[f"z_in_step_{step}"] = latents

    sampling = loop.Sampling(literals["cfg_scale"], None, frame_mask, None, observe)
    condition = pair_condition(model, case)
    seen["final"] = loop.denoise(model, scheduler, z, condition, sampling, cache, Parallel())
    return cache.steps, seen


@pytest.mark.parametrize("name", CASES)
def test_decisions_distances_and_latents(name, monkeypatch):
    case, golden = load_case(FAMILY, f"teacache_denoise_{name}")
    steps, seen = run(case, monkeypatch)
    assert [step.step for step in steps if step.computed] == case["computed_steps"]
    for record, entry in zip(steps, case["steps"], strict=True):
        assert record.timestep == pytest.approx(entry["timestep"], abs=2e-4)
        measured = (record.distance, record.rescaled, record.accumulated)
        published = tuple(entry[key] for key in ("distance", "rescaled", "accumulated_before_decision"))
        assert (None in measured) == (None in published)
        assert None in measured or measured == pytest.approx(published, rel=1e-3)
    for key in golden.keys() & seen.keys():
        torch.testing.assert_close(seen[key], golden[key], atol=TOLERANCE, rtol=0)


def test_forcing_by_index_computes_the_last_step_that_rounded_timesteps_miss(monkeypatch):
    case, golden = load_case(FAMILY, "teacache_denoise_literal_int")
    steps, seen = run(case, monkeypatch)
    last = case["literals"]["num_sampling_steps"] - 1
    assert last not in case["computed_steps"]
    assert [step.step for step in steps if step.computed] == [*case["computed_steps"], last]
    assert not torch.allclose(seen["final"], golden["final"], atol=TOLERANCE)
