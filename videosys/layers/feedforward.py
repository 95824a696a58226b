"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from videosys.layers.linear import OneDnnGeluLinear, OneDnnLinear

CHUNK_BYTES = 4 << 20  # of hidden activations per chunk on a CPU: they stay in its cache


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear: [..., in_dim] to [..., out_dim]."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__()
        self.fc1 = OneDnnGeluLinear(in_dim, hidden_dim)
        self.fc2 = OneDnnLinear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return run_chunked(self._perceive, x, self.fc1.out_features)

    def _perceive(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


def run_chunked(function: Callable[[Tensor], Tensor], x: Tensor, hidden_dim: int) -> Tensor:
    """Apply `function`, which acts on each token, to x [..., C]: in chunks of tokens if that is faster.

    The hidden activations are the largest tensor of a transformer. On a CPU, the system maps a new tensor of
    this size page by page, and it does not stay in the cache until it is read. On other devices, and in a
    compiled graph, all tokens are processed together.
    """
    rows = max(CHUNK_BYTES // (hidden_dim * x.element_size()), 1)
    if x.device.type != "cpu" or x.numel() <= rows * x.shape[-1] or torch.compiler.is_compiling():
        return function(x)
    out = torch.cat([function(chunk) for chunk in x.reshape(-1, x.shape[-1]).split(rows)])
    return out.unflatten(0, x.shape[:-1])
