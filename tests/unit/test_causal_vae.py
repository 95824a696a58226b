"""CausalVAE beside the goldens: sizes, samples, checkpoints, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.goldens.fill import fill_module
from tests.goldens.load import load_json
from videosys.layers.autoencoder import mean_or_sample, posterior
from videosys.layers.tiling import PRESETS, Tiling
from videosys.models.open_sora_plan.autoencoder import V110, V120, CausalVAE, CausalVAEConfig
from videosys.utils.checkpoint import load_model, read_config

SIZES = {"hidden_size": 32, "hidden_size_mult": (1, 1, 1, 1), "num_res_blocks": 1}
CONFIGS = {"v110": replace(V110, **SIZES), "v120": replace(V120, **SIZES)}
TILING = Tiling(16, 2, 5, 2, 0.5)


def build(config: CausalVAEConfig = CONFIGS["v120"], tiling: Tiling | None = None) -> CausalVAE:
    return fill_module(CausalVAE(config, tiling=tiling)).requires_grad_(False)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("num_frames", [1, 2, 4, 5, 6])
def test_as_many_frames_are_decoded_as_were_asked_for(config, num_frames):
    vae = build(config)
    size = vae.latent_size(num_frames, 16, 8)
    assert size == (1 + -(-(num_frames - 1) // 4), 2, 1)
    assert vae.decode(random(2, 4, *size), num_frames).shape == (2, 3, num_frames, 16, 8)


FRAMES = {1: 1, 29: 8, 30: 9, 65: 17, 93: 24, 221: 56}


@pytest.mark.parametrize(("num_frames", "expected"), FRAMES.items())
def test_latent_size(num_frames, expected):
    for config in (V110, V120):
        assert config.latent_size(num_frames, 480, 640) == (expected, 60, 80)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rows_of_a_batch_do_not_meet(config):
    vae, frames = build(config, TILING), random(2, 3, 9, 24, 16)
    z = random(2, 4, 3, 3, 3)
    for both, alone in (
        (vae.encode(frames).mean, vae.encode(frames[1:]).mean),
        (vae.decode(z, 9), vae.decode(z[1:], 9)),
    ):
        torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_the_layouts_of_releases_are_known_by_name():
    assert [CausalVAEConfig.published(name) for name in ("v110", "v120")] == [V110, V120]
    with pytest.raises(ValueError, match="version is 'v130'; allowed: 'v110', 'v120'"):
        CausalVAEConfig.published("v130")


def test_small_videos_are_not_cut_into_tiles():
    plain, tiled, z = build(), build(tiling=TILING), random(1, 4, 2, 2, 2)
    assert torch.equal(tiled.decode(z, 5), plain.decode(z, 5))
    assert torch.equal(
        tiled.encode(z.new_zeros(1, 3, 5, 16, 16)).mean, plain.encode(z.new_zeros(1, 3, 5, 16, 16)).mean
    )
    z = random(1, 4, 2, 2, 3)
    assert not torch.equal(tiled.decode(z, 5), plain.decode(z, 5))


@pytest.mark.parametrize("tiling", [None, TILING])
def test_progress_counts_the_frames(tiling):
    done: list[int] = []
    build(tiling=tiling).decode(random(1, 4, 3, 2, 2), 9, done.append)
    assert done == ([9] if tiling is None else [5, 4])


def test_the_posterior_is_a_normal_distribution():
    moments = torch.cat((random(1, 4, 50, 20, 20), torch.full((1, 4, 50, 20, 20), -2.0)), dim=1)
    made = posterior(moments)
    noise = (made.sample(torch.Generator().manual_seed(3)) - made.mean) / made.std
    assert torch.equal(made.mean, moments[:, :4])
    torch.testing.assert_close(made.std, torch.full_like(made.std, 0.36788), atol=1e-4, rtol=0)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    clamped = posterior(torch.tensor([0.0, 99.0]).view(1, 2, 1, 1, 1))
    assert clamped.logvar.item() == 20


def test_the_generator_alone_decides_the_sample():
    made = build().encode(random(1, 3, 5, 16, 16))
    first, again, other = (made.sample(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    half = posterior(torch.cat((made.mean, made.logvar), 1).to(torch.bfloat16))
    assert half.sample(torch.Generator().manual_seed(5)).dtype == torch.bfloat16
    torch.manual_seed(5)
    assert torch.equal(made.sample(), first)


def test_a_sample_has_the_same_noise_in_every_dtype():
    moments = torch.zeros(1, 8, 3, 4, 4)  # mean 0, standard deviation 1
    exact, half = (
        mean_or_sample(moments.to(dtype), torch.Generator().manual_seed(5))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(exact, posterior(moments).sample(torch.Generator().manual_seed(5)))
    assert torch.equal(half, exact.bfloat16())
    assert torch.equal(mean_or_sample(moments + 2, None), torch.full((1, 4, 3, 4, 4), 2.0))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_half_precision_stays_near_float32(config):
    vae, half, z = build(config), build(config).to(torch.bfloat16), random(1, 4, 2, 2, 2)
    whole, rounded = vae.decode(z, 5), half.decode(z, 5)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - whole).abs().max() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("version", CONFIGS)
def test_published_checkpoints_load(tmp_path, version):
    """A config.json with all published keys, and averaged weights among those of the training's loss."""
    vae = build(CONFIGS[version])
    given = load_json("open_sora_plan", f"{version}_vae")["config"]
    given |= {"_class_name": "CausalVAEModel", "loss_type": "x", "hidden_size_mult": [1, 1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps(given))
    averaged = {f"module.{key}": tensor for key, tensor in vae.state_dict().items()}
    averaged["module.loss.perceptual_loss.lin0.weight"] = torch.zeros(3)
    torch.save({"ema_state_dict": averaged, "state_dict": {}, "epoch": 1}, tmp_path / "checkpoint.ckpt")
    config = read_config(CausalVAEConfig, tmp_path)
    assert config == CONFIGS[version]
    loaded = load_model(CausalVAE, config, tmp_path, tiling=PRESETS["v120"])
    assert loaded.tiling == PRESETS["v120"]
    z = random(1, 4, 2, 2, 2)
    assert torch.equal(loaded.decode(z, 5), vae.decode(z, 5))


def test_the_layout_must_be_in_the_config(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 128}')
    with pytest.raises(ValueError, match="encoder_spatial_downsample: is missing"):
        read_config(CausalVAEConfig, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 48}, "hidden_size 48 must be a multiple of norm_num_groups 32"),
        ({"decoder_mid_resnet": "ResnetBlock"}, "decoder_mid_resnet: 'ResnetBlock' must be one of .* mean"),
        ({"encoder_attention": "AttnBlock3D"}, "did you mean 'AttnBlock3DFix'"),
        ({"encoder_resnet_blocks": ("ResnetBlock2D",)}, "must have one entry per level"),
        ({"decoder_temporal_upsample": ("", "", "", "x")}, "decoder_temporal_upsample: 'x'"),
        ({"decoder_temporal_upsample": ("", "", "", "TimeUpsampleRes2x")}, "by the factors of the encoder"),
        ({"attn_resolutions": (16,)}, "attn_resolutions"),
        ({"double_z": False}, "double_z False"),
        ({"q_conv": "Conv3d"}, "q_conv 'Conv3d'"),
        ({"use_quant_layer": False, "embed_dim": 8}, "embed_dim 8 must be z_channels 4"),
    ],
)
def test_other_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIGS["v120"], **changes)


