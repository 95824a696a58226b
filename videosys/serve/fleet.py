"""A fleet of replicas on a cluster. One local thread per replica starts it and gives it work."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from videosys.serve.cluster import NoRoom, NotWanted, RemoteReplica
from videosys.serve.restarts import ends_in_a_row, pause
from videosys.utils.logging import get_logger

LOG = get_logger("serve.fleet")


class Places(Protocol):
    """Starts replicas, like `Cluster`."""

    def replica(self, is_wanted: Callable[[], bool]) -> AbstractContextManager[RemoteReplica]: ...


@dataclass(eq=False)
class Member:
    """A replica of the fleet, across restarts. name: new for each process. ends: consecutive early ends.
    busy: time of its last work.
    """

    name: str = ""
    replica: RemoteReplica | None = None
    is_leaving: bool = False
    ends: int = 0
    failed_starts: int = 0
    busy: float = field(default_factory=time.monotonic)
    thread: threading.Thread | None = None


class Fleet:
    """Running replicas. A lost replica is restarted when the cluster has free devices."""

    def __init__(
        self,
        places: Places,
        work: Callable[[str, RemoteReplica], bool],
        on_end: Callable[[str], object] = lambda name: None,
        most_starts: int | None = None,
    ):
        """work(name, replica): gives a replica its next work and waits for it; false if there was none. An
        error raised by it ends the replica. on_end(name): called when a replica has ended. most_starts:
        consecutive failed starts after which a member gives up; None for no limit.
        """
        self.places, self.work, self.on_end, self.most_starts = places, work, on_end, most_starts
        self.members: list[Member] = []
        self.restarts = 0
        self.error: Exception | None = None  # of the last member that gave up
        self._stopping, self._lock = threading.Event(), threading.Lock()

    @property
    def is_stopping(self) -> bool:
        """Whether `close` was called."""
        return self._stopping.is_set()

    def add(self) -> None:
        """Add a replica, which starts when the cluster has free devices for it."""
        member = Member()
        member.thread = threading.Thread(target=self._run, args=(member,), name="replica", daemon=True)
        with self._lock:
            self.members.append(member)
        member.thread.start()

    def staying(self) -> list[Member]:
        """The members that are not being retired."""
        with self._lock:
            return [member for member in self.members if not member.is_leaving]

    def alive(self) -> list[RemoteReplica]:
        """The replicas that have started."""
        with self._lock:
            return [member.replica for member in self.members if member.replica is not None]

    def retire(self, idle_seconds: float) -> None:
        """Retire one member that has been idle for this long, if there is one. It completes work that it has
        just begun.
        """
        now = time.monotonic()
        idle = [member for member in self.staying() if now - member.busy >= idle_seconds]
        if idle:
            min(idle, key=lambda member: member.busy).is_leaving = True

    def close(self) -> None:
        """End all replicas now, without completing their work."""
        self._stopping.set()
        for replica in self.alive():
            replica.end()
        with self._lock:
            threads = [member.thread for member in self.members if member.thread is not None]
        for thread in threads:
            thread.join()

    def _is_wanted(self, member: Member) -> bool:
        return not (member.is_leaving or self.is_stopping)

    def _run(self, member: Member) -> None:
        while self._is_wanted(member):
            begin = time.monotonic()
            try:
                self._live(member)
            except NotWanted:
                break
            except Exception as error:
                if not self.is_stopping:
                    self._note_loss(member, error, time.monotonic() - begin)
            if self._is_wanted(member):
                self._stopping.wait(pause(member.ends))
        with self._lock:
            self.members.remove(member)

    def _live(self, member: Member) -> None:
        """Run one replica from its start to its end."""
        with self._replica(member) as replica:
            while self._is_wanted(member):
                if self.work(member.name, replica):
                    member.busy = time.monotonic()

    @contextlib.contextmanager
    def _replica(self, member: Member) -> Iterator[RemoteReplica]:
        member.name, member.failed_starts = f"replica_{uuid.uuid4().hex[:12]}", member.failed_starts + 1
        try:
            with self.places.replica(lambda: self._is_wanted(member)) as replica:
                member.replica, member.failed_starts, member.busy = replica, 0, time.monotonic()
                yield replica
        finally:
            member.replica = None
            self.on_end(member.name)

    def _note_loss(self, member: Member, error: Exception, lived: float) -> None:
        LOG.error("a replica was lost: %s", " ".join(str(error).split()) or type(error).__name__)
        self.restarts += 1
        member.ends = ends_in_a_row(member.ends, lived)
        starts = member.failed_starts
        if self.most_starts is not None and (starts >= self.most_starts or isinstance(error, NoRoom)):
            self.error, member.is_leaving = error, True
