"""When the parts of a pipeline are in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
Offload = Literal["none", "stage", "group"]
HOST = torch.device("cpu")
HOOKS = "_diffusers_hook"  # where diffusers keeps the hooks of a module: no public name


def check_offload(offload: Offload, device: torch.device) -> None:
    """ValueError where the setting means nothing on the device."""
    if offload == "group" and device.type == "cpu":
        raise ValueError(
            "offload is 'group', and the device is the cpu: groups of blocks move between the host's memory "
            "and an accelerator's; allowed on a cpu: 'none', 'stage'"
        )


class Component(Generic[M]):
    """A module that is loaded when it is first used.

    offload `none` keeps it; `stage` clears it from the device after each use: an accelerator's module is
    parked in the host's memory, and one that computes on the CPU is dropped and read again when needed.
    `group` leaves it in the host's memory, from which blocks come to the device one after the other.
    Several threads may use it at once: it is loaded once, and cleared when the last of them is done; with
    `group` they take turns.
    folder: where its weights lie, if they do. root: of a loaded module, the part whose lists are the blocks.
    """

    def __init__(
        self,
        load: Callable[[], M],
        device: torch.device,
        offload: Offload = "none",
        folder: Path | None = None,
        root: Callable[[M], nn.Module] = lambda module: module,
    ):
        self._load, self.device, self.offload, self.folder = load, device, offload, folder
        self._root = root
        self._module: M | None = None
        self._groups: Groups | None = None
        self._lock, self._turn, self._users = threading.RLock(), threading.RLock(), 0

    @property
    def is_loaded(self) -> bool:
        return self._module is not None

    @contextmanager
    def use(self) -> Iterator[M]:
        """The module on its device, for the length of a `with` block."""
        turn: AbstractContextManager[Any] = self._turn if self.offload == "group" else nullcontext()
        with turn:
            module = self._enter()
            try:
                yield module
            finally:
                del module  # or clearing would not free it
                self._leave()

    def _enter(self) -> M:
        with self._lock:
            if self._module is None:
                self._module = self._load()
            elif self.offload != "group":
                self._module.to(self.device)
            if self.offload == "group" and self._groups is None:
                self._groups = Groups(self._root(self._module), self.device)
            self._users += 1
            return self._module

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self.offload != "none" and self._users == 0:
                self.clear()

    def clear(self) -> None:
        """Frees the device's memory; the next use brings the module back."""
        if self._groups is not None:
            self._groups.close()
            self._groups = None
        elif self.device.type == "cpu" or self._module is None:
            self._module = None
        else:
            self._module.to(HOST)
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Forgets the module."""
        self._module = None


class Groups:
    """Lets the blocks of a module in the host's memory come to a device one after the other, by diffusers'
    group offloading: each for its own forward, the next one on a stream of its own meanwhile.

    Blocks are the members of the module's lists. What a block itself holds beside its layers stays on the
    device: it is small, and a cache's signal reads the first block's outside of its forward.
    The module's `prepare`, if it has one, uses single layers of all blocks, before any of their forwards:
    each of these comes for itself.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.module, self.device = module, device
        self.lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        self.others = [child for child in module.children() if not isinstance(child, nn.ModuleList)]
        self.tables = [
            (block, dict(block.named_parameters(recurse=False))) for blocks in self.lists for block in blocks
        ]
        self._hide_tables()
        self._attach()
        if hasattr(module, "prepare"):
            module.prepare = self._prepare  # type: ignore[assignment]

    def _hide_tables(self) -> None:
        for block, tables in self.tables:
            for name, table in tables.items():
                delattr(block, name)
                setattr(block, name, table.detach().to(self.device))  # no parameter, so in no group

    def _attach(self) -> None:
        from diffusers.hooks import apply_group_offloading

        has_streams = self.device.type != "cpu"
        apply_group_offloading(
            self.module, self.device, HOST, "block_level", num_blocks_per_group=1, use_stream=has_streams
        )
        if not any(hasattr(getattr(part, HOOKS, None), "hooks") for part in self.module.modules()):
            raise ValueError(
                "offload is 'group', and this version of diffusers keeps its hooks where they cannot be "
                "taken off again: install one that is known to work (0.35 to 0.42), or set offload to stage"
            )

    def _prepare(self, *inputs: Any, **options: Any) -> Any:
        """The condition that the module itself would prepare on the device."""
        from diffusers.hooks import apply_group_offloading

        detach(self.module)
        try:
            for child in self.others:
                child.to(self.device)
            for blocks in self.lists:
                apply_group_offloading(blocks, self.device, HOST, "leaf_level")
            return type(self.module).prepare(self.module, *inputs, **options)  # type: ignore[attr-defined]
        finally:
            detach(self.module)
            self.module.to(HOST)
            self._attach()

    def close(self) -> None:
        """The module as it was, all of it in the host's memory."""
        self.module.__dict__.pop("prepare", None)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a block may still be on its way when a forward failed
        detach(self.module)
        for block, tables in self.tables:
            for name, table in tables.items():
                delattr(block, name)
                block.register_parameter(name, table)
        self.module.to(HOST)
        if self.device.type != "cpu":
            torch.cuda.empty_cache()


def detach(module: nn.Module) -> None:
    """Takes all hooks of diffusers off a module and its parts."""
    for part in module.modules():
        registry = getattr(part, HOOKS, None)
        if registry is None:
            continue
        for name in list(registry.hooks):
            registry.remove_hook(name, recurse=False)
        delattr(part, HOOKS)  # it refers to the module, which could not be freed at once
        if getattr(part.__dict__.get("forward"), "__func__", None) is type(part).forward:
            del part.forward  # and so does this
