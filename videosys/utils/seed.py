"""Seeds and random generators."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

LARGEST_SEED = 2**63 - 1

# One generator for all samples, one for each, or torch's default.
Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_seed() -> int:
    """Return a new random seed, short enough to type."""
    return secrets.randbelow(2**32)


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator whose numbers depend only on seed and device.

    On the CPU they are the same on every computer and rank, so latents are drawn there.
    ValueError unless the seed is a whole number from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {LARGEST_SEED}, got {seed!r}")
    return torch.Generator(device).manual_seed(seed)
