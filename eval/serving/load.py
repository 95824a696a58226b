"""The load test: many clients, while workers and the server receive SIGKILL."""

from __future__ import annotations

import math
import os
import re
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval.serving.clients import Client, Tally, together
from eval.serving.server import LocalServer, wait

SMALLEST = ["num_frames=1", "height=16", "width=16", "num_inference_steps=2", "cache=none", "device=cpu"]
NO_LIMITS = ["--max-queue", "100000", "--max-per-minute", "100000"]
BODY = {"prompt": "a large red circle"}
SERVER_EVERY = 4  # every fourth kill is of the server
QUIET = 0.4  # share of the videos made after the last kill, while memory is measured
AT_ONCE = 0.1  # seconds; jobs claimed within this time may have their start times in either order
IDLE = "idle"  # Idempotency-Key of the video that is polled before the load
IDLE_CALLS = 20  # status calls per client before the load
COMPLETED = re.compile(r": completed id=(video_[0-9a-f]+)")


@dataclass(frozen=True)
class Load:
    """The load. pause: seconds between two status calls of a client. ValueError for an invalid number."""

    videos: int = 200
    clients: int = 20
    keys: int = 4
    workers: int = 2
    kills: int = 20
    pause: float = 0.5

    def __post_init__(self) -> None:
        least = {"videos": 1, "clients": 1, "keys": 1, "workers": 1, "kills": 0, "pause": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not bound <= value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be a finite number of {bound} or more")


@dataclass
class Outcome:
    """The result of a load test.

    idle: seconds of status calls before the load. rows: see `rows_of`. made: completions per video in the
    log. memory: MiB of the server and its workers after the last kill and at the end.
    """

    load: Load
    tally: Tally
    idle: list[float]
    rows: list[Any]
    made: Counter[str]
    killed: Counter[str] = field(default_factory=Counter)
    memory: list[list[float]] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Number of accepted videos that were not completed."""
        completed = {name for name, (status, *_) in self.tally.ended.items() if status == "completed"}
        return len(set(self.tally.accepted.values()) - completed)

    @property
    def twice(self) -> int:
        """Number of videos that were finished twice or changed after their end, plus duplicate requests."""
        again = {name for name, count in self.made.items() if count > 1} | self.tally.changed
        return len(again) + len(self.rows) - len(self.tally.accepted)

    @property
    def overtaken(self) -> int:
        """Number of videos started after a later video of the same key, except restarts after a kill."""
        count = 0
        for owner in {row[0] for row in self.rows}:
            own = sorted(row[1:4] for row in self.rows if row[0] == owner and row[4] == 1)
            count += sum(two[2] < one[2] - AT_ONCE for one, two in pairwise(own))
        return count

    @property
    def lead(self) -> int:
        """The largest lead of one key over another, in videos, while all keys had waiting videos."""
        owners = {row[0] for row in self.rows}
        begin = max(min(row[2] for row in self.rows if row[0] == owner) for owner in owners)
        end = min(max(row[3] for row in self.rows if row[0] == owner) for owner in owners)
        begun = dict.fromkeys(owners, 0)
        most = 0
        for owner, _, _, started, _ in sorted(self.rows, key=lambda row: row[3]):
            if begin < started < end:
                begun[owner] += 1
                most = max(most, max(begun.values()) - min(begun.values()))
        return most

    @property
    def growth(self) -> float:
        """The largest growth of a process after the last kill, in MiB."""
        first, last = self.memory
        return max(after - before for before, after in zip(first, last))


def run(load: Load, folder: Path) -> Outcome:
    """Run the load test: start a server in a folder, load it, kill its processes and stop it."""
    keys = [f"key-of-the-load-test-{number}" for number in range(load.keys)]
    options = [*NO_LIMITS, "--workers", str(load.workers), *SMALLEST]
    server = LocalServer(folder / "data", options, keys)
    server.start()
    try:
        idle = idle_seconds(load, server)
        outcome = Outcome(load, Tally(), idle, [], Counter())
        trouble = threading.Thread(target=make_trouble, args=(server, outcome))
        trouble.start()
        work(server, outcome)
        trouble.join()
        outcome.memory.append(server.memory())
    finally:
        server.stop()
    outcome.rows = rows_of(server.data)
    outcome.made.update(COMPLETED.findall(server.log.read_text()))
    return outcome


def clients_of(server: LocalServer, load: Load, tally: Tally, keys: Sequence[str]) -> list[Client]:
    return [Client(server.port, keys[one % len(keys)], tally, load.pause) for one in range(load.clients)]


def idle_seconds(load: Load, server: LocalServer) -> list[float]:
    """Seconds of status calls without load, by the same number of clients, for one finished video."""
    tally = Tally()
    first, *others = clients_of(server, load, tally, server.keys[:1])
    first.work([IDLE], BODY)
    wait(lambda: len(server.workers()) == load.workers, "all workers run")
    tally.seconds.clear()
    names = [[IDLE] * IDLE_CALLS] * load.clients
    together([first, *others], names, BODY)  # a repeated request returns the same video
    return tally.seconds


def work(server: LocalServer, outcome: Outcome) -> None:
    """Request all videos, shared evenly among the clients, and wait until they end."""
    load = outcome.load
    names = [f"video {video}" for video in range(load.videos)]
    parts = [names[one :: load.clients] for one in range(load.clients)]
    together(clients_of(server, load, outcome.tally, server.keys), parts, BODY)


def make_trouble(server: LocalServer, outcome: Outcome) -> None:
    """Kill processes at even intervals, except during the last videos, when memory is measured."""
    load, ended = outcome.load, outcome.tally.ended
    end = round(load.videos * (1 - QUIET))
    for number in range(load.kills):
        due = round((number + 1) * end / (load.kills + 1))
        wait(lambda due=due: len(ended) >= due, f"{due} videos are made")
        if number % SERVER_EVERY == SERVER_EVERY - 1:
            server.kill()
            server.start()
            outcome.killed["server"] += 1
        else:
            victim = wait(server.workers, "a worker runs")[number % 2 - 1]
            os.kill(victim, signal.SIGKILL)
            outcome.killed["worker"] += 1
    settled = min(end + load.workers * 3, load.videos)  # each worker has made a few videos since then
    wait(lambda: len(ended) >= settled and len(server.workers()) == load.workers, "all workers run again")
    outcome.memory.append(server.memory())


def rows_of(data: Path) -> list[Any]:
    """(owner, number, created, started, attempt) of the load's jobs, from a stopped server's database."""
    query = (
        "select owner, number, created, started, attempt from jobs where idempotency_key <> ? order by number"
    )
    with closing(sqlite3.connect(data / "jobs.sqlite")) as database:
        return database.execute(query, [IDLE]).fetchall()


def quantile(seconds: Sequence[float], share: float) -> float:
    """The quantile of the times of calls, such as 0.99."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(outcome: Outcome) -> str:
    """The outcome as Markdown."""
    load, tally, killed = outcome.load, outcome.tally, outcome.killed
    idle, busy = quantile(outcome.idle, 0.99), quantile(tally.seconds, 0.99)
    attempts = Counter(row[4] for row in outcome.rows)
    again = ", ".join(f"{attempts[number]} in attempt {number}" for number in sorted(attempts))
    rows = {
        "load": f"{load.videos} videos, {load.clients} clients, {load.keys} keys, {load.workers} workers",
        "SIGKILL": f"{killed.total()}: {killed['worker']} of a worker, {killed['server']} of the server",
        "accepted": f"{len(tally.accepted)}; completed {again}",
        "lost": outcome.lost,
        "made twice": outcome.twice,
        "started before an earlier one of the same key": outcome.overtaken,
        "largest lead of one key over another, while all wait": f"{outcome.lead} videos",
        "status calls": f"{len(tally.seconds)}, plus {tally.unanswered} calls while the server was down",
        "99 % of status calls within": f"{busy / idle:.1f} times the idle server's {1000 * idle:.0f} ms",
        "memory": f"{outcome.growth:+.1f} MiB at most in the last {round(100 * QUIET)} % of the videos, "
        f"of {', '.join(f'{value:.0f}' for value in outcome.memory[-1])} MiB (server, workers)",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
