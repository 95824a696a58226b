"""What a policy from outside must be, and what it needs not have."""

from __future__ import annotations

import dataclasses
import threading
from collections import ChainMap
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import pytest
import torch

from videosys.cache import (
    CACHES,
    CacheConfig,
    FixedCache,
    Goal,
    PABConfig,
    Setting,
    TeaCacheConfig,
    choose,
    register_cache,
    start,
)
from videosys.cache.registry import check_policy
from videosys.generation.config import cache_field
from videosys.models import FAMILIES
from videosys.utils.plain import from_mapping, to_plain
from videosys.utils.registry import Registry


@dataclass(frozen=True)
class HalfConfig(CacheConfig):
    """The first half of the steps compute."""

    def computed_steps(self, count):
        return frozenset(range(count // 2))


@dataclass(frozen=True)
class DenseConfig(Goal):
    first: int = 2

    def computed_steps(self, count):
        return frozenset(range(self.first))


class Undecorated(CacheConfig):
    """Its fields would be ignored."""

    every: int = 2


@dataclass
class NoPolicy:
    every: int = 2


def table():
    return Registry("cache", "videosys.no_such_group", {"teacache": TeaCacheConfig}, check_policy)


@pytest.mark.parametrize("entry", [Undecorated, NoPolicy, HalfConfig(), "HalfConfig", None, dict])
def test_what_is_no_policy_is_refused(entry):
    with pytest.raises(ValueError, match=r"cache 'mine' is .*must be a class with @dataclass\(frozen=True\)"):
        table().register("mine", entry, __name__)


def test_a_name_belongs_to_one_policy():
    caches = table()
    caches.register("dense", DenseConfig, __name__)
    caches.register("dense", DenseConfig, __name__)
    with pytest.raises(ValueError, match="cache 'dense' already exists"):
        caches.register("dense", HalfConfig, __name__)
    with pytest.raises(ValueError, match="cache 'teacache' already exists"):
        CACHES.register("teacache", HalfConfig, __name__)
    assert caches.modules == [__name__]
    assert CACHES.modules == []


def test_a_name_is_a_policy_or_a_preset_of_another():
    caches = table()
    caches.reserve({"half": HalfConfig, "fast": TeaCacheConfig})
    caches.reserve({"fast": HalfConfig, "teacache": TeaCacheConfig})  # of another model; and a policy's own
    caches.register("half", HalfConfig, __name__)
    with pytest.raises(ValueError, match="preset 'half' has the name of another cache"):
        caches.reserve({"half": DenseConfig})
    for policy in (DenseConfig, HalfConfig, TeaCacheConfig):
        with pytest.raises(ValueError, match="cache 'fast' has the name of a preset of another cache"):
            caches.register("fast", policy, __name__)


@pytest.mark.parametrize("name", ["teacache_fast", "pab_slow", "teacache_naive"])
def test_a_policy_cannot_take_the_name_of_a_preset(name):
    assert any(name in family.presets for family in FAMILIES.values())
    with pytest.raises(ValueError, match=f"cache '{name}' has the name of a preset of another cache"):
        register_cache(name, HalfConfig)
    assert name not in CACHES


def test_a_preset_cannot_take_the_name_of_a_policy():
    with pytest.raises(ValueError, match="preset 'teacache' has the name of another cache"):
        cache_field({"teacache": PABConfig()})
    assert cache_field({"pab": PABConfig()}).metadata["registry"]["pab"] == PABConfig()


def test_a_policy_without_fields_has_a_forecast_and_a_device():
    cache = start(HalfConfig(), [1.0, 0.75, 0.5, 0.25], lambda row: row[None])
    assert isinstance(cache, FixedCache)
    for step in range(4):
        cache.begin_step(step, 0.0)
        if cache.should_compute(lambda kind: pytest.fail("no signal is needed")):
            cache.store(torch.zeros(2), torch.ones(2))
        else:
            assert torch.equal(cache.reuse(torch.zeros(2)), torch.ones(2))
    assert [record.computed for record in cache.steps] == [True, True, False, True]


def test_a_policy_that_says_nothing_cannot_start():
    @dataclass(frozen=True)
    class EmptyConfig(CacheConfig):
        pass

    with pytest.raises(NotImplementedError, match="EmptyConfig must define `computed_steps` or `start`"):
        start(EmptyConfig(), [0.0], lambda row: row[None])


def test_other_threads_wait_for_the_entry_points(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    class Point:
        name, value, module = "half", "a:HalfConfig", "a"

        def load(self):
            begun.set()
            assert "none" not in caches  # a package may ask while it is loaded
            assert go_on.wait(60)
            return HalfConfig

    caches = table()
    monkeypatch.setattr("videosys.utils.registry.entry_points", lambda group: [Point()])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(caches.get, "half")
        assert begun.wait(60)
        second = threads.submit(caches.get, "half")
        assert wait([second], 0.2).not_done
        go_on.set()
        assert first.result(60) is second.result(60) is HalfConfig


def test_a_loop_over_a_table_may_add_to_it():
    caches = table()
    for name in caches:
        caches.register(f"{name}_2", DenseConfig, __name__)
    assert list(caches) == ["teacache", "teacache_2"]


def test_types_and_goals_are_checked_without_a_line_of_the_policys_own():
    with pytest.raises(ValueError, match="first must be a whole number"):
        DenseConfig(first=2.5)
    with pytest.raises(ValueError, match=r"cache\.speedup is 0\.5"):
        DenseConfig(speedup=0.5)
    with pytest.raises(ValueError, match=r"cache\.first cannot be combined with a goal"):
        DenseConfig(first=3, speedup=2.0)


def test_a_policy_of_a_live_table_is_read_and_written():
    caches = table()
    presets = ChainMap({"half": TeaCacheConfig(0.5)}, caches)

    @dataclass(frozen=True)
    class Run:
        cache: CacheConfig = dataclasses.field(metadata={"registry": presets})

    with pytest.raises(ValueError, match="must be one of 'teacache', 'half', got 'dense'"):
        from_mapping(Run, {"cache": "dense"})
    caches.register("dense", DenseConfig, __name__)
    run = from_mapping(Run, {"cache": {"name": "dense", "first": 3}})
    assert run.cache == DenseConfig(3)
    assert to_plain(run)["cache"]["name"] == "dense"
    assert from_mapping(Run, to_plain(run)) == run
    assert from_mapping(Run, {"cache": {"name": "half", "floor": True}}).cache == TeaCacheConfig(
        0.5, floor=True
    )


def test_a_policy_is_chosen_by_its_goal():
    rows = [Setting(DenseConfig(first), 2, speedup, 30.0, 0.9) for first, speedup in ((9, 1.2), (3, 2.0))]
    rows.append(Setting(HalfConfig(), 2, 3.0, 50.0, 0.9))
    assert choose(DenseConfig(speedup=1.5), rows, "a file") == DenseConfig(3)
    assert choose(DenseConfig(min_psnr=20.0), rows, "a file") == DenseConfig(3)
