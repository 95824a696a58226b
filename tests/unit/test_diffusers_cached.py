"""`cached` around pipelines of diffusers: what it refuses, what it leaves behind, what it works beside."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch

from tests.video_pipelines import case, generate, texts
from videosys.cache import (
    CacheConfig,
    IntervalConfig,
    Linear,
    ScheduleConfig,
    TeaCacheConfig,
)
from videosys.diffusers import cached
from videosys.diffusers.swaps import is_swapped

EVERY_SECOND = IntervalConfig(every=2)


def computed(run: Any) -> list[bool]:
    return [step.computed for step in run.steps]


def fresh(name: str, cache: Any = EVERY_SECOND, place: str = "auto", **changes: Any) -> torch.Tensor:
    """The latents of a new pipeline's first generation."""
    pipe, call = case(name)
    with cached(pipe, cache=cache, place=place):
        return generate(pipe, call, **changes)


@pytest.fixture(name="wan")
def new_wan():
    return case("wan")


def test_calls_that_differ_follow_each_other_in_one_context(wan):
    pipe, call = wan
    two = {name: torch.cat([value, value.flip(-1)]) for name, value in texts(32).items()}
    changes = [
        {},
        {"width": 48},
        {"num_frames": 5},
        {"num_inference_steps": 7},
        two,
        {"guidance_scale": 1.0},
        {},
    ]
    with cached(pipe, cache=EVERY_SECOND) as run:
        got = [generate(pipe, call, **change) for change in changes]
    for latents, change in zip(got, changes, strict=True):
        assert torch.equal(latents, fresh("wan", **change))
    assert [len(steps) for steps in run.generations] == [8, 8, 8, 14, 8, 4, 8]
    assert len(run.report().splitlines()) == len(changes)
    assert run.report().startswith("computed 6 of 8 calls of the model, cache ")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_nothing_behind(wan, error):
    pipe, call = wan
    plain, cached_latents = generate(pipe, call), fresh("wan")

    def stop(pipeline, step, timestep, values):
        if step == 1:
            raise error("stop")
        return values

    with cached(pipe, cache=EVERY_SECOND) as run:
        with pytest.raises(error):
            generate(pipe, call, callback_on_step_end=stop)
        assert torch.equal(generate(pipe, call), cached_latents)
        assert [len(steps) for steps in run.generations] == [4, 8]
    with pytest.raises(error), cached(pipe, cache=EVERY_SECOND):
        generate(pipe, call, callback_on_step_end=stop)
    assert [type(item) for item in (pipe, pipe.scheduler, pipe.transformer, pipe.transformer.blocks[0])] == [
        diffusers.WanPipeline,
        diffusers.UniPCMultistepScheduler,
        diffusers.WanTransformer3DModel,
        type(case("wan")[0].transformer.blocks[1]),
    ]
    assert torch.equal(generate(pipe, call), plain)


@pytest.mark.parametrize("place", ["output", "stack"])
def test_two_models_share_one_schedule_and_no_state(place):
    pipe, call = case("wan_two_models")
    schedule = ScheduleConfig(computed=(0, 11))
    seen = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_pre_hook(lambda module, args: seen.append(module))
    with cached(pipe, cache=schedule, place=place) as run:
        generate(pipe, call, num_inference_steps=12)
    switch = next(step.step for step in run.steps if step.step and step.computed)
    steps = {step.step for step in run.steps if step.computed}
    assert len(run.steps) == 24
    # The second model computes in its first step, whatever the schedule says, and the last step computes.
    assert 0 < switch < 11
    assert steps == {0, switch, 11}
    if place == "output":
        assert [seen.index(module) for module in seen] == [0, 0, 2, 2, 2, 2]


def test_video_to_video_counts_the_steps_that_run():
    pipe, call = case("wan_video_to_video")
    with cached(pipe, cache=EVERY_SECOND) as run:
        generate(pipe, call)
    timesteps = pipe.scheduler.timesteps.tolist()
    assert [step.timestep for step in run.steps[::2]] == timesteps[3:]
    assert computed(run) == [True, True, False, False, True, True]


def test_video_to_video_skips_whole_steps_of_a_scheduler_of_order_two():
    pipe, call = case("wan_video_to_video")
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    with cached(pipe, cache=IntervalConfig(every=3)) as run:
        generate(pipe, call)
    timesteps = pipe.scheduler.timesteps.tolist()
    assert timesteps[5] == timesteps[6]  # the second of them is the first one of a whole step
    assert [step.timestep for step in run.steps[::2]] == timesteps[6:]
    assert computed(run)[::2] == [True, False, False, True, True]


