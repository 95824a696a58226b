"""What a cache keeps lies where it is told to, and comes back for every use."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.distributed.models import Request, loop
from tests.tiny_checkpoint import config_of
from videosys import VideoSysEngine
from videosys.cache import (
    CACHES,
    BestConfig,
    BWCacheConfig,
    Calibration,
    EasyCacheConfig,
    Fitted,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    PABConfig,
    RunSpec,
    ScheduleConfig,
    ScheduleFile,
    SeaCacheConfig,
    SenCacheConfig,
    Setting,
    TeaCacheConfig,
    choice,
    resolve_cache,
    start,
)
from videosys.cache.device import to_cache_device
from videosys.parallel import Parallel

STEPS = 6
POLICIES = {
    "teacache": TeaCacheConfig(0.2, (4.0, 1.0, 0.02), device="cpu"),
    "linear": TeaCacheConfig(0.2, (4.0, 1.0, 0.02), Linear(), device="cpu"),
    "interval": IntervalConfig(2, device="cpu"),
    "schedule": ScheduleConfig((0, 1, 3), forecast=Fitted(((1.5, -0.5),) * STEPS), device="cpu"),
    "magcache": MagCacheConfig((0.95,) * STEPS, threshold=0.1, retention=0.0, device="cpu"),
    "pab": PABConfig(device="cpu"),
    "easycache": EasyCacheConfig(0.3, 2, device="cpu"),
    "seacache": SeaCacheConfig(0.5, device="cpu"),
    "bwcache": BWCacheConfig(0.5, device="cpu"),
    "sencache": SenCacheConfig(((1.0, 0.001),) * STEPS, device="cpu"),
}


class Far:
    """A tensor on another device: it has a size, and for anything else it must be brought back."""

    def __init__(self, x, copies):
        self.x, self.nbytes, self.shape, self.dtype = x.clone(), x.nbytes, x.shape, x.dtype
        self.back = 0
        copies.append(self)

    def to(self, device):
        assert device == self.x.device
        self.back += 1
        return self.x


@pytest.fixture
def copies(monkeypatch):
    """All that was put on the device that the policies name."""
    copies = []

    def far(x, device):
        assert device == "cpu"
        return x if isinstance(x, Far) else Far(x, copies)

    for module in ("base", "teacache", "pab", "easycache", "sencache"):
        monkeypatch.setattr(f"videosys.cache.{module}.to_cache_device", far)
    return copies


def test_every_policy_with_state_is_here():
    assert {type(policy) for policy in POLICIES.values()} == {*CACHES.values()} - {
        CACHES["none"],
        BestConfig,
    }


@pytest.mark.parametrize(("policy", "model"), list(itertools.product(POLICIES, ("opensora", "plan_v120"))))
def test_numbers_and_bytes_are_the_same_from_afar(policy, model, copies, monkeypatch):
    far, far_steps = loop(Request(model), POLICIES[policy], Parallel(), STEPS)
    monkeypatch.undo()
    near, steps = loop(Request(model), POLICIES[policy], Parallel(), STEPS)
    assert torch.equal(far, near)
    assert far_steps == steps
    assert [step.bytes_held for step in far_steps] == [step.bytes_held for step in steps]
    assert len(copies) > 0
    assert sum(item.back for item in copies) > 0
    assert {item.dtype for item in copies} == {torch.float32}


def test_what_is_kept_has_the_models_dtype_and_is_counted():
    """A residual and the last signal, after the first step too."""
    x = torch.ones(4, 8, dtype=torch.bfloat16)
    cache = start(POLICIES["teacache"], range(3), lambda row: row[None])
    for step in range(3):
        cache.begin_step(step, 0.0)
        cache.should_compute(lambda kind: x)
        cache.store(x, x + 1)
    assert [step.bytes_held for step in cache.steps] == [2 * x.nbytes] * 3
    assert {item.dtype for item in cache.held()} == {torch.bfloat16}


def test_to_cache_device():
    x = torch.ones(3, dtype=torch.bfloat16)
    assert to_cache_device(x, "auto") is x
    assert to_cache_device(x, "cpu") is x
    there = to_cache_device(x, "meta")
    assert (there.device.type, there.dtype, there.shape) == ("meta", torch.bfloat16, x.shape)


@pytest.mark.parametrize("device", ["disk", "meta", "", "gpu"])
def test_what_is_no_device_is_refused(device):
    for policy in CACHES.values():
        if policy is not CACHES["none"]:
            with pytest.raises(ValueError, match=r"cache\.device is .*allowed: auto, cpu, cuda, cuda:N"):
                policy(device=device)


def test_a_device_that_is_not_here_is_said_before_anything_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        with pytest.raises(ValueError, match=r"cache\.device is 'cuda', but this machine has 0 CUDA devices"):
            engine.generate("a red circle", cache=TeaCacheConfig(device="cuda"))
        assert not engine.pipeline.text_encoder.is_loaded


def test_it_outlives_a_goal_and_a_file(tmp_path, monkeypatch):
    run = RunSpec(model="latte", evaluations=STEPS)
    found = Calibration(run, (Setting(IntervalConfig(2), 4, 1.5, 40.0, 0.9),))
    monkeypatch.setattr(choice, "find_calibration", lambda *given: (found, "a file"))
    goal = BestConfig(speedup=1.2, device="cpu")
    assert resolve_cache(goal, lambda: run) == IntervalConfig(2, device="cpu")
    monkeypatch.setattr(
        "videosys.cache.schedule.read_json", lambda *given: ScheduleFile(computed=(0, 2), evaluations=STEPS)
    )
    copies = resolve_cache(ScheduleConfig(file="x.json", device="cpu"), lambda: run)
    assert copies == ScheduleConfig((0, 2), device="cpu")
