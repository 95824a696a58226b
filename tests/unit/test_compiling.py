"""Compiled blocks: the same numbers with every cache, and no break in their graphs."""

from __future__ import annotations

import pytest
import torch

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import config_of
from videosys import VideoSysEngine
from videosys.cache import PABConfig, ScheduleConfig, TeaCacheConfig
from videosys.models.opensora import STDiT3
from videosys.pipelines import compiling, generation
from videosys.pipelines.compiling import blocks, check_compiler, compile_report, run_block, separate

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


def test_a_model_that_would_be_compiled_for_each_use_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(generation, "check_compiler", lambda device: None)
    with pytest.raises(ValueError, match="compiled each time"):
        VideoSysEngine(config_of(checkpoint, compile="blocks", offload="stage", device="cpu"))


def test_no_model_uses_up_the_graphs_of_another():
    """torch makes a few graphs of one function and then runs it as it is, without an error."""
    kept = [separate(run_block).__code__ for _ in range(4)]
    assert len({id(code) for code in kept}) == 4
    assert all(code is not run_block.__code__ for code in kept)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_every_cache_gives_the_same_numbers_compiled(checkpoint):
    caches = {
        "none": "none",
        "teacache": TeaCacheConfig(threshold=0.5, coefficients=(1.0, 0.0)),
        "schedule": ScheduleConfig(computed=(0, 2, 3)),
        "pab": PABConfig(),
    }
    before = compile_report()
    with (
        VideoSysEngine(config_of(checkpoint), quiet=True) as eager,
        VideoSysEngine(config_of(checkpoint, compile="blocks"), quiet=True) as compiled,
    ):
        for cache in caches.values():
            want, made = (engine.generate("a red circle", cache=cache) for engine in (eager, compiled))
            difference = (want.video[0].int() - made.video[0].int()).abs().max()
            assert difference <= 1
            assert [step.computed for step in want.steps] == [step.computed for step in made.steps]
        with compiled.pipeline.transformer.use() as model:
            assert isinstance(model, STDiT3)
    after = compile_report()
    assert after.graph_breaks == before.graph_breaks
    assert after.graphs - before.graphs == 2  # one for all spatial blocks, one for all temporal ones
    assert after.seconds > before.seconds
