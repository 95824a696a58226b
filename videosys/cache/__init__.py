"""Caches: which steps compute, and what a skipped step uses instead. A new cache is one row in `registry`."""

from videosys.cache.base import NO_CACHE, Branch, Cache, GatherRows, RecordedCache, ResidualCache, StepRecord
from videosys.cache.calibration import Calibration, Setting, calibration_text, read_calibration
from videosys.cache.choice import choose, settle
from videosys.cache.forecast import FORECASTS, Fitted, Forecast, Hold, Linear
from videosys.cache.goal import Goal
from videosys.cache.interval import IntervalConfig
from videosys.cache.magcache import MagCacheConfig
from videosys.cache.pab import Broadcast, PABConfig
from videosys.cache.registry import CACHES, BestConfig, CacheConfig, NoCacheConfig, start
from videosys.cache.schedule import ScheduleConfig, ScheduleFile
from videosys.cache.scope import Scope
from videosys.cache.statistics import CacheStatistics, cache_statistics, plot_steps
from videosys.cache.teacache import TeaCache, TeaCacheConfig

__all__ = [
    "CACHES",
    "FORECASTS",
    "NO_CACHE",
    "BestConfig",
    "Branch",
    "Broadcast",
    "Cache",
    "CacheConfig",
    "CacheStatistics",
    "Calibration",
    "Fitted",
    "Forecast",
    "GatherRows",
    "Goal",
    "Hold",
    "IntervalConfig",
    "Linear",
    "MagCacheConfig",
    "NoCacheConfig",
    "PABConfig",
    "RecordedCache",
    "ResidualCache",
    "ScheduleConfig",
    "ScheduleFile",
    "Scope",
    "Setting",
    "StepRecord",
    "TeaCache",
    "TeaCacheConfig",
    "cache_statistics",
    "calibration_text",
    "choose",
    "plot_steps",
    "read_calibration",
    "settle",
    "start",
]
