"""What the cache of a request keeps from step to step."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from videosys.cache import (
    BestConfig,
    CacheConfig,
    Fitted,
    PABConfig,
    RecordedCache,
    ResidualCache,
    ScheduleConfig,
    TeaCacheConfig,
    settle,
    start,
)
from videosys.cache.forecast import MOST_RESIDUALS
from videosys.cache.pab import reuse_steps
from videosys.cache.place import WITH_MODEL
from videosys.estimate.shapes import Shapes
from videosys.generation import base


def found_cache(config: base.PipelineConfig, shape: Shapes) -> CacheConfig:
    """The cache of a config with the settings that a calibration or a file on this computer says; where there
    is none, and so no run yet, the settings that keep the most.
    """
    scope = partial(base.scope_of, config, shape.evaluations, shape.latent_size)
    try:
        return settle(config.cache, scope, shape.found.get("transformer"))
    except ValueError:
        return greediest(config.cache)


def greediest(config: CacheConfig) -> CacheConfig:
    """Of the settings that a config leaves open, those that keep the most."""
    if isinstance(config, PABConfig):
        return PABConfig(device=config.device)
    forecast, device = Fitted(((1.0,) * MOST_RESIDUALS,)), getattr(config, "device", WITH_MODEL)
    if isinstance(config, TeaCacheConfig | BestConfig):  # which keep a signal too
        return TeaCacheConfig(forecast=forecast, device=device)
    return ScheduleConfig(computed=(0,), forecast=forecast, device=device)


def small_cache(config: CacheConfig) -> tuple[RecordedCache, int]:
    """A cache that keeps what a config's does, and how many steps it takes until one finds all of it: they
    are all computed, and called 0. Of branches, which `branch_bytes` counts, it keeps none.
    """
    forecast = getattr(config, "forecast", None)
    if forecast is None:
        return RecordedCache(), 1
    steps = forecast.num_residuals + 1
    if not isinstance(config, TeaCacheConfig):
        return ResidualCache((0.0,), forecast), steps
    made = start(replace(config, device=WITH_MODEL), (0.0,), lambda row: row[None])
    assert isinstance(made, RecordedCache)
    return made, steps


def is_elsewhere(config: base.PipelineConfig) -> bool:
    """Whether the cache is kept on another device than the model's."""
    place = getattr(config.cache, "device", WITH_MODEL)
    return place != WITH_MODEL and torch.device(place).type != base.parse_device(config.device).type


def branch_bytes(config: base.PipelineConfig, shape: Shapes, model: Any, samples: int) -> int:
    """What a cache of branches (PAB) keeps at the step after which most of them are used again: an activation
    of so many samples each. model: with one block, or pair of blocks, of `shape.depth`.
    """
    if not isinstance(config.cache, PABConfig):
        return 0
    count = shape.evaluations
    where = [step / max(count - 1, 1) for step in range(count)]
    if config.cache.unit == "timestep":
        where = [1000 * (1 - place) for place in where]
    uses = Counter(
        step
        for stack, block in stacks(model).items()
        for index in range(shape.depth)
        for kind in (("attention", "cross", "mlp") if has_cross(block) else ("attention", "mlp"))
        for step in reuse_steps(config.cache, where, stack, index, kind)
    )
    frames, rows, columns = shape.latent_size
    share = config.parallel.resolved(config.is_guided).sp or 1
    per_frame = math.ceil(math.ceil(rows / 2) * math.ceil(columns / 2) / share)
    activation = samples * frames * per_frame * model.config.hidden_size * model.dtype.itemsize
    return max(uses.values(), default=0) * activation


def stacks(model: Any) -> dict[str, Any]:
    """A block of each stack."""
    return {name: blocks[0] for name, blocks in model.stacks.items()}


def has_cross(block: Any) -> bool:
    return "cross" in block.branches
