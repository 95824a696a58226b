"""OpenSoraVAE against the published layout and numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.goldens.fill import fill_module, fill_tensor
from tests.goldens.load import load_case, load_json
from videosys.models.opensora import autoencoder as opensora
from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig

CASE, GOLDEN = load_case("opensora", "vae_tiny")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def tiny_config() -> OpenSoraVAEConfig:
    spatial, temporal, pipeline = CASE["spatial_config"], CASE["temporal_config"], CASE["pipeline"]
    return OpenSoraVAEConfig(
        block_out_channels=tuple(spatial["block_out_channels"]),
        layers_per_block=spatial["layers_per_block"],
        norm_num_groups=spatial["norm_num_groups"],
        scaling_factor=pipeline["spatial_scale_factor_used"],
        temporal_filters=temporal["filters"],
        num_res_blocks=temporal["num_res_blocks"],
        channel_multipliers=tuple(temporal["channel_multipliers"]),
        temporal_downsample=tuple(temporal["temporal_downsample"]),
        num_groups=temporal["num_groups"],
        micro_frame_size=pipeline["micro_frame_size"],
        micro_batch_size=pipeline["micro_batch_size"],
    )


def build(config: OpenSoraVAEConfig) -> OpenSoraVAE:
    vae = fill_module(OpenSoraVAE(config), keep=("scale", "shift"), salt=CASE["salt"]).requires_grad_(False)
    for name in ("scale", "shift"):
        getattr(vae, name).copy_(torch.tensor(CASE["pipeline"][name]).view(1, -1, 1, 1, 1))
    return vae


@pytest.fixture(scope="module")
def vae() -> OpenSoraVAE:
    return build(tiny_config())


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return fill_tensor("input:video", CASE["inputs"]["video"]["shape"], CASE["salt"]).clamp(-1, 1)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return fill_tensor("input:z", CASE["inputs"]["z"]["shape"], CASE["salt"])


@pytest.fixture
def named_noise(monkeypatch) -> list[tuple[int, ...]]:
    """Draw k of the noise is the golden's `input:randn_k`; the shapes drawn so far."""
    drawn: list[tuple[int, ...]] = []

    def randn(shape, **_):
        drawn.append(tuple(shape))
        return fill_tensor(f"input:randn_{len(drawn) - 1}", shape, CASE["salt"])

    monkeypatch.setattr(opensora.torch, "randn", randn)
    return drawn


def close(actual: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(actual, GOLDEN[name], **TOLERANCE)


def test_keys_and_shapes_equal_the_published_file():
    manifest = load_json("opensora", "vae_v1_2_manifest")
    with torch.device("meta"):
        vae = OpenSoraVAE(OpenSoraVAEConfig())
    shapes = {key: list(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert shapes == {key: entry["shape"] for key, entry in manifest["tensors"].items()}
    assert sum(p.numel() for p in vae.parameters()) == manifest["total_params"]
    assert sum(p.numel() for p in vae.spatial.parameters()) == manifest["spatial_params"]
    assert {b for b, _ in vae.named_buffers()} == {"scale", "shift"}


def test_decode(vae, latents):
    close(vae.decode(latents, CASE["inputs"]["num_frames"]), "decoded")


def test_temporal_decoder_before_the_crop(vae, latents):
    first, _, last = (latents * vae.scale + vae.shift).split(5, dim=2)
    close(vae.temporal.decode_all(first), "temporal_decoder_chunk_0_before_crop")
    close(vae.temporal.decode_all(last), "temporal_decoder_chunk_last_before_crop")


def test_encode_means_without_a_generator(vae, video):
    close(vae.encode(video), "encoded_zero")


def test_moments_of_both_stages(vae, video):
    close(vae.spatial_moments(video[0].transpose(0, 1)), "spatial_moments")
    chunks = vae.encode_frames(video).split(17, dim=2)
    close(torch.cat([vae.temporal.encode(chunk) for chunk in chunks], dim=2), "temporal_moments")


@pytest.mark.parametrize("micro_batch_size", [4, 7])
def test_encode_draws_noise_per_four_frames_then_per_chunk(video, named_noise, micro_batch_size):
    vae = build(replace(tiny_config(), micro_batch_size=micro_batch_size))
    close(vae.encode(video, torch.Generator()), "encoded_noise")
    assert len(named_noise) == CASE["noise_calls"]


def test_generator_alone_decides_the_sample(vae, video):
    first, again, other = (vae.encode(video, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_micro_batches_change_no_number(vae, video, latents):
    for size in (1, 64):
        other = build(replace(tiny_config(), micro_batch_size=size))
        torch.testing.assert_close(other.encode(video), vae.encode(video), **TOLERANCE)
        torch.testing.assert_close(other.decode(latents, 40), vae.decode(latents, 40), **TOLERANCE)


def test_chunks_are_independent(vae, video):
    torch.testing.assert_close(vae.encode(video[:, :, :17]), GOLDEN["encoded_zero"][:, :, :5], **TOLERANCE)


def test_batch_rows_do_not_meet(vae, video):
    pair = vae.encode(torch.cat([video, -video]))
    torch.testing.assert_close(pair[:1], GOLDEN["encoded_zero"], **TOLERANCE)
    torch.testing.assert_close(pair[1:], vae.encode(-video), **TOLERANCE)
    assert vae.decode(pair, 22).shape == (2, *video.shape[1:])


FRAMES = {1: 1, 16: 4, 17: 5, 18: 6, 34: 10, 51: 15, 68: 20, 102: 30, 204: 60, 408: 120, 816: 240}


@pytest.mark.parametrize(("num_frames", "expected"), FRAMES.items())
def test_latent_size(num_frames, expected):
    assert OpenSoraVAEConfig().latent_size(num_frames, 480, 854) == (expected, 60, 106)


def test_latent_size_is_what_encode_returns(vae):
    frames = torch.zeros(1, 3, 19, 17, 31)
    assert vae.encode(frames).shape[2:] == vae.latent_size(19, 17, 31)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7, 16), (1, 4, 5, 16, 16), (3, 5, 16, 16), (1, 3, 0, 16, 16)])
def test_encode_refuses_bad_frames(vae, shape):
    with pytest.raises(ValueError, match="must be"):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 2), (4, 5, 2, 2)])
def test_decode_refuses_bad_latents(vae, shape):
    with pytest.raises(ValueError, match=r"must be \[B, 4, T, H, W\]"):
        vae.decode(torch.zeros(shape), 17)


@pytest.mark.parametrize("num_frames", [-1, 0, 16, 18, 34])
def test_decode_refuses_a_frame_count_that_does_not_fit(vae, num_frames):
    with pytest.raises(ValueError, match=f"num_frames {num_frames} "):
        vae.decode(torch.zeros(1, 4, 5, 2, 2), num_frames)


def test_config_refuses_levels_that_do_not_fit():
    with pytest.raises(ValueError, match="temporal_downsample"):
        OpenSoraVAEConfig(channel_multipliers=(1, 2))
    with pytest.raises(ValueError, match="micro_batch_size"):
        OpenSoraVAEConfig(micro_batch_size=0)
