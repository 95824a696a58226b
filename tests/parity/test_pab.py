"""Pyramid Attention Broadcast: which branch uses again what it gave, and the latents, as published.

Open-Sora-Plan v1.2.0 has no published run; its closed form is in tests/unit/test_cache_pab.py.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from tests.goldens.load import load_case
from tests.parity import latte as small_latte
from tests.parity import stdit3 as small_stdit3
from tests.parity.test_rflow import TOLERANCE, scheduler_of
from videosys.cache import Broadcast, PABConfig, pab, start
from videosys.generation.denoise import Sampling, denoise
from videosys.parallel import Parallel
from videosys.schedulers import ddim, pndm


class Watched:
    """A model that notes which branches were asked and which of them computed: step -> kind -> blocks."""

    def __init__(self, model, cache):
        self.model, self.cache = model, cache
        self.reused = defaultdict(lambda: defaultdict(list))
        self._layer = cache.layer
        cache.layer = self.layer

    def __call__(self, *arguments, **named):
        return self.model(*arguments, **named)

    def layer(self, stack, index):
        branch, computed = self._layer(stack, index), []

        def watched(kind, compute):
            computed.clear()
            result = branch(kind, lambda: computed.append(kind) or compute())
            if not computed:
                self.reused[self.cache.step][stack, kind].append(index)
            return result

        return watched


@torch.no_grad()
def run(config, model, sampler, latents, condition, guidance_scale):
    """The final latents, those before each step, and the branches that were reused."""
    cache, before = start(config, sampler.times(), Parallel().gather_rows), {}
    watched = Watched(model, cache)
    sampling = Sampling(
        guidance_scale, observer=lambda step, timestep, latents, noise: before.update({step: latents})
    )
    final = denoise(watched, sampler, latents, condition, sampling, cache, Parallel())
    for record in cache.steps:
        assert record.reused == sum(map(len, watched.reused[record.step].values()))
    assert not cache.results
    return final, before, watched.reused


def keys(table):
    return tuple((float(key), entry["skip_count"], tuple(entry["block"])) for key, entry in table.items())


def published(literal) -> PABConfig:
    """A config in the words of the published one."""
    rules = {
        kind: Broadcast(literal[f"{kind}_range"], tuple(literal[f"{kind}_threshold"]))
        for kind in ("spatial", "temporal", "cross")
    }
    mlp = {
        f"mlp_{kind}": keys(literal[f"mlp_{kind}_broadcast_config"]) if literal["mlp_broadcast"] else ()
        for kind in ("spatial", "temporal")
    }
    return PABConfig(**rules, **mlp, joint=None, unit="timestep")


OPENSORA = {
    "spatial_self_attn": ("spatial", "attention"),
    "spatial_cross_attn": ("spatial", "cross"),
    "spatial_mlp": ("spatial", "mlp"),
    "temporal_self_attn": ("temporal", "attention"),
    "temporal_cross_attn": ("temporal", "cross"),
    "temporal_mlp": ("temporal", "mlp"),
}


@pytest.mark.parametrize("name", ["pab_denoise", "pab_denoise_attn_only"])
def test_opensora(name):
    case, golden = load_case(small_stdit3.FAMILY, name)
    model, latents = small_stdit3.build(case), small_stdit3.filled(case, "z")
    condition = small_stdit3.pair_condition(model, case)
    literals = case["literals"]
    config = published(literals["pab"])
    final, before, reused = run(config, model, scheduler_of(case), latents, condition, literals["cfg_scale"])
    for entry in case["steps"]:
        expected = {place: entry[f"{kind}_reused"] for kind, place in OPENSORA.items()}
        assert {place: reused[entry["step"]][place] for place in expected} == expected
    torch.testing.assert_close(final, golden["final"], atol=TOLERANCE, rtol=0)
    middle = before[len(case["steps"]) // 2]
    torch.testing.assert_close(middle, golden["z_in_step_mid"], atol=TOLERANCE, rtol=0)
    assert not torch.allclose(final, golden["final_without_pab"], atol=0.1)


LATTE = {
    "spatial": ("spatial", "attention"),
    "temporal": ("temporal", "attention"),
    "cross": ("spatial", "cross"),
    "mlp_spatial": ("spatial", "mlp"),
    "mlp_temporal": ("temporal", "mlp"),
}


def latte_run(case, config, sampler, names, guidance_scale):
    latents, cond, uncond = (small_latte.filled(case, name) for name in names)
    model = small_latte.build(case)
    condition = model.prepare(torch.cat((cond, uncond)), latent_size=latents.shape[2:])
    return run(config, model, sampler, latents, condition, guidance_scale)


@pytest.mark.parametrize("name", ["default_50", "custom_20", "no_mlp_50"])
def test_latte(name):
    case, golden = load_case(small_latte.LATTE, f"latte_pab_{name}")
    literal = case["literal"]
    names = ("latent", "prompt_embeds", "negative_prompt_embeds")
    sampler = ddim(literal["num_inference_steps"])
    config = published(literal["pab_config"])
    final, before, reused = latte_run(case, config, sampler, names, literal["guidance_scale"])
    for step, entry in enumerate(case["broadcast"]["steps"]):
        expected = {place: entry.get(kind, []) for kind, place in LATTE.items()}
        assert {place: reused[step][place] for place in expected} == expected
    small_latte.assert_equal(final, golden.pop("final_latent"), atol=0)
    for key, want in golden.items():
        step = int(key.removeprefix("latent_after_step_"))
        small_latte.assert_equal(before[step + 1], want, atol=0)


def counted_anew(count):
    """The published rule, whose count of steps begins anew after those that the user asked for, of which PNDM
    makes nine more: ours goes on.
    """

    def steps(rule, places, unit):
        ours = {step: (step % count) % rule.range for step in range(len(places))}
        low, high = rule.window
        return {step for step, place in enumerate(places) if ours[step] and low < place < high}

    return steps


def check_plan(case, reused, count=None):
    blocks = range(case["config"]["num_layers"])
    for entry in case["generations"][0][:count]:
        kinds = reused[entry["i"]]
        for kind in ("spatial", "temporal", "cross"):
            assert kinds[LATTE[kind]] == (list(blocks) if entry[kind] else [])
        for kind in ("mlp_spatial", "mlp_temporal"):
            again = entry.get(kind, [0 for _ in blocks])
            assert kinds[LATTE[kind]] == [block for block in blocks if again[block]]


@pytest.mark.parametrize("name", ["default", "small"])
def test_open_sora_plan_v110(name, monkeypatch):
    """The first generation: the second one of the published run goes on counting where it ended."""
    case, golden = load_case(small_latte.PLAN, f"v110_pab_{name}")
    literals, key = case["literals"], "mlp_broadcast_config_spatial_and_temporal"
    tables = {f"mlp_{kind}_broadcast_config": literals[key] for kind in ("spatial", "temporal")}
    config = published({**literals, **tables, "mlp_broadcast": True})
    count = literals["num_inference_steps"]
    names = ("latents", "text_cond", "text_uncond")
    arguments = (names, literals["guidance_scale"])
    _, _, reused = latte_run(case, config, pndm(count), *arguments)
    check_plan(case, reused, count)
    monkeypatch.setattr(pab, "attention_steps", counted_anew(count))
    final, _, reused = latte_run(case, config, pndm(count), *arguments)
    check_plan(case, reused)
    small_latte.assert_equal(final, golden["final_latents.0"], atol=0)
