"""The denoising loop for all models, schedulers and caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from videosys.cache import Cache
from videosys.generation.finite import check_steps
from videosys.parallel import Parallel
from videosys.schedulers.rflow import NUM_TRAIN_TIMESTEPS
from videosys.utils.seed import Generators

Observer = Callable[[int, float, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Sampling:
    """The settings of one generation.

    guidance_scale: weight g of v_uncond + g * (v_cond - v_uncond).
    generator: source of the noise in the loop, one for all samples or one per sample.
    frame_mask: [B, T] in 0..1. 1 denoises a latent frame, 0 keeps it unchanged as a condition. A value in
        between denoises it only below that noise level (edit strength).
    progress: called after each step. observer: called with (step, timestep, latents, noise_pred of the pair).
    """

    guidance_scale: float = 7.0
    generator: Generators = None
    frame_mask: torch.Tensor | None = None
    progress: Callable[[], None] | None = None
    observer: Observer | None = None

    @property
    def is_guided(self) -> bool:
        """Whether each step evaluates the guidance pair."""
        return self.guidance_scale > 1


@torch.no_grad()
def denoise(
    model: Callable[..., torch.Tensor],
    scheduler: Any,
    latents: torch.Tensor,
    condition: Any,
    sampling: Sampling,
    cache: Cache,
    parallel: Parallel,
) -> torch.Tensor:
    """Denoised latents [B, C, T, H, W], float32.

    condition: for the pair [cond, uncond], or only for cond without guidance (guidance_scale of 1 or less);
    if two devices share the pair (cfg), for this device's half. scheduler: its timesteps must be set. All
    devices of a replica need equal latents. ValueError names the first step with latents that are not finite.
    """
    check_guidance(sampling, parallel)
    latents = latents.float()
    frames = FrameConditioning(sampling, latents, scheduler)
    are_finite: list[torch.Tensor] = []
    for step, (timestep, copied) in enumerate(zip(scheduler.timesteps, on_device(scheduler, latents))):
        cache.begin_step(step, float(timestep))
        kept, latents = latents, frames.renoise(latents, step, timestep)
        sample = scheduler.scale_model_input(latents, timestep)
        cache.observe_latents(sample, noise_mix(scheduler, float(timestep)))
        pair = parallel.cfg_shard(frames.pair(sample))
        inputs = {name: parallel.cfg_shard(value) for name, value in frames.model_inputs().items()}
        timesteps = copied.expand(pair.shape[0])
        output = cache.predict(partial(model, pair, timesteps, condition, cache, **inputs))
        noise_pred = parallel.cfg_gather(
            output[:, : latents.shape[1]]
        )  # the other channels are an unused sigma
        if sampling.observer is not None:
            sampling.observer(step, float(timestep), latents, noise_pred)
        latents = frames.step(guide(noise_pred, sampling), timestep, latents)
        latents = frames.restore(latents, kept)
        are_finite.append(torch.isfinite(latents).all())
        if sampling.progress is not None:
            sampling.progress()
    check_steps(are_finite)
    return latents


def on_device(scheduler: Any, latents: torch.Tensor) -> torch.Tensor:
    """The timesteps on the device of the latents. Copying one in each step would wait for the device."""
    return scheduler.timesteps.to(latents.device, torch.float32)


def noise_mix(scheduler: Any, timestep: float) -> tuple[float, float]:
    """(a, b) of the model's input a * data + b * noise at a timestep.

    Uses `alphas_cumprod` if the scheduler has it, else the straight path of flow models.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        sigma = timestep / NUM_TRAIN_TIMESTEPS
        return 1 - sigma, sigma
    place = min(max(timestep, 0.0), len(alphas) - 1.0)
    low = int(place)
    alpha, following = (float(alphas[index]) for index in (low, min(low + 1, len(alphas) - 1)))
    alpha += (following - alpha) * (place - low)  # some samplers use non-integer timesteps
    return math.sqrt(alpha), math.sqrt(1 - alpha)


def check_guidance(sampling: Sampling, parallel: Parallel) -> None:
    """ValueError if devices share a guidance pair, but the request has no guidance."""
    if parallel.cfg_size > 1 and not sampling.is_guided:
        raise ValueError(
            f"guidance_scale is {sampling.guidance_scale}, but the devices share a guidance pair "
            "(parallel.cfg is 2): set parallel.cfg to 1, or guidance_scale above 1"
        )


def guide(noise_pred: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Classifier-free guidance of a pair [cond, uncond]."""
    if not sampling.is_guided:
        return noise_pred
    cond, uncond = noise_pred.chunk(2)
    return uncond + sampling.guidance_scale * (cond - uncond)


def fresh_noise(like: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Normal noise with the shape, dtype and device of `like`, drawn on the generator's device, so that seeds
    are reproducible.
    """
    if isinstance(generator, Sequence):
        if len(generator) != len(like):
            raise ValueError(f"generator has {len(generator)} generators for {len(like)} samples")
        return torch.cat([fresh_noise(row, source) for row, source in zip(like.split(1), generator)])
    device = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=device).to(like.device)


class FrameConditioning:
    """Keeps the conditioning frames of `Sampling.frame_mask` in one loop, fully or partly.

    A frame with mask m joins the denoising at the first step with timestep <= 1000 m. Until then it is
    restored after each step. When it joins, noise of that step's level is added.
    """

    def __init__(self, sampling: Sampling, latents: torch.Tensor, scheduler: Any):
        self.sampling, self.scheduler = sampling, scheduler
        mask = sampling.frame_mask
        self.mask = None if mask is None else mask.to(latents.device, torch.float32)
        self.free = None if self.mask is None else self.mask == 1
        # Masks [B, 1, T, 1, 1] of frames that joined together, each with a separate scheduler.
        self.joined: list[tuple[torch.Tensor, Any]] = []

    def renoise(self, latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
        """`latents` with noise added to the frames that join at this timestep."""
        if self.mask is None or self.free is None:
            return latents
        before, self.free = self.free, (self.mask == 1) | (self.mask * 1000 >= timestep)
        # Always drawn, so that the noise does not depend on the mask.
        noise = fresh_noise(latents, self.sampling.generator)
        joins = (self.free & ~before)[:, None, :, None, None]
        if self.scheduler.history and joins.any():
            self.joined.append((joins, self.scheduler.restarted(step)))
        return torch.where(joins, self.scheduler.add_noise(latents, noise, timestep), latents)

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """`latents` at the next timestep. Frames that join get a new scheduler, because the scheduler state
        from before is not valid for them.
        """
        following = self.scheduler.step(model_output, timestep, latents).prev_sample
        for frames, scheduler in self.joined:
            own = scheduler.step(model_output, timestep, latents).prev_sample
            following = torch.where(frames, own, following)
        return following

    def restore(self, latents: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`latents` with the frames that have not joined yet restored from `kept`."""
        return latents if self.free is None else torch.where(self.free[:, None, :, None, None], latents, kept)

    def pair(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.cat((latents, latents)) if self.sampling.is_guided else latents

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """The model's mask of denoised frames, [B or 2B, T]; empty if all frames are denoised."""
        if self.free is None:
            return {}
        return {"frame_mask": self.free.repeat(2, 1) if self.sampling.is_guided else self.free}
