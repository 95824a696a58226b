"""Blocks that come to the device one after the other: the same numbers, and no weight is used while away.

There is no second device here: the weights of a group that is away are not-a-number instead.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import config_of, text_to_video_config
from videosys import VideoSysEngine
from videosys.cache import CACHES, PABConfig, ScheduleConfig, TeaCacheConfig
from videosys.generation import compile as compiling
from videosys.generation import groups as groups_module
from videosys.generation import loader
from videosys.generation.groups import ALIGNMENT, Groups, Slot, StreamSlot, Weights
from videosys.generation.offload import Component, check_offload

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
    """Makes weights not-a-number while they are away, and knows the most that was here at once.

    most: numbers of all weights in use. slots: bytes of the memory that blocks are copied to.
    """

    def __init__(self) -> None:
        self.here: dict[int, int] = {}
        self.most = self.slots = 0
        self.attach, self.close = Groups.attach, Groups.close

    def attached(self, groups: Groups) -> None:
        for weights in (*groups.weights.values(), groups.resident):
            self.go(weights)
        self.attach(groups)
        self.slots = sum(slot.buffer.nbytes for slot in groups.slots)

    def come(self, weights: Weights, copies: list[torch.Tensor]) -> None:
        for item, data in zip(weights.tensors, copies, strict=True):
            item.data = data
            self.here[id(item)] = item.numel()
        self.most = max(self.most, sum(self.here.values()))

    def go(self, weights: Weights) -> None:
        for item in weights.tensors:
            item.data = torch.full_like(item, torch.nan)
            self.here.pop(id(item), None)

    def closed(self, groups: Groups) -> None:
        self.close(groups)
        assert not self.here
        for weights in (*groups.weights.values(), groups.resident):
            for item, data in zip(weights.tensors, weights.host, strict=True):
                item.data = data


@pytest.fixture
def away(monkeypatch):
    away = Away()
    monkeypatch.setattr(Groups, "attach", lambda self: away.attached(self))
    monkeypatch.setattr(Groups, "close", lambda self: away.closed(self))
    monkeypatch.setattr(Weights, "come", lambda self, copies: away.come(self, copies))
    monkeypatch.setattr(Weights, "go", lambda self: away.go(self))
    monkeypatch.setattr(loader, "check_offload", lambda *settings: None)
    return away


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_one_block_is_here_at_once(name, away):
    torch.manual_seed(0)
    model, forward = EXAMPLES[name]()
    model.requires_grad_(False)
    want = forward()
    before = {key: (id(item), item.clone()) for key, item in model.state_dict(keep_vars=True).items()}
    attributes = {part: part.__dict__.keys() for part in model.modules()}
    groups = Groups(model, CPU)
    blocks = [block for child in model.children() if isinstance(child, nn.ModuleList) for block in child]
    assert all(torch.isnan(layer.weight).all() for block in blocks for layer in linears(block))
    assert torch.equal(forward(), want)  # prepares, too
    assert torch.equal(forward(), want)
    largest = max(weights(block) for block in blocks)
    assert away.most <= weights(model) - sum(map(weights, blocks)) + sum(map(tables, blocks)) + largest
    padding = 2 * ALIGNMENT * len(list(blocks[0].parameters()))
    assert away.slots <= 2 * 4 * largest + padding
    groups.close()
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(id(after[key]) == number for key, (number, _) in before.items())
    assert all(torch.equal(after[key], item) for key, (_, item) in before.items())
    assert torch.equal(forward(), want)
    assert all(part.__dict__.keys() == attributes[part] for part in model.modules())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def linears(block: nn.Module) -> list[nn.Module]:
    return [layer for layer in block.modules() if isinstance(layer, nn.Linear)]


def tables(block: nn.Module) -> int:
    return sum(item.numel() for item in block.parameters(recurse=False))


@torch.no_grad()
def test_the_next_block_is_copied_before_it_is_asked_for(monkeypatch):
    model, forward = EXAMPLES["STDiT3"]()
    groups, copied, entered = Groups(model, CPU), [], []
    copy = Slot.copy
    names = {groups.weights[block]: number for number, block in enumerate(groups.weights)}
    monkeypatch.setattr(Slot, "copy", lambda self, it: (copied.append(names[it]), copy(self, it)))
    for block in groups.weights:
        block.register_forward_pre_hook(lambda block, inputs: entered.append(names[groups.weights[block]]))
    forward()
    forward()
    order = list(range(len(names)))
    assert entered == 2 * order
    assert copied == [*entered, 0]  # each once, also the first of a step that does not come
    groups.close()


def block_of(*sizes: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, size) for size in sizes))


class Picky(nn.Module):
    """Uses the blocks that it is told to."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, numbers: list[int]) -> torch.Tensor:
        for number in numbers:
            x = self.blocks[number](x)
        return x


