"""Caches that decide by the latents, in closed form and with the bundled checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed.models import Request, loop
from videosys import LatteConfig, OpenSoraConfig, VideoSysEngine, load_config
from videosys.cache import BWCacheConfig, EasyCacheConfig, Linear, SeaCacheConfig, SenCacheConfig, start
from videosys.cache.seacache import spectral_filter, wiener_gains
from videosys.estimate.cache import greediest
from videosys.generation.denoise import noise_mix
from videosys.parallel import Parallel
from videosys.schedulers import ddim
from videosys.schedulers.rflow import RFlowScheduler

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (4, 3, 2, 2)  # channels, frames, rows, columns
HALF = (0.5, 0.5)


def alone(row):
    return row[None]


def follow(config, inputs, model, gather=alone, channels=4):
    """(cache, predictions); model: of latents [B, C, T, H, W], the prediction of the pair."""
    cache, outputs = start(config, [0.0] * len(inputs), gather), []
    for step, x in enumerate(inputs):

        def evaluate(x=x):
            assert cache.should_compute(lambda kind: pytest.fail("no signal is looked at"))
            return model(x)

        cache.begin_step(step, 1000.0 - step)
        cache.observe_latents(x, HALF)
        outputs.append(cache.predict(evaluate))
    return cache, outputs


def computed(cache):
    return [record.step for record in cache.steps if record.computed]


def falling(count):
    return [torch.full((1, *SHAPE), 1 - step / 8) for step in range(count)]


def pair(x):
    return torch.cat((2 * x + 3, -5 * x))


def test_easycache_expects_the_prediction_to_change_at_its_last_rate():
    """q is 2, and the latents change by 1/8 in each step: 0.25 / |v_a|, with v_1 = 4.75 and v_4 = 4."""
    cache, outputs = follow(EasyCacheConfig(0.13, warmup=2), falling(9), pair)
    assert computed(cache) == [0, 1, 4, 7, 8]
    sums = [record.accumulated for record in cache.steps[2:8]]
    assert sums == pytest.approx([0.25 / 4.75 * n for n in (1, 2, 3)] + [0.25 / 4 * n for n in (1, 2, 3)])
    assert [record.distance for record in cache.steps[:2]] == [None, None]
    cond, uncond = outputs[3][0, 0, 0, 0, 0], outputs[3][1, 0, 0, 0, 0]  # each keeps v - x of step 1
    assert (float(cond), float(uncond)) == pytest.approx((4.75 - 0.25, -4.375 - 0.25))


@pytest.mark.parametrize("warmup", [0, 1, 2, 6, 99])
def test_easycache_computes_its_first_steps_and_the_last(warmup):
    cache, _ = follow(EasyCacheConfig(1e9, warmup), falling(9), pair)
    # Without a rate, which two computed steps give, there is no sum that stays below the threshold.
    assert computed(cache) == [*range(min(max(warmup, 2), 8)), 8]


@pytest.mark.parametrize("model", [lambda x: pair(x) * math.nan, lambda x: 0 * pair(x)])
def test_easycache_computes_what_it_cannot_expect(model):
    cache, _ = follow(EasyCacheConfig(1e9, 2), falling(6), model)
    assert computed(cache) == list(range(6))


def test_easycache_leaves_out_channels_that_latents_have_not():
    cache, outputs = follow(EasyCacheConfig(1e9, 2), falling(5), lambda x: pair(x).repeat(1, 2, 1, 1, 1))
    assert {output.shape for output in outputs} == {(2, *SHAPE)}
    latents = falling(1)[0].nbytes
    assert [record.bytes_held // latents for record in cache.steps] == [3, 3, 4, 4, 3]


def test_the_ranks_of_a_pair_follow_the_conditional_half():
    rows = []
    _, _ = follow(EasyCacheConfig(0.13, 2), falling(9), pair, lambda row: rows.append(row) or row[None])
    told = iter(rows)
    cache, outputs = follow(
        EasyCacheConfig(0.13, 2), falling(9), lambda x: -5 * x, lambda row: torch.stack((next(told), row))
    )
    assert computed(cache) == [0, 1, 4, 7, 8]
    assert float(outputs[3][0, 0, 0, 0, 0]) == pytest.approx(-4.375 - 0.25)


@pytest.mark.parametrize("config", [EasyCacheConfig(warmup=2), SeaCacheConfig()])
def test_ranks_that_disagree_all_say_so(config):
    def gather(row):
        return torch.stack((row, row + torch.eye(len(row))[0]))

    with pytest.raises(RuntimeError, match="the ranks of one video disagree"):
        follow(config, falling(4), pair, gather)


@pytest.mark.parametrize("config", [EasyCacheConfig(1e9, 0), SeaCacheConfig(1e9)])
def test_without_latents_there_is_no_decision(config):
    cache = start(config, [0.0] * 3, alone)
    cache.begin_step(1, 0.0)
    with pytest.raises(RuntimeError, match="did not call observe_latents"):
        cache.predict(lambda: cache.should_compute(None))


@pytest.mark.parametrize("mix", [HALF, (0.1, 0.9), (0.8, 0.6), (0.0, 1.0), (1.0, 0.0)])
def test_wieners_gains(mix):
    a, b = (min(max(share, 1e-6), 1 - 1e-6) for share in mix)
    power = [1e16, 1 / (0.25**3 + 1e-16), 1 / (0.5**3 + 1e-16), 1 / (0.25**3 + 1e-16)]
    gains = [a * s / (a * a * s + b * b) for s in power]
    expected = [gain / (sum(gains) / 4) for gain in gains]
    assert wiener_gains(4, mix, 3.0).tolist() == pytest.approx(expected)
    assert wiener_gains(1, mix, 3.0).tolist() == [1.0]


def test_a_wave_is_scaled_by_the_gains_of_its_axes():
    t, _, w = torch.meshgrid(torch.arange(8), torch.arange(4), torch.arange(6), indexing="ij")
    wave = torch.cos(2 * math.pi * (3 * t / 8 + w / 6))[None, None]  # 3 in frames, 0 in rows, 1 in columns
    gains = [wiener_gains(size, HALF, 3.0)[at] for size, at in ((8, 3), (4, 0), (6, 1))]
    filtered = spectral_filter(wave, HALF, 3.0)
    torch.testing.assert_close(filtered, wave * float(math.prod(gains)), atol=1e-6, rtol=1e-5)
    assert float((spectral_filter(wave, (1.0, 0.0), 3.0) - wave).abs().max()) < 1e-5
    assert float(spectral_filter(wave, (0.01, 0.99), 3.0).abs().max()) < 0.1


def sea_steps(config, inputs, mixes=None):
    cache = start(config, [0.0] * len(inputs), alone)
    for step, x in enumerate(inputs):
        cache.begin_step(step, 0.0)
        cache.observe_latents(x, HALF if mixes is None else mixes[step])
        if cache.should_compute(lambda kind: pytest.fail("no signal is looked at")):
            cache.store(x, x)
    return cache.steps


def test_seacache_adds_up_changes_of_each_sample():
    """The filter is linear: with one mix, latents that are scaled have the change of the scale."""
    base = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([[1.0, 1.0], [1.1, 1.3], [1.1, 1.3], [2.2, 1.3], [2.2, 1.3]])
    steps = sea_steps(SeaCacheConfig(0.3), [base * row[:, None, None, None, None] for row in scale])
    assert [record.distance for record in steps[1:4]] == pytest.approx([0.2, 0.0, 0.5], abs=1e-6)
    assert [record.accumulated for record in steps[1:4]] == pytest.approx([0.2, 0.2, 0.7], abs=1e-6)
    assert [record.computed for record in steps] == [True, False, False, True, True]


def test_seacache_filters_each_step_by_its_own_noise():
    base = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    mixes = [(0.3, 0.7), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]
    steps = sea_steps(SeaCacheConfig(1e9), [base] * 4, mixes)
    before, after = (spectral_filter(base, mix, 3.0) for mix in mixes[:2])
    expected = float((after - before).abs().sum() / before.abs().sum())
    assert expected > 0.05
    assert [record.distance for record in steps[1:3]] == pytest.approx([expected, 0.0], rel=1e-4)


def test_seacache_bounds_the_skips_in_a_row():
    steps = sea_steps(SeaCacheConfig(1e9, max_consecutive_skips=2), [torch.ones(1, *SHAPE)] * 8)
    assert [record.step for record in steps if record.computed] == [0, 3, 6, 7]


def test_the_mix_of_data_and_noise():
    flow = RFlowScheduler()
    flow.set_timesteps(4)
    assert noise_mix(flow, 250.0) == (0.75, 0.25)
    sampler = ddim(5)
    alphas = sampler.alphas_cumprod.double().numpy()
    assert noise_mix(sampler, 600.0) == pytest.approx((alphas[600] ** 0.5, (1 - alphas[600]) ** 0.5))
    between = (alphas[600] + 3 * alphas[601]) / 4  # as Euler's ancestral steps
    assert noise_mix(sampler, 600.75) == pytest.approx((between**0.5, (1 - between) ** 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EasyCacheConfig(threshold=-0.1), "cache.threshold is -0.1"),
        (lambda: EasyCacheConfig(threshold=math.nan), "cache.threshold is nan"),
        (lambda: EasyCacheConfig(warmup=-1), "cache.warmup is -1"),
        (lambda: SeaCacheConfig(threshold=-1.0), "cache.threshold is -1.0"),
        (lambda: SeaCacheConfig(power=-1.0), "cache.power is -1.0"),
        (lambda: SeaCacheConfig(max_consecutive_skips=0), "cache.max_consecutive_skips is 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("place", ["stack", "output"])
def test_seacache_keeps_either(place):
    request = Request("opensora")
    config = SeaCacheConfig(0.5, forecast=Linear(), place=place)
    full, _ = loop(request, replace(config, threshold=0.0), Parallel())
    result, steps = loop(request, config, Parallel())
    assert 2 < sum(record.computed for record in steps) < len(steps)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, full)


@pytest.mark.parametrize("config", [EasyCacheConfig(speedup=2.0), SeaCacheConfig(min_psnr=30.0)])
def test_a_goal_without_a_calibration_is_estimated(config):
    settings = greediest(config)
    assert type(settings) is type(config)
    assert not settings.has_goal


# Thresholds that skip some of ten steps.
BUNDLED = {
    "opensora": (OpenSoraConfig, EasyCacheConfig(0.15, 3), SeaCacheConfig(0.2)),
    "latte": (LatteConfig, EasyCacheConfig(0.03, 3), SeaCacheConfig(0.4)),
}


@pytest.mark.parametrize("model", BUNDLED)
def test_the_bundled_checkpoints_skip_steps_and_stay_near(model):
    cls, *policies = BUNDLED[model]
    lines = ["num_inference_steps=10", "seed=1", "device=cpu"]
    prompt = "a small green ring grows on a grey background"
    with VideoSysEngine(load_config(cls, ROOT / f"examples/{model}/tiny.yaml", lines), quiet=True) as engine:
        full = engine.generate(prompt, cache="none").video[0].double()
        for cache in policies:
            output = engine.generate(prompt, cache=cache)
            assert 4 <= sum(record.computed for record in output.steps) <= 8
            error = (output.video[0] - full).square().mean()
            assert 10 * math.log10(255**2 / error) > 26


def test_sencache_follows_its_rule():
    """The latents move by 1/8 in each step, the timestep by 1: 2/8 + 0.1 for each step since the last one."""
    sensitivities = ((2.0, 0.1),) * 9
    config = SenCacheConfig(sensitivities, threshold=0.8, early_threshold=0.3, early=0.3)
    cache, outputs = follow(config, falling(9), pair)
    assert computed(cache) == [0, 1, 2, 5, 8]  # 0.35, 0.35, then 0.35, 0.7, 1.05
    assert cache.steps[4].rescaled == pytest.approx(0.7)
    assert torch.equal(outputs[4], outputs[2])
    bounded = replace(config, threshold=99.0, max_consecutive_skips=2)
    assert computed(follow(bounded, falling(9), pair)[0]) == [0, 1, 2, 5, 8]
    assert computed(follow(replace(config, threshold=0, early_threshold=0), falling(9), pair)[0]) == list(
        range(9)
    )


def test_sencache_needs_its_sensitivities():
    with pytest.raises(ValueError, match="sensitivities has 0 entries; SenCache needs one for each of the 9"):
        start(SenCacheConfig(), [0.0] * 9, alone)
    with pytest.raises(ValueError, match=r"cache.sensitivities\[0\] is \(-1.0, 0.0\)"):
        SenCacheConfig(((-1.0, 0.0),))
    with pytest.raises(ValueError, match=r"cache.early is 2.0; it must be 0 to 1"):
        SenCacheConfig(early=2.0)
    read = SenCacheConfig().resolved(
        lambda: None, lambda key: ({"sensitivities": ((1.0, 2.0),)}[key], "file")
    )
    assert read.sensitivities == ((1.0, 2.0),)


def bwcache(config, outputs):
    """The steps that a cache computes where the residuals of the steps are these numbers."""
    cache = start(config, [0.0] * len(outputs), alone)
    for step, value in enumerate(outputs):
        cache.begin_step(step, 1000.0 - step)
        x = torch.zeros(1, 4)
        if cache.should_compute(lambda kind: pytest.fail("no signal is looked at")):
            cache.store(x, x + value)
        else:
            cache.reuse(x)
    return cache


def test_bwcache_reuses_some_steps_after_a_small_change():
    """The change from step 1 to 2 is a tenth. Then three steps reuse, one computes, and its change counts."""
    outputs = [1.0, 2.0, 2.2, 0, 0, 0, 4.4, 9.0, 20.0, 46.0, 100.0, 5.0]
    cache = bwcache(BWCacheConfig(0.15, reuse=0.25), outputs)
    # From 2 to 6 it doubles: a quarter for each of four steps, so that 7 computes.
    assert computed(cache) == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert cache.steps[3].distance == pytest.approx(0.1)
    assert cache.steps[7].distance == pytest.approx(0.25)
    assert computed(bwcache(BWCacheConfig(0.0), outputs)) == list(range(12))
    assert computed(bwcache(BWCacheConfig(1e9, reuse=1.0), outputs)) == [0, 1, 11]
    with pytest.raises(ValueError, match=r"cache.reuse is 2.0; it must be 0 to 1"):
        BWCacheConfig(reuse=2.0)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (SeaCacheConfig(), "power", 1.5),
        (BWCacheConfig(), "reuse", 0.3),
        (BWCacheConfig(), "threshold", 0.3),
        (EasyCacheConfig(), "warmup", 3),
        (SenCacheConfig(((1.0, 1.0),) * 9), "early", 0.4),
        (SenCacheConfig(((1.0, 1.0),) * 9), "max_consecutive_skips", 1),
    ],
)
def test_ranks_tell_each_other_all_settings(config, field, value):
    one, same, other = (
        start(settings, [0.0] * 9, alone, 7)
        for settings in (config, config, replace(config, **{field: value}))
    )
    assert one.identity == same.identity
    assert one.identity != other.identity
    assert one.identity[0] == 7
