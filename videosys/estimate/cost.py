"""What a request needs, by running its parts on the meta device: bytes and operations, and no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from videosys.cache import Cache, RecordedCache
from videosys.estimate.blueprint import Blueprint, blueprint
from videosys.estimate.cache import branch_bytes, found_cache, is_elsewhere, small_cache
from videosys.estimate.meter import Meter, on_meta, pretending, weight_bytes
from videosys.estimate.scores import score_bytes
from videosys.generation.config import PipelineConfig, resolve_dtype
from videosys.layers.backends import use_attention
from videosys.layers.storage import quantize_blocks
from videosys.parallel import Parallel
from videosys.parallel.absent import Absent
from videosys.text_encoders.meta import encode_shape, encoder_shape
from videosys.utils.devices import parse_device


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

    evaluations: of the transformer, all computed. assumed: the parts that are
    not on this computer, for which the published shapes stand.
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
def estimate(config: PipelineConfig, text_tokens: int | None = None) -> Cost:
    """What one micro-batch of a config needs, without loading it. Texts are as long as the model allows if
    not given. ValueError for a config of no family.
    """
    plan = blueprint(config)
    config = replace(config, cache=found_cache(config, plan))
    dtype = resolve_dtype(config.dtype, device_of(config))
    if text_tokens is not None and text_tokens < 1:
        raise ValueError(f"text_tokens is {text_tokens}; it must be 1 or more")
    length = min(text_tokens or plan.parts.text_encoder.max_length, plan.parts.text_encoder.max_length)
    stages = (
        text_cost(plan, dtype, length, config),
        transformer_cost(plan, dtype, length, config),
        vae_cost(plan, dtype, config),
    )
    return Cost(stages, config.offload, plan.evaluations, plan.missing)


def device_of(config: PipelineConfig) -> torch.device:
    """The device of a config, whether this computer has it or not."""
    return parse_device(config.device)


def is_parked(config: PipelineConfig) -> bool:
    """Whether weights lie in the host's memory while an accelerator does without them."""
    return config.offload != "none" and device_of(config).type != "cpu"


def resident_bytes(module: nn.Module, blocks_owner: nn.Module, config: PipelineConfig) -> int:
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


def metered(run: Callable[[], Any], is_cpu: bool = False, **options: Any) -> tuple[Any, Meter]:
    with Meter(is_cpu, **options) as meter:
        made = run()
    return made, meter


def text_cost(plan: Blueprint, dtype: torch.dtype, length: int, config: PipelineConfig) -> StageCost:
    """One prompt after the other is encoded, and the negative one."""
    text = plan.parts.text_encoder
    encoder = on_meta(lambda: encoder_shape(text.folder, text.is_mt5), dtype)
    stack, wide = encoder.get_submodule("encoder"), weight_bytes(encoder)
    if config.storage_dtype != "auto":
        quantize_blocks(stack)
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


def transformer_cost(plan: Blueprint, dtype: torch.dtype, length: int, config: PipelineConfig) -> StageCost:
    """Blocks are all alike, so two small models tell what each more of them adds."""
    few = min(plan.depth, 2)
    first, second = (shallow_cost(plan, depth, dtype, length, config) for depth in (1, few))
    more = plan.depth - 1

    def deep(name: str) -> int:
        low, high = getattr(first, name), getattr(second, name)
        return low + (high - low) * more

    names = ("weights", "peak", "flops", "text", "cache", "resident", "host")
    made = StageCost("transformer", *map(deep, names))
    model = on_meta(lambda: plan.transformer(1, Parallel()), dtype)
    made = with_cache(made, config, branch_bytes(config, plan, model, samples_of(config)))
    return replace(made, resident=min(made.resident, made.weights))


