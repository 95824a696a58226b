"""Turns what a user wants (a speed-up, a quality) into the settings of a policy, by a calibration file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videosys.cache.calibration import Calibration, Setting, read_calibration
from videosys.cache.goal import BESIDE, Goal
from videosys.cache.magcache import MagCacheConfig
from videosys.cache.registry import BestConfig, CacheConfig
from videosys.cache.schedule import ScheduleConfig
from videosys.cache.scope import Scope
from videosys.cache.teacache import MODULATED, TeaCacheConfig

PATTERN = "calibration*.json"
_LOG = logging.getLogger("videosys.cache")
ADVICE = "`python -m videosys.calibration` writes one"


def settle(config: CacheConfig, run: Callable[[], Scope], folder: str | Path | None = None) -> CacheConfig:
    """The config with nothing left to look up: goals become settings, and files are read.

    run: gives what is about to be generated, with which every file is compared.
    folder: of the transformer, where calibration files are looked for when the config names none.
    TeaCache with a calibration and no goal takes its coefficients from there, which never count below zero,
    and MagCache its ratios.
    ValueError where a file is missing, damaged or for another run, and where no setting reaches the goal.
    """
    if isinstance(config, Goal) and config.has_goal:
        calibration, where = find(config, run(), folder)
        found = choose(config, calibration.settings, where)
        config = replace(found, device=config.device) if isinstance(found, Goal) else found
    if isinstance(config, ScheduleConfig):
        return config.for_run(run())
    if isinstance(config, TeaCacheConfig) and config.calibration and config.coefficients is None:
        return _rescaled(config, run(), folder)
    if isinstance(config, MagCacheConfig) and not config.ratios:
        ratios, _ = _learnt(config, "ratios", run(), folder)
        return replace(config, ratios=ratios)
    return config


def _rescaled(config: TeaCacheConfig, run: Scope, folder: str | Path | None) -> TeaCacheConfig:
    """TeaCache with a calibration's coefficients, which count as 0 where they fall below."""
    value, where = _learnt(config, "coefficients", run, folder)
    if config.signal != MODULATED:
        _LOG.warning(
            "%s has coefficients of the %s input; those of the %s are [1, 0]", where, MODULATED, config.signal
        )
    return replace(config.with_coefficients(value), floor=True)


def _learnt(config: Goal, name: str, run: Scope, folder: str | Path | None) -> tuple[Any, str]:
    """What a field of the calibration says, and the calibration's name."""
    calibration, where = find(config, run, folder)
    value = getattr(calibration, name)
    if value is None:
        raise ValueError(f"{where}: has no {name}")
    return value, where


def find(config: Goal, run: Scope, folder: str | Path | None) -> tuple[Calibration, str]:
    """The calibration that the config names, or the fitting one beside the weights; and its name."""
    if config.calibration not in (None, BESIDE):
        calibration = read_calibration(config.calibration)
        calibration.scope.check(run, config.calibration)
        return calibration, config.calibration
    paths = sorted(Path(folder).glob(PATTERN)) if folder else []
    if not paths:
        raise ValueError(
            f"cache {_name(config)} needs a calibration, and there is no {PATTERN} in "
            f"{folder or 'the transformer'}; name a file with cache.calibration ({ADVICE})"
        )
    return _fitting(paths, run)


def _fitting(paths: Sequence[Path], run: Scope) -> tuple[Calibration, str]:
    """The calibration that fits, else the one that is the nearest to the run; of several the first."""
    read = list(_readable(paths))
    calibration, where = min(read, key=lambda pair: pair[0].scope.distance(run))
    calibration.scope.check(run, where)
    return calibration, where


def _readable(paths: Sequence[Path]) -> Iterator[tuple[Calibration, str]]:
    """Those that can be read, with a warning for each other; ValueError where there is none."""
    problems = []
    for path in paths:
        try:
            yield read_calibration(path), str(path)
        except ValueError as error:
            problems.append(error)
    if len(problems) == len(paths):
        raise problems[0]
    for problem in problems:
        _LOG.warning("%s (not taken)", problem)


def choose(config: Goal, settings: Sequence[Setting], where: str) -> CacheConfig:
    """The policy that reaches the goal: with a speed-up asked for the best picture, else the fastest."""
    same = [row for row in settings if isinstance(config, BestConfig) or type(row.policy) is type(config)]
    if not same:
        measured = ", ".join(sorted({_name(row.policy) for row in settings}))
        raise ValueError(f"{where}: has no settings of {_name(config)}; it has some of {measured}")
    fitting = [
        row for row in same if row.speedup >= (config.speedup or 0) and row.quality >= (config.min_psnr or 0)
    ]
    if not fitting:
        raise ValueError(
            f"{where}: no setting of {_name(config)} has {_goal(config)}; there are {_listed(same)}"
        )
    if config.speedup is None:
        return max(fitting, key=lambda row: (row.speedup, row.quality)).policy
    return max(fitting, key=lambda row: (row.quality, row.speedup)).policy


def _name(config: CacheConfig | Goal) -> str:
    return type(config).__name__.removesuffix("Config")


def _goal(config: Goal) -> str:
    speedup = [] if config.speedup is None else [f"speedup {config.speedup:g}"]
    return " and ".join([*speedup, *([] if config.min_psnr is None else [f"min_psnr {config.min_psnr:g}"])])


def _listed(settings: Iterable[Setting]) -> str:
    """Those that nothing else beats in both, the slowest first."""
    best = -math.inf
    kept = []
    for row in sorted(settings, key=lambda row: (row.speedup, row.quality), reverse=True):
        if row.quality > best:
            best = row.quality
            kept.append(f"{row.speedup:.2f}x at {_rounded_down(row.quality):.1f} dB")
    return ", ".join(reversed(kept))


def _rounded_down(quality: float) -> float:
    """To a tenth, so that what is listed can be asked for."""
    return quality if math.isinf(quality) else math.floor(10 * quality) / 10
