"""`cached` around a model that another thread also runs, or that is in a wrapper."""

from __future__ import annotations

import copy
import threading
from typing import Any

import diffusers
import pytest
import torch

from tests.unit.test_diffusers_cached import EVERY_SECOND, fresh
from tests.unit.test_diffusers_pipelines import trace_of
from tests.video_pipelines import case, generate
from videosys.cache import TeaCacheConfig
from videosys.diffusers import cached


@pytest.fixture(name="wan")
def new_wan():
    return case("wan")


def test_two_pipelines_in_two_threads_do_not_meet():
    want = {name: fresh(name) for name in ("wan", "ltx")}
    pipes, got = {name: case(name) for name in want}, {}

    def run(name: str) -> None:
        pipe, call = pipes[name]
        with cached(pipe, cache=EVERY_SECOND):
            got[name] = generate(pipe, call)

    threads = [threading.Thread(target=run, args=(name,)) for name in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("place", ["output", "stack"])
def test_a_pipeline_that_shares_the_model_may_run_in_another_thread(wan, place):
    pipe, call = wan
    other = diffusers.WanPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    other.set_progress_bar_config(disable=True)
    cache = TeaCacheConfig(threshold=0.25)
    plain, want = generate(pipe, call), fresh("wan", cache=cache, place=place)
    latents, running, can_go_on = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: latents.append(generate(other, call)))

    def meet(module: Any, args: Any) -> None:
        if threading.current_thread() is thread:
            running.set()
            can_go_on.wait(60)
        elif len(module._forward_pre_hooks) > 1:  # TeaCache looks for its signal
            can_go_on.set()
            thread.join(60)

    pipe.transformer.blocks[0].attn1.register_forward_pre_hook(meet)
    with cached(pipe, cache=cache, place=place) as run:
        thread.start()
        running.wait(60)
        got = generate(pipe, call)
    can_go_on.set()
    thread.join(60)
    assert torch.equal(got, want)
    assert len(run.steps) == 8
    assert torch.equal(latents[0], plain)


class Wrapper(torch.nn.Module):
    """A model around another one, with its attributes, as peft makes them."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def with_peft(model: torch.nn.Module) -> torch.nn.Module:
    """Its own wrapper, with an adapter that changes nothing."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["to_q"]))


@pytest.mark.parametrize("wrapper", [Wrapper, with_peft])
@pytest.mark.parametrize("name", ["wan", "wan_video_to_video", "easyanimate"])
def test_a_wrapped_model_is_cached_at_its_output(name, wrapper):
    pipe, call = case(name)
    cache = TeaCacheConfig(threshold=0.25)
    with cached(pipe, cache=cache, place="output") as run:
        want, steps = generate(pipe, call), run.steps
    pipe.transformer = wrapper(pipe.transformer)
    with cached(pipe, cache=cache) as run:
        assert torch.equal(generate(pipe, call), want)
    assert run.steps == steps


@pytest.mark.parametrize("place", ["output", "stack"])
def test_a_context_that_ends_while_another_thread_generates_leaves_nothing_behind(wan, place):
    pipe, call = wan
    plain, before = generate(pipe, call), trace_of(pipe)
    running, has_ended = threading.Event(), threading.Event()

    def wait(module: Any, args: Any) -> None:
        running.set()
        has_ended.wait(60)

    hook = pipe.transformer.blocks[1].register_forward_pre_hook(wait)
    thread = threading.Thread(target=generate, args=(pipe, call))
    with cached(pipe, cache=EVERY_SECOND, place=place):  # an interrupt ends it, which only this thread gets
        thread.start()
        running.wait(60)
    has_ended.set()
    thread.join()
    hook.remove()
    assert trace_of(pipe) == before
    assert torch.equal(generate(pipe, call), plain)
