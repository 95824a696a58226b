"""The arguments of `cached`: a policy with its settings, or a goal and its calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from videosys.cache import (
    CACHES,
    BestConfig,
    CacheConfig,
    Calibration,
    EasyCacheConfig,
    Goal,
    MagCacheConfig,
    PABConfig,
    SeaCacheConfig,
    SenCacheConfig,
    TeaCacheConfig,
    read_calibration,
)
from videosys.cache.base import OUTPUT, STACK
from videosys.diffusers.places import AUTO
from videosys.utils.plain import name_in
from videosys.utils.typed import listing

WATCHED = "modulated"  # the signal of TeaCache
GIVEN = "the calibration"  # name of the source of settings in messages
Given = Calibration | str | Path | None


def settings(
    cache: str | CacheConfig | None, calibration: Given, speedup: float | None, min_psnr: float | None
) -> tuple[CacheConfig, Calibration | None, str]:
    """(settings or goal, the calibration it needs, its name in messages); ValueError for invalid ones."""
    config = policy(cache, speedup, min_psnr)
    own = config.calibration if isinstance(config, Goal) else None
    found, where = read(own if calibration is None else calibration)
    if not isinstance(config, Goal):
        return config, found, where
    if found is None and (config.has_goal or (isinstance(config, MagCacheConfig) and not config.ratios)):
        asked = "a goal needs" if config.has_goal else "cache magcache without ratios needs"
        raise ValueError(f"{asked} a calibration; videosys.diffusers.calibrate creates one")
    return dataclasses.replace(config, calibration=where if found else None), found, where


def read(given: Given) -> tuple[Calibration | None, str]:
    """A calibration and its name; ValueError for anything else."""
    if given is None or isinstance(given, Calibration):
        return given, GIVEN
    if not isinstance(given, (str, Path)):
        raise ValueError(f"calibration is {given!r}; it must be a calibration or its file")
    return read_calibration(given), str(given)


def policy(cache: str | CacheConfig | None, speedup: float | None, min_psnr: float | None) -> CacheConfig:
    """The settings, with a goal if one is set."""
    given = {"speedup": speedup, "min_psnr": min_psnr}
    goals: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if cache is None and not goals:
        raise ValueError("no cache is selected; set cache, speedup or min_psnr")
    config = named(cache, goals) if isinstance(cache, str) else cache or BestConfig(**goals)
    if not isinstance(config, CacheConfig):
        raise ValueError(f"cache is {cache!r}; it must be the name of a policy or its settings")
    if goals and not isinstance(config, Goal):
        raise ValueError(f"{type(config).__name__} does not support {' or '.join(goals)}")
    check_policy(config)
    return dataclasses.replace(config, **goals) if goals else config


def named(name: str, goals: dict[str, Any]) -> CacheConfig:
    """The policy with this name, with the goal if it accepts one."""
    if name not in CACHES:
        raise ValueError(f"cache is {name!r}; allowed: {listing(CACHES)}")
    cls = CACHES[name]
    return cls(**goals) if issubclass(cls, Goal) else cls()


def check_policy(config: CacheConfig) -> None:
    """ValueError for settings that apply only to this package's models."""
    if isinstance(config, TeaCacheConfig) and config.signal != WATCHED:
        raise ValueError(f"cache.signal is {config.signal!r}; for pipelines of diffusers it is {WATCHED!r}")
    if isinstance(config, EasyCacheConfig | SeaCacheConfig | SenCacheConfig):
        name = name_in(CACHES, config)
        raise ValueError(f"cache {name} needs the latents of our own loop, which diffusers does not provide")
    if isinstance(config, PABConfig):
        raise ValueError("cache pab needs our own blocks; diffusers has PyramidAttentionBroadcastConfig")


def check_place_name(place: Any) -> None:
    """ValueError for an unknown place."""
    if place not in (AUTO, OUTPUT, STACK):
        raise ValueError(f"place is {place!r}; allowed: {AUTO}, {OUTPUT}, {STACK}")


def place_of(place: str, config: CacheConfig, is_calibrated: bool) -> str:
    """The requested place, or for `auto` that of the settings if it is output or calibrated.

    ValueError for an unknown place, or one that was not calibrated.
    """
    check_place_name(place)
    if is_calibrated and place not in (AUTO, config.place):
        raise ValueError(f"place is {place!r}; the calibration has these settings for {config.place!r}")
    own = config.place if is_calibrated or config.place == OUTPUT else AUTO
    return own if place == AUTO else place


def without_place(config: CacheConfig) -> CacheConfig:
    """Settings for a cache that keeps its inputs, independent of the place."""
    changes: dict[str, Any] = {} if config.place == STACK else {"place": STACK}
    return dataclasses.replace(config, **changes)
