"""What a request needs, by running its parts on the meta device: bytes and operations, and no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

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
from videosys.cache.place import WITH_MODEL
from videosys.layers.storage import keep_narrow
from videosys.parallel.absent import Absent
from videosys.pipelines import base
from videosys.pipelines.opensora_config import OpenSoraConfig
from videosys.pipelines.shapes import Shapes, shapes
from videosys.text_encoders.shapes import encode_shape, encoder_shape
from videosys.utils.metering import Meter, on_meta, weight_bytes


@dataclass(frozen=True)
class StageCost:
    """One stage: bytes of its weights, bytes that it needs besides at its peak, and operations in all.

    Of the peak, what stays from step to step: text keys and values (`text`) and the cache (`cache`).
    resident: of the weights, what is on the device at once. host: what lies in the host's memory beside the
        accelerator that works: parked weights, and a cache that is kept there.
    """

    name: str
    weights: int
    peak: int
    flops: int
    text: int = 0
    cache: int = 0
    resident: int = 0
    host: int = 0

    @property
    def activations(self) -> int:
        """The peak without what is kept from step to step."""
        return self.peak - self.text - self.cache

    @property
    def total(self) -> int:
        return self.resident + self.peak


@dataclass(frozen=True)
class Cost:
    """What one micro-batch needs on one device; of several, on the one with the largest share.

    evaluations: of the transformer, all computed. assumed: as in `Shapes`.
    """

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

    @property
    def host(self) -> int:
        """Bytes in the host's memory for one accelerator."""
        return sum(stage.host for stage in self.stages)


@torch.no_grad()
def cost(config: base.PipelineConfig, text_tokens: int | None = None) -> Cost:
    """What a micro-batch of this config needs. Texts are as long as the model allows if not given."""
    shape = shapes(config)
    dtype = base.resolve_dtype(config.dtype, device_of(config))
    if text_tokens is not None and text_tokens < 1:
        raise ValueError(f"text_tokens is {text_tokens}; it must be 1 or more")
    length = min(text_tokens or shape.max_tokens, shape.max_tokens)
    stages = (
        text_cost(shape, dtype, length, config),
        transformer_cost(shape, dtype, length, config),
        vae_cost(shape, dtype, config),
    )
    return Cost(stages, config.offload, shape.evaluations, shape.assumed)


def device_of(config: base.PipelineConfig) -> torch.device:
    """The device of a config, whether this computer has it or not."""
    return base.parse_device(config.device)


def is_parked(config: base.PipelineConfig) -> bool:
    """Whether weights lie in the host's memory while an accelerator does without them."""
    return config.offload != "none" and device_of(config).type != "cpu"


def resident_bytes(module: nn.Module, blocks_owner: nn.Module, config: base.PipelineConfig) -> int:
    """Of a module's weights what is on the device at once: with groups of blocks two of them, the one at work
    and the next.
    """
    whole = weight_bytes(module)
    if config.offload != "group":
        return whole
    lists = [child for child in blocks_owner.children() if isinstance(child, nn.ModuleList)]
    blocks = [block for members in lists for block in members]
    # Without what a block holds itself, which stays.
    sizes = [sum(weight_bytes(layer) for layer in block.children()) for block in blocks]
    return whole - sum(sizes) + 2 * max(sizes)


def metered(run: Callable[[], Any], is_cpu: bool = False) -> tuple[Any, Meter]:
    with Meter(is_cpu) as meter:
        made = run()
    return made, meter


