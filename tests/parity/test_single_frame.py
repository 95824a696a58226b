"""Single images and the shortest clips of each model, against the published formulas.

Goldens of other files: STDiT3 (`stdit3_forward_image`), Latte (`output_first_frame_as_image`), v1.2.0
(`v120_transformer_image`), both autoencoders of Open-Sora-Plan (`*_vae_single_frame`).
"""

from __future__ import annotations

import pytest
import torch

from tests.goldens import single_frame
from tests.goldens.load import load_tensors
from tests.parity.latte import build
from tests.tiny_checkpoint import build_pipeline, build_vae, text_to_video_config, write_latte
from videosys import FAMILIES, OpenSoraConfig, OpenSoraPlanConfig
from videosys.models.open_sora_plan.pipeline import condition
from videosys.schedulers.rflow import time_shift

TOLERANCE = 1e-5


def v110_output(num_frames: int, latents: torch.Tensor) -> torch.Tensor:
    """What the transformer of v1.1.0 gives in a generation of so many frames."""
    case = single_frame.case()
    _, timesteps, text = single_frame.inputs(case)
    model = build(case)
    config = OpenSoraPlanConfig(version="v110", num_frames=num_frames)
    return model(latents, timesteps, condition(model, text, None, latents.shape[2:], config))


@torch.no_grad()
def test_v110_makes_an_image_without_its_temporal_blocks():
    case = single_frame.case()
    latents, _, _ = single_frame.inputs(case)
    golden = load_tensors("open_sora_plan", single_frame.NAME)["output"]
    weights = single_frame.weights(build(case).state_dict(), case["salt"])
    torch.testing.assert_close(single_frame.image(weights, case).float(), golden, atol=1e-6, rtol=0)
    torch.testing.assert_close(v110_output(1, latents), golden, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_v110_makes_the_shortest_clip_with_them():
    latents = single_frame.inputs(single_frame.case())[0].repeat(1, 1, 2, 1, 1)
    golden = load_tensors("open_sora_plan", single_frame.NAME)["output"]
    assert (v110_output(2, latents)[:, :, :1] - golden).abs().max() > 0.1


def test_the_family_record_says_so():
    assert FAMILIES["open_sora_plan"].condition is condition
    assert not OpenSoraPlanConfig(version="v120", num_frames=1).is_v110_image


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 17])
def test_opensora_decodes_the_last_frames_of_a_padded_chunk(num_frames):
    """Section 4.2: the net gives four frames per latent one, of which the first stand for the padding."""
    vae = build_vae()
    count = -(-num_frames // 4)
    latents = torch.randn(1, 4, count, 4, 6, generator=torch.Generator().manual_seed(1))
    standard = latents * vae.scale + vae.shift
    whole = vae.temporal.decode_all(standard)
    assert whole.shape[2] == 4 * count
    kept = whole[:, :, (4 - num_frames % 4) % 4 :] / 0.18215
    expected = torch.stack([vae.spatial.decode(frame).sample for frame in kept.unbind(2)], dim=2)
    frames = vae.decode(latents, num_frames)
    assert frames.shape[2] == num_frames
    size = float(expected.abs().max())  # the bright random decoder leaves [-1, 1] by far
    torch.testing.assert_close(frames, expected, atol=TOLERANCE * size, rtol=0)


@torch.no_grad()
def test_opensora_encodes_an_image_as_one_chunk_padded_in_front():
    vae = build_vae()
    image = torch.rand(1, 3, 1, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean = vae.spatial.encode(image[:, :, 0]).latent_dist.mean[:, :, None] * 0.18215
    padded = torch.cat((torch.zeros_like(mean).repeat(1, 1, 3, 1, 1), mean), dim=2)
    moments = vae.temporal.encode(padded)
    expected = (moments.chunk(2, dim=1)[0] - vae.shift) / vae.scale
    torch.testing.assert_close(vae.encode(image), expected, atol=TOLERANCE, rtol=0)


def test_opensora_tells_an_image_from_a_clip():
    """Sections 3 and 6: an image counts as one latent frame in the time shift, and was trained as 120 fps."""
    image, clip = (OpenSoraConfig(num_frames=count, fps=24.0) for count in (1, 17))
    assert (image.model_fps, clip.model_fps) == (120.0, 24.0)
    assert float(time_shift(1, 512, 512)) == 1.0
    assert float(time_shift(17, 512, 512)) == pytest.approx(5**0.5)


@pytest.mark.parametrize(("num_frames", "is_temporal"), [(1, True), (1, False), (2, True)])
def test_latte_says_how_images_were_decoded(num_frames, is_temporal, tmp_path, caplog):
    """Section 3: the published pipeline has the plain autoencoder for images."""
    write_latte(tmp_path)
    config = text_to_video_config(
        "latte", tmp_path, num_frames=num_frames, enable_vae_temporal_decoder=is_temporal
    )
    (output,) = build_pipeline(config).generate(["a cross"], config, quiet=True)
    assert output.video[0].shape == (num_frames, 16, 32, 3)
    assert ("enable_vae_temporal_decoder=false" in caplog.text) == (num_frames == 1 and is_temporal)
