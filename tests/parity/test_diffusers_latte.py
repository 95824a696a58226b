"""Latte of diffusers with our caches around it, against our own with the same caches: the bundled weights."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from videosys import tiny
from videosys.cache import IntervalConfig, Linear, NoCacheConfig, TeaCacheConfig
from videosys.calibration.runs import Clips
from videosys.diffusers import cached
from videosys.generation.request import VideoJob
from videosys.models import family_of
from videosys.utils.hub import BUNDLED_FOLDER

PROMPT, STEPS = "a red circle moves right", 10
FOLDER = BUNDLED_FOLDER / "latte"


@pytest.fixture(scope="module", name="ours")
def own_clips() -> Clips:
    config = tiny.config("latte", num_inference_steps=STEPS, seed=0)
    return Clips(family_of(config).build(config, True), config, [VideoJob(PROMPT, 0)])


@pytest.fixture(scope="module", name="theirs")
def their_pipeline(ours) -> Any:
    settings = json.loads((FOLDER / "transformer" / "config.json").read_text())
    known = inspect.signature(diffusers.LatteTransformer3DModel.__init__).parameters
    model = diffusers.LatteTransformer3DModel(**{name: settings[name] for name in settings if name in known})
    model.load_state_dict(load_file(FOLDER / "transformer" / "model.safetensors"))
    model.temp_pos_embed = ours.condition.frame_position.transpose(0, 1).clone()  # theirs knows no scale
    betas = {name: getattr(ours.config, name) for name in ("beta_start", "beta_end", "beta_schedule")}
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False)
    pipe = diffusers.LattePipeline(None, None, None, model.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, ours: Clips) -> torch.Tensor:
    config, pipeline = ours.config, ours.pipeline
    negative = ours.texts[config.negative_text]
    pair, _ = pipeline.family.guidance_pair(None, [ours.texts[PROMPT]], negative, config)
    return pipe(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=pair[:1],
        negative_prompt_embeds=pair[1:],
        latents=pipeline.denoising(ours.jobs, ours.texts, config).latents,
        num_inference_steps=STEPS,
        guidance_scale=config.guidance_scale,
        height=config.height,
        width=config.width,
        video_length=config.num_frames,
        clean_caption=False,
        output_type="latent",
    )[0]


@pytest.mark.parametrize(
    "cache",
    [
        NoCacheConfig(),
        IntervalConfig(every=2),
        IntervalConfig(every=3, forecast=Linear()),
        TeaCacheConfig(threshold=0.3),
        TeaCacheConfig(threshold=0.5, forecast=Linear()),
    ],
    ids=["none", "interval", "linear", "teacache", "teacache_linear"],
)
def test_same_decisions_and_frames(ours, theirs, cache):
    own = ours.run(cache)
    with cached(theirs, cache=cache, place="stack") as run:
        latents = generate(theirs, ours)
    assert [step.computed for step in run.steps] == [step.computed for step in own.steps]
    for theirs_step, own_step in zip(run.steps, own.steps, strict=True):
        assert theirs_step.timestep == own_step.timestep
        assert (theirs_step.distance or 0) == pytest.approx(own_step.distance or 0, rel=1e-4)
    largest = float(own.latents.abs().max())
    assert float((latents - own.latents).abs().max()) < 1e-5 * largest
    frames, own_frames = ours.frames(latents), ours.frames(own.latents)
    assert float((frames - own_frames).abs().max()) < 1e-4
