"""Samplers of diffusers with the published settings, for one generation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from videosys.utils.ignored import ignored
from videosys.utils.lazy import imported
from videosys.utils.seed import Generators
from videosys.utils.typed import check_between

NUM_TRAIN_TIMESTEPS = 1000
PNDM_HISTORY = 4  # number of predictions in its multistep formula
PNDM_MIN_STEPS = PNDM_HISTORY
# The noise schedule used in the training of all these models.
NOISE: MappingProxyType[str, Any] = MappingProxyType(
    {
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "steps_offset": 0,
    }
)


class Sampler:
    """A scheduler of diffusers with its timesteps set and its options bound. Use a new one for each
    generation, because some schedulers keep a history.

    make: returns the scheduler. Its tables are on the CPU, even with another default device.
    timesteps: one entry per model evaluation, on the CPU. history: number of predictions that the scheduler
    keeps. init_noise_sigma: required standard deviation of the initial latents. alphas_cumprod: the signal's
    share of the variance at each of 1000 timesteps.
    """

    def __init__(
        self, make: Callable[[], Any], num_inference_steps: int, *, history: int = 0, **options: Any
    ):
        with torch.device("cpu"):
            scheduler = make()
            scheduler.set_timesteps(num_inference_steps)
        if history and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # grids may contain a timestep twice, so steps use the index
        self._scheduler, self._options = scheduler, options
        self.history = history
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.init_noise_sigma = float(scheduler.init_noise_sigma)
        self.alphas_cumprod: torch.Tensor = scheduler.alphas_cumprod

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The model's input for latents `sample` at this timestep."""
        return self._scheduler.scale_model_input(sample, timestep)

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> Any:
        """An object whose prev_sample is `sample` at the next timestep."""
        return self._scheduler.step(model_output, timestep, sample, **self._options)

    def times(self) -> list[float]:
        """The sampler's time of each model evaluation: the timestep."""
        return [float(timestep) for timestep in self.timesteps]


def ddim(
    num_inference_steps: int,
    *,
    beta_start: float = NOISE["beta_start"],
    beta_end: float = NOISE["beta_end"],
    beta_schedule: str = NOISE["beta_schedule"],
    eta: float = 0.0,
    generator: Generators = None,
) -> Sampler:
    """Return the sampler of Latte: DDIM (arXiv 2010.02502) from 1000 - 1000 // steps down to timestep 0.

    eta: share of new noise in each step, from `generator`; 0 adds none. ValueError for a number of steps
    outside 1..1000.
    """
    check_steps(num_inference_steps, 1)
    make = partial(
        imported("diffusers", "DDIMScheduler"),
        **{**NOISE, "beta_start": beta_start, "beta_end": beta_end, "beta_schedule": beta_schedule},
        clip_sample=False,
        set_alpha_to_one=True,
        # Not read from the checkpoint, because the first revision of Latte-1 has linspace.
        timestep_spacing="leading",
    )
    return Sampler(make, num_inference_steps, eta=eta, generator=generator)


def pndm(num_inference_steps: int) -> Sampler:
    """Return the sampler of Open-Sora-Plan v1.1.0: PNDM (arXiv 2202.09778), leading timesteps.

    The first three steps are Runge-Kutta steps of four evaluations each, so n steps make n + 9 evaluations,
    and `timesteps` has as many entries. ValueError for a number of steps outside 4..1000.
    """
    check_steps(num_inference_steps, PNDM_MIN_STEPS)
    options = {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading"}
    make = partial(imported("diffusers", "PNDMScheduler"), **NOISE, **options)
    return Sampler(make, num_inference_steps, history=PNDM_HISTORY)


def euler_ancestral(num_inference_steps: int, *, generator: Generators = None) -> Sampler:
    """Return the sampler of Open-Sora-Plan v1.2.0: ancestral Euler steps, float timesteps 999 .. 0.

    Each step draws new noise from `generator`, one for all or one per sample. ValueError for a number of
    steps outside 1..1000.
    """
    check_steps(num_inference_steps, 1)
    with ignored(DeprecationWarning):  # it creates arrays from tensors, for which NumPy 2 warns
        scheduler = imported("diffusers", "EulerAncestralDiscreteScheduler")
        make = partial(scheduler, **NOISE, timestep_spacing="linspace")
        return Sampler(make, num_inference_steps, generator=generator)


def check_steps(num_inference_steps: int, least: int) -> None:
    """ValueError for a number of steps outside least..1000."""
    check_between("num_inference_steps", num_inference_steps, least, NUM_TRAIN_TIMESTEPS)
