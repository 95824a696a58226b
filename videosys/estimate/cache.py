"""The memory that the cache of a request keeps between steps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from typing import Any

from videosys.cache import (
    BestConfig,
    Cache,
    CacheConfig,
    Fitted,
    Goal,
    PABConfig,
    RecordedCache,
    ResidualCache,
    ScheduleConfig,
    TeaCacheConfig,
    resolve_cache,
)
from videosys.cache.config import GOALS
from videosys.cache.device import AUTO
from videosys.cache.forecast import HOLD, MAX_RESIDUALS
from videosys.cache.pab import reuse_steps, step_positions
from videosys.estimate.blueprint import Blueprint
from videosys.generation.config import PipelineConfig


def cache_settings(config: PipelineConfig, plan: Blueprint) -> CacheConfig:
    """The cache config with settings resolved from a local calibration or file. If there is none, the
    settings that need the most memory.
    """
    scope = partial(config.scope, plan.evaluations, plan.latent_size)
    try:
        return resolve_cache(config.cache, scope, plan.folders.get("transformer"))
    except ValueError:
        return greediest(config.cache)


def greediest(config: CacheConfig) -> CacheConfig:
    """The config, with its unresolved settings chosen to need the most memory."""
    if isinstance(config, PABConfig):
        return PABConfig(device=config.device)
    has_forecast = isinstance(config, BestConfig) or "forecast" in {item.name for item in fields(config)}
    forecast = Fitted(((1.0,) * MAX_RESIDUALS,)) if has_forecast else HOLD
    if isinstance(config, TeaCacheConfig | BestConfig):  # these also keep a signal
        return TeaCacheConfig(forecast=forecast, device=config.device)
    if is_fixed(config):
        return ScheduleConfig(computed=(0,), forecast=forecast, device=config.device)
    changes: dict[str, Any] = dict.fromkeys(GOALS) if isinstance(config, Goal) else {}
    return replace(config, **changes, **({"forecast": forecast} if has_forecast else {}))


def is_fixed(config: CacheConfig) -> bool:
    """Whether the policy is a fixed list of computed steps."""
    return type(config).start is CacheConfig.start


def small_cache(config: CacheConfig) -> tuple[Cache, int]:
    """(a cache that keeps what the config's cache keeps, the number of steps until it is full). All steps are
    computed, with step index 0. Branches (PAB) are not kept; `branch_bytes` counts them.

    For other policies, the cache for a one-step generation is used.
    """
    if isinstance(config, PABConfig):
        return RecordedCache(), 1
    if is_fixed(config):
        cache = ResidualCache((0.0,), config.forecast, place=config.place)
        return cache, config.forecast.num_residuals + 1
    near: CacheConfig = replace(config, device=AUTO) if isinstance(config, Goal) else config
    started = near.start((0.0,), lambda row: row[None])
    return started, (started.forecast.num_residuals if isinstance(started, ResidualCache) else 1) + 1


def branch_bytes(config: PipelineConfig, plan: Blueprint, model: Any, samples: int) -> int:
    """Bytes that a cache of branches (PAB) keeps at the step with the most branches to reuse. Each branch is
    an activation of `samples` samples. model: has one block, or pair of blocks, of `plan.depth`.
    """
    if not isinstance(config.cache, PABConfig):
        return 0
    last = max(plan.evaluations - 1, 1)
    positions = step_positions([1 - step / last for step in range(plan.evaluations)], config.cache.unit)
    uses = Counter(
        step
        for stack, blocks in model.stacks.items()
        for index in range(plan.depth)
        for kind in {"attention", "cross", "mlp"} & {*blocks[0].branches}
        for step in reuse_steps(config.cache, positions, stack, index, kind)
    )
    return max(uses.values(), default=0) * activation_bytes(config, plan, model, samples)


def activation_bytes(config: PipelineConfig, plan: Blueprint, model: Any, samples: int) -> int:
    """Bytes of the hidden state of this many samples on one device."""
    grid = model.config.grid(plan.latent_size)
    share = config.parallel.resolved(config.is_guided).sp or 1
    tokens = grid.num_frames * math.ceil(grid.tokens_per_frame / share)
    return samples * tokens * model.config.hidden_size * next(model.parameters()).dtype.itemsize
