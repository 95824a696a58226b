"""Blocks that come to the device one after the other: the same numbers, and no weight is used while away.

There is no second device here: the weights of a group that is away are not-a-number instead.
"""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import config_of, text_to_video_config
from videosys import VideoSysEngine
from videosys.cache import CACHES, PABConfig, ScheduleConfig, TeaCacheConfig
from videosys.generation import compile as compiling
from videosys.generation import loader, offload
from videosys.generation.offload import Component, Groups, check_offload

CPU = torch.device("cpu")
TEACACHE = TeaCacheConfig(threshold=0.5, coefficients=(1.0, 0.0))
POLICIES = {
    "none": CACHES["none"](),
    "teacache": TEACACHE,
    "timestep": TeaCacheConfig(threshold=0.5, coefficients=(1.0, 0.0), signal="timestep"),
    "interval": CACHES["interval"](),
    "schedule": ScheduleConfig(computed=(0, 1, 3)),
    "magcache": CACHES["magcache"](ratios=(1.0,) * 4, retention=0.0),
    "pab": PABConfig(),
}


class Away:
    """Takes the weights of groups away and brings them back; knows the most that was here at once."""

    def __init__(self) -> None:
        self.groups: list[ModuleGroup] = []
        self.here = self.most = 0

    def tensors(self, group: ModuleGroup) -> list[torch.Tensor]:
        # No buffers: the null caption is read where it lies, and then goes to the device.
        parts = [item for part in group.modules for item in part.parameters()]
        return list({id(item): item for item in (*parts, *group.parameters)}.values())

    def onload(self, group: ModuleGroup) -> None:
        for item, data in zip(self.tensors(group), group.real, strict=True):
            item.data = data
        self.here += self.size(group)
        self.most = max(self.most, self.here)

    def offload(self, group: ModuleGroup) -> None:
        if group in self.groups:
            self.here -= self.size(group)
        else:
            self.groups.append(group)
        group.real = [item.data for item in self.tensors(group)]
        for item in self.tensors(group):
            item.data = torch.full_like(item, torch.nan)

    def size(self, group: ModuleGroup) -> int:
        return sum(item.numel() for item in self.tensors(group))

    def all_back(self) -> None:
        """What moving a module to the host does to it."""
        for group in self.groups:
            for item, data in zip(self.tensors(group), group.real, strict=True):
                item.data = data
        self.groups, self.here = [], 0


@pytest.fixture
def away(monkeypatch):
    made, detach = Away(), offload.detach
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: made.onload(group))
    monkeypatch.setattr(ModuleGroup, "offload_", lambda group: made.offload(group))
    monkeypatch.setattr(offload, "detach", lambda module: (made.all_back(), detach(module)))
    monkeypatch.setattr(loader, "check_offload", lambda *given: None)
    return made


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_one_block_is_here_at_once(name, away):
    torch.manual_seed(0)
    model, forward = EXAMPLES[name]()
    model.requires_grad_(False)
    want = forward()
    before = {key: (id(item), item.clone()) for key, item in model.state_dict(keep_vars=True).items()}
    groups = Groups(model, CPU)
    assert torch.isnan(next(model.children()).state_dict(keep_vars=True).popitem()[1]).all()
    made = forward()  # prepares, too
    assert torch.equal(made, want)
    assert torch.equal(forward(), want)
    blocks = [block for child in model.children() if isinstance(child, nn.ModuleList) for block in child]
    largest = max(weights(block) for block in blocks)
    assert away.most <= weights(model) - sum(map(weights, blocks)) + largest
    groups.close()
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(id(after[key]) == number for key, (number, _) in before.items())
    assert all(torch.equal(after[key], item) for key, (_, item) in before.items())
    assert torch.equal(forward(), want)
    assert not any(
        {"forward", "prepare", "_diffusers_hook"} & part.__dict__.keys() for part in model.modules()
    )


def weights(module: nn.Module) -> int:
    return sum(item.numel() for item in module.parameters())


def videos(config, **request):
    with VideoSysEngine(config, quiet=True) as engine:
        outputs = [engine.generate("a red circle", **request) for _ in range(2)]
    assert torch.equal(outputs[0].video[0], outputs[1].video[0])
    return outputs[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_cache_gives_the_same_video(checkpoint, policy, away):
    cache = POLICIES[policy]
    small = {"num_frames": 17, "cache": cache}
    want, made = (videos(config_of(checkpoint, offload=how, **small)) for how in ("none", "group"))
    assert torch.equal(made.video[0], want.video[0])
    assert made.steps == want.steps
    assert away.most > 0


def test_every_model_gives_the_same_video(random_model, away):
    for cache in (TEACACHE, PABConfig()):
        want, made = (
            videos(text_to_video_config(*random_model, offload=how), cache=cache) for how in ("none", "group")
        )
        assert torch.equal(made.video[0], want.video[0])
        assert made.steps == want.steps
    assert away.most > 0


@pytest.mark.parametrize("storage_dtype", ["auto", "float8_e4m3fn"])
def test_compiled_blocks_give_the_same_video(checkpoint, away, monkeypatch, storage_dtype):
    monkeypatch.setattr(compiling.torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)
    small = {"num_frames": 1, "num_inference_steps": 3, "cache": TEACACHE, "storage_dtype": storage_dtype}
    before = compiling.compile_report()
    want = videos(config_of(checkpoint, **small))
    made = videos(config_of(checkpoint, **small, compile="blocks", offload="group"))
    after = compiling.compile_report()
    assert (made.video[0].int() - want.video[0].int()).abs().max() <= 1
    assert (after.graphs - before.graphs, after.graph_breaks - before.graph_breaks) == (2, 0)


def test_an_error_leaves_a_module_that_works(away):
    torch.manual_seed(0)
    model, forward = EXAMPLES["STDiT3"]()
    model.requires_grad_(False)
    part = Component(lambda: model, CPU, "group")
    with torch.no_grad():
        want = forward()
        model.head = lambda *given: 1 / 0
        with pytest.raises(ZeroDivisionError), part.use():
            forward()
        del model.head
        with part.use():
            assert torch.equal(forward(), want)
        assert torch.equal(forward(), want)
    part.close()
    assert not part.is_loaded


def test_hooks_that_could_not_be_taken_off_are_refused(away, monkeypatch):
    monkeypatch.setattr(offload, "HOOKS", "_hooks_of_another_version")
    part = Component(lambda: EXAMPLES["STDiT3"]()[0], CPU, "group")
    with pytest.raises(ValueError, match=r"this version of diffusers.*0\.35"), part.use():
        pass


def test_on_a_cpu_it_is_refused_before_anything_is_loaded(checkpoint):
    with pytest.raises(ValueError, match=r"offload is 'group'.*allowed on a cpu: 'none', 'stage'"):
        VideoSysEngine(config_of(checkpoint, offload="group", device="cpu"))
    check_offload("group", torch.device("cuda"))
    check_offload("stage", CPU)
