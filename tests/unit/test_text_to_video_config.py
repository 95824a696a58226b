"""LatteConfig and OpenSoraPlanConfig: published defaults, and what is refused at once."""

from __future__ import annotations

import math

import pytest

from videosys import LatteConfig, OpenSoraPlanConfig
from videosys.layers.tiling import PRESETS


def plan(version, **more):
    return OpenSoraPlanConfig(version=version, **more)


def test_the_defaults_of_latte():
    config = LatteConfig()
    assert (config.output_frames, config.size, config.steps, config.fps) == (16, (512, 512), 50, 8.0)
    assert (config.guidance_scale, config.negative_text, config.eta) == (7.5, "", 0.0)
    assert config.transformer == config.vae == config.text_encoder == "maxin-cn/Latte-1"
    assert config.enable_vae_temporal_decoder


@pytest.mark.parametrize(
    ("version", "type_", "frames", "size"),
    [
        ("v110", None, 65, (512, 512)),
        ("v110", "221x512x512", 221, (512, 512)),
        ("v120", None, 29, (480, 640)),
        ("v120", "93x480p", 93, (480, 640)),
        ("v120", "29x720p", 29, (720, 1280)),
        ("v120", "93x720p", 93, (720, 1280)),
    ],
)
def test_types_set_the_size(version, type_, frames, size):
    config = plan(version, transformer_type=type_)
    assert (config.output_frames, config.size) == (frames, size)
    assert plan(version, transformer_type=type_, num_frames=9, height=64).size == (64, size[1])
    assert config.steps == {"v110": 150, "v120": 100}[version]
    assert (config.guidance_scale, config.fps) == (7.5, 24.0)


def test_words_around_prompts():
    config = plan("v120")
    assert config.prompt_texts("A cat.")[0] == "(masterpiece), (best quality), (ultra-detailed), A cat.."
    assert config.negative_text.startswith("nsfw, lowres")
    assert plan("v120", negative_prompt="").negative_text == ""
    assert plan("v120", prompt_template="{prompt}").prompt_texts("{a} cat")[0] == "{a} cat"
    assert (plan("v110").prompt_texts("A cat.")[0], plan("v110").negative_text) == ("A cat.", "")


def test_tilings():
    assert plan("v110").tiles() == PRESETS["v110"]
    assert plan("v120").tiles() == PRESETS["v120"]
    assert plan("v120", tiling="videosys").tiles() == PRESETS["videosys"]
    assert plan("v120", tiling="none").tiles() is None


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (plan, {"version": "v130"}, "version must be one of 'v110', 'v120', got 'v130'"),
        (plan, {"version": "v110", "transformer_type": "29x480p"}, "transformer_type is '29x480p'; allowed"),
        (plan, {"version": "v120", "transformer_type": "29x480"}, r"did you mean '29x480p'"),
        (plan, {"version": "v120", "prompt_template": "best quality"}, r"it must hold \{prompt\}"),
        (plan, {"version": "v120", "tiling": "v12"}, "tiling 'v12' must be one of"),
        (
            plan,
            {"version": "v110", "num_inference_steps": 3},
            "num_inference_steps is 3; it must be 4 to 1000",
        ),
        (plan, {"version": "v120", "height": 40}, "40 x 640; height and width must be multiples of 16"),
        (plan, {"version": "v120", "num_frames": 0}, "num_frames is 0; it must be 1 or more"),
        (LatteConfig, {"num_inference_steps": 1001}, "num_inference_steps is 1001; it must be 1 to 1000"),
        (LatteConfig, {"num_inference_steps": None}, "num_inference_steps must be a whole number"),
        (LatteConfig, {"height": 8}, "8 x 512"),
        (LatteConfig, {"eta": 2.0}, "eta is 2.0; it must be between 0 and 1"),
        (LatteConfig, {"beta_start": 0.1}, "beta_start is 0.1 and beta_end 0.02"),
        (LatteConfig, {"beta_end": math.nan}, "beta_end nan"),
        (LatteConfig, {"beta_schedule": "cosine"}, "beta_schedule must be one of"),
        (LatteConfig, {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_values_are_refused_at_once(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
