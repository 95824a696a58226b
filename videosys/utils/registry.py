"""Registries that other packages can extend: cache policies, model families."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from videosys.utils.typed import listing

T = TypeVar("T")
Check = Callable[[str, Any, Mapping[str, Any]], None]
_LOG = logging.getLogger("videosys.registry")


class Registry(Mapping[str, T], Generic[T]):
    """Built-in entries, entries added by `register`, and those that installed packages declare.

    built_in: the names of the library's own entries. kind: what an entry is called in errors.
    group: the entry point group of installed packages; its names are the entries' names.
    check(name, entry, entries): raises ValueError for an entry that is invalid or conflicts with others.

    Entry points are loaded when a name is requested that is not built in, or when all entries are listed. One
    that cannot be loaded is logged as a warning and ignored. The registry lasts as long as the process;
    a generation does not change it.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, T], check: Check):
        self.kind, self.group, self._check = kind, group, check
        self._entries: dict[str, T] = {}
        self.built_in = tuple(built_in)
        self._modules: dict[str, str] = {}
        self._reserved: dict[str, list[T]] = {}
        self._are_installed_loaded, self._loading = False, threading.RLock()
        for name, entry in built_in.items():
            check(name, entry, self._entries)
            self._entries[name] = entry

    def register(self, name: str, entry: T, module: str) -> None:
        """Adds an entry; `module` is the module that adds it. Other processes import it too.

        ValueError if the entry is invalid, or if the name is used by or reserved for another entry.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{self.kind} name is {name!r}; it must be an identifier such as 'my_{self.kind}'"
            )
        self._check(name, entry, self._entries)
        if any(other is not entry for other in self._reserved.get(name, ())):
            raise ValueError(
                f"{self.kind} {name!r} has the name of a preset of another {self.kind}; choose another name"
            )
        if self._entries.get(name, entry) is not entry:
            raise ValueError(f"{self.kind} {name!r} already exists; there are: {listing(self._entries)}")
        self._entries[name] = entry
        self._modules[name] = module

    def reserve(self, names: Mapping[str, T]) -> None:
        """Reserves each name for its entry. ValueError if another entry has the name."""
        for name, entry in names.items():
            if self._entries.get(name, entry) is not entry:
                raise ValueError(f"preset {name!r} has the name of another {self.kind}; choose another name")
        for name, entry in names.items():
            self._reserved.setdefault(name, []).append(entry)

    @property
    def modules(self) -> list[str]:
        """The modules that called `register`, each once."""
        return sorted(set(self._modules.values()))

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._load_installed()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load_installed()
        return iter([*self._entries])  # a copy: the loop may import modules that register more

    def __len__(self) -> int:
        self._load_installed()
        return len(self._entries)

    def _load_installed(self) -> None:
        with self._loading:  # other threads wait; a package may request entries while it is loaded
            if not self._are_installed_loaded:
                self._are_installed_loaded = True
                self._load_entry_points()

    def _load_entry_points(self) -> None:
        for point in entry_points(group=self.group):
            try:
                entry = point.load()
                if self._entries.get(point.name) is not entry:  # it may have registered itself
                    self.register(point.name, entry, point.module)
            except Exception as error:  # a broken package must not end a run that does not use it
                reason = f"{type(error).__name__}: {error}"
                _LOG.warning("%s %s = %s is ignored: %s", self.group, point.name, point.value, reason)


def is_own_dataclass(cls: Any, base: type) -> bool:
    """Whether a class derives from `base` and is decorated as a dataclass itself.

    Without the decorator its own fields would be ignored.
    """
    return isinstance(cls, type) and issubclass(cls, base) and "__dataclass_params__" in vars(cls)


def calling_module(depth: int = 2) -> str:
    """The name of the module that called the function that calls this."""
    return sys._getframe(depth).f_globals["__name__"]
