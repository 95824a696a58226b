"""When the parts of a pipeline are in memory."""

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
    """Loads those that will stay on an accelerator, in this order, beside the work in the `with` block."""
    waiting = [each for each in components if each.may_load_ahead and not each.is_loaded]
    current = torch.cuda.current_device() if waiting and torch.cuda.is_available() else None

    @settle
    def load() -> None:
        if current is not None:
            torch.cuda.set_device(current)  # each thread has its own
        for each in waiting:
            each.load_ahead()

    thread = threading.Thread(target=load, name="load ahead", daemon=True)
    if waiting:
        thread.start()
    yield  # not joined: who uses a component waits for it alone


def check_offload(offload: Offload, device: torch.device) -> None:
    """ValueError where the setting means nothing on the device."""
    if offload == "group" and shares_memory(device):
        raise ValueError(
            f"offload is 'group', and the device is the {device.type}: groups of blocks move between the "
            f"host's memory and an accelerator's own; allowed on a {device.type}: 'none', 'stage'"
        )


class Component(Generic[M]):
    """A module that is loaded when it is first used.

    offload `none` keeps it; `stage` clears it from the device after each use: an accelerator's module is
    parked in the host's memory, and one that computes in that memory is dropped and read again when needed.
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
        """Whether the module is in memory, here or parked."""
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

    @property
    def may_load_ahead(self) -> bool:
        """Whether the module will stay on an accelerator, so that it may come there before its first use."""
        return self.offload == "none" and self.device.type != "cpu"

    def load_ahead(self) -> None:
        """Loads the module. An error is for the first use, which loads again."""
        with contextlib.suppress(Exception), self._lock:
            self._module = self._load() if self._module is None else self._module

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
        elif shares_memory(self.device) or self._module is None:
            self._module = None
        else:
            self._module.to(CPU)
        release_memory(self.device)

    def close(self) -> None:
        """Forgets the module."""
        self._module = None
