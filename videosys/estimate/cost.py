"""Bytes and operations of a request, measured by running its parts on the meta device without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from videosys.cache import Cache, RecordedCache
from videosys.cache.device import AUTO
from videosys.estimate.blueprint import Blueprint, blueprint
from videosys.estimate.cache import activation_bytes, branch_bytes, cache_settings, small_cache
from videosys.estimate.meter import Meter, on_meta, pretending, weight_bytes
from videosys.estimate.scores import score_bytes
from videosys.generation.config import PipelineConfig, resolve_dtype
from videosys.layers.backends import use_attention
from videosys.layers.kernels import use_kernels
from videosys.layers.storage import quantize_blocks
from videosys.parallel import Parallel
from videosys.parallel.absent import Absent
from videosys.text_encoders.meta import encode_shape, encoder_shape
from videosys.utils.devices import SHARING, parse_device, shares_memory
from videosys.utils.settled import settle

MEASURED_BATCH = 3  # videos; larger micro-batches are extrapolated from this one and the one before
# Tensors held by graphs: tokens before the blocks, a signal, and the head's tokens before and after its norm.
GRAPH_ACTIVATIONS = 4
NUMBERS = ("weights", "peak", "flops", "text", "cache", "resident", "host")  # fields of a stage


@dataclass(frozen=True)
class StageCost:
    """One stage: bytes of its weights, further bytes at its peak, and its total operations.

    text, cache: the part of the peak that stays between steps: keys and values of the text, and the cache.
    resident: bytes of the weights that are on the device at once. host: bytes in host memory while an
        accelerator computes: parked weights, and a cache kept on the CPU.
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
        """The peak without the memory that stays between steps."""
        return self.peak - self.text - self.cache

    @property
    def total(self) -> int:
        """Bytes on the device at the stage's peak."""
        return self.resident + self.peak

    def without_cache(self) -> StageCost:
        """The same stage with the cache in host memory."""
        return replace(self, peak=self.peak - self.cache, cache=0, host=self.host + self.cache)


