"""Self-attention over tokens, and cross-attention to a text that is projected once per generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videosys.layers import kernels
from videosys.layers.backends import attend, heads_first, takes_frames, text_backend
from videosys.layers.linear import OneDnnLinear
from videosys.layers.rope import Rotary, rotate

EPS = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension: float32 inside, weighted in the dtype of the input."""

    def __init__(self, dim: int, eps: float = EPS):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * self.weight


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = True):
        super().__init__()
        self.num_heads, self.attention_backend, self.uses_kernels = num_heads, "auto", False
        self.qkv = OneDnnLinear(dim, 3 * dim)
        self.q_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = OneDnnLinear(dim, dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """x [batch, tokens, ..., C]: attention over tokens, separately for each index of the dims in between.

        `rotary`: cosines and sines [tokens, d/2], applied to q and k after their norms.
        """
        return self.proj(self._attended(x, rotary))

    def _attended(self, x: Tensor, rotary: Rotary | None) -> Tensor:
        """The input of the last layer, [batch, tokens, ..., C]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        if takes_frames(self, x):
            return kernels.attend_frames((q, k, v), self._weights(), rotary or (), EPS).flatten(-2)
        is_fused = self._is_fused(q, k, rotary)
        q, k = self._norm_rotate(q, k, rotary) if is_fused else (self.q_norm(q), self.k_norm(k))
        # Over frames on a CPU these are copies, and nothing keeps the projection during the rotation.
        q, k, v = heads_first(q), heads_first(k), heads_first(v)
        if rotary is not None and not is_fused:
            q = rotate(q, rotary)
            k = rotate(k, rotary)
        return attend(q, k, v, None, self.attention_backend).reshape(x.shape)

    def _weights(self) -> list[Tensor]:
        """The weights of the norms of queries and keys, if any."""
        return [norm.weight for norm in (self.q_norm, self.k_norm) if isinstance(norm, RMSNorm)]

    def _is_fused(self, q: Tensor, k: Tensor, rotary: Rotary | None) -> bool:
        """Whether one kernel normalizes and rotates queries and keys [batch, tokens, heads, d]."""
        has_work = rotary is not None or bool(self._weights())
        return self.uses_kernels and has_work and q.ndim == 4 and kernels.serves_heads(q, k)

    def _norm_rotate(self, q: Tensor, k: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        """Queries and keys [batch, tokens, heads, d] after norms and rotation, by the kernel."""
        group = q.shape[-1] // 2 if rotary is None else 1  # without a rotation, pairs do not matter
        return kernels.norm_rotate((q, k), self._weights(), rotary or (), EPS, group)


class TextKV(NamedTuple):
    """Keys and values of the text for neighbouring samples of a batch; a block gets a sequence of them that
    covers the batch in order.
    """

    k: Tensor  # [b, heads, L, d]
    v: Tensor
    rows: slice  # the samples of the batch, b of them
    bias: Tensor | None = None  # [b, 1, 1, L], added to the scores where texts are padded

    @classmethod
    def from_projections(
        cls, k: Tensor, v: Tensor, num_heads: int, rows: slice, bias: Tensor | None = None
    ) -> TextKV:
        """The keys and values of projections [b, L, C]."""
        k, v = (rearrange(part, "b l (h d) -> b h l d", h=num_heads) for part in (k, v))
        return cls(k, v, rows, bias)


def attend_text(q: Tensor, text: Sequence[TextKV], layer: Any) -> Tensor:
    """Attention of a layer's queries [B, T, S, C] to the text of their own sample: [B, T, S, C]."""
    heads = rearrange(q, "b t s (h d) -> b h (t s) d", h=layer.num_heads)
    out = [
        attend(heads[part.rows], part.k, part.v, part.bias, text_backend(layer, heads, part.k))
        for part in text
    ]
    return (out[0] if len(out) == 1 else torch.cat(out)).reshape(q.shape)


class CrossAttention(nn.Module):
    """Attention of tokens to text, with one projection for keys and values.

    Samples with equally long texts share one call, so there is neither padding nor a mask tensor.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.attention_backend, self.uses_kernels = num_heads, "auto", False
        self.q_linear = OneDnnLinear(dim, dim)
        self.kv_linear = OneDnnLinear(dim, 2 * dim)
        self.proj = OneDnnLinear(dim, dim)

    def prepare(self, rows: slice, y: Tensor) -> TextKV:
        """Keys and values of text tokens `y` [b, L, C] of some samples; they do not change over the steps."""
        k, v = self.kv_linear(y).chunk(2, dim=-1)
        return TextKV.from_projections(k, v, self.num_heads, rows)

    def forward(self, x: Tensor, text: Sequence[TextKV]) -> Tensor:
        """x [B, T, S, C]."""
        return self.proj(attend_text(self.q_linear(x), text, self))
