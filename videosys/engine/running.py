"""The requests that this process computes, so that another thread can end them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from videosys.generation.request import VideoOutput
from videosys.generation.watch import Watch, forget_frames


class Running:
    """Running requests, and the threads that are computing one."""

    def __init__(self) -> None:
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._threads: list[int] = []
        self._changed = threading.Condition()

    def outputs(self, outputs: Iterator[VideoOutput], watch: Watch) -> Iterator[VideoOutput]:
        """The outputs of a request that `stop` ends too."""
        self._watches.add(watch)
        while True:
            try:
                with self._computing():
                    output = next(outputs)
            except StopIteration:
                return
            except BaseException as error:
                if watch.error is not None:
                    forget_frames(error)
                raise
            yield output

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with self._changed:
            self._threads.append(threading.get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._threads.remove(threading.get_ident())
                self._changed.notify_all()

    def stop(self, error: Exception) -> None:
        """Ends all requests with this error before their next step; returns when no other thread computes."""
        for watch in list(self._watches):
            watch.stop(error)
        own = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: all(thread == own for thread in self._threads))
