"""The registry of policies, which other packages can extend, and the function `start`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from videosys.cache.base import Cache, GatherRows, RecordedCache
from videosys.cache.bwcache import BWCacheConfig
from videosys.cache.config import CacheConfig, Goal
from videosys.cache.easycache import EasyCacheConfig
from videosys.cache.interval import IntervalConfig
from videosys.cache.magcache import MagCacheConfig
from videosys.cache.pab import PABConfig
from videosys.cache.schedule import ScheduleConfig
from videosys.cache.seacache import SeaCacheConfig
from videosys.cache.sencache import SenCacheConfig
from videosys.cache.teacache import TeaCacheConfig
from videosys.utils.registry import Registry, calling_module, is_own_dataclass

Reference = Literal["published", "converged"]
PUBLISHED: Reference = "published"
CONVERGED: Reference = "converged"
GROUP = "videosys.caches"  # entry point group of installed packages


@dataclass(frozen=True)
class NoCacheConfig(CacheConfig):
    """No cache: every step computes."""

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return RecordedCache()


@dataclass(frozen=True)
class BestConfig(Goal):
    """The best plan of a calibration file for a goal: a policy and, for this package's models, solver, number
    of steps and grid.

    reference: the run to approximate: published is the full run of the published sampler, converged is a run
        of the same equation with enough steps to converge.
    """

    reference: Reference = PUBLISHED

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.has_goal:
            raise ValueError(
                "cache best needs a goal: set one or more of cache.speedup, cache.evaluations and "
                "cache.min_psnr"
            )

    def check_goal(self, replaces_fields: bool = True) -> None:
        super().check_goal(replaces_fields)


def check_policy(name: str, config_cls: Any, policies: Mapping[str, Any]) -> None:
    """ValueError unless the class is a frozen dataclass that subclasses CacheConfig."""
    if not is_own_dataclass(config_cls, CacheConfig):
        raise ValueError(
            f"cache {name!r} is {config_cls!r}; it must be a class with @dataclass(frozen=True) that "
            "subclasses videosys.CacheConfig"
        )


CACHES: Registry[type[CacheConfig]] = Registry(
    "cache",
    GROUP,
    {
        "none": NoCacheConfig,
        "teacache": TeaCacheConfig,
        "interval": IntervalConfig,
        "schedule": ScheduleConfig,
        "magcache": MagCacheConfig,
        "easycache": EasyCacheConfig,
        "seacache": SeaCacheConfig,
        "bwcache": BWCacheConfig,
        "sencache": SenCacheConfig,
        "pab": PABConfig,
        "best": BestConfig,
    },
    check_policy,
)


def register_cache(name: str, config_cls: type[CacheConfig]) -> None:
    """Add a policy to `CACHES` in this process, so that `cache: {name: NAME, ...}` creates a `config_cls`.

    Call it in the module that defines the class, because the processes of an engine with several devices also
    import this module. Installed packages declare an entry point in the group `videosys.caches` instead.
    ValueError unless the class is a frozen dataclass derived from CacheConfig, or if the name belongs to
    another policy or to a preset of another policy.
    """
    CACHES.register(name, config_cls, calling_module())


def start(config: CacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
    """Start a new cache for one generation; arguments as in `CacheConfig.start`.

    ValueError for a config with a goal: call `resolve_cache` first.
    """
    if isinstance(config, Goal) and config.has_goal:
        raise ValueError(f"{config} has a goal but no settings; call videosys.cache.resolve_cache first")
    return config.start(times, gather_rows, request_id)
