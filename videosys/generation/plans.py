"""Plans of a calibration: a combination of solver, steps, grid and cache."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from videosys.cache import (
    CacheConfig,
    Fitted,
    Goal,
    Hermite,
    Linear,
    NoCacheConfig,
    ScheduleConfig,
    Setting,
    Taylor,
)
from videosys.cache.base import OUTPUT
from videosys.cache.registry import CACHES
from videosys.generation.config import PipelineConfig, with_changes
from videosys.utils.plain import Place, build, name_in

C = TypeVar("C", bound=PipelineConfig)


def with_plan(config: C, plan: Setting, where: str = "") -> C:
    """The config with the sampler and the policy of a plan. ValueError if they do not fit the model.

    where: prefix of errors.
    """
    device = config.cache.device
    config = build(type(config), [plan.config], config, Place(where, "config"))
    policy = plan.policy
    return replace(config, cache=replace(policy, device=device) if isinstance(policy, Goal) else policy)


def plan_settings(config: Any) -> dict[str, Any]:
    """The config fields that a plan sets."""
    return {name: getattr(config, name) for name in ("scheduler", "num_inference_steps", "cache")}


def sampler_text(config: PipelineConfig) -> str:
    """Solver and steps, such as `DPM-Solver++ 2M, 20 steps`."""
    solver = config.scheduler_name if config.uses_published_scheduler else config.scheduler.title
    return f"{solver}, {config.steps} steps"


def plan_text(config: PipelineConfig, plan: Setting | None = None) -> str:
    """A description of a run, such as `DPM-Solver++ 2M, 20 steps, no cache, 37.1 dB`.

    plan: its measurements, to add speed-up and PSNR.
    """
    parts = [sampler_text(config), cache_text(config.cache)]
    if plan is not None:
        parts += [f"{plan.speedup:.2f} times as fast", *quality_texts(plan)]
    return ", ".join(parts)


def quality_texts(plan: Setting) -> list[str]:
    """The PSNR against each measured reference, as text."""
    published = "no difference" if plan.psnr is None else f"{plan.psnr:.1f} dB"
    texts = [f"{published} from the published run"]
    if plan.psnr_converged is not None:
        texts.append(f"{plan.psnr_converged:.1f} dB from the converged run")
    return texts


def cache_text(cache: CacheConfig) -> str:
    """A short description of a policy."""
    if isinstance(cache, NoCacheConfig):
        return "no cache"
    name = name_in(CACHES, cache)
    if isinstance(cache, ScheduleConfig) and cache.computed is not None:
        name = f"schedule of {len(cache.computed)} evaluations"
    threshold = getattr(cache, "threshold", None)
    details = [] if threshold is None else [f"threshold {threshold:.3g}"]
    if any(field.name == "forecast" for field in fields(cache)):
        kept = "prediction" if cache.place == OUTPUT else "blocks' residual"
        details.append(f"{forecast_text(cache.forecast)} of the {kept}")
    return ", ".join([name, *details])


def forecast_text(forecast: Any) -> str:
    """A short description of a forecast."""
    if isinstance(forecast, Linear):
        return with_changes("linear forecast", forecast)
    if isinstance(forecast, Fitted):
        return "fitted forecast"
    if isinstance(forecast, Taylor | Hermite):
        return f"{type(forecast).__name__} forecast of order {forecast.order}"
    return "hold"
