"""The replicas that there should be on a cluster, each with a thread here that gives it work."""

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
    """Where replicas can be started: a `Cluster`."""

    def replica(self, is_wanted: Callable[[], bool]) -> AbstractContextManager[RemoteReplica]: ...


@dataclass(eq=False)
class Member:
    """A replica that there should be. name: another one for each of its processes. ends: in a row, soon after
    the start. busy: when it last had work.
    """

    name: str = ""
    replica: RemoteReplica | None = None
    is_leaving: bool = False
    ends: int = 0
    failed_starts: int = 0
    busy: float = field(default_factory=time.monotonic)
    thread: threading.Thread | None = None


class Fleet:
    """Replicas at work. One that is lost is started again, where the cluster has room."""

    def __init__(
        self,
        places: Places,
        work: Callable[[str, RemoteReplica], bool],
        on_end: Callable[[str], object] = lambda name: None,
        most_starts: int | None = None,
    ):
        """work: gives a replica, which has a name, its next piece of work and waits for that; false where
        there was none. What it raises ends the replica. on_end: is told the name of a replica that has ended.
        most_starts: failed ones in a row after which a member gives up; None for no limit.
        """
        self.places, self.work, self.on_end, self.most_starts = places, work, on_end, most_starts
        self.members: list[Member] = []
        self.restarts = 0
        self.error: Exception | None = None  # why the last member that gave up has done so
        self._stopping, self._lock = threading.Event(), threading.Lock()

    @property
    def is_stopping(self) -> bool:
        """Whether `close` was called."""
        return self._stopping.is_set()

    def add(self) -> None:
        """One replica more, which starts when the cluster has room for it."""
        member = Member()
        member.thread = threading.Thread(target=self._run, args=(member,), name="replica", daemon=True)
        with self._lock:
            self.members.append(member)
        member.thread.start()

    def staying(self) -> list[Member]:
        """The members that are not about to leave."""
        with self._lock:
            return [member for member in self.members if not member.is_leaving]

    def alive(self) -> list[RemoteReplica]:
        """The replicas that have started."""
        with self._lock:
            return [member.replica for member in self.members if member.replica is not None]

    def retire(self, idle_seconds: float) -> None:
        """Lets a member leave that has had no work for so long, if there is one; work that it has just begun
        is done first.
        """
        now = time.monotonic()
        idle = [member for member in self.staying() if now - member.busy >= idle_seconds]
        if idle:
            min(idle, key=lambda member: member.busy).is_leaving = True

    def close(self) -> None:
        """Ends all replicas now; what they are at is given up."""
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
            self._stopping.wait(pause(member.ends))
        with self._lock:
            self.members.remove(member)

    def _live(self, member: Member) -> None:
        """One replica from its start to its end."""
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