def test_teacache_decides_by_what_it_measures(wan):
    pipe, call = wan
    runs = {}
    for place in ("output", "stack"):
        with cached(pipe, cache=TeaCacheConfig(threshold=0.25, forecast=Linear()), place=place) as run:
            generate(pipe, call, num_inference_steps=8)
        runs[place] = run.steps
        pairs = computed(run)
        assert pairs[::2] == pairs[1::2]  # one decision for both calls of a step
        assert 2 < sum(pairs[::2]) < 8
        assert [step.distance is None for step in run.steps] == [True, True] + [False, True] * 6 + [
            True,
            True,
        ]
    assert runs["output"][4].distance != runs["stack"][4].distance  # noisy latents, and modulated tokens


def test_guidance_that_pauses_is_computed_when_it_returns(wan):
    pipe, call = wan

    def pause(pipeline, step, timestep, values):
        pipeline._guidance_scale = 1.0 if step in (1, 2) else 5.0
        return values

    with cached(pipe, cache=ScheduleConfig(computed=(0, 3, 7))) as run:
        generate(pipe, call, num_inference_steps=8, callback_on_step_end=pause)
    calls = [sum(step.step == number for step in run.steps) for number in range(8)]
    assert calls == [2, 2, 1, 1, 2, 2, 2, 2]
    # Step 3 renewed the first call only: the second one comes back in step 4, and what it had is of step 0.
    assert [step.computed for step in run.steps if step.step == 4] == [False, True]
    assert [step.computed for step in run.steps if step.step == 5] == [False, False]


@dataclass(frozen=True)
class ThirdSteps(CacheConfig):
    """A policy of another package."""

    def computed_steps(self, count: int) -> frozenset[int]:
        return frozenset(range(0, count, 3))


def test_policies_of_other_packages_work(wan):
    pipe, call = wan
    with cached(pipe, cache=ThirdSteps()) as run:
        generate(pipe, call, num_inference_steps=7)
    assert computed(run)[::2] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("place", ["output", "stack"])
def test_no_tensor_is_kept_after_a_generation(wan, place):
    pipe, call = wan
    with cached(pipe, cache=TeaCacheConfig(threshold=0.25), place=place) as run:
        seen = []
        run.watch = lambda slot, *_: seen.extend(weakref.ref(cache.residual) for cache in slot.caches)
        generate(pipe, call)
        gc.collect()
        assert len(seen) > 2
        assert [ref for ref in seen if ref() is not None] == []


def test_a_pipeline_that_shares_the_model_is_left_alone(wan):
    pipe, call = wan
    other = diffusers.WanPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    other.set_progress_bar_config(disable=True)
    plain = generate(pipe, call)
    with cached(pipe, cache=EVERY_SECOND) as run:
        assert torch.equal(generate(other, call), plain)
        with pytest.raises(ValueError, match="already cached"), cached(other, cache="none"):
            pass
    assert run.steps == []
    assert run.report() == "no video was generated"


@pytest.mark.parametrize("place", ["output", "stack"])
def test_a_copy_of_the_pipeline_is_not_cached_and_keeps_nothing(wan, place):
    pipe, call = wan
    plain, want = generate(pipe, call), fresh("wan", place=place)
    before = copy.deepcopy(pipe)
    with cached(pipe, cache=EVERY_SECOND, place=place) as run:
        inside = copy.deepcopy(pipe)
        assert torch.equal(generate(inside, call), plain)
        assert torch.equal(generate(before, call), plain)
        assert run.steps == []
        assert torch.equal(generate(pipe, call), want)
    for one in (before, inside, pipe):
        parts = (one, one.scheduler, *one.transformer.modules())
        assert not any(map(is_swapped, parts))
        assert torch.equal(generate(one, call), plain)
        with cached(one, cache=EVERY_SECOND, place=place):
            assert torch.equal(generate(one, call), want)


def test_objects_that_are_made_of_a_swapped_class_are_given_their_own_class(wan):
    pipe, call = wan
    plain = generate(pipe, call)
    with cached(pipe, cache=EVERY_SECOND):
        other = type(pipe.scheduler).from_config(pipe.scheduler.config)
        assert isinstance(other, diffusers.UniPCMultistepScheduler)
    assert type(other) is diffusers.UniPCMultistepScheduler
    pipe.scheduler = other
    assert torch.equal(generate(pipe, call), plain)


class Stepwise(diffusers.WanPipeline):
    """A custom pipeline that yields the number of each step, then the latents."""

    @torch.no_grad()
    def __call__(self, prompt_embeds, latents, num_inference_steps, num_frames=9):
        self.scheduler.set_timesteps(num_inference_steps)
        for number, t in enumerate(self.scheduler.timesteps):
            options = {"encoder_hidden_states": prompt_embeds, "return_dict": False}
            noise_pred = self.transformer(latents, t.expand(1), **options)[0]
            latents = self.scheduler.step(noise_pred, t, latents, return_dict=False)[0]
            yield number
        yield latents


