"""What the tests on a card share. Elsewhere they are skipped, and say why."""

from __future__ import annotations

import pytest
import torch

from eval.performance.models import BUILDERS, Setting, Size

DEVICE = torch.device("cuda")
ON_CARD = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
MODELS = list(BUILDERS)


def small(model: str, dtype: torch.dtype = torch.bfloat16, text: int = 20) -> Setting:
    """A model with the head widths of the published ones (72 and 96), and a few tokens."""
    return Setting(model, dtype, DEVICE, Size((4, 16, 16), text=text), depth=2, width=288, heads=4)


def distance(made: torch.Tensor, want: torch.Tensor) -> float:
    """How far apart, as a share of the size: in the root of the mean square."""
    made, want = made.double().cpu(), want.double().cpu()
    return float((made - want).norm() / want.norm())
