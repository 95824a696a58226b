"""What a request needs, by running its parts on the meta device: bytes and operations, and no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from videosys.cache import (
    BestConfig,
    Cache,
    CacheConfig,
    Goal,
    IntervalConfig,
    Linear,
    PABConfig,
    RecordedCache,
    ResidualCache,
    ScheduleConfig,
    start,
)
from videosys.cache.pab import reuse_steps
from videosys.pipelines import base
from videosys.pipelines.opensora_config import OpenSoraConfig
from videosys.pipelines.shapes import Shapes, shapes
from videosys.text_encoders.shapes import encode_shape, encoder_shape
from videosys.utils.metering import Meter, on_meta, weight_bytes


@dataclass(frozen=True)
class StageCost:
    """One stage: bytes of its weights, bytes that it needs besides at its peak, and operations in all.

    kept: of the peak, what stays from step to step: text keys and values (`text`) and the cache (`cache`).
    """

    name: str
    weights: int
    peak: int
    flops: int
    text: int = 0
    cache: int = 0

    @property
    def activations(self) -> int:
        """The peak without what is kept from step to step."""
        return self.peak - self.text - self.cache

    @property
    def total(self) -> int:
        return self.weights + self.peak


@dataclass(frozen=True)
class Cost:
    """What one micro-batch needs. evaluations: of the transformer, all computed. assumed: as in `Shapes`."""

    stages: tuple[StageCost, ...]
    offload: str
    evaluations: int
    assumed: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: all weights and the largest stage, or one stage alone."""
        if self.offload == "none":
            return sum(stage.weights for stage in self.stages) + max(stage.peak for stage in self.stages)
        return max(stage.total for stage in self.stages)


@torch.no_grad()
def cost(config: base.PipelineConfig, text_tokens: int | None = None) -> Cost:
    """What a micro-batch of this config needs. Texts are as long as the model allows if not given.

    On one device: tokens that are shared among several need less on each.
    """
    shape = shapes(config)
    dtype = base.resolve_dtype(config.dtype, device_of(config))
    length = min(text_tokens or shape.max_tokens, shape.max_tokens)
    stages = (
        text_cost(shape, dtype, length),
        transformer_cost(shape, dtype, length, config),
        vae_cost(shape, dtype, config),
    )
    return Cost(stages, config.offload, shape.evaluations, shape.assumed)


def device_of(config: base.PipelineConfig) -> torch.device:
    """The device of a config, whether this computer has it or not."""
    return base.resolve_device("auto") if config.device == "auto" else torch.device(config.device)


def metered(run: Callable[[], Any], is_cpu: bool = False) -> tuple[Any, Meter]:
    with Meter(convolutions_copy=is_cpu) as meter:
        made = run()
    return made, meter


def text_cost(shape: Shapes, dtype: torch.dtype, length: int) -> StageCost:
    """One prompt after the other is encoded, and the negative one."""
    encoder = on_meta(lambda: encoder_shape(shape.text_folder, shape.is_mt5), dtype)
    _, meter = metered(lambda: encode_shape(encoder, 1, length))
    return StageCost("text encoder", weight_bytes(encoder), meter.peak, meter.flops)


def transformer_cost(
    shape: Shapes, dtype: torch.dtype, length: int, config: base.PipelineConfig
) -> StageCost:
    """Blocks are all alike, so two small models tell what each more of them adds."""
    few = min(shape.depth, 2)
    first, second = (shallow_cost(shape, depth, dtype, length, config) for depth in (1, few))
    more = shape.depth - 1

    def deep(name: str) -> int:
        low, high = getattr(first, name), getattr(second, name)
        return low + (high - low) * more

    return StageCost("transformer", *(deep(name) for name in ("weights", "peak", "flops", "text", "cache")))


