"""Starts, restarts and ends the worker processes of a server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from videosys.serve.restarts import ends_in_a_row, pause
from videosys.serve.settings import Source
from videosys.serve.store import Store, StoreAway
from videosys.utils.logging import get_logger

WATCH_SECONDS = 0.1
EXIT_SECONDS = 5.0
LOG = get_logger("serve")


@dataclass
class Place:
    """A worker, across restarts. name: new for each process. ends: consecutive early ends. due: time of its
    next start.
    """

    name: str = ""
    process: subprocess.Popen | None = None
    started: float = 0.0
    ends: int = 0
    due: float = 0.0


class AnyWorkers(Protocol):
    """Workers for the jobs of a store: processes of this computer (`Workers`), or replicas on a cluster."""

    @property
    def alive(self) -> int:
        """The number of running workers."""

    @property
    def restarts(self) -> int:
        """The number of workers that ended unexpectedly."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """End the workers. Their jobs are queued again, and the attempt is not counted."""


@dataclass
class Workers:
    """Runs `count` workers on the jobs of a store, which write videos to `folder`."""

    source: Source
    store: Store
    database: str
    folder: Path
    count: int = 1
    places: list[Place] = field(default_factory=list)
    restarts: int = 0

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)

    def start(self) -> None:
        self.places = [Place() for _ in range(self.count)]
        self._thread.start()

    def stop(self) -> None:
        """End the workers. Their jobs are queued again, and the attempt is not counted."""
        self._stopping.set()
        self._thread.join()
        for place in self.places:
            if place.process is not None:
                end(place.process)
                with contextlib.suppress(StoreAway):  # the next start queues it again
                    self.store.release(place.name, is_counted=False)

    @property
    def alive(self) -> int:
        """The number of running workers."""
        processes = (place.process for place in self.places)
        return sum(process is not None and process.poll() is None for process in processes)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            for place in self.places:
                try:
                    self._look_after(place)
                except StoreAway:
                    pass  # tried again
                except OSError as error:  # such as too many processes
                    LOG.error("a worker cannot be started: %s", error)
                    place.ends += 1
                    place.due = time.monotonic() + pause(place.ends)
            self._stopping.wait(WATCH_SECONDS)

    def _look_after(self, place: Place) -> None:
        now = time.monotonic()
        if place.process is not None and place.process.poll() is not None:
            self.store.release(place.name)
            LOG.error("a worker ended with status %s", place.process.returncode)
            place.ends = ends_in_a_row(place.ends, now - place.started)
            place.process, place.due = None, now + pause(place.ends)
            self.restarts += 1
        if place.process is None and now >= place.due:
            place.name, place.started = f"worker_{uuid.uuid4().hex[:12]}", now
            place.process = self._started(place.name)

    def _started(self, name: str) -> subprocess.Popen:
        """Start a worker process. It reads its options from standard input, because other users can read
        arguments.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "videosys.serve.worker"], stdin=subprocess.PIPE, text=True
        )
        options = dataclasses.asdict(self.source)
        options |= {"name": name, "database": self.database, "folder": str(self.folder)}
        with contextlib.suppress(OSError):  # it has ended
            assert process.stdin is not None
            process.stdin.write(json.dumps(options) + "\n")
            process.stdin.flush()
        return process


def end(process: subprocess.Popen) -> None:
    """End a worker by closing its standard input; kill it if it does not end in time."""
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