def test_quant_layers_may_be_left_out():
    vae = build(replace(CONFIGS["v120"], use_quant_layer=False))
    assert not any("quant_conv" in key for key in vae.state_dict())
    assert vae.decode(vae.encode(random(1, 3, 5, 16, 16)).mean, 5).shape == (1, 3, 5, 16, 16)


@pytest.mark.parametrize("shape", [(1, 3, 5, 12, 16), (1, 4, 5, 16, 16), (3, 5, 16, 16), (1, 3, 0, 16, 16)])
def test_encode_refuses_bad_frames(shape):
    with pytest.raises(ValueError, match="must be"):
        build().encode(torch.zeros(shape))


@pytest.mark.parametrize("num_frames", [0, 4, 10])
def test_decode_refuses_a_frame_count_that_does_not_fit(num_frames):
    with pytest.raises(
        ValueError, match=rf"num_frames {num_frames} must be in 6 \.\. 9 for latents with 3 frames"
    ):
        build().decode(torch.zeros(1, 4, 3, 2, 2), num_frames)


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 2), (4, 5, 2, 2)])
def test_decode_refuses_bad_latents(shape):
    with pytest.raises(ValueError, match=r"must be \[B, 4, T, H, W\]"):
        build().decode(torch.zeros(shape), 17)


def test_tiles_must_agree_in_space():
    with pytest.raises(ValueError, match="tile_sample_min_size 32 must be 8 times tile_latent_min_size 2"):
        build(tiling=replace(TILING, tile_sample_min_size=32))
