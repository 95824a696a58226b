"""Attention in tiles, run by Triton's interpreter on the CPU, against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from tests.unit.test_kernels import (
    HALF,
    TOLERANCE,
    distance,
    interpreted,  # noqa: F401 (a fixture)
    needs_triton,
)
from videosys.layers import kernels

TILES = {"a text": (150, 100), "a short text": (5, 3), "many keys": (20, 200), "few queries": (1, 129)}


@needs_triton
@pytest.mark.parametrize("is_biased", [False, True])
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("width", [16, 64, 72, 96, 120])
def test_attention_in_tiles(interpreted, width, name, is_biased):  # noqa: F811
    """Of queries and keys that lie tokens first, and of a head that is not a power of two."""
    torch.manual_seed(width)
    queries, keys = TILES[name]
    q, k, v = (torch.randn(2, n, 2, width).half().transpose(1, 2) for n in (queries, keys, keys))
    bias = torch.where(torch.rand(2, 1, 1, keys) < 0.3, -10000.0, 0.5).half() if is_biased else None
    scores = q.double() @ k.double().transpose(-1, -2) / width**0.5
    scores = scores if bias is None else scores + bias.double()
    want = (scores.softmax(-1) @ v.double()).transpose(1, 2)
    for given in (bias, bias if bias is None else bias[:1]):
        made = kernels.attend_tiles(q, k, v, given)[: None if given is bias else 1]
        assert made.is_contiguous()
        assert distance(made, want[: len(made)]) < TOLERANCE[HALF]


@needs_triton
@pytest.mark.parametrize("keys", [100, 200])
@pytest.mark.parametrize("visible", [(-1,), (0, 70), ()], ids=["the last", "two", "none"])
def test_keys_may_be_masked_by_minus_infinity(interpreted, visible, keys):  # noqa: F811
    """Also all keys of a tile, and all keys, where torch gives zeros too."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 72).half() for n in (17, keys, keys))
    bias = torch.full((3, 1, 1, keys), float("-inf")).half()
    bias[..., list(visible)] = 0
    scores = q.double() @ k.double().transpose(-1, -2) / 72**0.5 + bias.double()
    want = (scores.softmax(-1).nan_to_num(0.0) @ v.double()).transpose(1, 2)
    made = kernels.attend_tiles(q, k, v, bias)
    torch.testing.assert_close(made.double(), want, atol=2e-3, rtol=2e-3)


def test_a_head_is_cut_and_not_padded():
    tiles = pytest.importorskip("videosys.layers.kernels.tiles")
    cuts = {16: (16, 16), 40: (32, 16), 64: (32, 32), 72: (64, 16), 96: (64, 32), 128: (64, 64)}
    assert {width: tiles.cut(width) for width in cuts} == cuts
    for width in kernels.HEADS:
        head, tail = tiles.cut(width)
        assert width <= head + tail <= width + 32
