"""A pretended cluster, with a place for a replica on each of its nodes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from videosys.generation.config import PipelineConfig
from videosys.serve.cluster import NotWanted
from videosys.serve.replica import Order, Replica, Setup, replica_codec
from videosys.serve.store import Store, StoreAway

PATIENCE = 60.0


def until(condition: Callable[[], Any]) -> Any:
    """What a condition returns when it is true, waited for."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def away_at_first(monkeypatch: Any, store: Store, function: str) -> list[tuple[Any, ...]]:
    """Lets the first two calls of a function of a store fail; returns the list of all its calls."""
    original, calls = getattr(store, function), []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) < 3:
            raise StoreAway("the database is gone")
        return original(*arguments, **options)

    monkeypatch.setattr(store, function, failing)
    return calls


class InProcess:
    """A replica in this process, which is asked in messages as over Ray."""

    node, is_warm = "node", False

    def __init__(self, config: PipelineConfig):
        self.config, self.codec = config, replica_codec()
        self.replica = Replica(self.codec.pack(Setup(config)), [])

    def submit(self, prompt: str, **request: Any) -> SimpleNamespace:
        config = replace(self.config, num_videos_per_prompt=1, batch_size=1, **request)
        order = self.codec.pack(Order(config, 0, prompt))
        return SimpleNamespace(made=lambda: self.codec.unpack(self.replica.make(order)))

    def end(self) -> None:
        self.replica.engine.close()


class Stage:
    """build: makes the replica of a node. start: is called before each; it may raise."""

    def __init__(
        self,
        *nodes: str,
        build: Callable[[str], Any],
        start: Callable[[str], object] = lambda node: None,
    ):
        self.free, self.lock, self.build, self.start = [*nodes], threading.Lock(), build, start
        self.started: list[str] = []

    @contextlib.contextmanager
    def replica(self, is_wanted: Callable[[], bool]) -> Iterator[Any]:
        node = self._place(is_wanted)
        try:
            self.start(node)
            self.started.append(node)
            yield self.build(node)
        finally:
            with self.lock:
                self.free.append(node)

    def _place(self, is_wanted: Callable[[], bool]) -> str:
        while True:
            with self.lock:
                if self.free:
                    return self.free.pop(0)
            if not is_wanted():
                raise NotWanted
            time.sleep(0.005)
