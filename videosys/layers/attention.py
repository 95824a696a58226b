"""Self-attention over tokens, and cross-attention to a text that was projected once per generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from videosys.layers.linear import Linear
from videosys.layers.rope import rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension: float32 inside, weighted in the dtype of the input."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v of [batch, heads, tokens, d], heads joined: [batch, tokens, heads * d]."""
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


class SelfAttention(nn.Module):
    """Multi-head attention of tokens [batch, tokens, C] among themselves."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`rotary`: cosines and sines [tokens, d/2], applied to q and k after their norms."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return self.proj(attention(q, k, v))


class TextRun(NamedTuple):
    """Keys and values [b, heads, L, d] of neighbouring samples (`rows`) whose texts are equally long."""

    rows: slice
    k: torch.Tensor
    v: torch.Tensor


class CrossAttention(nn.Module):
    """Attention of tokens to text. Each sample sees its own text tokens only, at their true number.

    Samples with equally long texts share one call, so there is neither padding nor a mask tensor.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = Linear(dim, dim)
        self.kv_linear = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)

    def prepare(self, rows: slice, y: torch.Tensor) -> TextRun:
        """Keys and values of text tokens `y` [b, L, C]; they do not change over the steps."""
        k, v = rearrange(self.kv_linear(y), "b l (two h d) -> two b h l d", two=2, h=self.num_heads)
        return TextRun(rows, k, v)

    def forward(self, x: torch.Tensor, text: Sequence[TextRun]) -> torch.Tensor:
        """x [B, T, S, C]; the runs of `text` cover the batch in order."""
        q = rearrange(self.q_linear(x), "b t s (h d) -> b h (t s) d", h=self.num_heads)
        out = torch.cat([attention(q[run.rows], run.k, run.v) for run in text])
        return self.proj(out).view_as(x)
