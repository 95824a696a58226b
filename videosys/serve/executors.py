"""Executors generate a list of videos: with a local engine, or with replicas on a Ray cluster."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from videosys.engine import VideoSysEngine
from videosys.engine.failure import RankError
from videosys.generation.config import PipelineConfig
from videosys.serve.cluster import RemoteReplica, check_loadable, connected, split
from videosys.serve.fleet import Fleet, Places
from videosys.serve.replica import Made, times
from videosys.utils.logging import get_logger

ATTEMPTS = 3  # for a video whose process ends
MOST_STARTS = 3  # consecutive failed starts of a replica
POLL_SECONDS = 0.1
LOG = get_logger("render")


@dataclass(frozen=True)
class Task:
    """One video. name: unique. request: its config fields, including the seed."""

    name: str
    prompt: str
    request: dict[str, Any]


class Executor(Protocol):
    """Generates the videos of a list."""

    def videos(self, groups: Sequence[Sequence[Task]]) -> Iterator[tuple[Task, Made]]:
        """Yield each video once, as soon as it is done. If a process ends, its video is retried up to
        `ATTEMPTS` times in total, then skipped. The tasks of a group run in order, and on the same devices
        unless these fail. ValueError for an invalid task.
        """


class LocalExecutor:
    """Uses an engine in this program."""

    def __init__(self, engine: VideoSysEngine, is_timed: bool = False):
        """is_timed: send one request per video, to time each video separately."""
        self.engine, self.is_timed = engine, is_timed

    def videos(self, groups: Sequence[Sequence[Task]]) -> Iterator[tuple[Task, Made]]:
        todo, failures = deque(itertools.chain(*groups)), Counter[str]()
        while todo:
            try:
                for made in self._stream(todo):
                    # After a failure, videos of other devices are still yielded, without the missing one.
                    task = next(task for task in todo if [task.prompt] == made.output.prompts)
                    todo.remove(task)
                    yield task, made
            except (RankError, TimeoutError) as error:
                name = todo[0].name
                failures[name] += 1
                note_failure(name, failures[name], error)
                if failures[name] == ATTEMPTS:
                    todo.popleft()

    def _stream(self, todo: deque[Task]) -> Iterator[Made]:
        """Yield the videos of the first tasks, as many as fit in one request."""
        request = todo[0].request
        same = [*itertools.takewhile(lambda task: task.request == request, todo)]
        prompts = [task.prompt for task in same[: 1 if self.is_timed else None]]
        begin = times()
        outputs = self.engine.stream(prompts, **request, num_videos_per_prompt=1, batch_size=1)
        # If times are measured, the request is complete before its video is yielded.
        for output in [*outputs] if self.is_timed else outputs:
            yield Made.since(begin, output, self.engine.config.device)
            begin = times()


def note_failure(name: str, failures: int, error: Exception) -> None:
    """Log that a video failed, and whether it is retried."""
    what = "retrying" if failures < ATTEMPTS else f"giving up after {ATTEMPTS} attempts:"
    LOG.error("%s %s: %s", what, name, (str(error) or type(error).__name__).splitlines()[0])


@dataclass
class Batch:
    """The remaining tasks of a group. failures: of the first task. avoided: nodes where it failed."""

    tasks: deque[Task]
    failures: int = 0
    avoided: set[str] = field(default_factory=set)

    def end_first(self) -> Task:
        """Remove and return the first task, which is done or given up."""
        self.failures = 0
        self.avoided.clear()
        return self.tasks.popleft()


class Batches:
    """The waiting groups. Thread-safe."""

    def __init__(self, groups: Sequence[Sequence[Task]]):
        self._waiting = deque(Batch(deque(group)) for group in groups if group)
        self._lock = threading.Lock()

    def take(self, node: str, nodes: Collection[str]) -> Batch | None:
        """The next batch for a replica on a node. A batch that failed on this node is left to other nodes,
        unless it failed on all of them. nodes: the nodes of all replicas.
        """
        with self._lock:
            for batch in self._waiting:
                if node not in batch.avoided or batch.avoided.issuperset(nodes):
                    self._waiting.remove(batch)
                    return batch
        return None

    def give_back(self, batch: Batch) -> None:
        """Put the rest of a batch at the front."""
        with self._lock:
            self._waiting.appendleft(batch)


class RayExecutor:
    """Uses replicas on a Ray cluster; each generates one video at a time."""

    def __init__(self, places: Places, replicas: int, warm_up: Task | None = None):
        """replicas: maximum number. warm_up: the first video of each replica, which is discarded."""
        self.places, self.replicas, self.warm_up = places, replicas, warm_up
        self._fleets: list[Fleet] = []

    def close(self) -> None:
        """End the replicas, even if the list is not finished."""
        for fleet in self._fleets:
            fleet.close()

    def videos(self, groups: Sequence[Sequence[Task]]) -> Iterator[tuple[Task, Made]]:
        batches, left = Batches(groups), sum(map(len, groups))
        ended: queue.Queue[tuple[Task, Made | Exception]] = queue.Queue(maxsize=1)
        fleet = Fleet(
            self.places,
            lambda _, replica: self._work(fleet, batches, ended, replica),
            most_starts=MOST_STARTS,
        )
        self._fleets.append(fleet)
        try:
            for _ in range(min(self.replicas, len(groups))):
                fleet.add()
            while left:
                ending = self._next(fleet, ended)
                left -= 1
                if isinstance(ending[1], ValueError):
                    raise ending[1]
                if isinstance(ending[1], Made):
                    yield ending[0], ending[1]
        finally:
            fleet.close()

    def _next(self, fleet: Fleet, ended: queue.Queue) -> tuple[Task, Made | Exception]:
        """Wait for the next finished task. ValueError if no replica is left."""
        while True:
            has_members = bool(fleet.members)
            try:
                return ended.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not has_members:
                    raise ValueError(f"no replica can be started: {fleet.error}") from fleet.error

    def _work(self, fleet: Fleet, batches: Batches, ended: queue.Queue, replica: RemoteReplica) -> bool:
        """Run a batch on a replica; false if there is no batch."""
        batch = batches.take(replica.node, {other.node for other in fleet.alive()})
        if batch is None:
            time.sleep(POLL_SECONDS)
            return False
        try:
            self._do(batch, replica, lambda ending: put(ended, ending, fleet))
        finally:
            if batch.tasks:
                batches.give_back(batch)
        return True

    def _do(self, batch: Batch, replica: RemoteReplica, tell: Callable[[Any], None]) -> None:
        """Run the tasks of a batch. Raises the replica's error; the batch keeps its remaining tasks."""
        while batch.tasks:
            task = batch.tasks[0]
            try:
                self._warm_up(replica)
                ending: Made | ValueError = replica.submit(task.prompt, **task.request).made()
            except ValueError as error:
                ending = error
            except Exception as error:  # the replica is lost, or its state is unknown
                batch.failures += 1
                batch.avoided.add(replica.node)
                note_failure(task.name, batch.failures, error)
                if batch.failures == ATTEMPTS:
                    tell((batch.end_first(), error))
                raise
            tell((batch.end_first(), ending))

    def _warm_up(self, replica: RemoteReplica) -> None:
        if self.warm_up is not None and not replica.is_warm:
            replica.submit(self.warm_up.prompt, **self.warm_up.request).made()
        replica.is_warm = True


def put(ended: queue.Queue, ending: Any, fleet: Fleet) -> None:
    """Put a finished task into the queue, which holds one; stop waiting when the fleet stops."""
    while not fleet.is_stopping:
        with contextlib.suppress(queue.Full):
            return ended.put(ending, timeout=POLL_SECONDS)


@contextlib.contextmanager
def ray_executor(
    config: PipelineConfig, address: str | None, warm_up: Task | None = None
) -> Iterator[RayExecutor]:
    """An executor with `parallel.dp` replicas on the Ray cluster at an address, or on a local one.

    ValueError for a config that no replica can run, or a cluster without enough devices.
    """
    own, replicas = split(config)
    check_loadable(own)
    with connected(address, own, replicas) as cluster:
        executor = RayExecutor(cluster, replicas, warm_up)
        try:
            yield executor
        finally:
            executor.close()
