"""Compiled blocks: the same numbers with every cache, and no break in their graphs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import WRITERS, config_of, text_to_video_config
from videosys import VideoOutput, VideoSysEngine
from videosys.cache import (
    CACHES as CACHE_CONFIGS,
)
from videosys.cache import (
    BWCacheConfig,
    EasyCacheConfig,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    PABConfig,
    ScheduleConfig,
    SeaCacheConfig,
    SenCacheConfig,
    TeaCacheConfig,
)
from videosys.generation import compile as compiling
from videosys.generation import loader
from videosys.generation.compile import (
    blocks,
    check_compiler,
    compile_blocks,
    compile_report,
    copy_function,
    run_block,
)

CPU = torch.device("cpu")


def has_compiler() -> bool:
    try:
        check_compiler(CPU)
    except ValueError:
        return False
    return True


def test_all_blocks_are_found():
    counts = {name: sum(1 for _ in blocks(make()[0])) for name, make in EXAMPLES.items()}
    assert counts == {"STDiT3": 4, "OpenSoraT2V": 2, "LatteT2V": 4}


def test_no_compiler_is_said_before_anything_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"no C\+\+ compiler"):
        VideoSysEngine(config_of(checkpoint, compile="blocks", device="cpu"))


def test_no_triton_is_said_at_once(monkeypatch):
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton"):
        check_compiler(torch.device("cuda"))


def test_no_compiler_for_a_cards_launchers_is_said_at_once(monkeypatch):
    monkeypatch.setattr(compiling, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no C compiler"):
        check_compiler(torch.device("cuda"))


def test_a_model_that_would_be_compiled_for_each_use_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(loader, "check_compiler", lambda *_: None)
    with pytest.raises(ValueError, match="compiled each time"):
        VideoSysEngine(config_of(checkpoint, compile="blocks", offload="stage", device="cpu"))


def test_no_model_uses_up_the_graphs_of_another():
    """torch makes a few graphs of one function and then runs it as it is, without an error."""
    kept = [copy_function(run_block).__code__ for _ in range(4)]
    assert len({id(code) for code in kept}) == 4
    assert all(code is not run_block.__code__ for code in kept)


@pytest.fixture
def graphs(monkeypatch) -> Callable[[], int]:
    """How many graphs were made so far. They are run as they are: that needs no C++ compiler and no time."""
    monkeypatch.setattr(compiling.torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    before = compile_report().graphs
    return lambda: compile_report().graphs - before


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_texts_of_any_length_share_their_graphs(name, graphs):
    torch.manual_seed(0)
    model, latents = EXAMPLES[name]()[0].requires_grad_(False), torch.randn(2, 4, 3, 4, 6)
    more = {"fps": 12.0, "height": 32, "width": 48} if name == "STDiT3" else {}
    made: dict[bool, list[torch.Tensor]] = {}
    for is_compiled in (False, True):
        model = compile_blocks(model) if is_compiled else model
        made[is_compiled] = []
        for length in range(2, 13):  # torch makes eight graphs of a function at most
            torch.manual_seed(length)
            embeds, mask = torch.randn(2, length, 8), torch.ones(2, length)
            mask[1, 1:] = name == "STDiT3"  # the others show shorter texts by a bias
            condition = model.prepare(embeds, mask, latent_size=(3, 4, 6), **more)
            made[is_compiled].append(model(latents, torch.tensor([500.0, 500.0]), condition))
    assert graphs() == len({type(block) for block in blocks(model)})
    for eager, compiled in zip(made[False], made[True]):
        torch.testing.assert_close(compiled, eager)


@torch.no_grad()
def test_each_size_has_graphs_of_its_own(monkeypatch):
    """One function for each: of any function torch makes eight graphs at most."""
    made: list[Any] = []
    monkeypatch.setattr(compiling.torch, "compile", lambda run, **_: made.append(run.__code__) or run)
    model = compile_blocks(EXAMPLES["OpenSoraT2V"]()[0])
    for frames in (1, 2, 3, 2, 1):
        condition = model.prepare(torch.randn(2, 3, 8), latent_size=(frames, 2, 2))
        model(torch.randn(2, 4, frames, 2, 2), torch.tensor([500.0, 500.0]), condition)
    assert len({id(code) for code in made}) == len(made) == 3


@torch.no_grad()
def test_no_strides_are_padded_and_no_other_compilation_hears_of_it(monkeypatch):
    """With padding, Open-Sora's published size ends in an illegal memory access on a GPU (tests/gpu)."""
    padding = "comprehensive_padding"
    seen: list[Any] = []
    monkeypatch.setattr(compiling.torch, "compile", lambda run, **given: seen.append(given["options"]) or run)
    before = torch._inductor.config.get_config_copy()
    model, forward = EXAMPLES["STDiT3"]()
    compile_blocks(model)
    forward()
    assert len(seen) == 2  # spatial and temporal blocks
    assert all(options[padding] is False for options in seen)
    assert torch._inductor.config.get_config_copy() == before
    assert padding in torch._inductor.list_options()


CACHES: dict[str, Any] = {
    "none": "none",
    "teacache": TeaCacheConfig(threshold=0.5, coefficients=(1.0, 0.0)),
    "interval": IntervalConfig(every=2),
    "schedule": ScheduleConfig(computed=(0, 2, 3), forecast=Linear()),
    "magcache": MagCacheConfig(ratios=(1.0,) * 4),
    "easycache": EasyCacheConfig(threshold=1e9, warmup=2),
    "seacache": SeaCacheConfig(threshold=1e9),
    "bwcache": BWCacheConfig(threshold=1e9),
    "sencache": SenCacheConfig(((0.0, 0.0),) * 4, max_consecutive_skips=1),
    "pab": PABConfig(),
    "pab_mlp": PABConfig(
        mlp_spatial=((0.3, 1, (0,)),), mlp_temporal=((0.3, 1, (0,)),), mlp_joint=((0.3, 1, (0,)),)
    ),
}
PROMPTS = ("a red circle", "a small green circle and a blue square turn")


@pytest.fixture(scope="module", params=["opensora", "latte", "open_sora_plan_v120"])
def config(request, checkpoint, tmp_path_factory):
    if request.param == "opensora":
        return config_of(checkpoint, device="cpu")
    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    return text_to_video_config(request.param, folder)


def test_a_torch_that_does_not_count_is_asked_in_vain(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", None)
    assert compile_report() is None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_every_cache_gives_the_same_numbers_compiled(config):
    assert {*CACHE_CONFIGS} - {*CACHES} == {"best"}  # which is one of the others
    before = compile_report()
    with (
        VideoSysEngine(config, quiet=True) as eager,
        VideoSysEngine(replace(config, compile="blocks"), quiet=True) as compiled,
    ):
        for index, cache in enumerate(CACHES.values()):
            prompt = PROMPTS[index % 2]
            want, made = (engine.generate(prompt, cache=cache) for engine in (eager, compiled))
            difference = (want.video[0].int() - made.video[0].int()).abs().max()
            assert difference <= 1
            assert decisions(want) == decisions(made)
        with compiled.pipeline.transformer.use() as model:
            kinds = {type(block) for block in blocks(model)}
    after = compile_report()
    assert after.graph_breaks == before.graph_breaks
    assert after.graphs - before.graphs == len(kinds)
    assert after.seconds > before.seconds


def decisions(output: VideoOutput) -> list[tuple[bool, int]]:
    return [(step.computed, step.reused) for step in output.steps]
