"""A model whose residuals are known numbers, in a pipeline that a calibration can run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from videosys.cache import NO_CACHE, Cache, CacheConfig, NoCacheConfig, RunSpec
from videosys.generation.denoise import Sampling
from videosys.generation.pipeline import Denoising
from videosys.parallel import Parallel, ParallelConfig
from videosys.schedulers import RFlowScheduler

FRAMES, SIDE = 2, 16


@dataclass(frozen=True)
class SyntheticConfig:
    """num_inference_steps: of the sampler, evenly spaced in time."""

    num_inference_steps: int = 10
    batch_size: int = 1
    seed: int | None = 0
    guidance_scale: float = 1.0
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cache: CacheConfig = field(default_factory=NoCacheConfig)

    @property
    def steps(self) -> int:
        return self.num_inference_steps


class SyntheticModel:
    """Its residual at step i is residuals[i] times a picture, its signal signals[i]; it counts its calls."""

    def __init__(self, residuals: Sequence[float], signals: Sequence[float]):
        self.residuals, self.signals = list(residuals), list(signals)
        self.computed = 0
        self.dies_at: int | None = None

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor, cache: Cache = NO_CACHE
    ) -> torch.Tensor:
        step = round((1 - float(timesteps[0]) / 1000) * len(self.residuals))
        x = torch.zeros_like(latents)
        if not cache.should_compute(lambda kind: torch.full((3,), self.signals[step])):
            return cache.reuse(x)
        self.computed += 1
        if self.computed == self.dies_at:
            raise KeyboardInterrupt
        return cache.store(x, x + self.residuals[step] * condition)


class Part:
    device = torch.device("cpu")

    def __init__(self, model: Any):
        self.model = model

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        yield self.model


class SyntheticPipeline:
    """The few methods of a pipeline that a calibration calls."""

    parallel = Parallel()

    def __init__(self, residuals: Sequence[float], signals: Sequence[float] | None = None):
        self.model = SyntheticModel(residuals, signals or [1.0 + i for i in range(len(residuals))])
        self.transformer, self.vae = Part(self.model), Part(None)

    def encode_texts(self, prompts: Sequence[str], config: Any, quiet: bool) -> dict[str, torch.Tensor]:
        return {text: torch.randn(4, FRAMES, SIDE, SIDE, generator=seeded(len(text))) for text in prompts}

    def sampler(self, config: SyntheticConfig, generators: Any) -> RFlowScheduler:
        scheduler = RFlowScheduler(use_timestep_transform=False)
        scheduler.set_timesteps(config.steps)
        return scheduler

    @property
    def family(self) -> SyntheticPipeline:
        return self  # all that is asked of it is the scheduler

    def denoising(self, jobs: Sequence[Any], texts: Any, config: SyntheticConfig) -> Denoising:
        noise = torch.stack([torch.randn(4, FRAMES, SIDE, SIDE, generator=seeded(job.seed)) for job in jobs])
        pictures = torch.stack([texts[job.prompt] for job in jobs])
        return Denoising(self.sampler(config, ()), noise, lambda model: pictures, Sampling(1.0))

    def frames(self, latents: torch.Tensor, config: Any, quiet: bool) -> Iterator[torch.Tensor]:
        return (row[:, :3].tanh() for row in latents.split(1))

    def scope(self, config: SyntheticConfig) -> RunSpec:
        return RunSpec("synthetic", "rflow", config.steps, config.steps, (FRAMES, SIDE, SIDE), 1.0, "0" * 16)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opened(pipeline: SyntheticPipeline) -> Any:
    """What stands in for `videosys.calibration.runs.open_pipeline`."""
    return lambda config, quiet=False: (pipeline, replace(config, seed=config.seed or 0))
