"""Embeddings of latents, times, positions and text."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosys.layers.feedforward import Mlp
from videosys.utils.devices import CPU, float64_device

MAX_PERIOD = 10000.0


def arange(*span: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.arange on the CPU, even with another default device, so that tables are reproducible."""
    return torch.arange(*span, dtype=dtype, device=CPU)


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """[cos | sin] of values [B] times dim/2 frequencies, float32 [B, dim]."""
    steps = torch.arange(dim // 2, dtype=torch.float32, device=float64_device(values.device))
    # In float64, because the last bit of a float32 exp differs between processors and matters at timestep
    # 1000.
    frequencies = (-math.log(MAX_PERIOD) * steps / (dim // 2)).double().exp().float().to(values.device)
    angles = values.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def sine_cosine(positions: Tensor, dim: int) -> Tensor:
    """[sin | cos] of positions [n] times dim/2 frequencies, [n, dim]: float64 inside, rounded to float32."""
    exponents = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2)
    angles = torch.outer(positions.double(), 1 / MAX_PERIOD**exponents)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


def position_embedding(rows: int, columns: int, dim: int, scale: float, base_size: int) -> Tensor:
    """Sine-cosine table [rows * columns, dim], float32, of the CPU, row-major; columns fill the first half.

    Coordinates are stretched to a square of `base_size` and divided by `scale`, so that a position means
    the same share of the frame at every resolution.
    """
    row = arange(rows) / scale * (base_size / rows)
    column = arange(columns) / scale * (base_size / columns)
    frequencies = MAX_PERIOD ** -(arange(0, dim // 2, 2) / (dim // 2))
    v, u = torch.meshgrid(row, column, indexing="ij")
    u, v = torch.outer(u.flatten(), frequencies), torch.outer(v.flatten(), frequencies)
    return torch.cat((u.sin(), u.cos(), v.sin(), v.cos()), dim=-1)


class ScalarEmbedder(nn.Module):
    """A scalar per sample (a timestep, a frame rate) as a vector [B, C]."""

    def __init__(self, dim: int, num_frequencies: int = 256):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.mlp = nn.Sequential(nn.Linear(num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, values: Tensor) -> Tensor:
        # The sinusoid uses the float32 value: half precision has only every fourth timestep near 1000.
        return self.mlp(sinusoid(values, self.num_frequencies).to(next(self.parameters())))


class PatchEmbed(nn.Module):
    """Patches [..., c * patch volume] as tokens [..., C].

    The weight is that of a convolution in as many dimensions as patch_size has, as checkpoints store it. It
    is applied as a linear layer, because a shard of a frame's tokens is not a rectangle.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: tuple[int, ...]):
        super().__init__()
        conv: Any = nn.Conv2d if len(patch_size) == 2 else nn.Conv3d
        self.proj = conv(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class CaptionEmbedder(nn.Module):
    """Text features projected to the model's width, and the null caption of classifier-free guidance."""

    y_embedding: Tensor

    def __init__(self, caption_channels: int, dim: int, max_length: int):
        super().__init__()
        self.y_proj = Mlp(caption_channels, dim, dim)
        self.register_buffer("y_embedding", torch.randn(max_length, caption_channels) / caption_channels**0.5)

    def forward(self, y: Tensor) -> Tensor:
        return self.y_proj(y.to(self.y_proj.fc1.weight.dtype))
