"""What OpenSoraPipeline refuses, warns of, or does only as far as it must."""
# ruff: noqa: F811 (fixtures are imported under the names they are asked for)

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.tiny_checkpoint import VAE, build_pipeline, build_vae, config_of
from tests.unit.test_pipeline_opensora import latents, make, pipeline  # noqa: F401 (fixtures)
from videosys import Reference
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.checkpoint import save_model


def test_only_the_chunks_of_a_reference_that_are_used_are_encoded(pipeline, make, latents, monkeypatch):
    torch.manual_seed(3)
    video = torch.randint(0, 256, (17 * 6, 8, 8, 3), dtype=torch.uint8)
    encoded = []
    with pipeline.vae.use() as vae:
        encode = vae.encode
        monkeypatch.setattr(vae, "encode", lambda frames: encoded.append(frames.shape[2]) or encode(frames))
        make("a cross", [Reference(video, start=5, length=2)])
        make("a cross", [Reference(video, start=-25, length=2)])
    assert encoded == [17 * 3, 17 * 3]  # the same place, counted from either end
    (_, near, _), (_, far, _) = latents
    assert torch.equal(near[:, :, :2], far[:, :, :2])


@pytest.mark.parametrize("place", [{"target": -1}, {"target": 2}, {"start": 3}])
def test_a_reference_is_never_moved_without_being_asked(make, place):
    video = torch.zeros(34, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"does not start a chunk of 5 latent frames; set align to null"):
        make("a cross", [Reference(video, **place)])


@pytest.mark.parametrize("references", [None, (), Reference(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))])
def test_none_one_or_several_references(make, latents, references):
    make("a cross", references)
    assert (latents[0][2] is None) == (not references)


def test_a_size_that_the_video_cannot_have_is_warned_of(make, caplog):
    (output,) = make("a cross", height=36, width=48)
    assert output.video[0].shape[1:3] == (32, 48)
    assert "rounded to 32 x 48, from 36 x 48" in caplog.text
    caplog.clear()
    make("a cross")
    assert caplog.text == ""


def test_damaged_weights_make_no_video(checkpoint):
    pipeline = build_pipeline(config_of(checkpoint), quiet=True)
    with pipeline.transformer.use() as model:
        model.x_embedder.proj.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="denoising step 1 of 4 gives latents that are not finite"):
        list(pipeline.generate(["a cross"], config_of(checkpoint), quiet=True))


def test_a_transformer_and_a_vae_of_different_models_are_refused(checkpoint, tmp_path):
    config = dataclasses.replace(VAE, latent_channels=8)
    save_model(build_vae().state_dict(), config, tmp_path / "vae")
    with pytest.raises(ValueError, match=r"has 4 latent channels, .* decodes 8"):
        build_pipeline(config_of(checkpoint, vae=str(tmp_path / "vae")), quiet=True)


def test_loops_continue_at_sizes_whose_first_timestep_rounds_up(make, latents):
    make("a cross", height=32, width=32, loops=2, num_inference_steps=10)
    scheduler = RFlowScheduler()
    scheduler.set_timesteps(10, num_frames=34, height=32, width=32)
    assert scheduler.timesteps[0] == 1000
    (before, after, mask) = latents[1]
    assert torch.equal(after[:, :, :5], before[:, :, :5])
    assert mask[0].tolist() == [0.0] * 5 + [1.0] * 5
