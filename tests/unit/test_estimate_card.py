"""What the estimate says of a card: what was measured on one, and what a user is told to change."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.tiny_checkpoint import config_of
from videosys import (
    CausalVAE,
    CausalVAEConfig,
    LatteVAE,
    LatteVAEConfig,
    OpenSoraConfig,
    OpenSoraPlanConfig,
    PABConfig,
)
from videosys.estimate import Estimate, estimate
from videosys.estimate import __main__ as command
from videosys.estimate.__main__ import main
from videosys.estimate.blueprint import blueprint
from videosys.estimate.cost import Estimator, StageCost
from videosys.estimate.meter import Meter, on_meta
from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig

MIB, GIB = 2**20, 2**30
V110 = CausalVAEConfig.published("v110")
# The video, and MiB that decoding it took beside the weights on an H100, in bfloat16.
MEASURED = {
    "latte": (
        lambda: LatteVAE(LatteVAEConfig(_class_name="AutoencoderKLTemporalDecoder")),
        (16, 512, 512),
        7169,
    ),
    "opensora": (lambda: OpenSoraVAE(OpenSoraVAEConfig()), (51, 480, 848), 3296),
    "v110": (
        lambda: CausalVAE(V110, tiling=OpenSoraPlanConfig(version="v110").tiles()),
        (65, 512, 512),
        10690,
    ),
}


@pytest.mark.parametrize("name", MEASURED)
@torch.no_grad()
def test_decoding_takes_what_a_card_measured(name):
    build, video, measured = MEASURED[name]
    vae = on_meta(build, torch.bfloat16)
    latents = torch.empty(1, 4, *vae.latent_size(*video), device="meta")
    with Meter(torch.device("cuda")) as meter:
        vae.decode(latents, video[0])
    assert meter.peak / MIB == pytest.approx(measured, rel=0.01)


def vae_of(config):
    plan = blueprint(config)
    return Estimator(plan, config).vae()


@pytest.mark.slow
def test_the_autoencoder_is_cut_where_blocks_come_one_by_one(checkpoint):
    config = OpenSoraConfig(device="cuda", offload="group")
    assert (config.frames_at_once, replace(config, offload="stage").frames_at_once) == (1, 4)
    assert replace(config, vae_micro_batch_size=2).frames_at_once == 2
    cut, whole = (vae_of(replace(config, offload=offload)) for offload in ("group", "stage"))
    assert cut.total < 2.5 * GIB < whole.total
    assert cut.weights == whole.weights


def stage(name: str, weights: int, peak: int, cache: int = 0) -> StageCost:
    return StageCost(name, weights * GIB, peak * GIB, 0, cache=cache * GIB, resident=weights * GIB)


SAID = "the cache uses 9.000 GiB of the peak on the device; with cache.device=cpu .* peak is about 6.000 GiB"
CASES = {
    "much": (["device=cuda"], stage("transformer", 2, 12, 9), True),
    "little": (["device=cuda"], stage("transformer", 2, 12, 1), False),
    "not at the peak": (["device=cuda"], stage("transformer", 2, 4, 3), False),
    "on the host anyway": (["device=cpu"], stage("transformer", 2, 12, 9), False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cache_that_takes_much_of_a_card_is_named(name, capsys, monkeypatch):
    changes, transformer, is_said = CASES[name]
    cost = Estimate((transformer, stage("autoencoder", 1, 3)), "none", 30, ())
    monkeypatch.setattr(command, "estimate", lambda *_: cost)
    assert main(["--config", "examples/opensora/tiny.yaml", *changes]) == 0
    assert bool(re.search(SAID, capsys.readouterr().out)) == is_said


def test_what_is_left_without_it_is_that_of_the_setting(checkpoint):
    config = config_of(checkpoint, device="cuda", cache=PABConfig(), num_inference_steps=30)
    near = estimate(config).stages[1]
    far = estimate(replace(config, cache=replace(config.cache, device="cpu"))).stages[1]
    assert near.total > far.total
    assert near.without_cache() == far
