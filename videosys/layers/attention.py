"""Self-attention over tokens, and cross-attention to a text that was projected once per generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from videosys.layers.backends import attend, heads_first
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


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = True):
        super().__init__()
        self.num_heads, self.attention_backend = num_heads, "auto"
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """x [batch, tokens, ..., C]: what stands between is attended each for itself.

        `rotary`: cosines and sines [tokens, d/2], applied to q and k after their norms.
        """
        made = attend(*self._project(x, rotary), None, self.attention_backend)
        return self.proj(made.reshape(x.shape))

    def _project(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        q, k, v = heads_first(self.q_norm(q)), heads_first(self.k_norm(k)), heads_first(v)
        return (q, k, v) if rotary is None else (rotate(q, rotary), rotate(k, rotary), v)


class Text(NamedTuple):
    """A block's keys and values [B, heads, L, d] of the text, and the bias [B, 1, 1, L] where some of it is
    masked.
    """

    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None = None


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
        self.num_heads, self.attention_backend = num_heads, "auto"
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
        out = [attend(q[run.rows], run.k, run.v, backend=self.attention_backend) for run in text]
        return self.proj((out[0] if len(out) == 1 else torch.cat(out)).flatten(2)).view_as(x)
