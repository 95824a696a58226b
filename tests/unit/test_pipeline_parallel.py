"""What devices cannot share is refused before anything is loaded; and which videos a replica makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_checkpoint import build_pipeline, config_of, text_to_video_config
from videosys import ParallelConfig
from videosys.parallel import Parallel
from videosys.parallel.mesh import Axis

TOKENS = 2 * 3  # of a frame of 32 x 48 pixels


@pytest.fixture(scope="module")
def config(checkpoint):
    return config_of(checkpoint, num_inference_steps=2, num_frames=17)


def shared(config, num_gpus=1, **axes):
    return replace(config, parallel=ParallelConfig(num_gpus, **axes))


def test_more_devices_than_tokens_are_refused_at_once(config):
    build_pipeline(shared(config, TOKENS, cfg=1, sp=TOKENS), quiet=True)
    with pytest.raises(ValueError, match=r"parallel.sp is 7; it must be 6 or less"):
        build_pipeline(shared(config, TOKENS + 1, cfg=1), quiet=True)


def test_heads_that_cannot_be_shared_are_refused_at_once(random_model):
    config = text_to_video_config(*random_model)
    config = replace(shared(config, 3, cfg=1), height=32, width=32)  # 4 tokens of a frame, 2 heads
    if random_model[0] != "open_sora_plan_v120":
        build_pipeline(config, quiet=True)
        return
    with pytest.raises(
        ValueError, match=r"sp is 3, which does not divide the 2 attention heads; allowed: 1, 2"
    ):
        build_pipeline(config, quiet=True)


@pytest.mark.parametrize(
    ("axes", "request_", "message"),
    [
        (
            {"num_gpus": 6, "cfg": 1, "sp": 6},
            {"height": 16, "width": 16},
            "parallel.sp is 6; it must be 1 or less",
        ),
        (
            {"num_gpus": 2, "cfg": 2, "sp": 1},
            {"guidance_scale": 1.0},
            "parallel.cfg is 2, but guidance_scale is 1",
        ),
    ],
)
def test_a_request_that_cannot_be_shared_loads_nothing(config, axes, request_, message):
    config = shared(config, **axes)
    pipeline = build_pipeline(config, quiet=True)
    with pytest.raises(ValueError, match=message):
        next(pipeline.generate(["a cross"], replace(config, **request_), quiet=True))
    assert not pipeline.text_encoder.is_loaded
    assert not pipeline.transformer.is_loaded


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_replica_makes_every_other_micro_batch_as_one_device_does(config, batch_size, monkeypatch):
    config, prompts = replace(config, batch_size=batch_size), ["a cross", "a ring", "a star"]
    alone = list(build_pipeline(config, quiet=True).generate(prompts, config, quiet=True))
    pipeline = build_pipeline(config, True, Parallel(dp=Axis(rank=1, size=2)))
    read = []
    with pipeline.text_encoder.use() as encoder:
        tokenize = encoder.tokenize
        monkeypatch.setattr(encoder, "tokenize", lambda text: read.append(text) or tokenize(text))
        own = list(pipeline.generate(prompts, config, quiet=True))
    assert [output.prompts for output in own] == [output.prompts for output in alone[1::2]]
    assert len(read) == sum(len(output.prompts) for output in own)  # others' texts are not encoded
    for output, expected in zip(own, alone[1::2]):
        assert all(map(torch.equal, output.video, expected.video))


def test_a_replica_without_work_makes_nothing(random_model):
    config = text_to_video_config(*random_model)
    pipeline = build_pipeline(config, True, Parallel(dp=Axis(rank=1, size=2)))
    assert list(pipeline.generate(["a cross"], config, quiet=True)) == []
    assert not pipeline.text_encoder.is_loaded
    assert not pipeline.transformer.is_loaded
