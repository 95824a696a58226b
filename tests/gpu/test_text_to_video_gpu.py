"""Latte and Open-Sora-Plan on a CUDA device: the same video as on the CPU, up to rounding."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_checkpoint import text_to_video_config
from videosys import TeaCacheConfig, VideoSysEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CACHE = TeaCacheConfig(0.5, (1.0, 0.0))


def generate(random_model, **changes):
    with VideoSysEngine(text_to_video_config(*random_model, **changes), quiet=True) as engine:
        return engine.generate("a small red circle spins", cache=CACHE)


@pytest.mark.parametrize("offload", ["none", "stage", "group"])
def test_a_video_is_near_the_one_of_the_cpu(random_model, offload):
    expected = generate(random_model)
    output = generate(random_model, device="cuda", dtype="float32", offload=offload)
    assert [step.computed for step in output.steps] == [step.computed for step in expected.steps]
    difference = (output.video[0].int() - expected.video[0].int()).abs().float()
    assert difference.mean() < 3  # convolutions may use tensor cores


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_the_same_seed_gives_the_same_bytes_in_half_precision(random_model, dtype):
    first, second = (generate(random_model, device="cuda", dtype=dtype) for _ in range(2))
    assert torch.equal(first.video[0], second.video[0])
