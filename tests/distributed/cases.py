"""What several devices must do as one does: every model, cache and mesh, and the corners of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import torch

from tests.distributed.models import MODELS, SIZE, Request, forward, loop
from videosys.cache import (
    CacheConfig,
    EasyCacheConfig,
    Fitted,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    NoCacheConfig,
    PABConfig,
    ScheduleConfig,
    SeaCacheConfig,
    StepRecord,
    TeaCacheConfig,
)
from videosys.parallel import Parallel

Axes = tuple[int, int, int]  # dp, cfg, sp

MESHES: MappingProxyType[int, tuple[Axes, ...]] = MappingProxyType(
    {2: ((1, 1, 2), (1, 2, 1)), 3: ((1, 1, 3),), 4: ((1, 1, 4), (1, 2, 2), (2, 1, 2))}
)
# Thresholds lie far from every sum that occurs; the tests check that they do.
CACHES: MappingProxyType[str, CacheConfig] = MappingProxyType(
    {
        "none": NoCacheConfig(),
        "teacache": TeaCacheConfig(0.2, (4.0, 1.0, 0.02)),
        "naive": TeaCacheConfig(0.15, (1.0, 0.0)),
        "linear": TeaCacheConfig(0.2, (4.0, 1.0, 0.02), Linear()),
        "interval": IntervalConfig(2, Linear(damping=0.5)),
        "schedule": ScheduleConfig(computed=(0, 1, 3), forecast=Fitted(((1.5, -0.5),) * 6)),
        "magcache": MagCacheConfig(ratios=(0.95,) * 6, threshold=0.1, retention=0.0),
        "teacache of outputs": TeaCacheConfig(0.2, (4.0, 1.0, 0.02), Linear(), place="output"),
        "interval of outputs": IntervalConfig(2, Linear(damping=0.5), place="output"),
        "easycache": EasyCacheConfig(0.3, 2),
        "seacache": SeaCacheConfig(0.5),
        "pab": PABConfig(mlp_spatial=((0.3, 2, (0, 1)),), mlp_joint=((0.3, 2, (1,)),)),
    }
)

PUBLISHED = ("none", "teacache", "naive")
# Of the others three are enough: caches know of shards, not of meshes.
EVERY_CACHE = ((1, 1, 2), (1, 1, 3), (1, 2, 2))


@dataclass(frozen=True)
class Case:
    """A request on a mesh: a whole denoise loop with a cache, or one forward without."""

    name: str
    axes: Axes
    request: Request
    cache: str | None = None

    def run(self, parallel: Parallel) -> tuple[torch.Tensor, list[StepRecord]]:
        if self.cache is None:
            return forward(self.request, parallel), []
        return loop(self.request, CACHES[self.cache], parallel)


def corners(model: str) -> Iterator[tuple[str, Request, str | None]]:
    """Single forwards, and loops, of what is easily forgotten."""
    masks = {"kept": True} if model == "opensora" else {"visible": True}
    yield "masks", Request(model, prompts=2, text_masks=True, **masks), None
    yield "three prompts", Request(model, prompts=3, text_masks=True), None
    yield "image", Request(model, size=(1, *SIZE[1:])), None
    if model == "opensora":
        yield "references", Request(model, kept=True), "teacache"


def cases(world_size: int) -> Iterator[Case]:
    for axes in MESHES[world_size]:
        mesh = "dp{} cfg{} sp{}".format(*axes)
        # More videos at once are a matter of the groups, not of the model.
        for model in MODELS if axes[0] == 1 else ("opensora",):
            for cache in CACHES if axes in EVERY_CACHE else PUBLISHED:
                yield Case(f"{mesh} {model} {cache}", axes, Request(model), cache)
            for name, request, cache in corners(model):
                yield Case(f"{mesh} {model} {name}", axes, request, cache)
        if axes[1] == 1:
            alone = Request("latte", guidance_scale=1.0)
            yield Case(f"{mesh} latte without guidance", axes, alone, "naive")
