"""CUDA graphs in the product, and settings of decoders, on a card."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.gpu import card
from tests.gpu.card import MODELS, ON_CARD, distance, small
from tests.gpu.test_steps_gpu import CACHES, PROMPT, compiler
from tests.tiny_checkpoint import text_to_video_config
from tests.unit.test_standin_device import AUTOENCODERS
from videosys import VideoSysEngine, graphed
from videosys.generation.compile import compile_decoders
from videosys.layers.autoencoder import use_channels_last

pytestmark = ON_CARD


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_a_step_with_graphs_is_the_step_without(model):
    subject = small(model).subject()
    run = graphed(subject.model, card.DEVICE)
    for _ in range(4):
        latents = torch.randn_like(subject.latents)
        want, made = (replace(subject, model=each, latents=latents).step() for each in (subject.model, run))
        assert distance(made, want) < 1e-6


@pytest.mark.parametrize("cache", CACHES)
def test_a_video_with_graphs_is_the_video_without(random_model, cache):
    videos = []
    for cuda_graphs in (False, True):
        config = text_to_video_config(*random_model, device=str(card.DEVICE), cuda_graphs=cuda_graphs)
        with VideoSysEngine(config, quiet=True) as engine:
            videos.append(engine.generate(PROMPT, cache=CACHES[cache]))
    assert videos[0].steps == videos[1].steps
    assert torch.equal(videos[0].video[0], videos[1].video[0])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_decoders_with_other_settings_give_nearly_the_same_frames(name, is_compiled):
    torch.manual_seed(0)
    vae = AUTOENCODERS[name]().eval().requires_grad_(False).to(card.DEVICE, torch.bfloat16)
    latents = torch.randn(1, 4, *vae.latent_size(5, 32, 32), device=card.DEVICE)
    want = vae.decode(latents, 5)
    use_channels_last(vae)
    if is_compiled:
        compiler()
        compile_decoders(vae)
    assert distance(vae.decode(latents, 5), want) < 3e-2
