"""The caches around every video pipeline of diffusers that is built here: all promises, for each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.test_diffusers_pipelines import SAME_INPUT, halves, trace_of
from tests.video_classes import ALL, class_of
from tests.video_pipelines import CASES as FAST
from tests.video_pipelines import generate
from tests.video_pipelines_unet import CASES as UNETS
from videosys.cache import IntervalConfig
from videosys.diffusers import cached, calibrate
from videosys.diffusers.blocks import difference

pytestmark = pytest.mark.pipelines

EVERY_SECOND = IntervalConfig(every=2)
REORDERED = {"consisid", "kandinsky_6", "wan_animate", "wan_vace"}  # something is added between blocks
# Cases with a step that computes though the schedule does not say so: a second model begins, or the number
# of latent frames changes.
SWITCHES = {"wan_two_models", "wan_image_to_video", "chronoedit"}
# Where a calibration of four steps is not enough: the first evaluations are left out, or the switch to a
# second model computes one more.
MORE_STEPS: dict[str, dict[str, Any]] = {
    "wan_video_to_video": {"num_inference_steps": 8},
    "wan_two_models": {"num_inference_steps": 6},
    "wan_image_to_video": {"num_inference_steps": 6},
}
COUNTS = {"latte_heun": 7, "latte_pndm": 13, "wan_two_models": 6, "wan_image_to_video": 6}
# What is changed from one call to the next, where the pipeline itself can run so.
CHANGES: tuple[dict[str, Any], ...] = (
    {"num_inference_steps": 6},
    {"pyramid_num_inference_steps_list": [5, 5, 5]},
    {"sigmas": [1.0, 0.9, 0.7, 0.5, 0.2]},
    {"num_videos_per_prompt": 2},
    {"num_images_per_prompt": 2},
    {"height": 64, "width": 32},
    {"num_frames": 5},
    {"guidance_scale": 1.0},
    {},
)


def made(name: str) -> tuple[Any, dict[str, Any], torch.Tensor]:
    """(pipeline, call, what it generates without a cache)."""
    torch.manual_seed(0)
    pipe, call = ALL[name]()
    return pipe, call, generate(pipe, call)


def places(name: str) -> tuple[str, ...]:
    return ("output",) if name in UNETS else ("output", "stack")


def compared(pipe: Any, call: dict[str, Any], place: str) -> tuple[torch.Tensor, list[tuple[str, float]]]:
    """(latents with every step computed, for each call the place and how far reuse is from computing)."""
    seen: list[tuple[str, float]] = []

    def again(slot: Any, used: Any, forward: Any, output: Any) -> None:
        seen.append((used.name, difference(output, used.reused(forward, slot, slot.reuse))))

    with cached(pipe, cache=IntervalConfig(every=1), place=place) as run:
        run.watch = again
        return generate(pipe, call), seen


@pytest.mark.parametrize("name", [name for name in ALL if name not in FAST])
def test_computing_changes_no_bit_and_reuse_with_the_same_input_nearly_none(name):
    pipe, call, plain = made(name)
    before = trace_of(pipe)
    assert type(pipe).__name__ == class_of(name)
    assert bool(plain.isfinite().all())
    for place in ("auto", *places(name)):
        latents, seen = compared(pipe, call, place)
        assert torch.equal(latents, plain)
        assert max(wrong for _, wrong in seen) <= (0 if place == "output" else SAME_INPUT)
        found = "output" if name in UNETS or name in REORDERED else "stack"
        assert {used for used, _ in seen} == {found if place == "auto" else place}
        assert trace_of(pipe) == before
    assert torch.equal(generate(pipe, call), plain)


@pytest.mark.parametrize("name", [name for name in ALL if name not in FAST])
def test_half_of_the_calls_compute_at_a_speedup_of_two(name):
    pipe, call, plain = made(name)
    with cached(pipe, cache="none") as run:
        generate(pipe, call)
    count = 1 + max(step.step for step in run.steps)
    for place in places(name):
        calibration = halves(count, place)
        with cached(pipe, calibration, speedup=2.0) as run:
            assert not torch.equal(generate(pipe, call), plain)
        schedule = {*calibration.settings[0].policy.computed}
        extra = {step.step for step in run.steps if step.computed} ^ schedule
        assert len(extra) <= (name in SWITCHES)
        if count % 2 == 0 and not extra:
            assert 2 * sum(step.computed for step in run.steps) == len(run.steps)


@pytest.mark.parametrize("name", ALL)
def test_is_calibrated_and_computes_half_of_the_calls_at_a_speedup_of_two(name, tmp_path):
    torch.manual_seed(0)
    pipe, call = ALL[name]()
    call |= MORE_STEPS.get(name, {})
    prompt = {key: call.pop(key) for key in list(call) if "prompt" in key or "video" in key}
    count = COUNTS.get(name, 4)
    place = "output" if name in UNETS else "auto"
    calibration = calibrate(
        pipe, [prompt], out=tmp_path / "out.json", budgets=[count // 2], place=place, **call
    )
    with cached(pipe, calibration, speedup=2.0) as run:
        generate(pipe, {**prompt, **call})
    assert calibration.scope.evaluations == count
    assert sum(step.computed for step in run.steps) == len(run.steps) * (count // 2) // count
    assert run.report().startswith("computed ")


@pytest.mark.parametrize("name", [name for name in ALL if name != "wan"])
def test_calls_that_differ_and_errors_follow_each_other_in_one_context(name):
    pipe, call, plain = made(name)
    before = trace_of(pipe)
    changes = [change for change in CHANGES if accepts(pipe, call, change)]
    assert len(changes) > 1
    alone = []
    for change in changes:
        with cached(pipe, cache=EVERY_SECOND):
            alone.append(generate(pipe, call, **change))
    with cached(pipe, cache=EVERY_SECOND) as run:
        together = [generate(pipe, call, **change) for change in changes]
        stop_in_the_middle(pipe, call)
        together.append(generate(pipe, call))
    wanted = [*alone, alone[-1]]
    assert [torch.equal(x, y) for x, y in zip(together, wanted, strict=True)] == [True] * len(wanted)
    assert any(not step.computed for step in run.steps)
    with pytest.raises(Stop), cached(pipe, cache=EVERY_SECOND):
        stop_in_the_middle(pipe, call, again=True)
    assert trace_of(pipe) == before
    assert torch.equal(generate(pipe, call), plain)


def accepts(pipe: Any, call: dict[str, Any], change: dict[str, Any]) -> bool:
    """Whether the plain pipeline runs with a change of its call."""
    try:
        return bool(generate(pipe, call, **change).isfinite().all())
    except Exception as problem:
        print(f"{type(pipe).__name__} does not run with {change}: {problem}")
        return False


class Stop(Exception):
    """Ends a generation."""


def stop_in_the_middle(pipe: Any, call: dict[str, Any], again: bool = False) -> None:
    """A generation that ends with an error in the model's second forward."""
    forwards = []

    def stop(module: Any, args: Any) -> None:
        forwards.append(module)
        if len(forwards) == 2:
            raise Stop

    models = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")]
    hooks = [model.register_forward_pre_hook(stop) for model in models if isinstance(model, torch.nn.Module)]
    try:
        generate(pipe, call)
    except Stop:
        if again:
            raise
    finally:
        for hook in hooks:
            hook.remove()
    assert len(forwards) == 2
