"""TeaCache in LatteT2V's forward: the published decisions, distances and latents of Latte-1 and of
Open-Sora-Plan v1.1.0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from einops import rearrange

from tests.goldens.load import load_case
from tests.parity.latte import LATTE, PLAN, assert_equal, build, filled
from videosys.cache import TeaCacheConfig, start
from videosys.generation.denoise import Sampling, denoise
from videosys.parallel import Parallel
from videosys.schedulers import Sampler, ddim, pndm

LATTE_CASES = ["published_slow", "published_fast", "published_stuck", "identity_035", "identity_080"]
PLAN_CASES = ["pub_0p1", "pub_600", "identity_0p25", "identity_0p5"]


class Run(NamedTuple):
    cache: Any
    after: dict[int, torch.Tensor]  # latents after each evaluation
    final: torch.Tensor


@torch.no_grad()
def run(case, inputs: tuple[str, str, str], settings: tuple, sampler: Sampler, **options: Any) -> Run:
    """A whole denoising. `inputs` names the latents, the prompt and the negative prompt of the case, whose
    pair is [uncond, cond]: ours has the other order. settings: threshold, coefficients, guidance scale.
    """
    threshold, coefficients, guidance_scale = settings
    latents, cond, uncond = (filled(case, name) for name in inputs)
    model, after = build(case), {}
    condition = model.prepare(torch.cat((cond, uncond)), latent_size=latents.shape[2:], **options)
    cache = start(TeaCacheConfig(threshold, tuple(coefficients)), sampler.times(), Parallel().gather_rows)
    sampling = Sampling(
        guidance_scale, observer=lambda step, timestep, latents, noise: after.update({step - 1: latents})
    )
    final = denoise(model, sampler, latents, condition, sampling, cache, Parallel())
    return Run(cache, after, final)


def assert_steps(records, entries, accumulated_key: str) -> None:
    for record, entry in zip(records, entries, strict=True):
        assert (record.timestep, record.computed) == (entry["timestep"], entry["computed"])
        if entry["distance"] is None:
            assert record.distance is record.rescaled is record.accumulated is None
            continue
        # Near a root of the polynomial, rounding of the distance counts for more.
        assert record.distance == pytest.approx(entry["distance"], rel=1e-5)
        assert record.rescaled == pytest.approx(entry["rescaled"], rel=1e-4, abs=1e-4)
        assert record.accumulated == pytest.approx(entry[accumulated_key], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", [*LATTE_CASES, "no_temporal"])
def test_latte(name):
    case, golden = load_case(LATTE, f"latte_teacache_{name}")
    literal = case["literal"]
    settings = (literal["rel_l1_thresh"], literal["coefficients"], literal["guidance_scale"])
    result = run(
        case,
        ("latent", "prompt_embeds", "negative_prompt_embeds"),
        settings,
        ddim(literal["num_inference_steps"]),
        enable_temporal_attentions=literal["enable_temporal_attentions"],
    )
    pattern = "".join("C" if step.computed else "." for step in result.cache.steps)
    assert pattern == case["pattern"]
    assert_steps(result.cache.steps, case["steps"], "accumulated_before_reset")
    assert_equal(result.final, golden.pop("final_latent"), atol=0)
    for key, want in golden.items():
        assert_equal(result.after[int(key.removeprefix("latent_after_step_"))], want, atol=0)


@pytest.mark.parametrize("name", PLAN_CASES)
def test_open_sora_plan_v110(name):
    case, golden = load_case(PLAN, f"v110_teacache_{name}")
    literals = case["literals"]
    coefficients = literals["coefficients_highest_power_first"]
    settings = (literals["threshold"], coefficients, literals["guidance_scale"])
    sampler = pndm(literals["num_inference_steps"])
    assert sampler.times() == literals["timesteps"]
    result = run(case, ("latents", "text_cond", "text_uncond"), settings, sampler)
    assert [step.computed for step in result.cache.steps] == case["computed_list"]
    assert_steps(result.cache.steps, case["steps"], "accumulated_before_decision")
    residual = rearrange(torch.cat(result.cache.residual.chunk(2)[::-1]), "b t s c -> (b t) s c")
    # It follows from latents in the hundreds, whose last bits are worth as much.
    assert_equal(residual, golden.pop("last_residual"), atol=5e-4)
    assert_equal(result.final, golden.pop("final_latents"), atol=0)
    for key, want in golden.items():
        assert_equal(result.after[int(key.removeprefix("latents_after_eval."))], want, atol=0)
