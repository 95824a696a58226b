"""Solvers of flow models that predict data minus noise: x = (1 - sigma) data + sigma noise."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

from videosys.schedulers.rflow import NUM_TRAIN_TIMESTEPS, SchedulerOutput
from videosys.utils.devices import host_row


def shifted_grid(num_inference_steps: int, shift: float) -> torch.Tensor:
    """Noise levels sigma, float64 [steps], decreasing from 1: s u / (1 + (s - 1) u) for evenly spaced u.
    ValueError for less than 1 step.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be 1 or more")
    u = 1 - torch.arange(num_inference_steps, dtype=torch.float64, device="cpu") / num_inference_steps
    return shift * u / (1 + (shift - 1) * u)


class FlowGrid:
    """The timesteps of noise levels [steps]; base class of all flow solvers. For one generation.

    timesteps: float32 [steps], 1000 sigma. history: number of predictions that it keeps.
    """

    init_noise_sigma = 1.0

    def __init__(self, sigmas: torch.Tensor, history: int):
        self.sigmas, self.history = sigmas.tolist(), history
        self.timesteps = (sigmas * NUM_TRAIN_TIMESTEPS).float()

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """`sample` itself: flow models need no scaling."""
        return sample

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The point at `timestep` on the straight path between data and noise."""
        share = timestep / NUM_TRAIN_TIMESTEPS
        return (1 - share) * sample + share * noise

    def times(self) -> list[float]:
        """The noise level of each model evaluation, 1 (noise) to 0 (data)."""
        return list(self.sigmas)


class FlowSolver(FlowGrid):
    """DPM-Solver++ (arXiv 2211.01095) for flow models: order 1, which is Euler's method, or 2 (2M).

    The last step, to sigma 0, is of order 1.
    """

    def __init__(self, sigmas: torch.Tensor, order: int):
        super().__init__(sigmas, history=order - 1)
        self._step = 0
        self._previous: torch.Tensor | None = None  # the estimated data of the previous step

    def restarted(self, step: int) -> FlowSolver:
        """A new solver without history that continues at `step`."""
        solver = FlowSolver(host_row(self.sigmas), self.history + 1)
        solver._step = step
        return solver

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
    ) -> SchedulerOutput:
        """`sample` at the next noise level, 0 after the last."""
        sigma, following = (*self.sigmas, 0.0)[self._step : self._step + 2]
        if not self.history:
            self._step += 1
            return SchedulerOutput(sample + model_output * (sigma - following))
        data = sample + sigma * model_output
        mixed = torch.lerp(data, self._previous, -self._slope()) if self._previous is not None else data
        self._previous = data
        self._step += 1
        # (1 - s') (1 - exp(lam - lam')) with lam = log((1 - s) / s), written without infinities
        share = (1 - following) - (1 - sigma) * following / sigma
        return SchedulerOutput((following / sigma) * sample + share * mixed)

    def _slope(self) -> float:
        """The weight of the last change of the estimated data: half the ratio of the log-SNR steps."""
        sigma, following = (*self.sigmas, 0.0)[self._step : self._step + 2]
        before = self.sigmas[self._step - 1]
        if following == 0 or before == 1:
            return 0.0
        return (log_snr(following) - log_snr(sigma)) / (2 * (log_snr(sigma) - log_snr(before)))


def log_snr(sigma: float) -> float:
    """log((1 - sigma) / sigma)."""
    return math.log1p(-sigma) - math.log(sigma)


class FlowSampler(FlowGrid):
    """A scheduler of diffusers at given noise levels. diffusers' flow models predict noise minus data."""

    def __init__(self, scheduler: Any, sigmas: torch.Tensor, history: int):
        super().__init__(sigmas, history)
        self._fresh, self._scheduler = scheduler, copy.deepcopy(scheduler)
        self._scheduler.set_timesteps(len(sigmas), sigmas=np.array(self.sigmas))
        self._scheduler.set_begin_index(0)  # its timesteps are whole numbers and may repeat

    def restarted(self, step: int) -> FlowSampler:
        """A new sampler without history that continues at `step`."""
        sampler = FlowSampler(self._fresh, host_row(self.sigmas), self.history)
        sampler._scheduler.set_begin_index(step)
        return sampler

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
    ) -> SchedulerOutput:
        """`sample` at the next noise level, 0 after the last."""
        index = self._scheduler.step_index
        index = self._scheduler.begin_index if index is None else index
        own = self._scheduler.timesteps[index]
        return SchedulerOutput(self._scheduler.step(-model_output, own, sample).prev_sample)