def shallow_cost(
    shape: Shapes, depth: int, dtype: torch.dtype, length: int, config: base.PipelineConfig
) -> StageCost:
    """The transformer with so many blocks, or pairs of blocks."""
    model = on_meta(lambda: shape.model(depth), dtype)
    batch = config.batch_size * (2 if config.is_guided else 1)
    text = torch.empty(batch, length, shape.text_channels, dtype=dtype, device="meta")
    latents = torch.empty(batch, shape.latent_channels, *shape.latent_size, device="meta")
    condition, prepared = metered(lambda: shape.prepare(model, text))
    cache = small_cache(config.cache)
    _, meter = metered(lambda: evaluate(model, latents, condition, cache))
    held = meter.live  # by the cache: nothing else is left
    branches = branch_bytes(config, shape, model, latents)
    around = latents.nbytes + text.nbytes
    return StageCost(
        "transformer",
        weight_bytes(model),
        prepared.live + meter.peak + branches + around,
        prepared.flops + meter.flops // STEPS * shape.evaluations,
        text=prepared.live,
        cache=held + branches,
    )


STEPS = 2  # enough that a forecast holds all the residuals it wants


def small_cache(config: CacheConfig) -> RecordedCache:
    """The cache of a config in a generation of two steps, both of which it must compute.

    One that keeps branches keeps none in so few, and settings still to be found count as a residual's.
    """
    if isinstance(config, PABConfig):
        return RecordedCache()
    if isinstance(config, ScheduleConfig | IntervalConfig | BestConfig) or has_goal(config):
        return ResidualCache(range(STEPS), Linear())
    made = start(config, range(STEPS), lambda row: row[None])
    assert isinstance(made, RecordedCache)
    return made


def has_goal(config: CacheConfig) -> bool:
    return isinstance(config, Goal) and config.has_goal


def evaluate(model: Any, latents: torch.Tensor, condition: Any, cache: Cache) -> None:
    """Two computed steps of the denoise loop."""
    timesteps = torch.empty(len(latents), device="meta")
    for step in range(STEPS):
        cache.begin_step(step, float(step))
        model(latents, timesteps, condition, cache)


def branch_bytes(config: base.PipelineConfig, shape: Shapes, model: Any, latents: torch.Tensor) -> int:
    """What a cache of branches (PAB) keeps at most: one activation for each branch that it ever reuses."""
    if not isinstance(config.cache, PABConfig) or has_goal(config.cache):
        return 0
    count = shape.evaluations
    where = [step / max(count - 1, 1) for step in range(count)]
    if config.cache.unit == "timestep":
        where = [1000 * (1 - place) for place in where]
    branches = [
        (stack, index, kind)
        for stack, blocks in stacks(model).items()
        for index in range(len(blocks))
        for kind in ("attention", "cross", "mlp")
        if not (kind == "cross" and not has_cross(blocks[index]))
    ]
    reused = sum(bool(reuse_steps(config.cache, where, *branch)) for branch in branches)
    frames, rows, columns = shape.latent_size
    tokens = len(latents) * frames * (-(-rows // 2)) * (-(-columns // 2))
    return reused * tokens * model.config.hidden_size * model.dtype.itemsize


def stacks(model: Any) -> dict[str, Any]:
    """The blocks of a model by the name of their stack."""
    if hasattr(model, "spatial_blocks"):
        return {"spatial": model.spatial_blocks, "temporal": model.temporal_blocks}
    return {"joint": model.blocks}


def has_cross(block: Any) -> bool:
    return hasattr(block, "cross_attn") or hasattr(block, "attn2")


def vae_cost(shape: Shapes, dtype: torch.dtype, config: base.PipelineConfig) -> StageCost:
    """Whole batches are decoded by Open-Sora's, one video after the other by the others."""
    batch = config.batch_size if isinstance(config, OpenSoraConfig) else 1
    vae = on_meta(shape.vae, dtype)
    latents = torch.empty(batch, shape.latent_channels, *shape.latent_size, device="meta")
    _, meter = metered(lambda: shape.decode(vae, latents), is_cpu=device_of(config).type == "cpu")
    return StageCost("autoencoder", weight_bytes(vae), meter.peak + latents.nbytes, meter.flops)
