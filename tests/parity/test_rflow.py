"""The rectified-flow sampler and the denoise loop against the published ones."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.fill import fill_tensor
from tests.goldens.load import load_case, load_json
from tests.parity.stdit3 import FAMILY, build, filled, pair_condition
from videosys.cache import NO_CACHE
from videosys.generation import denoise as loop
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler

TOLERANCE = 2e-5  # guidance amplifies rounding over the steps


@pytest.mark.parametrize(
    "entry",
    [e for e in load_json(FAMILY, "rflow_timesteps")["transformed"] if e["args_dtype"] == "float32"],
    ids=lambda e: f"{e['height']}x{e['width']}x{e['num_frames']}-{e['num_steps']}",
)
def test_timesteps(entry):
    scheduler = RFlowScheduler()
    scheduler.set_timesteps(
        entry["num_steps"], num_frames=entry["num_frames"], height=entry["height"], width=entry["width"]
    )
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(entry["timesteps"]), atol=0, rtol=0)


@pytest.mark.parametrize("num_frames", [2, 9, 16, 0, -1])
def test_frame_counts_without_a_time_shift_are_refused(num_frames):
    with pytest.raises(ValueError, match=str(num_frames)):
        RFlowScheduler().set_timesteps(30, num_frames=num_frames)


def scheduler_of(case) -> RFlowScheduler:
    literals = case["literals"]
    scheduler = RFlowScheduler(literals["use_timestep_transform"])
    sizes = {key: literals[key] for key in ("num_frames", "height", "width")}
    scheduler.set_timesteps(literals["num_sampling_steps"], **sizes)
    return scheduler


@pytest.mark.parametrize("name", ["rflow_denoise", "rflow_denoise_mask_ones", "rflow_denoise_conditioned"])
def test_denoise(name, monkeypatch):
    case, golden = load_case(FAMILY, name)
    z = filled(case, "z")
    renoise = (fill_tensor(f"input:renoise_{k}", z.shape, case["salt"]) for k in range(99))
    monkeypatch.setattr(loop, "fresh_noise", lambda like, generator: next(renoise))
    model, seen, masks = build(case), {}, []

    def observe(step, timestep, latents, noise_pred):
        assert timestep == pytest.approx(case["timesteps"][step], abs=2e-4)
        seen[f"z_in_step_{step}"] = latents
        seen[f"velocity_cond_uncond_step_{step}"] = noise_pred

    def watched(latents, timesteps, condition, cache, frame_mask=None):
        masks.append(None if frame_mask is None else frame_mask[0].tolist())
        return model(latents, timesteps, condition, cache, frame_mask)

    cond_mask = case["literals"].get("cond_mask")
    frame_mask = None if cond_mask is None else torch.tensor([cond_mask])
    with torch.no_grad():
        condition = pair_condition(model, case)
        sampling = loop.Sampling(case["literals"]["cfg_scale"], None, frame_mask, None, observe)
        final = loop.denoise(watched, scheduler_of(case), z, condition, sampling, NO_CACHE, Parallel())
    torch.testing.assert_close(final, golden["final"], atol=TOLERANCE, rtol=0)
    for key in golden.keys() & seen.keys():
        torch.testing.assert_close(seen[key], golden[key], atol=TOLERANCE, rtol=0)
    if cond_mask is not None:
        assert masks == case["x_mask_per_step"]


def test_free_frames_are_free_from_the_first_step_on():
    # With this size float32 rounding lifts the first timestep above 1000, where 1000 * mask does not reach.
    z = torch.randn(1, 4, 10, 4, 4, generator=torch.Generator().manual_seed(0))

    def final(frame_mask):
        scheduler = RFlowScheduler()
        scheduler.set_timesteps(4, num_frames=34, height=32, width=32)
        sampling = loop.Sampling(1.0, torch.Generator().manual_seed(1), frame_mask)
        model = lambda x, timesteps, condition, cache, frame_mask=None: 0.3 * x  # noqa: E731
        return loop.denoise(model, scheduler, z, None, sampling, NO_CACHE, Parallel())

    assert torch.equal(final(torch.ones(1, 10)), final(None))
