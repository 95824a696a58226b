"""Adaptive layer norm (adaLN-single): six vectors per sample, or per sample and frame, modulate blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosys.cache.base import Branch, Compute, compute_branch
from videosys.layers import kernels
from videosys.layers.attention import TextKV

EPS = 1e-6
Gated = tuple[Tensor, Tensor | None]


def normalize(x: Tensor) -> Tensor:
    """Layer norm over the channels, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, uses_kernels: bool = False) -> Tensor:
    """LN(x) * (1 + scale) + shift."""
    if uses_kernels and kernels.serves_modulation(x, shift, scale):
        return kernels.modulate(x, shift, scale, EPS)
    return normalize(x) * (1 + scale) + shift


def modulation(table: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """The block's learned table [n, C] plus the time vectors [B, F, n, C] as n tensors [B, F, 1, C].

    F is 1, or the number of frames when kept and denoised frames are modulated differently.
    """
    return (table + vectors).unsqueeze(2).unbind(3)


def gated(branch: Branch, kind: str, gate: Tensor, compute: Compute) -> Gated:
    """A branch with the gate that a cache keeps with it, and the gate that is applied later: None
    if the cache keeps branches.
    """
    if branch is compute_branch:
        return compute(), gate
    return branch(kind, lambda: gate * compute()), None


class AdaLNBlock(nn.Module):
    """A transformer block whose norms are modulated by the time embedding.

    branches: kinds of branches in its forward, in order.
    """

    branches: tuple[str, ...] = ("attention", "cross", "mlp")

    def __init__(self, dim: int):
        super().__init__()
        self.uses_kernels = False
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def modulated_input(self, x: Tensor, t6: Tensor) -> Tensor:
        """LN(x) modulated by the time embedding: the input of the self-attention, and TeaCache's signal."""
        shift, scale, *_ = modulation(self.scale_shift_table, t6)
        return self.modulate(x, shift, scale)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(x, shift, scale, self.uses_kernels)

    def add(self, x: Tensor, y: Tensor, gate: Tensor | None = None) -> Tensor:
        """x + gate * y: with kernels in one pass, without rounding the product."""
        if gate is not None and self.uses_kernels and kernels.serves(x, y, gate):
            return torch.addcmul(x, gate, y)
        return x + (y if gate is None else gate * y)

    def add_modulate(
        self, x: Tensor, shift: Tensor, scale: Tensor, y: Tensor, gate: Tensor | None = None
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """x + gate * y, and a function for its modulation, which a cache may not need."""
        if self.uses_kernels and kernels.serves_modulation(x, shift, scale):
            total, modulated = kernels.add_modulate(x, y, gate, shift, scale, EPS)
            return total, lambda: modulated
        total = self.add(x, y, gate)
        return total, lambda: self.modulate(total, shift, scale)


class TextBlock(AdaLNBlock):
    """Self-attention, cross-attention to the text if the block has it, and an MLP.

    names: the attributes of the three layers, named as in checkpoints. A subclass creates them, and defines
        in `attend` which tokens attend to each other.
    """

    names = ("attn", "cross_attn", "mlp")

    def forward(
        self, x: Tensor, t6: Tensor, text: Sequence[TextKV] | None, layout: Any, branch: Branch
    ) -> Tensor:
        """x [B, T, S, C], t6 [B, 1 or T, 6, C]; text None for a block without it. `layout` is passed to
        `attend`; `branch` may return a kept result instead of computing.
        """
        layers: list[Any] = [getattr(self, name, None) for name in self.names]
        attn, cross, mlp = layers
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.scale_shift_table, t6)
        y, gate = self.gated_attention(
            branch, gate1, lambda: self.attend(attn, self.modulate(x, shift1, scale1), layout)
        )
        if text is not None:
            x = self.add(x, y, gate)
            y, gate = branch("cross", lambda: cross(x, text)), None  # neither norm nor gate
        x, modulated = self.add_modulate(x, shift2, scale2, y, gate)
        del y  # frees it before the MLP
        return self.add(x, *gated(branch, "mlp", gate2, lambda: mlp(modulated())))

    def gated_attention(self, branch: Branch, gate: Tensor, attended: Compute) -> Gated:
        """The attention and its gate; a kept one has the gate of its computed step."""
        return gated(branch, "attention", gate, attended)

    def attend(self, attn: Any, x: Tensor, layout: Any) -> Tensor:
        """The self-attention `attn` of x [B, T, S/n, C]."""
        raise NotImplementedError


def select_frames(frame_mask: Tensor, free: Tensor, kept: Tensor) -> Tensor:
    """Per frame of `frame_mask` [B, T]: `free` where it is being denoised, `kept` where it is a condition.

    The two broadcast against the mask's two dimensions, so small tables are selected instead of activations.
    """
    extra = (1,) * (free.ndim - frame_mask.ndim)
    return torch.where(frame_mask.reshape(*frame_mask.shape, *extra), free, kept)
