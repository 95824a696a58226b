"""What OpenSoraConfig refuses, at once and in words, and what its choices mean."""

from __future__ import annotations

import math

import pytest

from videosys import NoCacheConfig, OpenSoraConfig, TeaCacheConfig, load_config
from videosys.models.opensora.presets import COEFFICIENTS

SMALL = {"height": 64, "width": 96}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be 1 or more"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number, got 2.5"),
        ({"num_inference_steps": "30"}, "num_inference_steps must be a whole number, got '30'"),
        ({"num_inference_steps": True}, "num_inference_steps must be a whole number"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"vae_micro_batch_size": 0}, "vae_micro_batch_size is 0"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": math.nan}, "fps is nan"),
        ({"fps": 1001.0}, "fps is 1001"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5; it must be 1"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"guidance_scale": "7"}, "guidance_scale must be a number, got '7'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": 2**63 - 1, "num_videos_per_prompt": 2}, "seed is 9223372036854775807"),
        ({"seed": 1.5}, "seed must be a whole number or null, got 1.5"),
        ({"height": 64, "width": None}, "height is 64 and width is None; set both or neither"),
        ({"height": None, "width": 64}, "height is None and width is 64"),
        ({"height": 8}, "8 x 96; the minimum is 16 pixels"),
        ({"width": 0}, "64 x 0"),
        ({"height": -64}, "-64 x 96"),
        ({"height": 64.0}, "height must be a whole number"),
        ({"resolution": "720p"}, "resolution '720p'"),
        ({"height": None, "width": None, "resolution": "481p"}, "481p"),
        ({"height": None, "width": None, "aspect_ratio": "5:5:5"}, "5:5:5"),
        *(({"num_frames": count}, rf"num_frames is {count}") for count in (-1, 0, 2, 9, 16)),
        ({"num_frames": "3s"}, "num_frames '3s'"),
        ({"num_frames": 17.0}, "num_frames must be"),
        ({"loops": 0}, "loops is 0"),
        ({"loops": 2, "num_frames": 17}, "num_frames is 17; 2 loops need more"),
        ({"loops": 2, "num_frames": 1}, "num_frames is 1; 2 loops need more"),
        ({"condition_frame_length": 0}, "condition_frame_length is 0; it must be 5 or more"),
        ({"condition_frame_length": -5}, "condition_frame_length is -5"),
        ({"condition_frame_length": 7}, "7 latent frames are not a multiple of 5"),
        ({"condition_frame_edit": 1.5}, "condition_frame_edit is 1.5"),
        ({"align": 0}, "align is 0; it must be 1 or more"),
        ({"align": -5}, "align is -5"),
        ({"mask_strategy": "0"}, "mask_strategy is '0', but there are no reference_paths"),
        ({"mask_strategy": "0,3", "reference_paths": ("a.png",)}, "reference 3 does not exist"),
        ({"mask_strategy": "x", "reference_paths": ("a.png",)}, "mask strategy 'x'"),
        ({"reference_paths": "a.png"}, "reference_paths must be a list of text, got 'a.png'"),
        ({"cache": 3}, "cache must be CacheConfig, got 3"),
        ({"cache": "tea"}, "cache is 'tea'"),
        ({"cache": TeaCacheConfig}, "cache must be CacheConfig, got <class"),
        ({"offload": "disk"}, "offload must be one of 'none', 'stage', 'group'"),
        ({"dtype": "float8"}, "dtype must be one of 'auto', 'float32', 'bfloat16', 'float16'"),
        ({"camera_motion": 3}, "camera_motion must be text or null"),
        ({"transformer": None}, "transformer must be text"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OpenSoraConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (480, 854)),
        ({"aspect_ratio": "16:9"}, (854, 480)),
        ({"resolution": "144p", "aspect_ratio": "1:1"}, (192, 192)),
        ({"height": 120, "width": 130}, (120, 130)),
    ],
)
def test_sizes(changes, size):
    assert OpenSoraConfig(**changes).size == size


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({}, 51),
        ({"num_frames": 1}, 1),
        ({"num_frames": 17}, 17),
        ({"num_frames": 20}, 20),
        ({"num_frames": "4s"}, 102),
        ({"num_frames": "51", "loops": 3}, 3 * 51 - 2 * 17),
        ({"num_frames": 51, "loops": 3, "condition_frame_length": 10}, 3 * 51 - 2 * 34),
    ],
)
def test_frames(changes, frames):
    assert OpenSoraConfig(**changes).output_frames == frames


def test_a_single_image_is_told_as_120_frames_per_second():
    assert OpenSoraConfig(num_frames=1, fps=8.0).model_fps == 120.0
    assert OpenSoraConfig(num_frames=17, fps=8.0).model_fps == 8.0


def test_a_path_without_a_strategy_is_the_first_frame():
    (reference,) = OpenSoraConfig(reference_paths=("a.png",)).references
    assert reference.source == "a.png"
    assert reference.as_condition(0) == (0, 0, 0, 0, 1, 0.0)


@pytest.mark.parametrize(
    ("name", "threshold", "coefficients"),
    [("teacache_slow", 0.1, COEFFICIENTS), ("teacache_fast", 0.2, COEFFICIENTS), ("teacache", 0.1, None)],
)
def test_cache_names(name, threshold, coefficients):
    cache = load_config(OpenSoraConfig, overrides=[f"cache={name}"]).cache
    assert cache == TeaCacheConfig(threshold, coefficients)
    assert OpenSoraConfig(cache=cache).with_default_coefficients() == TeaCacheConfig(threshold, COEFFICIENTS)
    changed = load_config(OpenSoraConfig, overrides=[f"cache={name}", "cache.threshold=0.3"]).cache
    assert changed == TeaCacheConfig(0.3, coefficients)


def test_coefficients_that_are_given_stay():
    naive = load_config(OpenSoraConfig, overrides=["cache=teacache", "cache.coefficients=[1, 0]"]).cache
    assert OpenSoraConfig(cache=naive).with_default_coefficients() == TeaCacheConfig(0.1, (1.0, 0.0))
    assert OpenSoraConfig().with_default_coefficients() == NoCacheConfig()


def test_the_coefficients_are_the_published_ones():
    expected = (2.17546007e02, -1.18329252e02, 2.68662585e01, -4.59364272e-02, 4.84426240e-02)
    assert expected == COEFFICIENTS


@pytest.mark.parametrize("name", ["none", "null"])
def test_no_cache_has_two_names(name):
    assert load_config(OpenSoraConfig, overrides=[f"cache={name}"]).cache == NoCacheConfig()


def test_old_names_are_understood():
    config = load_config(OpenSoraConfig, overrides=["num_sampling_steps=5", "cfg_scale=2"])
    assert (config.num_inference_steps, config.guidance_scale) == (5, 2.0)


def test_a_named_size_beside_a_size_in_pixels_is_refused_even_when_it_is_the_default():
    with pytest.raises(ValueError, match="resolution '480p'"):
        OpenSoraConfig(height=64, width=64, resolution="480p")
    assert OpenSoraConfig().size == (480, 854)
