"""Group offloading: blocks stay in host memory and are copied to a device one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from videosys.utils.devices import release_memory

ALIGNMENT = 512  # bytes, as in torch's GPU allocator


class Groups:
    """Copies the blocks of a module from host memory to a device one after the other, each for its
    own forward; the next one is copied meanwhile, on a separate stream on CUDA.

    Blocks are the members of the module's lists. All else is on the device until `close`: also what a block
    holds itself beside its layers, which is small, and which a cache's signal reads outside of any forward.
    The module's `prepare`, if it has one, uses single layers of all blocks, before any of their forwards:
    each of these comes for itself.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.module, self.device = module, device
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        # Two lists take turns, as spatial and temporal blocks do.
        blocks = [block for row in zip_longest(*lists) for block in row if block is not None]
        layers = {
            block: [layer for child in block.children() for layer in child.modules()] for block in blocks
        }
        moving = tensors_of(layer for part in layers.values() for layer in part)
        if device.type == "cuda":
            pin(moving)
        self.weights = {block: Weights(tensors_of(part), device) for block, part in layers.items()}
        self.layers = {
            layer: Weights(tensors_of([layer]), device) for part in layers.values() for layer in part
        }
        away = {id(item) for item in moving}
        resident = [item for item in tensors_of(module.modules()) if id(item) not in away]
        self.resident = Weights(resident, device)
        self.following = dict(zip(blocks, [*blocks[1:], *blocks[:1]]))
        self.last: nn.Module | None = None
        self.slots: list[Slot] = []
        self.handles: list[RemovableHandle] = []
        try:
            self.attach()
        except BaseException:  # such as too little memory
            self.close()
            raise

    def attach(self) -> None:
        """Brings what stays to the device, and lets the blocks come from now on."""
        self.resident.come(self.resident.copies())
        size = max((weights.slot_bytes() for weights in self.weights.values()), default=0)
        self.slots += make_slots(size, self.device)
        for block in self.weights:
            self.handles += hooked(block, self.enter, self.leave)
        if hasattr(self.module, "prepare"):
            self.module.prepare = self.prepare  # type: ignore[assignment]

    def enter(self, block: nn.Module) -> None:
        """Brings a block to the device, and starts to copy the one that came after it the last time."""
        slot = self.fill(block)
        self.slots.sort(key=lambda other: other is slot)  # the least recently used one first
        slot.wait()
        self.weights[block].come(slot.copies)
        if self.last is not None:
            self.following[self.last] = block
        self.last = block
        self.fill(self.following[block])

    def fill(self, block: nn.Module) -> Slot:
        """The slot with a block's weights: the least recently used one, unless another has them already."""
        weights = self.weights[block]
        slot = next((slot for slot in self.slots if slot.weights is weights), self.slots[0])
        slot.fill(weights)
        return slot

    def leave(self, block: nn.Module) -> None:
        """Before another block comes: this one's copies go, and its slot is free."""
        self.weights[block].go()
        self.slots[-1].release()

    def prepare(self, *inputs: Any, **options: Any) -> Any:
        """What the module's own `prepare` returns."""
        handles: list[RemovableHandle] = []
        try:
            for layer in self.layers:
                handles += hooked(layer, self.enter_layer, self.leave_layer)
            return type(self.module).prepare(self.module, *inputs, **options)  # type: ignore[attr-defined]
        finally:
            remove(handles)

    def enter_layer(self, layer: nn.Module) -> None:
        self.layers[layer].come(self.layers[layer].copies())

    def leave_layer(self, layer: nn.Module) -> None:
        self.layers[layer].go()

    def close(self) -> None:
        """Leaves the module as it was, all of it in the host's memory."""
        self.module.__dict__.pop("prepare", None)
        remove(self.handles)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a block may still be on its way when a forward failed
        self.resident.go()
        self.slots.clear()
        release_memory(self.device)


