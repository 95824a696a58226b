"""Weights and inputs of the golden cases, rebuilt from names: a golden file stores outputs only."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

SEED_MASK = 0xFFFFFFFF


def fill(key: str, shape: Sequence[int], salt: int = 0) -> np.ndarray:
    """Float32 values that belong to `key`; RandomState, because NumPy keeps its streams for ever.

    Inputs ("input:...") are standard normal, matrices are scaled by 1/sqrt(fan in), norm weights sit around
    one
    and every other vector is small.
    """
    stream = np.random.RandomState((zlib.crc32(key.encode("utf-8")) + salt) & SEED_MASK)
    values = stream.standard_normal(tuple(map(int, shape)))
    return np.asarray(_scaled(key, values), dtype=np.float32)


def _scaled(key: str, values: np.ndarray) -> np.ndarray:
    if key.startswith("input:"):
        return values
    if values.ndim >= 2:
        return values / math.sqrt(math.prod(values.shape[1:]))
    return 1.0 + 0.1 * values if key.endswith("weight") else 0.1 * values


def fill_tensor(key: str, shape: Sequence[int], salt: int = 0) -> torch.Tensor:
    return torch.from_numpy(fill(key, shape, salt))


def fill_module(module: nn.Module, keep: Sequence[str] = (), salt: int = 0) -> nn.Module:
    """`module` with every entry of its state dict filled, but for the names in `keep`; in eval mode."""
    with torch.no_grad():
        for key, tensor in module.state_dict(keep_vars=True).items():
            if key not in keep:
                tensor.copy_(fill_tensor(key, tensor.shape, salt))
    return module.eval()