def text_cost(shape: Shapes, dtype: torch.dtype, length: int, config: base.PipelineConfig) -> StageCost:
    """One prompt after the other is encoded, and the negative one."""
    encoder = on_meta(lambda: encoder_shape(shape.text_folder, shape.is_mt5), dtype)
    stack, wide = encoder.get_submodule("encoder"), weight_bytes(encoder)
    if config.storage_dtype != "auto":
        keep_narrow(stack)
    weights, is_cpu = weight_bytes(encoder), device_of(config).type == "cpu"
    _, meter = metered(lambda: encode_shape(encoder, 1, length), is_cpu)
    return StageCost(
        "text encoder",
        weights,
        max(meter.peak, wide - weights if is_cpu else 0),  # it is read before its weights are made narrow
        meter.flops,
        resident=min(weights, resident_bytes(encoder, stack, config)),
        host=weights if is_parked(config) else 0,
    )


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

    names = ("weights", "peak", "flops", "text", "cache", "resident", "host")
    made = StageCost("transformer", *map(deep, names))
    return replace(made, resident=min(made.resident, made.weights))


def shallow_cost(
    shape: Shapes, depth: int, dtype: torch.dtype, length: int, config: base.PipelineConfig
) -> StageCost:
    """The transformer with so many blocks, or pairs of blocks."""
    axes = config.parallel.resolved(config.is_guided)
    model = on_meta(lambda: shape.model(depth, Absent.of(axes)), dtype)
    if config.storage_dtype != "auto":
        keep_narrow(model)
    batch = config.batch_size * (2 if config.is_guided else 1) // (axes.cfg or 1)
    text = torch.empty(batch, length, shape.text_channels, dtype=dtype, device="meta")
    latents = torch.empty(batch, shape.latent_channels, *shape.latent_size, device="meta")
    condition, prepared = metered(lambda: shape.prepare(model, text))
    cache = small_cache(config.cache)
    _, meter = metered(lambda: evaluate(model, latents, condition, cache))
    held = meter.live + branch_bytes(config, shape, model, latents)  # nothing else is left
    if is_elsewhere(config):
        _, meter = metered(lambda: evaluate(model, latents, condition, RecordedCache()))
    around = latents.nbytes + text.nbytes
    weights, here = weight_bytes(model), 0 if is_elsewhere(config) else held
    is_far = here < held and device_of(config).type != "cpu"
    return StageCost(
        "transformer",
        weights,
        prepared.live + meter.peak + around + max(here - meter.live, 0),
        prepared.flops + meter.flops // STEPS * shape.evaluations,
        text=prepared.live,
        cache=here,
        resident=resident_bytes(model, model, config),
        host=(weights if is_parked(config) else 0) + (held if is_far else 0),
    )


def is_elsewhere(config: base.PipelineConfig) -> bool:
    """Whether the cache is kept on another device than the model's."""
    place = getattr(config.cache, "device", WITH_MODEL)
    return place != WITH_MODEL and torch.device(place).type != device_of(config).type


STEPS = 2  # enough that a forecast holds all the residuals it wants


def small_cache(config: CacheConfig) -> RecordedCache:
    """The cache of a config in a generation of two steps, both of which it must compute.

    One that keeps branches keeps none in so few, and settings still to be found count as a residual's.
    """
    if isinstance(config, PABConfig):
        return RecordedCache()
    if isinstance(config, ScheduleConfig | IntervalConfig | BestConfig) or has_goal(config):
        return ResidualCache(range(STEPS), Linear())
    here = replace(config, device=WITH_MODEL) if isinstance(config, Goal) else config
    made = start(here, range(STEPS), lambda row: row[None])
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
    share = config.parallel.resolved(config.is_guided).sp or 1
    per_frame = math.ceil(math.ceil(rows / 2) * math.ceil(columns / 2) / share)
    tokens = len(latents) * frames * per_frame
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
    is_whole = isinstance(config, OpenSoraConfig) and not config.enable_vae_slicing
    batch = config.batch_size if is_whole else 1
    vae = on_meta(shape.vae, dtype)
    latents = torch.empty(batch, shape.latent_channels, *shape.latent_size, device="meta")
    _, meter = metered(lambda: shape.decode(vae, latents), is_cpu=device_of(config).type == "cpu")
    weights = weight_bytes(vae)
    host = weights if is_parked(config) else 0
    peak = meter.peak + latents.nbytes
    return StageCost("autoencoder", weights, peak, meter.flops, resident=weights, host=host)
