"""Adaptive layer norm (adaLN-single): six vectors per sample, or per sample and frame, steer every block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def normalize(x: Tensor) -> Tensor:
    """Layer norm over the channels, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) * (1 + scale) + shift."""
    return normalize(x) * (1 + scale) + shift


def modulation(table: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """The block's learned table [n, C] plus the time vectors [B, F, n, C] as n tensors [B, F, 1, C].

    F is 1, or the number of frames when kept and denoised frames are modulated differently.
    """
    return (table + vectors).unsqueeze(2).unbind(3)


class AdaLNBlock(nn.Module):
    """A block of a transformer whose norms the time modulates.

    branches: what its forward asks of a cache, in order.
    """

    branches: tuple[str, ...] = ("attention", "cross", "mlp")

    def __init__(self, dim: int):
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def modulated_input(self, x: Tensor, t6: Tensor) -> Tensor:
        """LN(x) modulated by the time: what the first self-attention sees, and TeaCache's signal."""
        shift, scale, *_ = modulation(self.scale_shift_table, t6)
        return modulate(x, shift, scale)


def select_frames(frame_mask: Tensor, free: Tensor, kept: Tensor) -> Tensor:
    """Per frame of `frame_mask` [B, T]: `free` where it is being denoised, `kept` where it is a condition.

    The two broadcast against the mask's two dimensions, so small tables are selected instead of activations.
    """
    extra = (1,) * (free.ndim - frame_mask.ndim)
    return torch.where(frame_mask.reshape(*frame_mask.shape, *extra), free, kept)
