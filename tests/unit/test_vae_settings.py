"""What the autoencoders may be told about memory: the same picture, or a blend as diffusers makes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_checkpoint import FRAMES, VAE, WRITERS, config_of, text_to_video_config
from videosys import LatteConfig, OpenSoraConfig, VideoSysEngine
from videosys.layers.autoencoder import build_frame_autoencoder
from videosys.layers.tiling import FrameTiling
from videosys.models.latte.autoencoder import TEMPORAL, LatteVAE
from videosys.models.opensora.autoencoder import OpenSoraVAE

TILING = FrameTiling(32, 0.25)
NARROW = {"vae_tile_sample_min_size": 32, "vae_tile_overlap_factor": 0.25}


def made(vae_cls, config, **options):
    torch.manual_seed(0)
    return vae_cls(config, **options).eval().requires_grad_(False)


def tiled_by_diffusers(model):
    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size, model.tile_overlap_factor = 32, 4, 0.25
    return model.eval().requires_grad_(False)


@torch.no_grad()
def test_frames_are_cut_as_diffusers_cuts_them():
    """Sides that are no multiple of a tile's step."""
    z = torch.randn(1, 4, 3, 5, 11, generator=torch.Generator().manual_seed(1))
    vae = made(LatteVAE, FRAMES, tiling=TILING)
    theirs = tiled_by_diffusers(build_frame_autoencoder(FRAMES))
    theirs.load_state_dict(vae.state_dict())
    want = theirs.decode(z[0].transpose(0, 1) / FRAMES.scaling_factor).sample.transpose(0, 1)[None]
    torch.testing.assert_close(vae.decode(z, 3), want)
    whole = made(LatteVAE, FRAMES).decode(z, 3)
    assert (want - whole).abs().max() > 1e-3  # it does cut

    vae = made(OpenSoraVAE, VAE, tiling=TILING)
    theirs = tiled_by_diffusers(build_frame_autoencoder(VAE))
    theirs.load_state_dict(vae.spatial.state_dict())
    want = theirs.decode(z[0].transpose(0, 1) / VAE.scaling_factor).sample.transpose(0, 1)[None]
    torch.testing.assert_close(vae.decode_frames(z), want)


@torch.no_grad()
@pytest.mark.parametrize("class_name", ["AutoencoderKL", TEMPORAL])
def test_what_a_tile_holds_stays_whole(class_name):
    config = replace(FRAMES, _class_name=class_name, decode_chunk_size=2)
    z = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    whole, tiled = (made(LatteVAE, config, tiling=tiling).decode(z, 3) for tiling in (None, TILING))
    assert torch.equal(whole, tiled)
    large = torch.randn(1, 4, 3, 4, 9, generator=torch.Generator().manual_seed(1))
    frames = made(LatteVAE, config, tiling=TILING).decode(large, 3)
    assert frames.shape == (1, 3, 3, 32, 72)
    first = made(LatteVAE, config).decode(large[..., :4], 3)
    assert torch.equal(frames[..., :24, :24], first[..., :24, :24])  # up to where the next tile fades in


@torch.no_grad()
def test_frames_of_a_chunk_are_decoded_together():
    config = replace(FRAMES, _class_name=TEMPORAL)
    z = torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    sizes = {size: made(LatteVAE, replace(config, decode_chunk_size=size)) for size in (2, 5, 14)}
    whole, pairs = sizes[14].decode(z, 5), sizes[2].decode(z, 5)
    assert torch.equal(sizes[5].decode(z, 5), whole)
    parts = [sizes[14].decode(part, part.shape[2]) for part in z.split(2, dim=2)]
    assert torch.equal(pairs, torch.cat(parts, dim=2))
    assert not torch.equal(pairs, whole)


def videos(config):
    with VideoSysEngine(config, quiet=True) as engine:
        return engine.generate(["a red circle", "a blue ring"]).video


def test_slices_change_only_rounding(checkpoint):
    """Three clips in two batches, each with a loop that goes on from the end of the one before."""
    given = {"num_frames": 34, "loops": 2, "batch_size": 2, "num_inference_steps": 2}
    whole, sliced = (videos(config_of(checkpoint, **given, enable_vae_slicing=on)) for on in (False, True))
    for one, other in zip(whole, sliced, strict=True):
        # A convolution may be computed in another order for another number of frames.
        assert (one.int() - other.int()).abs().max() <= 2


def test_slices_are_decoded_one_by_one(checkpoint, monkeypatch):
    seen, decode = [], OpenSoraVAE.decode
    monkeypatch.setattr(
        OpenSoraVAE, "decode", lambda self, z, *more: (seen.append(len(z)), decode(self, z, *more))[1]
    )
    given = {"num_frames": 1, "batch_size": 2, "num_inference_steps": 1}
    videos(config_of(checkpoint, **given))
    videos(config_of(checkpoint, **given, enable_vae_slicing=True))
    assert seen == [2, 1, 1]


def test_configs_reach_the_autoencoders(checkpoint, tmp_path):
    WRITERS["latte"](tmp_path)
    latte = text_to_video_config("latte", tmp_path, num_frames=2, num_inference_steps=1, width=64, **NARROW)
    for config in (config_of(checkpoint, num_frames=1, num_inference_steps=1, **NARROW), latte):
        whole, tiled = (videos(replace(config, enable_vae_tiling=on)) for on in (False, True))
        assert not torch.equal(whole[0], tiled[0])
    with VideoSysEngine(replace(latte, decode_chunk_size=3), quiet=True) as engine:
        assert engine.pipeline.parts.vae.config.decode_chunk_size == 3


@pytest.mark.parametrize("config_cls", [OpenSoraConfig, LatteConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae_tile_sample_min_size": 100}, "vae_tile_sample_min_size is 100; it must be a multiple of 8"),
        ({"vae_tile_sample_min_size": 0}, "vae_tile_sample_min_size is 0"),
        ({"vae_tile_overlap_factor": 1.0}, "vae_tile_overlap_factor is 1.0; it must be 0 or more"),
        ({"vae_tile_overlap_factor": -0.1}, "vae_tile_overlap_factor is -0.1"),
        ({"vae_tile_sample_min_size": 8, "vae_tile_overlap_factor": 0.5}, "tiles of 1 latents"),
        ({"enable_vae_tiling": 1}, "enable_vae_tiling must be true or false"),
    ],
)
def test_impossible_tiles_are_refused(config_cls, changes, message):
    with pytest.raises(ValueError, match=message):
        config_cls(**changes)


def test_impossible_chunks_are_refused():
    with pytest.raises(ValueError, match="decode_chunk_size is 0; it must be 1 or more"):
        LatteConfig(decode_chunk_size=0)
