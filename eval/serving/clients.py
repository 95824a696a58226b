"""Clients that request videos and their status, and retry while the service is down."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ENDED = ("completed", "failed")


@dataclass
class Tally:
    """Observations of all clients.

    accepted: video id by Idempotency-Key. ended: (status, attempt, end time) of a video when its end was
    first seen. changed: videos whose end differed later. seconds: of each status call. unanswered: number of
    calls without a response because the server was killed.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    ended: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def see(self, video: dict[str, Any]) -> bool:
        """Record a video's state; return whether it has ended."""
        if video["status"] not in ENDED:
            if video["id"] in self.ended:
                self.changed.add(video["id"])
            return False
        end = (video["status"], video["attempt"], video["completed_at"] or 0)
        if self.ended.setdefault(video["id"], end) != end:
            self.changed.add(video["id"])
        return True


@dataclass
class Client:
    """One client of a service on the loopback, with its API key."""

    port: int
    key: str
    tally: Tally
    pause: float  # seconds between two status calls

    def work(self, names: Iterable[str], body: dict[str, Any]) -> None:
        """Request a video per Idempotency-Key, then poll their status until all have ended."""
        waiting = [self.create(name, body) for name in names]
        while waiting:
            waiting = [video for video in waiting if not self.tally.see(self.status(video))]

    def create(self, name: str, body: dict[str, Any]) -> str:
        """Request a video and return its id. Retries with the same key until there is a response."""
        while True:
            video = self.call("POST", "/v1/videos", body | {"seed": 1}, {"Idempotency-Key": name})
            if video is not None:
                break
            time.sleep(0.2)
        with self.tally.lock:
            self.tally.accepted[name] = video["id"]
        return video["id"]

    def status(self, video: str) -> dict[str, Any]:
        """The current state of a video. Calls with a response are timed."""
        while True:
            time.sleep(self.pause)
            begin = time.perf_counter()
            found = self.call("GET", f"/v1/videos/{video}")
            if found is not None:
                self.tally.seconds.append(time.perf_counter() - begin)
                return found

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """The response; None if there was none. RuntimeError for a status other than success."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), own)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            with self.tally.lock:
                self.tally.unanswered += 1
            return None
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return json.loads(content)


def together(clients: list[Client], names: list[list[str]], body: dict[str, Any]) -> None:
    """Run all clients concurrently; raise the first error when all have ended."""
    errors: list[Exception] = []

    def run(client: Client, own: list[str]) -> None:
        try:
            client.work(own, body)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(clients, names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
