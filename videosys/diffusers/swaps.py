"""Temporarily replaces methods of single objects, by a subclass of the class of each object."""

from __future__ import annotations

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

# Called instead of a method with (object, the method of its class bound to it, args, kwargs).
Handler = Callable[[Any, Callable[..., Any], tuple, dict], Any]
MARK = "_videosys_cached"  # in the namespace of each subclass


def is_swapped(item: Any) -> bool:
    """Whether the object's class is such a subclass."""
    return hasattr(type(item), MARK)


def swapped(items: Iterable[Any], handlers: Mapping[str, Handler]) -> AbstractContextManager[None]:
    """A context in which calls of these methods of the objects go to the handlers."""
    return Swapped(items, handlers).active()


class Swapped:
    """Objects whose calls of some methods go to handlers while `active`.

    The class is swapped, not the instance's attributes, because offloading re-installs those, `copy.deepcopy`
    binds them to the original, and `torch.compile` traces them. Name and module of the class stay, and the
    methods keep their signatures, which pipelines read. Copies made within the context have the subclass
    until it ends: some pipelines step copies of their scheduler.
    """

    def __init__(self, items: Iterable[Any], handlers: Mapping[str, Handler]):
        self._items, self._handlers = list(items), handlers
        self._swaps: dict[type, Swap] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The objects have subclasses within this context, which can be entered again afterwards."""
        originals = [(item, type(item)) for item in self._items]
        for cls in dict.fromkeys(cls for _, cls in originals):
            if cls not in self._swaps:
                self._swaps[cls] = Swap(cls, self._handlers)
            self._swaps[cls].begin()
        try:
            for item, cls in originals:
                set_class(item, self._swaps[cls].subclass)
            yield
        finally:
            for swap in self._swaps.values():
                swap.end()
            for item, cls in reversed(originals):
                set_class(item, cls)


def set_class(item: Any, cls: type) -> None:
    """Set the class without `__setattr__`, which modules and pipelines override."""
    object.__setattr__(item, "__class__", cls)


class Swap:
    """A class, and a subclass of the same name whose methods call the handlers."""

    def __init__(self, cls: type, handlers: Mapping[str, Handler]):
        self.cls, self._has_ended, self._lock = cls, True, threading.Lock()
        self._copies: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        methods = {name: self._method(getattr(cls, name), handler) for name, handler in handlers.items()}
        space = {**names, **methods, MARK: True, "__new__": self._new}
        self.subclass = types.new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(space))

    def begin(self) -> None:
        """Calls swap the class of their object until `end`."""
        with self._lock:
            self._has_ended = False

    def end(self) -> None:
        """Restores the class of copies; calls still running in other threads swap no more objects."""
        with self._lock:
            self._has_ended = True
        for copy in list(self._copies.values()):
            set_class(copy, self.cls)

    def _new(self, made: type, *args: Any, **kwargs: Any) -> Any:
        # `object.__new__` accepts no arguments if a class defines `__new__`, like this one.
        cls = self.cls
        item = object.__new__(made) if cls.__new__ is object.__new__ else cls.__new__(made, *args, **kwargs)
        self._copies[id(item)] = item
        return item

    @contextlib.contextmanager
    def _own_class(self, item: Any) -> Iterator[None]:
        if isinstance(item, nn.Module) and item._compiled_call_impl is None:
            # Its calls in other threads must be seen meanwhile, because pipelines can share a module.
            yield
            return
        # With its original class, so that code compiled for that class is used again.
        set_class(item, self.cls)
        try:
            yield
        finally:
            with self._lock:
                set_class(item, self.cls if self._has_ended else self.subclass)

    def _method(self, original: Callable[..., Any], handler: Handler) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(item: Any, *args: Any, **kwargs: Any) -> Any:
            with self._own_class(item):
                return original(item, *args, **kwargs)

        @functools.wraps(original)
        def method(item: Any, *args: Any, **kwargs: Any) -> Any:
            return handler(item, functools.partial(call, item), args, kwargs)

        return method
