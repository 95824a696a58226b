"""Group offloading: blocks stay in host memory and are copied to the device one by one."""

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
    """Copies each block of a module from host memory to a device for its forward. The next block is copied
    meanwhile, on CUDA in a separate stream.

    Blocks are the members of the module's lists. All other weights stay on the device until `close`. These
    include the direct parameters of a block, which are small, and which a cache's signal reads outside of any
    forward. The module's `prepare`, if it has one, uses single layers of all blocks before any forward, so
    each of these layers is copied separately.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.module, self.device = module, device
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        # Two lists alternate, like spatial and temporal blocks.
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
        except BaseException:  # such as out of memory
            self.close()
            raise

    def attach(self) -> None:
        """Move the resident weights to the device, and install the hooks that copy the blocks."""
        self.resident.come(self.resident.copies())
        size = max((weights.slot_bytes() for weights in self.weights.values()), default=0)
        self.slots += make_slots(size, self.device)
        for block in self.weights:
            self.handles += hooked(block, self.enter, self.leave)
        if hasattr(self.module, "prepare"):
            self.module.prepare = self.prepare  # type: ignore[assignment]

    def enter(self, block: nn.Module) -> None:
        """Make a block available on the device, and start to copy the block that followed it last time."""
        slot = self.fill(block)
        self.slots.sort(key=lambda other: other is slot)  # the least recently used one first
        slot.wait()
        self.weights[block].come(slot.copies)
        if self.last is not None:
            self.following[self.last] = block
        self.last = block
        self.fill(self.following[block])

    def fill(self, block: nn.Module) -> Slot:
        """Copy a block's weights into the least recently used slot, unless a slot already has them."""
        weights = self.weights[block]
        slot = next((slot for slot in self.slots if slot.weights is weights), self.slots[0])
        slot.fill(weights)
        return slot

    def leave(self, block: nn.Module) -> None:
        """Release a block's copies and its slot."""
        self.weights[block].go()
        self.slots[-1].release()

    def prepare(self, *inputs: Any, **options: Any) -> Any:
        """Call the module's `prepare`, with its layers copied one by one."""
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
        """Restore the module, with all weights in host memory."""
        self.module.__dict__.pop("prepare", None)
        remove(self.handles)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a copy may still be running after a failed forward
        self.resident.go()
        self.slots.clear()
        release_memory(self.device)


class Weights:
    """Parameters and buffers that move together. The objects stay the same, only their data changes."""

    def __init__(self, tensors: Iterable[torch.Tensor], device: torch.device):
        self.tensors, self.device = list(tensors), device
        self.host = [item.data for item in self.tensors]

    def slot_bytes(self) -> int:
        """The size of a slot for them in bytes."""
        return sum(map(slot_bytes, self.host))

    def copies(self) -> list[torch.Tensor]:
        """Copy the tensors to the device in the current stream."""
        return [item.to(self.device, non_blocking=True) for item in self.host]

    def come(self, copies: Sequence[torch.Tensor]) -> None:
        """Switch the tensors to these copies on the device."""
        for item, data in zip(self.tensors, copies):
            item.data = data

    def go(self) -> None:
        """Switch the tensors back to host memory."""
        for item, data in zip(self.tensors, self.host):
            item.data = data


class Slot:
    """Device memory for the weights of one block at a time. It is reused: if each copy allocated new memory,
    all blocks would be on the device at once, because the host runs ahead.
    """

    def __init__(self, size: int, device: torch.device):
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.weights: Weights | None = None
        self.copies: list[torch.Tensor] = []

    def fill(self, weights: Weights) -> None:
        """Copy weights into the slot, unless they are already there."""
        if self.weights is not weights:
            self.weights = None
            self.copy(weights)
            self.weights = weights

    def copy(self, weights: Weights) -> None:
        """Copy a block's weights into the slot; `copies` are views of them."""
        self.copies, start = [], 0
        for item in weights.host:
            place = self.buffer[start : start + span(item)].view(item.dtype)
            self.copies.append(place.as_strided(item.shape, item.stride()).copy_(item, non_blocking=True))
            start += slot_bytes(item)

    def wait(self) -> None:
        """Make subsequent work on the device wait for the copies."""

    def release(self) -> None:
        """Allow other weights in the slot once the work so far on the device is done."""


class StreamSlot(Slot):
    """A slot that is filled on a separate stream on a CUDA device."""

    def __init__(self, size: int, device: torch.device, stream: torch.cuda.Stream):
        super().__init__(size, device)
        self.device, self.stream = device, stream
        self.is_filled, self.is_free = torch.cuda.Event(), torch.cuda.Event()
        self.release()

    def copy(self, weights: Weights) -> None:
        """As in `Slot`, in a separate stream, once the slot is free."""
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
    """Bytes from a tensor's first element to its last."""
    steps = [(size - 1) * stride for size, stride in zip(item.shape, item.stride())]
    return (1 + sum(steps)) * item.element_size() if item.numel() else 0


def slot_bytes(item: torch.Tensor) -> int:
    """Bytes of a tensor in a slot, rounded up to the alignment."""
    return -(-span(item) // ALIGNMENT) * ALIGNMENT


def pin(tensors: Iterable[torch.Tensor]) -> None:
    """Move host tensors in place to pinned memory, for asynchronous copies."""
    for item in tensors:
        item.data = item.data.pin_memory()  # unchanged if already pinned


def tensors_of(modules: Iterable[nn.Module]) -> list[torch.Tensor]:
    """The parameters and buffers owned by the modules, each once."""
    tensors = (
        item for module in modules for items in (module.parameters, module.buffers) for item in items(False)
    )
    return list({id(item): item for item in tensors}.values())


def hooked(
    module: nn.Module, enter: Callable[[nn.Module], None], leave: Callable[[nn.Module], None]
) -> list[RemovableHandle]:
    """Call `enter` before a module's forward and `leave` after it, even if it fails."""
    return [
        module.register_forward_pre_hook(lambda module, inputs: enter(module)),
        module.register_forward_hook(lambda module, inputs, outputs: leave(module), always_call=True),
    ]


def remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
