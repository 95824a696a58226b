"""The samplers of Latte and Open-Sora-Plan against the published schedules, and whole denoises of Latte."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.load import load_case, load_json
from tests.parity.latte import LATTE, PLAN, assert_equal, build, filled
from videosys.cache import NO_CACHE
from videosys.generation.denoise import Sampling, denoise
from videosys.parallel import Parallel
from videosys.schedulers import ddim, euler_ancestral, pndm

DDIM_STEPS = [50, 20, 30, 7]


@pytest.mark.parametrize("num_steps", DDIM_STEPS)
def test_ddim_timesteps(num_steps):
    entry = load_json(LATTE, "latte_ddim")["schedules"][f"leading_{num_steps}"]
    sampler = ddim(num_steps)
    assert sampler.timesteps.tolist() == entry["timesteps"]
    assert sampler.times() == entry["timesteps"]
    assert sampler.init_noise_sigma == 1.0


@pytest.mark.parametrize("num_steps", DDIM_STEPS)
def test_ddim_steps(num_steps):
    case, golden = load_case(LATTE, "latte_ddim")
    entry, alphas = case["schedules"][f"leading_{num_steps}"], golden["alphas_cumprod"]
    sampler, sample, noise = ddim(num_steps), torch.randn(2, 3), torch.randn(2, 3)
    for t, previous in zip(sampler.timesteps, entry["previous"], strict=True):
        alpha, alpha_previous = alphas[t], alphas[previous] if previous >= 0 else torch.tensor(1.0)
        data = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        want = alpha_previous.sqrt() * data + (1 - alpha_previous).sqrt() * noise
        assert_equal(sampler.step(noise, t, sample).prev_sample, want)


@pytest.mark.parametrize("num_steps", [50, 100, 150])
def test_pndm_evaluates_nine_times_more_than_it_steps(num_steps):
    expected = load_json(PLAN, "scheduler_timesteps")["pndm"][str(num_steps)]
    sampler = pndm(num_steps)
    assert sampler.timesteps.tolist() == sampler.times() == expected
    assert len(expected) == num_steps + 9
    assert sampler.timesteps.dtype == torch.int64
    assert sampler.init_noise_sigma == 1.0


@pytest.mark.parametrize("num_steps", [20, 100])
def test_euler_ancestral_timesteps_and_sigmas(num_steps):
    entry = load_json(PLAN, "scheduler_timesteps")["euler_ancestral"][str(num_steps)]
    sampler, sample = euler_ancestral(num_steps), torch.ones(1)
    assert sampler.timesteps.tolist() == sampler.times() == entry["timesteps"]
    assert sampler.init_noise_sigma == pytest.approx(entry["init_noise_sigma"], rel=1e-6)
    for timestep, sigma in zip(sampler.timesteps, entry["sigmas"]):
        scaled = sampler.scale_model_input(sample, timestep)
        assert float(scaled) == pytest.approx((sigma**2 + 1) ** -0.5, rel=1e-6)
        sampler.step(sample, timestep, sample)


def with_generators(num_samples: int, seeds: list[int]) -> torch.Tensor:
    """The end of a denoising in which the model answers with a third of what it sees."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sampler = euler_ancestral(5, generator=generators)
    latents = torch.ones(num_samples, 4, 2, 3, 3) * sampler.init_noise_sigma
    sampling = Sampling(guidance_scale=1.0)
    return denoise(lambda x, *_: x / 3, sampler, latents, None, sampling, NO_CACHE, Parallel())


def test_noise_drawn_on_the_way_belongs_to_its_sample_alone():
    alone, beside = with_generators(1, [7]), with_generators(2, [3, 7])
    assert torch.equal(alone[0], beside[1])
    assert not torch.equal(beside[0], beside[1])
    assert torch.equal(beside, with_generators(2, [3, 7]))


def test_ddim_draws_noise_only_with_eta():
    noise, sample = torch.randn(1, 4), torch.randn(1, 4)
    ends = []
    for eta, seed in [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2), (1.0, 1)]:
        sampler = ddim(10, eta=eta, generator=torch.Generator().manual_seed(seed))
        ends.append(sampler.step(noise, sampler.timesteps[0], sample).prev_sample)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[4])
    assert not torch.equal(ends[2], ends[3])


@pytest.mark.parametrize(
    ("builder", "num_steps"), [(ddim, 0), (ddim, 1001), (pndm, 3), (pndm, -1), (euler_ancestral, 0)]
)
def test_numbers_of_steps_without_a_schedule_are_refused(builder, num_steps):
    with pytest.raises(ValueError, match=str(num_steps)):
        builder(num_steps)


@pytest.mark.parametrize("builder", [ddim, pndm, euler_ancestral])
def test_the_fewest_steps_work(builder):
    sampler = builder(4)
    for timestep in sampler.timesteps:
        sampler.step(torch.ones(1), timestep, sampler.scale_model_input(torch.ones(1), timestep))
    assert sampler.timesteps[-1] == 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["latte_denoise_50", "latte_denoise_20", "latte_denoise_20_no_cfg"])
def test_latte_denoise(name):
    case, golden = load_case(LATTE, name)
    literal, latents, seen = case["literal"], filled(case, "latent"), {}
    model, text = build(case), filled(case, "prompt_embeds")
    sampling = Sampling(
        literal["guidance_scale"],
        observer=lambda step, timestep, latents, noise: seen.update({step - 1: latents}),
    )
    if sampling.is_guided:
        text = torch.cat((text, filled(case, "negative_prompt_embeds")))
    condition = model.prepare(text, latent_size=latents.shape[2:])
    sampler = ddim(literal["num_inference_steps"])
    final = denoise(model, sampler, latents, condition, sampling, NO_CACHE, Parallel())
    seen[literal["num_inference_steps"] - 1] = final
    for key, want in golden.items():
        got = final if key == "final_latent" else seen[int(key.removeprefix("latent_after_step_"))]
        assert_equal(got, want, atol=0)