def with_cache(stage: StageCost, config: PipelineConfig, kept: int) -> StageCost:
    """A stage and so many bytes of a cache, which lie on the device or where the cache is."""
    if not is_elsewhere(config):
        return replace(stage, peak=stage.peak + kept, cache=stage.cache + kept)
    is_host = device_of(config).type != "cpu"
    return replace(stage, host=stage.host + kept if is_host else stage.host)


def samples_of(config: PipelineConfig) -> int:
    """Of the transformer's batch, on one device."""
    return config.batch_size * (2 if is_pair(config) else 1)


def is_pair(config: PipelineConfig) -> bool:
    """Whether each video is two samples on a device, with and without its prompt."""
    return config.is_guided and (config.parallel.resolved(config.is_guided).cfg or 1) == 1


def shallow_cost(
    plan: Blueprint, depth: int, dtype: torch.dtype, length: int, config: PipelineConfig
) -> StageCost:
    """The transformer with so many blocks, or pairs of blocks. A cache of branches is not in it."""
    axes = config.parallel.resolved(config.is_guided)
    model = on_meta(lambda: plan.transformer(depth, Absent.of(axes)), dtype)
    if config.storage_dtype != "auto":
        quantize_blocks(model)
    weights, resident = weight_bytes(model), resident_bytes(model, model, config)
    with pretending(use_attention(model, "torch"), device_of(config)) as device:
        samples = samples_of(config)
        text = torch.empty(
            samples, length, plan.parts.transformer.config.caption_channels, dtype=dtype, device=device
        )
        latents = torch.empty(samples, plan.latent_channels, *plan.latent_size, device=device)
        used = evaluated(plan, model, text, latents, config)
    host = used.host + (weights if is_parked(config) else 0)
    return replace(used, weights=weights, resident=resident, host=host)


def evaluated(
    plan: Blueprint, model: Any, text: torch.Tensor, latents: torch.Tensor, config: PipelineConfig
) -> StageCost:
    """What a transformer needs besides its weights."""
    condition, prepared = metered(lambda: plan.condition(model, text))
    timesteps = torch.empty(len(latents), device=latents.device)
    scores = partial(score_bytes, backend=config.attention)

    def evaluate(cache: Cache, steps: int) -> int:
        for _ in range(steps):
            cache.begin_step(0, 0.0)
            size = model(latents, timesteps, condition, cache).nbytes
        return size

    cache, steps = small_cache(config.cache)
    output, meter = metered(lambda: evaluate(cache, steps), scores=scores)
    kept, flops = meter.live, meter.flops // steps  # nothing else is left
    if is_elsewhere(config):
        _, meter = metered(lambda: evaluate(RecordedCache(), 1), scores=scores)
    one = latents.nbytes // (2 if is_pair(config) else 1)
    around = latents.nbytes + text.nbytes + output + (1 + plan.history) * one  # output: of the step before
    made = StageCost(
        "transformer",
        weights=0,
        peak=prepared.live + meter.peak - meter.live + around,
        flops=prepared.flops + flops * plan.evaluations,
        text=prepared.live,
    )
    return with_cache(made, config, kept)


def vae_cost(plan: Blueprint, dtype: torch.dtype, config: PipelineConfig) -> StageCost:
    """From latents to the bytes of frames, as many videos at once as the config says."""
    batch = config.decode_batch_size
    is_cpu = device_of(config).type == "cpu"
    vae = on_meta(lambda: plan.parts.vae.build(Parallel()), dtype)
    weights = weight_bytes(vae)
    with pretending(vae, device_of(config)) as device:
        latents = torch.empty(batch, plan.latent_channels, *plan.latent_size, device=device)
        made, meter = metered(lambda: plan.decode(vae, latents), is_cpu)
    clips = config.batch_size * config.num_clips
    done = made.nbytes // batch * (clips - batch) if is_cpu else 0  # clips that wait for the last one
    host = weights if is_parked(config) else 0
    peak = meter.peak + latents.nbytes + done
    return StageCost("autoencoder", weights, peak, meter.flops, resident=weights, host=host)
