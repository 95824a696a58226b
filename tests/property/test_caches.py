"""Every policy on every model with its published sampler: what is promised of all of them."""

from __future__ import annotations

import functools
import threading

import pytest
import torch

from tests.distributed.models import Request, build, condition, latents
from videosys.cache import (
    CACHES,
    NO_CACHE,
    BestConfig,
    BWCacheConfig,
    EasyCacheConfig,
    Fitted,
    Hold,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    NoCacheConfig,
    PABConfig,
    ResidualCache,
    ScheduleConfig,
    SeaCacheConfig,
    SenCacheConfig,
    TeaCacheConfig,
    start,
)
from videosys.generation.denoise import Sampling, denoise
from videosys.parallel import Parallel
from videosys.schedulers import ddim, euler_ancestral, pndm
from videosys.schedulers.rflow import RFlowScheduler

SIZE = (3, 4, 6)
STEPS = 8
EVALUATIONS = {"opensora": STEPS, "latte": STEPS, "plan_v110": STEPS + 9, "plan_v120": STEPS}
MODELS = list(EVALUATIONS)


def always(count):
    """Settings with which every step, and every branch, computes."""
    return {
        "none": NoCacheConfig(),
        "teacache": TeaCacheConfig(0.0),
        "teacache of the time": TeaCacheConfig(0.0, signal="timestep", forecast=Linear()),
        "interval": IntervalConfig(1),
        "schedule": ScheduleConfig(computed=tuple(range(count)), forecast=Linear()),
        "magcache": MagCacheConfig(ratios=(1.0,) * count, retention=1.0),
        "easycache": EasyCacheConfig(0.0),
        "seacache": SeaCacheConfig(0.0, place="output"),
        "bwcache": BWCacheConfig(0.0),
        "sencache": SenCacheConfig(((1.0, 1.0),) * count, threshold=0.0, early_threshold=0.0),
        "pab of nothing": PABConfig(None, None, None, None),
        "pab of no range": PABConfig.pyramid((1, 1, 1), (0.0, 1000.0)),
    }


def skipping(count):
    """Settings with which some are skipped."""
    weights = tuple((0.5, 0.25) if step % 2 else (1.5,) for step in range(count))
    return {
        "teacache": TeaCacheConfig(1e9, max_consecutive_skips=2),
        "teacache linear": TeaCacheConfig(1e9, max_consecutive_skips=1, forecast=Linear()),
        "interval": IntervalConfig(3),
        "interval linear": IntervalConfig(2, Linear(damping=0.5, max_gap=1)),
        "schedule": ScheduleConfig(computed=(0, 1, 4)),
        "schedule fitted": ScheduleConfig(computed=(0, 1, 4), forecast=Fitted(weights)),
        "magcache": MagCacheConfig(ratios=(1.0,) * count, max_skips=2),
        "seacache": SeaCacheConfig(1e9, max_consecutive_skips=2),
        "bwcache": BWCacheConfig(1e9, reuse=0.25),
        "pab": PABConfig(mlp_spatial=((0.3, 2, (0,)),), mlp_joint=((0.3, 2, (1,)),)),
    }


def test_every_policy_is_here():
    here = {type(config) for configs in (always(8), skipping(8)) for config in configs.values()}
    assert here == {*CACHES.values()} - {BestConfig}


@functools.cache
def request_of(model, seed=0):
    return Request(model, size=SIZE, prompts=1 + seed)


@functools.cache
def built(model):
    return build(request_of(model), Parallel())


def sampler_of(model, source):
    if model == "opensora":
        scheduler = RFlowScheduler()
        scheduler.set_timesteps(STEPS, num_frames=17, height=32, width=48)
        return scheduler
    build_sampler = {"latte": ddim, "plan_v110": pndm, "plan_v120": euler_ancestral}[model]
    return build_sampler(STEPS, generator=source) if model == "plan_v120" else build_sampler(STEPS)


@torch.no_grad()
def generate(model, config, seed=0, progress=None, watch=None):
    """The final latents, and the cache."""
    request, source = request_of(model, seed), torch.Generator().manual_seed(seed)
    sampler = sampler_of(model, source)
    cache = NO_CACHE if config is None else start(config, sampler.times(), Parallel().gather_rows)
    if watch is not None:
        watch(cache)
    noise = latents(request) * getattr(sampler, "init_noise_sigma", 1.0)
    prepared = condition(built(model), request, Parallel())
    sampling = Sampling(request.guidance_scale, source, progress=progress)
    return denoise(built(model), sampler, noise, prepared, sampling, cache, Parallel()), cache


