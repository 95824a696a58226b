"""Caches: which steps compute, and what a skipped step uses instead. A new cache is one row here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from videosys.cache.base import NO_CACHE, Branch, Cache, GatherRows, RecordedCache, ResidualCache, StepRecord
from videosys.cache.teacache import TeaCache, TeaCacheConfig


@dataclass(frozen=True)
class NoCacheConfig:
    """Every step computes."""


CacheConfig = NoCacheConfig | TeaCacheConfig

CACHES = MappingProxyType({"none": NoCacheConfig, "teacache": TeaCacheConfig})

_BUILDERS: MappingProxyType[type, Callable[..., Cache]] = MappingProxyType(
    {
        NoCacheConfig: lambda config, times, gather_rows, request_id: RecordedCache(),
        TeaCacheConfig: TeaCache,
    }
)


def start(config: CacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
    """A fresh cache for one generation.

    times: the sampler's own time at each model evaluation; gather_rows and request_id as in `TeaCache`.
    """
    return _BUILDERS[type(config)](config, times, gather_rows, request_id)


__all__ = [
    "CACHES",
    "NO_CACHE",
    "Branch",
    "Cache",
    "CacheConfig",
    "GatherRows",
    "NoCacheConfig",
    "RecordedCache",
    "ResidualCache",
    "StepRecord",
    "TeaCache",
    "TeaCacheConfig",
    "start",
]
