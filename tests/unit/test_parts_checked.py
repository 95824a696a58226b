"""Parts that are not there, or not their own, are said to be so before any of the work is done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from tests.tiny_checkpoint import build_pipeline, text_to_video_config
from videosys import LatteConfig, VideoSysEngine, tiny
from videosys.estimate import memory
from videosys.text_encoders.cleaning import clean_prompt
from videosys.text_encoders.t5 import T5Encoder

PARTS = {
    "latte": ("transformer", "vae_temporal_decoder"),
    "open_sora_plan_v110": ("65x512x512", "vae"),
    "open_sora_plan_v120": ("29x480p", "vae"),
}


@pytest.fixture
def broken(random_model, tmp_path):
    """A copy of the checkpoint, to be damaged; its name, its folder and its parts."""
    name, folder = random_model
    shutil.copytree(folder, tmp_path / "copy")
    return name, tmp_path / "copy"


@pytest.mark.parametrize("part", [0, 1], ids=["transformer", "vae"])
def test_missing_weights(broken, part):
    name, folder = broken
    home = folder / PARTS[name][part]
    (home / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=home.name), VideoSysEngine(text_to_video_config(name, folder)):
        pass


@pytest.mark.parametrize("part", [0, 1], ids=["transformer", "vae"])
def test_weights_of_another_model(broken, part):
    name, folder = broken
    home, other = folder / PARTS[name][part], folder / PARTS[name][1 - part]
    shutil.copy(other / "model.safetensors", home / "model.safetensors")
    with (
        pytest.raises(ValueError, match="the weights do not fit"),
        VideoSysEngine(text_to_video_config(name, folder)),
    ):
        pass


def test_a_text_encoder_of_another_width(broken):
    name, folder = broken
    path = folder / "text_encoder" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "d_model": 64}))
    wanted = f"d_model is 64; the transformer needs embeddings of width {content['d_model']}"
    with pytest.raises(ValueError, match=wanted), VideoSysEngine(text_to_video_config(name, folder)):
        pass


def test_a_vae_of_other_channels(broken):
    name, folder = broken
    path = folder / PARTS[name][1] / "config.json"
    channels = {"latent_channels": 8} if name == "latte" else {"embed_dim": 8}
    path.write_text(json.dumps({**json.loads(path.read_text()), **channels}))
    with (
        pytest.raises(ValueError, match=r"has 4 latent channels, .* decodes 8"),
        VideoSysEngine(text_to_video_config(name, folder)),
    ):
        pass


@pytest.mark.parametrize(("asked", "held"), [("v110", "v120"), ("v120", "v110")])
def test_a_transformer_of_the_other_version(asked, held):
    config = replace(tiny.config(f"open_sora_plan_{held}"), version=asked)
    with pytest.raises(
        ValueError, match=f"version is '{asked}', but .*{held} holds a transformer of '{held}'"
    ):
        build_pipeline(config)


@pytest.mark.parametrize("random_model", ["latte"], indirect=True)
def test_a_decoder_of_the_other_kind(broken):
    name, folder = broken
    config = replace(text_to_video_config(name, folder), vae=str(folder / "vae"))
    with pytest.raises(ValueError, match=r"enable_vae_temporal_decoder is True.*decoder of single frames"):
        build_pipeline(config)


def test_only_padding_that_is_read_is_encoded(random_model, monkeypatch):
    seen = {}
    forward = T5Encoder.forward

    def watched(self, prompts, padded=False):
        seen[prompts[0]] = padded
        return forward(self, prompts, padded)

    monkeypatch.setattr(T5Encoder, "forward", watched)
    name, folder = random_model
    config = text_to_video_config(name, folder, negative_prompt="blue", guidance_scale=2.0)
    with VideoSysEngine(config, quiet=True) as engine:
        engine.generate("red")
        prompts = [text for text in seen if "red" in text]
        assert seen == {prompts[0]: False, "blue": name != "open_sora_plan_v120"}
        if name == "latte":
            engine.generate("red", mask_feature=False)
            assert seen == {"red": True, "blue": True}


def test_a_config_without_shapes_is_not_warned_of():
    class OtherConfig(LatteConfig):
        """Of a model that was added outside the package."""

    little = memory.FreeMemory(1000, 1000)
    memory.warn_if_too_large(OtherConfig(), little)
    with pytest.warns(UserWarning, match="needs about"):
        memory.warn_if_too_large(tiny.config("latte"), little)


def test_a_prompt_of_which_nothing_is_left_is_warned_of():
    with pytest.warns(UserWarning, match="the prompt 'https://www.example.com' is empty"):
        assert clean_prompt("https://www.example.com") == ""
    assert clean_prompt("") == ""
