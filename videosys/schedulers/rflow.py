"""The rectified-flow sampler of Open-Sora v1.2, with the interface of diffusers."""

from __future__ import annotations

from typing import NamedTuple

import torch

NUM_TRAIN_TIMESTEPS = 1000
BASE_PIXELS = 512 * 512


class SchedulerOutput(NamedTuple):
    """Latents at the next timestep."""

    prev_sample: torch.Tensor


def time_shift(num_frames: int, height: float, width: float) -> torch.Tensor:
    """Return the ratio r, a float32 scalar. It gives larger and longer videos more steps at high noise.

    height and width in pixels, num_frames of the video. A chunk of 17 frames counts as 5, a single image as
    1. ValueError for 2 to 16 frames, which count as 0 and would make the first timestep NaN.
    """
    chunks = 1 if num_frames == 1 else num_frames // 17 * 5
    if chunks <= 0:
        raise ValueError(f"num_frames is {num_frames}; allowed: 1 (an image) or 17 and more")
    size = torch.tensor([height * width / BASE_PIXELS, chunks], dtype=torch.float32, device="cpu")
    return size.sqrt().prod()


class RFlowScheduler:
    """Euler steps along the velocity from noise (timestep 1000) to data (0), for one generation.

    history: number of predictions that it keeps: 0.
    """

    history = 0
    init_noise_sigma = 1.0  # standard deviation of the initial latents

    def __init__(self, use_timestep_transform: bool = True):
        self.use_timestep_transform = use_timestep_transform
        self.timesteps = torch.empty(0, device="cpu")
        self._step = 0

    def set_timesteps(
        self, num_inference_steps: int, *, num_frames: int = 1, height: float = 512, width: float = 512
    ) -> None:
        """Set `timesteps`, float32 [steps], decreasing from 1000; the shift depends on the video's size."""
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be 1 or more")
        # Float32 in this order of operations, because the last bit of a timestep affects the model's
        # sinusoid.
        uniform = [
            (1 - step / num_inference_steps) * NUM_TRAIN_TIMESTEPS for step in range(num_inference_steps)
        ]
        u = torch.tensor(uniform, dtype=torch.float32, device="cpu") / NUM_TRAIN_TIMESTEPS
        if self.use_timestep_transform:
            ratio = time_shift(num_frames, height, width)
            u = ratio * u / (1 + (ratio - 1) * u)
        # Rounding may move the first timestep above 1000, where frames would not count as noisy.
        self.timesteps = (u * NUM_TRAIN_TIMESTEPS).clamp(max=NUM_TRAIN_TIMESTEPS)
        self._step = 0

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """`sample` itself: rectified flow needs no scaling."""
        return sample

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
    ) -> SchedulerOutput:
        """`sample` moved along the velocity `model_output` to the next timestep (0 after the last)."""
        following = self.timesteps[self._step + 1 :][:1].sum()  # 0 at the end
        step_size = (self.timesteps[self._step] - following) / NUM_TRAIN_TIMESTEPS
        self._step += 1
        return SchedulerOutput(sample + model_output * step_size)

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The point at `timestep` on the straight path between data and noise."""
        share = timestep / NUM_TRAIN_TIMESTEPS
        return (1 - share) * sample + share * noise

    def times(self) -> list[float]:
        """The sampler's time of each model evaluation, 1 (noise) to 0 (data)."""
        return (self.timesteps / NUM_TRAIN_TIMESTEPS).tolist()
