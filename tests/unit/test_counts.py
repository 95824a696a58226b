"""Every count has a limit, which is checked before any work."""

from __future__ import annotations

import dataclasses
import json

import pytest

from videosys import (
    CausalVAEConfig,
    LatteConfig,
    LatteT2VConfig,
    LatteVAEConfig,
    OpenSoraConfig,
    OpenSoraPlanConfig,
    OpenSoraT2VConfig,
    OpenSoraVAEConfig,
    PABConfig,
    STDiT3Config,
    load_config,
    read_config,
)
from videosys.cache.pab import mlp_steps
from videosys.generation.request import LONGEST_PROMPT, check_count, check_prompts, with_full_batches
from videosys.text_encoders.t5 import Shape

HUGE = (10**9, 10**12, 99999999999999999999, 10**400)
# Fields of requests whose counts mean no work: they need no limit of their own.
CONFIGS = (OpenSoraConfig, LatteConfig, OpenSoraPlanConfig)
COUNTS = {
    OpenSoraConfig: (
        *("batch_size", "num_inference_steps", "num_videos_per_prompt", "num_frames", "height", "width"),
        *("loops", "condition_frame_length", "vae_micro_batch_size", "vae_tile_sample_min_size"),
        *("num_gpus", "parallel.num_gpus", "parallel.dp", "parallel.sp"),
    ),
    LatteConfig: (
        *("batch_size", "num_inference_steps", "num_videos_per_prompt", "num_frames", "height", "width"),
        *("decode_chunk_size", "vae_tile_sample_min_size", "num_gpus"),
    ),
    OpenSoraPlanConfig: (
        *("batch_size", "num_inference_steps", "num_videos_per_prompt", "num_frames", "height", "width"),
        "num_gpus",
    ),
}


@pytest.mark.parametrize("huge", HUGE[:3])
@pytest.mark.parametrize(("cls", "key"), [(cls, key) for cls in CONFIGS for key in COUNTS[cls]])
def test_a_huge_count_is_one_error_that_names_key_value_and_limit(cls, key, huge):
    with pytest.raises(ValueError, match=rf"{key.split('.')[-1]}.* is {huge}; it must be \d+ or less"):
        load_config(cls, None, [f"{key}={huge}"])


@pytest.mark.parametrize("cls", CONFIGS)
def test_the_same_for_a_request_and_a_constructor(cls):
    with pytest.raises(ValueError, match="batch_size is 1000000000; it must be 1000 or less"):
        cls(batch_size=10**9)
    with pytest.raises(ValueError, match="num_inference_steps is 99999999999999999999; it must be"):
        dataclasses.replace(cls(), num_inference_steps=99999999999999999999)


@pytest.mark.parametrize("key", ["seed", "cache.every", "align"])
def test_numbers_of_no_work_end_where_a_file_does(key):
    cache = ["cache=interval"] if key.startswith("cache") else []
    with pytest.raises(ValueError, match=rf"{key}={10**20}: is {10**20}; it must be {2**63 - 1} or less"):
        load_config(OpenSoraConfig, None, [*cache, f"{key}={10**20}"])


@pytest.mark.parametrize("number", ["9" * 25, "9" * 5000, "10001"])
def test_a_number_of_frames_as_text(number):
    with pytest.raises(ValueError, match=r"num_frames is \d+; it must be 10000 or less"):
        OpenSoraConfig(num_frames=number)


def test_long_texts_and_lists():
    with pytest.raises(ValueError, match="negative_prompt has 1000001 characters; there must be 1000000"):
        LatteConfig(negative_prompt="a" * 1_000_001)
    with pytest.raises(ValueError, match=f"prompt has {LONGEST_PROMPT + 1} characters"):
        check_prompts(["a" * (LONGEST_PROMPT + 1)])
    with pytest.raises(ValueError, match="num_videos_per_prompt is 10000 for 101 prompts; the limit is"):
        check_count(["a"] * 101, LatteConfig(num_videos_per_prompt=10_000))


@pytest.mark.parametrize(("prompts", "each", "expected"), [(1, 1, 1), (1, 3, 3), (60, 1, 50), (0, 1, 0)])
def test_batches_are_no_larger_than_the_videos_there_are(prompts, each, expected):
    config = LatteConfig(batch_size=50, num_videos_per_prompt=each)
    assert with_full_batches(["a"] * max(prompts, 1), config).batch_size == max(expected, 1)


CHECKPOINTS = (
    *(STDiT3Config, LatteT2VConfig, OpenSoraT2VConfig, OpenSoraVAEConfig, LatteVAEConfig),
    *(CausalVAEConfig, Shape),
)
# Whole numbers that make no layer: of positions only, or fixed to one value.
FREE = {"patch_size_t", "compress_kv_factor", "micro_frame_size", "norm_num_groups", "attn_resolutions"}


def counts(cls):
    """The names of a config's whole numbers and lists of them."""
    return [item.name for item in dataclasses.fields(cls) if "int" in str(item.type).replace("bool", "")]


def test_each_count_of_a_checkpoint_says_its_limit():
    missing = [
        (cls.__name__, item.name)
        for cls in CHECKPOINTS
        for item in dataclasses.fields(cls)
        if item.name in counts(cls) and item.name not in FREE and "most" not in item.metadata
    ]
    assert missing == []


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize(
    ("cls", "key"), [(cls, key) for cls in CHECKPOINTS for key in counts(cls) if key not in FREE]
)
def test_a_huge_number_in_a_config_json_is_refused_at_once(cls, key, huge, tmp_path):
    default = next(item.default for item in dataclasses.fields(cls) if item.name == key)
    value = [huge] * len(default) if isinstance(default, tuple) else huge
    published = dataclasses.asdict(CausalVAEConfig.published("v110")) if cls is CausalVAEConfig else {}
    (tmp_path / "config.json").write_text(json.dumps({**published, key: value}))
    with pytest.raises(ValueError, match=rf"config.json: {key}: is .*; it must be \d+ or less"):
        read_config(cls, tmp_path)


@pytest.mark.parametrize("cls", [OpenSoraVAEConfig, LatteVAEConfig, CausalVAEConfig])
def test_so_is_a_long_list(cls, tmp_path):
    key = next(item.name for item in dataclasses.fields(cls) if "longest" in item.metadata)
    (tmp_path / "config.json").write_text(json.dumps({key: [1] * 100_000}))
    with pytest.raises(ValueError, match=rf"{key}: has 100000 items; there must be 64 or fewer|is missing"):
        read_config(cls, tmp_path)


def test_a_timeout_that_no_clock_knows():
    with pytest.raises(ValueError, match=r"timeout.* is 1e\+300; it must be 10000000 or less"):
        load_config(OpenSoraConfig, None, ["parallel.timeout=1e300"])


def test_a_broadcast_of_an_endless_count_ends():
    config = PABConfig(mlp_spatial=((0.5, 10**15, (0,)),))
    assert mlp_steps(config.mlp_spatial, [0.0, 0.25, 0.5, 0.75, 1.0], 0) == {3, 4}
