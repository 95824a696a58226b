"""The perceptrons: large inputs go through in chunks, and nothing but memory changes."""

from __future__ import annotations

import pytest
import torch

from videosys.layers import feedforward
from videosys.layers.feedforward import CHUNK_BYTES, Mlp, run_chunked
from videosys.models.pixart import layers as pixart


@pytest.mark.parametrize("module", [Mlp(16, 64, 16), pixart.FeedForward(16)])
@torch.no_grad()
def test_chunks_change_nothing(module, monkeypatch):
    x = torch.randn(2, 3, 7, 16, generator=torch.Generator().manual_seed(0))
    whole = module(x)
    monkeypatch.setattr(feedforward, "CHUNK_BYTES", 5 * 64 * 4)  # five tokens
    torch.testing.assert_close(module(x), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_chunk_is_larger_than_said(dtype):
    hidden, seen = 4096, []

    def run(chunk: torch.Tensor) -> torch.Tensor:
        seen.append(len(chunk))
        return chunk

    x = torch.randn(3, 500, 8).to(dtype)
    assert torch.equal(run_chunked(run, x, hidden), x)
    assert sum(seen) == 1500
    assert len(seen) > 1
    assert max(seen) * hidden * x.element_size() <= CHUNK_BYTES


def test_few_tokens_go_together():
    seen = []
    run_chunked(lambda chunk: seen.append(chunk.shape) or chunk, torch.randn(2, 4, 5, 8), 32)
    assert seen == [(2, 4, 5, 8)]


def test_gradients_pass_through_chunks(monkeypatch):
    monkeypatch.setattr(feedforward, "CHUNK_BYTES", 5 * 64 * 4)
    module, x = Mlp(16, 64, 16), torch.randn(2, 9, 16)
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
