"""What an encoder says of a video: a normal distribution of latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """The normal distribution of the latents [B, C, t, h, w] of a video."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A sample; its noise is float32, drawn on the generator's own device (the CPU without one)."""
        device = generator.device if generator is not None else "cpu"
        return self.at(torch.randn(self.mean.shape, generator=generator, device=device))

    def at(self, noise: Tensor) -> Tensor:
        """mean + std * noise."""
        return self.mean + self.std * noise.to(self.mean)


def posterior(moments: Tensor) -> Posterior:
    """The distribution that moments [B, 2 C, ...] describe: means, then logarithms of variances."""
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean, logvar.clamp(-30.0, 20.0))
