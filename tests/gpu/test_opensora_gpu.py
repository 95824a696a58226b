"""Open-Sora on a CUDA device: the same video as on the CPU, up to rounding."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_checkpoint import config_of
from videosys import Reference, TeaCacheConfig, VideoSysEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPT = "a small red circle spins"
IMAGE = torch.arange(32 * 48 * 3).view(1, 32, 48, 3).remainder(256).to(torch.uint8)


def generate(checkpoint, changes, **request):
    with VideoSysEngine(config_of(checkpoint, **changes), quiet=True) as engine:
        output = engine.generate(PROMPT, references=[Reference(IMAGE)], **request)
        assert output.video[0].device.type == "cpu"
        return output


@pytest.mark.parametrize("offload", ["none", "stage", "group"])
def test_a_video_is_near_the_one_of_the_cpu(checkpoint, offload):
    request = {"loops": 2, "cache": TeaCacheConfig(0.3, (1.0, 0.0))}
    expected = generate(checkpoint, {"device": "cpu"}, **request)
    output = generate(checkpoint, {"device": "cuda", "dtype": "float32", "offload": offload}, **request)
    assert [step.computed for step in output.steps] == [step.computed for step in expected.steps]
    difference = (output.video[0].int() - expected.video[0].int()).abs().float()
    assert difference.mean() < 3  # convolutions may use tensor cores


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_the_same_seed_gives_the_same_bytes_in_half_precision(checkpoint, dtype):
    first, second = (generate(checkpoint, {"device": "cuda", "dtype": dtype}) for _ in range(2))
    assert torch.equal(first.video[0], second.video[0])
    assert first.video[0].float().std() > 20


@pytest.mark.parametrize("offload", ["stage", "group"])
def test_offloading_leaves_the_device_empty(checkpoint, offload):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    generate(checkpoint, {"device": "cuda", "offload": offload})
    assert torch.cuda.memory_allocated() <= before
