"""Latte and both versions of Open-Sora-Plan on small random checkpoints: seeds, batches, text, caches."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch

from tests.goldens.fill import fill_tensor
from tests.goldens.load import load_case
from tests.tiny_checkpoint import text_to_video_config
from videosys import (
    NoCacheConfig,
    OpenSoraPlanConfig,
    Reference,
    TeaCacheConfig,
    VideoSysEngine,
    read_video,
)
from videosys.generation import pipeline as generation
from videosys.generation.guidance import cut_pair, masked_pair
from videosys.generation.offload import Component
from videosys.generation.request import to_uint8
from videosys.models.latte.presets import COEFFICIENTS as LATTE_COEFFICIENTS
from videosys.models.open_sora_plan.autoencoder import V110
from videosys.models.open_sora_plan.pipeline import transformer_config, with_frame_scale
from videosys.models.open_sora_plan.presets import RELEASES
from videosys.models.open_sora_plan.transformer import OpenSoraT2V
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig

PROMPTS = ["a small red circle spins", "a large blue square moves rightward on a white background"]
PLAN_V110, PLAN_V120 = "open_sora_plan_v110", "open_sora_plan_v120"
EVALUATIONS = {
    "latte": 4,
    PLAN_V110: 13,
    PLAN_V120: 4,
}  # PNDM begins with Runge-Kutta steps
SKIPPING = TeaCacheConfig(0.5, (1.0, 0.0))


@pytest.fixture(scope="module")
def engine(random_model):
    with VideoSysEngine(text_to_video_config(*random_model), quiet=True) as engine:
        yield engine


def told(monkeypatch, model_cls):
    """What `prepare` of a model is given."""
    seen = []
    prepare = model_cls.prepare

    def watched(self, *args, **more):
        seen.append((*args, more))
        return prepare(self, *args, **more)

    monkeypatch.setattr(model_cls, "prepare", watched)
    return seen


def test_a_prompt_becomes_a_file(engine, random_model, tmp_path):
    output = engine.generate(PROMPTS[0])
    (video,) = output.video
    assert (video.dtype, video.shape) == (torch.uint8, (5, 16, 32, 3))
    assert video.float().std() > 10
    assert len(output.steps) == EVALUATIONS[random_model[0]]
    assert output.fps == (8.0 if random_model[0] == "latte" else 24.0)
    path = engine.save_video(video, tmp_path / "a.mp4", lossless=True)
    frames, fps = read_video(path)
    assert torch.equal(frames, video)
    assert fps == output.fps


@pytest.mark.parametrize("cache", [NoCacheConfig(), SKIPPING], ids=["none", "teacache"])
def test_a_prompt_gives_the_same_video_alone_and_among_others(engine, cache):
    together = engine.generate(PROMPTS, num_videos_per_prompt=2, cache=cache)
    assert together.seeds == [7, 8, 7, 8]
    assert len({video.sum().item() for video in together.video}) == 4
    alone = engine.generate(PROMPTS[1], seed=8, cache=cache)
    assert torch.equal(alone.video[0], together.video[3])
    assert alone.steps == together.steps_per_video[3]
    assert all(step.computed for step in alone.steps) is (cache == NoCacheConfig())


def test_a_batch_is_as_alone_up_to_rounding(engine):
    plain, batched = engine.generate(PROMPTS), engine.generate(PROMPTS, batch_size=2)
    for one, other in zip(batched.video, plain.video, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1


def test_another_negative_prompt_is_another_video(engine):
    plain = engine.generate(PROMPTS[0]).video[0]
    assert not torch.equal(engine.generate(PROMPTS[0], negative_prompt="a cross").video[0], plain)
    unguided = {"guidance_scale": 1.0}
    assert torch.equal(
        engine.generate(PROMPTS[0], negative_prompt="a cross", **unguided).video[0],
        engine.generate(PROMPTS[0], **unguided).video[0],
    )


def test_presets_have_the_coefficients_of_their_model(engine, random_model):
    name = random_model[0]
    coefficients = {
        "latte": LATTE_COEFFICIENTS,
        PLAN_V110: RELEASES["v110"].coefficients,
        PLAN_V120: (1.0, 0.0),
    }
    for preset, threshold in (("teacache_slow", 0.1), ("teacache_fast", 0.2)):
        config = engine.requested({"cache": preset})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert config.with_default_coefficients() == TeaCacheConfig(threshold, coefficients[name])
        assert len(caught) == (1 if name == PLAN_V120 else 0)
        assert all("no TeaCache coefficients are published" in str(item.message) for item in caught)


@pytest.mark.filterwarnings("ignore:no TeaCache coefficients")
def test_a_preset_by_name(engine, random_model):
    output = engine.generate(PROMPTS[0], cache="teacache_fast")
    measured = [step for step in output.steps if step.distance is not None]
    assert len(measured) == EVALUATIONS[random_model[0]] - 2
    assert all((step.rescaled == step.distance) is (random_model[0] == PLAN_V120) for step in measured)


def test_staged_parts_give_the_same_bytes(engine, random_model):
    expected = engine.generate(PROMPTS[0]).video[0]
    with VideoSysEngine(text_to_video_config(*random_model, offload="stage"), quiet=True) as staged:
        assert torch.equal(staged.generate(PROMPTS[0]).video[0], expected)
        parts = (staged.pipeline.text_encoder, staged.pipeline.transformer, staged.pipeline.vae)
        assert not any(part.is_loaded for part in parts)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"height": 24}, "24 x 32; height and width must be multiples of 16"),
        ({"height": 0}, "height is 0"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001; it must be"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"clean_caption": 1}, "clean_caption must be true or false"),
        ({"negative_prompt": 3}, "negative_prompt must be text"),
        ({"references": [Reference("a.png")]}, "unknown request 'references'"),
        ({"tiling": "v110"}, "unknown request 'tiling'"),
        ({"version": "v110"}, "unknown request 'version'"),
        ({"cache": "teacash"}, "cache is 'teacash'"),
    ],
)
def test_bad_requests_are_refused_before_loading(engine, monkeypatch, request_, message):
    monkeypatch.setattr(Component, "use", None)
    with pytest.raises(ValueError, match=message):
        engine.generate(PROMPTS[0], **request_)


CASE, GOLDEN = load_case("latte", "latte_text_features")
SINGLE = [case for case in CASE["cases"] if case["t5_calls"][0][0] == case["num_images_per_prompt"] == 1]


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case["case"])
def test_text_features_of_one_prompt_are_the_published_ones(case):
    shape = (1, 120, 8)
    mask = (torch.arange(120) < case["token_counts"][0]).long()[None]
    negative = (fill_tensor("input:t5_negative", shape), mask) if case["guidance"] else None
    prompt = (fill_tensor("input:t5_prompt", shape), mask)
    embeds, seen = cut_pair([prompt], negative, cut=case["mask_feature"])
    assert seen is None
    name = case["case"]
    expected = [GOLDEN[f"{name}.prompt"], *([GOLDEN[f"{name}.negative"]] if case["guidance"] else [])]
    assert torch.equal(embeds, torch.cat(expected))


def test_prompts_of_other_lengths_hide_what_would_be_cut_off():
    rows = [(torch.randn(1, 6, 2), torch.tensor([[1] * n + [0] * (6 - n)])) for n in (4, 2, 1)]
    embeds, seen = cut_pair(rows[:2], rows[2])
    assert embeds.shape == (4, 4, 2)
    assert seen.tolist() == [[True] * 4, [True] * 2 + [False] * 2] * 2
    assert torch.equal(embeds[2], rows[2][0][0, :4])
    embeds, mask = masked_pair(rows[:2], rows[2])
    assert torch.equal(mask, torch.cat([row[1] for row in (*rows[:2], rows[2], rows[2])]))


def test_masks_reach_only_the_model_that_reads_them(engine, random_model, monkeypatch):
    name = random_model[0]
    seen = told(monkeypatch, OpenSoraT2V if name == PLAN_V120 else LatteT2V)
    engine.generate(PROMPTS[0], negative_prompt="a cross")
    ((embeds, mask, _),) = seen
    assert len(embeds) == 2
    if name == PLAN_V120:
        assert embeds.shape[1] == mask.shape[1] == 512
        assert mask[0].sum() > mask[1].sum() > 1
    else:
        assert mask is None
        assert embeds.shape[1] < 20
        assert embeds[1].abs().sum(dim=-1).min() > 0  # the rows after the end of the negative prompt are read


def test_templates_and_cleaning(engine, random_model, monkeypatch):
    from videosys.text_encoders.t5 import T5Encoder

    seen = []
    forward = T5Encoder.forward

    def watched(self, texts, padded=False):
        seen.extend(texts)
        return forward(self, texts, padded)

    monkeypatch.setattr(T5Encoder, "forward", watched)
    engine.generate("A <b>RED</b> 猫 Circle")
    if random_model[0] == PLAN_V120:
        assert seen[0] == "masterpiece , best quality , ultra-detailed , a red 猫 circle."
        assert seen[1].startswith("nsfw, lowres, bad anatomy")
    else:
        assert seen == ["a red circle", ""]
    seen.clear()
    engine.generate("A RED (Circle) ", clean_caption=False, negative_prompt="", guidance_scale=1.0)
    assert "(circle)" in seen[0]


@pytest.mark.parametrize(("video_length", "scale"), [(16, 1), (17, 1), (5, 1), (56, 3), (33, 2)])
def test_v110_divides_frames_by_the_multiples_of_16(video_length, scale):
    assert with_frame_scale(LatteT2VConfig(video_length=video_length)).frame_scale == scale
    told = LatteT2VConfig(video_length=video_length, interpolation_scale_1d=1.5)
    assert with_frame_scale(told).frame_scale == 1.5


def test_a_length_that_a_config_does_not_say(tmp_path):
    config = OpenSoraPlanConfig(version="v110", transformer_type="221x512x512")
    for content, length, scale in (({"video_length": 5}, 5, 1), ({}, 56, 3)):
        (tmp_path / "config.json").write_text(json.dumps(content))
        model_config = transformer_config(config, tmp_path, V110)
        assert (model_config.video_length, model_config.frame_scale) == (length, scale)


def test_a_model_is_found_alone_or_with_the_others(engine, random_model):
    name, folder = random_model
    part = {"latte": "transformer", PLAN_V110: "65x512x512", PLAN_V120: "29x480p"}[name]
    config = text_to_video_config(name, folder)
    config = dataclasses.replace(config, transformer=str(folder / part))
    with VideoSysEngine(config, quiet=True) as other:
        assert torch.equal(other.generate(PROMPTS[0]).video[0], engine.generate(PROMPTS[0]).video[0])


def test_bars_count_evaluations(random_model, capsys):
    name, folder = random_model
    with VideoSysEngine(text_to_video_config(name, folder)) as engine:
        engine.generate(PROMPTS[0])
    shown = capsys.readouterr().err
    assert f"{EVALUATIONS[name]}/{EVALUATIONS[name]}" in shown
    assert "5/5" in shown


def test_frames_are_rounded_down_as_published():
    _, golden = load_case("latte", "latte_decode")
    frames = golden["frames_float"].transpose(0, 1)[None]
    assert torch.equal(to_uint8(frames, "down")[0], golden["video_uint8"].view(-1, *frames.shape[3:], 3))


def test_noise_and_latents_have_their_scales(engine, random_model, monkeypatch):
    seen = []
    denoise = generation.denoise

    def watched(model, scheduler, latents, *more):
        seen.extend((latents, scheduler, denoise(model, scheduler, latents, *more)))
        return seen[2]

    monkeypatch.setattr(generation, "denoise", watched)
    output = engine.generate(PROMPTS[0])
    noise, sampler, latents = seen
    expected = torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(7))
    assert torch.equal(noise[0], expected * sampler.init_noise_sigma)
    assert sampler.init_noise_sigma == (pytest.approx(157.4073) if random_model[0] == PLAN_V120 else 1.0)
    assert [step.timestep for step in output.steps] == sampler.times()
    with engine.pipeline.vae.use() as vae:
        # LatteVAE divides by the factor itself, CausalVAE takes its own latents.
        scaled = latents if random_model[0] == "latte" else latents / vae.config.scaling_factor
        assert torch.equal(to_uint8(vae.decode(scaled, 5), "down")[0], output.video[0])


# Mean difference in levels of 255, from the same noise; measured are up to 1.9 and 0.24.
@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 4.0), ("float16", 0.5)])
def test_half_precision_videos_stay_near_those_of_float32(engine, random_model, dtype, bound):
    with VideoSysEngine(text_to_video_config(*random_model, dtype=dtype), quiet=True) as half:
        video = half.generate(PROMPTS[0]).video[0]
        with half.pipeline.transformer.use() as model:
            assert model.dtype == getattr(torch, dtype)
    difference = (video.int() - engine.generate(PROMPTS[0]).video[0].int()).abs().float()
    assert 0 < difference.mean() < bound
