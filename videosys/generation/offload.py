"""Loads and offloads the parts of a pipeline."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from videosys.generation.groups import Groups
from videosys.utils.devices import CPU, release_memory, shares_memory
from videosys.utils.settled import settle

M = TypeVar("M", bound=nn.Module)
Offload = Literal["none", "stage", "group"]


@contextmanager
def loaded_ahead(components: Sequence[Component[Any]]) -> Iterator[None]:
    """Load the components that stay on an accelerator, in this order, concurrently with the `with` block."""
    waiting = [each for each in components if each.may_load_ahead and not each.is_loaded]
    current = torch.cuda.current_device() if waiting and torch.cuda.is_available() else None

    @settle
    def load() -> None:
        if current is not None:
            torch.cuda.set_device(current)  # the current device is per thread
        for each in waiting:
            each.load_ahead()

    thread = threading.Thread(target=load, name="load ahead", daemon=True)
    if waiting:
        thread.start()
    yield  # not joined: each use of a component waits for that component only


def check_offload(offload: Offload, device: torch.device) -> None:
    """ValueError if the setting does not apply to the device."""
    if offload == "group" and shares_memory(device):
        raise ValueError(
            f"offload is 'group', but the device is the {device.type}: groups of blocks move between host "
            f"memory and the memory of an accelerator; allowed on a {device.type}: 'none', 'stage'"
        )


class Component(Generic[M]):
    """A module that is loaded on first use.

    offload: `none` keeps it. `stage` removes it from the device after each use: from an accelerator it is
    moved to host memory, and on the CPU it is dropped and read again when needed. `group` keeps it in host
    memory and copies blocks to the device one by one. Several threads may use it at once: it is loaded once,
    and cleared when the last of them is done. With `group` they take turns. folder: of its weights, if any.
    root: returns the submodule whose lists are the blocks.
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
        """Whether the module is in memory, on the device or the host."""
        return self._module is not None

    @contextmanager
    def use(self) -> Iterator[M]:
        """The module on its device, within a `with` block."""
        turn: AbstractContextManager[Any] = self._turn if self.offload == "group" else nullcontext()
        with turn:
            module = self._enter()
            try:
                yield module
            finally:
                del module  # otherwise clearing does not free it
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

    @property
    def may_load_ahead(self) -> bool:
        """Whether the module stays on an accelerator, so that it can be loaded before its first use."""
        return self.offload == "none" and self.device.type != "cpu"

    def load_ahead(self) -> None:
        """Load the module. Errors are ignored, because the first use loads again and raises them."""
        with contextlib.suppress(Exception), self._lock:
            self._module = self._load() if self._module is None else self._module

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self.offload != "none" and self._users == 0:
                self.clear()

    def clear(self) -> None:
        """Free the device's memory; the next use restores the module."""
        if self._groups is not None:
            self._groups.close()
            self._groups = None
        elif shares_memory(self.device) or self._module is None:
            self._module = None
        else:
            self._module.to(CPU)
        release_memory(self.device)

    def close(self) -> None:
        """Drop the module."""
        self._module = None
