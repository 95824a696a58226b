"""When the parts of a pipeline are in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
Offload = Literal["none", "stage"]


class Component(Generic[M]):
    """A module that is loaded when it is first used.

    offload `none` keeps it; `stage` clears it from the device after each use: an accelerator's module is
    parked in the host's memory, and one that computes on the CPU is dropped and read again when needed.
    Several threads may use it at once: it is loaded once, and cleared when the last of them is done.
    folder: where its weights lie, if they do.
    """

    def __init__(
        self,
        load: Callable[[], M],
        device: torch.device,
        offload: Offload = "none",
        folder: Path | None = None,
    ):
        self._load, self.device, self.offload, self.folder = load, device, offload, folder
        self._module: M | None = None
        self._lock, self._users = threading.RLock(), 0

    @property
    def is_loaded(self) -> bool:
        return self._module is not None

    @contextmanager
    def use(self) -> Iterator[M]:
        """The module on its device, for the length of a `with` block."""
        module = self._enter()
        try:
            yield module
        finally:
            del module  # or clearing would not free it
            self._leave()

    def _enter(self) -> M:
        with self._lock:
            self._module = self._load() if self._module is None else self._module.to(self.device)
            self._users += 1
            return self._module

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self.offload == "stage" and self._users == 0:
                self.clear()

    def clear(self) -> None:
        """Frees the device's memory; the next use brings the module back."""
        if self.device.type == "cpu" or self._module is None:
            self._module = None
        else:
            self._module.to("cpu")
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Forgets the module."""
        self._module = None
