"""Caches: which steps compute, and what a skipped step uses. See docs/adding-a-cache.md."""

from videosys.cache.base import (
    NO_CACHE,
    Branch,
    Cache,
    FixedCache,
    GatherRows,
    RecordedCache,
    ResidualCache,
    StepRecord,
)
from videosys.cache.bwcache import BWCacheConfig
from videosys.cache.calibration import Calibration, Setting, calibration_text, read_calibration
from videosys.cache.choice import choose, choose_setting, find_plan, resolve_cache
from videosys.cache.config import CacheConfig, Goal
from videosys.cache.easycache import EasyCacheConfig
from videosys.cache.forecast import FORECASTS, Fitted, Forecast, Hermite, Hold, Linear, Taylor
from videosys.cache.interval import IntervalConfig
from videosys.cache.magcache import MagCacheConfig
from videosys.cache.pab import Broadcast, PABConfig
from videosys.cache.registry import CACHES, BestConfig, NoCacheConfig, register_cache, start
from videosys.cache.run_spec import RunSpec
from videosys.cache.schedule import ScheduleConfig, ScheduleFile
from videosys.cache.seacache import SeaCacheConfig
from videosys.cache.sencache import SenCacheConfig
from videosys.cache.statistics import CacheStatistics, cache_statistics, plot_steps
from videosys.cache.teacache import TeaCache, TeaCacheConfig

__all__ = [
    "CACHES",
    "FORECASTS",
    "NO_CACHE",
    "BWCacheConfig",
    "BestConfig",
    "Branch",
    "Broadcast",
    "Cache",
    "CacheConfig",
    "CacheStatistics",
    "Calibration",
    "EasyCacheConfig",
    "Fitted",
    "FixedCache",
    "Forecast",
    "GatherRows",
    "Goal",
    "Hermite",
    "Hold",
    "IntervalConfig",
    "Linear",
    "MagCacheConfig",
    "NoCacheConfig",
    "PABConfig",
    "RecordedCache",
    "ResidualCache",
    "RunSpec",
    "ScheduleConfig",
    "ScheduleFile",
    "SeaCacheConfig",
    "SenCacheConfig",
    "Setting",
    "StepRecord",
    "Taylor",
    "TeaCache",
    "TeaCacheConfig",
    "cache_statistics",
    "calibration_text",
    "choose",
    "choose_setting",
    "find_plan",
    "plot_steps",
    "read_calibration",
    "register_cache",
    "resolve_cache",
    "start",
]
