"""Temporary memory of attention besides its result: the scores, unless a fused kernel is used."""

from __future__ import annotations

import torch
from torch import Tensor

from videosys.layers.backends import canonical_backend, default_backend, score_chunks
from videosys.layers.linear import kernel_dtypes

FLOAT = torch.float32.itemsize


def score_bytes(q: Tensor, k: Tensor, backend: str = "auto") -> int:
    """Temporary bytes for q [B, heads, n, d] and k [B, heads, m, d]; only shapes and dtypes are read."""
    backend = default_backend(q) if backend == "auto" else canonical_backend(backend)
    counts = {"bmm": bmm_bytes, "math": math_bytes}
    return counts[backend](q, k) if backend in counts else 0  # others are fused


def bmm_bytes(q: Tensor, k: Tensor) -> int:
    """Bytes of scores, softmax, queries, keys and values of the first chunk, which is the largest."""
    if q.dtype not in kernel_dtypes():  # then a fused kernel is used
        return 0
    (batch, heads, queries, width), others = q.shape, k.shape[2]
    rows, head, query = next(score_chunks(batch, heads, queries, others * k.element_size()))
    together = (rows.stop - rows.start) * (head.stop - head.start)
    asked = query.stop - query.start
    return together * (2 * asked * others + (asked + 2 * others) * width) * q.element_size()


def math_bytes(q: Tensor, k: Tensor) -> int:
    """Bytes of scaled queries and keys in float32, plus scores and softmax or two copies of the result."""
    scores = q.shape[:-1].numel() * k.shape[2]
    scaled = q.numel() + k.numel()
    widened = 0 if q.dtype == torch.float32 else q.numel() + 2 * k.numel()
    most = max(2 * scores, scores + 2 * q.numel())
    return (most + scaled + widened) * FLOAT - q.nbytes
