"""Methods of single objects replaced for a while, through a subclass of the class that each of them has."""

from __future__ import annotations

import contextlib
import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

# Called instead of a method with (object, the method of its class bound to it, args, kwargs).
Handler = Callable[[Any, Callable[..., Any], tuple, dict], Any]
MARK = "_videosys_cached"  # in the namespace of each subclass: its objects that were made anew, by id


def is_swapped(item: Any) -> bool:
    """Whether the object's class is such a subclass."""
    return hasattr(type(item), MARK)


@contextlib.contextmanager
def swapped(items: Iterable[Any], handlers: Mapping[str, Handler]) -> Iterator[None]:
    """Within the context, calls of these methods of the objects go to the handlers.

    The class is swapped and not the instance's attributes: offloading re-installs those, `copy.deepcopy`
    binds them to the original, and `torch.compile` traces them. Name and module of the class stay, and the
    methods keep their signatures, which pipelines read. Copies made within the context have the subclass
    until it ends: some pipelines step copies of their scheduler.
    """
    items = list(items)
    made = {cls: subclass(cls, handlers) for cls in dict.fromkeys(map(type, items))}
    originals = [(item, type(item)) for item in items]
    try:
        for item, cls in originals:
            set_class(item, made[cls])
        yield
    finally:
        for item, cls in reversed(originals):
            set_class(item, cls)
        for cls, swapped_class in made.items():
            for copy in getattr(swapped_class, MARK).values():
                set_class(copy, cls)


def set_class(item: Any, cls: type) -> None:
    """Past `__setattr__`, which modules and pipelines have made their own."""
    object.__setattr__(item, "__class__", cls)


def subclass(cls: type, handlers: Mapping[str, Handler]) -> type:
    """A subclass that looks like its base, with methods that call the handlers."""
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    methods = {name: _method(cls, getattr(cls, name), handler) for name, handler in handlers.items()}
    copies: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def new(made: type, *args: Any, **kwargs: Any) -> Any:
        # `object.__new__` takes no arguments where a class has its own `__new__`, as this one.
        item = object.__new__(made) if cls.__new__ is object.__new__ else cls.__new__(made, *args, **kwargs)
        copies[id(item)] = item
        return item

    space = {**names, **methods, MARK: copies, "__new__": new}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(space))


def _method(cls: type, original: Callable[..., Any], handler: Handler) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # With its own class: what was compiled for that is not compiled anew.
        swapped_class = type(self)
        set_class(self, cls)
        try:
            return original(self, *args, **kwargs)
        finally:
            set_class(self, swapped_class)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(self, functools.partial(call, self), args, kwargs)

    return method
