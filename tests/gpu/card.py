"""What the tests on a card share. Elsewhere they are skipped, and say why."""

from __future__ import annotations

import pytest
import torch

from eval.performance.models import Setting, Size, models

DEVICE = torch.device("cuda")
ON_CARD = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
MODELS = models()
# The head widths of the published ones, 72 and 96.
SHAPES = {
    "STDiT3": {"hidden_size": 288, "num_heads": 4},
    "LatteT2V": {"num_attention_heads": 4, "attention_head_dim": 72, "cross_attention_dim": 288},
    "OpenSoraT2V": {"num_attention_heads": 3, "attention_head_dim": 96, "cross_attention_dim": 288},
}


def small(model: str, dtype: torch.dtype = torch.bfloat16, text: int = 20) -> Setting:
    """A narrow model of two blocks of each stack, and a few tokens."""
    return Setting.small(model, dtype, DEVICE, Size((4, 16, 16), text=text), **SHAPES[model])


def distance(made: torch.Tensor, want: torch.Tensor) -> float:
    """How far apart, as a share of the size: in the root of the mean square."""
    made, want = made.double().cpu(), want.double().cpu()
    return float((made - want).norm() / want.norm())
