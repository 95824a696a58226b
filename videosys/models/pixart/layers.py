"""Layers of the transformers derived from PixArt (Latte, Open-Sora-Plan), with the parameter names of
diffusers, as in their checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videosys.layers import kernels
from videosys.layers.attention import TextKV, attend_text
from videosys.layers.backends import attend, heads_first, takes_frames
from videosys.layers.embeddings import sinusoid
from videosys.layers.feedforward import run_chunked
from videosys.layers.grid import Grid
from videosys.layers.linear import OneDnnGeluLinear, OneDnnLinear

NUM_FREQUENCIES = 256  # of the sinusoid of a timestep
MASKED = -10000.0  # finite: if everything is masked, everything is visible, without NaN


def mask_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias [B, 1, 1, keys] of attention scores [B, heads, queries, keys] for a mask [B, keys]
    (1 = keep); None if nothing is masked.
    """
    if mask is None or bool((mask != 0).all()):
        return None
    return torch.where(mask != 0, 0.0, MASKED).to(dtype)[:, None, None]


def visible_text(prompt_embeds: Tensor, prompt_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Text [B, l, D] and mask [B, l] without tokens that are masked in all prompts: their weight is zero.

    A prompt with only masked tokens attends to all of them, so then all stay. ValueError for a mask that does
    not fit.
    """
    if prompt_embeds.ndim != 3:
        raise ValueError(f"prompt_embeds must be [B, L, D], not {list(prompt_embeds.shape)}")
    if prompt_mask is None:
        return prompt_embeds, None
    if prompt_mask.shape != prompt_embeds.shape[:2]:
        raise ValueError(
            f"prompt_mask {list(prompt_mask.shape)} does not fit prompt_embeds {list(prompt_embeds.shape)}"
        )
    mask = (prompt_mask != 0).to(prompt_embeds.device)
    kept = mask.any(dim=0) if bool(mask.any(dim=1).all()) else torch.ones_like(mask[0])
    return prompt_embeds[:, kept], mask[:, kept]


def visible_tokens(mask: Tensor | None, grid: Grid, batch: int) -> Tensor | None:
    """Which tokens [batch, T, S] are visible: those with a visible latent in their patch. None for no mask.

    mask: [B, T, H, W] with B a divisor of `batch`, 1 where a latent is visible. ValueError for other shapes.
    """
    if mask is None:
        return None
    grid.check_mask(mask, batch)
    tokens = grid.patchify((mask != 0).float()[:, None]).amax(dim=-1)
    return tokens.repeat(batch // len(mask), 1, 1)


class TwoLinear(nn.Sequential):
    """Linear, activation, Linear: [..., in_dim] to [..., C], in the dtype of the weights."""

    def __init__(self, in_dim: int, dim: int, activation: nn.Module):
        linears = nn.Linear(in_dim, dim), nn.Linear(dim, dim)
        super().__init__(OrderedDict(linear_1=linears[0], activation=activation, linear_2=linears[1]))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(next(self.parameters())))


class AdaLNSingle(nn.Module):
    """The time embedding t [B, C] and the six modulation vectors t6 [B, 1, 6, C] that all blocks share."""

    def __init__(self, dim: int):
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TwoLinear(NUM_FREQUENCIES, dim, nn.SiLU())})
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        # The sinusoid uses the float32 value: half precision has only every fourth timestep near 1000.
        t = self.emb["timestep_embedder"](sinusoid(timesteps, NUM_FREQUENCIES))
        return t, rearrange(self.linear(F.silu(t)), "b (six c) -> b 1 six c", six=6)


class _Activation(nn.Module):
    """The first layer of a FeedForward, with its GELU."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.proj = OneDnnGeluLinear(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), Linear, four times as wide inside."""

    def __init__(self, dim: int):
        super().__init__()
        # In between is a dropout, without parameters and without effect here.
        self.net = nn.Sequential(_Activation(dim, 4 * dim), nn.Identity(), OneDnnLinear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return run_chunked(self.net, x, 4 * x.shape[-1])


class AttentionProjections(nn.Module):
    """Projections of an attention with one layer each for queries, keys, values and output."""

    def __init__(self, dim: int, num_heads: int, bias: bool = True):
        super().__init__()
        self.num_heads, self.attention_backend, self.uses_kernels = num_heads, "auto", False
        self.to_q = OneDnnLinear(dim, dim, bias=bias)
        self.to_k = OneDnnLinear(dim, dim, bias=bias)
        self.to_v = OneDnnLinear(dim, dim, bias=bias)
        self.to_out = nn.ModuleList([OneDnnLinear(dim, dim)])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [..., heads, d] of tokens [..., C]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)) for layer in (self.to_q, self.to_k, self.to_v)
        )
        return q, k, v

    def output(self, heads: Tensor) -> Tensor:
        """[..., heads, d] joined and projected to [..., C]."""
        return self.to_out[0](heads.flatten(-2))


class SelfAttention(AttentionProjections):
    """Self-attention of tokens."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [batch, tokens, ..., C]: attention over tokens, separately for each index of the dims in between.

        `bias` [batch or 1, 1, 1, tokens] is added to the scores.
        """
        return self.to_out[0](self._attended(x, bias))

    def _attended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The input of the last layer, [batch, tokens, ..., C]."""
        q, k, v = self.project(x)
        if bias is None and takes_frames(self, x):
            return kernels.attend_frames((q, k, v)).flatten(-2)
        q = heads_first(q)  # one by one: over frames on a CPU, each is a copy
        k = heads_first(k)
        v = heads_first(v)
        return attend(q, k, v, bias, self.attention_backend).reshape(x.shape)


class CrossAttention(AttentionProjections):
    """Attention of tokens to the text; its keys and values are projected once per generation."""

    def prepare(self, rows: slice, y: Tensor, bias: Tensor | None = None) -> TextKV:
        """Keys and values of text tokens `y` [b, L, C] of some samples; they do not change over the steps."""
        return TextKV.from_projections(self.to_k(y), self.to_v(y), self.num_heads, rows, bias)

    def forward(self, x: Tensor, text: Sequence[TextKV]) -> Tensor:
        """x [B, T, S, C]."""
        return self.to_out[0](attend_text(self.to_q(x), text, self))