@functools.cache
def plain(model):
    return generate(model, None)[0]


@pytest.mark.parametrize("name", always(8))
@pytest.mark.parametrize("model", MODELS)
def test_a_policy_that_always_computes_changes_no_bit(model, name):
    check_always(model, always(EVALUATIONS[model])[name])


def check_always(model, config):
    result, cache = generate(model, config)
    assert torch.equal(result, plain(model))
    assert [record.computed for record in cache.steps] == [True] * EVALUATIONS[model]
    assert all(record.reused == 0 for record in cache.steps)


class Spy:
    """What a residual cache was given and gave, step by step."""

    def __init__(self):
        self.before, self.after, self.reused = {}, {}, {}

    def __call__(self, cache):
        store, reuse = cache.store, cache.reuse

        def stored(before, after):
            self.before[cache.step], self.after[cache.step] = before, after
            return store(before, after)

        def reused(x):
            self.reused[cache.step] = (x, reuse(x))
            return self.reused[cache.step][1]

        cache.store, cache.reuse = stored, reused


def by_hand(forecast, step, residuals, times):
    """The forecast of a step, written again and plainly; residuals: step -> residual, the oldest first."""
    (newest, *older) = reversed(residuals)
    if isinstance(forecast, Hold) or not older:
        return residuals[newest]
    if isinstance(forecast, Linear):
        if times[newest] == times[older[0]]:
            return residuals[newest]
        reached = step if forecast.max_gap is None else min(step, newest + forecast.max_gap)
        slope = (residuals[newest] - residuals[older[0]]) / (times[newest] - times[older[0]])
        return residuals[newest] + forecast.damping * (times[reached] - times[newest]) * slope
    weights = forecast.weights_per_step[step]
    return sum(weight * residuals[at] for weight, at in zip(weights, (newest, *older)))


@pytest.mark.parametrize("name", skipping(8))
@pytest.mark.parametrize("model", MODELS)
def test_what_is_skipped_and_what_is_used_instead(model, name):
    check_skipping(model, skipping(EVALUATIONS[model])[name])


def check_skipping(model, config):
    spy = Spy()
    result, cache = generate(model, config, watch=spy)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, plain(model))
    for end in (cache.steps[0], cache.steps[-1]):
        assert (end.computed, end.reused) == (True, 0)
    if not isinstance(cache, ResidualCache):
        assert sum(record.reused for record in cache.steps) > 0
        return
    assert len(spy.after) + len(spy.reused) == EVALUATIONS[model]
    assert sorted(spy.after) == [record.step for record in cache.steps if record.computed]
    assert spy.reused
    for step, (x, used) in spy.reused.items():
        residuals = {at: spy.after[at] - spy.before[at] for at in spy.after if at < step}
        expected = x + by_hand(cache.forecast, step, residuals, cache.times)
        torch.testing.assert_close(used, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", skipping(8))
@pytest.mark.parametrize("model", MODELS)
def test_interleaved_generations_do_not_meet(model, name):
    check_interleaved(model, skipping(EVALUATIONS[model])[name])


@pytest.mark.parametrize("model", MODELS)
def test_the_prediction_is_kept_and_generations_do_not_meet(model):
    check_interleaved(model, EasyCacheConfig(1e9, 3))
    result, cache = generate(model, EasyCacheConfig(1e9, 3))
    assert torch.isfinite(result).all()
    last = EVALUATIONS[model] - 1
    assert [record.step for record in cache.steps if record.computed] == [0, 1, 2, last]


def check_interleaved(model, config):
    """Step by step in turn, on one model, with other latents and another batch size."""
    together = threading.Barrier(2, timeout=60)
    alone = [generate(model, config, seed) for seed in (0, 1)]
    results = {}

    def run(seed):
        results[seed] = generate(model, config, seed, progress=together.wait)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, (result, cache) in enumerate(alone):
        assert torch.equal(results[seed][0], result)
        assert results[seed][1].steps == cache.steps


@pytest.mark.parametrize("name", sorted({*skipping(8)} - {"seacache"}))  # which keeps latents too
def test_what_is_held_is_said(name):
    check_held(skipping(STEPS)[name])


def check_held(config):
    _, cache = generate("latte", config)
    tokens = 2 * SIZE[0] * (SIZE[1] // 2) * (SIZE[2] // 2) * built("latte").config.hidden_size * 4
    most = max(record.bytes_held for record in cache.steps)
    assert most % tokens == 0
    assert most >= tokens
