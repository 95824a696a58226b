"""Replaces goals (a speed-up, a PSNR) by settings from a calibration file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videosys.cache.calibration import Calibration, Setting, read_calibration
from videosys.cache.config import BESIDE_WEIGHTS, CacheConfig, Goal
from videosys.cache.registry import PUBLISHED, BestConfig, Reference
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
    """Return the config with all values from files resolved; a goal is replaced by settings that reach it.

    run: returns the run about to start, to compare files with; called only if needed.
    folder: of the transformer; searched for calibration files if the config does not name one.
    given: (a calibration to use instead of files, already compared; its name for messages).
    ValueError if a file is missing, damaged or for another run, or if no setting reaches the goal.
    """

    def found() -> tuple[Calibration, str]:
        return given or find_calibration(config, run(), folder)

    if isinstance(config, Goal) and config.has_goal:
        calibration, path = found()
        policy = choose(config, calibration.choices, path)
        config = replace(policy, device=config.device) if isinstance(policy, Goal) else policy

    def calibrated(key: str) -> tuple[Any, str]:
        calibration, path = found()
        value = getattr(calibration, key)
        if value is None:
            raise ValueError(f"{path}: has no {key}")
        return value, path

    return config.resolved(run, calibrated)


def find_calibration(config: CacheConfig, run: RunSpec, folder: str | Path | None) -> tuple[Calibration, str]:
    """(the calibration named in the config, or else the matching one next to the weights, its path)."""
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
    """Yield the readable calibrations and log a warning for other files. ValueError if there are none."""
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


def find_plan(
    config: CacheConfig, run: Callable[[], RunSpec], folder: str | Path | None
) -> tuple[Setting, str] | None:
    """(the plan for the goal of a config, its file); with `best` it may have another sampler. None without a
    goal.

    Arguments and errors as in `resolve_cache`.
    """
    if not isinstance(config, Goal) or not config.has_goal:
        return None
    calibration, path = find_calibration(config, run(), folder)
    rows = calibration.choices if isinstance(config, BestConfig) else own_sampler(calibration.choices)
    return choose_setting(config, rows, path), path


def own_sampler(settings: Sequence[Setting]) -> list[Setting]:
    """The settings with the file's sampler."""
    return [row for row in settings if not row.config]


def choose(config: Goal, settings: Sequence[Setting], where: str) -> CacheConfig:
    """The policy from `choose_setting`, limited to settings with the file's sampler."""
    return choose_setting(config, own_sampler(settings), where).policy


def choose_setting(config: Goal, settings: Sequence[Setting], where: str) -> Setting:
    """The measured setting that reaches the goal: for a budget (speedup, evaluations) the one with the best
    PSNR, else the fastest. So a larger budget never gives a worse setting.

    where: the file of the settings, for errors. ValueError if no setting reaches the goal.
    """
    candidates = _measured(config, settings, where)
    fitting = [(row, psnr) for row, psnr in candidates if _reaches(config, row, psnr)]
    if not fitting:
        goal = " and ".join(f"{name} {value:g}" for name, value in config.goals.items() if value is not None)
        reference = _reference(config)
        against = "" if reference == PUBLISHED else f" (PSNR against the {reference} run)"
        raise ValueError(
            f"{where}: no setting of {_name(config)} has {goal}; available: "
            f"{_available(config, candidates)}{against}"
        )
    if config.speedup is None and config.evaluations is None:
        return max(fitting, key=lambda pair: (pair[0].speedup, pair[1]))[0]
    return max(fitting, key=lambda pair: (pair[1], pair[0].speedup))[0]


def _measured(config: Goal, settings: Sequence[Setting], where: str) -> list[tuple[Setting, float]]:
    """The policy's settings, each with its PSNR against the reference. ValueError if there are none."""
    is_any = isinstance(config, BestConfig)
    candidates = [row for row in settings if is_any or type(row.policy) is type(config)]
    if not candidates:
        names = ", ".join(sorted({_name(row.policy) for row in settings}))
        raise ValueError(f"{where}: has no settings of {_name(config)}; it has some of {names}")
    reference = _reference(config)
    pairs = [(row, psnr) for row in candidates if (psnr := row.near(reference)) is not None]
    if not pairs:
        raise ValueError(
            f"{where}: cache.reference is {reference}, but no setting has psnr_{reference}; available: "
            f"{PUBLISHED} ({ADVICE})"
        )
    return pairs


def _reference(config: Goal) -> Reference:
    """The run that the PSNR is measured against."""
    return config.reference if isinstance(config, BestConfig) else PUBLISHED


def _reaches(goal: Goal, row: Setting, psnr: float) -> bool:
    most = math.inf if goal.evaluations is None else goal.evaluations
    return row.speedup >= (goal.speedup or 0) and row.computed <= most and psnr >= (goal.min_psnr or 0)


def _name(config: CacheConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def _available(config: Goal, settings: Sequence[tuple[Setting, float]]) -> str:
    """The best settings as text, slowest first: those that no other one exceeds in all figures of the goal.

    Figures are rounded to values that can be requested.
    """
    has_evaluations = config.evaluations is not None
    has_speedup = config.speedup is not None or not has_evaluations
    rows = {
        (
            _rounded_down(row.speedup, 2) if has_speedup else 0.0,
            -math.ceil(row.computed) if has_evaluations else 0,
            _rounded_down(psnr, 1),
        )
        for row, psnr in settings
    }
    best = [row for row in rows if not any(_exceeds(other, row) for other in rows)]
    texts = []
    for speedup, computed, psnr in sorted(best):
        work = [f"{speedup:.2f}x"] if has_speedup else []
        work += [f"{-computed} evaluations"] if has_evaluations else []
        texts.append(f"{' with '.join(work)} at {psnr:.1f} dB")
    return ", ".join(texts)


def _exceeds(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(x >= y for x, y in zip(one, other))


def _rounded_down(value: float, digits: int) -> float:
    """The largest number that has at most this many decimal places and is not above the value."""
    if math.isinf(value):
        return value
    nearest = round(value, digits)
    return nearest if nearest <= value else round(nearest - 10**-digits, digits)
