"""The table of caches. A new one is a file, a line in the union, and a row in each of the two tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from videosys.cache.base import Cache, GatherRows, RecordedCache
from videosys.cache.goal import Goal
from videosys.cache.interval import FixedCache, IntervalConfig
from videosys.cache.magcache import MagCacheConfig
from videosys.cache.pab import PAB, PABConfig
from videosys.cache.schedule import ScheduleConfig
from videosys.cache.teacache import TeaCache, TeaCacheConfig
from videosys.utils.typed import check_types


@dataclass(frozen=True)
class NoCacheConfig:
    """Every step computes."""


@dataclass(frozen=True)
class BestConfig(Goal):
    """Whichever policy of a calibration file reaches the goal best."""

    def __post_init__(self) -> None:
        check_types(self)
        self.check_goal()
        if not self.has_goal:
            raise ValueError("cache best needs a goal: give cache.speedup, cache.min_psnr or both")


FixedConfig = IntervalConfig | ScheduleConfig | MagCacheConfig
CacheConfig = NoCacheConfig | TeaCacheConfig | FixedConfig | PABConfig | BestConfig

CACHES = MappingProxyType(
    {
        "none": NoCacheConfig,
        "teacache": TeaCacheConfig,
        "interval": IntervalConfig,
        "schedule": ScheduleConfig,
        "magcache": MagCacheConfig,
        "pab": PABConfig,
        "best": BestConfig,
    }
)


def _recorded(config: NoCacheConfig, times: Sequence[float], *_: Any) -> Cache:
    return RecordedCache()


def _fixed(config: FixedConfig, times: Sequence[float], *_: Any) -> Cache:
    return FixedCache(config.computed_steps(len(times)), times, config.forecast, config.device)


def _pab(config: PABConfig, times: Sequence[float], *_: Any) -> Cache:
    return PAB(config, times)


_BUILDERS: MappingProxyType[type, Callable[..., Cache]] = MappingProxyType(
    {
        NoCacheConfig: _recorded,
        TeaCacheConfig: TeaCache,
        IntervalConfig: _fixed,
        ScheduleConfig: _fixed,
        MagCacheConfig: _fixed,
        PABConfig: _pab,
    }
)


def start(config: CacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
    """A fresh cache for one generation.

    times: the sampler's own time at each model evaluation; gather_rows and request_id as in `TeaCache`.
    ValueError for a config with a goal: `settle` finds its settings first.
    """
    if isinstance(config, Goal) and config.has_goal:
        raise ValueError(f"{config} has a goal and no settings yet; videosys.cache.settle finds them")
    return _BUILDERS[type(config)](config, times, gather_rows, request_id)