class Weights:
    """Parameters and buffers that move together. The objects stay, and their data changes."""

    def __init__(self, tensors: Iterable[torch.Tensor], device: torch.device):
        self.tensors, self.device = list(tensors), device
        self.host = [item.data for item in self.tensors]

    def slot_bytes(self) -> int:
        """Bytes of a slot for them."""
        return sum(map(slot_bytes, self.host))

    def copies(self) -> list[torch.Tensor]:
        """Copies on the device, for the current stream."""
        return [item.to(self.device, non_blocking=True) for item in self.host]

    def come(self, copies: Sequence[torch.Tensor]) -> None:
        """Switches the tensors to these on the device."""
        for item, data in zip(self.tensors, copies):
            item.data = data

    def go(self) -> None:
        """Switches the tensors back to host memory."""
        for item, data in zip(self.tensors, self.host):
            item.data = data


class Slot:
    """Memory on a device for the weights of one block at a time. It is reused: with
    new memory for each copy, all blocks would be there at once, since the host runs ahead.
    """

    def __init__(self, size: int, device: torch.device):
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.weights: Weights | None = None
        self.copies: list[torch.Tensor] = []

    def fill(self, weights: Weights) -> None:
        """Copies weights into the slot, unless they are already there."""
        if self.weights is not weights:
            self.weights = None
            self.copy(weights)
            self.weights = weights

    def copy(self, weights: Weights) -> None:
        """Fills the slot with a block's weights; the views of them are its `copies`."""
        self.copies, start = [], 0
        for item in weights.host:
            place = self.buffer[start : start + span(item)].view(item.dtype)
            self.copies.append(place.as_strided(item.shape, item.stride()).copy_(item, non_blocking=True))
            start += slot_bytes(item)

    def wait(self) -> None:
        """Makes the following work on the device wait for the copies."""

    def release(self) -> None:
        """Allows other weights in the slot after the work so far on the device."""


class StreamSlot(Slot):
    """A slot that is filled on a separate stream on a CUDA device."""

    def __init__(self, size: int, device: torch.device, stream: torch.cuda.Stream):
        super().__init__(size, device)
        self.device, self.stream = device, stream
        self.is_filled, self.is_free = torch.cuda.Event(), torch.cuda.Event()
        self.release()

    def copy(self, weights: Weights) -> None:
        """As in `Slot`, on a stream of its own, once the slot is free."""
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.is_free)
            super().copy(weights)
            self.is_filled.record(self.stream)

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_event(self.is_filled)

    def release(self) -> None:
        self.is_free.record(torch.cuda.current_stream(self.device))


def make_slots(size: int, device: torch.device) -> list[Slot]:
    """Memory for two blocks of at most `size` bytes: the current one and the next."""
    if device.type != "cuda":
        return [Slot(size, device) for _ in range(2)]
    stream = torch.cuda.Stream(device)
    return [StreamSlot(size, device, stream) for _ in range(2)]


def span(item: torch.Tensor) -> int:
    """Bytes from a tensor's first number to its last."""
    steps = [(size - 1) * stride for size, stride in zip(item.shape, item.stride())]
    return (1 + sum(steps)) * item.element_size() if item.numel() else 0


def slot_bytes(item: torch.Tensor) -> int:
    """Bytes of a tensor in a slot, rounded up to an aligned address."""
    return -(-span(item) // ALIGNMENT) * ALIGNMENT


def pin(tensors: Iterable[torch.Tensor]) -> None:
    """Moves host tensors, in place, to pinned memory for asynchronous copies."""
    for item in tensors:
        item.data = item.data.pin_memory()  # itself where it is pinned


def tensors_of(modules: Iterable[nn.Module]) -> list[torch.Tensor]:
    """The parameters and buffers owned by the modules, each once."""
    tensors = (
        item for module in modules for items in (module.parameters, module.buffers) for item in items(False)
    )
    return list({id(item): item for item in tensors}.values())


def hooked(
    module: nn.Module, enter: Callable[[nn.Module], None], leave: Callable[[nn.Module], None]
) -> list[RemovableHandle]:
    """Runs `enter` before a module's forward and `leave` after it, even if it fails."""
    return [
        module.register_forward_pre_hook(lambda module, inputs: enter(module)),
        module.register_forward_hook(lambda module, inputs, outputs: leave(module), always_call=True),
    ]


def remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
