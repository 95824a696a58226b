"""What caches compete with: the same sampler with fewer steps, on its own grid and on a better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from videosys import NoCacheConfig
from videosys.calibration import Clips, DenoiseRun

NOISE_SHARE = 0.5  # of the cosine where timesteps are whole: no two of a hundred may be equal


def fewer_steps(clip: Clips, steps: int) -> DenoiseRun:
    """A run of the config with this many steps, on the grid of its sampler."""
    return clip.with_config(num_inference_steps=steps).run(NoCacheConfig())


def cosine_steps(clip: Clips, steps: int) -> DenoiseRun:
    """A run with this many steps, denser at both ends, where predictions change most."""
    return clip.run(NoCacheConfig(), sampler=cosine_sampler(clip, steps))


def has_cosine(clip: Clips) -> bool:
    """Whether there is such a grid: not for samplers that add noise, whose path depends on their steps."""
    return clip.pipeline.scope(clip.config).scheduler != "euler_ancestral"


def cosine_sampler(clip: Clips, steps: int) -> Any:
    """The config's own sampler on another grid for rectified flow, DDIM for models that predict noise."""
    sampler = clip.pipeline.denoising(clip.jobs, clip.texts, clip.config).scheduler
    alphas_cumprod = getattr(sampler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        sampler.timesteps = at_places(sampler.timesteps, cosine_places(steps))
        return sampler
    falling = sampler.timesteps.unique().flip(0)  # the Runge-Kutta steps of PNDM go back and forth
    return GridDDIM(at_places(falling, cosine_places(steps, NOISE_SHARE)), alphas_cumprod)


def cosine_places(steps: int, share: float = 1.0) -> list[float]:
    """Places in 0 (inclusive) to 1 (exclusive), densest at both ends; `share` 0 would be even ones."""
    even = [step / steps for step in range(steps)]
    return [(1 - share) * x + share * (1 - math.cos(math.pi * x)) / 2 for x in even]


def at_places(timesteps: torch.Tensor, places: Sequence[float]) -> torch.Tensor:
    """The timesteps at fractions of a run, between those that it has; 0 follows the last."""
    grid = torch.cat((timesteps.float(), torch.zeros(1)))
    position = torch.tensor(places) * len(timesteps)
    low = position.long()
    return torch.lerp(grid[low], grid[low + 1], position - low)


class Step(NamedTuple):
    prev_sample: torch.Tensor


class GridDDIM:
    """Deterministic DDIM (arXiv 2010.02502, equation 12) on any timesteps, one generation."""

    def __init__(self, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor):
        self.timesteps = timesteps.round().long()
        self.alphas = [float(alphas_cumprod[step]) for step in self.timesteps] + [1.0]
        self._step = 0

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sample

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> Step:
        """`sample` at the next timestep."""
        now, after = self.alphas[self._step : self._step + 2]
        self._step += 1
        clean = (sample - math.sqrt(1 - now) * model_output) / math.sqrt(now)
        return Step(math.sqrt(after) * clean + math.sqrt(1 - after) * model_output)

    def times(self) -> list[float]:
        return [float(step) for step in self.timesteps]
