"""The workers of a service on a Ray cluster: replicas whose number follows the length of the queue.

Jobs and files stay on the server. It claims a job for each idle replica, records its progress and writes the
video.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from videosys.generation.config import PipelineConfig
from videosys.serve.cluster import RemoteReplica, connected, split
from videosys.serve.fleet import Fleet, Places
from videosys.serve.store import Store, StoreAway
from videosys.serve.worker import RETRY_SECONDS, Worker

WATCH_SECONDS = 0.5


@contextlib.contextmanager
def ray_workers(
    config: PipelineConfig, address: str | None, bounds: tuple[int, int], store: Store, folder: Path
) -> Iterator[RayWorkers]:
    """Workers on the Ray cluster at an address, or on a local one, for the `with` block.

    ValueError for a config that no replica can run, or a cluster without enough devices.
    """
    own, replicas = split(config)
    if replicas > 1:
        raise ValueError(f"parallel.dp is {replicas}; with --executor ray, use --max-replicas instead")
    with connected(address, own, bounds[1]) as cluster:
        yield RayWorkers(cluster, store, folder, *bounds)


@dataclass
class RayWorkers:
    """Runs `least` to `most` replicas on the jobs of a store, and writes videos to `folder`.

    The number follows the waiting and running jobs, within these bounds. idle_seconds: idle time after which
    a surplus replica is ended.
    """

    places: Places
    store: Store
    folder: Path
    least: int = 1
    most: int = 1
    idle_seconds: float = 60.0
    decode_seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.places, self._work, self._release)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the replicas. Their jobs are queued again, and the attempt is not counted."""
        self._stopping.set()
        self._thread.join()
        self.fleet.close()

    @property
    def alive(self) -> int:
        """The number of running replicas."""
        return len(self.fleet.alive())

    @property
    def restarts(self) -> int:
        """The number of lost replicas."""
        return self.fleet.restarts

    def _watch(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(StoreAway):  # tried again
                self._scale()
            self._stopping.wait(WATCH_SECONDS)

    def _scale(self) -> None:
        counts, there = self.store.counts(), len(self.fleet.staying())
        jobs = counts.get("queued", 0) + counts.get("in_progress", 0)
        wanted = min(max(jobs, self.least), self.most)
        for _ in range(there, wanted):
            self.fleet.add()
        if there > wanted:
            self.fleet.retire(self.idle_seconds)

    def _work(self, name: str, replica: RemoteReplica) -> bool:
        """Run the next job on a replica; false if there was none."""
        worker = Worker(name, replica, self.store, self.folder, self.decode_seconds, self._stopping)
        try:
            return worker.work()
        except StoreAway:  # at the end of the server
            return False

    def _release(self, name: str) -> None:
        """Queue the job of an ended replica again."""
        while True:
            try:
                self.store.release(name, is_counted=not self.fleet.is_stopping)
                return
            except StoreAway:
                if self._stopping.wait(RETRY_SECONDS):
                    return  # the next start of the server queues it again
