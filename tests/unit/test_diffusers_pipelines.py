"""The caches around each video pipeline of diffusers that is built here, with tiny random transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.video_pipelines import CASES, STEPS, case, generate
from videosys.cache import Calibration, IntervalConfig, RunSpec, ScheduleConfig, Setting
from videosys.diffusers import cached
from videosys.diffusers.blocks import difference

UNORDERED = {"latte", "latte_heun", "latte_pndm"}  # blocks that take a reshaped copy of what came before
TWO_MODELS = {"wan_two_models", "wan_image_to_video"}
SAME_INPUT = 5e-7


def trace_of(pipe: Any) -> list[tuple]:
    """Classes and attributes of all that a cache could have touched."""
    items = [pipe, pipe.scheduler]
    for name in ("transformer", "transformer_2", "unet"):
        model = getattr(pipe, name, None)
        items += [] if model is None else model.modules()
    return [(type(item), frozenset(vars(item)), vars(item).get("forward")) for item in items]


def halves(count: int, place: str) -> Calibration:
    """A calibration with one setting, of which every second evaluation computes."""
    policy = ScheduleConfig(computed=(*range(0, count - 2, 2), count - 1), place=place)
    return Calibration(RunSpec(), (Setting(policy, count / 2, 2.0, 30.0, 0.9),))


@pytest.fixture(scope="module", params=CASES)
def made(request):
    pipe, call = case(request.param)
    return request.param, pipe, call, generate(pipe, call)


@pytest.mark.parametrize("place", ["output", "stack"])
def test_computing_changes_no_bit_and_reuse_with_the_same_input_nearly_none(made, place):
    name, pipe, call, plain = made
    before, seen = trace_of(pipe), []

    def again(slot, used, forward, output):
        seen.append((used.name, difference(output, used.reused(forward, slot, slot.reuse))))

    with cached(pipe, cache=IntervalConfig(every=1), place=place) as run:
        run.watch = again
        assert torch.equal(generate(pipe, call), plain)
    assert bool(plain.isfinite().all())
    assert len(seen) == len(run.steps) >= STEPS - 1
    assert {used for used, _ in seen} == {place}
    assert max(wrong for _, wrong in seen) <= (0 if place == "output" else SAME_INPUT), name
    assert trace_of(pipe) == before
    assert torch.equal(generate(pipe, call), plain)


def test_blocks_that_follow_each_other_are_found(made):
    name, pipe, call, _ = made
    used = set()
    with cached(pipe, cache=IntervalConfig(every=1)) as run:
        run.watch = lambda slot, place, forward, output: used.add(place.name)
        generate(pipe, call)
    assert used == {"output" if name in UNORDERED else "stack"}


@pytest.mark.parametrize("place", ["output", "stack"])
def test_half_of_the_calls_compute_at_a_speedup_of_two(made, place):
    name, pipe, call, plain = made
    with cached(pipe, cache="none") as run:
        generate(pipe, call)
    count = 1 + max(step.step for step in run.steps)
    calibration = halves(count, place)
    with cached(pipe, calibration, speedup=2.0) as run:
        latents = generate(pipe, call)
    computed = {step.step for step in run.steps if step.computed}
    # At the switch from one model to the other the second one has nothing to reuse.
    switch = computed - {*calibration.settings[0].policy.computed} if name in TWO_MODELS else set()
    assert computed - switch == {*calibration.settings[0].policy.computed}
    assert len(switch) <= 1
    if count % 2 == 0 and not switch:
        assert 2 * sum(step.computed for step in run.steps) == len(run.steps)
    assert not torch.equal(latents, plain)