@pytest.mark.parametrize(
    "numbers", [[0, 1, 2], [2, 1, 0], [0, 0, 0], [0, 2, 0, 2, 1], [1], [], [2, 2, 1, 1, 0, 0]]
)
@torch.no_grad()
def test_blocks_may_come_in_any_order(numbers, away):
    model, x = Picky(block_of(4, 4), block_of(4), block_of(4, 4, 4)), torch.randn(3, 4)
    want = model(x, numbers)
    groups = Groups(model, CPU)
    for _ in range(2):
        assert torch.equal(model(x, numbers), want)
    groups.close()


@torch.no_grad()
def test_odd_tensors_keep_their_form(away):
    block = block_of(4, 4)
    block[0].weight.data = torch.randn(4, 4).T  # in another order
    block[1].weight = block[0].weight  # used twice
    block[0].register_buffer("empty", torch.empty(0))
    block[0].register_buffer("number", torch.tensor(2.0))
    model, x = Picky(block), torch.randn(3, 4)
    want, stride = model(x, [0]), block[0].weight.stride()
    seen = []
    block[0].register_forward_hook(
        lambda layer, *_: seen.append((layer.weight.stride(), float(layer.number)))
    )
    groups = Groups(model, CPU)
    assert torch.equal(model(x, [0]), want)
    groups.close()
    assert seen == [(stride, 2.0)]
    assert block[1].weight is block[0].weight
    assert block[0].weight.stride() == stride


class Event:
    """An event of a CUDA device, which is not here: what was recorded in it last."""

    last: str | None = None

    def record(self, stream: Stream) -> None:
        self.last = stream.work[-1] if stream.work else None


class Stream:
    """A stream of a CUDA device: the work on it, and what that waited for."""

    def __init__(self) -> None:
        self.work: list[str] = []
        self.waits: list[str | None] = []

    def wait_event(self, event: Event) -> None:
        self.waits.append(event.last)


@torch.no_grad()
def test_copies_and_blocks_wait_for_each_other(monkeypatch):
    """A block waits for its copy; a copy waits for the block whose weights it writes over."""
    main, side = Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(
        groups_module, "make_slots", lambda size, device: [StreamSlot(size, device, side) for _ in range(2)]
    )
    model = Picky(*(block_of(4) for _ in range(4)))
    groups = Groups(model, CPU)
    names = {weights: f"block {number}" for number, weights in enumerate(groups.weights.values())}
    copy = Slot.copy
    monkeypatch.setattr(
        Slot, "copy", lambda self, it: (side.work.append(f"copy {names[it]}"), copy(self, it))
    )
    for block in model.blocks:
        name = names[groups.weights[block]]
        block.register_forward_hook(lambda *_, name=name: main.work.append(name), prepend=True)
    model(torch.randn(3, 4), [0, 1, 2, 3])
    assert main.work == [f"block {number}" for number in range(4)]
    assert main.waits == [f"copy block {number}" for number in range(4)]
    assert side.work == [f"copy block {number}" for number in (0, 1, 2, 3, 0)]
    assert side.waits == [None, None, "block 0", "block 1", "block 2"]
    groups.close()


@torch.no_grad()
def test_a_device_without_room_leaves_the_module_as_it_was(away, monkeypatch):
    torch.manual_seed(0)
    model, forward = EXAMPLES["STDiT3"]()
    want = forward()
    monkeypatch.setattr(groups_module, "make_slots", lambda size, device: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Groups(model, CPU)
    assert torch.equal(forward(), want)
    assert not away.here
    assert "prepare" not in vars(model)
    assert not any(part._forward_pre_hooks for part in model.modules())


@torch.no_grad()
def test_a_block_that_fails_goes_back(away):
    model, x = Picky(block_of(4), block_of(4)), torch.randn(3, 4)
    want = model(x, [0, 1])
    groups = Groups(model, CPU)
    model.blocks[0].forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(x, [1, 0])
    assert not away.here
    del model.blocks[0].forward
    assert torch.equal(model(x, [0, 1]), want)
    groups.close()


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
    monkeypatch.setattr(compiling, "check_compiler", lambda *_: None)
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


def test_on_a_cpu_it_is_refused_before_anything_is_loaded(checkpoint):
    with pytest.raises(ValueError, match=r"offload is 'group'.*allowed on a cpu: 'none', 'stage'"):
        VideoSysEngine(config_of(checkpoint, offload="group", device="cpu"))
    check_offload("group", torch.device("cuda"))
    check_offload("stage", CPU)
