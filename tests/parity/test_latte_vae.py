"""LatteVAE against the published decoding, and against diffusers' own classes."""

from __future__ import annotations

import diffusers
import pytest
import torch

from tests.goldens.fill import fill_module, fill_tensor
from tests.goldens.load import load_case
from videosys.generation.request import to_uint8
from videosys.layers.autoencoder import build_frame_autoencoder
from videosys.models.latte.autoencoder import IMAGES, TEMPORAL, LatteVAE, LatteVAEConfig
from videosys.utils.checkpoint import load_model, read_config, save_model

CASE, GOLDEN = load_case("latte", "latte_decode")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def config(kind: str, **changes) -> LatteVAEConfig:
    given = CASE["config"]
    shape = {name: given[name] for name in ("layers_per_block", "latent_channels", "scaling_factor")}
    return LatteVAEConfig(
        **{"_class_name": kind, "block_out_channels": tuple(given["block_out_channels"]), **shape, **changes}
    )


def make(kind: str, **changes) -> LatteVAE:
    return fill_module(LatteVAE(config(kind, **changes))).requires_grad_(False)


def build_theirs(kind: str) -> torch.nn.Module:
    return fill_module(build_frame_autoencoder(config(kind), kind == TEMPORAL))


def latents(seed: int = 0) -> torch.Tensor:
    entry = CASE["inputs"]["latent"]
    return entry["times"] * fill_tensor(entry["key"], entry["shape"], salt=seed)


@pytest.fixture(scope="module")
def temporal() -> LatteVAE:
    return make(TEMPORAL)


@pytest.fixture(scope="module")
def images() -> LatteVAE:
    return make(IMAGES)


def test_one_video_is_decoded_as_published(temporal):
    frames = temporal.decode(latents(), 16)
    torch.testing.assert_close(frames[0].transpose(0, 1), GOLDEN["frames_float"], **TOLERANCE)
    wanted = GOLDEN["frames_float"]
    exact = (wanted / 2 + 0.5) * 255
    # Where a value is so near to a whole number that the last bits decide, nothing can be asked.
    is_clear = ((exact - exact.round()).abs() > 2e-3) | (wanted.abs() > 1)
    assert is_clear.float().mean() > 0.99
    is_clear = is_clear.permute(0, 2, 3, 1)
    made = to_uint8(frames.clamp(-1, 1), "down")[0]
    assert torch.equal(made[is_clear], GOLDEN["video_uint8"].view_as(made)[is_clear])


def test_chunks_do_not_cross_from_one_video_into_the_next(temporal):
    done: list[int] = []
    both = temporal.decode(torch.cat((latents(), latents(1))), 16, done.append)
    assert done == [14, 2, 14, 2]
    assert torch.equal(both[:1], temporal.decode(latents(), 16))
    assert torch.equal(both[1:], temporal.decode(latents(1), 16))


def test_frames_of_a_chunk_see_each_other_and_no_others(temporal):
    other = latents()
    other[:, :, 15] = 3.0
    frames, changed = temporal.decode(latents(), 16), temporal.decode(other, 16)
    assert torch.equal(frames[:, :, :14], changed[:, :, :14])
    assert not torch.allclose(frames[:, :, 14], changed[:, :, 14], atol=1e-3)


def test_images_are_decoded_one_by_one(images):
    done: list[int] = []
    frames = images.decode(latents(), 16, done.append)
    assert done == [1] * 16
    alone = images.decode(latents()[:, :, 3:4], 1)
    assert torch.equal(frames[:, :, 3:4], alone)


@pytest.mark.parametrize("kind", [IMAGES, TEMPORAL])
def test_both_do_what_their_classes_in_diffusers_do(kind):
    vae, theirs = make(kind), build_theirs(kind).requires_grad_(False)
    assert type(theirs) is getattr(diffusers, kind)
    assert list(vae.state_dict()) == list(theirs.state_dict())
    z = latents()[0].transpose(0, 1)[:3] / CASE["config"]["scaling_factor"]
    expected = theirs.decode(z, num_frames=3).sample if kind == TEMPORAL else theirs.decode(z).sample
    frames = vae.decode(latents()[:, :, :3], 3)[0].transpose(0, 1)
    torch.testing.assert_close(frames, expected, **TOLERANCE)
    x = fill_tensor("input:frames", (1, 3, 2, 16, 24))
    moments = theirs.encode(x[0].transpose(0, 1)).latent_dist
    mean = vae.encode(x)[0].transpose(0, 1) / CASE["config"]["scaling_factor"]
    torch.testing.assert_close(mean, moments.mean, **TOLERANCE)
    spread = vae.encode(x, torch.Generator().manual_seed(0)) - vae.encode(x)
    noise = torch.randn(1, 4, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    std = moments.std.transpose(0, 1)[None] * CASE["config"]["scaling_factor"]
    torch.testing.assert_close(spread, noise * std, **TOLERANCE)


@pytest.mark.parametrize("kind", [IMAGES, TEMPORAL])
def test_checkpoints_of_diffusers_load(tmp_path, kind):
    theirs = build_theirs(kind)
    theirs.save_pretrained(tmp_path)
    loaded = load_model(LatteVAE, read_config(LatteVAEConfig, tmp_path), tmp_path)
    assert loaded.config == config(kind)
    assert torch.equal(loaded.decode(latents(), 16), make(kind).decode(latents(), 16))


def test_files_with_the_old_names_of_attention_load(tmp_path, images):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, tensor in images.state_dict().items():
        for now, then in old.items():
            key = key.replace(f".attentions.0.{now}.", f".attentions.0.{then}.")
        weights[key] = tensor
    assert weights.keys() != images.state_dict().keys()
    save_model(weights, images.config, tmp_path)
    loaded = load_model(LatteVAE, read_config(LatteVAEConfig, tmp_path), tmp_path)
    assert torch.equal(loaded.decode(latents(), 16), images.decode(latents(), 16))


def test_the_published_shapes_are_the_defaults():
    with torch.device("meta"):
        vae = LatteVAE(LatteVAEConfig())
        temporal = LatteVAE(LatteVAEConfig(_class_name=TEMPORAL))
    megabytes = [round(4e-6 * sum(p.numel() for p in model.parameters())) for model in (vae, temporal)]
    assert megabytes == [335, 391]  # of the published files, in float32
    assert vae.latent_size(16, 512, 512) == (16, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name 'AutoencoderTiny' must be"),
        ({"norm_num_groups": 16, "_class_name": TEMPORAL}, "norm_num_groups 16 must be 32"),
        ({"decode_chunk_size": 0}, "decode_chunk_size must be at least 1"),
    ],
)
def test_other_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LatteVAEConfig(**changes)


def test_other_shapes_are_refused(images):
    with pytest.raises(ValueError, match=r"latents must be \[B, 4, 15, H, W\], not \[1, 4, 16, 2, 2\]"):
        images.decode(latents(), 15)
    with pytest.raises(ValueError, match=r"latents must be"):
        images.decode(latents()[0], 16)
    for shape in ((1, 3, 2, 4, 16), (1, 4, 2, 16, 16), (3, 2, 16, 16), (1, 3, 0, 16, 16)):
        with pytest.raises(ValueError, match="must be"):
            images.encode(torch.zeros(shape))
