"""Repeats the generation of the same prompts and seeds with different caches."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from videosys.cache import Cache, CacheConfig, NoCacheConfig, StepRecord, start
from videosys.generation.denoise import Observer, denoise
from videosys.generation.pipeline import Pipeline
from videosys.generation.request import VideoJob
from videosys.models import family_of
from videosys.utils.devices import in_float64, synchronize
from videosys.utils.settled import settle

CacheFactory = Callable[[Sequence[float]], Cache]
Model = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class DenoiseRun:
    """Denoised latents [B, C, T, H, W], the step records and the seconds of the loop.

    On a CPU the seconds are process time, which does not include other programs.
    """

    latents: torch.Tensor
    steps: list[StepRecord]
    seconds: float

    @property
    def computed(self) -> int:
        """Number of steps that ran all blocks."""
        return sum(step.computed for step in self.steps)


class Clips:
    """Prompts with seeds and encoded texts, denoised together by each `run`."""

    @settle
    def __init__(self, pipeline: Pipeline, config: Any, jobs: Sequence[VideoJob]):
        self.pipeline, self.config, self.jobs = pipeline, config, list(jobs)
        self.texts = pipeline.encode_texts([job.prompt for job in jobs], config, quiet=True)

    @functools.cached_property
    @settle
    def condition(self) -> Any:
        """The condition argument of the transformer's forward for all clips. Loads the transformer."""
        with self.pipeline.transformer.use() as model:
            return self.pipeline.denoising(self.jobs, self.texts, self.config).condition(model)

    @settle
    def run(
        self,
        cache: CacheConfig | CacheFactory,
        *,
        observer: Observer | None = None,
        around: Callable[[Model], Model] | None = None,
        sampler: Any = None,
    ) -> DenoiseRun:
        """Generate once. around: wraps the model. sampler: replaces the config's sampler."""
        request = self.pipeline.denoising(self.jobs, self.texts, self.config)
        sampler = sampler or request.scheduler
        gather_rows = self.pipeline.parallel.gather_rows
        times = sampler.times()
        run_cache = cache(times) if callable(cache) else start(cache, times, gather_rows)
        condition = self.condition
        with self.pipeline.transformer.use() as model:
            clock = Clock(self.pipeline.transformer.device)
            latents = denoise(
                around(model) if around else model,
                sampler,
                request.latents.to(self.pipeline.transformer.device),
                condition,
                replace(request.sampling, observer=observer),
                run_cache,
                self.pipeline.parallel,
            )
            return DenoiseRun(latents, run_cache.steps, clock.seconds())

    @settle
    def frames(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [1, C, t, h, w] to float frames [T, H, W, 3] in [0, 1] on the CPU."""
        (frames,) = self.pipeline.frames(latents.to(self.pipeline.vae.device), self.config, quiet=True)
        return ((frames[0].float().clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).contiguous().cpu()

    def with_config(self, **changes: Any) -> Clips:
        """The same prompts and seeds with other config fields, such as the number of steps."""
        return Clips(self.pipeline, replace(self.config, **changes), self.jobs)

    def with_sampler(self, changes: Mapping[str, Any]) -> Clips:
        """The same prompts and seeds with other steps or another solver; shares texts and condition."""
        if not changes:
            return self
        clips = copy.copy(self)
        clips.config, clips.condition = replace(self.config, **changes), self.condition
        return clips


class Clock:
    """A stopwatch that measures process time on a CPU and wall time on a GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.begin = self._now()

    def seconds(self) -> float:
        """Seconds since the start."""
        return self._now() - self.begin

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        synchronize(self.device)
        return time.perf_counter()


@settle
def open_pipeline(config: Any, quiet: bool = False) -> tuple[Pipeline, Any]:
    """The pipeline of a config, and the config as a calibration runs it: without a cache, with a seed.

    ValueError for several devices, and from the config's `check_calibratable`.
    """
    if config.parallel.num_gpus != 1:
        raise ValueError(f"parallel.num_gpus is {config.parallel.num_gpus}; a calibration runs on one device")
    config.check_calibratable()
    config = replace(config, cache=NoCacheConfig(), seed=config.seed or 0)
    return family_of(config).build(config, quiet), config


def error_db(latents: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Signal-to-noise ratio in dB of latents against those of the full run; higher is closer.

    One number per sample; 200 for equal latents.
    """
    latents, reference = in_float64(latents), in_float64(reference)
    error = (latents - reference).square().flatten(1).mean(dim=1)
    size = reference.square().flatten(1).mean(dim=1)
    return (-10 * torch.log10((error / size).clamp(min=1e-20))).tolist()