@dataclass(frozen=True)
class Estimate:
    """The needs of one micro-batch on one device; with several devices, on the one with the largest shard.

    evaluations: of the transformer, all computed. assumed: parts that were not found locally, so that the
    published shapes were used.
    """

    stages: tuple[StageCost, ...]
    offload: str
    evaluations: int
    assumed: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Peak bytes: all weights and the largest stage, or with offloading one stage alone."""
        if self.offload == "none":
            return sum(stage.weights for stage in self.stages) + max(stage.peak for stage in self.stages)
        return max(stage.total for stage in self.stages)

    @property
    def host(self) -> int:
        """Bytes of host memory for one accelerator."""
        return sum(stage.host for stage in self.stages)

    @property
    def cache(self) -> int:
        """Bytes of the cache on the device."""
        return sum(stage.cache for stage in self.stages)

    @property
    def peak_without_cache(self) -> int:
        """Peak bytes with the cache on another device."""
        return replace(self, stages=tuple(stage.without_cache() for stage in self.stages)).peak


@settle
def estimate(config: PipelineConfig, text_tokens: int | None = None) -> Estimate:
    """Estimate the needs of one micro-batch without loading weights. text_tokens: per prompt; default: the
    model's maximum. ValueError for a config without a model family.
    """
    if text_tokens is not None and text_tokens < 1:
        raise ValueError(f"text_tokens is {text_tokens}; it must be 1 or more")
    if config.batch_size <= MEASURED_BATCH:
        return measured(config, text_tokens)
    # Each further video adds the same amount, and metering large batches would be slow.
    low, high = (
        measured(replace(config, batch_size=size), text_tokens)
        for size in (MEASURED_BATCH - 1, MEASURED_BATCH)
    )
    more = config.batch_size - MEASURED_BATCH
    stages = tuple(extended(*pair, more) for pair in zip(low.stages, high.stages))
    return replace(high, stages=stages)


def extended(low: StageCost, high: StageCost, more: int) -> StageCost:
    """Extrapolate a stage to `more` videos beyond `high`, which has one video more than `low`."""
    pairs = {name: (getattr(low, name), getattr(high, name)) for name in NUMBERS}
    return replace(high, **{name: after + (after - before) * more for name, (before, after) in pairs.items()})


def measured(config: PipelineConfig, text_tokens: int | None) -> Estimate:
    """The estimate of a micro-batch, metered without extrapolation."""
    plan = blueprint(config)
    parts = Estimator(plan, replace(config, cache=cache_settings(config, plan)), text_tokens)
    stages = (parts.text_encoder(), parts.transformer(), parts.vae())
    return Estimate(stages, config.offload, plan.evaluations, plan.missing)


class Estimator:
    """The cost of each part of a config on its device, even if this computer does not have that device.

    config: the blueprint's config with resolved cache settings.
    """

    def __init__(self, plan: Blueprint, config: PipelineConfig, text_tokens: int | None = None):
        self.plan, self.config = plan, config
        self.device = parse_device(config.device)
        self.is_cpu = self.device.type == "cpu"
        self.dtype = resolve_dtype(config.dtype, self.device)
        longest = plan.parts.text_encoder.max_length
        self.text_tokens = min(text_tokens or longest, longest)
        self.axes = config.parallel.resolved(config.is_guided)
        # On one device: the samples with and without the prompt.
        self.samples_per_video = 2 if config.is_guided and (self.axes.cfg or 1) == 1 else 1
        self.samples = config.batch_size * self.samples_per_video
        kept_on = config.cache.device
        where = {self.device.type, self.device.type if kept_on == AUTO else torch.device(kept_on).type}
        self.is_cache_elsewhere = len(where) > 1 and not where <= {*SHARING}

    def text_encoder(self) -> StageCost:
        """The text encoder, which encodes the prompts and the negative prompt one by one."""
        text = self.plan.parts.text_encoder
        encoder = on_meta(lambda: encoder_shape(text.folder, text.is_mt5), self.dtype)
        stage = self._loaded("text encoder", encoder, encoder.get_submodule("encoder"))
        _, meter = metered(lambda: encode_shape(encoder, 1, self.text_tokens), self.device)
        return replace(stage, peak=meter.peak, flops=meter.flops, resident=min(stage.weights, stage.resident))

    def transformer(self) -> StageCost:
        """The transformer, extrapolated from two shallow models, because all blocks cost the same.

        The smaller one has two blocks: from the second block on, the tokens before the first block stay in
        memory together with the input of the running block.
        """
        depth = self.plan.depth
        fewest = min(depth, 2)
        small, large = (self.shallow_transformer(count) for count in (fewest, min(depth, fewest + 1)))
        pairs = [(getattr(small, name), getattr(large, name)) for name in NUMBERS]
        stage = StageCost("transformer", *(low + (high - low) * (depth - fewest) for low, high in pairs))
        model = on_meta(lambda: self.plan.transformer(1, Parallel()), self.dtype)
        stage = self._with_cache(stage, branch_bytes(self.config, self.plan, model, self.samples))
        if self.config.cuda_graphs and self.device.type == "cuda" and (self.axes.sp or 1) == 1:
            kept = GRAPH_ACTIVATIONS * activation_bytes(self.config, self.plan, model, self.samples)
            stage = replace(stage, peak=stage.peak + kept)
        return replace(stage, resident=min(stage.resident, stage.weights))

    def shallow_transformer(self, depth: int) -> StageCost:
        """The transformer with this many blocks, or pairs of blocks, without a cache of branches."""
        plan, width = self.plan, self.plan.parts.transformer.config.caption_channels
        model = on_meta(lambda: plan.transformer(depth, Absent.of(self.axes)), self.dtype)
        stage = self._loaded("transformer", model, model)
        # Counts one call of torch's attention. On a GPU, auto uses this package's kernel for few frames.
        backend = "torch" if self.is_cpu or self.config.attention != "auto" else "auto"
        use_kernels(use_attention(model, backend), self.config.kernels, self.device)
        with pretending(model, self.device) as device:
            text = torch.empty(self.samples, self.text_tokens, width, dtype=self.dtype, device=device)
            latents = torch.empty(self.samples, plan.latent_channels, *plan.latent_size, device=device)
            return self._evaluated(stage, model, text, latents)

    def vae(self) -> StageCost:
        """Decoding of latents to uint8 frames, for the config's number of videos at once."""
        plan, batch = self.plan, self.config.decode_batch_size
        vae = on_meta(lambda: plan.parts.vae.build(Parallel()), self.dtype)
        stage = self._stage("autoencoder", weight_bytes(vae))
        with pretending(vae, self.device) as device:
            latents = torch.empty(batch, plan.latent_channels, *plan.latent_size, device=device)
            frames, meter = metered(lambda: plan.decode(vae, latents), self.device)
        clips = self.config.batch_size * self.config.num_clips
        # Decoded clips that wait for the last one.
        waiting = frames.nbytes // batch * (clips - batch) if self.is_cpu else 0
        return replace(stage, peak=meter.peak + latents.nbytes + waiting, flops=meter.flops)

    def _loaded(self, name: str, module: nn.Module, owner: nn.Module) -> StageCost:
        """The stage of a module's weights, as stored and offloaded. owner: module with the lists of
        blocks.
        """
        if self.config.storage_dtype != "auto":
            quantize_blocks(owner)
        stage = self._stage(name, weight_bytes(module))
        if self.config.offload != "group":
            return stage
        lists = [child for child in owner.children() if isinstance(child, nn.ModuleList)]
        # Two blocks are on the device: the running one and the next. A block's direct parameters stay there.
        sizes = [sum(map(weight_bytes, block.children())) for blocks in lists for block in blocks]
        return replace(stage, resident=stage.weights - sum(sizes) + 2 * max(sizes))

    def _stage(self, name: str, weights: int) -> StageCost:
        """A stage with only weights, all on the device; with offloading also in host memory."""
        is_parked = self.config.offload != "none" and not shares_memory(self.device)
        return StageCost(name, weights, 0, 0, resident=weights, host=weights if is_parked else 0)

    def _with_cache(self, stage: StageCost, size: int) -> StageCost:
        """Add the bytes of a cache to a stage, on the device that holds the cache."""
        if not self.is_cache_elsewhere:
            return replace(stage, peak=stage.peak + size, cache=stage.cache + size)
        return stage if self.is_cpu else replace(stage, host=stage.host + size)

    def _evaluated(self, stage: StageCost, model: Any, text: Tensor, latents: Tensor) -> StageCost:
        """Add the memory and operations of a transformer's evaluations to a stage."""
        plan = self.plan
        condition, prepared = metered(lambda: plan.condition(model, text))
        timesteps = torch.empty(len(latents), device=latents.device)
        scores = partial(score_bytes, backend=self.config.attention)

        def evaluate(cache: Cache, steps: int) -> int:
            for _ in range(steps):
                cache.begin_step(0, 0.0)
                cache.observe_latents(latents[:: self.samples_per_video].clone(), (0.5, 0.5))
                size = cache.predict(partial(model, latents, timesteps, condition, cache)).nbytes
            return size

        cache, steps = small_cache(self.config.cache)
        output, meter = metered(lambda: evaluate(cache, steps), scores=scores)
        cached, flops = meter.live, meter.flops // steps  # only the cache is still alive
        if self.is_cache_elsewhere:
            _, meter = metered(lambda: evaluate(RecordedCache(), 1), scores=scores)
        video = latents.nbytes // self.samples_per_video
        around = (
            latents.nbytes + text.nbytes + output + (1 + plan.history) * video
        )  # output: of the last step
        stage = replace(
            stage,
            peak=prepared.live + meter.peak - meter.live + around,
            flops=prepared.flops + flops * plan.evaluations,
            text=prepared.live,
        )
        return self._with_cache(stage, cached)


def metered(run: Callable[[], Any], device: torch.device | None = None, **options: Any) -> tuple[Any, Meter]:
    """Run a function in a meter; return (its result, the meter)."""
    with Meter(device, **options) as meter:
        result = run()
    return result, meter
