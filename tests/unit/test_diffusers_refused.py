"""What `cached` refuses, in one line and before anything runs."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from tests.unit.test_diffusers_cached import EVERY_SECOND, fresh
from tests.video_pipelines import case, generate
from videosys.cache import (
    Calibration,
    EasyCacheConfig,
    MagCacheConfig,
    PABConfig,
    RunSpec,
    ScheduleConfig,
    SeaCacheConfig,
    Setting,
    TeaCacheConfig,
)
from videosys.diffusers import cached
from videosys.diffusers.checks import run_spec, scheduler_name, weights_digest


@pytest.fixture(name="wan")
def new_wan():
    return case("wan")


class Plain:
    """An object without anything."""


def image_pipeline() -> Any:
    transformer = diffusers.DiTTransformer2DModel(sample_size=4, num_layers=1, num_attention_heads=1)
    return diffusers.DiTPipeline(transformer, None, diffusers.DDIMScheduler())


def calibration(**scope: Any) -> Calibration:
    return Calibration(RunSpec(**scope), (Setting(EVERY_SECOND, 2, 2.0, 30.0, 0.9),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no cache is selected; set cache, speedup or min_psnr"),
        ({"cache": "teacach"}, "cache is 'teacach'; allowed: "),
        ({"cache": 7}, "cache is 7; it must be the name of a policy"),
        ({"cache": "none", "speedup": 2.0}, "NoCacheConfig does not support speedup"),
        ({"speedup": 2.0}, "a goal needs a calibration"),
        ({"cache": "best", "min_psnr": 30.0}, "needs a calibration"),
        ({"cache": PABConfig()}, "cache pab needs our own blocks"),
        ({"cache": "easycache"}, "cache easycache needs the latents of our own loop"),
        ({"cache": "seacache"}, "cache seacache needs the latents of our own loop"),
        ({"cache": TeaCacheConfig(signal="timestep")}, "cache.signal is 'timestep'"),
        ({"cache": "interval", "place": "blocks"}, "place is 'blocks'; allowed: auto, output, stack"),
        ({"calibration": 3, "cache": "interval"}, "calibration is 3"),
        (
            {"calibration": calibration(model="other"), "speedup": 2.0},
            "was made with model other, this run has Wan",
        ),
        ({"calibration": calibration(scheduler="ddim"), "speedup": 2.0}, "was made with scheduler ddim"),
        ({"calibration": calibration(weights_hash="0"), "speedup": 2.0}, "was made with weights_hash 0"),
        ({"calibration": calibration(), "speedup": 2.0, "place": "output"}, "settings for 'stack'"),
        ({"calibration": calibration(), "speedup": 5.0}, "no setting of Best has speedup 5"),
        ({"cache": "magcache"}, "without ratios needs a calibration"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(wan, options, message):
    pipe, _ = wan
    with pytest.raises(ValueError, match=message) as error, cached(pipe, **options):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (EasyCacheConfig(), "cache easycache needs the latents of our own loop"),
        (SeaCacheConfig(), "cache seacache needs the latents of our own loop"),
        (PABConfig(), "cache pab needs our own blocks"),
        (TeaCacheConfig(signal="timestep"), "cache.signal is 'timestep'"),
        (ScheduleConfig(computed=(0, 9)), r"cache.computed has step 9; the steps are 0 to 3"),
        (MagCacheConfig(ratios=(1.0, 1.0)), "cache.ratios has 2 entries; there are 4 steps"),
    ],
)
def test_settings_of_a_changed_calibration_are_refused_before_anything_runs(wan, policy, message):
    pipe, _ = wan
    found = Calibration(RunSpec(evaluations=4), (Setting(policy, 2, 2.0, 30.0, 0.9),))
    with pytest.raises(ValueError, match=message), cached(pipe, found, speedup=2.0):
        pass


def test_another_shift_of_the_scheduler_is_refused(wan):
    pipe, call = wan
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    with cached(pipe, calibration(scheduler=scheduler_name(pipe.scheduler)), speedup=2.0) as run:
        generate(pipe, call)
        pipe.scheduler.set_shift(5.0)  # the config keeps 3
        with pytest.raises(ValueError, match=r"\(shift=3.0\), this run has .*\(shift=5.0\)"):
            generate(pipe, call)
    assert len(run.generations) == 1


def test_a_calibration_of_another_boundary_between_two_models_is_refused():
    pipe, _ = case("wan_two_models")
    scope = run_spec(pipe, reads_weights=False)
    assert scope.model.startswith("WanPipeline(boundary_ratio=0.875) of ")
    pipe.register_to_config(boundary_ratio=0.5)
    found, message = calibration(model=scope.model), r"_ratio=0.875\).* this run has .*boundary_ratio=0.5\)"
    with pytest.raises(ValueError, match=message), cached(pipe, found, speedup=2.0):
        pass


def test_a_pipelines_own_settings_are_part_of_its_name(wan):
    pipe, _ = wan
    plain = run_spec(pipe, reads_weights=False).model
    assert plain.startswith("WanPipeline of WanTransformer3DModel ")
    pipe.register_to_config(expand_timesteps=True)
    changed = plain.replace("WanPipeline", "WanPipeline(expand_timesteps=true)")
    assert run_spec(pipe, reads_weights=False).model == changed


def test_the_hash_of_the_weights_tells_states_of_adapters_apart(wan):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = wan[0].transformer
    before = weights_digest([model])
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    active = weights_digest([model])
    model.disable_adapters()
    disabled = weights_digest([model])
    model.enable_adapters()
    assert weights_digest([model]) == active
    model.set_adapters(["default"], [0.5])
    halved = weights_digest([model])
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "second")
    second = weights_digest([model])
    model.set_adapters(["default", "second"], [1.0, 1.0])
    both = weights_digest([model])
    assert len({before, active, disabled, halved, second, both}) == 6


def test_a_calibration_of_another_number_of_steps_is_refused_before_the_call(wan):
    pipe, call = wan
    with cached(pipe, calibration(num_inference_steps=4, guidance_scale=5.0), speedup=2.0) as run:
        with pytest.raises(ValueError, match="made with num_inference_steps 4, this run has 6"):
            generate(pipe, call, num_inference_steps=6)
        generate(pipe, call)
    assert [len(steps) for steps in run.generations] == [8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (image_pipeline, "does not generate videos"),
        (diffusers.WanModularPipeline, "WanModularPipeline is a modular pipeline"),
        (Plain, "Plain has no transformer or transformer_2 or unet"),
    ],
)
def test_pipelines_that_are_no_video_pipelines_are_refused(make, message):
    with pytest.raises(ValueError, match=message), cached(make(), cache="interval"):
        pass


OTHERS = {
    "first_block_cache": lambda pipe: diffusers.FirstBlockCacheConfig(threshold=0.1),
    "mag_cache": lambda pipe: diffusers.MagCacheConfig(mag_ratios=[1.0] * 4, num_inference_steps=4),
    "text_kv_cache": lambda pipe: diffusers.TextKVCacheConfig(),
    "sea_cache": lambda pipe: diffusers.SeaCacheConfig(),
    "taylorseer_cache": lambda pipe: diffusers.TaylorSeerCacheConfig(
        cache_identifiers=[r"blocks\.\d+\.attn1"]
    ),
    "pyramid_attention_broadcast": lambda pipe: diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "faster_cache": lambda pipe: diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_cache_of_diffusers_is_refused(wan, kind):
    pipe, call = wan
    plain = generate(pipe, call)
    pipe.transformer.enable_cache(OTHERS[kind](pipe))
    with pytest.raises(ValueError, match=rf"another cache \(.*{kind}.*\); disable it") as error:
        cached(pipe, cache="interval").__enter__()
    assert "\n" not in str(error.value)
    pipe.transformer.disable_cache()
    with cached(pipe, cache=EVERY_SECOND):
        assert torch.equal(generate(pipe, call), fresh("wan"))
    assert torch.equal(generate(pipe, call), plain)


def test_a_cache_that_is_enabled_within_the_context_is_refused_before_anything_runs(wan):
    pipe, call = wan
    with cached(pipe, cache=EVERY_SECOND) as run:
        pipe.transformer.enable_cache(OTHERS["pyramid_attention_broadcast"](pipe))
        with pytest.raises(ValueError, match="another cache"):
            generate(pipe, call)
        assert run.generations == []
        pipe.transformer.disable_cache()
        assert torch.equal(generate(pipe, call), fresh("wan"))


@pytest.mark.parametrize("part", ["pipeline", "transformer"])
def test_a_cache_of_cache_dit_is_refused(wan, part):
    pipe, _ = wan
    (pipe if part == "pipeline" else pipe.transformer)._is_cached = True  # as cache-dit marks what it changes
    with pytest.raises(ValueError, match=r"another cache \(cache-dit\)"):
        cached(pipe, cache="interval").__enter__()


def test_a_second_context_is_refused(wan):
    pipe, _ = wan
    with cached(pipe, cache="interval"), pytest.raises(ValueError, match="already cached"):
        cached(pipe, cache="interval").__enter__()


def test_a_pipeline_without_steps_is_refused(wan):
    pipe, _ = wan
    pipe.scheduler = Plain()
    with pytest.raises(ValueError, match="no scheduler with set_timesteps and step"):
        cached(pipe, cache="interval").__enter__()
