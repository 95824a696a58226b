"""Replaces goals (a speedup, a PSNR) by settings of a policy from a calibration file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videosys.cache.calibration import Calibration, Setting, read_calibration
from videosys.cache.config import BESIDE_WEIGHTS, CacheConfig, Goal
from videosys.cache.registry import BestConfig
from videosys.cache.run_spec import RunSpec

CALIBRATION_PATTERN = "calibration*.json"
_LOG = logging.getLogger("videosys.cache")
ADVICE = "`python -m videosys.calibration` writes one"


def resolve_cache(
    config: CacheConfig,
    run: Callable[[], RunSpec],
    folder: str | Path | None = None,
    given: tuple[Calibration, str] | None = None,
) -> CacheConfig:
    """Return the config with all values from files: a goal is replaced by settings that reach it.

    run: returns the run about to start, which every file is compared with; called only if needed.
    folder: of the transformer, searched for calibration files if the config does not name one.
    given: a calibration that replaces all files, already compared, and its name for messages.
    ValueError if a file is missing, damaged or for another run, or if no setting reaches the goal.
    """

    def found() -> tuple[Calibration, str]:
        return given or find_calibration(config, run(), folder)

    if isinstance(config, Goal) and config.has_goal:
        calibration, path = found()
        policy = choose(config, calibration.settings, path)
        config = replace(policy, device=config.device) if isinstance(policy, Goal) else policy

    def calibrated(key: str) -> tuple[Any, str]:
        calibration, path = found()
        value = getattr(calibration, key)
        if value is None:
            raise ValueError(f"{path}: has no {key}")
        return value, path

    return config.resolved(run, calibrated)


def find_calibration(config: CacheConfig, run: RunSpec, folder: str | Path | None) -> tuple[Calibration, str]:
    """The calibration named in the config, else the matching one next to the weights; and its path."""
    path = config.calibration if isinstance(config, Goal) else None
    if path not in (None, BESIDE_WEIGHTS):
        calibration = read_calibration(path)
        calibration.scope.check(run, path)
        return calibration, path
    paths = sorted(Path(folder).glob(CALIBRATION_PATTERN)) if folder else []
    if not paths:
        raise ValueError(
            f"cache {_name(config)} needs a calibration, and there is no {CALIBRATION_PATTERN} in "
            f"{folder or 'the transformer'}; name a file with cache.calibration ({ADVICE})"
        )
    calibration, where = min(_readable(paths), key=lambda pair: pair[0].scope.distance(run))
    calibration.scope.check(run, where)
    return calibration, where


def _readable(paths: Sequence[Path]) -> Iterator[tuple[Calibration, str]]:
    """The readable calibrations, with a warning for each other file; ValueError if there are none."""
    problems = []
    for path in paths:
        try:
            yield read_calibration(path), str(path)
        except ValueError as error:
            problems.append(error)
    if len(problems) == len(paths):
        raise problems[0]
    for problem in problems:
        _LOG.warning("%s (not used)", problem)


def choose(config: Goal, settings: Sequence[Setting], where: str) -> CacheConfig:
    """The measured policy that reaches the goal: for a speedup the one with the best PSNR, else the fastest.

    where: the file of the settings, for errors. ValueError if no setting reaches the goal.
    """
    is_any = isinstance(config, BestConfig)
    candidates = [row for row in settings if is_any or type(row.policy) is type(config)]
    if not candidates:
        names = ", ".join(sorted({_name(row.policy) for row in settings}))
        raise ValueError(f"{where}: has no settings of {_name(config)}; it has some of {names}")
    least = (config.speedup or 0, config.min_psnr or 0)
    fitting = [row for row in candidates if row.speedup >= least[0] and row.quality >= least[1]]
    if not fitting:
        goals = {"speedup": config.speedup, "min_psnr": config.min_psnr}
        goal = " and ".join(f"{name} {value:g}" for name, value in goals.items() if value is not None)
        raise ValueError(f"{where}: no setting of {_name(config)} has {goal}; there are {_front(candidates)}")
    if config.speedup is None:
        return max(fitting, key=lambda row: (row.speedup, row.quality)).policy
    return max(fitting, key=lambda row: (row.quality, row.speedup)).policy


def _name(config: CacheConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def _front(settings: Iterable[Setting]) -> str:
    """The Pareto front of speedup and quality as text, the slowest settings first."""
    best = -math.inf
    front = []
    for row in sorted(settings, key=lambda row: (row.speedup, row.quality), reverse=True):
        if row.quality > best:
            best = row.quality
            # Rounded down, so that listed values can be requested.
            quality = best if math.isinf(best) else math.floor(10 * best) / 10
            front.append(f"{row.speedup:.2f}x at {quality:.1f} dB")
    return ", ".join(reversed(front))
