"""What an attention makes beside its result and drops again: the scores, where no single kernel does all."""

from __future__ import annotations

import torch

from videosys.layers.backends import best, pieces
from videosys.layers.linear import kernel_dtypes

FLOAT = torch.float32.itemsize


def score_bytes(q: torch.Tensor, k: torch.Tensor, backend: str = "auto") -> int:
    """The bytes of it for q [B, heads, n, d] and k [B, heads, m, d], of which the shapes alone matter."""
    backend = best(q) if backend == "auto" else backend
    return {"products": of_products, "math": of_math}.get(backend, of_one_kernel)(q, k)


def of_one_kernel(q: torch.Tensor, k: torch.Tensor) -> int:
    return 0


def of_products(q: torch.Tensor, k: torch.Tensor) -> int:
    """Scores and their softmax, queries, keys and values of the first piece: none is larger."""
    if q.dtype not in kernel_dtypes():  # then one kernel does it after all
        return 0
    (batch, heads, queries, width), others = q.shape, k.shape[2]
    rows, head, query = next(pieces(batch, heads, queries, others * k.element_size()))
    together = (rows.stop - rows.start) * (head.stop - head.start)
    asked = query.stop - query.start
    return together * (2 * asked * others + (asked + 2 * others) * width) * q.element_size()


def of_math(q: torch.Tensor, k: torch.Tensor) -> int:
    """Queries and keys scaled, in float32, with all scores and their softmax, or with the result twice."""
    scores = q.shape[:-1].numel() * k.shape[2]
    scaled = q.numel() + k.numel()
    widened = 0 if q.dtype == torch.float32 else q.numel() + 2 * k.numel()
    most = max(2 * scores, scores + 2 * q.numel())
    return (most + scaled + widened) * FLOAT - q.nbytes
