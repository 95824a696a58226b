"""Warnings before a run that the free memory is too small for."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from tests.tiny_checkpoint import config_of
from videosys import VideoSysEngine
from videosys.cache import TeaCacheConfig
from videosys.estimate import estimate, memory
from videosys.estimate.blueprint import blueprint
from videosys.estimate.cost import Estimate, StageCost
from videosys.estimate.memory import FreeMemory, MemoryCheck, needs_of
from videosys.models import load_family_config as read

ROOMY = 1 << 60
NEEDED = 5 * memory.GIB
SMALL = ["height=64", "width=64", "num_frames=17"]


def is_warned_of(run) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return any("needs about" in str(warning.message) for warning in caught)


@pytest.fixture
def costs(monkeypatch):
    """The configs that were estimated: each is said to need 4 GiB of weights and one more."""
    seen = []

    def made(config):
        seen.append(config)
        return Estimate((StageCost("transformer", 4 * memory.GIB, memory.GIB, 0),), "none", 1, ())

    monkeypatch.setattr(memory, "estimate", made)
    return seen


@pytest.fixture
def free(monkeypatch):
    """Bytes that are said to be free, by device; to be changed."""
    room = {"cpu": ROOMY, "cuda": ROOMY}
    monkeypatch.setattr(memory, "available_bytes", lambda config: room[config.device])
    return room


def test_all_processes_of_a_computer_are_counted(checkpoint):
    config = config_of(checkpoint, device="cpu")
    made = estimate(config)
    room = FreeMemory(int(1.5 * made.peak), int(1.5 * made.peak))
    assert memory.first_shortage(config, made, 1, room) is None
    assert "in 2 processes together" in memory.first_shortage(config, made, 2, room)
    on_gpu = replace(config, device="cuda", offload="stage")
    made = estimate(on_gpu)
    room = FreeMemory(2 * made.peak, int(1.5 * made.host))
    assert memory.first_shortage(on_gpu, made, 1, room) is None
    assert "of host memory" in memory.first_shortage(on_gpu, made, 2, room)
    assert memory.shortage(10, None) is None


def test_an_engine_of_processes_counts_them(checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "warn_if_too_large", lambda config, free, ranks: seen.append((config, ranks)))
    monkeypatch.setattr("videosys.engine.pool.Pool._open", lambda *given: 1 / 0)
    with VideoSysEngine(config_of(checkpoint, num_gpus=2, device="cpu"), quiet=True) as engine:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                engine.generate("a red circle")
    ((config, ranks),) = seen
    assert ranks == 2
    assert config.parallel.is_resolved


def test_a_small_video_whose_weights_do_not_fit_is_warned_of(checkpoint, costs, free):
    config = config_of(checkpoint, device="cpu")
    free["cpu"] = NEEDED - 1
    assert is_warned_of(lambda: MemoryCheck().look(config))
    free["cpu"] = NEEDED
    assert not is_warned_of(lambda: MemoryCheck().look(config))
    free["cpu"] = ROOMY
    costs.clear()
    MemoryCheck().look(config)
    assert costs == []  # no estimate where there is room for any small video
    MemoryCheck().look(replace(config, height=1024, width=1024))
    assert len(costs) == 1


def test_what_small_videos_leave_free_is_what_weights_may_take(checkpoint, free):
    config = config_of(checkpoint, device="cpu")
    files = sum(path.stat().st_size for path in checkpoint.glob("*/*.safetensors"))
    assert files > 0
    enough = memory.SMALL_NEEDS + 2 * memory.weights_in_files(blueprint(config).folders.values())
    assert enough >= memory.SMALL_NEEDS + 2 * files
    assert memory.is_surely_enough(config, FreeMemory(enough, enough))
    assert not memory.is_surely_enough(config, FreeMemory(enough - 1, enough - 1))
    assert not memory.is_surely_enough(config, FreeMemory(enough, enough), ranks=2)
    unknown = read("examples/opensora/base.yaml", None, SMALL)  # whose weights are not here
    assert not memory.is_surely_enough(unknown, FreeMemory(ROOMY, ROOMY))


def test_loaded_weights_do_not_count_as_used(checkpoint, costs, free):
    config, watch = config_of(checkpoint, device="cpu"), MemoryCheck()
    free["cpu"] = NEEDED
    assert not is_warned_of(lambda: watch.look(config))
    free["cpu"] = memory.GIB  # the weights are loaded
    assert not is_warned_of(lambda: watch.look(replace(config, num_frames=1)))
    assert is_warned_of(lambda: MemoryCheck().look(config))  # those of another engine are used
    assert len(costs) == 3


def test_the_most_that_was_free_is_remembered():
    assert FreeMemory(1, 4).most(FreeMemory(3, 2)) == FreeMemory(3, 4)
    assert FreeMemory(None, 4).most(FreeMemory(3, None)) == FreeMemory(3, 4)
    assert FreeMemory(None, None).most(FreeMemory(None, None)) == FreeMemory(None, None)


def test_what_changes_the_needs_is_looked_at_anew(checkpoint):
    config = config_of(checkpoint)
    same = {"seed": 3, "fps": 12.0, "guidance_scale": config.guidance_scale + 1, "num_videos_per_prompt": 2}
    assert needs_of(replace(config, **same)) == needs_of(config)
    others = {
        "enable_vae_slicing": True,
        "enable_vae_tiling": True,
        "vae_tile_sample_min_size": 64,
        "vae_micro_batch_size": 1,
        "batch_size": 2,
        "num_frames": 51,
        "cache": TeaCacheConfig(coefficients=(1.0, 0.0)),
        "loops": 2,
        "num_inference_steps": 7,
        "guidance_scale": 1.0,
        "attention": "math",
        "offload": "stage",
        "storage_dtype": "float8_e4m3fn",
        "dtype": "bfloat16",
    }
    base = replace(config, num_frames=34)
    assert len({needs_of(replace(base, **{name: value})) for name, value in others.items()}) == len(others)
    assert needs_of(base) not in {needs_of(replace(base, **{name: value})) for name, value in others.items()}
    latte = read("examples/latte/tiny.yaml", None, [])
    assert needs_of(replace(latte, decode_chunk_size=3)) != needs_of(latte)


def test_an_estimate_that_fails_stops_no_run(checkpoint, monkeypatch, free):
    def fail(config):
        raise RuntimeError("a private function of torch is gone")

    free["cpu"] = 1000
    monkeypatch.setattr(memory, "estimate", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryCheck().look(config_of(checkpoint, device="cpu"))


def test_the_engine_warns_once_before_it_works(checkpoint, costs, free):
    free["cpu"] = 1000
    with VideoSysEngine(config_of(checkpoint, device="cpu"), quiet=True) as engine:
        assert is_warned_of(lambda: engine.stream("a red circle"))
        assert not is_warned_of(lambda: engine.stream("a blue circle"))
        assert is_warned_of(lambda: engine.stream("a blue circle", enable_vae_slicing=True))