def test_pipelines_that_are_generators_are_cached_while_they_run(wan):
    source, call = wan
    pipe = Stepwise(**source.components)
    start = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"prompt_embeds": call["prompt_embeds"], "latents": start, "num_inference_steps": 6}
    *_, plain = pipe(**options)
    with cached(pipe, cache=EVERY_SECOND) as run:
        got = [list(pipe(**options)) for _ in range(2)]
        assert [len(steps) for steps in run.generations] == [6, 6]
        assert computed(run) == [True, False, True, False, True, True]
        assert not torch.equal(got[0][-1], plain)
        assert torch.equal(got[0][-1], got[1][-1])
        unfinished = pipe(**options)
        assert next(unfinished) == 0
        assert torch.equal(list(pipe(**options))[-1], plain)  # between its steps, others are not cached
        unfinished.close()
        assert torch.equal(list(pipe(**options))[-1], got[0][-1])
        left = pipe(**options)
        next(left)
    *_, rest = left  # the context has ended: the rest computes
    assert not torch.equal(rest, got[0][-1])
    assert torch.equal(list(pipe(**options))[-1], plain)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_blocks_in_the_middle_is_an_error(wan, count):
    pipe, call = wan

    def change(pipeline, step, timestep, values):
        blocks = pipeline.transformer.blocks
        pipeline.transformer.blocks = torch.nn.ModuleList([*blocks, blocks[0]][:count])
        return values

    with (
        cached(pipe, cache=EVERY_SECOND, place="stack"),
        pytest.raises(RuntimeError, match=f"a call of the model runs {count} blocks, its first call 2; use"),
    ):
        generate(pipe, call, callback_on_step_end=change)


def test_a_callback_that_interrupts_ends_the_generation_only(wan):
    pipe, call = wan
    plain = generate(pipe, call)

    def interrupt(pipeline, step, timestep, values):
        pipeline._interrupt = step == 1
        return values

    with cached(pipe, cache=EVERY_SECOND) as run:
        generate(pipe, call, callback_on_step_end=interrupt)
        assert torch.equal(generate(pipe, call), fresh("wan"))
    assert [len(steps) for steps in run.generations] == [4, 8]
    assert torch.equal(generate(pipe, call), plain)


def test_what_is_saved_and_copied_inside_keeps_its_class(wan, tmp_path):
    pipe, call = wan
    with cached(pipe, cache=EVERY_SECOND):
        pipe.transformer.save_pretrained(tmp_path / "transformer")
        pipe.scheduler.save_pretrained(tmp_path / "scheduler")
        kept = copy.deepcopy(pipe.scheduler)
        assert isinstance(pipe, diffusers.WanPipeline)
    names = [json.loads(path.read_text())["_class_name"] for path in sorted(tmp_path.glob("*/*config.json"))]
    assert names == ["UniPCMultistepScheduler", "WanTransformer3DModel"]
    plain = generate(pipe, call)
    pipe.scheduler = kept  # counts nothing any more
    assert torch.equal(generate(pipe, call), plain)


@pytest.mark.parametrize("part", ["scheduler", "transformer", "transformer_2"])
def test_a_part_that_is_replaced_inside_is_an_error_before_anything_runs(part):
    (pipe, call), (other, _) = case("wan_two_models"), case("wan_two_models")
    with cached(pipe, cache=EVERY_SECOND) as run:
        setattr(pipe, part, getattr(other, part))
        with pytest.raises(RuntimeError, match="scheduler or model was replaced within `cached`"):
            generate(pipe, call)
        assert run.generations == []


def test_a_scheduler_that_is_replaced_in_the_middle_is_an_error(wan):
    pipe, call = wan

    def replace(pipeline, step, timestep, values):
        pipeline.scheduler = copy.deepcopy(pipeline.scheduler)
        return values

    with cached(pipe, cache=EVERY_SECOND), pytest.raises(RuntimeError, match="was replaced within"):
        generate(pipe, call, callback_on_step_end=replace)


@pytest.mark.parametrize("place", ["output", "stack"])
def test_one_model_that_stands_for_both_is_cached_once(place):
    pipe, call = case("wan_two_models")
    pipe.transformer_2 = pipe.transformer
    plain = generate(pipe, call)
    with cached(pipe, cache=IntervalConfig(every=1), place=place) as run:
        assert torch.equal(generate(pipe, call), plain)
    assert len(run.steps) == 8
