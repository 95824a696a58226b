"""Rotary position embedding; angles are float32 for every dtype of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videosys.layers.embeddings import arange
from videosys.utils.devices import CPU

THETA = 10000.0
Rotary = tuple[Tensor, Tensor]  # cosines and sines


def rotary_frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """Frequencies theta^(-2j/d), j = 0 .. d/2 - 1, float32 [d/2]; without `device` on torch's default."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return THETA**-exponents


class RotaryEmbedding(nn.Module):
    """Rotary tables of one axis; `freqs` is a parameter because published checkpoints store it as one."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.freqs = nn.Parameter(rotary_frequencies(head_dim), requires_grad=False)

    def forward(self, num_positions: int) -> Rotary:
        """Cosines and sines [positions, d/2], float32.

        A model cast to half precision has rounded its frequencies (a rotated query then moves by up to 0.1),
        so they are computed again from the formula.
        """
        freqs: Tensor = self.freqs
        if freqs.dtype != torch.float32:
            freqs = rotary_frequencies(self.head_dim, CPU).to(freqs.device)
        positions = torch.arange(num_positions, dtype=torch.float32, device=freqs.device)
        angles = torch.outer(positions, freqs)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, table: Rotary) -> Tensor:
    """`x` [..., positions, d] with each interleaved pair (x_2j, x_2j+1) rotated by its angle."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def rotary_table_3d(size: tuple[int, int, int], scales: tuple[float, float, float], head_dim: int) -> Rotary:
    """Cosines and sines [t * h * w, 1, 3, d/6], float32, on the CPU: a third of the head for each of frame,
    row and column.

    `scales` divide the positions along each axis.
    """
    freqs = rotary_frequencies(head_dim // 3, CPU)
    axes = [arange(n) / scale for n, scale in zip(size, scales)]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, 3, 1)
    angles = positions * freqs
    return angles.cos(), angles.sin()


def rotate_3d(x: Tensor, table: Rotary) -> Tensor:
    """`x` [B, tokens, heads, d] rotated: in each third of d, element k is paired with element k + d/6."""
    cos, sin = table
    near, far = x.float().unflatten(-1, (3, 2, -1)).unbind(-2)
    turned = torch.stack((near * cos - far * sin, far * cos + near * sin), dim=-2)
    return turned.flatten(-3).to(x.dtype)
