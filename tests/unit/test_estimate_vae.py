"""The estimate of autoencoders with the published layouts and fewer channels against torch's allocator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eval.performance.needs import peak_on_cpu
from videosys import CausalVAE, CausalVAEConfig, LatteVAE, LatteVAEConfig, OpenSoraVAE, OpenSoraVAEConfig
from videosys.estimate.meter import Meter, on_meta, pretending
from videosys.generation.request import to_uint8

NARROW = (48, 96, 192, 192)
MIDDLE = {
    "opensora": (OpenSoraVAE, OpenSoraVAEConfig(NARROW, norm_num_groups=16, temporal_filters=64)),
    "latte": (LatteVAE, LatteVAEConfig(block_out_channels=NARROW, norm_num_groups=16)),
    "latte, temporal": (
        LatteVAE,
        LatteVAEConfig(_class_name="AutoencoderKLTemporalDecoder", block_out_channels=(64, 128, 256, 256)),
    ),
    "v110": (CausalVAE, replace(CausalVAEConfig.published("v110"), hidden_size=32)),
    "v120": (CausalVAE, replace(CausalVAEConfig.published("v120"), hidden_size=32)),
}
FRAMES, SIDE = 9, 64


@pytest.mark.parametrize("name", MIDDLE)
@torch.no_grad()
def test_decoding_at_a_middle_size_needs_what_is_measured(name):
    vae_cls, config = MIDDLE[name]
    made, empty = (on_meta(lambda: vae_cls(config), torch.float32) for _ in range(2))
    made = made.to_empty(device="cpu")
    for parameter in made.parameters():
        parameter.zero_()
    latents = torch.zeros(1, 4, *config.latent_size(FRAMES, SIDE, SIDE))
    peak = peak_on_cpu(lambda: to_uint8(made.decode(latents, FRAMES)))
    with pretending(empty, latents.device), Meter(torch.device("cpu")) as meter:
        to_uint8(empty.decode(torch.empty(latents.shape), FRAMES))
    assert meter.peak == pytest.approx(peak, rel=0.15)
