"""What every cache promises: records, residuals, and clear errors instead of wrong pictures."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from videosys.cache import (
    CACHES,
    NO_CACHE,
    BestConfig,
    BWCacheConfig,
    Cache,
    EasyCacheConfig,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    NoCacheConfig,
    PABConfig,
    RecordedCache,
    ResidualCache,
    ScheduleConfig,
    SeaCacheConfig,
    SenCacheConfig,
    StepRecord,
    TeaCache,
    TeaCacheConfig,
    start,
)
from videosys.parallel import Parallel

TIMES = [1.0, 0.75, 0.5, 0.25]


def never(kind):
    raise AssertionError("the signal is not needed")


@pytest.mark.parametrize("cache", [NO_CACHE, Cache(), RecordedCache()])
def test_without_a_cache_every_step_computes_and_looks_at_no_signal(cache):
    for step, time in enumerate(TIMES):
        cache.begin_step(step, 1000 * time)
        assert cache.should_compute(never)


def test_no_cache_keeps_no_records():
    NO_CACHE.begin_step(0, 1000.0)
    NO_CACHE.should_compute(never)
    assert NO_CACHE.steps == []
    assert vars(NO_CACHE) == {}


def test_a_recorded_cache_writes_down_each_step():
    cache = RecordedCache()
    for step, time in enumerate(TIMES):
        cache.begin_step(step, 1000 * time)
        cache.should_compute(never)
    assert cache.steps == [StepRecord(i, 1000 * t, None, None, None, True) for i, t in enumerate(TIMES)]


def test_the_records_handed_out_are_a_copy():
    cache = RecordedCache()
    cache.should_compute(never)
    cache.steps.clear()
    assert len(cache.steps) == 1


def test_a_record_tells_what_its_step_has_left():
    cache = ResidualCache([1.0, 0.5], Linear())
    for step in range(2):
        cache.begin_step(step, 1000.0)
        cache.should_compute(never)
        assert cache.steps[step].bytes_held == 32 * step  # of the steps before, until this one stores
        cache.store(torch.zeros(8), torch.ones(8))
        assert [record.bytes_held for record in cache.steps] == [32, 64][: step + 1]


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StepRecord(0, 1.0, None, None, None, True).computed = False


@pytest.mark.parametrize("cache", [NO_CACHE, RecordedCache(), ResidualCache(TIMES)])
def test_store_returns_the_output_itself(cache):
    before, after = torch.tensor([1e8]), torch.tensor([1.0])
    assert cache.store(before, after) is after  # 1e8 + (1 - 1e8) is 0 in float32


@pytest.mark.parametrize("cache", [NO_CACHE, RecordedCache(), ResidualCache(TIMES)])
def test_reuse_before_store_is_an_error(cache):
    with pytest.raises(RuntimeError, match="nothing was stored"):
        cache.reuse(torch.ones(2))


def test_reuse_adds_the_last_difference():
    cache = ResidualCache(TIMES)
    cache.store(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 5.0]))
    cache.store(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 0.0]))
    assert torch.equal(cache.reuse(torch.tensor([10.0, 20.0])), torch.tensor([10.5, 18.0]))
    assert torch.equal(cache.reuse(torch.tensor([0.0, 0.0])), torch.tensor([0.5, -2.0]))


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (4, 2), (1,)])
def test_a_residual_of_another_shape_is_an_error_and_never_broadcast(shape):
    cache = ResidualCache(TIMES)
    cache.store(torch.zeros(2, 4), torch.ones(2, 4))
    with pytest.raises(RuntimeError, match=r"\(2, 4\).*serves one generation"):
        cache.reuse(torch.zeros(shape))


def test_first_and_last_step_are_forced_by_index():
    cache = ResidualCache(TIMES)
    forced = []
    for step in range(len(TIMES)):
        cache.begin_step(step, 500.0)
        forced.append(cache.is_forced)
    assert forced == [True, False, False, True]


def test_the_branches_of_a_layer_are_computed():
    result = object()
    assert NO_CACHE.layer("spatial", 3)("mlp", lambda: result) is result


EXAMPLES = [
    NoCacheConfig(),
    TeaCacheConfig(),
    IntervalConfig(),
    ScheduleConfig(computed=(0, 2)),
    MagCacheConfig(ratios=(1.0,) * 4),
    PABConfig(),
    EasyCacheConfig(),
    SeaCacheConfig(),
    BWCacheConfig(),
    SenCacheConfig(((1.0, 0.001),) * 4),
]


def test_every_cache_has_an_example_here():
    assert {type(config) for config in EXAMPLES} == {*CACHES.values()} - {BestConfig}


@pytest.mark.parametrize("config", EXAMPLES)
def test_every_registered_config_starts_a_fresh_cache(config):
    one, other = (start(config, TIMES, Parallel().gather_rows, 5) for _ in range(2))
    assert isinstance(one, RecordedCache)
    assert one is not other
    assert one.steps == []
    one.begin_step(0, 1000.0)
    assert one.should_compute(lambda kind: torch.ones(2))
    assert (len(one.steps), len(other.steps)) == (1, 0)


def test_the_names_of_the_caches():
    assert (CACHES["none"], CACHES["teacache"]) == (NoCacheConfig, TeaCacheConfig)
    assert isinstance(start(TeaCacheConfig(), TIMES, Parallel().gather_rows), TeaCache)
    assert type(start(NoCacheConfig(), TIMES, Parallel().gather_rows)) is RecordedCache
